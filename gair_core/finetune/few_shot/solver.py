"""Multinomial logistic regression with an L2 penalty, solved exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gair_core.errors import GairError

Float64Array: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

TOLERANCE = 1e-6
"""Largest entry of the gradient at a solution, for features of about unit variance."""

# Steps between two looks at the curvature, and how often it is looked at.
_STEPS = 25
_ROUNDS = 80
_HISTORY = 20
# Keeps the curvature of what is certain by now from vanishing; p (1 - p) is at most 0.25.
_FLOOR = 0.005
_ABSENT = -1e6


@dataclass(frozen=True)
class Solution:
    """The minimum.

    Attributes:
        coefficients: Shape (features, classes).
        intercept: Shape (classes,).
        gradient: Largest entry of the objective's gradient there, in absolute value.
        iterations: Steps that it took.
    """

    coefficients: Float64Array
    intercept: Float64Array
    gradient: float
    iterations: int

    def logits(self, features: Float64Array) -> Float64Array:
        """Return X B + b, shape (N, classes)."""
        return features @ self.coefficients + self.intercept


def balanced_weights(target: IntArray, classes: int) -> Float64Array:
    """Return one weight a sample, shape (N,): those of every class that occurs sum to the same, all to 1."""
    counts = np.bincount(target, minlength=classes)
    weights: Float64Array = 1 / (counts[target] * np.count_nonzero(counts))
    return weights


def solve(
    features: Float64Array,
    target: IntArray,
    weights: Float64Array,
    penalty: Float64Array,
    classes: int,
    *,
    tolerance: float = TOLERANCE,
    start: Solution | None = None,
) -> Solution:
    """Minimise sum_i w_i CE(softmax(x_i B + b), y_i) + 1/2 sum_j p_j |B_j|^2.

    L-BFGS in float64. Bands and their means are nearly collinear, so the plain problem is badly conditioned;
    the steps are taken in coordinates in which every class's own block of the Hessian is the identity, and
    these coordinates are renewed as the solution sharpens.

    Args:
        features: X, shape (N, F), best of about unit variance.
        target: Class index of each sample, shape (N,). A class without samples gets coefficients of 0 and so
            low an intercept that it never wins.
        weights: w, shape (N,), positive, sum 1.
        penalty: p of each feature, shape (F,), positive; the intercept has none.
        classes: Number of classes.
        tolerance: Stop where no entry of the gradient is larger.
        start: A solution of a similar problem to start from.

    Raises:
        GairError: A feature is not finite.
    """
    if not np.isfinite(features).all():
        raise GairError("A feature of the training pixels is not a finite number.")
    there = np.unique(target)
    objective = _Objective(features, np.searchsorted(there, target), weights, penalty, len(there))
    parameters = objective.start(start, there)
    iterations = 0
    for _ in range(_ROUNDS):
        gradient = objective.value_and_gradient(parameters)[1]
        if float(gradient.abs().amax()) <= tolerance:
            break
        parameters, steps = _minimise(objective, parameters)
        iterations += steps
    gradient = objective.value_and_gradient(parameters)[1]
    coefficients, intercept = objective.plain(parameters)
    all_coefficients, all_intercepts = np.zeros((features.shape[1], classes)), np.full(classes, _ABSENT)
    all_coefficients[:, there], all_intercepts[there] = coefficients, intercept
    return Solution(all_coefficients, all_intercepts, float(gradient.abs().amax()), iterations)


class _Objective:
    """The objective; row 0 of its parameters are the intercepts of the centred features."""

    def __init__(
        self,
        features: Float64Array,
        target: IntArray,
        weights: Float64Array,
        penalty: Float64Array,
        classes: int,
    ) -> None:
        self._mean = weights @ features
        centred = torch.from_numpy(features - self._mean)
        self._features = torch.cat([torch.ones(len(centred), 1, dtype=torch.float64), centred], dim=1)
        self._transposed = self._features.T.contiguous()
        self._weights = torch.from_numpy(weights)
        self._target = torch.from_numpy(target)
        self._penalty = torch.cat([torch.zeros(1, dtype=torch.float64), torch.from_numpy(penalty)])
        self._classes = classes

    def start(self, solution: Solution | None, there: IntArray) -> Tensor:
        parameters = torch.zeros(self._features.shape[1], self._classes, dtype=torch.float64)
        if solution is not None:
            coefficients = solution.coefficients[:, there]
            known = np.maximum(solution.intercept[there], -50)
            parameters[0] = torch.from_numpy(known + self._mean @ coefficients)
            parameters[1:] = torch.from_numpy(coefficients)
        return parameters

    def plain(self, parameters: Tensor) -> tuple[Float64Array, Float64Array]:
        """Return coefficients and intercepts of the features as they were given."""
        coefficients = parameters[1:].numpy()
        return coefficients, parameters[0].numpy() - self._mean @ coefficients

    def value_and_gradient(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_probability = torch.log_softmax(self._features @ parameters, dim=1)
        chosen = log_probability.gather(1, self._target[:, None])[:, 0]
        penalised = self._penalty[:, None] * parameters
        value = -(self._weights @ chosen) + 0.5 * (penalised * parameters).sum()
        residual = log_probability.exp_()
        residual[torch.arange(len(residual)), self._target] -= 1
        return value, self._transposed @ (residual * self._weights[:, None]) + penalised

    def curvature_roots(self, parameters: Tensor) -> Tensor:
        """Return L with L L' = a class's own block of the Hessian and a floor, (classes, F + 1, F + 1)."""
        probability = torch.softmax(self._features @ parameters, dim=1)
        spread = (probability * (1 - probability) + _FLOOR) * self._weights[:, None]
        blocks = torch.stack([self._transposed @ (self._features * one[:, None]) for one in spread.T])
        roots: Tensor = torch.linalg.cholesky(blocks + torch.diag(self._penalty))
        return roots


def _minimise(objective: _Objective, parameters: Tensor) -> tuple[Tensor, int]:
    """Take some steps in the coordinates L' B of each class, L the root of its curvature at the start."""
    roots = objective.curvature_roots(parameters)
    inverse = torch.linalg.solve_triangular(
        roots, torch.eye(len(parameters), dtype=torch.float64).expand_as(roots), upper=False
    )
    inner = (roots.mT @ parameters.T[:, :, None]).contiguous().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [inner],
        max_iter=_STEPS,
        tolerance_grad=0,
        tolerance_change=1e-15,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    def plain() -> Tensor:
        columns: Tensor = inverse.mT @ inner.detach()
        return columns[:, :, 0].T

    @torch.no_grad()
    def closure() -> float:
        value, gradient = objective.value_and_gradient(plain())
        inner.grad = inverse @ gradient.T[:, :, None]
        return float(value)

    optimizer.step(closure)
    return plain(), int(optimizer.state[inner]["n_iter"])
