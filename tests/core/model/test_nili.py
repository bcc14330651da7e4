"""NILI in its factorised forms against the literal Eq. 1 of tests/reference.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gair_core.model.nili import NILI, FeatureLocalizer, grid_centres, locate
from tests import reference

HIDDEN = [(), (7,), (7, 6)]
LATTICES = [(1, 1), (1, 4), (3, 1), (2, 2), (5, 3), (4, 7)]


def make(hidden: tuple[int, ...], dtype: torch.dtype = torch.float64, width: int = 5, dim: int = 6) -> NILI:
    torch.manual_seed(1)
    module = NILI(width, dim, hidden).to(dtype)
    with torch.no_grad():
        # The offsets' weights matter as much as the features' ones in this test.
        module.layers[0].weight[:, -2:].normal_()
    return module


def literal(module: NILI):
    layers = [layer for linear in module.layers for layer in (linear, nn.GELU())][:-1]
    return nn.Sequential(*layers)


def awkward_queries(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Corners, edges, patch centres (where Eq. 1 is 0/0 in the rim), patch borders and random places."""
    u = torch.cat(
        [torch.linspace(0, 1, 2 * columns + 1, dtype=torch.float64), torch.tensor([0.01, 0.37, 0.99])]
    )
    v = torch.cat([torch.linspace(0, 1, 2 * rows + 1, dtype=torch.float64), torch.tensor([0.02, 0.41, 0.98])])
    return torch.cartesian_prod(u, v).to(dtype)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize("batch", [1, 2])
def test_points_equal_eq_1_in_float64(hidden, lattice, batch):
    module = make(hidden)
    features = torch.randn(batch, 5, *lattice, dtype=torch.float64)
    uv = awkward_queries(*lattice, torch.float64).expand(batch, -1, -1)
    expected = reference.nili_at(features, uv, literal(module))
    torch.testing.assert_close(module.interpolate(features, uv), expected, rtol=0, atol=1e-12)
    one = uv[:, 5:6]  # few queries take another path: the 4x4 neighbourhood is blended first
    torch.testing.assert_close(module.interpolate(features, one), expected[:, 5:6], rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (21, 33)])
def test_dense_equals_eq_1_in_float32(hidden, lattice, size):
    module = make(hidden, torch.float32)
    features = torch.randn(1, 5, *lattice)
    uv = grid_centres(*size, like=features)[None]
    expected = reference.nili_at(features, uv, literal(module)).mT.reshape(1, 6, *size)
    with torch.no_grad():
        torch.testing.assert_close(module.dense(features, size), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    u=st.floats(0, 1, width=32),
    v=st.floats(0, 1, width=32),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    hidden=st.sampled_from(HIDDEN),
)
def test_any_point_in_float32(u, v, rows, columns, hidden):
    module = make(hidden, torch.float32, width=3, dim=4)
    features = torch.randn(1, 3, rows, columns, generator=torch.Generator().manual_seed(2))
    uv = torch.tensor([[[u, v]]])
    expected = reference.nili_at(features, uv, literal(module))
    torch.testing.assert_close(
        module.interpolate(features, uv), expected, rtol=1e-5, atol=2e-6 * max(rows, columns)
    )


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("queries", [1, 40])
def test_gradients_equal_those_of_eq_1(hidden, queries):
    module = make(hidden)
    features = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    uv = torch.rand(2, queries, 2, dtype=torch.float64)
    weight = torch.randn(2, queries, 6, dtype=torch.float64)
    variables = [features, *module.parameters()]
    expected = torch.autograd.grad(
        (reference.nili_at(features, uv, literal(module)) * weight).sum(), variables
    )
    found = torch.autograd.grad((module.interpolate(features, uv) * weight).sum(), variables)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_dense_gradients_equal_those_of_points(hidden):
    module = make(hidden)
    features = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    size = (9, 11)
    uv = grid_centres(*size, like=features).double().expand(2, -1, -1)
    weight = torch.randn(2, 6, *size, dtype=torch.float64)
    variables = [features, *module.parameters()]
    points = module.interpolate(features, uv).mT.reshape(2, 6, *size)
    expected = torch.autograd.grad((points * weight).sum(), variables)
    found = torch.autograd.grad((module.dense(features, size) * weight).sum(), variables)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_projection_commutes_with_the_resize(hidden):
    module = make(hidden)
    features = torch.randn(1, 5, 4, 3, dtype=torch.float64)
    projection = torch.randn(2, 6, dtype=torch.float64)
    expected = torch.einsum("kd,bdyx->bkyx", projection, module.dense(features, (17, 10)))
    torch.testing.assert_close(module.dense(features, (17, 10), projection), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("queries", [1, 50])
def test_bfloat16_stays_within_its_rounding(hidden, queries):
    module = make(hidden)
    features = torch.randn(1, 5, 4, 4).to(torch.bfloat16)
    uv = torch.rand(1, queries, 2)
    expected = module.interpolate(features.double(), uv.double())
    rounded = make(hidden, torch.bfloat16)
    found = rounded.interpolate(features, uv)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05)
    dense = rounded.dense(features, (12, 12))
    torch.testing.assert_close(
        dense.double(), module.dense(features.double(), (12, 12)), rtol=0.05, atol=0.08
    )


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 9), st.integers(1, 9))
def test_cells_reproduce_the_position(u, v, rows, columns):
    cell = locate(torch.tensor([[u, v]], dtype=torch.float64), rows, columns)
    position = cell.corner + cell.fraction + cell.rim / 2
    expected = torch.tensor([[u * columns - 0.5, v * rows - 0.5]], dtype=torch.float64)
    torch.testing.assert_close(position, expected, rtol=0, atol=1e-12)
    assert (cell.fraction >= 0).all()
    assert (cell.fraction <= 1).all()
    assert (cell.rim.abs() <= 1).all()


def test_the_rim_term_is_only_the_rims():
    cell = locate(torch.tensor([[0.5, 0.5], [0.13, 0.5], [0.1, 0.99]]), 4, 4)
    torch.testing.assert_close(
        cell.rim, torch.tensor([[0.0, 0.0], [0.0, 0.0], [-0.2, 0.92]]), rtol=0, atol=1e-6
    )


def test_deterministic_localizers():
    features = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    centres = grid_centres(4, 5, like=features)[None].double()
    tokens = features.flatten(2).mT
    for method in ("bilinear", "bicubic"):
        localizer = FeatureLocalizer(method)
        torch.testing.assert_close(localizer.interpolate(features, centres), tokens, rtol=0, atol=1e-9)
        grid = 2 * torch.rand(1, 9, 1, 2, dtype=torch.float64) - 1
        expected = F.grid_sample(features, grid, mode=method, align_corners=False)[..., 0].mT
        torch.testing.assert_close(localizer.interpolate(features, (grid[:, :, 0] + 1) / 2), expected)
        torch.testing.assert_close(localizer.dense(features, (4, 5)), features, rtol=0, atol=1e-9)
    pool = FeatureLocalizer("pool")
    mean = features.mean((2, 3))
    torch.testing.assert_close(pool.interpolate(features, centres), mean[:, None].expand(-1, 20, -1))
    torch.testing.assert_close(pool.dense(features, (2, 3)), mean[..., None, None].expand(-1, -1, 2, 3))
