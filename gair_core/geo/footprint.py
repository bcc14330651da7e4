"""A georeferenced rectangle, and the way from longitude and latitude into it.

All arithmetic is float64: float32 degrees lose about a metre.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader

from gair_core.errors import BadInputError

Float64Array = npt.NDArray[np.float64]

_LONLAT = "OGC:CRS84"
_GEOD = pyproj.Geod(ellps="WGS84")


@dataclass(frozen=True)
class Footprint:
    """The ground that an image covers.

    Attributes:
        crs: Coordinate reference system, or anything that `CRS.from_user_input` understands.
        transform: From pixel coordinates (column, row; edges at whole numbers) to coordinates of ``crs``.
        width: Pixels per row.
        height: Pixels per column.

    Raises:
        BadInputError: There is no usable CRS, the transform cannot be inverted, or the size is not positive.
    """

    crs: CRS
    transform: Affine
    width: int
    height: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "crs", parse_crs(self.crs))
        check_geometry(self.transform, self.width, self.height)

    @classmethod
    def from_bounds(
        cls, left: float, bottom: float, right: float, top: float, *, crs: CRS | str, width: int, height: int
    ) -> Footprint:
        """Return the north-up footprint between two corners, in units of ``crs``."""
        if not (left < right and bottom < top):
            raise BadInputError(
                f"The bounds ({left}, {bottom}, {right}, {top}) are empty or turned around.",
                "Give them as left, bottom, right, top.",
            )
        check_geometry(Affine.identity(), width, height)
        transform = Affine((right - left) / width, 0, left, 0, (bottom - top) / height, top)
        return cls(crs, transform, width, height)

    @classmethod
    def from_dataset(cls, dataset: DatasetReader) -> Footprint:
        """Return the footprint of an open rasterio dataset.

        Raises:
            BadInputError: The dataset has no CRS or no transform.
        """
        if not dataset.crs:
            raise BadInputError(
                f"{dataset.name} has no coordinate reference system, so its place on Earth is unknown.",
                "Assign one, for example with gdal_edit.py -a_srs EPSG:32633.",
            )
        if dataset.transform == Affine.identity():
            raise BadInputError(
                f"{dataset.name} has a CRS but no transform from pixels to coordinates.",
                "Georeference it, for example with gdalwarp.",
            )
        return cls(dataset.crs, dataset.transform, dataset.width, dataset.height)

    def uv(self, lonlat: npt.ArrayLike) -> Float64Array:
        """Return where places lie in the footprint.

        Args:
            lonlat: Longitudes and latitudes in degrees (WGS 84), of shape (N, 2).

        Returns:
            (u, v) of shape (N, 2), u to the right and v down from the top edge, [0, 1] inside the
            footprint; infinite where the CRS is not defined.

        Raises:
            BadInputError: A longitude or latitude is out of range.
        """
        places = check_lonlat(lonlat)
        x, y = _transformer(_LONLAT, self.crs.to_wkt()).transform(places[:, 0], places[:, 1])
        if self.crs.is_geographic:
            # A footprint that crosses the date line has bounds beyond ±180 degrees.
            centre = apply_affine(self.transform, np.array([[self.width / 2, self.height / 2]]))[0, 0]
            x = x + 360 * np.round((centre - x) / 360)
        pixels = apply_affine(~self.transform, np.column_stack([x, y]))
        return pixels / np.array([self.width, self.height], dtype=np.float64)

    def lonlat(self, uv: npt.ArrayLike) -> Float64Array:
        """Return longitude and latitude in degrees, (N, 2), of places (u, v) of shape (N, 2)."""
        places = _pairs(uv, "(u, v)") * np.array([self.width, self.height], dtype=np.float64)
        xy = apply_affine(self.transform, places)
        lon, lat = _transformer(self.crs.to_wkt(), _LONLAT).transform(xy[:, 0], xy[:, 1])
        wrapped = np.where(np.abs(lon) > 180, (np.asarray(lon) + 180) % 360 - 180, lon)
        return np.column_stack([wrapped, lat]).astype(np.float64)

    def contains(self, uv: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return for each (u, v) of shape (N, 2) whether it lies inside; the far edges lie outside."""
        places = _pairs(uv, "(u, v)")
        return cast("npt.NDArray[np.bool_]", np.all((places >= 0) & (places < 1), axis=1))

    def check_not_swapped(self, lonlat: npt.ArrayLike) -> None:
        """Refuse longitudes and latitudes that were given the other way round beyond doubt.

        Raises:
            BadInputError: None of the places lies in the footprint, but swapped all of them do.
        """
        places = check_lonlat(lonlat)
        if len(places) == 0 or np.any(np.abs(places[:, 0]) > 90) or np.any(self.contains(self.uv(places))):
            return
        if np.all(self.contains(self.uv(places[:, ::-1]))):
            raise BadInputError(
                f"None of the {len(places)} places lies in the scene, but with longitude and latitude "
                "swapped all of them do.",
                "Swap longitude and latitude.",
            )

    def pixel_size_metres(self) -> tuple[float, float]:
        """Return the size (x, y) of the central pixel on the ground, in metres along the geodesic."""
        u, v = 0.5 / self.width, 0.5 / self.height
        ends = self.lonlat([[0.5 - u, 0.5], [0.5 + u, 0.5], [0.5, 0.5 - v], [0.5, 0.5 + v]])
        if not np.all(np.isfinite(ends)):
            raise BadInputError(
                f"The scene's centre is outside the area of its coordinate reference system {self.crs}.",
                "Check that the right CRS is assigned.",
            )
        lon, lat = ends[:, 0], ends[:, 1]
        _, _, size = _GEOD.inv(lon[0::2], lat[0::2], lon[1::2], lat[1::2])
        return float(size[0]), float(size[1])


def check_lonlat(lonlat: npt.ArrayLike) -> Float64Array:
    """Return longitudes and latitudes as float64 of shape (N, 2) after checking their range.

    Raises:
        BadInputError: A value is not finite or out of range; the hint says to swap when that would help.
    """
    places = _pairs(lonlat, "(longitude, latitude)")
    limits = np.array([180.0, 90.0])
    wrong = ~np.all(np.abs(places) <= limits, axis=1)
    if not np.any(wrong):
        return places
    row = int(np.flatnonzero(wrong)[0])
    lon, lat = (float(value) for value in places[row])
    swapped = bool(np.all(np.abs(places[:, ::-1]) <= limits))
    hint = (
        "Swap them: swapped, all of them are in range."
        if swapped
        else "Give WGS 84 degrees, longitude first; projected coordinates must be converted."
    )
    raise BadInputError(
        f"Place {row + 1} of {len(places)} has longitude {lon} and latitude {lat}; "
        "longitudes lie in [-180, 180] and latitudes in [-90, 90].",
        hint,
    )


def parse_crs(crs: CRS | str) -> CRS:
    """Return a rasterio CRS from any spelling of one.

    Raises:
        BadInputError: There is none or it cannot be understood.
    """
    if isinstance(crs, CRS) and crs:
        return crs
    try:
        parsed = CRS.from_user_input(crs)
    except CRSError:
        parsed = CRS()
    if not parsed:
        raise BadInputError(
            f"{crs!r} is not a coordinate reference system.", "Give one such as EPSG:32633 or EPSG:4326."
        )
    return parsed


def check_geometry(transform: Affine, width: int, height: int) -> None:
    """Refuse a grid without pixels or without area.

    Raises:
        BadInputError: The size is not positive or the transform cannot be inverted.
    """
    if width < 1 or height < 1:
        raise BadInputError(f"Found {width} x {height} pixels, wanted at least 1 x 1.")
    if not np.all(np.isfinite(tuple(transform)[:6])) or transform.determinant == 0:
        raise BadInputError(f"The transform {tuple(transform)[:6]} has pixels without area.")


def transform_points(points: Float64Array, source: CRS, target: CRS) -> Float64Array:
    """Return points (N, 2) of one CRS in another, x (or longitude) first; infinite where undefined."""
    if source == target:
        return points
    x, y = _transformer(source.to_wkt(), target.to_wkt()).transform(points[:, 0], points[:, 1])
    return np.column_stack([x, y]).astype(np.float64)


def apply_affine(transform: Affine, points: Float64Array) -> Float64Array:
    """Return ``transform`` applied to points of shape (N, 2)."""
    matrix = np.array([[transform.a, transform.b], [transform.d, transform.e]], dtype=np.float64)
    # Written out, because 0 * inf of a matrix product would turn an undefined coordinate into NaN and warn.
    with np.errstate(invalid="ignore"):
        x = matrix[0, 0] * points[:, 0] + matrix[0, 1] * points[:, 1] + transform.c
        y = matrix[1, 0] * points[:, 0] + matrix[1, 1] * points[:, 1] + transform.f
    return np.column_stack([x, y])


def _pairs(values: npt.ArrayLike, meaning: str) -> Float64Array:
    pairs = np.asarray(values, dtype=np.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise BadInputError(f"Found an array of shape {pairs.shape}, wanted N pairs {meaning}.")
    return pairs


@lru_cache(maxsize=32)
def _transformer(source: str, target: str) -> pyproj.Transformer:
    try:
        return pyproj.Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        name = (target if source == _LONLAT else source).split(",")[0]
        raise BadInputError(
            f"The coordinate reference system {name} has no known relation to lon/lat: {error}.",
            "Assign a geographic or projected CRS, such as EPSG:32633.",
        ) from error
