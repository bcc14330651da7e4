"""Global Streetscapes (Hou et al. 2024): labels of street-level photos in CSV tables that ``uuid`` joins.

    tables/**.csv                       uuid,source,orig_id,... in any order of rows
    photos/<start>_<end>/<uuid>.jpeg

One table has ``lat`` and ``lon``, ``projection_type`` (``spherical`` for panoramas) and more, another one
``city`` and ``city_id``, and any may have the labels; the tables' file names do not matter.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

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
    clean_lonlat,
    split_within,
)
from gair_core.heads.base import HeadTarget
from gair_core.photos.reading import SUFFIXES

if TYPE_CHECKING:
    import pandas as pd

PERCEPTION: Final = ("Beautiful", "Boring", "Depressing", "Lively", "Safe", "Wealthy")
"""The perception scores, 0 to 10."""

CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "platform": ("driving surface", "walking surface", "cycling surface", "tunnel", "fields", "railway"),
    "view_direction": ("front/back", "side"),
}
"""All classes of the labels that the paper uses, in our order."""

_KEY = "uuid"
_SCALE = (0.0, 10.0)
_PANORAMAS = frozenset({"spherical", "equirectangular"})
_MISSING = frozenset({"", "nan", "none", "null", "na", "n/a"})


class GlobalStreetscapesConfig(Config):
    """Which labels of which photos.

    Attributes:
        tables: Folder of the CSV tables, searched with its subfolders.
        photos: Folder of the photos; those of a table whose photo is absent are left out and counted.
        label: Column to classify by, such as ``platform`` or ``view_direction``.
        classes: Its classes in their order; by default the published ones, or those that occur.
        targets: Columns to predict in a regression, such as the six perception scores.
        panoramas: ``view`` takes the view to the front of a full panorama, ``skip`` leaves panoramas out.
        split: Parts of train, validation and test within each city.
        seed: Seed of the split.
    """

    kind: Literal["global_streetscapes"] = "global_streetscapes"
    tables: Path
    photos: Path
    label: str | None = None
    classes: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()
    panoramas: Literal["view", "skip"] = "view"
    split: Shares = INTRA_CITY
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.label is None) == (not self.targets):
            raise ValueError("give either label, to classify, or targets, to predict numbers")
        return self

    def read(self) -> LocatedData:
        """Read the tables and find the photos.

        Raises:
            BadInputError: A folder, table or column is missing, a column stands in tables that disagree, or
                a value is impossible.
        """
        return _read(self)


def _read(config: GlobalStreetscapesConfig) -> LocatedData:
    tables = Tables(config.tables)
    labels = tables.columns([config.label] if config.label is not None else config.targets)
    places = tables.columns(["lat", "lon"])
    left_out: Counter[str] = Counter()
    left_out["without a position"] = int((~labels.index.isin(places.index)).sum())
    rows = labels.join(places, how="inner")
    for column in ("projection_type", "city"):
        found = tables.columns([column])[column] if tables.holding([column]) else None
        rows[column] = "" if found is None else found.reindex(rows.index).fillna("")
    panorama = rows["projection_type"].str.strip().str.lower().isin(_PANORAMAS).to_numpy(bool)
    if config.panoramas == "skip":
        left_out["panoramas"] = int(panorama.sum())
        rows, panorama = rows[~panorama], panorama[~panorama]
    paths = find_photos(config.photos)
    present = rows.index.isin(paths)
    left_out["without a photo"] = int((~present).sum())
    rows, panorama = rows[present], panorama[present]
    labelled = _has_label(rows, config)
    left_out["without a label"] = int((~labelled).sum())
    rows, panorama = rows[labelled], panorama[labelled]
    return _assemble(config, rows, panorama, paths, left_out)


def _assemble(
    config: GlobalStreetscapesConfig,
    rows: pd.DataFrame,
    panorama: npt.NDArray[np.bool_],
    paths: Mapping[str, Path],
    left_out: Mapping[str, int],
) -> LocatedData:
    name = f"Global Streetscapes, {config.label or ', '.join(config.targets)}"
    if rows.empty:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        raise BadInputError(
            f"No photo of {config.tables} is left ({reasons or 'the tables are empty'}).",
            f"Photos are looked for as {config.photos}/**/<uuid>.jpeg.",
        )
    classes: tuple[str, ...] = ()
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    if config.label is not None:
        known = config.classes or CLASSES.get(config.label)
        labels, classes = class_indices(list(rows[config.label]), known, f"The column {config.label}")
    else:
        labels = np.column_stack([_numbers(rows[column], column) for column in config.targets])
    ids = rows.index.to_numpy(str)
    samples = Samples(
        ids=ids,
        lonlat=clean_lonlat(np.column_stack([_numbers(rows["lon"], "lon"), _numbers(rows["lat"], "lat")])),
        labels=labels,
        photos=tuple((paths[one],) for one in ids),
        panorama=panorama,
    )
    splits = split_within(ids, rows["city"].to_numpy(str), config.split, config.seed)
    return LocatedData(
        name=name,
        splits=by_split(samples, splits, name),
        classes=classes,
        targets=tuple(HeadTarget(name=column) for column in config.targets),
        left_out=left_out,
    )


class Tables:
    """CSV tables of a folder, by the columns that they have.

    Args:
        folder: Searched with its subfolders; tables without a column ``uuid`` are passed over.

    Raises:
        BadInputError: There is no such folder, or no table in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._headers = {path: _header(path) for path in sorted(folder.rglob("*.csv"))}
        self._headers = {path: header for path, header in self._headers.items() if _KEY in header}
        if not self._headers:
            raise BadInputError(f"{folder} holds no CSV table with a column {_KEY}.", "Check the folder.")

    def holding(self, names: Sequence[str]) -> list[Path]:
        """Return the tables that have all of these columns."""
        return [path for path, header in self._headers.items() if set(names) <= set(header)]

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Return columns that stand together in a table, as text, by uuid; empty cells are ``""``.

        Several tables that have them (such as the manual labels for train and test) are joined.

        Raises:
            BadInputError: No table has them, or two of them say different things of one photo.
        """
        import pandas as pd

        holding = self.holding(names)
        if not holding:
            known = sorted({name for header in self._headers.values() for name in header})
            raise BadInputError(
                f"No table in {self.folder} has the columns {', '.join(names)}.",
                f"Columns are {', '.join(known)}.",
            )
        parts = [
            pd.read_csv(
                path, usecols=[_KEY, *names], dtype=str, keep_default_na=False, encoding="utf-8-sig"
            ).set_index(_KEY)[list(names)]
            for path in holding
        ]
        joined = pd.concat(parts).reset_index().drop_duplicates().set_index(_KEY)
        twice = joined.index[joined.index.duplicated()]
        if len(twice):
            raise BadInputError(
                f"The tables {', '.join(path.name for path in holding)} say different things about "
                f"{len(twice)} photos, such as {twice[0]} ({', '.join(names)}).",
                "Keep the table that is meant in a folder of its own.",
            )
        return joined[joined.index != ""]


def find_photos(folder: Path) -> dict[str, Path]:
    """Return the path of every photo in a folder and its subfolders by its name without the ending.

    Raises:
        BadInputError: The folder is missing.
    """
    if not folder.is_dir():
        raise BadInputError(f"The folder of photos {folder} does not exist.", "Check the path.")
    return {
        path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.stem
    }


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"The table {path} cannot be read: {error}.", "Save it as UTF-8.") from None


def _has_label(rows: pd.DataFrame, config: GlobalStreetscapesConfig) -> npt.NDArray[np.bool_]:
    """Whether each row has a label, or at least one target."""
    names = [config.label] if config.label is not None else list(config.targets)
    filled = ~rows[names].apply(lambda column: column.str.strip().str.lower().isin(_MISSING))
    return np.asarray(filled.any(axis=1), dtype=bool)


def _numbers(column: pd.Series, name: str) -> npt.NDArray[np.float64]:
    """Return a text column as numbers, NaN where it is empty.

    Raises:
        BadInputError: A cell is no number, or a perception score is off its scale.
    """
    import pandas as pd

    text = column.str.strip()
    text = text.mask(text.str.lower().isin(_MISSING))
    values: npt.NDArray[np.float64] = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    wrong = text.notna().to_numpy() & ~np.isfinite(values)
    low, high = _SCALE
    if name in PERCEPTION:
        wrong |= (values < low) | (values > high)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        wanted = f"a score from {low:g} to {high:g}" if name in PERCEPTION else "a number"
        raise BadInputError(
            f"The column {name} holds {text.iloc[row]!r} for the photo {column.index[row]}; "
            f"{wanted} is needed."
        )
    return values
