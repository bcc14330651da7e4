"""The solver finds the minimum: against another solver, by its gradient, and on hard problems."""

from __future__ import annotations

import numpy as np
import pytest

from gair_core.errors import GairError
from gair_core.finetune.few_shot.solver import balanced_weights, solve


def problem(classes=4, features=9, count=300, seed=0, collinear=False):
    rng = np.random.default_rng(seed)
    target = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    centres = rng.normal(size=(classes, features))
    values = centres[target] + 1.5 * rng.normal(size=(count, features))
    if collinear:
        values = np.concatenate([values, values + 1e-3 * rng.normal(size=values.shape)], axis=1)
    return values, target, balanced_weights(target, classes)


def objective(values, target, weights, penalty, *, coefficients, intercept):
    logits = values @ coefficients + intercept
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    cross_entropy = log_sum - logits[np.arange(len(target)), target]
    return weights @ cross_entropy + 0.5 * (penalty[:, None] * coefficients**2).sum()


@pytest.mark.parametrize(("strength", "collinear"), [(1.0, False), (1e-2, False), (1e-4, True)])
def test_the_minimum_is_that_of_scikit_learn(strength, collinear):
    linear_model = pytest.importorskip("sklearn.linear_model")
    values, target, weights = problem(collinear=collinear)
    penalty = np.full(values.shape[1], strength)
    found = solve(values, target, weights, penalty, 4, tolerance=1e-9)
    other = linear_model.LogisticRegression(
        C=1 / (strength * len(target)), class_weight="balanced", solver="newton-cg", tol=1e-12, max_iter=1000
    ).fit(values, target)
    # The objective of multinomial regression does not change when the same is added to all classes.
    coefficients = found.coefficients - found.coefficients.mean(axis=1, keepdims=True)
    theirs = other.coef_.T - other.coef_.T.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(coefficients, theirs, atol=2e-5 * max(1, np.abs(theirs).max()))
    intercept = found.intercept - found.intercept.mean()
    np.testing.assert_allclose(intercept, other.intercept_ - other.intercept_.mean(), atol=2e-4)


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_the_gradient_vanishes_and_no_step_goes_down(strength):
    values, target, weights = problem(seed=1)
    penalty = np.linspace(strength, 10 * strength, values.shape[1])
    found = solve(values, target, weights, penalty, 4)
    assert found.gradient <= 1e-6
    least = objective(
        values, target, weights, penalty, coefficients=found.coefficients, intercept=found.intercept
    )
    logits = found.logits(values)
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    residual = (probability - np.eye(4)[target]) * weights[:, None]
    gradient = values.T @ residual + penalty[:, None] * found.coefficients
    assert np.abs(gradient).max() < 1e-4
    assert np.abs(residual.sum(axis=0)).max() < 1e-5
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = 1e-2 * rng.normal(size=found.coefficients.shape)
        moved = objective(
            values,
            target,
            weights,
            penalty,
            coefficients=found.coefficients + step,
            intercept=found.intercept,
        )
        assert moved >= least - 1e-9


def test_a_start_changes_the_way_and_not_the_end():
    values, target, weights = problem(seed=2)
    easy = solve(values, target, weights, np.full(9, 1e-1), 4)
    cold = solve(values, target, weights, np.full(9, 1e-2), 4, tolerance=1e-8)
    warm = solve(values, target, weights, np.full(9, 1e-2), 4, tolerance=1e-8, start=easy)
    np.testing.assert_allclose(warm.coefficients, cold.coefficients, atol=1e-4)


def test_a_class_without_samples_is_never_found_and_disturbs_nothing():
    values, target, weights = problem(classes=3, seed=3)
    alone = solve(values, target, weights, np.full(9, 1e-2), 3)
    spread = np.array([0, 2, 5])[target]
    among = solve(values, spread, balanced_weights(spread, 6), np.full(9, 1e-2), 6)
    assert set(among.logits(values).argmax(axis=1)) <= {0, 2, 5}
    np.testing.assert_array_equal(among.coefficients[:, [1, 3, 4]], 0)
    np.testing.assert_allclose(among.coefficients[:, [0, 2, 5]], alone.coefficients, atol=1e-6)


def test_perfectly_separated_classes_have_a_minimum_too():
    values = np.array([[-1.0], [-0.9], [0.9], [1.0]])
    target = np.array([0, 0, 1, 1])
    found = solve(values, target, balanced_weights(target, 2), np.array([1e-4]), 2)
    assert np.isfinite(found.coefficients).all()
    assert (found.logits(values).argmax(axis=1) == target).all()


def test_two_hundred_classes():
    rng = np.random.default_rng(4)
    target = np.repeat(np.arange(200), 4)
    values = rng.normal(size=(200, 30))[target] + 0.1 * rng.normal(size=(800, 30))
    found = solve(values, target, balanced_weights(target, 200), np.full(30, 1e-3), 200, tolerance=1e-5)
    assert (found.logits(values).argmax(axis=1) == target).mean() > 0.99


def test_classes_weigh_the_same_however_many_samples_they_have():
    weights = balanced_weights(np.array([0, 0, 0, 2]), 4)
    np.testing.assert_allclose(weights, [1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_a_feature_that_is_no_number_is_refused():
    values, target, weights = problem()
    values[3, 2] = np.nan
    with pytest.raises(GairError, match="finite"):
        solve(values, target, weights, np.full(9, 1e-2), 4)
