"""Pixel grids and windows of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import DatasetReader

from gair_core.errors import BadInputError
from gair_core.geo.footprint import (
    Float64Array,
    Footprint,
    apply_affine,
    check_geometry,
    parse_crs,
    transform_points,
)

# An axis this close to the wanted pixel size is left alone: UTM's own scale differs from the ground by up to
# 0.1 %, and resampling 9.97 m to 10 m would blur for nothing.
_GSD_TOLERANCE = 0.02

# Computed extents miss pixel edges by rounding; a millionth of a pixel is no reason for one more pixel.
_EDGE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels.

    Attributes:
        row: First row, from 0 at the top.
        col: First column, from 0 at the left.
        height: Number of rows.
        width: Number of columns.
    """

    row: int
    col: int
    height: int
    width: int

    @property
    def row_stop(self) -> int:
        """The row after the last."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """The column after the last."""
        return self.col + self.width


@dataclass(frozen=True)
class Grid:
    """A grid of pixels on the ground.

    Attributes:
        crs: Coordinate reference system, or anything that `CRS.from_user_input` understands.
        transform: From (column, row), pixel edges at whole numbers, to coordinates of ``crs``.
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
    def from_dataset(cls, dataset: DatasetReader) -> Grid:
        """Return the grid of an open dataset; raises `BadInputError` where it has no place on Earth."""
        place = Footprint.from_dataset(dataset)
        return cls(place.crs, place.transform, place.width, place.height)

    @property
    def footprint(self) -> Footprint:
        """The ground that the grid covers."""
        return Footprint(self.crs, self.transform, self.width, self.height)

    @property
    def full_window(self) -> Window:
        """The window of all pixels."""
        return Window(0, 0, self.height, self.width)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top in units of ``crs``; of a rotated grid the rectangle around it."""
        corners = np.array(
            [[0, 0], [self.width, 0], [0, self.height], [self.width, self.height]], dtype=np.float64
        )
        points = apply_affine(self.transform, corners)
        left, bottom = points.min(axis=0)
        right, top = points.max(axis=0)
        return float(left), float(bottom), float(right), float(top)

    def crop(self, window: Window) -> Grid:
        """Return the grid of the pixels of a window."""
        transform = self.transform * Affine.translation(window.col, window.row)
        return Grid(self.crs, transform, window.width, window.height)

    def resampled(self, gsd: float) -> Grid:
        """Return a grid over the same extent with pixels of ``gsd`` metres.

        Each axis gets max(1, round(its length in metres / gsd)) pixels, so that the extent is kept to the
        last bit and the pixel size only nearly; an axis within 2 % of ``gsd`` stays as it is.

        Raises:
            BadInputError: ``gsd`` is not a positive number.
        """
        if not (np.isfinite(gsd) and gsd > 0):
            raise BadInputError(f"The resolution {gsd} m is impossible.", "Give a positive number of metres.")
        width, height = (
            size if abs(pixel / gsd - 1) <= _GSD_TOLERANCE else max(1, round(size * pixel / gsd))
            for size, pixel in zip((self.width, self.height), self.footprint.pixel_size_metres(), strict=True)
        )
        if (width, height) == (self.width, self.height):
            return self
        transform = self.transform * Affine.scale(self.width / width, self.height / height)
        return Grid(self.crs, transform, width, height)

    def window(
        self, extent: tuple[float, float, float, float], extent_crs: CRS | str | None = None
    ) -> Window:
        """Return the smallest window of whole pixels that covers an extent, clipped to the grid.

        Args:
            extent: Left, bottom, right and top.
            extent_crs: CRS of the extent; None for the grid's own.

        Raises:
            BadInputError: The extent is empty, turned around or does not meet the grid.
        """
        left, bottom, right, top = extent
        if not (np.all(np.isfinite(extent)) and left < right and bottom < top):
            raise BadInputError(
                f"The extent ({left}, {bottom}, {right}, {top}) is empty.",
                "Give left, bottom, right and top, in this order, in the extent's CRS.",
            )
        crs = self.crs if extent_crs is None else parse_crs(extent_crs)
        near = self._clip(extent, crs)
        if near is None:
            raise self._disjoint(extent, crs)
        points = transform_points(_outline(*near), crs, self.crs)
        points = points[np.all(np.isfinite(points), axis=1)]
        if len(points) == 0:
            raise self._disjoint(extent, crs)
        pixels = apply_affine(~self.transform, points)
        size = np.array([self.width, self.height])
        start = np.clip(np.floor(pixels.min(axis=0) + _EDGE_TOLERANCE), 0, size).astype(int)
        stop = np.clip(np.ceil(pixels.max(axis=0) - _EDGE_TOLERANCE), 0, size).astype(int)
        if np.any(stop <= start):
            raise self._disjoint(extent, crs)
        return Window(int(start[1]), int(start[0]), int(stop[1] - start[1]), int(stop[0] - start[0]))

    def _clip(
        self, extent: tuple[float, float, float, float], crs: CRS
    ) -> tuple[float, float, float, float] | None:
        """Cut an extent to the grid's surroundings: a projection is only sure to be defined there."""
        outline = apply_affine(self.transform, _outline(0, 0, self.width, self.height))
        outline = transform_points(outline, self.crs, crs)
        outline = outline[np.all(np.isfinite(outline), axis=1)]
        if len(outline) == 0:
            return extent
        low, high = outline.min(axis=0), outline.max(axis=0)
        margin = 0.05 * (high - low)  # straight edges become curves between the outline's points
        left, bottom = np.maximum(low - margin, extent[:2])
        right, top = np.minimum(high + margin, extent[2:])
        if left >= right or bottom >= top:
            return None
        return float(left), float(bottom), float(right), float(top)

    def _disjoint(self, extent: tuple[float, float, float, float], crs: CRS) -> BadInputError:
        own = ", ".join(f"{value:.7g}" for value in self.bounds)
        return BadInputError(
            f"The extent ({', '.join(f'{value:.7g}' for value in extent)}) in {crs} does not meet the scene, "
            f"which covers ({own}) in {self.crs}.",
            "Choose an extent inside the scene, and check its CRS.",
        )


def _outline(left: float, bottom: float, right: float, top: float, steps: int = 64) -> Float64Array:
    """Return points along a rectangle, (4 * (steps + 1), 2): a straight edge is a curve in another CRS."""
    x = np.linspace(left, right, steps + 1)
    y = np.linspace(bottom, top, steps + 1)
    return np.concatenate(
        [
            np.column_stack([x, np.full_like(x, bottom)]),
            np.column_stack([x, np.full_like(x, top)]),
            np.column_stack([np.full_like(y, left), y]),
            np.column_stack([np.full_like(y, right), y]),
        ]
    )
