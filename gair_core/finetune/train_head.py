"""A head from labelled polygons or points: the task ``train-head``."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from gair_core import registry
from gair_core.finetune.few_shot.area import (
    accuracy_report,
    confusion_matrix,
    estimate_areas,
    sample_units,
)
from gair_core.finetune.few_shot.features import features_of, tiles_needed
from gair_core.finetune.few_shot.fit import FewShotFit, build_head, fit
from gair_core.finetune.few_shot.labels import LabelLayer, read_labels
from gair_core.finetune.few_shot.report import ReportContent, TrainedScene, render_report
from gair_core.finetune.few_shot.report_map import ReportMap, class_picture, map_areas, true_colour_picture
from gair_core.finetune.few_shot.samples import LabelledScene, Samples, collect_samples, label_scenes
from gair_core.geo.grid import Grid, Window
from gair_core.head_checkpoint import save_head
from gair_core.heads.base import AccuracyReport, HeadMetadata, embedding_lattice, embedding_localizer
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.inference.engine import Engine
from gair_core.inference.lattice import PixelSampler
from gair_core.inference.models import load_model
from gair_core.inference.outputs import Destination, check_destinations, explained
from gair_core.inference.publish import published_together
from gair_core.inference.request import (
    EngineOptions,
    Estimate,
    Extent,
    OutputRequest,
    OutputWindow,
    SceneOptions,
    output_window,
)
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.model.gair import GAIR
from gair_core.progress import Level, Progress, Quiet
from gair_core.sentinel2.scene import Scene
from gair_core.task import Result, Task
from gair_core.version import __version__

# Tiles that are encoded for the map of a report without being asked for; more take minutes on a processor.
_MAP_TILES = 100
_REPORT_SUFFIXES = (".html", ".htm")
_REPORT_BYTES = 8 << 20
# Parts of the progress up to the end of reading, of fitting and of the map, with a map and without.
_STAGES = {True: (0.45, 0.55, 0.97), False: (0.85, 0.98, 0.98)}


class TrainHeadRequest(EngineOptions, SceneOptions, OutputRequest):
    """Train a head for gair segment from labelled polygons or points.

    The head reads the embedding at a pixel, the pixel's own bands and their means over small windows. How
    much of the embedding it uses is chosen by cross-validation over whole polygons, which gives the accuracy
    as well. Labels may have any CRS and are used in every scene that covers them; pixels that two classes
    claim are left out. Colours come from the labels' QGIS style, where it colours them by the field.
    """

    scene: CliPositionalArg[str] = Field(
        description="a Sentinel-2 product: file, folder, SAFE, zip or STAC item"
    )
    labels: CliPositionalArg[str] = Field(
        description="labelled polygons or points: any vector file, or a CSV table of points"
    )
    output: CliPositionalArg[str] = Field(description="the head to write, *.safetensors")
    field: str = Field(description="the labels' field with the class: text, or whole numbers")
    layer: str | None = Field(None, description="layer of a file of labels with several")
    more_scenes: list[str] = Field(
        [], description="further scenes of other dates or places; the options of the scene hold for all"
    )
    report: str | None = Field(None, description="an HTML page to write about accuracy, areas and the map")
    title: str | None = Field(None, min_length=1, description="one line that says what the head maps")
    embed_backbone: bool = Field(False, description="put the encoder into the file, so that it stands alone")
    extent: Extent | None = Field(
        None,
        description="left,bottom,right,top of the report's map; default: the scene, of a large one a part",
    )
    extent_crs: str | None = Field(
        None, description="CRS of the extent, such as EPSG:4326; default: the scene's"
    )

    @property
    def scenes(self) -> list[str]:
        """Every scene."""
        return [self.scene, *self.more_scenes]

    @property
    def outputs(self) -> list[Path]:
        """Every file that is to be written."""
        return [Path(name) for name in (self.output, self.report) if name is not None]


class TrainHeadResult(Result):
    """What `train_head` wrote.

    Attributes:
        output: The head.
        report: The report, if any.
        pixels: Labelled pixels of each class, by name.
        overall_accuracy: Share of the held-out pixels that were right; None where nothing could be held out.
        macro_f1: Mean F1 of the classes on held-out pixels, likewise.
        components: The most principal components of the embedding in any setting that counts in the head.
    """

    output: str
    report: str | None
    pixels: dict[str, int]
    overall_accuracy: float | None
    macro_f1: float | None
    components: int


def train_head(request: TrainHeadRequest, progress: Progress | None = None) -> TrainHeadResult | Estimate:
    """Train a head from labelled polygons or points.

    Args:
        request: What to do.
        progress: Told how far it is; may cancel.

    Returns:
        What was written, or the estimate of a dry run.

    Raises:
        BadInputError: A scene, the labels, the model or an option cannot be used; nothing is left.
        CancelledError: The user cancelled; nothing is left.
    """
    progress = progress or Progress()
    labels = read_labels(request.labels, request.field, request.layer)
    for warning in labels.warnings:
        progress.log("warning", warning)
    model = load_model(request.model)
    embedding_localizer(model)
    engine = request.engine(model)
    with ExitStack() as stack:
        scenes = [
            (
                source,
                Path(source).name,
                stack.enter_context(request.open(source, engine.config.gsd, progress)),
            )
            for source in request.scenes
        ]
        _check_destinations(request, model, labels, [scene for _, _, scene in scenes])
        labels, labelled = label_scenes(labels, scenes, progress)
        features = features_of(labelled[0].scene)
        place = None if request.report is None else _map_place(request, engine, labelled[0])
        if request.dry_run:
            return _estimate(request, engine, labelled, features, place)
        return _train(request, engine, labels, labelled, features=features, place=place, progress=progress)


def _check_destinations(
    request: TrainHeadRequest, model: GAIR, labels: LabelLayer, scenes: Sequence[Scene]
) -> None:
    """Refuse impossible destinations before any work."""
    needed = _head_bytes(request, model, len(labels.classes), PixelFeatures())
    destinations = [Destination(Path(request.output), (".safetensors",), needed)]
    if request.report is not None:
        destinations.append(Destination(Path(request.report), _REPORT_SUFFIXES, _REPORT_BYTES))
    encoder = registry.find(request.model)
    inputs = [file for scene in scenes for file in scene.files]
    inputs += [request.labels, str(encoder)]
    check_destinations(destinations, token=request.token, inputs=inputs)


def _head_bytes(request: TrainHeadRequest, model: GAIR, classes: int, features: PixelFeatures) -> int:
    numbers = classes * (model.config.embed_dim + features.count + 1) + 2 * features.count
    if request.embed_backbone:
        numbers += sum(parameter.numel() for parameter in model.parameters())
    return 4 * numbers + (1 << 16)


def _estimate(
    request: TrainHeadRequest,
    engine: Engine,
    labelled: Sequence[LabelledScene],
    features: PixelFeatures,
    place: _MapPlace | None,
) -> Estimate:
    tiles = sum(tiles_needed(engine, one.scene, one.places.row, one.places.col) for one in labelled)
    size = _head_bytes(request, engine.model, len(labelled[0].places.labelled), features)
    if place is not None:
        scene = labelled[0].scene
        window = place.window
        sampler = PixelSampler(window.whole, scene.grid, engine.patch, window.window)
        tiles += engine.plan(scene, sampler.lattice_window).count
        size += _REPORT_BYTES
    seconds = engine.seconds_per_tile(lambda encoded: embedding_lattice(engine.model, encoded))
    return Estimate(tiles=tiles, seconds=seconds * tiles, bytes=size)


def _train(
    request: TrainHeadRequest,
    engine: Engine,
    labels: LabelLayer,
    labelled: Sequence[LabelledScene],
    *,
    features: PixelFeatures,
    place: _MapPlace | None,
    progress: Progress,
) -> TrainHeadResult:
    read, fitted, mapped = _STAGES[place is not None]
    samples = collect_samples(engine, labelled, features, progress=progress, share=(0.0, read))
    found = fit(
        samples.table,
        samples.target,
        samples.polygon,
        [one.name for one in labels.classes],
        progress=progress,
        share=(read, fitted),
    )
    for note in found.notes:
        progress.log("warning", note)
    training = _Training(request, labels, labelled, samples, found)
    head = build_head(found, features, training.metadata())
    with published_together(request.token, *request.outputs) as publication:
        staged = publication.stage(Path(request.output))
        save_head(head, staged, engine.model, embed_backbone=request.embed_backbone, token=request.token)
        if place is not None and request.report is not None:
            part = _MapProgress(progress, (fitted, mapped))
            content = _report(training, engine.model, place, head=staged, part=part)
            page = publication.stage(Path(request.report))
            with explained(page):
                page.write_text(render_report(content), encoding="utf-8", newline="\n")
        progress.raise_if_cancelled()
    progress.report(1.0, "done")
    return training.result(progress)


@dataclass(frozen=True)
class _Training:
    """What is known when the head is fitted."""

    request: TrainHeadRequest
    labels: LabelLayer
    labelled: Sequence[LabelledScene]
    samples: Samples
    fitted: FewShotFit

    @property
    def title(self) -> str:
        return self.request.title or f"{len(self.labels.classes)} classes of {self.labels.name}"

    @property
    def pixels(self) -> list[int]:
        """Labelled pixels of each class, those that were thinned out included."""
        return [int(count) for count in np.sum([one.places.labelled for one in self.labelled], axis=0)]

    @property
    def polygons(self) -> list[int]:
        """Polygons and points of each class that label a pixel with data."""
        pairs = np.unique(np.column_stack([self.samples.target, self.samples.polygon]), axis=0)
        return [int(count) for count in np.bincount(pairs[:, 0], minlength=len(self.labels.classes))]

    def accuracy(self) -> AccuracyReport:
        """Return how well held-out polygons were classified."""
        held_out = self.fitted.held_out
        known = int((held_out >= 0).sum())
        data = "No polygon could be held out, so nobody knows how good this head is."
        if known:
            blocks = self.fitted.blocks
            what = "single polygons" if blocks is None else f"{blocks} spatial blocks of whole polygons"
            data = (
                f"{known:,} of {len(held_out):,} labelled pixels, each classified by a fit that had not "
                f"seen its polygon: nested cross-validation in {self.fitted.folds} parts, made of {what}."
            )
        confusion = confusion_matrix(self.samples.target, held_out, len(self.labels.classes))
        return accuracy_report(confusion, [one.name for one in self.labels.classes], data)

    def metadata(self) -> HeadMetadata:
        """Return the head's description."""
        scenes = ", ".join(one.name for one in self.labelled)
        return HeadMetadata(
            title=self.title,
            classes=self.labels.classes,
            accuracy=self.accuracy(),
            provenance=Provenance(
                source=f"gair train-head, gair_core {__version__}",
                training_data=f"{self.labels.name} (field {self.labels.field}) on {scenes}",
            ),
        )

    def result(self, progress: Progress) -> TrainHeadResult:
        """Return the task's result."""
        metrics = self.accuracy().metrics
        names = [one.name for one in self.labels.classes]
        return TrainHeadResult(
            output=self.request.output,
            report=self.request.report,
            pixels=dict(zip(names, self.pixels, strict=True)),
            overall_accuracy=metrics.get("overall_accuracy"),
            macro_f1=metrics.get("macro_f1"),
            components=self.fitted.components,
            warnings=tuple(progress.warnings),
        )

    def command(self) -> str:
        """Return the command that segments with the head; folders are left out, they may be private."""
        request = self.request
        words = ["gair", "segment", self.labelled[0].name, "classes.tif"]
        words += ["--model", Path(request.output).name]
        if request.model.endswith(".safetensors") and not request.embed_backbone:
            words += ["--backbone", Path(request.model).name]
        options = set(SceneOptions.model_fields)
        for name, value in request.model_dump(include=options, exclude_defaults=True).items():
            words.append(f"--{name.replace('_', '-')}={_option(value)}")
        return shlex.join(words)


def _option(value: object) -> str:
    """Return an option's value as the command line takes it."""
    if isinstance(value, dict):
        return ",".join(f"{name}={place}" for name, place in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, str):
        return Path(value).name
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- the report -------------------------------------------------------------------------------------------


class _MapProgress(Quiet):
    """The part of a task that makes the map: what its scene and model have to say has been said.

    Args:
        task: The progress of the task.
        share: Part of it that this is.
    """

    def __init__(self, task: Progress, share: tuple[float, float]) -> None:
        super().__init__(task)
        self._whole, self._share = task, share
        self.warnings = task.warnings

    def report(self, fraction: float, message: str = "") -> None:
        """Report the part's share of the whole."""
        begin, end = self._share
        self._whole.report(begin + (end - begin) * fraction, message)

    def log(self, level: Level, message: str) -> None:
        """Say it unless it was said before."""
        if level == "warning" and message not in self.warnings:
            super().log(level, message)


@dataclass(frozen=True)
class _MapPlace:
    """The part of a scene that the report maps; the extent is what `segment` is asked for."""

    window: OutputWindow
    extent: Extent | None
    extent_crs: str | None

    @property
    def grid(self) -> Grid:
        """Grid of the map."""
        return self.window.grid


def _map_place(request: TrainHeadRequest, engine: Engine, first: LabelledScene) -> _MapPlace:
    """Return what was asked for, the whole scene, or of a large one a part around the labels' middle."""
    extent, crs = request.extent, request.extent_crs
    if extent is None and engine.plan(first.scene).count > _MAP_TILES:
        extent, crs = first.scene.native.crop(_middle(engine, first)).bounds, None
    return _MapPlace(output_window(first.scene, engine.patch, None, extent, crs), extent, crs)


def _middle(engine: Engine, first: LabelledScene) -> Window:
    """Return as many tiles along each side as make up the limit, around the middle of the labels."""
    native, model = first.scene.native, first.scene.grid
    reach = (engine.tile - 2 * engine.margin) * engine.patch * max(1, int(_MAP_TILES**0.5) - 1)
    height = min(native.height, round(reach * native.height / model.height))
    width = min(native.width, round(reach * native.width / model.width))
    row = int(np.clip(np.median(first.places.row) - height // 2, 0, native.height - height))
    col = int(np.clip(np.median(first.places.col) - width // 2, 0, native.width - width))
    return Window(row, col, height, width)


def _report(
    training: _Training, model: GAIR, place: _MapPlace, *, head: Path, part: _MapProgress
) -> ReportContent:
    """Map a scene with the finished head and return what the report says."""
    request, labels, samples = training.request, training.labels, training.samples
    # A temporary of the report by its name, so that nothing of it ever stays.
    raster = Path(str(request.report) + f".{request.token}.map.tif")
    first = training.labelled[0]
    _segment(request, first, place, head=head, raster=raster, progress=part)
    classes = labels.classes
    units = sample_units(samples.target, training.fitted.held_out, samples.polygon, len(classes))
    known = model.checkpoint or CheckpointMetadata()
    return ReportContent(
        title=training.title,
        date=dt.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        scenes=[
            TrainedScene(one.name, int((samples.origin == number).sum()))
            for number, one in enumerate(training.labelled)
        ],
        labels=labels.name,
        field=labels.field,
        model=f"{known.title} ({known.name})",
        output=Path(request.output).name,
        style=labels.style,
        classes=classes,
        polygons=training.polygons,
        pixels=training.pixels,
        accuracy=training.accuracy(),
        areas=estimate_areas(units, map_areas(raster, place.grid, classes)) if units.any() else [],
        map=ReportMap(
            true_colour=true_colour_picture(first.scene, place.window.window, labels),
            classes=class_picture(raster, place.grid, classes),
            caption=_caption(first, place),
        ),
        scores=training.fitted.scores,
        warnings=_without_folders(part.warnings, training.labelled),
        command=training.command(),
    )


def _without_folders(warnings: Sequence[str], labelled: Sequence[LabelledScene]) -> tuple[str, ...]:
    """Return warnings, each once, with names for paths: a report is passed on, and folders may be private."""
    named = list(dict.fromkeys(warnings))
    for one in labelled:
        named = [warning.replace(one.source, one.name) for warning in named]
    return tuple(named)


def _segment(
    request: TrainHeadRequest,
    first: LabelledScene,
    place: _MapPlace,
    *,
    head: Path,
    raster: Path,
    progress: Progress,
) -> None:
    """Write the classes of a part of a scene, exactly as `gair segment` will."""
    shared = (*SceneOptions.model_fields, "device", "tile_size", "margin", "batch_size")
    segment(
        SegmentRequest(
            scene=first.source,
            output=str(raster),
            model=str(head),
            backbone=None if request.embed_backbone else request.model,
            extent=place.extent,
            extent_crs=place.extent_crs,
            token=request.token,
            **{name: getattr(request, name) for name in shared},
        ),
        progress,
    )


def _caption(first: LabelledScene, place: _MapPlace) -> str:
    size = f"{place.grid.width:,} x {place.grid.height:,} pixels"
    if place.extent is None:
        return f"{first.name}, {size}."
    return f"A part of {first.name}, {size}; areas are of this part, not of the scene."


TASK = Task("train-head", TrainHeadRequest, train_head)
