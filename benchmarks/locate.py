"""What finding the best places of photos costs beyond encoding the scene.

    python benchmarks/locate.py [--photos 400] [--width 768] [--side 1372] [--rows 180]

Passes strips of a made lattice (``side`` columns, a whole Sentinel-2 tile by default) to the finder of
`gair locate` with a radius of 500 m and five places a photo, over ``rows`` rows, and extrapolates to all.
The matrix product of the photos with all patches, which no way can do without, is timed apart.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F

from gair_core.inference.lattice import LatticeStrip
from gair_core.inference.peaks import PeakFinder

PATCH = 8
STRIP = 18


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--width", type=int, default=768, help="dimensions of an embedding")
    parser.add_argument("--side", type=int, default=1372, help="columns of the lattice")
    parser.add_argument("--rows", type=int, default=180, help="rows that are measured")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    queries = F.normalize(torch.randn(arguments.photos, arguments.width), dim=-1)
    shape = arguments.rows, arguments.side
    finder = PeakFinder(
        queries, torch.zeros(arguments.width, 2), shape=shape, patch=PATCH, reach=(6, 6), keep=15
    )
    valid = np.ones((STRIP * PATCH, arguments.side * PATCH), np.bool_)
    coarse = torch.randn(1, arguments.width, 3, arguments.side // 8)
    findings, products = [], []
    for row in range(0, arguments.rows, STRIP):
        height = min(STRIP, arguments.rows - row)
        coarse += 0.3 * torch.randn_like(coarse)
        values = F.interpolate(coarse, size=(height, arguments.side), mode="bicubic")[0]
        start = time.perf_counter()
        finder.add(LatticeStrip(row, values, valid[: height * PATCH]))
        middle = time.perf_counter()
        torch.mm(queries, values.flatten(1))
        findings.append(middle - start)
        products.append(time.perf_counter() - middle)
    # The first rows cost more, once: there every peak is new.
    strips = -(-arguments.side // STRIP)
    first, later = sum(findings[:2]), findings[2:]
    finding = first + (strips - 2) * sum(later) / max(len(later), 1)
    product = strips * sum(products) / len(products)
    print(
        f"{arguments.photos} photos, {arguments.width} dimensions, {arguments.rows} of {arguments.side} rows"
    )
    print(
        f"  finding places, whole lattice   {finding:8.1f} s, {first:.1f} s of them for the first two strips"
    )
    print(f"  matrix product in it            {product:8.1f} s")


if __name__ == "__main__":
    main()
