"""Folds of a cross-validation by whole polygons, neighbouring polygons in one fold where there are enough.

Pixels of one polygon are nearly copies of one another, and those of neighbouring ones alike: a classifier
that is tested on them looks better than it is anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gair_core.finetune.few_shot.solver import Float64Array, IntArray

# The finest grid of blocks has so many along each side; finer ones hardly differ from single polygons.
_FINEST = 24
_METRES_PER_DEGREE = 111_320.0


@dataclass(frozen=True)
class Folds:
    """Which fold every pixel is held out in.

    Attributes:
        fold: From 0; -1 for polygons that stay in the training at all times, shape (N,).
        count: Number of folds.
        blocks: Number of spatial blocks, or None where every polygon is one of its own.
        singles: Classes with one polygon, which cannot be held out.
    """

    fold: IntArray
    count: int
    blocks: int | None
    singles: tuple[int, ...]


def assign_folds(
    polygon: IntArray, target: IntArray, lonlat: Float64Array, folds: int, seed: int = 0
) -> Folds:
    """Divide labelled pixels into folds.

    Blocks are the squares of a grid over the polygons' centres, the coarsest in which every class still
    occurs in enough blocks; where there is none, every polygon is a block. Each block goes to the fold that
    has least of its classes. Every class with two polygons or more is in at least two folds, so that no fold
    leaves it without training.

    Args:
        polygon: Number of each pixel's polygon, shape (N,).
        target: Class index of each pixel, the same within a polygon, shape (N,).
        lonlat: Longitude and latitude of each pixel, degrees, shape (N, 2).
        folds: Number of folds, at least 2.
        seed: Of the order in which equal blocks are dealt.

    Raises:
        ValueError: A polygon has two classes.
    """
    _, first, member = np.unique(polygon, return_index=True, return_inverse=True)
    classes = target[first]
    if (classes[member] != target).any():
        raise ValueError("a polygon has two classes")
    of_class = np.bincount(classes)
    free = np.flatnonzero(of_class[classes] > 1)
    fold_of = np.full(len(first), -1)
    blocks: int | None = None
    if len(free):
        rng = np.random.default_rng(seed)
        centre = _centres(lonlat, member)[free]
        block = _blocks(centre, classes[free], folds)
        dealt = None if block is None else _deal(block, classes[free], folds, rng)
        if block is None or dealt is None or not _separates(dealt, classes[free]):
            fold_of[free] = _deal(np.arange(len(free)), classes[free], folds, rng)
        else:
            fold_of[free], blocks = dealt, int(block.max()) + 1
    singles = tuple(int(number) for number in np.flatnonzero(of_class == 1))
    used, numbered = np.unique(fold_of, return_inverse=True)
    numbered = numbered.ravel() - int(used[0] == -1)
    return Folds(numbered[member].astype(np.int64), int((used >= 0).sum()), blocks, singles)


def _centres(lonlat: Float64Array, member: npt.NDArray[np.intp]) -> Float64Array:
    """Return the mean place of each polygon's pixels in metres, (polygons, 2), right within a region."""
    away = lonlat - lonlat[0]
    # Across the 180th meridian the short way round.
    away[:, 0] = (away[:, 0] + 180) % 360 - 180
    away[:, 0] *= np.cos(np.radians(lonlat[0, 1]))
    size = np.bincount(member)
    sums = [np.bincount(member, weights=axis) for axis in away.T]
    return np.stack(sums, axis=1) / size[:, None] * _METRES_PER_DEGREE


def _blocks(centre: Float64Array, classes: IntArray, folds: int) -> IntArray | None:
    """Return the block of each polygon on the coarsest grid that will do, or None."""
    low = centre.min(axis=0)
    extent = float((centre - low).max())
    count = np.bincount(classes)
    # Half of a class's polygons may share blocks with others of it, and a class in two blocks can be tested.
    wanted = np.minimum(np.maximum(2, -(-count // 2)), folds)
    for parts in range(2, _FINEST + 1):
        square = np.minimum(((centre - low) / max(extent, 1.0) * parts).astype(np.int64), parts - 1)
        block = np.unique(square, axis=0, return_inverse=True)[1].ravel()
        pairs = np.unique(np.stack([classes, block]), axis=1)
        enough = np.bincount(pairs[0], minlength=len(count)) >= wanted
        if bool(enough[count > 0].all()) and int(block.max()) + 1 >= 2 * folds:
            return block.astype(np.int64)
    return None


def _deal(block: IntArray, classes: IntArray, folds: int, rng: np.random.Generator) -> IntArray:
    """Return the fold of each polygon: large blocks first, each to where its classes are rarest."""
    table = np.zeros((int(block.max()) + 1, int(classes.max()) + 1))
    np.add.at(table, (block, classes), 1)
    share = table / np.maximum(table.sum(axis=0), 1)
    order = rng.permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    load = np.zeros((folds, share.shape[1]))
    fold_of_block = np.zeros(len(table), np.int64)
    for number in order:
        # What the sum of squared shares grows by; then what the fold has already.
        crowd = load @ share[number]
        fold = np.lexsort((load.sum(axis=1), np.round(crowd, 12)))[0]
        fold_of_block[number] = fold
        load[fold] += share[number]
    return fold_of_block[block]


def _separates(fold: IntArray, classes: IntArray) -> bool:
    pairs = np.unique(np.stack([classes, fold]), axis=1)
    found = np.bincount(pairs[0])
    return bool((found[found > 0] > 1).all())
