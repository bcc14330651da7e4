"""The network of main roads as lines: the borders between districts, bent as the districts are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from gair_core.world import layout as plan
from gair_core.world.layout import Layout
from gair_core.world.noise import Flags, Floats
from gair_core.world.projection import Doubles
from gair_core.world.surface import Surface

_STEP: Final = 15.0
"""Distance of a line's points in metres."""

# Two districts with a common border are no farther apart, and a border touches no district that is.
_NEIGHBOURS: Final = 3.2 * plan.DISTRICT

_ITERATIONS: Final = 12


def main_roads(surface: Surface, half: float) -> list[Doubles]:
    """Return the main roads around a city's centre.

    Args:
        surface: The city's surface.
        half: Half the side of the square in metres.

    Returns:
        One array (N, 2) a road between two junctions, metres east and north of the centre. Roads end at lakes
        and at the square's edge, and cross rivers.
    """
    lines: list[Doubles] = []
    for start, end in _borders(surface.layout):
        count = max(2, int(np.hypot(*(end - start)) / _STEP) + 1)
        share = np.linspace(0, 1, count)[:, None]
        points = _unbent(surface, start + share * (end - start))
        fields, _ = surface.fields(points[:, 0].astype(np.float32), points[:, 1].astype(np.float32))
        there = (np.abs(points).max(axis=1) <= half) & (fields[:, plan.LAKE] > 2)
        lines.extend(points[run] for run in _runs(there))
    return lines


def _borders(layout: Layout) -> Iterator[tuple[Doubles, Doubles]]:
    """Yield both ends of every border between two districts, in bent coordinates."""
    sites = layout.districts[:, [plan.SITE_X, plan.SITE_Y]].astype(np.float64)
    for first in range(len(sites)):
        near = np.hypot(*(sites - sites[first]).T) < _NEIGHBOURS
        for second in np.flatnonzero(near):
            if second > first:
                border = _border(sites[first], sites[second], sites[near])
                if border is not None:
                    yield border


def _border(one: Doubles, other: Doubles, sites: Doubles) -> tuple[Doubles, Doubles] | None:
    """Return the part of the bisector of two sites that is nearer to them than to any site, or None."""
    middle, across = (one + other) / 2, other - one
    along = np.array([-across[1], across[0]]) / np.hypot(*across)
    rivals = sites[(np.abs(sites - one).max(axis=1) > 1e-6) & (np.abs(sites - other).max(axis=1) > 1e-6)]
    # middle + t along is nearer to the pair than to a rival where slope t <= room.
    slope = 2 * (rivals - one) @ along
    room = (rivals**2).sum(axis=1) - (one**2).sum() - 2 * (rivals - one) @ middle
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = room / slope
    low = max(limit[slope < -1e-9], default=-_NEIGHBOURS)
    high = min(limit[slope > 1e-9], default=_NEIGHBOURS)
    if high - low < 1:
        return None
    return middle + low * along, middle + high * along


def _unbent(surface: Surface, bent: Doubles) -> Doubles:
    """Return the points whose bent coordinates are given, by fixed-point iteration."""
    points = bent
    for _ in range(_ITERATIONS):
        x, y = (points[:, axis].astype(np.float32) for axis in (0, 1))
        bend: Floats = surface.fields(x, y)[0][:, [plan.BEND_X, plan.BEND_Y]]
        points = bent - bend
    return points


def _runs(there: Flags) -> Iterator[slice]:
    """Yield the runs of two or more points that are there."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start > 1:
            yield slice(int(start), int(stop))
