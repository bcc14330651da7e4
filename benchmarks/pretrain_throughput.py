"""How fast pretraining runs: the loader alone, then whole steps against the device's matrix rate.

    python benchmarks/pretrain_throughput.py --preset base --batch-size 256 --device cuda
    python benchmarks/pretrain_throughput.py --preset tiny --batch-size 32 --steps 8

The store is made up (structured noise of the real sizes: 256 px tiles of three dates, JPEG photos with a
short side of 256). A step is the whole of it: loading, augmentation, three encoders, INCL and SECL over the
memory bank, backward pass and AdamW. Model-FLOPs utilisation counts forward operations times three over the
measured rate of matrix products in the same precision.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from gair_core.config import GAIRConfig
from gair_core.model.gair import GAIR
from gair_core.pretrain.config import PretrainConfig, SamplingConfig
from gair_core.pretrain.dataset import Batch, PretrainDataset
from gair_core.pretrain.sampler import BatchSampler
from gair_core.pretrain.store import Sample, Store, StoreWriter, Tile
from gair_core.pretrain.trainer import pretrain

DATES = 3
TILE = 256


def make_store(folder: Path, samples: int) -> Path:
    """Make a store of real sizes, four photos a tile; smooth fields compress as scenes do."""
    generator = np.random.default_rng(0)
    writer = StoreWriter(folder)
    with writer.unit("unit") as unit:
        for number in range(-(-samples // 4)):
            coarse = generator.integers(300, 3500, (DATES, 10, TILE // 16, TILE // 16)).astype(np.uint16)
            values = coarse.repeat(16, axis=2).repeat(16, axis=3) + generator.integers(
                0, 200, (DATES, 10, TILE, TILE), dtype=np.uint16
            )
            tile = Tile(
                name=f"t{number}",
                reflectance=values,
                dates=("2021-03-01", "2021-06-01", "2021-09-01"),
                crs="EPSG:32633",
                transform=(10.0, 0.0, 0.0, 0.0, -10.0, 0.0),
                pixel_metres=(10.0, 10.0),
            )
            unit.add_tile(tile)
            for view in range(4):
                small = generator.integers(0, 255, (32, 43, 3)).astype(np.uint8)
                photo = Image.fromarray(small).resize((341, 256), Image.Resampling.BICUBIC)
                row, col = generator.uniform(0, TILE, 2)
                lon, lat = generator.uniform([-180, -60], [180, 70])
                place = Sample(f"{number}-{view}", tile.name, row, col, lon, lat, "c", split="train")
                unit.add_sample(place, photo)
    writer.finish()
    return folder


def configuration(options: argparse.Namespace, store: Path, output: Path) -> PretrainConfig:
    return PretrainConfig.parse(
        {
            "model": GAIRConfig.preset(options.preset).model_dump(),
            "data": {"store": str(store), "workers": options.workers, "evaluation_split": None},
            "sampling": {"batch_size": options.batch_size},
            "output": str(output),
            "steps": options.warmup + options.steps,
            "precision": options.precision,
            "accelerator": options.device,
            "cached_chunk": options.chunk,
            "compile": options.compile,
            "log_every": 1,
            "save_every": 10**9,
            "basis_components": 0,
        }
    )


def loader_rate(config: PretrainConfig, batches: int) -> float:
    """Samples per second of the loader alone, its start left out."""
    store = Store(config.data.store)
    dataset = PretrainDataset(store, config.model, config.augmentation)
    sampler = BatchSampler(
        store.samples,
        store.samples.select(split="train"),
        SamplingConfig(batch_size=config.sampling.batch_size),
        seed=0,
        steps=batches + max(2 * config.data.workers, 1),
    )
    workers = config.data.workers
    loader: DataLoader[Batch] = DataLoader(
        dataset, batch_sampler=sampler, num_workers=workers, collate_fn=as_it_is
    )
    iterator = iter(loader)
    for _ in range(max(2 * workers, 1)):  # what the workers had ready does not count
        next(iterator)
    began = time.perf_counter()
    count = sum(len(batch) for batch in itertools.islice(iterator, batches))
    return count / (time.perf_counter() - began)


def as_it_is(batch: Batch) -> Batch:
    return batch


def matrix_rate(device: str, precision: str) -> float:
    """Operations per second of large matrix products, the best of a few."""
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    size = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        synchronize(device)
        began = time.perf_counter()
        left @ right
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def operations(config: GAIRConfig) -> float:
    """Operations of a sample's forward and backward pass: three times the forward ones."""
    model = GAIR(config)
    scenes, photos = config.remote_sensing, config.street_view
    if scenes is None or photos is None:
        raise SystemExit("the preset lacks an encoder")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = model.encode_remote_sensing(
            torch.zeros(1, len(scenes.bands), scenes.tile_size, scenes.tile_size)
        )
        model.interpolate(features, torch.full((1, 1, 2), 0.5))
        model.encode_street_view(torch.zeros(1, 3, photos.image_size, photos.image_size))
        model.encode_location(torch.zeros(1, 2))
    return 3.0 * counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="tiny", choices=("tiny", "small", "base"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=("bf16-mixed", "32-true"))
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--samples", type=int, default=0, help="samples of the store (default: 8 batches)")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunk", type=int, help="GradCache: samples encoded at once")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    options.precision = options.precision or ("bf16-mixed" if options.device == "cuda" else "32-true")
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", options.samples or 8 * options.batch_size)
        config = configuration(options, store, Path(folder) / "run")
        loading = loader_rate(config, max(4, options.steps // 2))
        marks: list[float] = []
        pretrain(config, show_progress=False, on_step=lambda *_: marks.append(time.perf_counter()))
        with (config.output / "training.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))[options.warmup :]
    seconds = np.diff(marks[options.warmup - 1 :])
    rate = options.batch_size / float(np.median(seconds))
    peak = matrix_rate(options.device, options.precision)
    needed = operations(config.model)
    chunked = "" if options.chunk is None else f", chunks of {options.chunk}"
    print(
        f"preset {options.preset}, batch {options.batch_size}{chunked}, {options.precision}, {options.device}"
    )
    print(f"training            {rate:10.1f} samples/s (median of {len(seconds)} steps)")
    print(f"loader alone        {loading:10.1f} samples/s, {loading / rate:.2f} times as many")
    print(
        f"waiting for data    {100 * np.mean([float(row['data_wait']) for row in rows]):10.2f} % of the time"
    )
    print(f"a sample            {needed / 1e9:10.1f} GFLOP")
    print(f"matrix products     {peak / 1e12:10.2f} TFLOP/s")
    print(f"utilisation         {100 * rate * needed / peak:10.1f} %")
    if options.device == "cuda":
        print(f"peak memory         {max(float(row['peak_gib']) for row in rows):10.1f} GiB")


if __name__ == "__main__":
    main()
