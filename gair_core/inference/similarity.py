"""Where a scene looks like photos: exact cosines with every pixel, and how photos fit their own places."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyproj
import torch
from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg
from torch import Tensor
from typing_extensions import Self

from gair_core.errors import BadInputError
from gair_core.geo.footprint import apply_affine
from gair_core.geo.grid import Window
from gair_core.heads.base import embedding_lattice, embedding_localizer, embedding_rim
from gair_core.inference import outputs
from gair_core.inference.cosine import (
    CosineSampler,
    ProductStore,
    QueryScores,
    SceneScores,
    crop_columns,
    hull_of,
    lattice_products,
)
from gair_core.inference.encoding import encode_photos
from gair_core.inference.engine import Engine
from gair_core.inference.lattice import LatticeStrip
from gair_core.inference.models import load_model
from gair_core.inference.request import (
    EngineOptions,
    Estimate,
    OutputRequest,
    OutputWindow,
    SceneOptions,
    WindowOptions,
    output_window,
    provenance,
    require_part,
)
from gair_core.inference.styles import ramp_style
from gair_core.inference.tiling import LatticeWindow, TilePlan
from gair_core.inference.vectors import vector_destination, write_vector
from gair_core.inference.writers import (
    DISK_FACTOR,
    RASTER_SUFFIXES,
    RasterWriter,
    raster_destination,
)
from gair_core.photos.selection import usable
from gair_core.photos.tables import PhotoTable, read_photos
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene
from gair_core.task import Result, Task

if TYPE_CHECKING:
    import geopandas

_GEOD = pyproj.Geod(ellps="WGS84")
# A tile takes about as long as this many photos, for the progress bar.
_PHOTOS_PER_TILE = 3
# Columns that `_with_scores` adds to a photo's own.
_SCORE_COLUMNS = 8
# Half the width of the style's ramp, in standard deviations of the raster.
_RAMP_DEVIATIONS = 2.5


class SimilarityRequest(WindowOptions, EngineOptions, SceneOptions, OutputRequest):
    """Map how similar a scene is to photos, and say how well each photo fits the place where it was taken.

    The second output holds the photos with their score (the cosine at their own place), its percentile in the
    whole scene, and the place of and the distance to the best match: photos with wrong coordinates stand out.
    The whole scene is encoded for it whatever the extent; --no-scores leaves it out and encodes the extent
    only.
    """

    scene: CliPositionalArg[str] = Field(
        description="a Sentinel-2 product: file, folder, SAFE, zip or STAC item"
    )
    photos: CliPositionalArg[str] = Field(
        description="photos with places: GeoPackage, GeoJSON, CSV, or a folder of photos with GPS positions"
    )
    output: CliPositionalArg[str] = Field(
        description="the GeoTIFF to write; in the mode photo a folder, which gets a GeoTIFF a photo"
    )
    mode: Literal["mean", "group", "photo"] = Field(
        "mean",
        description="mean of the photos' cosines, a band for each value of an attribute, or a raster a photo",
    )
    photo_field: str | None = Field(
        None, description="attribute that holds the photos' paths; default: found by its name"
    )
    group_field: str | None = Field(
        None, description="attribute whose values are the bands of the mode group"
    )
    radius: Annotated[float, Field(gt=0)] | Literal["full"] = Field(
        2000.0,
        description="half the side of the window around each photo in the mode photo, metres; "
        "full: the whole extent",
    )
    scores: bool = Field(
        True, description="write the photos with their scores, for which the whole scene is encoded"
    )
    photos_output: str | None = Field(
        None,
        description="where to write them: GeoPackage, GeoJSON, CSV or Parquet; "
        "default: beside the output, with the ending _photos.gpkg",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.mode == "group") != (self.group_field is not None):
            raise ValueError("the mode group and group_field need each other")
        if self.photos_output is not None and not self.scores:
            raise ValueError("photos_output holds the scores: give it, or leave out scores, not both")
        return self

    @property
    def scores_path(self) -> Path | None:
        """Where the photos with their scores go, or None."""
        if not self.scores:
            return None
        output = Path(self.output)
        return Path(self.photos_output or output.with_name(f"{output.stem}_photos.gpkg"))


class SimilarityResult(Result):
    """What `similarity` wrote.

    Attributes:
        output: The raster, or the folder of rasters.
        rasters: Number of rasters.
        bands: Names of the bands; in the mode photo, of the rasters.
        photos: Number of photos that were compared.
        minimum: Smallest value written, in [-1, 1].
        maximum: Largest value written, in [-1, 1].
        photos_output: The photos with their scores, or None.
    """

    output: str
    rasters: int
    bands: tuple[str, ...]
    photos: int
    minimum: float
    maximum: float
    photos_output: str | None


def similarity(request: SimilarityRequest, progress: Progress | None = None) -> SimilarityResult | Estimate:
    """Write rasters of cosines between photos and a scene, float32, NaN where the scene has no data.

    Args:
        request: What to do.
        progress: Told how far it is; may cancel. Photos that cannot be used become its warnings.

    Returns:
        What was written, or the estimate of a dry run.

    Raises:
        BadInputError: The scene, the model, a destination or an option cannot be used, or no photo is left.
        CancelledError: The user cancelled; nothing is left.
    """
    progress = progress or Progress()
    model = load_model(request.model)
    require_part(model, "street_view", "similarity")
    embedding_localizer(model)
    engine = request.engine(model)
    with request.open(request.scene, engine.config.gsd, progress) as scene:
        place = output_window(scene, engine.patch, request.resolution, request.extent, request.extent_crs)
        run = _Run(request, engine, scene, place, progress)
        photos = _photos_inside(run)
        rasters = _rasters(run, photos)
        _check_destinations(run, photos, rasters)
        plan = engine.plan(scene, _lattice_window(run, rasters))
        if request.dry_run:
            return _estimate(run, plan, photos, rasters)
        share = run.encoded * len(photos) / (len(photos) + _PHOTOS_PER_TILE * plan.count)
        chosen, vectors = encode_photos(photos.table, engine.model, progress, share)
        rasters = [part for raster in rasters if (part := raster.of(chosen)) is not None]
        if not rasters:
            raise BadInputError(
                f"No photo that can be read has the attribute {request.group_field!r}.",
                "The warnings name the others; check their files.",
            )
        return _compare(run, photos.only(chosen), vectors, rasters, share)


@dataclass(frozen=True)
class _Run:
    """What every step needs."""

    request: SimilarityRequest
    engine: Engine
    scene: Scene
    place: OutputWindow
    progress: Progress

    @property
    def encoded(self) -> float:
        """The fraction that is done when the scene is encoded; rasters of photos are written after it."""
        return 0.9 if self.request.mode == "photo" else 0.97

    @property
    def rim_weight(self) -> Tensor:
        """W_c, shape (D, 2); 0 for a localizer without one."""
        weight = embedding_rim(self.engine.model)
        return torch.zeros(self.engine.model.config.embed_dim, 2) if weight is None else weight.cpu()

    def sampler(self, window: Window, queries: Tensor) -> CosineSampler:
        """Return what turns products into cosines in a window of the output."""
        return CosineSampler(
            self.place.whole,
            self.scene.grid,
            self.engine.patch,
            window,
            queries=queries,
            rim_weight=self.rim_weight,
        )


@dataclass(frozen=True)
class _Photos:
    """Photos inside the scene.

    Attributes:
        table: The photos.
        uv: Their places in the scene's footprint, shape (N, 2), float64.
    """

    table: PhotoTable
    uv: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def names(self) -> tuple[str, ...]:
        """What the photos are called."""
        return tuple(self.table.name(row) for row in range(len(self)))

    def only(self, chosen: npt.NDArray[np.int64]) -> _Photos:
        """Return some of them."""
        return _Photos(self.table.take(chosen), self.uv[chosen])


def _photos_inside(run: _Run) -> _Photos:
    """Read the table of photos and leave out, by name, those that cannot be opened or lie elsewhere."""
    footprint = run.scene.grid.footprint
    listed = read_photos(run.request.photos, photo_field=run.request.photo_field)
    table = usable(listed, footprint, run.progress)
    return _Photos(table, footprint.uv(table.lonlat))


@dataclass(frozen=True)
class _Raster:
    """A raster to write.

    Attributes:
        path: Its destination.
        window: Its pixels in the whole scene's output grid.
        bands: Names of its bands.
        weights: Which photos each band is the mean of, shape (bands, photos), rows of sum 1.
    """

    path: Path
    window: Window
    bands: tuple[str, ...]
    weights: npt.NDArray[np.float64]

    @property
    def photos(self) -> int:
        """Number of photos that are in it."""
        return int(self.weights.any(axis=0).sum())

    @property
    def bytes(self) -> int:
        """Uncompressed size."""
        return self.window.height * self.window.width * len(self.bands) * np.dtype(np.float32).itemsize

    def of(self, photos: npt.NDArray[np.int64]) -> _Raster | None:
        """Return what is left of the raster when only these photos are; None when no band is."""
        weights = self.weights[:, photos]
        (filled,) = np.nonzero(weights.any(axis=1))
        if not len(filled):
            return None
        weights = weights[filled] / weights[filled].sum(axis=1, keepdims=True)
        return _Raster(self.path, self.window, tuple(self.bands[band] for band in filled), weights)


def _rasters(run: _Run, photos: _Photos) -> list[_Raster]:
    """Return the rasters of the mode."""
    output, window, count = Path(run.request.output), run.place.window, len(photos)
    if run.request.mode == "mean":
        return [_Raster(output, window, ("mean cosine",), np.full((1, count), 1 / count))]
    if run.request.group_field is not None:
        members = _group_members(run, photos, run.request.group_field)
        weights = np.array([member / member.sum() for member in members.values()])
        return [_Raster(output, window, tuple(members), weights)]
    rasters = []
    for index, name in enumerate(_file_names(photos.names)):
        near = _window_around(run, photos.uv[index])
        if near is None:
            run.progress.log(
                "warning", f"{photos.names[index]}: its window does not meet the extent; no raster."
            )
        else:
            # Without its folder, which may be private, as in the provenance.
            band = Path(photos.names[index]).name
            rasters.append(_Raster(output / name, near, (band,), np.eye(1, count, index)))
    if not rasters:
        raise BadInputError(
            "No photo's window meets the extent.", "Choose another extent or a larger --radius, or full."
        )
    return rasters


def _group_members(run: _Run, photos: _Photos, field: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return for each value of an attribute, as text and in order, which photos have it (1 or 0)."""
    attributes = photos.table.frame.columns.drop(photos.table.frame.geometry.name)
    if field not in attributes:
        raise BadInputError(
            f"The photos have no attribute {field!r}; they have {', '.join(map(str, attributes))}.",
            "Choose one of them.",
        )
    column = photos.table.frame[field]
    column = column.where(column.notna() & (column.astype(str).str.strip() != ""))
    for index in np.flatnonzero(column.isna()):
        run.progress.log("warning", f"{photos.names[index]} has no {field}, so it is in no band.")
    # Integers beside nulls arrive as floats; their bands are called 1, not 1.0.
    values = column.dropna().convert_dtypes().unique().tolist()
    if not values:
        raise BadInputError(f"The attribute {field!r} is empty for every photo.", "Choose another one.")
    # Numbers in their own order; mixed kinds have none but that of their text.
    alike = len({type(value) for value in values}) == 1
    return {
        str(value): column.eq(value).fillna(False).to_numpy(np.float64)
        for value in sorted(values, key=None if alike else str)
    }


def _file_names(names: Sequence[str]) -> Iterator[str]:
    """Return a different file name for each photo, also where upper and lower case are the same."""
    used: set[str] = set()
    for name in names:
        candidate, number = f"{Path(name).stem}.tif", 1
        while candidate.casefold() in used:
            number += 1
            candidate = f"{Path(name).stem}_{number}.tif"
        used.add(candidate.casefold())
        yield candidate


def _window_around(run: _Run, uv: npt.NDArray[np.float64]) -> Window | None:
    """Return the pixels within the radius of a place along both axes, cut to the extent."""
    extent, whole = run.place.window, run.place.whole
    if run.request.radius == "full":
        return extent
    size = whole.footprint.pixel_size_metres()
    column, row = uv * (whole.width, whole.height)
    wide, high = run.request.radius / size[0], run.request.radius / size[1]
    left, right = max(extent.col, math.floor(column - wide)), min(extent.col_stop, math.ceil(column + wide))
    top, bottom = max(extent.row, math.floor(row - high)), min(extent.row_stop, math.ceil(row + high))
    if left >= right or top >= bottom:
        return None
    return Window(top, left, bottom - top, right - left)


def _lattice_window(run: _Run, rasters: Sequence[_Raster]) -> LatticeWindow | None:
    """Return the patches to encode: all for the scores, else those of the rasters."""
    if run.request.scores:
        return None
    return hull_of([_patches_of(run, raster) for raster in rasters])


def _patches_of(run: _Run, raster: _Raster) -> LatticeWindow:
    return run.sampler(raster.window, torch.zeros(0, len(run.rim_weight))).lattice_window


def _check_destinations(run: _Run, photos: _Photos, rasters: Sequence[_Raster]) -> None:
    """Refuse impossible destinations before any work."""
    destinations = _raster_destinations(run, rasters)
    if run.request.scores_path is not None:
        table = photos.table.frame
        destinations.append(vector_destination(run.request.scores_path, table, _SCORE_COLUMNS))
    outputs.check_destinations(destinations, token=run.request.token, inputs=_inputs(run, photos))


def _raster_destinations(run: _Run, rasters: Sequence[_Raster]) -> list[outputs.Destination]:
    if run.request.mode != "photo":
        return [raster_destination(one.path, run.place.grid, len(one.bands), "float32") for one in rasters]
    folder = Path(run.request.output)
    if folder.is_file() or folder.suffix.lower() in RASTER_SUFFIXES:
        raise BadInputError(
            f"In the mode photo the output is a folder of rasters; {folder} is the name of a file.",
            f"Name it {folder.with_suffix('').name}_similarity.",
        )
    # Finished rasters with their overviews, and the temporaries of the largest.
    needed = sum(raster.bytes for raster in rasters) * 4 / 3
    needed += max(raster.bytes for raster in rasters) * DISK_FACTOR
    if not folder.is_dir():
        return [outputs.Destination(folder, (folder.suffix.lower(),), int(needed))]
    share = int(needed / len(rasters))
    return [outputs.Destination(raster.path, RASTER_SUFFIXES, share) for raster in rasters]


def _inputs(run: _Run, photos: _Photos) -> list[str | Path]:
    """Every file that is read."""
    listed = (path for path in photos.table.paths if path is not None)
    return [*run.scene.files, run.request.photos, *listed]


def _compare(
    run: _Run, photos: _Photos, vectors: Tensor, rasters: Sequence[_Raster], share: float
) -> SimilarityResult:
    """Encode the scene and write everything, given the photos' vectors of length 1, shape (N, D)."""
    request, model, patch = run.request, run.engine.model, run.engine.patch
    plan = run.engine.plan(run.scene, _lattice_window(run, rasters))
    strips = run.engine.strips(
        run.scene,
        plan,
        lambda features: embedding_lattice(model, features),
        run.progress,
        (share, run.encoded),
    )
    scores = _scores(run, photos, vectors) if request.scores else None
    if scores is not None:
        strips = _also(scores, strips)
    queries = torch.from_numpy(np.concatenate([raster.weights for raster in rasters])) @ vectors.double()
    products = lattice_products(strips, queries, run.rim_weight, patch)
    write = _write_stored if request.mode == "photo" else _write_streamed
    found = write(run, rasters, queries, products, plan.window.col)
    if scores is not None and request.scores_path is not None:
        table = _with_scores(run, photos, scores.result())
        write_vector(table, request.scores_path, request.token, inputs=_inputs(run, photos))
    run.progress.report(1.0, "done")
    return SimilarityResult(
        output=request.output,
        rasters=len(rasters),
        bands=tuple(name for raster in rasters for name in raster.bands),
        photos=len(photos),
        minimum=found.minimum,
        maximum=found.maximum,
        photos_output=str(request.scores_path) if request.scores else None,
        warnings=tuple(run.progress.warnings),
    )


def _scores(run: _Run, photos: _Photos, vectors: Tensor) -> SceneScores:
    grid, patch = run.scene.grid, run.engine.patch
    rows, columns = -(-grid.height // patch), -(-grid.width // patch)
    # The last patches may reach beyond the scene.
    uv = photos.uv * (grid.width, grid.height) / (columns * patch, rows * patch)
    return SceneScores(vectors, uv, (rows, columns), run.rim_weight, patch)


def _also(scores: SceneScores, strips: Iterator[LatticeStrip]) -> Iterator[LatticeStrip]:
    for strip in strips:
        scores.add(strip)
        yield strip


class _Spread:
    """Running range, mean and standard deviation of values, NaN left out."""

    def __init__(self) -> None:
        self.minimum, self.maximum = math.inf, -math.inf
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Take in values of any shape."""
        known = values[np.isfinite(values)]
        if known.size == 0:
            return
        self.minimum = min(self.minimum, float(known.min()))
        self.maximum = max(self.maximum, float(known.max()))
        self._count += known.size
        self._sum += float(known.sum(dtype=np.float64))
        self._squares += float(np.square(known, dtype=np.float64).sum())

    def merge(self, other: _Spread) -> None:
        """Take in what another one has seen."""
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)

    @property
    def is_empty(self) -> bool:
        """Whether there was no value."""
        return self._count == 0

    def style(self) -> str:
        """Return a ramp over most values: a scene's edge must not flatten the colours of its middle."""
        mean = self._sum / self._count
        deviation = math.sqrt(max(0.0, self._squares / self._count - mean**2))
        low = max(self.minimum, mean - _RAMP_DEVIATIONS * deviation)
        high = min(self.maximum, mean + _RAMP_DEVIATIONS * deviation)
        return ramp_style(low, high if high > low else low + 1e-6)


def _write_streamed(
    run: _Run, rasters: Sequence[_Raster], queries: Tensor, products: Iterator[LatticeStrip], left: int
) -> _Spread:
    """Write the one raster while the scene is encoded; memory is that of a strip."""
    (raster,) = rasters
    sampler = run.sampler(raster.window, queries)
    cropped = (crop_columns(strip, left, sampler.lattice_window, run.engine.patch) for strip in products)
    return _write(run, raster, sampler, cropped)


def _write_stored(
    run: _Run, rasters: Sequence[_Raster], queries: Tensor, products: Iterator[LatticeStrip], left: int
) -> _Spread:
    """Write a raster for each photo after the scene has been encoded."""
    store = ProductStore([_patches_of(run, raster) for raster in rasters], run.engine.patch)
    for strip in products:
        store.add(crop_columns(strip, left, store.hull, run.engine.patch))
    found = _Spread()
    with _new_files_removed_on_failure(Path(run.request.output), rasters):
        for index, raster in enumerate(rasters):
            done = run.encoded + (0.99 - run.encoded) * index / len(rasters)
            run.progress.report(done, f"raster {index + 1} of {len(rasters)}")
            sampler = run.sampler(raster.window, queries[index : index + 1])
            part = _write(run, raster, sampler, iter([store.strip(index)]))
            found.merge(part)
        _refuse_nothing(found)
    return found


def _refuse_nothing(found: _Spread) -> None:
    if not math.isfinite(found.minimum):
        raise BadInputError("The scene has no data in the extent.", "Choose another extent or scene.")


@contextlib.contextmanager
def _new_files_removed_on_failure(folder: Path, rasters: Sequence[_Raster]) -> Iterator[None]:
    """Make the folder; when the block fails, the files and the folder that were not there before go again."""
    made = not folder.is_dir()
    files = [path for raster in rasters for path in (raster.path, raster.path.with_suffix(".qml"))]
    new = [path for path in files if not path.exists()]
    with outputs.explained(folder):
        folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for path in new:
                path.unlink(missing_ok=True)
            if made:
                folder.rmdir()
        raise


def _write(run: _Run, raster: _Raster, sampler: CosineSampler, products: Iterator[LatticeStrip]) -> _Spread:
    """Write one raster and its style."""
    request, found = run.request, _Spread()
    with RasterWriter(
        raster.path,
        run.place.whole.crop(raster.window),
        len(raster.bands),
        "float32",
        token=request.token,
        nodata=float("nan"),
        band_names=raster.bands,
        tags=provenance("similarity", request, run.engine.model, run.scene, photos=raster.photos),
        inputs=run.scene.files,
        progress=run.progress,
    ) as writer:
        for strip in sampler.sample(products):
            pixels = strip.values.numpy()
            pixels[:, ~strip.valid] = np.nan
            found.add(pixels)
            writer.write(pixels, strip.row)
        if request.mode != "photo":
            _refuse_nothing(found)
    if not found.is_empty:
        outputs.write_text(raster.path.with_suffix(".qml"), found.style(), request.token)
    return found


def _with_scores(run: _Run, photos: _Photos, scores: QueryScores) -> geopandas.GeoDataFrame:
    """Return the photos with their scores and the place of and distance to their best matches."""
    grid = run.scene.grid
    pixel = np.column_stack([scores.best_column + 0.5, scores.best_row + 0.5]) * run.engine.patch
    # The last patch may reach beyond the scene by more than its half.
    uv = np.minimum(pixel / (grid.width, grid.height), 1.0)
    best, xy = grid.footprint.lonlat(uv), apply_affine(grid.transform, uv * (grid.width, grid.height))
    own = grid.footprint.lonlat(photos.uv)
    _, _, distance = _GEOD.inv(own[:, 0], own[:, 1], best[:, 0], best[:, 1])
    return photos.table.frame.assign(
        similarity=scores.own,
        percentile=scores.percentile,
        best_similarity=scores.best,
        best_lon=best[:, 0],
        best_lat=best[:, 1],
        best_x=xy[:, 0],
        best_y=xy[:, 1],
        best_distance_m=distance,
    )


def _estimate(run: _Run, plan: TilePlan, photos: _Photos, rasters: Sequence[_Raster]) -> Estimate:
    """Measure a batch of tiles and a photo."""
    model = run.engine.model
    seconds = plan.count * run.engine.seconds_per_tile(lambda features: embedding_lattice(model, features))
    return Estimate(
        tiles=plan.count,
        seconds=seconds * (1 + len(photos) / (_PHOTOS_PER_TILE * plan.count)),
        bytes=sum(raster.bytes for raster in rasters),
    )


TASK = Task("similarity", SimilarityRequest, similarity)
