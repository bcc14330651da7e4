"""Cosine distances of the embeddings of two dates, without the embeddings.

Both dates' lattices A and B lie on one grid, so both embeddings of a pixel have the same bilinear weights w_k
and the same rim term W_c d. Their product is the quadratic form of `gair_core.inference.cosine` between two
lattices instead of one with itself:

    z_A.z_B = w' C w + d' W_c' sum_k w_k (A_k + B_k) + d' W_c' W_c d        C_kl = A_k.B_l

Equal weights leave only the symmetric part of C. So each of z_A.z_A, z_B.z_B and z_A.z_B takes the six
channels of `cosine.Channel`, 18 numbers a patch in place of 2 D numbers a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gair_core.geo.grid import Grid, Window
from gair_core.inference.cosine import Channel, ProductSampler, neighbour_products, products_by_row
from gair_core.inference.lattice import LatticeStrip, PixelStrip


def date_products(
    strips: Iterator[tuple[LatticeStrip, LatticeStrip]], rim_weight: Tensor, patch: int
) -> Iterator[LatticeStrip]:
    """Turn strips of two dates' lattices into strips of their inner products.

    Args:
        strips: Consecutive strips of both lattices, values (D, rows, columns), with the same rows.
        rim_weight: W_c, shape (D, 2).
        patch: Pixels of a patch.

    Yields:
        The same rows with values (18, rows, columns), float64: `Channel` of the first date, of the second,
        and of both with each other. Valid where both dates are.
    """
    rim = rim_weight.detach().cpu().double().mT

    def products(row: Tensor, below: Tensor) -> Tensor:
        (one, other), (one_below, other_below) = row, below
        mixed = neighbour_products(one, other, other_below) + neighbour_products(other, one, one_below)
        rims = rim @ one, rim @ other
        return torch.cat(
            [
                neighbour_products(one, one, one_below),
                rims[0],
                neighbour_products(other, other, other_below),
                rims[1],
                mixed / 2,
                (rims[0] + rims[1]) / 2,
            ]
        )

    return products_by_row(strips, products, patch)


class DistanceSampler(ProductSampler):
    """Cosine distances of two dates at each pixel, in [0, 2], from strips of `date_products`.

    Where an embedding has no direction its distance is 1.

    Args:
        output: The whole scene's output grid; same origin and directions as ``model``.
        model: The grid of both dates at the model's ground sampling distance.
        patch: Pixels of a patch.
        window: Pixels of the output that are wanted.
        rim_weight: W_c, shape (D, 2).
    """

    def __init__(self, output: Grid, model: Grid, patch: int, window: Window, *, rim_weight: Tensor) -> None:
        no_queries = torch.zeros(0, len(rim_weight))
        super().__init__(output, model, patch, window, rim_weight=rim_weight, queries=no_queries)

    def _render(self, values: Tensor, valid: npt.NDArray[np.bool_], top: int, rows: slice) -> PixelStrip:
        one, other, mixed = values.split(len(Channel))
        lengths = [self._squared_length(date, top, rows).sqrt_() for date in (one, other)]
        product, _ = self._products(mixed, top, rows)
        distance = (1 - product.div_(lengths[0].mul_(lengths[1]))).clamp_(0, 2).float()
        return PixelStrip(rows.start, distance[None], self._under(valid, top, rows))
