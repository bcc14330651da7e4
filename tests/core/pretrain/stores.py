"""Small stores with known content for the tests of pretraining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gair_core.pretrain.store import Sample, StoreWriter, Tile

CITIES = ("Aa", "Bb", "Cc", "Dd", "Ee", "Ff")


def make_tile(name: str, seed: int, *, dates: int = 2, size: int = 40) -> Tile:
    """A tile of blocks with different reflectance, so that its content says where one is."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(200, 4000, (dates, 10, size // 8, size // 8))
    values = np.kron(coarse, np.ones((1, 1, 8, 8), dtype=np.int64))
    values = values + generator.integers(0, 100, values.shape)
    return Tile(
        name=name,
        reflectance=values.astype(np.uint16),
        dates=tuple(f"2021-{1 + 5 * index:02d}-15" for index in range(dates)),
        crs="EPSG:32633",
        transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0),
        pixel_metres=(10.0, 10.0),
        land_cover=(coarse[:, 0].repeat(8, axis=1).repeat(8, axis=2) > 2000).astype(np.uint8),
    )


def make_photo(tile: Tile, row: float, col: float) -> Image.Image:
    """A photo whose upper half has the colour of the ground at its place, in June."""
    dn = tile.reflectance[-1, [2, 1, 0], int(row), int(col)] / 4100 * 255
    pixels = np.broadcast_to(dn.astype(np.uint8), (24, 32, 3)).copy()
    pixels[12:] //= 2
    return Image.fromarray(pixels)


def make_store(
    folder: Path, *, per_city: int = 6, cities: tuple[str, ...] = CITIES, without_photo: int = 0
) -> Path:
    """A store with one tile a city; the last two cities are validation and test."""
    writer = StoreWriter(folder, classes=("dark", "bright"), provenance={"source": "tests"})
    for number, city in enumerate(cities):
        split = {len(cities) - 2: "validation", len(cities) - 1: "test"}.get(number, "train")
        tile = make_tile(f"tile_{city}", number)
        generator = np.random.default_rng(100 + number)
        with writer.unit(city) as unit:
            unit.add_tile(tile)
            for index in range(per_city):
                row, col = generator.uniform(0, 40, 2)
                sample = Sample(
                    id=f"{city}{index}",
                    tile=tile.name,
                    row=float(row),
                    col=float(col),
                    lon=10.0 * number + float(col) * 1e-4,
                    lat=45.0 - float(row) * 1e-4,
                    city=city,
                    taken="2021-06-20",
                    settlement="urban" if index % 3 else "rural",
                    split=split,
                )
                photo = None if index < without_photo else make_photo(tile, row, col)
                unit.add_sample(sample, photo)
    writer.finish()
    return folder
