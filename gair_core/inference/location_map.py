"""Where on Earth a photo could be from: its cosine with location embeddings e(x) on a mesh (figure 8)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from affine import Affine
from pydantic import Field
from pydantic_settings import CliPositionalArg
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.geo.footprint import Float64Array, apply_affine, parse_crs, transform_points
from gair_core.geo.grid import Grid
from gair_core.inference import outputs
from gair_core.inference.engine import select_device
from gair_core.inference.models import load_model
from gair_core.inference.request import Estimate, Extent, OutputRequest, require_part
from gair_core.inference.styles import ramp_style
from gair_core.inference.writers import RasterWriter, check_raster_destination, expected_bytes
from gair_core.model.gair import GAIR
from gair_core.photos.exif import read_tags
from gair_core.photos.panoramas import views
from gair_core.photos.preprocess import preprocess
from gair_core.photos.reading import open_photo
from gair_core.progress import Progress
from gair_core.task import Result, Task
from gair_core.version import __version__

# Mesh points of a batch. On a CPU a batch must end well within the two seconds that a cancel may take.
_POINTS = {"cpu": 2048, "mps": 16384, "cuda": 65536}
# Mesh points of the longer side when no resolution is asked for.
_SIDE = 512
# Beyond this a mesh is a slip of the keyboard: metres given to a CRS in degrees, or the other way round.
_MAXIMUM_POINTS = 400_000_000
# A place whose way to longitude, latitude and back misses by more lies outside the projection's world.
_ROUND_TRIP_PIXELS = 0.5


class LocationMapRequest(OutputRequest):
    """Map how similar a photo is to each place, by the model's location encoder.

    At the date line and at the poles the map has a seam: one place there has several location embeddings.
    """

    photo: CliPositionalArg[str] = Field(description="a photo: JPEG, PNG, TIFF or WebP")
    output: CliPositionalArg[str] = Field(description="the GeoTIFF to write")
    extent: Extent = Field(
        description="left,bottom,right,top; in degrees, left may exceed right across the date line"
    )
    extent_crs: str = Field("EPSG:4326", description="CRS of the extent and of the output")
    resolution: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description=f"pixel size in units of the CRS (degrees or metres); default: {_SIDE} pixels to a side",
    )
    model: str = Field("demo", description="a checkpoint, or the name of a registered model")
    device: str = Field("auto", description="cpu, cuda, mps or auto")
    dry_run: bool = Field(False, description="only say how many batches, seconds and bytes it would take")


class LocationMapResult(Result):
    """What `location_map` wrote.

    Attributes:
        output: The raster.
        minimum: Smallest cosine, in [-1, 1].
        maximum: Largest cosine, in [-1, 1].
        best_longitude: Longitude of the largest cosine, degrees.
        best_latitude: Latitude of the largest cosine, degrees.
    """

    output: str
    minimum: float
    maximum: float
    best_longitude: float
    best_latitude: float


def location_map(
    request: LocationMapRequest, progress: Progress | None = None
) -> LocationMapResult | Estimate:
    """Write a raster of cosines between a photo and places, float32, NaN where the projection has no Earth.

    Args:
        request: What to do.
        progress: Told how far it is; may cancel.

    Returns:
        What was written, or the estimate of a dry run.

    Raises:
        BadInputError: The photo, the extent, its CRS, the mesh or the destination cannot be used, or the
            model has no photo or location encoder.
        CancelledError: The user cancelled; nothing is left.
    """
    progress = progress or Progress()
    grid = mesh(request.extent, request.extent_crs, request.resolution)
    check_raster_destination(
        Path(request.output), grid, 1, "float32", token=request.token, inputs=[request.photo]
    )
    model = load_model(request.model)
    for part in ("street_view", "location"):
        require_part(model, part, "location-map")
    device = select_device(request.device)
    model = model.to(device).eval()
    photo = encode_photo(model, request.photo)
    batch = _POINTS[device.type]
    if request.dry_run:
        return _estimate(model, grid, batch)
    best = _Extremes()
    with RasterWriter(
        request.output,
        grid,
        1,
        "float32",
        token=request.token,
        nodata=float("nan"),
        band_names=["cosine similarity"],
        tags=_tags(request, model),
        inputs=[request.photo],
        progress=progress,
    ) as writer:
        for row, places in _strips(grid, batch):
            cosines = _cosines(model, photo, places, batch, progress)
            best.add(cosines, places)
            writer.write(cosines.reshape(1, -1, grid.width), row)
            done = (row + len(places) // grid.width) / grid.height
            progress.report(0.97 * done, f"row {row + 1} of {grid.height}")
        if best.place is None:
            raise BadInputError(
                f"No place of the extent {request.extent} lies on Earth in {grid.crs}.",
                "Check the extent and its CRS.",
            )
    style = ramp_style(best.minimum, max(best.maximum, best.minimum + 1e-6))
    outputs.write_text(Path(request.output).with_suffix(".qml"), style, request.token)
    progress.report(1.0, "done")
    return LocationMapResult(
        output=request.output,
        minimum=best.minimum,
        maximum=best.maximum,
        best_longitude=best.place[0],
        best_latitude=best.place[1],
        warnings=tuple(progress.warnings),
    )


def mesh(extent: Extent, extent_crs: str, resolution: float | None = None) -> Grid:
    """Lay a mesh over an extent; the extent is kept to the last bit, the pixel size only nearly.

    Args:
        extent: Left, bottom, right, top. In a geographic CRS left may exceed right: the extent then crosses
            the date line and its pixels run on beyond 180 degrees.
        extent_crs: CRS of the extent and of the mesh.
        resolution: Pixel size in units of the CRS; by default the longer side has 512 pixels.

    Returns:
        The mesh.

    Raises:
        BadInputError: The extent is empty or leaves the Earth, or the mesh would be absurdly fine.
    """
    crs = parse_crs(extent_crs)
    left, bottom, right, top = extent
    if crs.is_geographic:
        right = _unwrapped(extent)
    if not (left < right and bottom < top):
        raise BadInputError(
            f"The extent ({left:g}, {bottom:g}, {right:g}, {top:g}) is empty or turned around.",
            "Give left, bottom, right and top, in this order, in the extent's CRS.",
        )
    size = resolution or max(right - left, top - bottom) / _SIDE
    width, height = max(1, round((right - left) / size)), max(1, round((top - bottom) / size))
    if width * height > _MAXIMUM_POINTS:
        unit = "degrees" if crs.is_geographic else crs.linear_units
        raise BadInputError(
            f"A mesh of {width:,} x {height:,} points is too fine; at most {_MAXIMUM_POINTS:,} are possible.",
            f"Choose a smaller extent or a coarser resolution than {size:g}, which counts in {unit}.",
        )
    transform = Affine((right - left) / width, 0, left, 0, (bottom - top) / height, top)
    return Grid(crs, transform, width, height)


def _unwrapped(extent: Extent) -> float:
    """Check an extent in degrees and return its right edge, moved east of the left one."""
    left, bottom, right, top = extent
    if not (bottom >= -90 and top <= 90 and -180 <= left <= 180 and -180 <= right <= 540):
        raise BadInputError(
            f"The extent ({left:g}, {bottom:g}, {right:g}, {top:g}) leaves the Earth: latitudes lie in "
            "[-90, 90] and longitudes in [-180, 180].",
            "Give left,bottom,right,top in degrees, or the extent's own CRS with --extent-crs.",
        )
    if right < left:
        right += 360
    if right - left > 360:
        raise BadInputError(
            f"The extent is {right - left:g} degrees wide; the Earth has 360.", "Give at most -180 to 180."
        )
    return right


def mesh_lonlat(grid: Grid, row: int, rows: int) -> Float64Array:
    """Return longitude and latitude of the pixel centres of some rows, in float64.

    Args:
        grid: The mesh.
        row: First row.
        rows: Number of rows.

    Returns:
        Shape (rows * width, 2), degrees, row-major; NaN where the projection has no place on Earth.
    """
    columns, lines = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(row, row + rows) + 0.5)
    pixels = np.column_stack([columns.ravel(), lines.ravel()])
    points = apply_affine(grid.transform, pixels)
    lonlat_crs = parse_crs("OGC:CRS84")
    places = transform_points(points, grid.crs, lonlat_crs)
    outside = ~np.all(np.isfinite(places), axis=1) | (np.abs(places[:, 1]) > 90)
    if not grid.crs.is_geographic:
        # Outside its world's outline a projection may return places from elsewhere instead of none.
        back = transform_points(np.where(outside[:, None], 0, places), lonlat_crs, grid.crs)
        distance = np.abs(apply_affine(~grid.transform, back) - pixels).max(axis=1)
        outside |= ~(distance <= _ROUND_TRIP_PIXELS)
    places[outside] = np.nan
    beyond = np.abs(places[:, 0]) > 180
    places[beyond, 0] = (places[beyond, 0] + 180) % 360 - 180
    return places


def encode_photo(model: GAIR, path: str) -> Tensor:
    """Return the projected embedding g(s) of a photo with length 1, shape (D,), on the model's device.

    Of a panorama (by its tags) it is that of the view to the front.
    """
    config = model.config.street_view
    if config is None:
        raise BadInputError("The model has no photo encoder.")
    photo = open_photo(path)
    if read_tags(path).panorama:
        _, photo = next(views(photo))
    pixels = preprocess(photo, config)[None].to(model.device)
    with torch.inference_mode():
        return F.normalize(model.encode_street_view(pixels).float(), dim=-1)[0]


def _strips(grid: Grid, batch: int) -> Iterator[tuple[int, Float64Array]]:
    """Yield first row and places of strips of about 32 batches: memory does not depend on the height."""
    rows = max(1, 32 * batch // grid.width)
    for row in range(0, grid.height, rows):
        yield row, mesh_lonlat(grid, row, min(rows, grid.height - row))


def _cosines(
    model: GAIR, photo: Tensor, places: Float64Array, batch: int, progress: Progress
) -> npt.NDArray[np.float32]:
    """Return the cosine at each place, float32 of shape (N,), NaN where the place is NaN."""
    cosines = np.full(len(places), np.nan, np.float32)
    (known,) = np.nonzero(np.isfinite(places[:, 0]))
    for start in range(0, len(known), batch):
        progress.raise_if_cancelled()
        part = known[start : start + batch]
        with torch.inference_mode():
            embeddings = model.encode_location(torch.from_numpy(places[part]))
            cosines[part] = (F.normalize(embeddings.float(), dim=-1) @ photo).cpu().numpy()
    return cosines


def _tags(request: LocationMapRequest, model: GAIR) -> dict[str, str]:
    """Say how the map was made; folders are left out, they may be private."""
    information = model.checkpoint
    return {
        "GAIR_SOFTWARE": f"gair_core {__version__}",
        "GAIR_TASK": "location-map",
        "GAIR_MODEL": f"{information.title} ({information.name})" if information else "unnamed",
        "GAIR_MODEL_FINGERPRINT": information.fingerprint if information else "",
        "GAIR_PHOTO": Path(request.photo).name,
    }


class _Extremes:
    """Running smallest and largest cosine, and the place of the largest."""

    def __init__(self) -> None:
        self.minimum, self.maximum = float("inf"), float("-inf")
        self.place: tuple[float, float] | None = None

    def add(self, cosines: npt.NDArray[np.float32], places: Float64Array) -> None:
        """Take in the cosines (N,) of places (N, 2)."""
        if bool(np.isnan(cosines).all()):
            return
        self.minimum = min(self.minimum, float(np.nanmin(cosines)))
        best = int(np.nanargmax(cosines))
        if float(cosines[best]) > self.maximum:
            self.maximum = float(cosines[best])
            self.place = float(places[best, 0]), float(places[best, 1])


def _estimate(model: GAIR, grid: Grid, batch: int) -> Estimate:
    """Measure one batch at the equator after a warm-up."""
    places = torch.zeros(batch, 2, dtype=torch.float64)
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
            model.encode_location(places).cpu()
        seconds = time.perf_counter() - start
    batches = -(-grid.width * grid.height // batch)
    return Estimate(tiles=batches, seconds=seconds * batches, bytes=expected_bytes(grid, 1, "float32"))


TASK = Task("location-map", LocationMapRequest, location_map)
