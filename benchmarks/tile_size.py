"""Which tile size the engine should use: time against difference from the largest, at equal margins.

    python benchmarks/tile_size.py [--preset base] [--size 864] [--rounds 3]

A scene is encoded with tiles of 96, 144, 192 and 288 pixels, each with the engine's margin on
every side, interleaved. Larger tiles encode fewer pixels twice but their attention costs more; the time of a
whole Sentinel-2 tile (10,980 x 10,980) follows from the time of one tile of the engine. The difference
is that of the blended lattices, relative to the norm of the largest tile's lattice; weights are random, so it
bounds how far context from beyond a small tile reaches, no more.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from timing import interleaved
from torch import Tensor

from gair_core.config import GAIRConfig
from gair_core.inference.engine import MARGIN, Engine
from gair_core.inference.tiling import Axis
from gair_core.model import GAIR
from gair_core.sentinel2.bands import BANDS
from gair_core.sentinel2.scene import Scene

TILES = (96, 144, 192, 288)
# Side of a Sentinel-2 tile, pixels.
WHOLE = 10980


def write_scene(path: Path, size: int) -> None:
    """Write a ten-band scene with structure at several scales."""
    rng = np.random.default_rng(0)
    noise = np.zeros((len(BANDS), size, size))
    for scale in (4, 16, 64):
        coarse = rng.normal(size=(len(BANDS), size // scale + 1, size // scale + 1))
        noise += np.kron(coarse, np.ones((scale, scale)))[:, :size, :size]
    profile = {"driver": "GTiff", "width": size, "height": size, "count": len(BANDS), "dtype": "uint16"}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 10, 10)}
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(np.clip(1800 + 500 * noise, 1, 8000).astype(np.uint16))
        dataset.descriptions = BANDS


def lattice(engine: Engine, scene: Scene) -> Tensor:
    strips = engine.strips(scene, engine.plan(scene), engine.model.localizer.lattice)
    return torch.cat([strip.values for strip in strips], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=("base", "small", "tiny"), default="base")
    parser.add_argument("--size", type=int, default=864)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = GAIR(GAIRConfig.preset(arguments.preset)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.tif"
        write_scene(path, arguments.size)
        with Scene.open(path) as scene:
            engines = {tile: Engine(model, arguments.device, tile_size=tile) for tile in TILES}
            results: dict[int, Tensor] = {}

            def run(tile: int) -> None:
                results[tile] = lattice(engines[tile], scene)

            candidates = {str(tile): (lambda tile=tile: run(tile)) for tile in TILES}
            seconds = interleaved(candidates, arguments.rounds)
            largest = results[TILES[-1]]
            pixels = arguments.size**2
            print(f"margin of {MARGIN} pixels")
            print("tile   tiles  encoded   seconds  whole tile: encoded  hours  difference")
            for tile in TILES:
                engine, time = engines[tile], seconds[str(tile)]
                count = engine.plan(scene).count
                axis = Axis.plan(-(-WHOLE // engine.patch), engine.tile, engine.margin)
                whole = len(axis.starts) ** 2
                difference = float((results[tile] - largest).norm() / largest.norm())
                hours = time / count * whole / 3600
                print(
                    f"{tile:4d} {count:7d} {count * tile**2 / pixels:7.2f}x {time:9.2f} "
                    f"{whole * tile**2 / WHOLE**2:19.2f}x {hours:6.2f} {difference:11.4f}"
                )


if __name__ == "__main__":
    main()
