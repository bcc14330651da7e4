"""The literal equations of the paper, as slow and as plain as they are printed: oracles for the tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def unfold_features(features: Tensor) -> Tensor:
    """Concatenate each patch with its 3x3 neighbours, zeros outside (section 3.2, Feature Unfolding).

    (D, P_y, P_x) -> (9 D, P_y, P_x), channel order (c, ky, kx).
    """
    channels, rows, columns = features.shape
    padded = features.new_zeros(channels, rows + 2, columns + 2)
    padded[:, 1:-1, 1:-1] = features
    unfolded = features.new_zeros(channels, 3, 3, rows, columns)
    for ky in range(3):
        for kx in range(3):
            unfolded[:, ky, kx] = padded[:, ky : ky + rows, kx : kx + columns]
    return unfolded.reshape(9 * channels, rows, columns)


def nearest(position: float, count: int) -> int:
    return min(max(int(torch.tensor(position).floor()), 0), count - 1)


def nili(features: Tensor, u: float, v: float, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Equation 1 for one query, (D, P_y, P_x) -> (D,): four evaluations of H blended by the opposite areas.

    Where a neighbour would lie outside the lattice it is replaced by the nearest one that exists, as in the
    authors' code. Where that makes all four areas vanish (the query lies on a line through patch centres in
    the rim) Eq. 1 is 0/0; its limit is taken one axis at a time: the area of a rectangle is the product of
    its sides, and both sides along an axis on which the two neighbours coincide are equal, so that axis's
    share of the weight is one half each, also when the sides are 0.
    """
    unfolded = unfold_features(features)
    rows, columns = features.shape[1:]
    # Psi: image coordinates in patches; patch centres at integers.
    x, y = u * columns - 0.5, v * rows - 0.5
    total = torch.zeros((), dtype=torch.float64)
    result: Tensor | float = 0.0
    for below in (0, 1):
        for right in (0, 1):
            # Which patch contains the point half a patch to the left/right and above/below of the query.
            column, row = nearest(x + right, columns), nearest(y + below, rows)
            opposite_column, opposite_row = nearest(x + 1 - right, columns), nearest(y + 1 - below, rows)
            side_x = abs(x - opposite_column) if opposite_column != column else 1.0
            side_y = abs(y - opposite_row) if opposite_row != row else 1.0
            area = side_x * side_y
            offset = torch.tensor([2 * (x - column), 2 * (y - row)], dtype=features.dtype)
            result = result + area * function(torch.cat([unfolded[:, row, column], offset]))
            total = total + area
    if not isinstance(result, Tensor):
        raise TypeError
    return result / total.to(features.dtype)


def nili_at(features: Tensor, uv: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Equation 1 for a batch, (B, D, P_y, P_x) and (B, Q, 2) -> (B, Q, D), one query at a time."""
    return torch.stack(
        [
            torch.stack([nili(image, float(u), float(v), function) for u, v in queries])
            for image, queries in zip(features, uv, strict=True)
        ]
    )
