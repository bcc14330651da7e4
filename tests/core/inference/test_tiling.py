"""Tiles cover the scene, do not depend on the window, and blend to one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gair_core.errors import BadInputError
from gair_core.inference.lattice import StripAccumulator
from gair_core.inference.tiling import Axis, LatticeWindow, TilePlan

axes = st.tuples(st.integers(1, 200), st.integers(3, 30), st.integers(0, 1)).map(lambda a: Axis.plan(*a))


@given(axes)
def test_tiles_cover_every_patch_and_stay_inside(axis):
    covered = np.zeros(axis.patches, int)
    for start in axis.starts:
        covered[start : start + axis.tile] += 1
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.tile == axis.patches
    assert (covered > 0).all()
    assert list(axis.starts) == sorted(set(axis.starts))


@given(axes, st.data())
def test_touching_finds_exactly_the_tiles_of_a_range(axis, data):
    start = data.draw(st.integers(0, axis.patches - 1))
    stop = data.draw(st.integers(start + 1, axis.patches))
    expected = [
        i
        for i, first in enumerate(axis.starts)
        if set(range(first, first + axis.tile)) & set(range(start, stop))
    ]
    assert list(axis.touching(start, stop)) == expected


def test_ramps_over_one_overlap_sum_to_one():
    axis = Axis.plan(42, 12, 2)
    assert axis.starts == (0, 8, 16, 24, 30)
    total = np.zeros(42)
    for i, start in enumerate(axis.starts[:-1]):
        total[start : start + 12] += axis.weights(i)
    np.testing.assert_allclose(total[:30], 1, atol=1e-6)
    assert axis.weights(0)[0] == 1
    # The outermost patch, whose 3x3 neighbourhood the tile cuts, has no weight.
    ramp = [0, np.sin(np.pi / 8) ** 2, np.sin(3 * np.pi / 8) ** 2, 1]
    np.testing.assert_allclose(axis.weights(1)[:4], ramp, atol=1e-6)


def test_a_margin_without_a_middle_is_refused():
    with pytest.raises(BadInputError, match="Tiles of 4 patches with a margin of 2"):
        Axis.plan(10, 4, 2)


@settings(deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    tile=st.integers(3, 14),
    margin=st.integers(0, 1),
    data=st.data(),
)
def test_strips_equal_the_blend_of_all_tiles(rows, columns, tile, margin, data):
    """Whatever window is asked for, its rows come out once, in order, and with the whole scene's values."""
    vertical, horizontal = Axis.plan(rows, tile, margin), Axis.plan(columns, tile, margin)
    row = data.draw(st.integers(0, rows - 1))
    col = data.draw(st.integers(0, columns - 1))
    window = LatticeWindow(
        row, data.draw(st.integers(row + 1, rows)), col, data.draw(st.integers(col + 1, columns))
    )
    rng = np.random.default_rng(0)
    tiles = rng.normal(size=(len(vertical.starts), len(horizontal.starts), 2, vertical.tile, horizontal.tile))
    total, weight = np.zeros((2, rows, columns)), np.zeros((rows, columns))
    for i, top in enumerate(vertical.starts):
        for j, left in enumerate(horizontal.starts):
            w = np.outer(vertical.weights(i), horizontal.weights(j))
            place = (slice(top, top + vertical.tile), slice(left, left + horizontal.tile))
            total[(slice(None), *place)] += w * tiles[i, j]
            weight[place] += w
    expected = (total / weight)[:, window.row : window.row_stop, window.col : window.col_stop]

    plan = TilePlan(vertical, horizontal, window)
    accumulator = StripAccumulator(plan, 2)
    strips, next_row = [], window.row
    for i in plan.tile_rows:
        for j in plan.tile_columns:
            accumulator.add(i, j, torch.from_numpy(tiles[i, j]).float())
        first, values = accumulator.finish_row(i)
        if values.shape[1]:
            assert first == next_row
        next_row += values.shape[1]
        strips.append(values)
    np.testing.assert_allclose(torch.cat(strips, dim=1).numpy(), expected, atol=1e-4)
