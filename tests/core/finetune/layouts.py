"""Small copies of the scene data sets in the exact layouts in which they are published."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

SEED = 5


def write_tif(path: Path, values: np.ndarray, gsd: float = 10.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = values[None] if values.ndim == 2 else values
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(bands),
        height=bands.shape[1],
        width=bands.shape[2],
        dtype=bands.dtype,
        crs="EPSG:32610",
        transform=Affine(gsd, 0, 500_000, 0, -gsd, 4_000_000),
    ) as file:
        file.write(bands)
    return path


def make_burn_scars(folder: Path, *, training: int = 11, validation: int = 2, size: int = 48) -> Path:
    """Burnt ground is dark in B8A; the first image has a corner without data and one without labels."""
    for name, count in (("training", training), ("validation", validation)):
        for number in range(count):
            generator = np.random.default_rng([SEED, number, len(name)])
            blocks = generator.random((size // 8, size // 8)) < 0.4
            burnt = np.kron(blocks, np.ones((8, 8), bool))
            values = generator.normal(0.1, 0.01, (6, size, size)).astype(np.float32)
            values[3] = np.where(burnt, 0.08, 0.3) + generator.normal(0, 0.01, burnt.shape)
            mask = burnt.astype(np.int16)
            if number == 0:
                values[:, :8, :8] = 9999
                mask[-8:, -8:] = -1
            stem = f"subsetted_512x512_HLS.S30.T10SD{number:02d}.2020{number:03d}.v1.4"
            write_tif(folder / name / f"{stem}_merged.tif", values, 30.0)
            write_tif(folder / name / f"{stem}.mask.tif", mask, 30.0)
    return folder


def make_small_farms(folder: Path, *, size: tuple[int, int] = (40, 56)) -> Path:
    """Fields are bright in B8; images have uneven sizes; one pixel of each image has no data."""
    for split, count in (("train", 4), ("validate", 2), ("test", 2)):
        for number in range(count):
            generator = np.random.default_rng([SEED, number, count, len(split)])
            field = np.kron(generator.random((size[0] // 8, size[1] // 8)) < 0.5, np.ones((8, 8), bool))
            values = generator.normal(1000, 100, (4, *size)).astype(np.float32)
            values[3] = np.where(field, 3600, 1300)
            values[:, 0, 0] = np.nan
            parts = folder / "sentinel-2-asia" / split
            write_tif(parts / "images" / f"image_{number}.tif", values)
            write_tif(parts / "masks" / f"mask_{number}.tif", np.where(field, 255, 0).astype(np.uint8))
    return folder


def make_south_sudan(folder: Path, *, images: int = 6, dates: tuple[int, ...] = (7, 4, 9)) -> Path:
    """Series of different length; label 5 and 0 are to be ignored; maize is green late in the year."""
    base = folder / "southsudan"
    for part in ("npy", "truth", "s2"):
        (base / part).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(images):
        generator = np.random.default_rng([SEED, number])
        count = dates[number % len(dates)]
        label = np.kron(generator.integers(0, 6, (8, 8)), np.ones((8, 8), np.int64))
        series = generator.normal(1500, 50, (10, 64, 64, count))
        series[6, ..., -1] = np.where(label == 2, 4500, 1500)
        days = [f"2017-{1 + 11 * step // count:02d}-{1 + step:02d}" for step in range(count)]
        if number == 1:  # a season that was never observed
            series[..., 0] = 0
        name = f"southsudan_{number:06d}"
        np.savez_compressed(base / "npy" / f"{name}.npz", s2=series, s1=series[:3, :2, :2])
        np.savez_compressed(base / "truth" / f"{name}.npz", truth=label)
        # The archive names dates in no order that one could rely on.
        order = generator.permutation(count)
        np.savez_compressed(base / "npy" / f"{name}.npz", s2=series[..., order], s1=series[:3, :2, :2])
        listed = [days[step] for step in order]
        (base / "s2" / f"s2_{name}.json").write_text(json.dumps({"dates": listed}), encoding="utf-8")
        rows.append([number, (0, 0, 0, 0, 1, 2)[number % 6]])
    with (base / "list_eval_partition.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "partition"], *rows])
    return folder
