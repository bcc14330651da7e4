"""The procedural world, or any other pretraining store with land cover, as a task with known answers.

`training/build_world.py` makes such a store. A tile belongs to the split of its samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gair_core.errors import BadInputError
from gair_core.finetune.datasets.located import head_classes
from gair_core.finetune.datasets.scenes import IGNORED, SceneData, SceneDataConfig, SceneExample, SceneUse
from gair_core.finetune.task import Split
from gair_core.heads.base import HeadClass
from gair_core.pretrain.store import UNKNOWN_CLASS, Store, day_of_year
from gair_core.sentinel2.bands import BANDS
from gair_core.world.surface import COLOURS, LAND_COVER

Use = Literal["segmentation", "change", "series"]
_USES: Final[dict[Use, SceneUse]] = {"segmentation": "one scene", "change": "two dates", "series": "series"}
_CHANGE: Final = {"unchanged": (200, 200, 200), "changed": (220, 40, 120)}


class WorldDataConfig(SceneDataConfig):
    """A pretraining store with land cover.

    Attributes:
        folder: The store.
        use: ``segmentation``: every date of a tile with its land cover. ``change``: every two dates of a
            tile, the earlier first, and whether the land cover differs. ``series``: all dates of a tile with
            the land cover of the last one.
    """

    kind: Literal["world"] = "world"
    use: Use = "segmentation"

    def open(self) -> SceneData:
        """List the tiles, see `SceneDataConfig.open`."""
        return WorldData(self.folder, self.use)


class _Item(NamedTuple):
    """A tile and the dates of it that make an example."""

    tile: str
    dates: tuple[int, ...]


class WorldData(SceneData):
    """A store with land cover, see the module's description.

    Args:
        folder: The store.
        use: What an example is, see `WorldDataConfig`.
    """

    bands = BANDS

    def __init__(self, folder: Path, use: Use) -> None:
        if not folder.is_dir():
            raise BadInputError(
                f"There is no store {folder}.",
                "Make one with training/build_world.py, or set task.data.folder.",
            )
        self._store = Store(folder)
        if not self._store.classes:
            raise BadInputError(
                f"The store {folder} names no land-cover classes.", "Use one with land cover."
            )
        self._change = use == "change"
        self.use = _USES[use]
        self.title = f"{use} in {folder.name}"
        self.gsd = self._store.gsd
        self.classes = _classes(tuple(_CHANGE) if self._change else self._store.classes)
        samples = self._store.samples
        self._items: dict[str, list[_Item]] = {
            split: [
                item
                for tile in dict.fromkeys(samples.tile[samples.split == split].tolist())
                for item in self._items_of(tile)
            ]
            for split in ("train", "validation", "test")
        }

    def _items_of(self, tile: str) -> list[_Item]:
        header = self._store.tile(tile)
        if header.land_cover is None:
            return []
        order = sorted(range(len(header.dates)), key=lambda number: header.dates[number])
        if self.use == "series":
            return [_Item(tile, tuple(order))]
        if self._change:
            return [_Item(tile, pair) for pair in itertools.combinations(order, 2)]
        return [_Item(tile, (number,)) for number in order]

    @property
    def longest(self) -> int:
        """Scenes of the example that has the most, see `SceneData.longest`."""
        lengths = [len(item.dates) for items in self._items.values() for item in items]
        return max(lengths, default=0)

    def names(self, split: Split) -> Sequence[str]:
        """Return tiles and dates, see `SceneData.names`."""
        return [
            f"{item.tile} {' '.join(self._store.tile(item.tile).dates[number] for number in item.dates)}"
            for item in self._items[split]
        ]

    def read(self, split: Split, index: int) -> SceneExample:
        """Read an example, see `SceneData.read`."""
        item = self._items[split][index]
        tile = self._store.tile(item.tile)
        dn = np.stack([self._store.read_whole(tile, number) for number in item.dates]).astype(np.float32)
        days = np.array([int(day_of_year(tile.dates[number])) + 1 for number in item.dates], dtype=np.int64)
        return SceneExample(dn, np.asarray(dn.any(axis=1)), self.target(split, index), days)

    def target(self, split: Split, index: int) -> npt.NDArray[np.int64]:
        """Read the target of an example, see `SceneData.target`."""
        item = self._items[split][index]
        last = self._read_cover(item.tile, item.dates[-1])
        if not self._change:
            return last
        first = self._read_cover(item.tile, item.dates[0])
        known = (first != IGNORED) & (last != IGNORED)
        target: npt.NDArray[np.int64] = np.where(known, (first != last).astype(np.int64), IGNORED)
        return target

    def _read_cover(self, name: str, number: int) -> npt.NDArray[np.int64]:
        values = self._store.read_whole_land_cover(self._store.tile(name), number)
        if bool((values[values != UNKNOWN_CLASS] >= len(self._store.classes)).any()):
            raise BadInputError(
                f"The land cover of the tile {name} holds values beyond the store's "
                f"{len(self._store.classes)} classes.",
                "Build the store again.",
            )
        target: npt.NDArray[np.int64] = np.where(values == UNKNOWN_CLASS, IGNORED, values.astype(np.int64))
        return target


def _classes(names: Sequence[str]) -> tuple[HeadClass, ...]:
    """Return classes, those of the world in its colours."""
    known = {**dict(zip(LAND_COVER, COLOURS, strict=True)), **_CHANGE}
    return tuple(
        one.model_copy(update={"colour": known.get(one.name, one.colour)}) for one in head_classes(names)
    )
