"""Small inputs under the very names that the guide uses, all from one city of the procedural world."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import torch

import gair_core
from gair_core.head_checkpoint import save_head
from gair_core.heads.base import BaseHead, HeadClass, HeadMetadata
from gair_core.heads.linear import LinearChangeHead
from gair_core.heads.point import input_length
from gair_core.heads.probes import LinearProbe
from gair_core.heads.temporal import SeriesHead, SeriesLTAEHead
from gair_core.sentinel2.bands import BANDS
from gair_core.world import World
from gair_core.world.city import City
from gair_core.world.writers import write_photos, write_points, write_polygons, write_scene
from tests.core.evaluation.finished import finetuned, records
from tests.core.finetune.layouts import make_burn_scars
from tests.docs.pages import ROOT

SHARED = ROOT.parent / "shared"
SIZE = 192
DAY = date(2023, 7, 4)
CLASSES = tuple(
    HeadClass(value=number, name=name, colour=(80 * number, 120, 60))
    for number, name in enumerate(("maize", "wheat", "other"), 1)
)
# The order in which series.md says that a stack holds them.
STACKED = ("B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")


@cache
def city() -> City:
    return World(2024).city(19, SIZE)


def scene_of(day: date) -> Callable[[Path], object]:
    return lambda path: write_scene(city(), path, day)


def photos(folder: Path) -> None:
    write_photos(city(), folder, city().photo_positions(8), DAY, size=64)


def points(path: Path) -> Path:
    """Points with the columns of the photos' table that the guide learns from, beside the photos."""
    views = city().photo_positions(40)
    write_points(path, write_photos(city(), path.parent / "photos", views, DAY, size=64), views)
    table = gpd.read_file(path)
    table["roof"] = ["flat", "gabled"] * 20
    table["species"] = ["oak", "lime"] * 20
    table["noise"] = np.linspace(40, 70, 40)
    table["city"] = city().name
    table.to_file(path)
    return path


def photo_table(path: Path) -> None:
    """The points as CSV, with longitude and latitude."""
    layer = path.with_suffix(".gpkg")
    if not layer.exists():
        points(layer)
    table = gpd.read_file(layer).to_crs(4326)
    table["lon"], table["lat"] = table.geometry.x, table.geometry.y
    table.drop(columns="geometry").to_csv(path, index=False)


def polygons(path: Path) -> None:
    write_polygons(city(), path, DAY, per_class=4)


def model(path: Path) -> None:
    """The built-in model under another name."""
    gair_core.save(gair_core.load("demo"), path)


def head(kind: type[BaseHead], path: Path, **settings: object) -> None:
    """A head that nobody trained, on the model beside it."""
    encoder = path.with_name("gair.safetensors")
    if not encoder.exists():
        model(encoder)
    loaded = gair_core.load(encoder)
    is_series = issubclass(kind, SeriesHead)
    size = loaded.require_remote_sensing().config.width if is_series else loaded.config.embed_dim
    config = kind.config_class.model_validate({"embed_dim": size, **settings})
    torch.manual_seed(0)
    save_head(kind(config, HeadMetadata(title="made for a test", classes=CLASSES)), path, loaded)


def probe(path: Path) -> None:
    """A head for photos."""
    width = input_length(gair_core.load("demo"), "photo")
    head(LinearProbe, path, inputs={"photo": width})


def finished_run(folder: Path) -> None:
    """A finished run on species with its test records."""
    finetuned(folder, "gair.safetensors", {"kind": "geo_prior"}, {"top_1": 0.6})
    generator = np.random.default_rng(0)
    rows = [
        (lon, 50.0, number % 3, number % 5 // 2) for number, lon in enumerate(generator.uniform(8, 9, 60))
    ]
    records(folder, ("lon", "lat", "target", "prediction"), rows)


def series(path: Path) -> None:
    """Seven dates in one file, one after another."""
    scene = path.with_name("scene.tif")
    if not scene.exists():
        scene_of(DAY)(scene)
    with rasterio.open(scene) as source:
        values = source.read([BANDS.index(name) + 1 for name in STACKED])
        profile = source.profile | {"count": 70}
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.concatenate([values] * 7))


def scenes(folder: Path) -> None:
    folder.mkdir()
    scene_of(DAY)(folder / "first.tif")


def cities(folder: Path) -> None:
    """Scenes of four cities far from each other, and a table of their photos."""
    folder.mkdir()
    tables = []
    for number in range(4):
        one = World(2024).city(number, 96)
        write_scene(one, folder / f"{number}.tif", DAY)
        views = one.photo_positions(6)
        paths = write_photos(one, folder / "photos", views, DAY, size=64)
        names = [path.relative_to(folder).as_posix() for path in paths]
        lon, lat = views.positions.T
        tables.append(pd.DataFrame({"photo": names, "lon": lon, "lat": lat, "city": one.name}))
    pd.concat(tables).to_csv(folder / "photos.csv", index=False)


def photo(path: Path) -> None:
    write_photos(city(), path.parent, city().photo_positions(1), DAY, size=64)[0].rename(path)


MAKERS: dict[str, Callable[[Path], object]] = {
    "scene.tif": scene_of(DAY),
    "before.tif": scene_of(DAY),
    "after.tif": scene_of(date(2026, 7, 2)),
    "april.tif": scene_of(date(2023, 4, 20)),
    "june.tif": scene_of(date(2023, 6, 10)),
    "august.tif": scene_of(date(2023, 8, 15)),
    "october.tif": scene_of(date(2023, 10, 12)),
    "berlin.tif": scene_of(DAY),
    "munich.tif": scene_of(date(2023, 8, 15)),
    "hamburg.tif": scene_of(DAY),
    "series.tif": series,
    "photos": photos,
    "points.gpkg": points,
    "photos.gpkg": points,
    "photos.csv": photo_table,
    "new_photos.csv": photo_table,
    "labels.gpkg": polygons,
    "gair.safetensors": model,
    "runs/finetune/inat2018": finished_run,
    "data/gair/models/gair.safetensors": model,
    "probe.safetensors": probe,
    "change.safetensors": lambda path: head(LinearChangeHead, path),
    "crops.safetensors": lambda path: head(SeriesLTAEHead, path, decoder="linear"),
    "photo.jpg": photo,
    "scenes": scenes,
    "cities": cities,
    "data/hls_burn_scars": make_burn_scars,
}


class Library:
    """Makes every input once and lays copies of it where a page wants them.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lay(self, name: str, into: Path) -> None:
        """Put an input into a page's folder, with what stands beside it."""
        source = self._folder / name.replace("/", "_")
        if not source.exists():
            source.mkdir(parents=True)
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            MAKERS[name](target)
        shutil.copytree(source, into, dirs_exist_ok=True)
