"""What the plugin costs beside the work itself; runs in QGIS's Python.

    .venv-qgis/bin/python benchmarks/plugin.py [--rounds 5]

Prints the plugin's import time and what it imports; what a warm run through Processing takes beyond the same
request sent straight to a worker (bar: 0.5 s); how often ten scenes start a worker and load the model; and
the fixed cost of one `qgis_process` run against a further run in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGE = ROOT / "build" / "stage"
GAIR_PYTHON = ROOT / ".venv" / "bin" / "python"
os.environ.update(QT_QPA_PLATFORM="offscreen", GAIR_PYTHON=str(GAIR_PYTHON))

# Imports that would slow QGIS's start down or clash with its own libraries.
HEAVY = ("asyncio", "gair_core", "numpy", "osgeo", "processing", "rasterio", "subprocess", "torch")
SCENES = 10
SIZE = 96
BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")

IMPORT = """
import sys, time
import qgis.core, qgis.gui, qgis.PyQt.QtWidgets
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
started = time.perf_counter()
import gair
plugin = gair.classFactory(None)
imported = time.perf_counter()
import gair.algorithms
registered = time.perf_counter()
new = {name.partition('.')[0] for name in set(sys.modules) - before}
print((imported - started) * 1000, (registered - started) * 1000, *sorted(new))
"""


def print_import_time(rounds: int) -> None:
    """Print how long a QGIS whose Python is up waits for the plugin, and what that imports."""
    plugin, algorithms, modules = [], [], set()
    for _ in range(rounds):
        run = subprocess.run(
            [sys.executable, "-c", IMPORT, STAGE], capture_output=True, text=True, check=True
        )
        first, second, *names = run.stdout.split()
        plugin.append(float(first))
        algorithms.append(float(second))
        modules |= set(names)
    print(f"import of the plugin: {statistics.median(plugin):.0f} ms (bar: 50 ms)")
    print(f"with all algorithms, as Processing registers them: {statistics.median(algorithms):.0f} ms")
    print(f"heavy modules among them: {', '.join(sorted(modules & set(HEAVY))) or 'none'}")


def make_scene(path: Path, number: int) -> None:
    """Write a scene of one tile."""
    import numpy as np
    from osgeo import gdal, osr

    dataset = gdal.GetDriverByName("GTiff").Create(str(path), SIZE, SIZE, len(BANDS), gdal.GDT_UInt16)
    dataset.SetGeoTransform((500_000, 10, 0, 5_300_000, 0, -10))
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(32632)
    dataset.SetProjection(reference.ExportToWkt())
    pixels = np.random.default_rng(number).integers(200, 4000, (len(BANDS), SIZE, SIZE), dtype=np.uint16)
    for band, name in enumerate(BANDS, start=1):
        dataset.GetRasterBand(band).SetDescription(name)
        dataset.GetRasterBand(band).WriteArray(pixels[band - 1])
    dataset.FlushCache()


class BareWorker:
    """A worker without plugin or QGIS around it: the alternative that the plugin is compared with."""

    def __init__(self) -> None:
        command = [GAIR_PYTHON, "-I", "-X", "utf8", "-u", "-m", "gair_core.worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._answer()

    def run(self, request: dict[str, object]) -> None:
        """Send a request of embed and wait for its result."""
        self._process.stdin.write(json.dumps({"id": 1, "task": "embed", "request": request}) + "\n")
        self._process.stdin.flush()
        while "result" not in (answer := self._answer()):
            if "error" in answer:
                raise RuntimeError(answer["error"])

    def close(self) -> None:
        """End the worker."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, object]:
        return json.loads(self._process.stdout.readline())


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def print_overhead(folder: Path, rounds: int) -> float:
    """Print what ten scenes start and what a warm run costs beyond its task; return a warm run's seconds."""
    import processing
    from gair.worker_client import close_shared_client, shared_client

    scenes = [folder / f"scene{number}.tif" for number in range(SCENES)]
    for number, scene in enumerate(scenes):
        make_scene(scene, number)
    requests: list[dict[str, object]] = []
    workers: list[int | None] = []
    _record_requests(shared_client(), requests)

    def run(scene: Path) -> None:
        processing.run("gair:embed", {"INPUT": str(scene), "OUTPUT": str(folder / "out.tif")})

    first, *rest = [_timed(run, scene, workers) for scene in scenes]
    print(f"{SCENES} scenes in one process: {len(set(workers))} worker(s) started")
    print(f"first {first:.2f} s (worker and model start), each further one {statistics.median(rest):.2f} s")
    bare = BareWorker()
    request = {key: value for key, value in requests[-1].items() if key != "token"}
    bare.run(request)
    pairs = [(seconds(lambda: run(scenes[-1])), seconds(lambda: bare.run(request))) for _ in range(rounds)]
    bare.close()
    close_shared_client()
    through, straight = (statistics.median(column) for column in zip(*pairs))
    print(f"warm run through Processing {through:.3f} s, its task alone {straight:.3f} s")
    print(f"the plugin adds {through - straight:.3f} s (bar: 0.5 s)")
    return through


def _timed(run: Callable[[Path], None], scene: Path, workers: list[int | None]) -> float:
    from gair.worker_client import shared_client

    took = seconds(lambda: run(scene))
    workers.append(shared_client().process_id)
    return took


def _record_requests(client: object, requests: list[dict[str, object]]) -> None:
    """Keep the requests that the plugin makes, to send the very same ones to the bare worker."""
    plain = client.run

    def run(task: str, request: dict[str, object], **callbacks: object) -> dict[str, object]:
        requests.append(dict(request))
        return plain(task, request, **callbacks)

    client.run = run


def print_process_cost(folder: Path, rounds: int, warm: float) -> None:
    """Print what one `qgis_process` run takes whatever its task, against one more run in one process."""
    program = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
    environment = {
        **os.environ,
        "QGIS_CUSTOM_CONFIG_PATH": str(folder / "profile"),
        "QGIS_PLUGINPATH": str(STAGE),
    }

    def call(*arguments: str) -> None:
        subprocess.run([program, *arguments], env=environment, capture_output=True, check=True)

    call("plugins", "enable", "gair")
    values = (f"INPUT={folder / 'scene0.tif'}", f"OUTPUT={folder / 'process.tif'}")
    polygon = ("INPUT=0,1,0,1 [EPSG:4326]", f"OUTPUT={folder / 'extent.gpkg'}")
    ours = statistics.median(seconds(lambda: call("run", "gair:embed", "--", *values)) for _ in range(rounds))
    native = statistics.median(
        seconds(lambda: call("run", "native:extenttolayer", "--", *polygon)) for _ in range(rounds)
    )
    print(f"one qgis_process run of gair:embed {ours:.1f} s, of QGIS's smallest algorithm {native:.1f} s")
    print(f"fixed cost {ours - warm:.1f} s: {ours / warm:.0f} times a further run in one process")


def main() -> None:
    """Run all benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of which the median is printed")
    rounds = parser.parse_args().rounds
    subprocess.run([sys.executable, ROOT / "tools" / "stage.py"], check=True, capture_output=True)
    print_import_time(rounds)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QGIS_CUSTOM_CONFIG_PATH"] = folder
        application = start_qgis()
        warm = print_overhead(Path(folder), rounds)
        print_process_cost(Path(folder), max(1, rounds // 2), warm)
        application.exitQgis()


def start_qgis() -> object:
    """Start a QGIS without a window, with Processing and the plugin."""
    from qgis.core import QgsApplication

    application = QgsApplication([], False)
    application.initQgis()
    sys.path[:0] = [str(STAGE), str(Path(QgsApplication.pkgDataPath()) / "python" / "plugins")]
    from gair.plugin import GairPlugin
    from processing.core.Processing import Processing

    Processing.initialize()
    application.gair = GairPlugin(None)
    application.gair.initProcessing()
    return application


if __name__ == "__main__":
    main()
