"""What the distances of `gair change` cost: 18 products a patch against two embeddings of every pixel.

    python benchmarks/change.py [--width 768] [--size 512] [--rounds 3]

Both ways start from the same two lattices, in strips as the engine yields them, rim included. Encoding and
writing are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from affine import Affine
from timing import interleaved
from torch import Tensor

from gair_core.geo.grid import Grid
from gair_core.inference.distance import DistanceSampler, date_products
from gair_core.inference.lattice import LatticeStrip, PixelSampler

PATCH = 8
STRIP = 18


def strips(lattice: Tensor) -> Iterator[LatticeStrip]:
    for row in range(0, lattice.shape[1], STRIP):
        values = lattice[:, row : row + STRIP]
        yield LatticeStrip(row, values, np.ones([PATCH * size for size in values.shape[1:]], np.bool_))


def by_products(dates: list[Tensor], rim: Tensor, grid: Grid) -> Tensor:
    sampler = DistanceSampler(grid, grid, PATCH, grid.full_window, rim_weight=rim)
    pairs = zip(*(strips(date) for date in dates), strict=True)
    return torch.cat([strip.values[0] for strip in sampler.sample(date_products(pairs, rim, PATCH))])


def by_embeddings(dates: list[Tensor], rim: Tensor, grid: Grid) -> Tensor:
    pixels = [PixelSampler(grid, grid, PATCH, grid.full_window, rim).sample(strips(date)) for date in dates]
    parts = []
    for one, other in zip(*pixels, strict=True):
        lengths = [torch.linalg.vector_norm(date.values, dim=0) for date in (one, other)]
        parts.append(1 - (one.values * other.values).sum(0) / (lengths[0] * lengths[1]))
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=768, help="dimensions of an embedding")
    parser.add_argument("--size", type=int, default=512, help="side of the scene, pixels")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    side = -(-arguments.size // PATCH)
    grid = Grid(
        "EPSG:32633", Affine(10, 0, 500000, 0, -10, 5000000), width=arguments.size, height=arguments.size
    )
    first = torch.randn(arguments.width, side, side)
    dates = [first, first + 0.5 * torch.randn_like(first)]
    rim = torch.randn(arguments.width, 2)
    seconds = interleaved(
        {
            "products": lambda: by_products(dates, rim, grid),
            "embeddings": lambda: by_embeddings(dates, rim, grid),
        },
        arguments.rounds,
    )
    difference = float((by_products(dates, rim, grid) - by_embeddings(dates, rim, grid)).abs().max())
    print(f"{arguments.width} dimensions, {arguments.size} x {arguments.size} pixels; seconds:")
    print(f"  by products      {seconds['products']:8.3f}")
    ratio = seconds["embeddings"] / seconds["products"]
    print(f"  by embeddings    {seconds['embeddings']:8.3f}   {ratio:.1f} times as long")
    print(f"  largest difference {difference:.1e}   (bar: 1e-5)")


if __name__ == "__main__":
    main()
