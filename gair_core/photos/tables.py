"""Photos and points as users have them: layers, CSV tables, and folders of photos with GPS positions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from typing_extensions import Self

from gair_core.errors import BadInputError
from gair_core.geo.footprint import check_lonlat
from gair_core.photos import columns
from gair_core.photos.exif import PhotoTags, read_tags
from gair_core.photos.panoramas import PROJECTION_TYPES
from gair_core.photos.reading import SUFFIXES

CSV_SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt"})
PARQUET_SUFFIXES: Final = frozenset({".parquet", ".geoparquet"})
_KINDS: Final = "GeoPackage, GeoJSON, Shapefile, Parquet and CSV tables and folders of photos can be read."
_CRS: Final = "EPSG:4326"


@dataclass(frozen=True)
class PointTable:
    """Places with their attributes.

    Attributes:
        source: The file or folder that the table was read from.
        frame: The attributes, column by column as they were, and the position as a geometry in longitude
            and latitude (WGS 84), empty where a row has none. The index counts from 0.
        lonlat: Longitude and latitude in degrees, float64 (N, 2); NaN where a row has no usable position.
    """

    source: Path
    frame: gpd.GeoDataFrame
    lonlat: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.lonlat)

    @property
    def placed(self) -> npt.NDArray[np.bool_]:
        """Whether each row has a position, bool (N,)."""
        return _placed(self.lonlat)

    def take(self, rows: npt.ArrayLike) -> Self:
        """Return the given rows (indices, or one boolean a row) as a new table."""
        chosen = _indices(rows)
        frame = self.frame.iloc[chosen].reset_index(drop=True)
        return replace(self, frame=frame, lonlat=self.lonlat[chosen])


@dataclass(frozen=True)
class PhotoTable(PointTable):
    """Photos with their places and attributes.

    Attributes:
        paths: A path for each row, whether or not the file exists; None where the row names no photo.
        heading: Compass direction of each photo (of a panorama's centre) in degrees, as stored; NaN where
            unknown.
        panorama: Whether the table or the photo's tags call it a full panorama.
    """

    paths: tuple[Path | None, ...]
    heading: npt.NDArray[np.float64]
    panorama: npt.NDArray[np.bool_]

    def take(self, rows: npt.ArrayLike) -> Self:
        """Return the given rows (indices, or one boolean a row) as a new table."""
        chosen = _indices(rows)
        return replace(
            super().take(chosen),
            paths=tuple(self.paths[row] for row in chosen),
            heading=self.heading[chosen],
            panorama=self.panorama[chosen],
        )

    def name(self, row: int) -> str:
        """Return what to call a photo in a message: its path within the table's folder, or its row."""
        path = self.paths[row]
        if path is None:
            return f"row {row + 1}"
        folder = self.source if self.source.is_dir() else self.source.parent
        return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def read_photos(
    source: str | Path,
    *,
    photo_field: str | None = None,
    lon_field: str | None = None,
    lat_field: str | None = None,
    layer: str | None = None,
) -> PhotoTable:
    """Read a table of photos, or the photos of a folder with the positions in their tags.

    Rows without a photo or a position are kept; `usable` drops what a task cannot work with.

    Args:
        source: A vector file with points in any CRS, a CSV table in longitude and latitude, a folder
            (searched with its subfolders, in the order of the paths) or a single photo.
        photo_field: Column with the photos' paths, absolute or relative to the table's folder. By default
            the column whose values are names of image files.
        lon_field: Longitude column of a table without geometries; by default found by its name.
        lat_field: Latitude column, likewise.
        layer: Layer of a file with several.

    Raises:
        BadInputError: The source is missing, no such table, empty, or ambiguous in its columns, layers or
            coordinates.
    """
    path = _existing(source)
    if path.is_dir() and path.suffix.lower() != ".gdb":
        return _photos_with_tags(path, _photo_files(path))
    if path.suffix.lower() in SUFFIXES:
        return _photos_with_tags(path.parent, [path])
    points = _read_table(path, lon_field, lat_field, layer, need_positions=False)
    attributes = points.frame.drop(columns=points.frame.geometry.name)
    field = columns.photo_column(attributes, photo_field, f"The table {path}")
    return PhotoTable(
        source=path,
        frame=points.frame,
        lonlat=points.lonlat,
        paths=tuple(_resolve(value, path.parent) for value in attributes[field]),
        heading=_headings(attributes),
        panorama=_panoramas(attributes),
    )


def read_points(
    source: str | Path,
    *,
    lon_field: str | None = None,
    lat_field: str | None = None,
    layer: str | None = None,
) -> PointTable:
    """Read a table of points; arguments and errors as in `read_photos`, a folder of photos included.

    Raises:
        BadInputError: Also when the table has no positions at all.
    """
    path = _existing(source)
    if (path.is_dir() and path.suffix.lower() != ".gdb") or path.suffix.lower() in SUFFIXES:
        photos = read_photos(path)
        return PointTable(photos.source, photos.frame, photos.lonlat)
    return _read_table(path, lon_field, lat_field, layer, need_positions=True)


def _existing(source: str | Path) -> Path:
    path = Path(source).expanduser().absolute()
    if not path.exists():
        raise BadInputError(f"{path} does not exist.", _KINDS)
    return path


def _read_table(
    path: Path, lon_field: str | None, lat_field: str | None, layer: str | None, *, need_positions: bool
) -> PointTable:
    if path.suffix.lower() in CSV_SUFFIXES:
        frame = _read_csv(path)
    elif path.suffix.lower() in PARQUET_SUFFIXES:
        frame = _read_parquet(path)
    else:
        frame = _read_vector(path, layer)
    if frame.empty:
        raise BadInputError(f"The table {path} has no rows.")
    if isinstance(frame, gpd.GeoDataFrame) and lon_field is None and lat_field is None:
        frame, lonlat = _in_degrees(frame, path)
    else:
        frame = (
            pd.DataFrame(frame.drop(columns=frame.geometry.name))
            if isinstance(frame, gpd.GeoDataFrame)
            else frame
        )
        lonlat = _positions_from_columns(frame, lon_field, lat_field, path, need_positions=need_positions)
    lonlat = _without_impossible(lonlat, path)
    if need_positions and not _placed(lonlat).any():
        raise BadInputError(
            f"No row of {path} has a position.", "Points with longitude and latitude are needed."
        )
    return PointTable(path, with_positions(frame, lonlat), lonlat)


def with_positions(frame: pd.DataFrame, lonlat: npt.NDArray[np.float64]) -> gpd.GeoDataFrame:
    """Return attributes as a layer of points in longitude and latitude, empty geometries where NaN."""
    known = _placed(lonlat)
    points = np.full(len(lonlat), None, dtype=object)
    points[known] = shapely.points(lonlat[known])
    name = "geometry"
    while name in frame.columns:
        name += "_"
    plain = pd.DataFrame(frame).reset_index(drop=True)
    geometry = gpd.GeoSeries(points, crs=_CRS)
    return gpd.GeoDataFrame(plain.assign(**{name: geometry}), geometry=name, crs=_CRS)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline())
        frame = pd.read_csv(
            path, sep=delimiter, encoding="utf-8-sig", dtype=str, keep_default_na=False, skipinitialspace=True
        )
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{path} is not UTF-8 text ({error.reason}).", "Save the table as UTF-8."
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, OSError) as error:
        raise BadInputError(
            f"{path} cannot be read as a table: {error}.", "Every row needs the header's number of columns."
        ) from None
    if isinstance(frame.index, pd.MultiIndex) or not isinstance(frame.index, pd.RangeIndex):
        raise BadInputError(f"The rows of {path} have more columns than its header.", "Name every column.")
    return pd.DataFrame({name: columns.typed(frame[name]) for name in frame.columns})


def _delimiter(header: str) -> str:
    """Return the separator that splits a header into most columns; a quoted one does not count."""
    candidates = (",", ";", "\t", "|")
    counts = [len(next(csv.reader([header], delimiter=candidate), [])) for candidate in candidates]
    return candidates[int(np.argmax(counts))]


def _read_vector(path: Path, layer: str | None) -> pd.DataFrame:
    try:
        return gpd.read_file(path, layer=_choose_layer(path, layer), engine="pyogrio")
    except (DataSourceError, DataLayerError) as error:
        raise BadInputError(f"{path} cannot be read as a table: {error}.", _KINDS) from None


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read GeoParquet, which few builds of GDAL can, or Parquet without geometries."""
    try:
        stored = pq.read_schema(path).metadata or {}
        return gpd.read_parquet(path) if b"geo" in stored else pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise BadInputError(f"{path} cannot be read as a table: {error}.", _KINDS) from None


def _choose_layer(path: Path, layer: str | None) -> str:
    """Return the layer to read: the named one, the only one, or the only one with geometries."""
    listed = pyogrio.list_layers(path)
    names = [str(name) for name, _ in listed]
    if layer is not None:
        if layer not in names:
            raise BadInputError(f"{path} has no layer {layer}; it has {', '.join(names)}.")
        return layer
    spatial = [str(name) for name, kind in listed if kind is not None]
    candidates = spatial or names
    if len(candidates) != 1:
        raise BadInputError(
            f"{path} has {len(candidates)} layers: {', '.join(candidates) or 'none'}.",
            "Name the layer to read.",
        )
    return candidates[0]


def _in_degrees(frame: gpd.GeoDataFrame, path: Path) -> tuple[pd.DataFrame, npt.NDArray[np.float64]]:
    """Return the attributes of a layer of points, and its positions in longitude and latitude."""
    geometry = _single_points(frame.geometry, path)
    if geometry.crs is None:
        raise BadInputError(
            f"{path} has no coordinate reference system, so its points could be anywhere.",
            "Assign one, for example with Set layer CRS in QGIS, or add the missing .prj file.",
        )
    degrees = geometry.to_crs(_CRS)
    lonlat = np.full((len(frame), 2), np.nan)
    known = ~(degrees.isna() | degrees.is_empty).to_numpy()
    points = degrees.to_numpy()[known]
    lonlat[known] = np.column_stack([shapely.get_x(points), shapely.get_y(points)])
    return frame.drop(columns=frame.geometry.name), lonlat


def _single_points(geometry: gpd.GeoSeries, path: Path) -> gpd.GeoSeries:
    """Return a series of points, with collections of one point unpacked."""
    shapes = geometry.to_numpy()
    kinds = shapely.get_type_id(shapes)
    multiple = (kinds == shapely.GeometryType.MULTIPOINT) & (shapely.get_num_geometries(shapes) <= 1)
    known = (kinds == shapely.GeometryType.POINT) | (kinds == shapely.GeometryType.MISSING)
    if not np.all(known | multiple):
        first = int(np.flatnonzero(~(known | multiple))[0])
        raise BadInputError(
            f"Row {first + 1} of {path} is a {shapes[first].geom_type}; points are needed.",
            "Convert the layer to points, for example with Centroids in QGIS.",
        )
    unpacked = np.where(multiple, shapely.get_geometry(shapes, 0), shapes)
    return gpd.GeoSeries(unpacked, crs=geometry.crs)


def _positions_from_columns(
    frame: pd.DataFrame, lon_field: str | None, lat_field: str | None, path: Path, *, need_positions: bool
) -> npt.NDArray[np.float64]:
    found = columns.position_columns(map(str, frame.columns), lon_field, lat_field, str(path))
    if found is not None:
        return np.column_stack([columns.numbers(frame[name]) for name in found])
    if need_positions:
        raise BadInputError(
            f"{path} has no columns for longitude and latitude; it has {', '.join(map(str, frame.columns))}.",
            "Name the two columns, or call them lon and lat.",
        )
    return np.full((len(frame), 2), np.nan)


def _without_impossible(lonlat: npt.NDArray[np.float64], path: Path) -> npt.NDArray[np.float64]:
    """Return positions with NaN for half known and impossible ones; refuse when most are impossible.

    A typing error costs one photo; swapped or projected columns are the user's to correct.
    """
    known = _placed(lonlat)
    lon, lat = np.where(known[:, None], lonlat, 0.0).T
    possible = known & (np.abs(lon) <= 180) & (np.abs(lat) <= 90)
    if possible.sum() * 2 < known.sum():
        try:
            check_lonlat(lonlat[known])
        except BadInputError as error:
            raise BadInputError(f"{path}: {error.message}", error.hint) from None
    return np.where(possible[:, None], lonlat, np.nan)


def _resolve(value: object, folder: Path) -> Path | None:
    """Return a photo's path from a cell, relative to the table's folder; None for an empty cell."""
    if not isinstance(value, str) or not value.strip():
        return None
    path = folder / value.strip()
    if "\\" in value and not path.exists():
        # A table that was made on Windows.
        return folder / value.strip().replace("\\", "/")
    return path


def _headings(attributes: pd.DataFrame) -> npt.NDArray[np.float64]:
    field = columns.usual_column(map(str, attributes.columns), columns.HEADINGS)
    if field is None:
        return np.full(len(attributes), np.nan)
    return columns.numbers(attributes[field])


def _panoramas(attributes: pd.DataFrame) -> npt.NDArray[np.bool_]:
    field = columns.usual_column(map(str, attributes.columns), columns.PROJECTIONS)
    if field is None:
        return np.zeros(len(attributes), dtype=bool)
    return np.array(
        [str(value).strip().lower() in PROJECTION_TYPES for value in attributes[field]], dtype=bool
    )


def _photo_files(folder: Path) -> list[Path]:
    """Return the photos in a folder and its subfolders, sorted; hidden files (macOS's ._ twins) left out."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        raise BadInputError(
            f"The folder {folder} holds no photos.",
            f"Photos have the suffixes {', '.join(sorted(SUFFIXES))}.",
        )
    return found


def _photos_with_tags(folder: Path, paths: Sequence[Path]) -> PhotoTable:
    tags = [_tags_or_none(path) for path in paths]
    lonlat = np.array([[item.longitude, item.latitude] for item in tags], dtype=np.float64)
    frame = pd.DataFrame(
        {
            "photo": [path.relative_to(folder).as_posix() for path in paths],
            "altitude": [item.altitude for item in tags],
            "direction": [item.direction for item in tags],
            "direction_reference": [item.direction_reference for item in tags],
            "taken": [item.taken.isoformat() if item.taken else None for item in tags],
        }
    ).astype({"altitude": "float64", "direction": "float64", "direction_reference": object, "taken": object})
    return PhotoTable(
        source=folder,
        frame=with_positions(frame, lonlat),
        lonlat=lonlat,
        paths=tuple(paths),
        heading=frame["direction"].to_numpy(dtype=np.float64),
        panorama=np.array([item.panorama for item in tags], dtype=bool),
    )


def _tags_or_none(path: Path) -> PhotoTags:
    try:
        return read_tags(path)
    except BadInputError:  # `usable` names it in a warning, as any photo that cannot be opened.
        return PhotoTags()


def _placed(lonlat: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.isfinite(lonlat[:, 0]) & np.isfinite(lonlat[:, 1])


def _indices(rows: npt.ArrayLike) -> npt.NDArray[np.intp]:
    chosen = np.asarray(rows)
    return np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.intp)
