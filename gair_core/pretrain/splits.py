"""Spatial splits: whole cities or cells go to one split, never single photos of a street."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from gair_core.config import Config
from gair_core.errors import BadInputError
from gair_core.losses.memory_bank import EARTH_RADIUS_KM

SPLITS: Final = ("train", "validation", "test")

Lonlat = npt.NDArray[np.float64]
Text = npt.NDArray[np.str_]


class SplitConfig(Config):
    """How places are divided.

    Attributes:
        validation: Fraction of the groups that goes to validation; at least one group when positive.
        test: Fraction that goes to test, likewise.
        cell_degrees: Side of the cells that group photos without a city, degrees of latitude.
        seed: Seed of the draw.
    """

    validation: float = 0.1
    test: float = 0.1
    cell_degrees: float = 0.25
    seed: int = 0


def spatial_groups(city: Text, lonlat: Lonlat, cell_degrees: float) -> Text:
    """Return the group of each place: its city, or its cell where it has none.

    Args:
        city: Names, (N,); empty where unknown.
        lonlat: Longitude and latitude in degrees, (N, 2).
        cell_degrees: Side of a cell, degrees of latitude; as wide as high in kilometres.
    """
    rows = np.floor((lonlat[:, 1] + 90) / cell_degrees)
    # Cells of a row share one width, or its cells would overlap.
    middle = np.radians((rows + 0.5) * cell_degrees - 90)
    width = cell_degrees / np.maximum(np.cos(middle), 0.01)
    columns = np.floor((lonlat[:, 0] + 180) / width)
    cells = [f"cell {int(row)} {int(column)}" for row, column in zip(rows, columns, strict=True)]
    return np.where(city == "", np.array(cells, dtype=np.str_), city)


def assign_splits(groups: Text, config: SplitConfig) -> Text:
    """Draw the split of each group and return that of each sample.

    Args:
        groups: Group of each sample, (N,).
        config: Fractions and seed.

    Returns:
        ``train``, ``validation`` or ``test`` for each sample, (N,).

    Raises:
        BadInputError: There are too few groups for the wanted splits.
    """
    names = np.unique(groups)
    held_out = {
        name: max(1, round(fraction * len(names))) if fraction > 0 else 0
        for name, fraction in (("validation", config.validation), ("test", config.test))
    }
    if sum(held_out.values()) >= max(len(names), 1):
        raise BadInputError(
            f"{len(names)} cities or cells cannot be divided: validation and test alone want "
            f"{sum(held_out.values())}, and training needs one.",
            "Give photos of more cities, or set a fraction to 0.",
        )
    order = np.random.default_rng(config.seed).permutation(len(names))
    chosen = np.full(len(names), "train", dtype="<U10")
    chosen[order[: held_out["validation"]]] = "validation"
    chosen[order[held_out["validation"] : sum(held_out.values())]] = "test"
    return chosen[np.searchsorted(names, groups)]


def unit_vectors(lonlat: Lonlat) -> npt.NDArray[np.float64]:
    """Return points on the unit sphere, (N, 3), of longitudes and latitudes in degrees, (N, 2)."""
    longitude, latitude = np.radians(lonlat).T
    return np.column_stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    )


def near_pairs(lonlat: Lonlat, split: Text, distance_km: float) -> list[tuple[int, int, float]]:
    """Find samples of different splits that lie near each other.

    Args:
        lonlat: Longitude and latitude in degrees, (N, 2).
        split: Split of each sample, (N,).
        distance_km: What counts as near, kilometres along a straight line through the Earth.

    Returns:
        For each cell of that size where splits meet, the nearest pair (sample, sample, kilometres), nearest
        first.
    """
    points = unit_vectors(lonlat) * EARTH_RADIUS_KM
    cells: dict[tuple[int, ...], list[int]] = {}
    for index, cell in enumerate(np.floor(points / distance_km).astype(np.int64)):
        cells.setdefault(tuple(int(value) for value in cell), []).append(index)
    found: set[tuple[int, int, float]] = set()
    neighbours = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    for cell, members in cells.items():
        near = [
            index
            for step in neighbours
            for index in cells.get(tuple(a + b for a, b in zip(cell, step, strict=True)), ())
        ]
        pair = _nearest_of_other_split(points, split, members, near)
        if pair is not None and pair[2] < distance_km:
            found.add((min(pair[:2]), max(pair[:2]), pair[2]))
    return sorted(found, key=lambda pair: pair[2])


def _nearest_of_other_split(
    points: npt.NDArray[np.float64], split: Text, members: list[int], near: list[int]
) -> tuple[int, int, float] | None:
    if len(set(split[near].tolist())) < 2:
        return None
    gaps = np.linalg.norm(points[members][:, None] - points[near][None], axis=2)
    gaps[split[members][:, None] == split[near][None]] = math.inf
    first, second = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
    distance = float(gaps[first, second])
    return None if math.isinf(distance) else (members[first], near[second], distance)
