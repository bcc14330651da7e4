"""A city of the procedural world with geotagged photos, for demonstrations without any data at hand.

The world is drawn from another seed than the one that the model `demo` learnt from, so the model has seen
neither this city nor its photos. It is a good case for its photos:
benchmarks/wrong_tags.py measures other cities.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import rasterio

from gair_core.finetune.world_land_cover import CLASSES, MERGED
from gair_core.inference.polygons import categories_style
from gair_core.inference.styles import palette_style
from gair_core.world import LAND_COVER, World
from gair_core.world.demo import DemoFiles, write_demo
from gair_core.world.surface import COLOURS, COVER

SEED: Final = 2024
CITY: Final = 19
SIZE: Final = 512
PHOTOS: Final = 40
WRONG: Final = 3

# What QGIS imports from the folder.
_JPEG: Final = (".jpg", ".jpeg")
_BUILT: Final = ("road", "dense built-up", "sparse built-up")
CHANGES: Final = {
    "built up": (_BUILT, (226, 60, 50)),
    "felled or cleared": (("bare soil",), (245, 170, 40)),
    "grown over": (("forest", "grass", "crops"), (60, 170, 80)),
    "other": (("water", "snow and ice"), (150, 80, 180)),
}
"""Kinds of change, by what covers the land afterwards, and their colours; value 1 is the first kind."""


def write(folder: Path) -> DemoFiles:
    """Write the city with photos, polygons and the truth.

    Args:
        folder: Where everything goes: ``scene.tif``, ``later.tif``, ``photos/``, ``polygons.gpkg``,
            ``land_cover.tif``, ``later_land_cover.tif``, ``true_classes.tif`` (in the classes of the model
            `demo`), ``true_change.tif``, ``truth.json`` and styles.

    Raises:
        SystemExit: The folder of the photos holds other ones, which would be compared as well.
    """
    _check_photos(folder / "photos")
    files = write_demo(folder, seed=SEED, city=CITY, photos=PHOTOS, wrong=WRONG, size=SIZE)
    classes = [(number, name, COLOURS[number - 1]) for number, name in enumerate(LAND_COVER, 1)]
    for raster in (files.land_cover, files.later_land_cover):
        raster.with_suffix(".qml").write_text(palette_style(classes), encoding="utf-8")
    # gair:trainhead takes names and colours from it.
    files.polygons.with_suffix(".qml").write_text(categories_style(classes), encoding="utf-8")
    _write_merged(files.land_cover, folder / "true_classes.tif")
    _write_changes(files, folder / "true_change.tif")
    return files


def _check_photos(folder: Path) -> None:
    """Raise where somebody else's photos lie; those of an earlier run are written over."""
    prefix = World(SEED).city(CITY, SIZE).name.replace(" ", "_")
    ours = {f"{prefix}_{number:03d}.jpg" for number in range(PHOTOS)}
    strange = [
        path.name for path in folder.glob("*") if path.suffix.lower() in _JPEG and path.name not in ours
    ]
    if strange:
        raise SystemExit(
            f"{folder} is for photos of {prefix} and holds {', '.join(sorted(strange))}. Move them."
        )


def _write_merged(land_cover: Path, path: Path) -> None:
    """Write the true land cover in the classes of the model `demo`; 0 where it has none."""
    value_of = {one.name: one.value for one in CLASSES}
    values = np.zeros(len(LAND_COVER) + 1, dtype=np.uint8)
    for number, name in enumerate(LAND_COVER, 1):
        values[number] = value_of[MERGED[name]] if name in MERGED else 0
    with rasterio.open(land_cover) as source:
        merged, profile = values[source.read(1)], source.profile
    with rasterio.open(path, "w", **profile) as target:
        target.write(merged, 1)
    style = palette_style((one.value, one.name, one.colour) for one in CLASSES)
    path.with_suffix(".qml").write_text(style, encoding="utf-8")


def _write_changes(files: DemoFiles, path: Path) -> None:
    """Write where the land cover of the two dates differs, by kind of change; 0 where it does not."""
    with rasterio.open(files.land_cover) as before, rasterio.open(files.later_land_cover) as after:
        then, now, profile = before.read(1), after.read(1), before.profile
    kinds = np.zeros_like(now)
    for number, (names, _) in enumerate(CHANGES.values(), 1):
        kinds[(then != now) & np.isin(now, [COVER[name] + 1 for name in names])] = number
    with rasterio.open(path, "w", **profile) as target:
        target.write(kinds, 1)
    style = palette_style(
        (number, name, colour) for number, (name, (_, colour)) in enumerate(CHANGES.items(), 1)
    )
    path.with_suffix(".qml").write_text(style, encoding="utf-8")
