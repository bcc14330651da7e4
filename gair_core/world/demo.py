"""A city to try everything on: scenes, truth, training polygons and photos, some of them wrongly tagged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from gair_core.errors import BadInputError
from gair_core.world.city import City, Viewpoints
from gair_core.world.surface import COVER
from gair_core.world.world import World
from gair_core.world.writers import write_land_cover, write_photos, write_points, write_polygons, write_scene

DAY: Final = date(2023, 7, 4)
LATER: Final = date(2026, 7, 2)

_FAR: Final = 1500.0
"""A wrong tag lies at least so many metres from the truth."""

_POLYGON_REACH: Final = 80.0
"""In metres: 200 pixels are as many as anybody needs of one patch, and training waits for each."""

_FOREST: Final = ("forest",)
_TOWN: Final = ("dense built-up", "sparse built-up")
_OPEN: Final = ("crops", "grass", "bare soil")
_SWAPS: Final = ((_FOREST, _TOWN), (_TOWN, _FOREST), (_OPEN, _TOWN))
"""Land cover where a wrongly tagged photo was taken, and where its tag says, in turn."""


@dataclass(frozen=True)
class DemoFiles:
    """What `write_demo` wrote.

    Attributes:
        scene: Ten-band scene.
        later: The same place three years later.
        land_cover: True land cover on the first day.
        later_land_cover: True land cover on the second day.
        polygons: Training polygons with the column ``class``.
        photos: The photos' folder.
        points: The photos' places as their tags say, with the columns ``photo`` and ``heading``.
        truth: JSON: ``wrong`` names the wrongly tagged photos, ``positions`` and ``headings`` are true.
    """

    scene: Path
    later: Path
    land_cover: Path
    later_land_cover: Path
    polygons: Path
    photos: Path
    points: Path
    truth: Path


def write_demo(
    folder: str | Path, *, seed: int = 0, city: int = 2, photos: int = 40, wrong: int = 3, size: int = 400
) -> DemoFiles:
    """Write a city for a first tour.

    Args:
        folder: Where to write; made where it does not exist.
        seed: Seed of the world.
        city: Index of the city.
        photos: Number of photos.
        wrong: How many of them carry the tags of another place, at least 1.5 km away and of another kind:
            forest photos in town, photos of the town in the forest, photos of fields in town.
        size: Height and width of the scene in pixels of 10 m.

    Raises:
        BadInputError: More wrong photos than photos, or a city too small for wrong tags.
    """
    if not 0 <= wrong <= photos:
        raise BadInputError(
            f"Found {wrong} wrong of {photos} photos.", "Ask for at most as many as there are."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = World(seed).city(city, size)
    views = place.photo_positions(photos)
    said, chosen = _mistagged(place, views, wrong)
    pictures = write_photos(place, folder / "photos", views, DAY, tagged=said)
    truth = {
        "city": place.name,
        "region": place.region.name,
        "wrong": sorted(pictures[number].name for number in chosen),
        "positions": {path.name: list(point) for path, point in zip(pictures, views.positions, strict=True)},
        "headings": {path.name: float(angle) for path, angle in zip(pictures, views.headings, strict=True)},
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    return DemoFiles(
        scene=write_scene(place, folder / "scene.tif", DAY),
        land_cover=write_land_cover(place, folder / "land_cover.tif", DAY),
        polygons=write_polygons(place, folder / "polygons.gpkg", DAY, reach=_POLYGON_REACH),
        later=write_scene(place, folder / "later.tif", LATER),
        later_land_cover=write_land_cover(place, folder / "later_land_cover.tif", LATER),
        photos=folder / "photos",
        points=write_points(folder / "photos.gpkg", pictures, said),
        truth=folder / "truth.json",
    )


def _mistagged(city: City, views: Viewpoints, wrong: int) -> tuple[Viewpoints, list[int]]:
    """Return the views as their tags say, and which tags are wrong.

    The photos with the purest surroundings of each kind are moved, to the purest of another kind: a tag that
    is wrong among places that look alike cannot be seen by anybody.
    """
    cover = city.land_cover(DAY)
    others = city.photo_positions(200, seed=1).positions
    local = city.to_local(others)
    free = np.ones(len(others), dtype=bool)
    said, chosen = views.positions.copy(), list[int]()
    for number in range(wrong):
        kind, other_kind = _SWAPS[number % len(_SWAPS)]
        purity = _shares(city, cover, views.positions, kind)
        purity[chosen] = -1
        photo = int(np.argmax(purity))
        away = np.hypot(*(local - city.to_local(views.positions[photo])).T)
        if not (free & (away > _FAR)).any():
            raise BadInputError(
                f"{city.name} is too small for a tag that is {_FAR:g} m wrong.",
                "Ask for a size of at least 300.",
            )
        fit = np.where(free & (away > _FAR), _shares(city, cover, others, other_kind), -1)
        place = int(np.argmax(fit))
        said[photo], free[place] = others[place], False
        chosen.append(photo)
    return Viewpoints(said, views.headings), chosen


def _shares(
    city: City, cover: npt.NDArray[np.uint8], positions: npt.NDArray[np.float64], kind: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    """Return how much of what lies within 100 m of each place, without the roads, is of a kind, 0-1."""
    wanted = [COVER[name] for name in kind]
    found = np.zeros(len(positions))
    for number, (row, column) in enumerate(city.to_pixel(positions).astype(int)):
        around = cover[max(row - 10, 0) : row + 11, max(column - 10, 0) : column + 11]
        land = around[around != COVER["road"]]
        found[number] = np.isin(land, wanted).mean() if land.size else 0
    return found
