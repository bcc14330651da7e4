"""Features of a scene's own pixels: their bands, and means over small windows around them.

Training reads them at labelled pixels and prediction strip by strip, both by the functions here. Every value
is a sum over its own few pixels in a fixed order, so that it does not depend, to the last bit, on the window
that it was computed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gair_core.geo.grid import Grid, Window
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.inference.lattice import PixelStrip
from gair_core.sentinel2.scene import Scene, Validity, Values

IntArray = npt.NDArray[np.int64]

# A scene whose pixels differ less from those of the training is read as it is: pixels in degrees are
# narrower than high, and resampling costs sharpness.
_SIZE_TOLERANCE = 1.5
# Pixels that are read at a time: some 20 MB of bands, and five times as much of features.
_STEP = 2**19
# Side of the squares in which single pixels are looked up; a multiple of the usual blocks of files.
_BLOCK = 512


def feature_grid(scene: Scene, features: PixelFeatures) -> Grid:
    """Return the grid whose pixels the features are of.

    It is the scene's own where its pixels are nearly as large as those of the training, so that borders stay
    sharp, and else the scene resampled to their size, so that a window covers as much ground.
    """
    nearly = nearly_same_size(pixel_size(scene.native), features.gsd)
    return scene.native if nearly else scene.native.resampled(features.gsd)


def nearly_same_size(found: float, wanted: float) -> bool:
    """Return whether pixels of one size in metres may be read as those of another without resampling."""
    return 1 / _SIZE_TOLERANCE <= found / wanted <= _SIZE_TOLERANCE


def pixel_size(grid: Grid) -> float:
    """Return the size of a grid's pixels in metres on the ground, the root of their area."""
    width, height = grid.footprint.pixel_size_metres()
    return float((width * height) ** 0.5)


def pixels_under(output: int, pixels: int, start: int, count: int, scale: float | None = None) -> IntArray:
    """Return the pixels of a grid under the centres of output pixels [start, start + count) along an axis.

    Args:
        output: Pixels of the whole output axis.
        pixels: Pixels of the grid along the same axis.
        start: First output pixel.
        count: Number of output pixels.
        scale: Size of an output pixel in pixels of the grid; by default both cover the same extent.
    """
    step = pixels / output if scale is None else scale
    centre = (np.arange(start, start + count) + 0.5) * step
    return np.minimum(centre.astype(np.int64), pixels - 1)


def read_features(
    scene: Scene, grid: Grid, rows: IntArray, columns: IntArray, features: PixelFeatures
) -> tuple[Values, Validity]:
    """Return the features at the crossings of some rows and columns.

    A mean is over the pixels of its window that are within the scene and valid.

    Args:
        scene: The scene.
        grid: From `feature_grid`.
        rows: Rows of ``grid``, rising or equal, shape (n,).
        columns: Columns of ``grid``, rising or equal, shape (m,).
        features: Which features.

    Returns:
        DN, float32, shape (F, n, m), and whether each pixel itself is valid, (n, m).
    """
    margin = features.margin
    top, left = int(rows[0]) - margin, int(columns[0]) - margin
    bottom, right = int(rows[-1]) + margin + 1, int(columns[-1]) + margin + 1
    window = Window(
        max(top, 0),
        max(left, 0),
        min(bottom, grid.height) - max(top, 0),
        min(right, grid.width) - max(left, 0),
    )
    dn, valid = scene.read_on(grid, window)
    beyond = (
        (window.row - top, bottom - window.row_stop),
        (window.col - left, right - window.col_stop),
    )
    # Not valid pixels are 0 in what was read, so that they add nothing to a sum.
    dn, valid = np.pad(dn, ((0, 0), *beyond)), np.pad(valid, beyond)
    parts = [dn[:, (rows - top)[:, None], columns - left]]
    for side in features.windows:
        near = rows - top - side // 2, columns - left - side // 2
        count = _window_sums(valid[None].astype(np.float64), *near, side)
        parts.append((_window_sums(dn, *near, side) / np.maximum(count, 1)).astype(np.float32))
    return np.concatenate(parts), valid[np.ix_(rows - top, columns - left)]


def _window_sums(
    values: npt.NDArray[np.floating], rows: IntArray, columns: IntArray, side: int
) -> npt.NDArray[np.float64]:
    """Return sums over squares; ``rows`` and ``columns`` are their first ones; (C, rows, columns)."""
    vertical = np.zeros((len(values), len(rows), values.shape[2]))
    for step in range(side):
        vertical += values[:, _picked(rows + step)]
    total = np.zeros((len(values), len(rows), len(columns)))
    for step in range(side):
        total += vertical[:, :, _picked(columns + step)]
    return total


def _picked(index: IntArray) -> IntArray | slice:
    """Return an index that needs no copy where it has no gaps."""
    gaps = bool((np.diff(index) != 1).any())
    return index if gaps else slice(int(index[0]), int(index[-1]) + 1)


@dataclass(frozen=True)
class PixelBands:
    """Reads the features at the pixels of an output raster, strip by strip.

    Where the output's pixels are not those of the features' grid, each takes the features of the pixel under
    its centre, as its embedding is the one at its centre.

    Attributes:
        scene: The scene.
        grid: From `feature_grid`.
        features: Which features.
        rows: Row of ``grid`` under each row of the output.
        columns: Column of ``grid`` under each column of the output.
    """

    scene: Scene
    grid: Grid
    features: PixelFeatures
    rows: IntArray
    columns: IntArray

    @classmethod
    def of(cls, scene: Scene, features: PixelFeatures, output: Grid, window: Window) -> PixelBands:
        """Place an output's pixels.

        Args:
            scene: The scene.
            features: Which features.
            output: The whole scene's output grid; same origin and directions as the scene's.
            window: Pixels of it that are wanted.
        """
        grid = feature_grid(scene, features)
        between = ~grid.transform * output.transform
        return cls(
            scene,
            grid,
            features,
            pixels_under(output.height, grid.height, window.row, window.height, between.e),
            pixels_under(output.width, grid.width, window.col, window.width, between.a),
        )

    def strip(self, row: int, height: int) -> PixelStrip:
        """Return the features of output rows [row, row + height)."""
        shape = height, len(self.columns)
        values = np.empty((self.features.count, *shape), np.float32)
        valid = np.empty(shape, np.bool_)
        for part in self._parts(row, height):
            here = slice(part.start - row, part.stop - row)
            values[:, here], valid[here] = read_features(
                self.scene, self.grid, self.rows[part], self.columns, self.features
            )
        return PixelStrip(row, torch.from_numpy(values), valid)

    def _parts(self, row: int, height: int) -> Iterator[slice]:
        """Divide rows of the output: a coarse one has many pixels of the scene between its own."""
        width = int(self.columns[-1] - self.columns[0]) + 1 + 2 * self.features.margin
        most = max(1, _STEP // width - 2 * self.features.margin)
        start = row
        while start < row + height:
            stop = int(np.searchsorted(self.rows, self.rows[start] + most, "left"))
            stop = min(max(stop, start + 1), row + height)
            yield slice(start, stop)
            start = stop


def features_at(
    scene: Scene, grid: Grid, row: IntArray, column: IntArray, features: PixelFeatures
) -> tuple[Values, Validity]:
    """Return the features at single pixels.

    Memory is that of one square of pixels and of the result.

    Args:
        scene: The scene.
        grid: From `feature_grid`.
        row: Rows of ``grid``, shape (N,).
        column: Columns of ``grid``, shape (N,).
        features: Which features.

    Returns:
        DN, float32, shape (N, F), and whether each pixel is valid, (N,).
    """
    values = np.zeros((len(row), features.count), np.float32)
    valid = np.zeros(len(row), np.bool_)
    block = np.stack([row // _BLOCK, column // _BLOCK], axis=1)
    _, members = np.unique(block, axis=0, return_inverse=True)
    order = np.argsort(members.ravel(), kind="stable")
    for chosen in np.split(order, np.flatnonzero(np.diff(members.ravel()[order])) + 1):
        rows, which_row = np.unique(row[chosen], return_inverse=True)
        columns, which_column = np.unique(column[chosen], return_inverse=True)
        found, good = read_features(scene, grid, rows, columns, features)
        values[chosen] = found[:, which_row, which_column].T
        valid[chosen] = good[which_row, which_column]
    return values, valid
