"""Draw a part of the procedural world as a pretraining store; what several commands have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from gair_core.pretrain.splits import SplitConfig
from gair_core.pretrain.store import StoreSummary
from gair_core.progress import Progress
from gair_core.world import World
from gair_core.world.writers import write_store

DAYS = (date(2023, 1, 15), date(2023, 4, 20), date(2023, 7, 10), date(2023, 10, 12))
"""A day of each season."""


@dataclass(frozen=True)
class WorldSize:
    """Which part of which world a store holds.

    Attributes:
        cities: Cities of all splits.
        validation: Of them for validation.
        test: Of them for test: the last ones, which are of different regions.
        side: Height and width of a city in pixels of 10 m.
        photos: Photos of a city.
        photo_side: Height and width of a photo in pixels.
        days: Days of the scenes; every photo is taken on one of them.
        seed: Seed of the world.
    """

    cities: int = 400
    validation: int = 10
    test: int = 10
    side: int = 192
    photos: int = 80
    photo_side: int = 96
    days: tuple[date, ...] = DAYS
    seed: int = 0


def draw_world(folder: Path, size: WorldSize, processes: int, progress: Progress) -> StoreSummary:
    """Draw the cities that a store still lacks.

    Args:
        folder: The store; new, or left by an interrupted call with the same size.
        size: What it holds.
        processes: Cities drawn at a time.
        progress: Told how many cities are done; may cancel.

    Raises:
        BadInputError: The folder holds something else, or a finished store.
        CancelledError: The user cancelled; finished cities are kept.
    """
    world = World(size.seed)
    cities = [world.city(index, size.side) for index in range(size.cities)]
    rest = size.cities - size.test
    return write_store(
        folder,
        cities,
        size.days,
        progress,
        photos=size.photos,
        size=size.photo_side,
        splits=SplitConfig(validation=size.validation / rest, test=0),
        held_out={city.name for city in cities[rest:]},
        processes=processes,
    )
