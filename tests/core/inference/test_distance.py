"""Cosine distances from inner products of two lattices equal those of the embeddings themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from affine import Affine

from gair_core.geo.grid import Grid, Window
from gair_core.inference.cosine import Channel, crop_columns
from gair_core.inference.distance import DistanceSampler, date_products
from tests.core.inference.test_cosine import DIM, PATCH, cut, embeddings, grid


def made(height, width, seed=0):
    """Two dates' lattices that differ about as much as two dates do, and a rim weight."""
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(DIM, -(-height // PATCH), -(-width // PATCH), generator=generator)
    other = one + 0.5 * torch.randn(one.shape, generator=generator)
    return (one, other), torch.randn(DIM, 2, generator=generator)


def sampled(dates, rim, model: Grid, output: Grid, heights, *, window: Window | None = None):
    window = window or output.full_window
    sampler = DistanceSampler(output, model, PATCH, window, rim_weight=rim)
    pairs = zip(*(cut(date, model, heights) for date in dates), strict=True)
    products = date_products(pairs, rim, PATCH)
    cropped = (crop_columns(strip, 0, sampler.lattice_window, PATCH) for strip in products)
    pieces = list(sampler.sample(cropped))
    assert all(len(piece.values) == 1 for piece in pieces)
    return torch.cat([piece.values[0] for piece in pieces])


@pytest.mark.parametrize(
    ("height", "width", "heights"),
    [(40, 32, [2, 0, 1, 2]), (37, 29, [5]), (8, 40, [1]), (40, 8, [1, 1, 1, 2]), (8, 8, [1]), (5, 3, [1])],
)
@pytest.mark.parametrize("pixel", [10.0, 7.0, 33.0])
def test_distances_equal_those_of_the_embeddings_rim_included(height, width, heights, pixel):
    model = grid(height, width)
    sizes = max(1, round(height * 10 / pixel)), max(1, round(width * 10 / pixel))
    scaled = Affine.scale(width / sizes[1], height / sizes[0])
    output = Grid(model.crs, model.transform @ scaled, sizes[1], sizes[0])
    dates, rim = made(height, width, height)
    found = sampled(dates, rim, model, output, heights)
    one, other = (embeddings(date, rim, model, output) for date in dates)
    expected = 1 - F.cosine_similarity(one, other, dim=0)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def test_a_window_equals_its_part_of_the_whole_to_the_last_bit():
    model = grid(64, 72)
    dates, rim = made(64, 72)
    whole = sampled(dates, rim, model, model, [3, 3, 2])
    for window in [Window(0, 0, 9, 9), Window(30, 41, 20, 31), Window(63, 71, 1, 1), Window(40, 3, 1, 60)]:
        part = sampled(dates, rim, model, model, [3, 3, 2], window=window)
        expected = whole[window.row : window.row_stop, window.col : window.col_stop]
        torch.testing.assert_close(part, expected, atol=0, rtol=0)


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0.0), (5.0, 0.0), (-1.0, 2.0), (0.0, 1.0)])
def test_known_distances(factor, expected):
    (one, _), _ = made(24, 24)
    model = grid(24, 24)
    found = sampled((one, factor * one), torch.zeros(DIM, 2), model, model, [3])
    torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-7, rtol=0)
    nothing = sampled((0 * one, 0 * one), torch.zeros(DIM, 2), model, model, [3])
    assert (nothing == 1).all()


def test_small_changes_are_resolved():
    (one, _), _ = made(24, 24)
    model = grid(24, 24)
    turned = one + 1e-3 * one.roll(1, 0)
    found = sampled((one, turned), torch.zeros(DIM, 2), model, model, [3])
    dates = [embeddings(date, torch.zeros(DIM, 2), model, model) for date in (one, turned)]
    expected = 1 - F.cosine_similarity(*dates, dim=0)
    assert 0 < expected.max() < 1e-6
    torch.testing.assert_close(found.double(), expected, atol=1e-9, rtol=0)


def test_only_what_both_dates_have_is_valid():
    model = grid(45, 30)
    dates, rim = made(45, 30)
    cuts = [cut(date, model, [2, 3, 1]) for date in dates]
    generator = np.random.default_rng(0)
    for strip in (*cuts[0], *cuts[1]):
        strip.valid[:] = generator.random(strip.valid.shape) < 0.7
    expected = np.logical_and(*(np.concatenate([strip.valid for strip in date]) for date in cuts))
    products = list(date_products(zip(*cuts, strict=True), rim, PATCH))
    np.testing.assert_array_equal(np.concatenate([strip.valid for strip in products]), expected)
    assert all(len(strip.values) == 3 * len(Channel) for strip in products)
    sampler = DistanceSampler(model, model, PATCH, model.full_window, rim_weight=rim)
    pieces = list(sampler.sample(iter(products)))
    np.testing.assert_array_equal(np.concatenate([piece.valid for piece in pieces]), expected)
