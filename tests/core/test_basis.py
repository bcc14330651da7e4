"""The PCA basis against numpy, and embeddings that have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gair_core.basis import SPAN, fit_basis
from gair_core.errors import BadInputError


def test_agrees_with_the_singular_values():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 12)) * np.linspace(5, 0.5, 12) + 3
    basis = fit_basis(torch.from_numpy(values), 4)
    centred = values - values.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / 299
    assert np.allclose(basis.mean, values.mean(axis=0), atol=1e-5)
    assert np.allclose(np.abs(basis.components.numpy() @ rows[:4].T), np.eye(4), atol=1e-5)
    assert np.allclose(basis.variance, variances[:4] / variances.sum(), atol=1e-6)
    assert np.allclose(basis.scale, SPAN / 127 * np.sqrt(variances[:4]), rtol=1e-5)
    projected = basis.project(torch.from_numpy(values).float())
    assert np.allclose(projected.var(dim=0), variances[:4], rtol=1e-4)
    strongest = basis.components.gather(1, basis.components.abs().argmax(dim=1, keepdim=True))
    assert bool((strongest > 0).all())


@pytest.mark.parametrize("components", [0, 5, 9])
def test_too_few_embeddings_or_dimensions(components):
    with pytest.raises(BadInputError, match="cannot be fitted"):
        fit_basis(torch.rand(5, 8), components)


def test_embeddings_that_do_not_vary():
    with pytest.raises(BadInputError, match="fewer than 2 directions"):
        fit_basis(torch.ones(10, 4), 2)
    with pytest.raises(BadInputError, match="fewer than 2 directions"):
        fit_basis(torch.arange(10.0)[:, None] * torch.ones(4), 2)
