"""MOSAIKS as TorchSpatial publishes it (Rolf et al. 2021): quantities at places, with image features.

    Y_<task>.csv    lon, lat, the value (in a column named after the task, or the only other one), split
    X_<task>.npy    2048 image features a row of the table, float

Tasks are population (log), forest_cover, nightlights and elevation.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from gair_core.config import Config
from gair_core.errors import BadInputError
from gair_core.finetune.datasets.located import (
    INTRA_CITY,
    LocatedData,
    Samples,
    Shares,
    by_split,
    clean_lonlat,
    named_splits,
    split_within,
)
from gair_core.heads.base import HeadTarget

if TYPE_CHECKING:
    import pandas as pd

TASKS: Final = ("population", "forest_cover", "nightlights", "elevation")

_UNITS = {
    "population": "log people per square kilometre",
    "forest_cover": "percent",
    "nightlights": "log radiance",
    "elevation": "m",
}


class MosaiksConfig(Config):
    """Which task, and how much of it.

    Attributes:
        folder: Folder of the files.
        task: population, forest_cover, nightlights or elevation.
        table: The table, default ``Y_<task>.csv``; relative to the folder.
        features: The image features, default ``X_<task>.npy``; null trains on places alone.
        subsample: Part of each split that is used; TorchSpatial's runs draw a twentieth.
        split: Parts of train, validation and test where the table has no column ``split``; drawn at random.
        seed: Seed of the subsample and of such a split.
    """

    kind: Literal["mosaiks"] = "mosaiks"
    folder: Path
    task: Literal["population", "forest_cover", "nightlights", "elevation"]
    table: Path | None = None
    features: Path | Literal["default"] | None = "default"
    subsample: float = Field(1.0, gt=0, le=1)
    split: Shares = INTRA_CITY
    seed: int = Field(0, ge=0)

    def read(self) -> LocatedData:
        """Read the table and its features; rows without place or value are left out and counted.

        Raises:
            BadInputError: A file or column is missing, the features belong to another table, or a split has
                no name that is known.
        """
        return _read(self)


def _read(config: MosaiksConfig) -> LocatedData:
    path = config.folder / (config.table or f"Y_{config.task}.csv")
    table = _table(path)
    lonlat = clean_lonlat(np.column_stack([_numbers(table, name) for name in ("lon", "lat")]))
    values = _numbers(table, _value_column(table, config.task, path))
    features = _features(config, len(table), path)
    left_out: Counter[str] = Counter()
    placed = np.isfinite(lonlat).all(axis=1)
    left_out["without a position"] = int((~placed).sum())
    left_out["without a value"] = int((placed & ~np.isfinite(values)).sum())
    ids = np.array([str(row + 1) for row in range(len(table))])
    if "split" in table.columns:
        splits = named_splits(table["split"], f"The table {path}")
    else:
        splits = split_within(ids, ["all"] * len(ids), config.split, config.seed)
    rows = np.flatnonzero(placed & np.isfinite(values))
    if config.subsample < 1:
        drawn = np.random.default_rng(config.seed).permutation(rows)
        rows = np.sort(drawn[: max(3, round(config.subsample * len(rows)))])
    # Read by the row: the file may be larger than the memory.
    chosen = None if features is None else np.asarray(features[rows], dtype=np.float32)
    if chosen is not None and not np.isfinite(chosen).all():
        raise BadInputError(
            f"The image features of {path.name} hold values that are no numbers.", "Make them again."
        )
    samples = Samples(
        ids=ids[rows],
        lonlat=lonlat[rows],
        labels=values[rows, None],
        photos=((),) * len(rows),
        panorama=np.zeros(len(rows), dtype=bool),
        image_features=chosen,
    )
    name = f"MOSAIKS {config.task.replace('_', ' ')}"
    return LocatedData(
        name=name,
        splits=by_split(samples, splits[rows], name),
        targets=(HeadTarget(name=config.task, unit=_UNITS[config.task]),),
        left_out=left_out,
    )


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, encoding="utf-8-sig", skipinitialspace=True)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise BadInputError(f"The table {path} cannot be read: {error}.", "Check the folder.") from None
    missing = {"lon", "lat"} - set(table.columns)
    if missing:
        raise BadInputError(
            f"The table {path} has no column {' and '.join(sorted(missing))}; "
            f"it has {', '.join(map(str, table.columns))}."
        )
    return table


def _value_column(table: pd.DataFrame, task: str, path: Path) -> str:
    """Return the column of the values: the one named after the task, else the only one left."""
    if task in table.columns:
        return task
    # pandas names the index that it once wrote "Unnamed: 0".
    others = [
        str(name)
        for name in table.columns
        if name not in ("lon", "lat", "split", "ID", "id") and not str(name).startswith("Unnamed")
    ]
    if len(others) != 1:
        raise BadInputError(
            f"The table {path} has no column {task}, and the columns {', '.join(others) or 'none'} besides.",
            f"Name the column of the values {task}.",
        )
    return others[0]


def _numbers(table: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    import pandas as pd

    values: npt.NDArray[np.float64] = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
    return values


def _features(config: MosaiksConfig, rows: int, table: Path) -> npt.NDArray[np.float32] | None:
    """Open the image features without reading them."""
    if config.features is None:
        return None
    name = f"X_{config.task}.npy" if config.features == "default" else config.features
    path = config.folder / name
    try:
        features: npt.NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"The image features {path} cannot be read: {error}.",
            "Set features to null to train on places alone.",
        ) from None
    if features.ndim != 2 or len(features) != rows:
        raise BadInputError(
            f"{path} has the shape {features.shape}; {rows} rows are needed, one for each of {table.name}.",
            "Take both from the same release.",
        )
    return features
