"""Labelled pixels of several scenes: found, checked and read, with all that a user should know said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gair_core.errors import BadInputError
from gair_core.finetune.few_shot.features import PixelTable, collect
from gair_core.finetune.few_shot.label_pixels import LabelledPlaces, label_places
from gair_core.finetune.few_shot.labels import IntArray, LabelLayer
from gair_core.geo.grid import Grid
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.inference.engine import Engine
from gair_core.inference.radiometry import differing_scenes
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene

# Labelled pixels whose embeddings are held at a time, and of one class: far more than a fit draws.
_PIXELS = 120_000
_PIXELS_OF_CLASS = 5000
# How many classes and pairs of classes a message names.
_NAMED = 20
_PAIRS = 3


@dataclass(frozen=True)
class LabelledScene:
    """One scene and its labelled pixels.

    Attributes:
        source: What was opened.
        name: What to call it in messages: without folders.
        scene: The scene, open.
        places: Its labelled pixels.
    """

    source: str
    name: str
    scene: Scene
    places: LabelledPlaces


@dataclass(frozen=True)
class Samples:
    """The labelled pixels with data of all scenes.

    Attributes:
        table: What the classifier sees.
        target: Class index, shape (N,).
        polygon: Index of the polygon or point in the layer, the same in all scenes, shape (N,).
        origin: Index of the scene, shape (N,).
    """

    table: PixelTable
    target: IntArray
    polygon: IntArray
    origin: IntArray


def label_scenes(
    labels: LabelLayer, scenes: Sequence[tuple[str, str, Scene]], progress: Progress
) -> tuple[LabelLayer, list[LabelledScene]]:
    """Find the labelled pixels of scenes, with warnings of what is lost.

    Args:
        labels: The labels; each is used in every scene that covers it.
        scenes: Source, name and scene.
        progress: Gets the warnings; may cancel.

    Returns:
        The labels without classes that no pixel has, and the scenes that the labels meet.

    Raises:
        BadInputError: The labels meet no scene, or fewer than two of their classes do.
        CancelledError: The user cancelled.
    """
    limit = max(1, min(_PIXELS_OF_CLASS, _PIXELS // len(labels.classes)) // len(scenes))
    found = []
    for source, name, scene in scenes:
        progress.raise_if_cancelled()
        places = label_places(labels, scene.native, per_class=limit)
        found.append(LabelledScene(source, name, scene, places))
    if not any(len(one.places) for one in found):
        raise _no_pixels(labels, found)
    _warn(labels, found, progress)
    return _without_empty_classes(labels, [one for one in found if len(one.places)], progress)


def _no_pixels(labels: LabelLayer, found: Sequence[LabelledScene]) -> BadInputError:
    if any(one.places.disputed for one in found):
        return BadInputError(
            f"Every labelled pixel of {labels.name} has labels of two classes: {_pairs(labels, found)}.",
            f"Choose another field than {labels.field!r}, or remove the overlaps.",
        )
    left, bottom, right, top = labels.shapes.to_crs("EPSG:4326").total_bounds
    scenes = "; ".join(f"{one.name} {_lonlat_range(one.scene.native)}" for one in found)
    return BadInputError(
        f"None of the {len(labels.shapes)} polygons and points of {labels.name} lies in "
        f"{'the scene' if len(found) == 1 else 'any scene'}: the labels cover longitude {left:.4f} to "
        f"{right:.4f} and latitude {bottom:.4f} to {top:.4f}, {scenes}.",
        f"Choose a scene of their place, or check the labels' CRS ({labels.shapes.crs.name}).",
    )


def _lonlat_range(grid: Grid) -> str:
    corners = grid.footprint.lonlat([[0, 0], [1, 0], [0, 1], [1, 1]])
    (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
    return f"longitude {west:.4f} to {east:.4f} and latitude {south:.4f} to {north:.4f}"


def _pairs(labels: LabelLayer, found: Sequence[LabelledScene]) -> str:
    pairs = sorted(frozenset[tuple[int, int]]().union(*(one.places.disputing for one in found)))
    named = [f"{labels.classes[one].name} and {labels.classes[other].name}" for one, other in pairs[:_PAIRS]]
    return ", ".join(named) + (f" and {len(pairs) - _PAIRS} more pairs" if len(pairs) > _PAIRS else "")


def _warn(labels: LabelLayer, found: Sequence[LabelledScene], progress: Progress) -> None:
    every = f"{len(labels.shapes)} polygons and points of {labels.name}"
    outside = int(np.all([one.places.outside for one in found], axis=0).sum())
    if outside:
        where = "the scene" if len(found) == 1 else "every scene"
        progress.log("warning", f"{outside} of {every} lie outside {where} and are not used.")
    partly = int(np.any([one.places.partly for one in found], axis=0).sum())
    if partly:
        progress.log("warning", f"{partly} of {every} reach beyond a scene; only what lies in it is used.")
    disputed = sum(one.places.disputed for one in found)
    if disputed:
        progress.log(
            "warning",
            f"{disputed} pixels lie in polygons or points of different classes ({_pairs(labels, found)}) "
            "and are left out.",
        )
    small = sum(one.places.small for one in found)
    if small:
        progress.log("info", f"{small} of {every} hold no pixel's centre and count as one pixel each.")
    for one in found:
        if len(one.places) == 0:
            progress.log("warning", f"No label lies in the scene {one.name}: it adds nothing.")


def _without_empty_classes(
    labels: LabelLayer, labelled: Sequence[LabelledScene], progress: Progress
) -> tuple[LabelLayer, list[LabelledScene]]:
    """Drop classes without a pixel, and bring the indices of the others in line."""
    there = np.unique(np.concatenate([one.places.target for one in labelled]))
    missing = [one.name for number, one in enumerate(labels.classes) if number not in there]
    if len(there) < 2:
        raise BadInputError(
            f"Only the class {labels.classes[there[0]].name!r} of {labels.name} has pixels in the scene; "
            f"wanted two classes or more. Without any are {', '.join(missing[:_NAMED])}.",
            "Add polygons of other classes within the scene, or choose a scene that covers them.",
        )
    if not missing:
        return labels, list(labelled)
    progress.log(
        "warning", f"No pixel has the class {', '.join(missing[:_NAMED])}: the head will not know it."
    )
    index = np.full(len(labels.classes), -1)
    index[there] = np.arange(len(there))
    # Shapes of classes that are gone label no pixel, so that they need no index.
    kept = np.isin(labels.target, there)
    polygon = np.cumsum(kept) - 1
    remaining = replace(
        labels,
        classes=tuple(labels.classes[number] for number in there),
        shapes=labels.shapes[kept],
        target=index[labels.target[kept]],
    )
    moved = [
        replace(
            one,
            places=replace(
                one.places,
                target=index[one.places.target],
                polygon=polygon[one.places.polygon],
                labelled=one.places.labelled[there],
                outside=one.places.outside[kept],
                partly=one.places.partly[kept],
            ),
        )
        for one in labelled
    ]
    return remaining, moved


def collect_samples(
    engine: Engine,
    labelled: Sequence[LabelledScene],
    features: PixelFeatures,
    *,
    progress: Progress,
    share: tuple[float, float],
) -> Samples:
    """Read and encode the labelled pixels of all scenes.

    Args:
        engine: The engine.
        labelled: The scenes.
        features: Which features of the pixels.
        progress: Told the done fraction and given the warnings; may cancel.
        share: Part of the caller's progress that this is.

    Raises:
        BadInputError: A file is damaged.
        CancelledError: The user cancelled.
    """
    counts = [len(one.places) for one in labelled]
    begin, end = share
    edges = begin + (end - begin) * np.cumsum([0, *counts]) / sum(counts)
    tables = [
        collect(
            engine,
            one.scene,
            one.places.row,
            one.places.col,
            features=features,
            progress=progress,
            share=(float(start), float(stop)),
        )
        for one, start, stop in zip(labelled, edges[:-1], edges[1:], strict=True)
    ]
    table = PixelTable.concatenate(tables)
    target = np.concatenate([one.places.target for one in labelled])
    polygon = np.concatenate([one.places.polygon for one in labelled])
    origin = np.repeat(np.arange(len(labelled)), counts)
    good = table.valid
    if not good.all():
        progress.log(
            "warning",
            f"{int((~good).sum())} of {len(good)} labelled pixels have no data (nodata, clouds or a mask) "
            "and are left out.",
        )
    samples = Samples(table.take(good), target[good], polygon[good], origin[good])
    for number in differing_scenes(samples.table.bands, samples.target, samples.origin):
        progress.log(
            "warning",
            f"The scene {labelled[number].name} reflects far differently from those before it where "
            "they have the same class: check its offset (--offset) and its date.",
        )
    return samples
