"""Classes of every pixel of a scene: a raster, on request with its confidence and as polygons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.geo.grid import Grid
from gair_core.head_checkpoint import load_head
from gair_core.heads.base import Head
from gair_core.inference.classes import class_dtype, class_values, class_writer
from gair_core.inference.engine import TileFunction
from gair_core.inference.lattice import PixelSampler, PixelStrip
from gair_core.inference.models import load_model
from gair_core.inference.outputs import Destination, check_destinations
from gair_core.inference.pixel_bands import PixelBands
from gair_core.inference.polygons import PolygonWriter, Table
from gair_core.inference.publish import published_together
from gair_core.inference.radiometry import RadiometryCheck
from gair_core.inference.request import Estimate, OutputWindow, output_window, provenance
from gair_core.inference.series import Series, SeriesRequest, find_dates, open_series
from gair_core.inference.styles import ramp_style
from gair_core.inference.writers import RasterWriter, expected_bytes, raster_destination
from gair_core.model.gair import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene
from gair_core.task import Result, Task

_NO_CONFIDENCE = 255
# Bytes of polygons a pixel. How many there will be is unknown; this allows for patches of 50 pixels.
_POLYGON_BYTES = 8


class SegmentRequest(SeriesRequest):
    """Classify every pixel with a head and write a class raster with names and colours.

    Pixels without data are 0. The confidence is the softmax of the best class, taken of the interpolated
    logits; it is not calibrated. Polygons are connected patches of one class with the attributes value, name
    and area_m2 (on the ellipsoid).

    A head for series sees all dates of a place: SCENE, whose pixels the output has, and those of --series,
    which may be on other grids, or one file that holds them all (--bands-per-date). The scene's options hold
    for every date. A pixel has data where any date has.
    """

    model: str = Field("demo", description="a checkpoint of a head, or the name of a registered one")
    backbone: str | None = Field(
        None, description="the head's encoder, where it is neither inside, beside it nor registered"
    )
    confidence: str | None = Field(
        None, description="a GeoTIFF to write the best class's probability to, percent"
    )
    polygons: str | None = Field(None, description="a GeoPackage to write the classes to as polygons")

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Every file that is to be written."""
        return tuple(Path(name) for name in (self.output, self.confidence, self.polygons) if name is not None)


class SegmentResult(Result):
    """What `segment` wrote.

    Attributes:
        output: The class raster.
        confidence: The confidence raster, if any.
        polygons: The polygons, if any.
        pixels: Pixels of each class by name; classes that were not found are left out.
        polygon_count: Number of polygons.
    """

    output: str
    confidence: str | None
    polygons: str | None
    pixels: dict[str, int]
    polygon_count: int


def segment(request: SegmentRequest, progress: Progress | None = None) -> SegmentResult | Estimate:
    """Write the class of every pixel.

    Args:
        request: What to do.
        progress: Told how far it is; may cancel.

    Returns:
        What was written, or the estimate of a dry run.

    Raises:
        BadInputError: The scene, the head or an option cannot be used; nothing is left of any output.
        CancelledError: The user cancelled; nothing is left of any output.
    """
    progress = progress or Progress()
    head, model = load_head(request.model, backbone=request.backbone, load_model=load_model)
    dates = find_dates(request)
    head.check_scenes(len(dates))
    engine = request.engine(model)
    head.to(engine.device)
    with open_series(request, dates, engine.config.gsd, progress) as series:
        scene, scenes = series.first, series.readers()
        place = output_window(scene, engine.patch, request.resolution, request.extent, request.extent_crs)
        _check_destinations(request, place.grid, head, series.files)
        sampler = PixelSampler(
            place.whole,
            scene.grid,
            engine.patch,
            place.window,
            head.tile_rim(model, len(scenes)),
            subdivision=head.subdivision,
        )
        plan = engine.plan(scene, sampler.lattice_window)
        lattice = _lattice(head, model, series.days)

        if request.dry_run:
            size = expected_bytes(place.grid, 1, class_dtype(head.classes))
            size += expected_bytes(place.grid, 1, "uint8") if request.confidence else 0
            seconds = engine.seconds_per_stack(lattice, len(scenes))
            return Estimate(tiles=plan.count * len(scenes), seconds=seconds * plan.count, bytes=size)
        tags = provenance("segment", request, model, scene, **_describe_series(series), **describe_head(head))
        sampled = sampler.sample(engine.tile_strips(scenes, plan, lattice, progress, (0.0, 0.95)))
        radiometry = RadiometryCheck(head)
        strips = _logits(head, sampled, _pixel_bands(head, scene, place), radiometry)
        pixels, polygons = _write(request, head, strips, grid=place.grid, tags=tags, progress=progress)
    warning = radiometry.warning()
    if warning is not None:
        progress.log("warning", warning)
    progress.report(1.0, "done")
    return SegmentResult(
        output=request.output,
        confidence=request.confidence,
        polygons=request.polygons,
        pixels=pixels,
        polygon_count=polygons,
        warnings=tuple(progress.warnings),
    )


def _lattice(head: Head, model: GAIR, days: Sequence[float] | None) -> TileFunction:
    """Return what makes the head's channels of tiles, told when each scene was taken if that is known."""

    def lattice(images: Sequence[Tensor], valid: Tensor) -> Tensor:
        when = None if days is None else torch.tensor(days, device=valid.device).expand(len(valid), -1)
        return head.tile_lattice(model, images, when, valid)

    return lattice


def _describe_series(series: Series) -> dict[str, Any]:
    """Return what an output's tags say of the dates; nothing of one scene alone."""
    if series.dates is None:
        return {}
    return {
        "dates": [date.isoformat() for date in series.dates],
        "series": [scene.provenance for scene in series.scenes[1:]],
    }


def _pixel_bands(head: Head, scene: Scene, place: OutputWindow) -> PixelBands | None:
    """Return the reader of the pixels' own features, if the head reads them."""
    if head.pixel_features is None:
        return None
    return PixelBands.of(scene, head.pixel_features, place.whole, place.window)


def _logits(
    head: Head, strips: Iterable[PixelStrip], bands: PixelBands | None, radiometry: RadiometryCheck
) -> Iterator[PixelStrip]:
    """Turn interpolated channels into logits; a pixel whose own features are missing has no data."""
    for strip in strips:
        sampled, valid = [strip.values], strip.valid
        if bands is not None:
            pixels = bands.strip(strip.row, len(valid))
            sampled.append(pixels.values)
            valid = valid & pixels.valid
            radiometry.add(pixels.values.numpy(), valid)
        with torch.inference_mode():
            logits = head.logits(sampled)
        yield PixelStrip(strip.row, logits, valid)


def describe_head(head: Head) -> dict[str, Any]:
    """Return what an output's tags say of the head."""
    metadata = head.metadata
    return {"head": f"{metadata.title} ({metadata.name})", "head_fingerprint": metadata.fingerprint}


def _check_destinations(request: SegmentRequest, grid: Grid, head: Head, inputs: Sequence[str]) -> None:
    """Refuse impossible destinations before any work.

    Raises:
        BadInputError: One cannot be written or is an input, two are the same file, or all of them together
            do not fit on the disk.
    """
    resolved = [path.resolve() for path in request.outputs]
    styles = [path.with_suffix(".qml") for path in resolved if path.suffix.lower() != ".gpkg"]
    if len(set(resolved)) < len(resolved) or len(set(styles)) < len(styles):
        raise BadInputError(
            f"The outputs {', '.join(path.name for path in request.outputs)} would overwrite each other or "
            "each other's style.",
            "Give each a name of its own.",
        )
    destinations = [raster_destination(Path(request.output), grid, 1, class_dtype(head.classes))]
    if request.confidence is not None:
        destinations.append(raster_destination(Path(request.confidence), grid, 1, "uint8"))
    if request.polygons is not None:
        needed = grid.width * grid.height * _POLYGON_BYTES
        destinations.append(Destination(Path(request.polygons), (".gpkg",), needed))
    check_destinations(destinations, token=request.token, inputs=inputs)


def _write(
    request: SegmentRequest,
    head: Head,
    strips: Iterable[PixelStrip],
    *,
    grid: Grid,
    tags: dict[str, str],
    progress: Progress,
) -> tuple[dict[str, int], int]:
    """Write all outputs from strips of logits; returns pixels by class name and the number of polygons."""
    counts = np.zeros(max(one.value for one in head.classes) + 1, dtype=np.int64)
    with published_together(request.token, *request.outputs) as publication:
        with ExitStack() as stack:
            raster = stack.enter_context(
                class_writer(
                    publication.stage(Path(request.output)),
                    grid,
                    head.classes,
                    token=request.token,
                    tags=tags,
                    progress=progress,
                )
            )
            confidence = None
            if request.confidence is not None:
                staged = publication.stage(Path(request.confidence))
                confidence = stack.enter_context(_confidence_writer(staged, request, grid, tags, progress))
            polygons = None
            if request.polygons is not None:
                path = Path(request.polygons)
                polygons = PolygonWriter(Table(publication.stage(path), path.stem, grid, head.classes))
            for strip in strips:
                with torch.inference_mode():
                    values = class_values(strip.values, strip.valid, head.classes)
                counts += np.bincount(values.ravel(), minlength=len(counts))
                raster.write(values[None], strip.row)
                if confidence is not None:
                    confidence.write(confidence_percent(strip.values, strip.valid)[None], strip.row)
                if polygons is not None:
                    polygons.write(values)
            if polygons is not None:
                polygons.finish()
        progress.raise_if_cancelled()
    pixels = {one.name: int(counts[one.value]) for one in head.classes if counts[one.value]}
    return pixels, 0 if polygons is None else polygons.count


def confidence_percent(logits: Tensor, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return the softmax of the best class in percent.

    Args:
        logits: Shape (classes, height, width).
        valid: Whether a pixel has data, shape (height, width).

    Returns:
        Shape (height, width), 0 to 100, and 255 where there is no data.
    """
    # Of the best class alone: 1 / sum exp(l - max l).
    best = (logits - logits.amax(dim=0)).exp().sum(dim=0).reciprocal()
    percent: npt.NDArray[np.uint8] = (100 * best).round().numpy().astype(np.uint8)
    percent[~valid] = _NO_CONFIDENCE
    return percent


def _confidence_writer(
    path: Path, request: SegmentRequest, grid: Grid, tags: dict[str, str], progress: Progress
) -> RasterWriter:
    return RasterWriter(
        path,
        grid,
        1,
        "uint8",
        token=request.token,
        nodata=_NO_CONFIDENCE,
        band_names=["confidence (percent)"],
        tags=tags,
        style=ramp_style(0, 100),
        progress=progress,
    )


TASK = Task("segment", SegmentRequest, segment)
