"""What the demo can do on a world that it never saw, and on real scenes.

The untrained model has the demo's shape and random weights. Its land cover is read by heads of its own, that
are fitted as the demo's are, so that what is compared is the encoder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.features import rasterize

from gair_core.errors import BadInputError
from gair_core.finetune.datasets.world import WorldData
from gair_core.finetune.few_shot.labels import read_labels
from gair_core.finetune.world_land_cover import (
    CLASSES,
    FitOptions,
    LabelledPixels,
    chance_iou,
    collect_pixels,
    evaluate_land_cover,
    fit_land_cover,
)
from gair_core.heads.base import Head
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.model.gair import GAIR
from gair_core.pretrain.config import EvaluationConfig
from gair_core.pretrain.evaluation import evaluate
from gair_core.pretrain.store import Store
from gair_core.progress import Progress, Quiet

_BANDS_12: Final[dict[str, int | str]] = {
    "B2": 2,
    "B3": 3,
    "B4": 4,
    "B5": 5,
    "B6": 6,
    "B7": 7,
    "B8": 8,
    "B8A": 9,
    "B11": 11,
    "B12": 12,
}
_BANDS_13: Final = {**_BANDS_12, "B8A": 13}
_GERMANY: Final = Path("germany_polygons")
_GERMAN: Final = {
    "water": "water",
    "forest": "trees",
    "grass": "grass",
    "agriculture": "crops",
    "bare ground": "bare ground",
    "village": "built-up",
}


@dataclass(frozen=True)
class Figure:
    """One line of the held-out figures.

    Attributes:
        name: What was measured.
        demo: The demo's.
        untrained: That of the untrained model of the same shape.
        chance: What guessing gives.
    """

    name: str
    demo: float
    untrained: float
    chance: float


@dataclass(frozen=True)
class RealFigure:
    """One line of the figures on real scenes.

    Attributes:
        scene: File, relative to the folder.
        name: What was measured.
        value: Fraction of pixels, in [0, 1].
    """

    scene: str
    name: str
    value: float


@dataclass(frozen=True)
class _Cover:
    """A scene, or a part of one, that has one surface.

    Attributes:
        path: File, relative to the folder.
        classes: The classes that are right there.
        bands: Where bands are, where the file does not say.
        offset: DN to add.
        part: Its pixels, rows and columns from the upper left corner.
    """

    path: str
    classes: tuple[str, ...]
    bands: dict[str, int | str]
    offset: float
    part: tuple[slice, slice] = (slice(None), slice(None))


_COVERS: Final = (
    _Cover("world_patches/patch_74721.tif", ("water",), _BANDS_12, -1000),
    # A lake that glints in the sun, as bright as a roof.
    _Cover("world_patches/patch_57755.tif", ("water",), _BANDS_12, -1000, (slice(16), slice(120, 155))),
    _Cover("eurosat_order/SeaLake_3000.tif", ("water",), _BANDS_13, 0),
    _Cover("world_patches/patch_25630.tif", ("snow and ice",), _BANDS_12, 0),
    _Cover("world_patches/patch_502692.tif", ("trees",), _BANDS_12, 0),
    _Cover("eurosat_order/AnnualCrop_1.tif", ("crops", "bare ground"), _BANDS_13, 0),
    _Cover("eurosat_order/Pasture_300.tif", ("grass", "crops"), _BANDS_13, 0),
)


def untrained_like(model: GAIR, seed: int = 0) -> GAIR:
    """Return a model of the same configuration with random weights; torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GAIR(model.config).eval()


def held_out_figures(
    model: GAIR,
    head: Head,
    store: Store,
    config: EvaluationConfig,
    *,
    options: FitOptions | None = None,
    progress: Progress | None = None,
) -> tuple[Figure, ...]:
    """Measure the demo on the test split of a store of the world.

    Args:
        model: The demo.
        head: Its land-cover head.
        store: A store of the world; the untrained model's heads, and those on the embedding alone, are
            fitted on its train split.
        config: Galleries, and how many photos are sought in their scenes.
        options: How these heads are fitted.
        progress: Told the done fraction; may cancel.

    Raises:
        BadInputError: The store has no land cover of the world, or no test split.
        CancelledError: The user cancelled.
    """
    progress, options = progress or Progress(), options or FitOptions()
    untrained = untrained_like(model)
    data = WorldData(store.folder, "segmentation")
    found = []
    for number, encoder in enumerate((model, untrained)):
        progress.report(number / 2, "retrieval of photos and places")
        metrics = evaluate(encoder, store, "test", config, modalities=("scene", "photo"))
        pixels = collect_pixels(encoder, data, "train", options, Quiet(progress))
        found.append(
            (metrics, _land_cover(encoder, data, pixels, options, head if encoder is model else None))
        )
    (known, cover), (random, random_cover) = found
    chance = chance_iou([cover.counts[one.name] for one in CLASSES])
    rows = [
        Figure(f"photo to scene, recall@{k}", known[name], random[name], known[f"chance_recall_{k}"])
        for k in (1, 5, 10)
        for name in (f"photo_to_scene_recall_{k}",)
    ]
    name = "place_percentile_median"
    rows += [
        Figure("place within its scene, percentile (median)", known[name] / 100, random[name] / 100, 0.5),
        Figure("land cover, mIoU", cover.with_bands, random_cover.with_bands, chance),
        Figure("land cover from the embedding alone, mIoU", cover.alone, random_cover.alone, chance),
    ]
    progress.report(1.0, "measured")
    return tuple(rows)


@dataclass(frozen=True)
class _LandCover:
    """Mean IoU with the pixels' own bands and without, and the pixels of each class."""

    with_bands: float
    alone: float
    counts: dict[str, float]


def _land_cover(
    encoder: GAIR, data: WorldData, pixels: LabelledPixels, options: FitOptions, head: Head | None
) -> _LandCover:
    """Return the results of a head, fitted where there is none, and of one on the embedding alone."""
    full = head or fit_land_cover(encoder, pixels, options)
    alone = fit_land_cover(encoder, pixels, replace(options, use_bands=False))
    results = [evaluate_land_cover(encoder, one, data, "test") for one in (full, alone)]
    counts = {name: metrics["count"] for name, metrics in results[0].class_metrics.items()}
    return _LandCover(results[0].metrics["mean_iou"], results[1].metrics["mean_iou"], counts)


def real_figures(
    folder: Path, head: str = "demo", progress: Progress | None = None
) -> tuple[RealFigure, ...]:
    """Measure the land cover of real scenes, none of which the demo was trained on.

    How scenes of the world are varied was chosen with a view to some of them, so this is a check of the
    transfer and no test on data that nobody had looked at.

    Args:
        folder: Holds the folders ``germany_polygons``, ``world_patches`` and ``eurosat_order``.
        head: The head, as for `segment`; its classes are `CLASSES`.
        progress: Told the done fraction; may cancel.

    Raises:
        BadInputError: The folder, or a file in it, is missing or cannot be used.
        CancelledError: The user cancelled.
    """
    progress = progress or Progress()
    if not (folder / _GERMANY).is_dir():
        raise BadInputError(
            f"{folder} has no folder {_GERMANY}.",
            "Give the folder that holds germany_polygons, world_patches and eurosat_order.",
        )
    figures = list(_germany(folder, head, Quiet(progress)))
    for number, cover in enumerate(_COVERS, 1):
        classes = _classes_of(folder / cover.path, head, cover.offset, cover.bands, Quiet(progress))
        right = np.isin(classes, [one.value for one in CLASSES if one.name in cover.classes])
        figures.append(RealFigure(cover.path, " or ".join(cover.classes), float(right[cover.part].mean())))
        progress.report(number / len(_COVERS), cover.path)
    return tuple(figures)


def _germany(folder: Path, head: str, progress: Progress) -> Iterable[RealFigure]:
    """Yield the accuracy within the labelled polygons, over all of them and by class."""
    scene = folder / _GERMANY / "sen2.tif"
    found = _classes_of(scene, head, -1000, None, progress)
    labels = read_labels(folder / _GERMANY / "training_polygons.gpkg", "class")
    names = [one.name for one in labels.classes]
    if set(names) != set(_GERMAN):
        raise BadInputError(f"{labels.name} has the classes {', '.join(names)}; wanted {', '.join(_GERMAN)}.")
    values = {one.name: one.value for one in CLASSES}
    with rasterio.open(scene) as dataset:
        shapes = [
            (shape, values[_GERMAN[names[index]]])
            for shape, index in zip(labels.shapes.to_crs(dataset.crs), labels.target, strict=True)
        ]
        reference = rasterize(shapes, dataset.shape, transform=dataset.transform)
    name = f"{_GERMANY}/sen2.tif"
    yield RealFigure(name, "accuracy within polygons", float((found == reference)[reference > 0].mean()))
    for theirs, ours in _GERMAN.items():
        there = reference == values[ours]
        yield RealFigure(name, f"{theirs} found as {ours}", float((found == reference)[there].mean()))


def _classes_of(
    scene: Path, head: str, offset: float, bands: dict[str, int | str] | None, progress: Progress
) -> npt.NDArray[np.uint8]:
    """Return the classes of a scene, as a user of `segment` gets them, (H, W)."""
    with tempfile.TemporaryDirectory(prefix="gair-demo-") as temporary:
        output = Path(temporary) / "classes.tif"
        segment(
            SegmentRequest(scene=str(scene), output=str(output), model=head, offset=offset, bands=bands),
            progress,
        )
        with rasterio.open(output) as dataset:
            classes: npt.NDArray[np.uint8] = dataset.read(1)
    return classes


def as_text(figures: Iterable[Figure]) -> str:
    """Return the held-out figures as a table."""
    lines = [f"{'held-out world':46}{'demo':>11}{'untrained':>11}{'chance':>11}"]
    lines += [f"{one.name:46}{one.demo:11.1%}{one.untrained:11.1%}{one.chance:11.1%}" for one in figures]
    return "\n".join(lines)


def real_as_text(figures: Iterable[RealFigure]) -> str:
    """Return the figures on real scenes as a table."""
    lines = [f"{'real scene':36}{'pixels that are':36}{'':>8}"]
    lines += [f"{one.scene:36}{one.name:36}{one.value:8.1%}" for one in figures]
    return "\n".join(lines)
