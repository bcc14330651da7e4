from __future__ import annotations

import math

import numpy as np
import pytest

from gair_core.errors import BadInputError
from gair_core.evaluation.geo_bias import (
    EARTH_RADIUS_KM,
    RADIUS_KM,
    geo_bias,
    moran_numerator,
    null_moments,
)


def test_numerator_of_moran_by_hand():
    """Mean -1/4, deviations -3/4, -3/4, 5/4, 1/4; two pairs of mutual neighbours."""
    values = np.array([[-1.0, -1.0, 1.0, 0.0]])
    neighbours = np.array([[1], [0], [3], [2]])
    assert moran_numerator(values, neighbours) == pytest.approx([2 * 9 / 16 + 2 * 5 / 16])


def test_null_moments_by_hand():
    """Two failures, one success, six empty points, N = 9: mean -1/9, deviations -8/9, 10/9 and 1/9.

    mu: sum_pq d_p d_q n_p n_q = 0 but for the points themselves, -k sum n d^2 / N - sum d^2 with
    sum n d^2 = 234/81 and sum d^2 = 165/81. sigma^2: failure and success (49 + 121)/81 * 8/9 * 1/9, and the
    pair of failures 1 * 16/9 * 15/27.
    """
    mean, variance = null_moments(2, 1, 6)
    assert mean == pytest.approx(-4 * (234 / 81) / 9 - 165 / 81)
    assert variance == pytest.approx(170 / 81 * 8 / 81 + 16 / 9 * 15 / 27)


def test_null_moments_are_those_of_shuffled_grids():
    """The approximation of Wang et al. against values strewn at random over a torus, four neighbours each."""
    side, failures, successes = 30, 60, 90
    index = np.arange(side**2).reshape(side, side)
    shifts = [np.roll(index, shift, axis) for shift in (1, -1) for axis in (0, 1)]
    neighbours = np.stack([shift.ravel() for shift in shifts], axis=1)
    values = np.zeros((800, side**2))
    values[:, :failures], values[:, failures : failures + successes] = -1, 1
    found = moran_numerator(np.random.default_rng(0).permuted(values, axis=1), neighbours)
    mean, variance = null_moments(failures, successes, side**2 - failures - successes)
    # Of nearly 600 neighbours, counted in both directions.
    assert abs(mean - found.mean()) < 4
    assert 0.7 < math.sqrt(variance) / found.std() < 1.3


def _places(count, spread_km, seed, centre=(11.0, 48.0)):
    generator = np.random.default_rng(seed)
    kilometres = generator.uniform(-spread_km, spread_km, (count, 2))
    degrees = np.degrees(kilometres / EARTH_RADIUS_KM)
    return np.column_stack(
        [centre[0] + degrees[:, 0] / math.cos(math.radians(centre[1])), centre[1] + degrees[:, 1]]
    )


def test_failures_at_random_have_no_excess_and_clusters_have():
    """Twelve test sets: the mean excess of random failures is within three standard errors of 0."""
    excess = []
    for seed in range(12):
        lonlat = _places(80, 50, seed)
        failed = np.random.default_rng(100 + seed).random(80) < 0.3
        excess.append(geo_bias(lonlat, failed).excess)
    error = np.std(excess, ddof=1) / math.sqrt(len(excess))
    assert abs(np.mean(excess)) < 3 * error + 0.05

    lonlat = _places(80, 50, 0)
    west = lonlat[:, 0] < np.quantile(lonlat[:, 0], 0.3)
    clustered = geo_bias(lonlat, west)
    assert clustered.excess > max(3.0, *excess)
    assert clustered.score == pytest.approx(clustered.expected + clustered.excess)


def test_it_does_not_matter_where_on_the_sphere():
    """Across the antimeridian, near the pole, and whichever way the samples are ordered."""
    failed = np.random.default_rng(5).random(80) < 0.4
    here = _places(80, 20, 7, centre=(0.0, 0.0))
    there = here + np.array([180.0, 0.0])
    there[:, 0] = (there[:, 0] + 180) % 360 - 180
    first, second = geo_bias(here, failed), geo_bias(there, failed)
    assert first.score == pytest.approx(second.score, abs=1e-6)
    order = np.random.default_rng(6).permutation(80)
    assert geo_bias(here[order], failed[order]).score == pytest.approx(first.score, abs=1e-6)
    pole = np.column_stack([np.linspace(-180, 179, 40), np.full(40, 89.9)])
    assert math.isfinite(geo_bias(pole, np.arange(40) % 3 == 0).score)


def test_one_place_for_all_and_places_that_are_unknown():
    lonlat = np.tile([[2.0, 45.0]], (12, 1))
    lonlat[0] = np.nan
    found = geo_bias(lonlat, np.arange(12) % 2 == 0)
    assert found.samples == 11
    assert found.failures == 5
    assert math.isfinite(found.score)


def test_a_failure_far_from_all_others_is_left_out():
    lonlat = np.concatenate([_places(40, 20, 1), [[-70.0, -30.0]]])
    failed = np.append(np.arange(40) % 2 == 0, True)
    found = geo_bias(lonlat, failed)
    assert (found.neighbourhoods, found.alone) == (20, 1)
    assert found.score == pytest.approx(geo_bias(lonlat[:-1], failed[:-1]).score)


def test_a_draw_of_neighbourhoods_is_repeatable():
    lonlat, failed = _places(100, 40, 3), np.arange(100) % 2 == 0
    found = geo_bias(lonlat, failed, most=10)
    assert found.neighbourhoods == 10
    assert found == geo_bias(lonlat, failed, most=10)


@pytest.mark.parametrize(
    ("failed", "changes", "words"),
    [
        ([False] * 5, {}, "0 of 5 samples"),
        ([True] * 5, {}, "5 of 5 samples"),
        ([True, False, False, False, False], {"radius_km": 0.001}, "another sample within 0.001 km"),
        ([True, True, False, False, False], {"radius_km": 0.0}, "The radius is 0 km"),
        ([True, True, False, False, False], {"most": 0}, "0 neighbourhoods"),
    ],
)
def test_bad_input(failed, changes, words):
    with pytest.raises(BadInputError, match=words):
        geo_bias(_places(5, 1, 0), np.array(failed), **{"radius_km": RADIUS_KM, **changes})
