"""Photos, scenes and a table of two cities of the procedural world; their labels need what the parts know.

The cities lie in one region, so that photos of both look alike and only the place tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import uniform_filter

from gair_core.world import LAND_COVER, REGIONS, World
from gair_core.world.writers import write_scene

DAY = date(2023, 7, 10)
BUILT = ("road", "dense built-up", "sparse built-up")
CITIES = (2, 2 + len(REGIONS))
PHOTOS = 140
SIZE = 96
# Pixels of 10 m: what surrounds a place, about what a patch of the scene holds.
AROUND = 7


def write(folder: Path) -> Path:
    """Write ``places.csv``, the photos and a scene of each city; returns the table."""
    return write_table(folder, [write_city(folder, number) for number in CITIES])


def write_city(folder: Path, number: int, photo_size: int = 48) -> pd.DataFrame:
    """Write a city's scene and photos; returns what is known of each photo."""
    city = World(seed=1).city(number, size=SIZE)
    write_scene(city, folder / f"{city.name}.tif", DAY)
    views = city.photo_positions(PHOTOS)
    pictures = city.photos(views.positions, views.headings, DAY, size=photo_size)
    paths = [f"{city.name}_{one}.png" for one in range(PHOTOS)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(folder / path)
    built = np.isin(city.land_cover(DAY), [LAND_COVER.index(name) for name in BUILT]).astype(float)
    around = uniform_filter(built, AROUND, mode="nearest")
    local = city.to_local(views.positions)
    lower = pictures[:, photo_size // 2 :].astype(float)
    return pd.DataFrame(
        {
            "photo": paths,
            "lon": views.positions[:, 0],
            "lat": views.positions[:, 1],
            "city": city.name,
            "built": _at(around, local),
            "ahead": _ahead(built, local, np.radians(views.headings)),
            "green": (lower[..., 1] - lower[..., [0, 2]].mean(axis=-1)).mean(axis=(1, 2)),
        }
    )


def write_table(folder: Path, cities: Sequence[pd.DataFrame]) -> Path:
    """Write ``places.csv`` with the labels: what the view is like, its species in each city, and a price."""
    table = pd.concat(cities, ignore_index=True)
    median = table.groupby("city")["green"].transform("median")
    table["view"] = np.where(table["green"] > median, "leafy", "bare")
    table["species"] = table["city"] + " " + table["view"]
    level = (table["city"] == table["city"][0]).astype(float)
    # What the scene, the photo and the place know.
    parts = [table["built"] - table.groupby("city")["built"].transform("mean"), table["green"], level]
    table["price"] = sum((part - part.mean()) / part.std() for part in parts)
    table.to_csv(folder / "places.csv", index=False)
    return folder / "places.csv"


def _at(values: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Look pixels up at metres east and north of the centre, (N, 2)."""
    pixel = np.clip((local * [1, -1] / 10 + SIZE / 2).astype(int), 0, SIZE - 1)
    return values[pixel[:, 1], pixel[:, 0]]


def _ahead(built: np.ndarray, local: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """Return the built-up share of what a photo looks at, 15 to 75 m away."""
    seen = []
    for turn in np.radians([-30, -15, 0, 15, 30]):
        for metres in (15, 25, 35, 45, 60, 75):
            step = metres * np.column_stack([np.sin(heading + turn), np.cos(heading + turn)])
            seen.append(_at(built, local + step))
    return np.mean(seen, axis=0)
