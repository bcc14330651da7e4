"""The geographical prior: classes that occur at a place, joined with what an image alone says.

P(y | I, x) is proportional to P(y | I) P(y | x) (Mac Aodha, Cole and Perona 2019, Eq. 1), if image and place
are independent given the class and classes are equally frequent. P(y | I) is given: an image classifier's
probabilities. P(y | x) is the head's, trained with cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gair_core.heads.point import PointHead

# An image classifier's zeros are rounded numbers, stored sparsely: the prior ranks among them.
_SMALLEST_PROBABILITY = 1e-12


class GeoPrior(PointHead):
    """P(y | x): one linear layer and a softmax on e(x)."""

    kind = "geo_prior"
    allowed = needed = ("location",)
    regression = False
    hidden_layers = 0


def combine(image: Tensor, prior: Tensor, placed: Tensor | None = None) -> Tensor:
    """Return P(y | I, x).

    Args:
        image: P(y | I), (N, classes); rows need not sum to 1. A row of zeros says nothing: the prior decides.
        prior: P(y | x), (N, classes).
        placed: Whether each sample has a place, (N,); without one the image alone decides. None for all.

    Returns:
        Shape (N, classes), rows sum to 1, float64.
    """
    # Sums of logarithms: products of small probabilities over thousands of classes would vanish in float32.
    seen = image.double().clamp(min=_SMALLEST_PROBABILITY).log()
    expected = prior.double().clamp(min=_SMALLEST_PROBABILITY).log()
    if placed is not None:
        expected = torch.where(placed[:, None], expected, torch.zeros_like(expected))
    return (seen + expected).softmax(dim=-1)
