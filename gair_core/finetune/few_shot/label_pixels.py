"""Which pixels of a scene labelled polygons and points stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from rasterio.features import rasterize
from shapely import affinity

from gair_core.finetune.few_shot.labels import IntArray, LabelLayer, Mask, Shapes, is_finite
from gair_core.geo.footprint import apply_affine
from gair_core.geo.grid import Grid, Window

# Pixels of a polygon that are looked at in one go: some arrays of a byte and of 8 bytes each.
_STEP: Final = 1 << 22


@dataclass(frozen=True)
class LabelledPlaces:
    """Pixels of one scene that have a label; no pixel is there twice.

    Attributes:
        row: Row in the grid, int64, shape (N,).
        col: Column in the grid, int64, shape (N,).
        target: Class index, int64, shape (N,).
        polygon: Index of the polygon or point in its layer, int64, shape (N,).
        labelled: Pixels of each class before thinning, int64, shape (classes,).
        outside: Polygons and points of the layer without a pixel here, shape (layer's shapes,).
        partly: Polygons that reach beyond the grid, shape (layer's shapes,).
        disputed: Pixels that were left out because two classes claim them.
        disputing: Pairs of class indices that claim the same pixels.
        small: Polygons that hold no pixel's centre and count as the pixel under their inner point.
    """

    row: IntArray
    col: IntArray
    target: IntArray
    polygon: IntArray
    labelled: IntArray
    outside: Mask
    partly: Mask
    disputed: int
    disputing: frozenset[tuple[int, int]]
    small: int

    def __len__(self) -> int:
        return len(self.row)


def label_places(
    layer: LabelLayer, grid: Grid, *, per_class: int | None = None, seed: int = 0
) -> LabelledPlaces:
    """Return the pixels of a grid that a layer labels.

    A pixel belongs to a polygon that holds its centre (as GDAL rasterizes), and to a point that lies in it. A
    polygon that holds no centre has the pixel under its inner point. Pixels that shapes of two classes claim
    are left out; of those that shapes of one class share, the first shape has them. Vertices are reprojected,
    the edges between them are straight lines in the grid's CRS.

    Memory does not depend on the scene: polygons are worked through in pieces, and with ``per_class`` only so
    many pixels of a class are kept, evenly from its polygons, drawn by a hash of row and column.

    Args:
        layer: The labels.
        grid: The grid.
        per_class: Most pixels of a class; None keeps all.
        seed: Of the draw.
    """
    return _Rasterizer(layer, grid, per_class, seed).run()


class _Rasterizer:
    """Finds the pixels under the shapes of a layer, see `label_places`."""

    def __init__(self, layer: LabelLayer, grid: Grid, per_class: int | None, seed: int) -> None:
        self._layer, self._grid = layer, grid
        self._shapes = reprojected(layer.shapes, grid)
        self._draw = _Draw(len(layer.classes), per_class, seed, grid.width)
        self._polygonal = shapely.get_type_id(self._shapes) == shapely.GeometryType.POLYGON
        self._bounds = _pixel_bounds(self._shapes, grid)
        self._inside = np.zeros(len(self._shapes), dtype=np.int64)
        self._disputed: list[IntArray] = []
        self._disputing: set[tuple[int, int]] = set()
        self._neighbours = self._find_neighbours()

    def run(self) -> LabelledPlaces:
        """Return the pixels."""
        size = np.array([self._grid.width, self._grid.height])
        low, high = self._bounds[:, :2], self._bounds[:, 2:]
        meets: Mask = np.asarray((high > 0).all(axis=1) & (low < size).all(axis=1))
        beyond = (low < 0).any(axis=1) | (high > size).any(axis=1)
        for shape in np.flatnonzero(meets & self._polygonal):
            self._add_polygon(int(shape))
        small = self._add_single_pixels(meets)
        row, col, target, polygon = self._draw.result()
        disputed = np.unique(np.concatenate(self._disputed)) if self._disputed else np.zeros(0, np.int64)
        free = ~np.isin(row * self._grid.width + col, disputed)
        touched = np.zeros(len(self._shapes), dtype=np.bool_)
        touched[self._inside > 0] = True
        return LabelledPlaces(
            row=row[free],
            col=col[free],
            target=target[free],
            polygon=polygon[free],
            labelled=self._draw.counts,
            outside=~touched,
            partly=touched & beyond & self._polygonal,
            disputed=len(disputed),
            disputing=frozenset(self._disputing),
            small=small,
        )

    def _find_neighbours(self) -> dict[int, IntArray]:
        """Return the polygons that share some place with each polygon, itself excluded."""
        polygons = np.flatnonzero(self._polygonal)
        tree = shapely.STRtree(self._shapes[polygons])
        one, other = tree.query(self._shapes[polygons], predicate="intersects")
        pairs = np.column_stack([polygons[one], polygons[other]])[one != other]
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
        return {int(group[0, 0]): group[:, 1] for group in np.split(pairs, starts[1:]) if len(group)}

    def _add_polygon(self, shape: int) -> None:
        target = self._layer.target
        neighbours = self._neighbours.get(shape, np.zeros(0, np.int64))
        same = neighbours[(target[neighbours] == target[shape]) & (neighbours < shape)]
        others = neighbours[target[neighbours] != target[shape]]
        for window in self._windows(shape):
            own = self._burn([shape], window)
            self._inside[shape] += int(own.sum())
            if len(others):
                claimed = own & self._burn(others, window)
                self._dispute(claimed, window, shape, others)
                own &= ~claimed
            if len(same):
                own &= ~self._burn(same, window)
            row, col = np.nonzero(own)
            self._draw.add(row + window.row, col + window.col, int(target[shape]), shape)

    def _dispute(self, claimed: Mask, window: Window, shape: int, others: IntArray) -> None:
        row, col = np.nonzero(claimed)
        if not len(row):
            return
        self._disputed.append((row + window.row) * self._grid.width + col + window.col)
        target = self._layer.target
        for other in others:
            if (claimed & self._burn([int(other)], window)).any():
                low, high = sorted((int(target[shape]), int(target[other])))
                self._disputing.add((low, high))

    def _windows(self, shape: int) -> Iterator[Window]:
        """Return the pixels around a polygon, in pieces of whole rows."""
        left, top, right, bottom = self._bounds[shape]
        first, last = max(int(left), 0), min(int(np.ceil(right)), self._grid.width)
        start, stop = max(int(top), 0), min(int(np.ceil(bottom)), self._grid.height)
        step = max(1, _STEP // max(last - first, 1))
        for row in range(start, stop, step):
            yield Window(row, first, min(step, stop - row), last - first)

    def _burn(self, shapes: Sequence[int] | IntArray, window: Window) -> Mask:
        """Return which pixels of a window have their centre in any of some polygons."""
        burnt = rasterize(
            [(self._shapes[shape], 1) for shape in shapes],
            out_shape=(window.height, window.width),
            transform=self._grid.crop(window).transform,
            dtype="uint8",
        )
        return np.asarray(burnt, dtype=np.bool_)

    def _add_single_pixels(self, meets: Mask) -> int:
        """Add points, and polygons that hold no pixel's centre; return how many of the latter there are."""
        single = np.flatnonzero(meets & (self._inside == 0))
        places = shapely.point_on_surface(self._shapes[single])
        pixels = apply_affine(~self._grid.transform, shapely.get_coordinates(places))
        pixel = np.floor(pixels).astype(np.int64)
        there = ((pixel >= 0) & (pixel < [self._grid.width, self._grid.height])).all(axis=1)
        single, (col, row) = single[there], pixel[there].T
        target = self._layer.target[single]
        covered = self._dispute_single_pixels(row, col, target)
        self._inside[single] = 1
        firsts = np.unique(row * self._grid.width + col, return_index=True)[1]
        for place in firsts[~covered[firsts]]:
            self._draw.add(row[[place]], col[[place]], int(target[place]), int(single[place]))
        return int(self._polygonal[single].sum())

    def _dispute_single_pixels(self, row: IntArray, col: IntArray, target: IntArray) -> Mask:
        """Find which single pixels other classes claim; return which ones a polygon of their class has."""
        key = row * self._grid.width + col
        polygons = np.flatnonzero(self._polygonal & (self._inside > 0))
        centres = apply_affine(self._grid.transform, np.column_stack([col, row]).astype(np.float64) + 0.5)
        tree = shapely.STRtree(self._shapes[polygons])
        point, polygon = tree.query(shapely.points(centres), predicate="intersects")
        claim = self._layer.target[polygons[polygon]]
        covered = np.zeros(len(key), dtype=np.bool_)
        covered[point[claim == target[point]]] = True
        claims = np.unique(np.column_stack([np.append(key, key[point]), np.append(target, claim)]), axis=0)
        keys, first, count = np.unique(claims[:, 0], return_index=True, return_counts=True)
        for place, number in zip(first[count > 1], count[count > 1], strict=True):
            several = claims[place : place + number, 1].tolist()
            self._disputing |= {(one, other) for one in several for other in several if one < other}
        self._disputed.append(keys[count > 1])
        return covered


def reprojected(shapes: gpd.GeoSeries, grid: Grid) -> Shapes:
    """Return geometries in a grid's CRS; empty where that is not defined."""
    moved: Shapes = shapes.to_crs(grid.crs.to_wkt()).to_numpy().copy()
    lost = ~is_finite(moved)
    if lost.any():
        moved[lost] = shapely.Point()
    if grid.crs.is_geographic:
        # A scene that crosses the date line has bounds beyond ±180 degrees.
        left, _, right, _ = grid.bounds
        bounds = shapely.bounds(moved)
        turns = np.round(((left + right) / 2 - (bounds[:, 0] + bounds[:, 2]) / 2) / 360)
        for shape in np.flatnonzero(np.nan_to_num(turns)):
            moved[shape] = affinity.translate(moved[shape], xoff=360 * turns[shape])
    return moved


def _pixel_bounds(shapes: Shapes, grid: Grid) -> npt.NDArray[np.float64]:
    """Return left, top, right and bottom of shapes in pixels, (N, 4); NaN for empty ones."""
    inverse = ~grid.transform
    return np.asarray(shapely.bounds(shapely.transform(shapes, lambda xy: apply_affine(inverse, xy))))


class _Draw:
    """Collects pixels, at most so many of a class, evenly from its polygons.

    Which pixels of a polygon stay is decided by a hash of their place, so that it depends neither on the
    order nor on the size of the pieces in which they come.

    Args:
        classes: Number of classes.
        per_class: Most pixels of a class, or None.
        seed: Of the hash.
        width: Columns of the grid.
    """

    def __init__(self, classes: int, per_class: int | None, seed: int, width: int) -> None:
        self._per_class, self._seed, self._width = per_class, seed, width
        self._kept: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(classes)]
        self._waiting = np.zeros(classes, dtype=np.int64)
        self.counts: IntArray = np.zeros(classes, dtype=np.int64)

    def add(self, row: IntArray, col: IntArray, target: int, polygon: int) -> None:
        """Take in pixels of one polygon."""
        if len(row) == 0:
            return
        self._kept[target].append(np.column_stack([row, col, np.full(len(row), polygon)]))
        self.counts[target] += len(row)
        self._waiting[target] += len(row)
        if self._per_class is not None and self._waiting[target] > 8 * self._per_class:
            self._thin(target)

    def result(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return row, column, class and polygon of the pixels that stay, by class and polygon."""
        for target in range(len(self._kept)):
            self._thin(target)
        pixels: IntArray = np.concatenate(
            [np.zeros((0, 3), np.int64), *(one for kept in self._kept for one in kept)]
        )
        targets: IntArray = np.repeat(
            np.arange(len(self._kept)), [sum(map(len, kept)) for kept in self._kept]
        )
        return pixels[:, 0], pixels[:, 1], targets, pixels[:, 2]

    def _thin(self, target: int) -> None:
        kept = self._kept[target]
        if not kept:
            return
        pixels = np.concatenate(kept)
        if self._per_class is not None and len(pixels) > self._per_class:
            pixels = pixels[self._even(pixels)]
        self._kept[target] = [pixels]
        self._waiting[target] = len(pixels)

    def _even(self, pixels: npt.NDArray[np.int64]) -> Mask:
        """Return which pixels stay: the same number of every polygon that has so many."""
        order = np.lexsort((self._hash(pixels[:, 0] * self._width + pixels[:, 1]), pixels[:, 2]))
        starts = np.flatnonzero(np.diff(pixels[order, 2], prepend=-1))
        sizes = np.diff(np.append(starts, len(order)))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(starts, sizes)
        return np.asarray(rank < _quota(sizes, self._per_class or 0))

    def _hash(self, key: IntArray) -> npt.NDArray[np.uint64]:
        """Mix the bits of a key: splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195)."""
        with np.errstate(over="ignore"):
            mixed = key.astype(np.uint64) + np.uint64(self._seed + 1) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _quota(sizes: IntArray, limit: int) -> int:
    """Return the largest number q, at least 1, for which the sum of min(size, q) is within a limit."""
    rising = np.sort(sizes)
    before = np.concatenate([[0], np.cumsum(rising)[:-1]])
    left = np.arange(len(rising), 0, -1)
    fits = before + left * rising <= limit
    first = int(np.argmin(fits)) if not fits.all() else len(rising)
    if first == len(rising):
        return int(rising[-1])
    return max(1, int((limit - before[first]) // left[first]))
