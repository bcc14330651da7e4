"""Weights of classes in a loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gair_core.errors import BadInputError

ClassWeights = Literal["none", "inverse_frequency"]


def inverse_frequency(counts: Tensor) -> Tensor:
    """Return a weight for each class that makes up for its rarity.

    The weight is N / (K n_k) for n_k of N labels in one of K classes (scikit-learn's ``balanced``): every
    class weighs the same in all, and the mean weight of a label is 1. A class without labels gets 0: nothing
    would ever be weighed with it.

    Args:
        counts: Labels of each class, shape (K,), whole numbers.

    Returns:
        Shape (K,), float32.

    Raises:
        BadInputError: There is no label at all, or all are of one class.
    """
    total = int(counts.sum())
    if total == 0:
        raise BadInputError(
            "None of the training examples has a label of a known class.",
            "Look at the labels, and at the value that is ignored.",
        )
    there = counts > 0
    if int(there.sum()) == 1:
        raise BadInputError(
            f"All {total} labels of the training examples are of one class, the one with the index "
            f"{int(counts.argmax())} of {len(counts)}: there is nothing to tell apart.",
            "Look at the labels; change between two days needs days between which something changes.",
        )
    weights = total / (int(there.sum()) * counts.clamp(min=1).double())
    return torch.where(there, weights, 0.0).float()
