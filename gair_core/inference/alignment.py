"""Two scenes on one grid."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gair_core.geo.footprint import apply_affine, transform_points
from gair_core.geo.grid import Grid, Window
from gair_core.sentinel2.scene import Scene

# Coordinates are rounded to this part of a pixel, so that grids that coincide give back the very same values.
_STEPS_PER_PIXEL = 2**20


class SceneReader(Protocol):
    """What the engine asks of a scene."""

    grid: Grid

    def read(self, window: Window) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Read a window of `grid`; see `gair_core.sentinel2.scene.Scene.read`."""


class AlignedScene:
    """A scene resampled bilinearly on read to the grid of another one; CRS, origin and extent may differ.

    Every pixel's place is computed exactly and by itself, so that the values of a window do not depend on the
    window. A pixel is valid where its centre lies in the scene and at least half of the weight of its four
    neighbours is valid. On a grid that coincides with the scene's own the values are unchanged.

    Args:
        scene: The scene, opened at about the target's ground sampling distance.
        target: The grid to read it on.

    Attributes:
        grid: The target.
    """

    def __init__(self, scene: Scene, target: Grid) -> None:
        self.grid = target
        self._scene = scene

    def read(self, window: Window) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Read a window of `grid`; see `gair_core.sentinel2.scene.Scene.read`."""
        columns, rows = self._places(window)
        own = self._scene.grid
        inside = (columns >= 0) & (columns <= own.width) & (rows >= 0) & (rows <= own.height)
        if not inside.any():
            bands = len(self._scene.band_names)
            return np.zeros((bands, *inside.shape), np.float32), inside
        x, y = (_Neighbours.of(p[inside], size) for p, size in ((columns, own.width), (rows, own.height)))
        top, left = int(y.lower.min()), int(x.lower.min())
        source = Window(top, left, int(y.upper.max()) + 1 - top, int(x.upper.max()) + 1 - left)
        dn, valid = self._scene.read(source)
        found, share = _interpolate(dn, valid, x.moved(left), y.moved(top))
        values = np.zeros((len(dn), *inside.shape), np.float32)
        values[:, inside] = found
        inside[inside] = share >= 0.5
        values[:, ~inside] = 0
        return values, inside

    def _places(self, window: Window) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return column and row of each pixel's centre on the scene's own grid, edges at whole numbers."""
        own = self._scene.grid
        rows, columns = np.mgrid[window.row : window.row_stop, window.col : window.col_stop]
        centres = np.column_stack([columns.ravel(), rows.ravel()]) + 0.5
        points = transform_points(apply_affine(self.grid.transform, centres), self.grid.crs, own.crs)
        if own.crs.is_geographic:
            # A scene that crosses the date line has longitudes beyond ±180 degrees.
            middle = apply_affine(own.transform, np.array([[own.width / 2, own.height / 2]]))[0, 0]
            with np.errstate(invalid="ignore"):
                points[:, 0] += 360 * np.round((middle - points[:, 0]) / 360)
        places = apply_affine(~own.transform, points)
        places = np.round(places * _STEPS_PER_PIXEL) / _STEPS_PER_PIXEL
        column, row = places.T.reshape(2, window.height, window.width)
        return column, row


class CommonPixels:
    """A scene without the pixels that another scene on the same grid has no data for.

    The encoder sees the surroundings of a pixel. Where only one of two dates has a cloud mask or an edge, it
    would see different surroundings of the same ground, and the difference would pass for a change.

    Args:
        scene: The scene.
        other: The other one.
        lock: Shared by everything that reads from either, since each is read by one thread at a time.

    Attributes:
        grid: The grid of both.
    """

    def __init__(self, scene: SceneReader, other: SceneReader, lock: threading.Lock) -> None:
        self.grid = scene.grid
        self._scene, self._other, self._lock = scene, other, lock

    def read(self, window: Window) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Read a window of `grid`; see `gair_core.sentinel2.scene.Scene.read`."""
        with self._lock:
            dn, valid = self._scene.read(window)
            valid &= self._other.read(window)[1]
        dn[:, ~valid] = 0
        return dn, valid


@dataclass(frozen=True)
class _Neighbours:
    """The pixels before and behind places along an axis, and the weight of the one behind."""

    lower: npt.NDArray[np.int64]
    upper: npt.NDArray[np.int64]
    fraction: npt.NDArray[np.float64]

    @classmethod
    def of(cls, places: npt.NDArray[np.float64], size: int) -> _Neighbours:
        clamped = np.clip(places - 0.5, 0, size - 1)
        lower = np.floor(clamped).astype(np.int64)
        return cls(lower, np.minimum(lower + 1, size - 1), clamped - lower)

    def moved(self, start: int) -> _Neighbours:
        return _Neighbours(self.lower - start, self.upper - start, self.fraction)


def _interpolate(
    dn: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], x: _Neighbours, y: _Neighbours
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return the weighted mean of the valid neighbours, (C, places), and the weight that is valid."""
    total = np.zeros((len(dn), len(x.lower)))
    share = np.zeros(len(x.lower))
    for row, row_weight in ((y.lower, 1 - y.fraction), (y.upper, y.fraction)):
        for column, column_weight in ((x.lower, 1 - x.fraction), (x.upper, x.fraction)):
            weight = row_weight * column_weight * valid[row, column]
            total += dn[:, row, column] * weight
            share += weight
    return (total / np.where(share > 0, share, 1)).astype(np.float32), share
