"""A PCA basis of a model's embeddings with fixed int8 scales.

It is fitted once, on training or calibration data, and kept in the checkpoint, so that components of
different scenes, extents and dates are comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.model.gair import EmbeddingBasis

# int8 spans this many standard deviations to each side; of a Gaussian component 1 value in 16,000 is clipped.
SPAN = 4.0


def fit_basis(embeddings: Tensor, components: int) -> EmbeddingBasis:
    """Fit a basis by PCA.

    Args:
        embeddings: Shape (N, D), floating point, N larger than ``components``.
        components: Number of components K, at most D.

    Returns:
        The basis: rows by falling variance, each with its largest entry positive; one int8 step is
        ``SPAN / 127`` standard deviations of its component.

    Raises:
        BadInputError: There are too few embeddings or dimensions, or they do not vary.
    """
    if embeddings.ndim != 2 or not 0 < components <= min(len(embeddings) - 1, embeddings.shape[-1]):
        raise BadInputError(
            f"{components} components cannot be fitted to embeddings of shape {tuple(embeddings.shape)}.",
            "Give (N, D) embeddings with more than K rows and at least K columns.",
        )
    values = embeddings.detach().cpu().double()
    mean = values.mean(dim=0)
    covariance = (values - mean).mT @ (values - mean) / (len(values) - 1)
    variances, vectors = torch.linalg.eigh(covariance)
    variances, rows = variances.flip(0)[:components].clamp(min=0), vectors.flip(1).mT[:components]
    total = covariance.trace()
    if not bool(total > 0) or not bool(variances[-1] > 1e-12 * total):
        raise BadInputError(
            f"The embeddings vary in fewer than {components} directions.",
            "Give more varied scenes, or ask for fewer components.",
        )
    # PCA leaves the signs open; fix them, so that the same data give the same basis everywhere.
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    basis = EmbeddingBasis(embeddings.shape[1], components)
    basis.mean.copy_(mean)
    basis.components.copy_(rows * largest.sign())
    basis.variance.copy_(variances / total)
    basis.scale.copy_(SPAN / 127 * variances.sqrt())
    return basis
