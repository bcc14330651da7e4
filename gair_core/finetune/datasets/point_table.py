"""Photos or points of your own: any table that `gair predict` reads, with a column to learn.

Features and probabilities of another model may come with it: a .npy file with a row a row, and the columns
``probability_<class>`` that `gair predict --probabilities` writes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from typing_extensions import Self

from gair_core.config import Config
from gair_core.errors import BadInputError
from gair_core.finetune.datasets.located import (
    INTRA_CITY,
    LocatedData,
    Samples,
    Shares,
    by_split,
    class_indices,
    named_splits,
    split_within,
)
from gair_core.heads.base import HeadTarget

if TYPE_CHECKING:
    from gair_core.photos.tables import PointTable

PROBABILITY: Final = "probability_"
"""What a column with the probability of a class begins with."""


class PointTableConfig(Config):
    """Which table, and what is learnt.

    Attributes:
        table: GeoPackage, GeoJSON, Shapefile or CSV with positions in any CRS; photos by a column of paths.
        label: Column to classify by.
        classes: Its classes in their order; by default those that occur.
        targets: Columns of numbers to predict in a regression.
        units: Units of the targets, by name.
        split_field: Column that says train, validation or test; without one the split is drawn.
        group_field: Column within whose values the split is drawn, such as the city.
        split: Parts of train, validation and test.
        seed: Seed of the split.
        photo_field: Column with the photos' paths; found when null, and not needed where no photo is read.
        lon_field: Longitude column of a CSV; found by its name when null.
        lat_field: Latitude column, likewise.
        layer: Layer of a file with several.
        image_features: A .npy file with a row of features a row of the table.
    """

    kind: Literal["table"] = "table"
    table: Path
    label: str | None = None
    classes: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()
    units: dict[str, str] = Field(default_factory=dict)
    split_field: str | None = None
    group_field: str | None = None
    split: Shares = INTRA_CITY
    seed: int = Field(0, ge=0)
    photo_field: str | None = None
    lon_field: str | None = None
    lat_field: str | None = None
    layer: str | None = None
    image_features: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.label is None) == (not self.targets):
            raise ValueError("give either label, to classify, or targets, to predict numbers")
        return self

    def read(self) -> LocatedData:
        """Read the table; rows without a label, or with a photo that is absent, are left out and counted.

        Raises:
            BadInputError: The table or a column is missing, or a value is impossible.
        """
        return _read(self)


def _read(config: PointTableConfig) -> LocatedData:
    table, photos, panorama = _table(config)
    frame = table.frame
    rows = len(frame)
    keep, left_out = _usable(config, table, photos)
    where = f"The column {config.label} of {config.table}"
    classes: tuple[str, ...] = ()
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    if config.label is not None:
        text = [str(value) for value in frame[config.label]]
        found, classes = class_indices([text[row] for row in keep], config.classes, where)
        labels = np.full(rows, -1, dtype=np.int64)
        labels[keep] = found
    else:
        labels = np.column_stack([_numbers(frame[name], name, config.table) for name in config.targets])
    ids = _ids(table)
    samples = Samples(
        ids=ids,
        lonlat=table.lonlat,
        labels=labels,
        photos=photos,
        panorama=panorama,
        image_features=_features(config.image_features, rows),
        image_probabilities=_probabilities(frame, classes),
    )
    if config.split_field is not None:
        splits = named_splits(_column(table, config.split_field).astype(str), str(config.table))
    else:
        group = config.group_field
        groups = np.zeros(rows, dtype=str) if group is None else _column(table, group).astype(str)
        splits = split_within(ids, groups, config.split, config.seed)
    name = f"{config.table.name}, {config.label or ', '.join(config.targets)}"
    return LocatedData(
        name=name,
        splits=by_split(samples.take(keep), splits[keep], name),
        classes=classes,
        targets=tuple(HeadTarget(name=one, unit=config.units.get(one, "")) for one in config.targets),
        left_out=left_out,
    )


def _table(
    config: PointTableConfig,
) -> tuple[PointTable, tuple[tuple[Path, ...], ...], npt.NDArray[np.bool_]]:
    """Return the table, the photos of each row and whether they are panoramas."""
    from gair_core.photos.tables import read_photos, read_points

    fields = {"lon_field": config.lon_field, "lat_field": config.lat_field, "layer": config.layer}
    try:
        table = read_photos(config.table, photo_field=config.photo_field, **fields)
    except BadInputError:
        if config.photo_field is not None:
            raise
        # A table of points; if a photo is needed after all, the task says so.
        points = read_points(config.table, **fields)
        return points, ((),) * len(points), np.zeros(len(points), dtype=bool)
    photos = tuple(() if path is None else (path,) for path in table.paths)
    return table, photos, table.panorama


def _usable(
    config: PointTableConfig, table: PointTable, photos: tuple[tuple[Path, ...], ...]
) -> tuple[npt.NDArray[np.int64], Counter[str]]:
    """Return the rows that can be used, and the counts of the others by reason."""
    import pandas as pd

    left_out: Counter[str] = Counter()
    names = [config.label] if config.label is not None else list(config.targets)
    known = np.zeros(len(table), dtype=bool)
    for name in names:
        column = _column(table, name)
        known |= ~pd.isna(column) & np.array([str(value).strip() != "" for value in column], dtype=bool)
    with_photos = any(photos)
    present = np.array([not with_photos or any(path.is_file() for path in one) for one in photos], dtype=bool)
    left_out["without a label"] = int((~known).sum())
    left_out["without a photo"] = int((known & ~present).sum())
    return np.flatnonzero(known & present), left_out


def _column(table: PointTable, name: str) -> npt.NDArray[np.object_]:
    if name not in table.frame.columns:
        raise BadInputError(
            f"{table.source} has no column {name}; it has {', '.join(map(str, table.frame.columns))}."
        )
    return np.asarray(table.frame[name], dtype=object)


def _numbers(column: Any, name: str, table: Path) -> npt.NDArray[np.float64]:  # noqa: ANN401 (a pandas Series)
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column):
        raise BadInputError(
            f"The column {name} of {table} holds text; numbers are needed.", "Classify by it: label."
        )
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _ids(table: PointTable) -> npt.NDArray[np.str_]:
    """Return unique names of the rows: a column that says so, else their numbers."""
    for name in ("uuid", "id", "photo", "name"):
        if name in table.frame.columns:
            found = np.asarray(table.frame[name].astype(str), dtype=str)
            if len(set(found)) == len(found):
                return found
    return np.array([str(row + 1) for row in range(len(table))])


def _features(path: Path | None, rows: int) -> npt.NDArray[np.float32] | None:
    if path is None:
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInputError(f"The image features {path} cannot be read: {error}.") from None
    if found.ndim != 2 or len(found) != rows:
        raise BadInputError(f"{path} has the shape {found.shape}; {rows} rows are needed, one for each row.")
    return np.asarray(found, dtype=np.float32)


def _probabilities(frame: Any, classes: tuple[str, ...]) -> Any:  # noqa: ANN401 (neither has types)
    """Return the table's class probabilities, None where it has none for any of the classes."""
    names = [f"{PROBABILITY}{name}" for name in classes]
    if not names or not set(names) <= set(frame.columns):
        return None
    from scipy import sparse

    return sparse.csr_array(frame[names].to_numpy(dtype=np.float32, na_value=0))
