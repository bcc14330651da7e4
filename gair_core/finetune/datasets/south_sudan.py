"""Crop types of South Sudan (Rustowicz et al. 2019), as SustainBench publishes them: Sentinel-2 series.

The layout is that of the published archive: ``southsudan/npy/southsudan_%06d.npz`` with ``s2`` (10, 64, 64,
T) DN, ``southsudan/truth/southsudan_%06d.npz`` with ``truth`` (64, 64),
``southsudan/s2/s2_southsudan_%06d.json`` with ``dates``, and ``list_eval_partition.csv`` (``id,partition``: 0
train, 1 validation, 2 test). Labels 1 to 4 are the classes; 0 and all rarer crops are ignored. Every image
has its own number of dates.
"""

from __future__ import annotations

import csv
import json
import zipfile
import zlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from gair_core.config import Positive
from gair_core.errors import BadInputError
from gair_core.finetune.datasets.scenes import (
    IGNORED,
    SceneData,
    SceneDataConfig,
    SceneExample,
    check_same_size,
    make_classes,
    require_folder,
)
from gair_core.finetune.task import Split
from gair_core.sentinel2.bands import BANDS

_PARTITIONS: Final[dict[Split, int]] = {"train": 0, "validation": 1, "test": 2}


class SouthSudanConfig(SceneDataConfig):
    """Crop types of South Sudan.

    Attributes:
        folder: The folder that holds ``southsudan``.
        dates: The latest so many dates of each image are taken, fewer where there are fewer; PANGAEA takes 6.
            None takes all.
    """

    kind: Literal["south_sudan"] = "south_sudan"
    dates: Positive | None = 6

    def open(self) -> SceneData:
        """List the files, see `SceneDataConfig.open`."""
        return SouthSudan(self.folder, self.dates)


class SouthSudan(SceneData):
    """Crop types of South Sudan, see the module's description.

    Args:
        folder: The folder that holds ``southsudan``.
        dates: The latest so many dates of each image; None for all.
    """

    title = "Crop types of South Sudan"
    use = "series"
    bands = BANDS
    classes = make_classes(
        {
            "sorghum": (214, 140, 60),
            "maize": (240, 210, 80),
            "rice": (90, 160, 210),
            "groundnut": (150, 90, 60),
        }
    )
    # Published by PANGAEA.
    mean = (
        2031.1692,
        1961.4306,
        1979.4101,
        2145.6631,
        2700.2884,
        3006.88,
        2870.5346,
        3215.0557,
        2367.7652,
        1645.2242,
    )
    std = (
        2112.2125,
        2027.4644,
        2136.8041,
        2100.7254,
        2082.1926,
        2142.9731,
        2071.283,
        2152.289,
        1334.5474,
        1059.0393,
    )

    def __init__(self, folder: Path, dates: int | None = None) -> None:
        self.folder = require_folder(folder / "southsudan", self.title, "npy, truth, s2 and the partition")
        self._dates = dates
        ids = _read_partition(folder)
        self._ids = {split: ids[number] for split, number in _PARTITIONS.items()}

    @property
    def longest(self) -> int:
        """Dates of the image that has the most, see `SceneData.longest`."""
        most = max(len(self._read_days(number)) for ids in self._ids.values() for number in ids)
        return min(most, self._dates or most)

    def names(self, split: Split) -> Sequence[str]:
        """Return the paths of the images, see `SceneData.names`."""
        return [str(self._image(number)) for number in self._ids[split]]

    def read(self, split: Split, index: int) -> SceneExample:
        """Read an example, see `SceneData.read`."""
        number = self._ids[split][index]
        path = self._image(number)
        series = _read_array(path, "s2")
        days = self._read_days(number)
        if series.ndim != 4 or len(series) != len(BANDS) or series.shape[3] != len(days):
            raise BadInputError(
                f"{self.title}: s2 of {path} has the shape {series.shape}, wanted ({len(BANDS)}, H, W, "
                f"{len(days)}): its json names {len(days)} dates."
            )
        # Dates stand in any order; the latest are those of the season's end.
        order = sorted(range(len(days)), key=lambda number: days[number])[-(self._dates or len(days)) :]
        scenes = series.transpose(3, 0, 1, 2)[order].astype(np.float32)
        valid = np.isfinite(scenes).all(axis=1) & (scenes != 0).any(axis=1)
        dn = np.where(valid[:, None], scenes, np.float32(0))
        days_of_year = np.array([days[number].timetuple().tm_yday for number in order], dtype=np.int64)
        example = SceneExample(dn, valid, self.target(split, index), days_of_year)
        return check_same_size(example, path, self.title)

    def target(self, split: Split, index: int) -> npt.NDArray[np.int64]:
        """Read the target of an example, see `SceneData.target`."""
        path = self.folder / "truth" / f"southsudan_{self._ids[split][index]:06d}.npz"
        labels = _read_array(path, "truth")
        if labels.ndim != 2:
            raise BadInputError(f"{self.title}: truth of {path} has the shape {labels.shape}, wanted (H, W).")
        known = (labels >= 1) & (labels <= len(self.classes))
        target: npt.NDArray[np.int64] = np.where(known, labels.astype(np.int64) - 1, IGNORED)
        return target

    def _image(self, number: int) -> Path:
        return self.folder / "npy" / f"southsudan_{number:06d}.npz"

    def _read_days(self, number: int) -> list[date]:
        path = self.folder / "s2" / f"s2_southsudan_{number:06d}.json"
        try:
            days = [
                date.fromisoformat(str(text)[:10]) for text in json.loads(path.read_text("utf-8"))["dates"]
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInputError(
                f"{self.title}: the dates in {path} cannot be read: {error}.", "Unpack the data set again."
            ) from None
        if not days:
            raise BadInputError(f"{self.title}: {path} names no date.")
        return days


def _read_partition(folder: Path) -> dict[int, list[int]]:
    """Return the ids of each partition in the order of the file.

    Raises:
        BadInputError: The file is missing or damaged, or a partition is empty.
    """
    title = SouthSudan.title
    places = (folder / "southsudan" / "list_eval_partition.csv", folder / "list_eval_partition.csv")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise BadInputError(f"{title}: there is no {places[0]}.", "Unpack the data set again.")
    found: dict[int, list[int]] = {number: [] for number in _PARTITIONS.values()}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                found[int(float(row["partition"]))].append(int(float(row["id"])))
    except (KeyError, ValueError, TypeError) as error:
        raise BadInputError(
            f"{title}: {path} is damaged ({error}).", "It needs the columns id and partition (0, 1 or 2)."
        ) from None
    return found


def _read_array(path: Path, name: str) -> npt.NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            values: npt.NDArray[Any] = archive[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInputError(
            f"{SouthSudan.title}: {name} of {path} cannot be read: {error}.", "Unpack the data set again."
        ) from None
    return values
