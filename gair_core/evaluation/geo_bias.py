"""The geo-bias score of TorchSpatial: how surprising the arrangement of a model's failures on the Earth is.

Marked SSI (spatial self-information) of Wu et al., "TorchSpatial: A Location Encoding Framework and Benchmark
for Spatial Representation Learning" (NeurIPS 2024, arXiv 2406.15658), called the relative geo-bias score at
first, with the null distribution of Wang et al., "Probing the Information Theoretical Roots of Spatial
Dependence Measures" (COSIT 2024, arXiv 2405.18459). Constants are those of the authors' published evaluation.

Around every failure, all samples within a radius are a neighbourhood. Its values x are -1 for failures, +1
for successes and 0 for points of a regular grid around the centre, five for every sample, which stand for
where nothing was observed. With w_ij = 1 for the four nearest neighbours j of i and 0 otherwise,

    I = sum_ij w_ij (x_i - mean)(x_j - mean)          the numerator of Moran's I
    SSI = -ln p(I),   p = N(mu, sigma^2)              mu, sigma^2: see `null_moments`

in nats (natural logarithm of a density; I has no unit). The score is the mean of the SSI over neighbourhoods,
weighted by their numbers of samples: low is good.

Two properties matter to whoever reads it. As -ln of a density it is not 0 for failures strewn at random: it
contains ln sigma, which grows with the number of samples, so that scores compare models on one test set and
nothing else. And the grid makes it react to where samples are, not only to which of them failed. Therefore
`GeoBias.expected` is the same score with the marks of each neighbourhood's samples shuffled, and
`GeoBias.excess` the difference: 0 on average when failures are strewn at random among the samples, positive
when they cluster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from gair_core.errors import BadInputError

EARTH_RADIUS_KM: Final = 6371.0
RADIUS_KM: Final = 0.01 * EARTH_RADIUS_KM
"""Radius of a neighbourhood, 0.01 radian or 64 km."""

NEIGHBOURS: Final = 4
"""Neighbours of a point, as many as a cell of a grid has."""

_EMPTY_PER_SAMPLE: Final = 5
_SHUFFLES: Final = 20

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GeoBias:
    """The score of a model on a test set.

    Attributes:
        score: Marked SSI, nats.
        expected: The same when each neighbourhood's failures are strewn at random among its samples, nats.
        samples: Samples with a place.
        failures: Those that count as failures.
        neighbourhoods: Neighbourhoods that were averaged.
        alone: Failures without another sample in their neighbourhood, where nothing can be arranged.
    """

    score: float
    expected: float
    samples: int
    failures: int
    neighbourhoods: int
    alone: int

    @property
    def excess(self) -> float:
        """How much more surprising the arrangement is than a random one, nats."""
        return self.score - self.expected


def geo_bias(
    lonlat: Floats,
    failed: npt.NDArray[np.bool_],
    *,
    radius_km: float = RADIUS_KM,
    most: int | None = None,
    seed: int = 0,
) -> GeoBias:
    """Return the geo-bias score, see the module.

    Args:
        lonlat: Places of the samples, degrees, (N, 2); those with NaN are left out.
        failed: Which of them the model failed on, (N,).
        radius_km: Radius of a neighbourhood on the sphere, kilometres.
        most: Neighbourhoods to draw at random where there are more failures; None for all of them.
        seed: Seed of that draw and of the shuffling.

    Raises:
        BadInputError: There is no failure or no success with a place, no failure has another sample near it,
            or the radius or the number of neighbourhoods is impossible.
    """
    if not 0 < radius_km < EARTH_RADIUS_KM * math.pi / 2:
        raise BadInputError(f"The radius is {radius_km:g} km.", "Wanted is one between 0 and 10000 km.")
    if most is not None and most < 1:
        raise BadInputError(f"{most} neighbourhoods were asked for.", "Wanted is 1 or more.")
    placed = np.isfinite(lonlat).all(axis=1)
    points, failed = _on_sphere(lonlat[placed]), failed[placed]
    centres = np.flatnonzero(failed)
    if len(centres) in (0, len(failed)):
        raise BadInputError(
            f"{len(centres)} of {len(failed)} samples with a place count as failures: nothing is arranged.",
            "Of a regression, choose another tolerance.",
        )
    generator = np.random.default_rng(seed)
    if most is not None and most < len(centres):
        centres = np.sort(generator.choice(centres, most, replace=False))
    radius = radius_km / EARTH_RADIUS_KM
    # A chord orders distances as the arc does.
    members = cKDTree(points).query_ball_point(points[centres], 2 * math.sin(radius / 2))
    observed, shuffled, weights = [], [], []
    for centre, found in zip(centres, members, strict=True):
        others = np.array([index for index in found if index != centre], dtype=np.int64)
        ids = np.concatenate([[centre], others])
        both = _neighbourhood(points[ids], failed[ids], radius, generator)
        if both is not None:
            observed.append(both[0])
            shuffled.append(both[1])
            weights.append(len(ids))
    if not observed:
        raise BadInputError(
            f"No failure has another sample within {radius_km:g} km.", "Choose a larger radius: --radius-km."
        )
    return GeoBias(
        score=float(np.average(observed, weights=weights)),
        expected=float(np.average(shuffled, weights=weights)),
        samples=len(failed),
        failures=int(failed.sum()),
        neighbourhoods=len(observed),
        alone=len(centres) - len(observed),
    )


def null_moments(
    failures: int, successes: int, empty: int, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Return mean and variance of I when nothing is arranged, by the value counts alone.

    Wang et al. count the neighbours of each pair of values as independent draws. With n_p points of value c_p
    (p = -1, 0, 1), N in all, k neighbours, d_p = c_p - mean and r = 0, the most frequent value:

        mu = sum_{p != q} d_p d_q k n_p n_q / N + sum_p d_p^2 (k n_p (n_p - 1) / N - 1)
        sigma^2 = sum_{p != q; p, q != r} (d_p d_q - 2 d_p d_r + d_r^2)^2 s_pq
                  + sum_{p != r} (c_p - c_r)^4 s_pp
        s_pq = k n_p n_q / N (1 - k max(n_p, n_q) / N)
        s_pp = 2 k n_p (n_p - 1) / N (1 - k (2 n_p - 1) / (3 N))

    Args:
        failures: Points of value -1.
        successes: Points of value +1.
        empty: Points of value 0.
        neighbours: k.
    """
    count = np.array([failures, empty, successes], dtype=np.float64)
    total = count.sum()
    value = np.array([-1.0, 0.0, 1.0])
    deviation = value - (count @ value) / total
    pairs = neighbours * np.outer(count, count) / total
    mean = deviation @ pairs @ deviation - (neighbours * count / total + 1) @ deviation**2
    rest = deviation[1]
    coefficient = np.outer(deviation, deviation) - 2 * deviation[:, None] * rest + rest**2
    spread = coefficient**2 * pairs * (1 - neighbours * np.maximum.outer(count, count) / total)
    within = 2 * neighbours * count * (count - 1) / total
    within *= 1 - neighbours * (2 * count - 1) / (3 * total)
    return float(mean), float(spread[0, 2] + spread[2, 0] + within[0] + within[2])


def moran_numerator(values: Floats, neighbours: Ints) -> Floats:
    """Return I of values over given neighbours.

    Args:
        values: One arrangement a row, (M, N).
        neighbours: Indices of the neighbours of each point, (N, k).

    Returns:
        I of each arrangement, (M,).
    """
    deviation = values - values.mean(axis=1, keepdims=True)
    around = deviation[:, neighbours].sum(axis=2)
    product: Floats = (deviation * around).sum(axis=1)
    return product


def _neighbourhood(
    points: Floats, failed: npt.NDArray[np.bool_], radius: float, generator: np.random.Generator
) -> tuple[float, float] | None:
    """Return the SSI around the first of some samples, and its mean over shuffles; None without variance.

    The first one stays a failure when marks are shuffled: it was chosen because it is one.
    """
    samples, failures = len(points), int(failed.sum())
    grid = _grid(points[0], radius, samples)
    mean, variance = null_moments(failures, samples - failures, len(grid))
    if variance <= 0:
        return None
    marks = np.where(failed, -1.0, 1.0)
    arrangements = np.zeros((1 + _SHUFFLES, samples + len(grid)))
    arrangements[:, 0] = marks[0]
    arrangements[0, 1:samples] = marks[1:]
    repeated = np.broadcast_to(marks[1:], (_SHUFFLES, samples - 1))
    arrangements[1:, 1:samples] = generator.permuted(repeated, axis=1)
    found = moran_numerator(arrangements, _nearest(np.concatenate([points, grid])))
    information = (found - mean) ** 2 / (2 * variance) + 0.5 * math.log(2 * math.pi * variance)
    return float(information[0]), float(information[1:].mean())


def _nearest(points: Floats) -> Ints:
    """Return the nearest neighbours of every point, itself left out, (N, k)."""
    _, found = cKDTree(points).query(points, NEIGHBOURS + 1)
    itself = found == np.arange(len(points))[:, None]
    # Of more points at one place than neighbours, a point itself may not be among those found.
    itself[~itself.any(axis=1), -1] = True
    rows: Ints = found[~itself].reshape(len(points), NEIGHBOURS)
    return rows


def _grid(centre: Floats, radius: float, samples: int) -> Floats:
    """Return rings of points around a centre, five for every sample within the radius, (M, 3)."""
    density = math.ceil(_EMPTY_PER_SAMPLE * samples / (math.pi * radius**2))
    step = 1 / math.sqrt(density)
    east = np.cross([0.0, 0.0, 1.0], centre)
    # At a pole every direction is south, or north.
    east = east / np.linalg.norm(east) if np.linalg.norm(east) > 1e-12 else np.array([0.0, 1.0, 0.0])
    north = np.cross(centre, east)
    rings = []
    for ring in range(1, math.ceil(radius / step) + 1):
        bearing = np.linspace(0, 2 * math.pi, math.ceil(2 * math.pi * ring), endpoint=False)[:, None]
        outwards = np.cos(bearing) * north + np.sin(bearing) * east
        rings.append(math.cos(ring * step) * centre + math.sin(ring * step) * outwards)
    return np.concatenate(rings)


def _on_sphere(lonlat: Floats) -> Floats:
    """Return places in degrees, (N, 2), as unit vectors, (N, 3)."""
    lon, lat = np.radians(lonlat.astype(np.float64)).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
