"""Where in a scene photos were probably taken: the best places by cosine of g(s) with z(q)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.heads.base import embedding_lattice, embedding_localizer, embedding_rim
from gair_core.inference.encoding import encode_photos
from gair_core.inference.models import load_model
from gair_core.inference.peaks import PeakFinder, Place, refine
from gair_core.inference.request import EngineOptions, Estimate, OutputRequest, SceneOptions, require_part
from gair_core.inference.vectors import check_vector_destination, write_vector
from gair_core.model.gair import GAIR
from gair_core.photos.tables import PhotoTable, read_photos
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene
from gair_core.task import Result, Task

if TYPE_CHECKING:
    import geopandas

_GEOD = pyproj.Geod(ellps="WGS84")
# Peaks of the lattice that are refined for each place that is wanted: the order changes a little from patches
# to pixels, and peaks of neighbouring patches may meet.
_SPARE = 3
# Share of the photos in the progress.
_PHOTO_SHARE = 0.1
# Bytes of a row of the output, for the estimate.
_ROW_BYTES = 200


class LocateRequest(EngineOptions, SceneOptions, OutputRequest):
    """Find the places of a scene that fit photos best, for photos without coordinates.

    A photo's own coordinates are not used; its distance from the places found is reported where it has any.
    """

    scene: CliPositionalArg[str] = Field(
        description="a Sentinel-2 product: file, folder, SAFE, zip or STAC item"
    )
    photos: CliPositionalArg[str] = Field(
        description="a folder of photos, or a table (CSV, GeoPackage, GeoJSON) that names them"
    )
    output: CliPositionalArg[str] = Field(description="the table to write: .gpkg, .geojson, .csv or .parquet")
    photo_field: str | None = Field(
        None, description="column of a table that holds the photos' paths; default: found by its name"
    )
    layer: str | None = Field(None, description="layer of a file with several")
    places: int = Field(5, gt=0, le=1000, description="places to find for each photo, at most")
    radius: float = Field(500.0, ge=0, description="metres within which only the best place counts")


class LocateResult(Result):
    """What `locate` wrote.

    Attributes:
        output: The table: one row a place with photo, rank (from 1), score (cosine), percentile (share of the
            scene's patches with a lower cosine) and, for photos that have coordinates, the distance from them
            in metres.
        photos: Number of photos.
        places: Number of its rows.
        skipped: Photos that could not be used.
    """

    output: str
    photos: int
    places: int
    skipped: int


@dataclass(frozen=True)
class _Query:
    """A photo that is looked for.

    Attributes:
        name: Its name in the output.
        embedding: g(s) of length 1, shape (D,), on the CPU.
        lonlat: Where it says that it was taken, degrees, or None.
    """

    name: str
    embedding: Tensor
    lonlat: tuple[float, float] | None


@dataclass(frozen=True)
class _Found:
    """A place of a photo."""

    place: Place
    lon: float
    lat: float
    percentile: float


def locate(request: LocateRequest, progress: Progress | None = None) -> LocateResult | Estimate:
    """Write the best places of photos in a scene.

    Places are pixels of the scene's own grid. A place counts if its patch is the best within the radius
    (along rows and columns); it is the best pixel around that patch, and lies at least the radius from every
    better place of the photo.

    Args:
        request: What to do.
        progress: Told how far it is; may cancel.

    Returns:
        What was written, or the estimate of a dry run.

    Raises:
        BadInputError: The scene, the model or an option cannot be used, or no photo is left.
        CancelledError: The user cancelled; nothing is left.
    """
    progress = progress or Progress()
    photos = read_photos(request.photos, photo_field=request.photo_field, layer=request.layer)
    listed = [path for path in photos.paths if path is not None]
    model = load_model(request.model)
    require_part(model, "street_view", "locate")
    embedding_localizer(model)
    engine = request.engine(model)
    rim_weight = embedding_rim(model)
    if rim_weight is None:
        rim_weight = torch.zeros(model.config.embed_dim, 2)

    def transform(features: Tensor) -> Tensor:
        return embedding_lattice(model, features)

    with request.open(request.scene, engine.config.gsd, progress) as scene:
        inputs: list[str | Path] = [*scene.files, request.photos, *listed]
        check_vector_destination(Path(request.output), token=request.token, inputs=inputs)
        plan = engine.plan(scene)
        if request.dry_run:
            seconds = engine.seconds_per_tile(transform) * plan.count
            return Estimate(
                tiles=plan.count, seconds=seconds, bytes=_ROW_BYTES * request.places * len(photos)
            )
        queries = _encode(photos, model, progress)
        vectors = torch.stack([query.embedding for query in queries])
        finder = PeakFinder(
            vectors,
            rim_weight,
            shape=(plan.window.height, plan.window.width),
            patch=engine.patch,
            reach=_reach(scene, engine.patch, request.radius),
            keep=_SPARE * request.places,
        )
        for strip in engine.strips(scene, plan, transform, progress, (_PHOTO_SHARE, 0.95)):
            finder.add(strip)
        found = []
        for number, query in enumerate(queries):
            progress.raise_if_cancelled()
            refined = [
                refine(
                    peak,
                    native=scene.native,
                    model=scene.grid,
                    patch=engine.patch,
                    query=query.embedding,
                    rim_weight=rim_weight,
                )
                for peak in finder.peaks(number)
            ]
            places = [_describe(place, scene, finder, number) for place in refined if place is not None]
            found.append(_suppress(places, request.radius)[: request.places])
    if not any(found):
        raise BadInputError(
            f"The scene {request.scene} has no pixel with data.", "Check its nodata value and masks."
        )
    frame = _table(queries, found)
    write_vector(frame, request.output, request.token, inputs=inputs)
    progress.report(1.0, "done")
    return LocateResult(
        output=request.output,
        photos=len(queries),
        places=len(frame),
        skipped=len(photos) - len(queries),
        warnings=tuple(progress.warnings),
    )


def _encode(photos: PhotoTable, model: GAIR, progress: Progress) -> list[_Query]:
    """Encode the photos that can be read; warnings name the others.

    Raises:
        BadInputError: None can.
    """
    rows, vectors = encode_photos(photos, model, progress, _PHOTO_SHARE)
    queries = []
    for row, vector in zip(rows.tolist(), vectors, strict=True):
        lon, lat = photos.lonlat[row].tolist()
        place = None if math.isnan(lon) else (lon, lat)
        queries.append(_Query(photos.name(row), vector, place))
    return queries


def _reach(scene: Scene, patch: int, radius: float) -> tuple[int, int]:
    """Return the rows and columns of patches within the radius, at least 1."""
    width, height = scene.grid.footprint.pixel_size_metres()
    return max(1, math.floor(radius / (height * patch))), max(1, math.floor(radius / (width * patch)))


def _describe(place: Place, scene: Scene, finder: PeakFinder, query: int) -> _Found:
    grid = scene.native
    uv = [[(place.column + 0.5) / grid.width, (place.row + 0.5) / grid.height]]
    lon, lat = grid.footprint.lonlat(uv)[0].tolist()
    return _Found(place, lon, lat, finder.percentile(query, place.score))


def _suppress(places: Sequence[_Found], radius: float) -> list[_Found]:
    """Return the places from the best on that are at least the radius from every better one."""
    kept: list[_Found] = []
    for found in sorted(places, key=lambda found: (-found.place.score, found.place.row, found.place.column)):
        new = all(
            found.place != other.place and _distance(found.lon, found.lat, other.lon, other.lat) >= radius
            for other in kept
        )
        if new:
            kept.append(found)
    return kept


def _distance(lon: float, lat: float, other_lon: float, other_lat: float) -> float:
    """Return the geodesic distance in metres."""
    _, _, metres = _GEOD.inv(lon, lat, other_lon, other_lat)
    return float(metres)


def _table(queries: Sequence[_Query], found: Sequence[Sequence[_Found]]) -> geopandas.GeoDataFrame:
    import geopandas

    rows = [
        {
            "photo": query.name,
            "rank": rank,
            "score": place.place.score,
            "percentile": place.percentile,
            "distance_m": np.nan if query.lonlat is None else _distance(place.lon, place.lat, *query.lonlat),
            "lon": place.lon,
            "lat": place.lat,
        }
        for query, places in zip(queries, found, strict=True)
        for rank, place in enumerate(places, 1)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    lon, lat = columns.pop("lon"), columns.pop("lat")
    return geopandas.GeoDataFrame(columns, geometry=geopandas.points_from_xy(lon, lat), crs="EPSG:4326")


TASK = Task("locate", LocateRequest, locate)
