"""Peak memory of `gair embed` on a tall scene against a quarter of it: it should not grow with the height.

    python benchmarks/memory.py [--width 10980] [--rows 10980 2745]

Each scene is written and embedded in a process of its own, tiny preset (the built-in model), CPU; the figure
is the process's peak resident memory. Bars: at most 1.15 times, and under 3 GB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from gair_core.sentinel2.bands import BANDS


def write_scene(path: Path, rows: int, width: int) -> None:
    """Write a ten-band scene in strips."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": width, "height": rows, "count": len(BANDS), "dtype": "uint16"}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 10, 10)}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "lzw", "bigtiff": "if_safer"}
    coarse = rng.integers(200, 4000, (len(BANDS), 512 // 16, width // 16 + 1), np.uint16)
    strip = np.kron(coarse, np.ones((16, 16), np.uint16))[:, :, :width]
    with rasterio.open(path, "w", **profile) as dataset:
        for row in range(0, rows, 512):
            height = min(512, rows - row)
            dataset.write(np.roll(strip, row // 7, axis=2)[:, :height], window=Window(0, row, width, height))
        dataset.descriptions = BANDS


def embed_here(scene: str, output: str) -> None:
    from gair_core.inference.embed import EmbedRequest, embed

    start = time.perf_counter()
    embed(EmbedRequest(scene=scene, output=output, device="cpu"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{peak} {time.perf_counter() - start}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=10980)
    parser.add_argument("--rows", type=int, nargs=2, default=(10980, 2745))
    parser.add_argument("--embed", nargs=2, metavar=("SCENE", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.embed:
        embed_here(*arguments.embed)
        return
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in arguments.rows:
            scene, output = Path(folder) / "scene.tif", Path(folder) / "out.tif"
            write_scene(scene, rows, arguments.width)
            command = [sys.executable, __file__, "--embed", str(scene), str(output)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            peaks.append(int(answer[0]))
            print(f"{rows:6d} rows: {peaks[-1] / 1e9:6.2f} GB at most, {float(answer[1]):7.1f} s", flush=True)
    print(f"ratio {peaks[0] / peaks[1]:.3f} (bar: 1.15), largest {max(peaks) / 1e9:.2f} GB (bar: 3)")


if __name__ == "__main__":
    main()
