"""Change between two dates: the cosine distance of their embeddings, or the classes of a change head."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.geo.grid import Grid, Window
from gair_core.head_checkpoint import is_head, load_head
from gair_core.heads.base import Head, embedding_lattice, embedding_rim
from gair_core.inference.alignment import AlignedScene, CommonPixels, SceneReader
from gair_core.inference.classes import class_dtype, class_values, class_writer
from gair_core.inference.distance import DistanceSampler, date_products
from gair_core.inference.engine import Engine
from gair_core.inference.lattice import PixelSampler
from gair_core.inference.models import load_model
from gair_core.inference.request import (
    EngineOptions,
    Estimate,
    Extent,
    OutputRequest,
    OutputWindow,
    Resolution,
    SceneOptions,
    output_window,
    provenance,
)
from gair_core.inference.segment import describe_head
from gair_core.inference.styles import ramp_style
from gair_core.inference.tiling import TilePlan
from gair_core.inference.writers import RasterWriter, check_raster_destination, expected_bytes
from gair_core.model.gair import GAIR
from gair_core.progress import Level, Progress
from gair_core.sentinel2.scene import Scene
from gair_core.task import Result, Task

# Distances lie in [0, 2]; at 0.5 (60 degrees) nothing of a place is as it was, and one scale serves all maps.
_STYLE_LIMIT = 0.5


class ChangeRequest(EngineOptions, SceneOptions, OutputRequest):
    """Compare two dates of one place, pixel by pixel, on the first date's grid.

    With a model, the result is the cosine distance of the embeddings, 0 (the same) to 2; with a change head,
    its classes. Pixels that one date lacks are left out of both. The options of the scene hold for both
    dates, but for those that have an own one for the second. Only the overlap of the two is written.
    """

    before: CliPositionalArg[str] = Field(description="the first date: file, folder, SAFE, zip or STAC item")
    after: CliPositionalArg[str] = Field(description="the second date; its grid and CRS may be others")
    output: CliPositionalArg[str] = Field(description="the GeoTIFF to write")
    backbone: str | None = Field(
        None, description="a head's encoder, where it is neither inside, beside it nor registered"
    )
    after_bands: dict[str, int | str] | None = Field(
        None, description="where the second date's bands are; default: as for the first"
    )
    after_offset: float | Literal["auto"] | None = Field(
        None, description="DN to add to the second date; default: as for the first"
    )
    after_mask: str | None = Field(None, description="raster whose nonzero pixels the second date leaves out")
    after_scl: str | None = Field(None, description="scene classification (SCL) of the second date")
    extent: Extent | None = Field(None, description="left,bottom,right,top; default: the overlap")
    extent_crs: str | None = Field(
        None, description="CRS of the extent, such as EPSG:4326; default: the first date's"
    )
    resolution: Resolution | None = Field(
        None,
        description="pixel size in metres, or lattice (one per patch); default: the first date's",
    )

    def after_options(self) -> SceneOptions:
        """Return how to read the second date."""
        return SceneOptions(
            bands=self.bands if self.after_bands is None else self.after_bands,
            offset=self.offset if self.after_offset is None else self.after_offset,
            nodata=self.nodata,
            mask=self.after_mask,
            scl=self.after_scl,
            scl_classes=self.scl_classes,
            missing=self.missing,
        )


class ChangeResult(Result):
    """What `change` wrote.

    Attributes:
        output: The raster.
        kind: ``distance`` or ``classes``.
        valid_fraction: Part of its pixels that both dates have data for.
        mean_distance: Mean cosine distance of those; None for classes or without any.
    """

    output: str
    kind: Literal["distance", "classes"]
    valid_fraction: float
    mean_distance: float | None


_Dates = tuple[SceneReader, SceneReader]
# Part of the progress that is not the writer's.
_SHARE = (0.0, 0.97)


@dataclass(frozen=True)
class _Pixels:
    """Finished rows of the output: the first, values (height, width) and where both dates have data."""

    row: int
    values: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Comparison:
    """What is made of two dates.

    Attributes:
        pixels: Encodes both dates, on common pixels, and yields the output's pixels.
        seconds: Measures the time that a tile takes on both dates.
        dtype: Pixel type.
        subdivision: Cells along the side of a patch that are interpolated between.
    """

    pixels: Callable[[_Dates, _Sampling, Progress], Iterator[_Pixels]]
    seconds: Callable[[], float]
    dtype: str
    subdivision: int = 1


@dataclass(frozen=True)
class _Sampling:
    """Which pixels of which grid are wanted, the lattices' grid, and the tiles."""

    output: OutputWindow
    model: Grid
    patch: int
    plan: TilePlan


def change(request: ChangeRequest, progress: Progress | None = None) -> ChangeResult | Estimate:
    """Write the change between two dates.

    Args:
        request: What to do.
        progress: Told how far it is; may cancel.

    Returns:
        What was written, or the estimate of a dry run.

    Raises:
        BadInputError: A scene, the model or an option cannot be used, or the scenes do not overlap.
        CancelledError: The user cancelled; nothing is left.
    """
    progress = progress or Progress()
    head, model = _load(request)
    engine = request.engine(model)
    comparison = _distance(engine) if head is None else _classification(head.to(engine.device), engine)
    with ExitStack() as stack:
        before = stack.enter_context(request.open(request.before, engine.config.gsd, progress))
        after = stack.enter_context(request.after_options().open(request.after, engine.config.gsd, progress))
        place = _overlap(request, before, after, engine.patch)
        inputs = (*before.files, *after.files)
        check_raster_destination(
            Path(request.output), place.grid, 1, comparison.dtype, token=request.token, inputs=inputs
        )
        patches = PixelSampler(
            place.whole, before.grid, engine.patch, place.window, subdivision=comparison.subdivision
        )
        plan = engine.plan(before, patches.lattice_window)
        if request.dry_run:
            return Estimate(
                tiles=2 * plan.count,
                seconds=comparison.seconds() * plan.count,
                bytes=expected_bytes(place.grid, 1, comparison.dtype),
            )
        sampling = _Sampling(place, before.grid, engine.patch, plan)
        tags = provenance(
            "change",
            request,
            model,
            before,
            after=after.provenance,
            **({} if head is None else describe_head(head)),
        )
        tally = _Tally()
        with _writer(request, head, place.grid, tags, progress) as writer:
            for strip in comparison.pixels(_on_common_pixels(before, after), sampling, progress):
                tally.add(strip.values, strip.valid)
                writer.write(strip.values[None], strip.row)
    return _result(request, head, tally, progress)


def _load(request: ChangeRequest) -> tuple[Head | None, GAIR]:
    """Return the change head, if the request names one, and the encoder.

    Raises:
        BadInputError: It is a head for one date.
    """
    if not is_head(request.model):
        return None, load_model(request.model)
    head, model = load_head(request.model, backbone=request.backbone, load_model=load_model)
    head.check_scenes(2)
    return head, model


def _on_common_pixels(before: Scene, after: Scene) -> _Dates:
    """Return both dates on the first one's grid, without what either lacks."""
    aligned = AlignedScene(after, before.grid)
    lock = threading.Lock()
    return CommonPixels(before, aligned, lock), CommonPixels(aligned, before, lock)


def _distance(engine: Engine) -> _Comparison:
    model = engine.model
    rim_weight = embedding_rim(model)
    if rim_weight is None:
        rim_weight = torch.zeros(model.config.embed_dim, 2)

    def lattice(features: Tensor) -> Tensor:
        return embedding_lattice(model, features)

    def pixels(dates: _Dates, sampling: _Sampling, progress: Progress) -> Iterator[_Pixels]:
        place, joint = sampling.output, _JointProgress(progress)
        one, other = (
            engine.strips(scene, sampling.plan, lattice, joint.part(date), _SHARE)
            for date, scene in enumerate(dates)
        )
        pairs = zip(one, other, strict=True)
        sampler = DistanceSampler(
            place.whole, sampling.model, sampling.patch, place.window, rim_weight=rim_weight
        )
        for strip in sampler.sample(date_products(pairs, rim_weight, sampling.patch)):
            found = strip.values[0].numpy()
            found[~strip.valid] = np.nan
            yield _Pixels(strip.row, found, strip.valid)

    return _Comparison(pixels, lambda: 2 * engine.seconds_per_tile(lattice), "float32")


def _classification(head: Head, engine: Engine) -> _Comparison:
    model = engine.model

    def lattice(images: Sequence[Tensor], valid: Tensor) -> Tensor:
        return head.tile_lattice(model, images, valid=valid)

    def pixels(dates: _Dates, sampling: _Sampling, progress: Progress) -> Iterator[_Pixels]:
        sampler = PixelSampler(
            sampling.output.whole,
            sampling.model,
            sampling.patch,
            sampling.output.window,
            head.tile_rim(model, len(dates)),
            subdivision=head.subdivision,
        )
        for strip in sampler.sample(engine.tile_strips(dates, sampling.plan, lattice, progress, _SHARE)):
            with torch.inference_mode():
                logits = head.logits(head.split(strip.values, len(dates)))
            yield _Pixels(strip.row, class_values(logits, strip.valid, head.classes), strip.valid)

    return _Comparison(
        pixels,
        lambda: engine.seconds_per_stack(lattice, 2),
        class_dtype(head.classes),
        head.subdivision,
    )


def _overlap(request: ChangeRequest, before: Scene, after: Scene, patch: int) -> OutputWindow:
    """Return the output's pixels: those of the first date that the second may have.

    Raises:
        BadInputError: The scenes do not overlap, or not within the extent.
    """
    place = output_window(before, patch, request.resolution, request.extent, request.extent_crs)
    try:
        common = place.whole.window(after.native.bounds, after.native.crs)
    except BadInputError:
        raise BadInputError(
            f"{before.source} ({_where(before.native)}) and {after.source} ({_where(after.native)}) do not "
            "overlap.",
            "Give two dates of one place, and check their CRS.",
        ) from None
    window = _intersection(place.window, common)
    if window is None:
        raise BadInputError(
            f"{after.source} does not reach into the extent.", "Choose an extent inside both scenes."
        )
    return OutputWindow(place.whole, window)


def _where(grid: Grid) -> str:
    west, south = grid.footprint.lonlat([[0, 1]])[0]
    east, north = grid.footprint.lonlat([[1, 0]])[0]
    return f"longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}"


def _intersection(one: Window, other: Window) -> Window | None:
    row, col = max(one.row, other.row), max(one.col, other.col)
    height, width = min(one.row_stop, other.row_stop) - row, min(one.col_stop, other.col_stop) - col
    return Window(row, col, height, width) if min(height, width) > 0 else None


def _writer(
    request: ChangeRequest, head: Head | None, grid: Grid, tags: dict[str, str], progress: Progress
) -> RasterWriter:
    if head is not None:
        return class_writer(
            Path(request.output),
            grid,
            head.classes,
            token=request.token,
            tags=tags,
            progress=progress,
        )
    return RasterWriter(
        request.output,
        grid,
        1,
        "float32",
        token=request.token,
        nodata=float("nan"),
        band_names=["cosine distance"],
        tags=tags,
        style=ramp_style(0, _STYLE_LIMIT),
        progress=progress,
    )


class _Tally:
    """Counts pixels and sums distances."""

    def __init__(self) -> None:
        self.pixels = self.valid = 0
        self.total = 0.0

    def add(self, pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        self.pixels += valid.size
        self.valid += int(valid.sum())
        self.total += float(pixels[valid].sum(dtype=np.float64))


def _result(request: ChangeRequest, head: Head | None, tally: _Tally, progress: Progress) -> ChangeResult:
    if tally.valid == 0:
        progress.log("warning", "No pixel has data on both dates: the result is nodata everywhere.")
    progress.report(1.0, "done")
    return ChangeResult(
        output=request.output,
        kind="distance" if head is None else "classes",
        valid_fraction=tally.valid / tally.pixels,
        mean_distance=tally.total / tally.valid if head is None and tally.valid else None,
        warnings=tuple(progress.warnings),
    )


class _JointProgress:
    """One progress for two dates that are encoded in turns."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.fractions = [0.0, 0.0]

    def part(self, date: int) -> Progress:
        """Return the progress of one date."""
        return _Part(self, date)


class _Part(Progress):
    def __init__(self, joint: _JointProgress, date: int) -> None:
        super().__init__()
        self._joint, self._date = joint, date

    def report(self, fraction: float, message: str = "") -> None:
        self._joint.fractions[self._date] = fraction
        self._joint.progress.report(sum(self._joint.fractions) / 2, message)

    def log(self, level: Level, message: str) -> None:
        self._joint.progress.log(level, message)

    @property
    def cancelled(self) -> bool:
        return self._joint.progress.cancelled


TASK = Task("change", ChangeRequest, change)
