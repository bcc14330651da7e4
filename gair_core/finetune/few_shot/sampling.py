"""Balanced draws of labelled pixels."""

from __future__ import annotations

import numpy as np

from gair_core.finetune.few_shot.solver import IntArray


def draw_pixels(
    polygon: IntArray,
    target: IntArray,
    *,
    per_polygon: int,
    per_class: int,
    total: int,
    rng: np.random.Generator,
) -> IntArray:
    """Draw pixels so that neither a large polygon nor a class with many of them drowns the others.

    A class's share is dealt evenly to its polygons; what a small polygon cannot fill goes to the larger ones.
    Every class keeps at least one pixel.

    Args:
        polygon: Number of each pixel's polygon, shape (N,).
        target: Class index of each pixel, the same within a polygon, shape (N,).
        per_polygon: At most so many pixels of a polygon.
        per_class: At most so many pixels of a class.
        total: At most so many pixels in all, about.
        rng: The random numbers.

    Returns:
        Indices of the drawn pixels, rising.
    """
    classes = np.unique(target)
    share = max(1, min(per_class, total // max(len(classes), 1)))
    # A random order, then by polygon: the first ones of each polygon are a random draw of it.
    shuffled = rng.permutation(len(polygon))
    order = shuffled[np.argsort(polygon[shuffled], kind="stable")]
    _, start, member = np.unique(polygon[order], return_index=True, return_inverse=True)
    rank = np.arange(len(order)) - start[member.ravel()]
    chosen = []
    for number in classes:
        mine = (target[order] == number) & (rank < per_polygon)
        # All polygons' first pixels come before any polygon's second; ties fall in a random order.
        within = np.flatnonzero(mine)
        by_rank = np.lexsort((rng.random(len(within)), rank[within]))
        chosen.append(order[within[by_rank[:share]]])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
