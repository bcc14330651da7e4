"""Exact embeddings at single points: only the tiles that they need are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gair_core.geo.footprint import Float64Array
from gair_core.inference.engine import Engine, Transform
from gair_core.inference.lattice import LatticeStrip
from gair_core.inference.tiling import Axis, LatticeWindow, TilePlan
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene

IntArray = npt.NDArray[np.int64]
# Points per step of the gathering: bounds memory at some megabytes, four vectors a point.
_STEP = 4096


@dataclass(frozen=True)
class Places:
    """Points between the patches of a scene.

    Attributes:
        corner: Column and row of the patch before each point, or at it; shape (N, 2).
        behind: Column and row of the patch behind it; the same at the last patch.
        fraction: Weight of `behind`, float32 in [0, 1], shape (N, 2).
        rim: The offset d of Eq. 1 in half patches, float32, (N, 2); 0 between the outermost patch centres.
        pixel: Column and row of the pixel of the model's grid under each point, shape (N, 2).
    """

    corner: IntArray
    behind: IntArray
    fraction: npt.NDArray[np.float32]
    rim: npt.NDArray[np.float32]
    pixel: IntArray

    @classmethod
    def of(cls, uv: Float64Array, size: tuple[int, int], patch: int) -> Places:
        """Place points, the same way as `lattice.Sampling` places pixels.

        Args:
            uv: Places in the scene's footprint, shape (N, 2) in [0, 1], float64.
            size: Columns and rows of the model's grid.
            patch: Pixels of a patch.
        """
        pixels = np.array(size)
        last = -(-pixels // patch) - 1
        centre = uv * pixels
        position = centre / patch - 0.5
        clamped = np.clip(position, 0, last)
        corner = np.minimum(np.floor(clamped), np.maximum(last - 1, 0)).astype(np.int64)
        return cls(
            corner,
            np.minimum(corner + 1, last),
            (clamped - corner).astype(np.float32),
            (2 * (position - clamped)).astype(np.float32),
            np.minimum(centre.astype(np.int64), pixels - 1),
        )

    def window(self, chosen: IntArray) -> LatticeWindow:
        """Return the patches that some of the points need."""
        (left, top), (right, bottom) = self.corner[chosen].min(axis=0), self.behind[chosen].max(axis=0)
        return LatticeWindow(int(top), int(bottom) + 1, int(left), int(right) + 1)


@dataclass(frozen=True)
class Group:
    """Points whose tiles are encoded together.

    Attributes:
        points: Their indices.
        plan: The tiles.
    """

    points: IntArray
    plan: TilePlan


def plan_groups(engine: Engine, scene: Scene, places: Places) -> list[Group]:
    """Divide points into groups, so that few tiles are encoded that no point needs, and few twice.

    Args:
        engine: The engine.
        scene: The scene.
        places: The points.

    Returns:
        The groups from top to bottom; one when points lie everywhere.
    """
    whole = engine.plan(scene)
    first_row, last_row = _tiles(whole.rows, places.corner[:, 1], places.behind[:, 1])
    first_column, last_column = _tiles(whole.columns, places.corner[:, 0], places.behind[:, 0])
    boxes, members = np.unique(
        np.column_stack([first_row, first_column, last_row, last_column]), axis=0, return_inverse=True
    )
    group_of_box = np.empty(len(boxes), np.int64)
    for number, group in enumerate(_partition(boxes, np.arange(len(boxes)))):
        group_of_box[group] = number
    group_of_point = group_of_box[members.ravel()]
    order = np.argsort(group_of_point, kind="stable")
    members_of = np.split(order, np.flatnonzero(np.diff(group_of_point[order])) + 1)
    groups = [Group(points, engine.plan(scene, places.window(points))) for points in members_of]
    return sorted(groups, key=lambda group: (group.plan.window.row, group.plan.window.col))


def sample_places(
    engine: Engine,
    scene: Scene,
    places: Places,
    groups: Sequence[Group],
    *,
    transform: Transform,
    rim_weight: Tensor | None,
    progress: Progress | None = None,
    share: tuple[float, float] = (0.0, 1.0),
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the embedding at each point: z(q) = bilinear(G)(q) + W_c d(q).

    Memory is that of one strip of tiles and of the result.

    Args:
        engine: The engine.
        scene: The scene.
        places: The points.
        groups: From `plan_groups`.
        transform: Turns features into the lattice G, as in `Engine.strips`.
        rim_weight: W_c of the lattice's channels, shape (C, 2), or None where there is no rim term.
        progress: Told the done fraction; may cancel.
        share: Part of the caller's progress that this is.

    Returns:
        Embeddings (N, C), and whether the scene has data at each point, (N,).

    Raises:
        CancelledError: The user cancelled.
    """
    values: npt.NDArray[np.float32] | None = None
    if rim_weight is not None:
        values = places.rim @ rim_weight.detach().float().cpu().numpy().T
    valid = np.zeros(len(places.rim), np.bool_)
    tiles, done = sum(group.plan.count for group in groups), 0
    begin, end = share
    for group in groups:
        part = begin + (end - begin) * done / tiles, begin + (end - begin) * (done + group.plan.count) / tiles
        left = group.plan.window.col
        for strip in engine.strips(scene, group.plan, transform, progress, part):
            if values is None:
                values = np.zeros((len(valid), len(strip.values)), np.float32)
            for start in range(0, len(group.points), _STEP):
                points = group.points[start : start + _STEP]
                _add_corners(values, places, points, strip, left)
                _look_up_validity(valid, places, points, strip, left=left, patch=engine.patch)
        done += group.plan.count
    if values is None:
        raise ValueError("no points")
    return values, valid


def _add_corners(
    values: npt.NDArray[np.float32], places: Places, points: IntArray, strip: LatticeStrip, left: int
) -> None:
    """Add what the patches of a strip contribute; a patch row is in one strip alone."""
    rows = strip.values.shape[1]
    before, behind = 1 - places.fraction, places.fraction
    for x, weight_x in ((places.corner[:, 0], before[:, 0]), (places.behind[:, 0], behind[:, 0])):
        for y, weight_y in ((places.corner[:, 1], before[:, 1]), (places.behind[:, 1], behind[:, 1])):
            local = y[points] - strip.row
            here = (local >= 0) & (local < rows)
            chosen = points[here]
            vectors = strip.values[:, torch.from_numpy(local[here]), torch.from_numpy(x[chosen] - left)]
            values[chosen] += (weight_x * weight_y)[chosen, None] * vectors.mT.numpy()


def _look_up_validity(
    valid: npt.NDArray[np.bool_],
    places: Places,
    points: IntArray,
    strip: LatticeStrip,
    *,
    left: int,
    patch: int,
) -> None:
    column, row = places.pixel[points].T
    local = row - strip.row * patch
    here = (local >= 0) & (local < len(strip.valid))
    valid[points[here]] = strip.valid[local[here], column[here] - left * patch]


def _tiles(axis: Axis, first: IntArray, last: IntArray) -> tuple[IntArray, IntArray]:
    """Return the first and the last tile along an axis that hold any of the patches [first, last]."""
    starts = np.array(axis.starts)
    return np.searchsorted(starts + axis.tile, first, "right"), np.searchsorted(starts, last, "right") - 1


def _partition(boxes: IntArray, chosen: IntArray) -> list[IntArray]:
    """Divide boxes of tiles (first row, first column, last row, last column) into cheap groups.

    Cut where no box reaches over the cut; else in the middle, if the parts have fewer tiles than the whole.
    """
    for axis in (0, 1):
        pieces = _separate(boxes, chosen, axis)
        if len(pieces) > 1:
            return [group for piece in pieces for group in _partition(boxes, piece)]
    size = _size(boxes, chosen)
    longer = int(np.argmax(size))
    first = boxes[chosen, longer]
    middle = np.median(first)
    lower = first < middle if bool((first < middle).any()) else first <= middle
    if bool(lower.all()):
        return [chosen]
    parts = [*_partition(boxes, chosen[lower]), *_partition(boxes, chosen[~lower])]
    return parts if sum(int(_size(boxes, part).prod()) for part in parts) < int(size.prod()) else [chosen]


def _separate(boxes: IntArray, chosen: IntArray, axis: int) -> list[IntArray]:
    ordered = chosen[np.argsort(boxes[chosen, axis], kind="stable")]
    reach = np.maximum.accumulate(boxes[ordered, axis + 2])
    return np.split(ordered, np.flatnonzero(boxes[ordered[1:], axis] > reach[:-1]) + 1)


def _size(boxes: IntArray, chosen: IntArray) -> IntArray:
    """Return the rows and columns of tiles of the rectangle around some boxes."""
    return np.asarray(boxes[chosen, 2:].max(axis=0) - boxes[chosen, :2].min(axis=0) + 1)
