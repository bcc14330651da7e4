"""Cosines from inner products of the lattice equal those of the embeddings themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from affine import Affine

from gair_core.geo.grid import Grid, Window
from gair_core.inference.cosine import (
    Channel,
    CosineSampler,
    SceneScores,
    crop_columns,
    lattice_products,
)
from gair_core.inference.lattice import LatticeStrip
from gair_core.inference.tiling import LatticeWindow

PATCH = 8
DIM = 24


def grid(height: int, width: int, pixel: float = 10.0) -> Grid:
    return Grid("EPSG:32632", Affine(pixel, 0, 450000, 0, -pixel, 5500000), width, height)


def embeddings(lattice: torch.Tensor, rim: torch.Tensor, model: Grid, output: Grid) -> torch.Tensor:
    """z at every pixel of an output by the definition, one query after the other, float64: (D, h, w)."""
    rows, columns = lattice.shape[1:]
    result = torch.zeros(len(lattice), output.height, output.width, dtype=torch.float64)
    for i in range(output.height):
        for j in range(output.width):
            px, py = ~model.transform @ (output.transform @ (j + 0.5, i + 0.5))
            x, y = px / PATCH - 0.5, py / PATCH - 0.5
            cx, cy = min(max(x, 0), columns - 1), min(max(y, 0), rows - 1)
            for k in range(rows):
                for m in range(columns):
                    weight = max(0, 1 - abs(cx - m)) * max(0, 1 - abs(cy - k))
                    if weight:
                        result[:, i, j] += weight * lattice[:, k, m].double()
            result[:, i, j] += rim.double() @ torch.tensor([2 * (x - cx), 2 * (y - cy)], dtype=torch.float64)
    return result


def cut(lattice: torch.Tensor, model: Grid, heights: list[int]) -> list[LatticeStrip]:
    valid = np.ones((model.height, model.width), bool)
    strips, row = [], 0
    for height in heights:
        pixels = slice(row * PATCH, (row + height) * PATCH)
        strips.append(LatticeStrip(row, lattice[:, row : row + height], valid[pixels]))
        row += height
    assert row == lattice.shape[1]
    return strips


def sampled(strips, queries, rim, model: Grid, output: Grid, *, window: Window | None = None) -> torch.Tensor:
    window = window or output.full_window
    sampler = CosineSampler(output, model, PATCH, window, queries=queries, rim_weight=rim)
    products = lattice_products(iter(strips), queries, rim, PATCH)
    cropped = (crop_columns(strip, 0, sampler.lattice_window, PATCH) for strip in products)
    pieces = list(sampler.sample(cropped))
    assert [piece.row for piece in pieces] == list(
        np.cumsum([0] + [piece.values.shape[1] for piece in pieces[:-1]])
    )
    return torch.cat([piece.values for piece in pieces], 1)


@pytest.mark.parametrize(
    ("height", "width", "heights"),
    [(40, 32, [2, 0, 1, 2]), (37, 29, [5]), (8, 40, [1]), (40, 8, [1, 1, 1, 2]), (8, 8, [1]), (5, 3, [1])],
)
@pytest.mark.parametrize("pixel", [10.0, 7.0, 33.0])
def test_cosines_equal_those_of_the_embeddings_rim_included(height, width, heights, pixel):
    generator = torch.Generator().manual_seed(height)
    model = grid(height, width)
    sizes = max(1, round(height * 10 / pixel)), max(1, round(width * 10 / pixel))
    scaled = Affine.scale(width / sizes[1], height / sizes[0])
    output = Grid(model.crs, model.transform @ scaled, sizes[1], sizes[0])
    lattice = torch.randn(DIM, -(-height // PATCH), -(-width // PATCH), generator=generator)
    rim = torch.randn(DIM, 2, generator=generator)
    queries = F.normalize(torch.randn(3, DIM, generator=generator), dim=-1)
    found = sampled(cut(lattice, model, heights), queries, rim, model, output)
    z = embeddings(lattice, rim, model, output)
    expected = F.cosine_similarity(queries.double()[:, :, None, None], z[None], dim=1)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def test_a_window_of_wider_strips_equals_its_part_of_the_whole():
    generator = torch.Generator().manual_seed(1)
    model = grid(64, 72)
    lattice = torch.randn(DIM, 8, 9, generator=generator)
    rim = torch.randn(DIM, 2, generator=generator)
    queries = F.normalize(torch.randn(2, DIM, generator=generator), dim=-1)
    strips = cut(lattice, model, [3, 3, 2])
    whole = sampled(strips, queries, rim, model, model)
    for window in [Window(0, 0, 9, 9), Window(30, 41, 20, 31), Window(63, 71, 1, 1), Window(40, 3, 1, 60)]:
        part = sampled(strips, queries, rim, model, model, window=window)
        expected = whole[:, window.row : window.row_stop, window.col : window.col_stop]
        torch.testing.assert_close(part, expected, atol=0, rtol=0)


@pytest.mark.parametrize("remainder", [1e-2, 1e-4, 1e-5])
def test_neighbours_that_nearly_cancel_leave_the_cosine_of_what_remains(remainder):
    # Opposite vectors meet half-way: there z is only the small remainder, which points along the query.
    base, query = torch.zeros(DIM), torch.zeros(DIM)
    base[0], query[1] = 1.0, 1.0
    lattice = torch.stack([base + remainder * query, -base + remainder * query], -1)[:, None]
    model = grid(8, 16)
    output = Grid(model.crs, model.transform @ Affine.scale(16 / 3, 8), 3, 1)
    found = sampled(cut(lattice, model, [1]), query[None], torch.zeros(DIM, 2), model, output)
    assert found[0, 0, 1] == pytest.approx(1, abs=1e-5)


def test_where_neighbours_cancel_exactly_the_cosine_is_0():
    lattice = torch.randn(DIM, 1, 1).expand(-1, 1, 2) * torch.tensor([1.0, -1.0])
    model = grid(8, 16)
    output = Grid(model.crs, model.transform @ Affine.scale(16 / 3, 8), 3, 1)
    query = F.normalize(lattice[None, :, 0, 0], dim=-1)
    found = sampled(cut(lattice, model, [1]), query, torch.zeros(DIM, 2), model, output)
    torch.testing.assert_close(found[0, 0], torch.tensor([1.0, 0.0, -1.0]), atol=1e-6, rtol=0)
    empty = sampled(cut(0 * lattice, model, [1]), query, torch.zeros(DIM, 2), model, output)
    assert (empty == 0).all()


def test_products_keep_rows_and_validity_together():
    lattice = torch.randn(DIM, 6, 4)
    model = grid(45, 30)
    strips = cut(lattice, model, [2, 0, 3, 1])
    for strip in strips:
        strip.valid[:] = np.random.default_rng(strip.row).random(strip.valid.shape) < 0.5
    products = list(lattice_products(iter(strips), lattice[:, 0, :1].mT, torch.zeros(DIM, 2), PATCH))
    assert [(strip.row, strip.values.shape[1]) for strip in products] == [(0, 1), (1, 3), (4, 1), (5, 1)]
    assert [len(strip.valid) for strip in products] == [8, 24, 8, 5]
    np.testing.assert_array_equal(
        np.concatenate([strip.valid for strip in products]), np.concatenate([strip.valid for strip in strips])
    )
    values = torch.cat([strip.values for strip in products], 1)
    wide = lattice.double()
    torch.testing.assert_close(values[Channel.BELOW, :-1], (wide[:, :-1] * wide[:, 1:]).sum(0))
    torch.testing.assert_close(values[Channel.RIGHT, :, :-1], (wide[..., :-1] * wide[..., 1:]).sum(0))


def scores_by_definition(queries, places, lattice, rim, good):
    """Own score, percentile, best score and best patch from all cosines at once."""
    own = F.cosine_similarity(queries.double(), places.double(), dim=-1)
    cosines = F.normalize(queries.double(), dim=-1) @ F.normalize(lattice.double().flatten(1), dim=0)
    inside = torch.from_numpy(good.ravel())
    lower = 100 * (cosines[:, inside] < own[:, None]).double().mean(1)
    cosines[:, ~inside] = -2
    best = cosines.max(1)
    return own.numpy(), lower.numpy(), best.values.numpy(), best.indices.numpy()


@pytest.mark.parametrize("shape", [(30, 40), (1, 40), (30, 1), (1, 1)])
def test_scores_equal_brute_force(shape):
    generator = torch.Generator().manual_seed(7)
    rows, columns = shape
    model = grid(rows * PATCH - 3, columns * PATCH)
    lattice = torch.randn(DIM, rows, columns, generator=generator)
    rim = torch.randn(DIM, 2, generator=generator)
    queries = F.normalize(torch.randn(5, DIM, generator=generator), dim=-1)
    uv = torch.rand(5, 2, generator=generator, dtype=torch.float64)
    uv[:, 1] *= model.height / (rows * PATCH)  # the last patch reaches beyond the scene
    uv[0] = torch.tensor([0.999, 1 - 3.5 / (rows * PATCH)])  # in the scene's last row
    uv[1] = torch.tensor([0.001, 0.5])
    uv[4] = torch.tensor([0.95, 0.01])
    heights = [4] * (rows // 4) + [rows % 4]
    strips = cut(lattice, model, heights)
    for strip in strips:
        strip.valid[: strip.values.shape[1] * PATCH // 2, PATCH : 3 * PATCH] = False
        strip.valid[:, PATCH : 3 * PATCH : 2] = False
    for strip in strips:  # where the queries stand there is data, but for the last one
        top = strip.row * PATCH
        for index, (u, v) in enumerate(uv.tolist()):
            row, column = int(v * rows * PATCH) - top, int(u * columns * PATCH)
            if 0 <= row < len(strip.valid):
                strip.valid[row, column] = index != 4
    scores = SceneScores(queries, uv.numpy(), shape, rim, PATCH)
    for strip in strips:
        scores.add(strip)
    found = scores.result()
    # NILI's own evaluation at points is checked against the literal Eq. 1 elsewhere.
    from gair_core.model.nili import gather_cell, locate

    cell = locate(uv[None], rows, columns)
    corners, weights = gather_cell(lattice[None].double(), cell)
    places = torch.einsum("bqk,bqkd->bqd", weights, corners)[0] + cell.rim[0] @ rim.double().mT
    good = np.concatenate([strip.patch_validity(PATCH) for strip in strips])
    own, lower, best, index = scores_by_definition(queries, places, lattice, rim, good)
    np.testing.assert_allclose(found.own[:4], own[:4], atol=1e-6)
    np.testing.assert_allclose(found.percentile[:4], lower[:4], atol=100 / max(good.sum(), 1))
    assert np.isnan([found.own[4], found.percentile[4]]).all()
    np.testing.assert_allclose(found.best, best, atol=1e-6)
    np.testing.assert_array_equal(found.best_row * columns + found.best_column, index)
    assert scores.patches == good.sum()


def test_percentiles_of_a_crowded_distribution():
    # 40,000 cosines within 0.02 of each other: the histogram must still rank to a fraction of a percent.
    generator = torch.Generator().manual_seed(3)
    base = F.normalize(torch.randn(DIM, generator=generator), dim=0)
    lattice = base[:, None, None] + 0.03 * torch.randn(DIM, 200, 200, generator=generator)
    queries = F.normalize(base + 0.05 * torch.randn(4, DIM, generator=generator), dim=-1)
    uv = np.random.default_rng(0).random((4, 2)) * 0.9 + 0.05
    scores = SceneScores(queries, uv, (200, 200), torch.zeros(DIM, 2), PATCH)
    for strip in cut(lattice, grid(1600, 1600), [50] * 4):
        scores.add(strip)
    found = scores.result()
    cosines = queries.double() @ F.normalize(lattice.double().flatten(1), dim=0)
    expected = 100 * (cosines < torch.from_numpy(found.own)[:, None]).double().mean(1).numpy()
    assert float(cosines[0].max() - cosines[0].min()) < 0.3
    np.testing.assert_allclose(found.percentile, expected, atol=0.05)


def test_a_patch_is_valid_when_half_of_its_pixels_are():
    valid = np.ones((12, 16), bool)
    valid[:4, :8] = False
    valid[:5, 8:] = False
    valid[8:10, :8] = False  # half of the four rows that the scene has of the last patch
    valid[8:11, 8:] = False
    strip = LatticeStrip(0, torch.zeros(1, 2, 2), valid)
    np.testing.assert_array_equal(strip.patch_validity(8), [[True, False], [True, False]])
    assert not strip.patch_validity(8, share=1).any()
    valid[:] = True
    assert strip.patch_validity(8, share=1).all()


def test_crop_columns_takes_the_pixels_along():
    strip = LatticeStrip(4, torch.arange(12.0).reshape(1, 2, 6), np.arange(16 * 43).reshape(16, 43) % 2 == 0)
    part = crop_columns(strip, 10, LatticeWindow(0, 9, 13, 16), 8)
    assert part.row == 4
    assert part.values.tolist() == [[[3, 4, 5], [9, 10, 11]]]
    np.testing.assert_array_equal(part.valid, strip.valid[:, 24:43])
