"""Finding the columns of a table that hold positions, photo paths, headings and projections."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from gair_core.errors import BadInputError
from gair_core.photos.reading import SUFFIXES

# In order of preference, in lower case; positions in pairs, so that "x" never meets "lat".
POSITIONS: Final = (
    ("lon", "lat"),
    ("longitude", "latitude"),
    ("lng", "lat"),
    ("long", "lat"),
    ("lon", "latitude"),
    ("gpslongitude", "gpslatitude"),
    ("x", "y"),
)
PHOTOS: Final = (
    "photo",
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "image",
    "image_path",
    "picture",
)
HEADINGS: Final = ("heading", "compass_angle", "direction", "gpsimgdirection", "bearing", "azimuth")
PROJECTIONS: Final = ("projection_type", "projection", "camera_type")


def position_columns(
    columns: Iterable[str], lon_field: str | None, lat_field: str | None, where: str
) -> tuple[str, str] | None:
    """Return the names of the longitude and the latitude column, None where a table has none.

    Raises:
        BadInputError: A named column does not exist, or only one of the two was named.
    """
    names = list(columns)
    if lon_field is not None and lat_field is not None:
        return named_column(names, lon_field, where), named_column(names, lat_field, where)
    if lon_field is not None or lat_field is not None:
        raise BadInputError(
            f"Only one position column was named ({lon_field or lat_field}).",
            "Name both the longitude and the latitude column, or neither.",
        )
    known = {name.strip().lower(): name for name in reversed(names)}
    for lon, lat in POSITIONS:
        if lon in known and lat in known:
            return known[lon], known[lat]
    return None


def photo_column(frame: pd.DataFrame, field: str | None, where: str) -> str:
    """Return the name of the column with photo paths: the named one, else by content, else by usual name.

    Raises:
        BadInputError: There is no such column, or several could be meant.
    """
    names = [str(name) for name in frame.columns]
    if field is not None:
        return named_column(names, field, where)
    with_files = [name for name in names if _holds_photo_files(frame[name])]
    usual = usual_column(with_files, PHOTOS) or (None if with_files else usual_column(names, PHOTOS))
    if usual is not None:
        return usual
    if len(with_files) == 1:
        return with_files[0]
    found = (
        f"the columns {', '.join(with_files)} all do" if with_files else f"found {', '.join(names) or 'none'}"
    )
    raise BadInputError(
        f"{where} needs one column with paths of photos; {found}.", "Name it as the photo field."
    )


def usual_column(columns: Iterable[str], wanted: Iterable[str]) -> str | None:
    """Return the first of `columns` that carries one of the wanted names, in the order of those names."""
    known = {name.strip().lower(): name for name in reversed(list(columns))}
    return next((known[name] for name in wanted if name in known), None)


def named_column(columns: Iterable[str], field: str, where: str) -> str:
    """Return `field` if it is a column.

    Raises:
        BadInputError: It is none; lists those that there are.
    """
    names = list(columns)
    if field not in names:
        raise BadInputError(f"{where} has no column {field}; it has {', '.join(names) or 'none'}.")
    return field


def numbers(column: pd.Series) -> npt.NDArray[np.float64]:
    """Return a column as float64, NaN where it is empty or no number; a decimal comma is understood."""
    if not pd.api.types.is_numeric_dtype(column):
        column = column.astype("string").str.strip().str.replace(",", ".", regex=False)
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    finite: npt.NDArray[np.float64] = np.where(np.isfinite(values), values, np.nan)
    return finite


def typed(column: pd.Series) -> pd.Series:
    """Return a column of text as numbers where that loses nothing, with None for empty cells.

    Identifiers stay text: integers of 15 and more digits (a double holds no more) and leading zeros.
    """
    text = column.astype("string").str.strip()
    filled = text[text.notna() & (text != "")]
    looks_like_id = filled.str.fullmatch(r"[+-]?(?:0\d+|\d{15,})")
    if filled.empty or looks_like_id.any() or not filled.str.fullmatch(r"[+-]?[\d.]+(?:[eE][+-]?\d+)?").all():
        return column.astype(object).where(text.notna() & (text != ""), None)
    values = pd.to_numeric(text.where(text != ""), errors="coerce")
    if values.notna().sum() < len(filled):
        return column.astype(object).where(text.notna() & (text != ""), None)
    if filled.str.fullmatch(r"[+-]?\d+").all():
        return values.astype("int64" if len(filled) == len(text) else "Int64")
    return values.astype("float64")


def _holds_photo_files(column: pd.Series) -> bool:
    if pd.api.types.is_numeric_dtype(column):
        return False
    filled = [value for value in column if isinstance(value, str) and value.strip()]
    return bool(filled) and all(_suffix(value) in SUFFIXES for value in filled)


def _suffix(value: str) -> str:
    return PurePosixPath(value.strip().replace("\\", "/")).suffix.lower()
