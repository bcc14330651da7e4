"""NILI embeddings of a scene at points, to a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic_settings import CliPositionalArg
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.geo.footprint import Float64Array
from gair_core.heads.base import embedding_lattice, embedding_localizer, embedding_rim
from gair_core.inference.models import load_model
from gair_core.inference.points import Group, Places, plan_groups, sample_places
from gair_core.inference.request import EngineOptions, Estimate, OutputRequest, SceneOptions
from gair_core.inference.vectors import check_vector_destination, write_vector
from gair_core.model.gair import GAIR
from gair_core.photos.exif import read_tags
from gair_core.photos.reading import SUFFIXES
from gair_core.progress import Progress
from gair_core.task import Result, Task

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

# Columns of longitude and of latitude in a CSV table, and those that name a point.
_AXES = (("lon", "longitude", "lng", "x"), ("lat", "latitude", "y"))
_NAMES = ("name", "id", "uuid", "photo")
# A warning names so many points.
_LISTED = 5


class SampleRequest(EngineOptions, SceneOptions, OutputRequest):
    """Compute the embedding (NILI) at points and write it beside their attributes.

    Points outside the scene or on nodata are left out with a warning that names them.
    """

    scene: CliPositionalArg[str] = Field(
        description="a Sentinel-2 product: file, folder, SAFE, zip or STAC item"
    )
    points: CliPositionalArg[str] = Field(
        description="points: GeoPackage, GeoJSON, CSV, or a folder of photos with EXIF positions"
    )
    output: CliPositionalArg[str] = Field(description="the table to write: .parquet, .gpkg, .geojson or .csv")
    components: Annotated[int, Field(gt=0)] | Literal["all"] = Field(
        "all", description="principal components by the model's basis, or all for the embedding itself"
    )
    dry_run: bool = Field(False, description="only say how many tiles, seconds and bytes it would take")


class SampleResult(Result):
    """What `sample` wrote.

    Attributes:
        output: The table.
        points: Number of its rows.
        left_out: Points that were read but lie outside the scene or on nodata.
        dimensions: Length of an embedding.
    """

    output: str
    points: int
    left_out: int
    dimensions: int


def sample(request: SampleRequest, progress: Progress | None = None) -> SampleResult | Estimate:
    """Write a table of embeddings at points.

    Args:
        request: What to do.
        progress: Told how far it is; may cancel.

    Returns:
        What was written, or the estimate of a dry run.

    Raises:
        BadInputError: The scene, the points, the model or an option cannot be used, or no point is left.
        CancelledError: The user cancelled; nothing is left.
    """
    progress = progress or Progress()
    table = _read(request.points, progress)
    check_vector_destination(
        Path(request.output), token=request.token, inputs=[request.scene, request.points]
    )
    model = load_model(request.model)
    embedding_localizer(model)
    engine = request.engine(model)
    rows, centre = _projection(model, request.components)
    dimensions = model.config.embed_dim if rows is None else len(rows)

    def transform(features: Tensor) -> Tensor:
        return embedding_lattice(model, features, rows)

    with request.open(request.scene, engine.config.gsd, progress) as scene:
        footprint = scene.grid.footprint
        uv = footprint.uv(table.lonlat)
        footprint.check_not_swapped(table.lonlat)
        inside = footprint.contains(uv)
        _warn(progress, table.names[~inside], "outside the scene")
        if not inside.any():
            raise _none_left(len(uv), "lies in the scene")
        table = table.keep(inside)
        places = Places.of(uv[inside], (scene.grid.width, scene.grid.height), engine.patch)
        groups = plan_groups(engine, scene, places)
        if request.dry_run:
            return _estimate(groups, engine.seconds_per_tile(transform), len(table.names), dimensions)
        values, valid = sample_places(
            engine,
            scene,
            places,
            groups,
            transform=transform,
            rim_weight=embedding_rim(model, rows),
            progress=progress,
            share=(0.0, 0.95),
        )
    _warn(progress, table.names[~valid], "on pixels without data")
    if not valid.any():
        raise _none_left(len(uv), "lies on a pixel with data")
    if centre is not None:
        values -= centre
    progress.raise_if_cancelled()
    write_vector(
        table.keep(valid).frame,
        request.output,
        request.token,
        embeddings=values[valid],
        inputs=[request.scene, request.points],
    )
    progress.report(1.0, "done")
    return SampleResult(
        output=request.output,
        points=int(valid.sum()),
        left_out=len(uv) - int(valid.sum()),
        dimensions=values.shape[1],
        warnings=tuple(progress.warnings),
    )


@dataclass(frozen=True)
class _Points:
    """Points with their attributes.

    Attributes:
        frame: Attributes and geometry.
        lonlat: Longitude and latitude in degrees, shape (N, 2), float64.
        names: What a warning calls them.
    """

    frame: geopandas.GeoDataFrame
    lonlat: Float64Array
    names: npt.NDArray[np.object_]

    def keep(self, chosen: npt.NDArray[np.bool_]) -> _Points:
        """Return the chosen points, mask of shape (N,)."""
        return _Points(self.frame[chosen], self.lonlat[chosen], self.names[chosen])


def _read(source: str, progress: Progress) -> _Points:
    """Read points of any CRS, or the positions of a folder of photos.

    Raises:
        BadInputError: The file cannot be read, has no CRS, or holds no points.
    """
    path = Path(source)
    frame = _photo_positions(path, progress) if path.is_dir() else _read_table(path)
    placed = ~(frame.geometry.isna() | frame.geometry.is_empty).to_numpy()
    names = _names(frame)
    _warn(progress, names[~placed], "without a position")
    frame, names = frame[placed], names[placed]
    if frame.empty:
        raise BadInputError(f"{path} holds no points.", "Give points with longitude and latitude.")
    kinds = sorted(set(frame.geom_type) - {"Point"})
    if kinds:
        raise BadInputError(
            f"{path} holds geometries of the type {', '.join(kinds)}; points are needed.",
            "Convert them, for example to centroids.",
        )
    places = frame.geometry.to_crs("OGC:CRS84")
    return _Points(frame, np.column_stack([places.x, places.y]), names)


def _read_table(path: Path) -> geopandas.GeoDataFrame:
    import geopandas
    import pandas as pd
    from pyogrio.errors import DataSourceError

    try:
        if path.suffix.lower() == ".csv":
            return _placed(pd.read_csv(path, encoding="utf-8-sig"), path)
        frame = geopandas.read_file(path)
    except FileNotFoundError:
        raise BadInputError(f"{path} does not exist.", "Check the path.") from None
    except BadInputError:
        raise
    except (OSError, DataSourceError, ValueError, UnicodeError) as error:
        raise BadInputError(
            f"{path} is no table that can be read ({error}).", "Give a GeoPackage, GeoJSON or CSV."
        ) from error
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.crs is None:
        raise BadInputError(
            f"{path} has no geometry or no coordinate reference system.", "Assign its CRS first."
        )
    return frame


def _placed(table: pd.DataFrame, path: Path) -> geopandas.GeoDataFrame:
    """Turn columns of longitude and latitude into points; they go, for the writer adds its own."""
    import geopandas
    import pandas as pd

    columns = {str(name).strip().lower(): name for name in table.columns}
    lon, lat = (next((columns[name] for name in names if name in columns), None) for names in _AXES)
    if lon is None or lat is None:
        raise BadInputError(
            f"{path.name} has no columns of longitude and latitude; it has "
            f"{', '.join(map(str, table.columns))}.",
            f"Name them {_AXES[0][0]} and {_AXES[1][0]}, in degrees (WGS 84).",
        )
    x, y = (pd.to_numeric(table[name], errors="coerce") for name in (lon, lat))
    points = geopandas.GeoSeries(geopandas.points_from_xy(x, y), index=table.index)
    points[x.isna() | y.isna()] = None
    return geopandas.GeoDataFrame(table.drop(columns=[lon, lat]), geometry=points, crs="EPSG:4326")


def _photo_positions(folder: Path, progress: Progress) -> geopandas.GeoDataFrame:
    """Read the positions of the photos of a folder and its folders."""
    import geopandas
    from shapely import Point

    rows = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        progress.raise_if_cancelled()
        name = str(path.relative_to(folder))
        try:
            tags = read_tags(path)
        except BadInputError as error:
            progress.log("warning", f"The photo {name} is skipped: {error.message}")
            continue
        rows.append(
            {
                "photo": name,
                "altitude": tags.altitude,
                "direction": tags.direction,
                "taken": tags.taken.isoformat() if tags.taken else None,
                "geometry": None if tags.longitude is None else Point(tags.longitude, tags.latitude),
            }
        )
    if not rows:
        raise BadInputError(f"{folder} holds no photos.", f"Photos end in {', '.join(sorted(SUFFIXES))}.")
    return geopandas.GeoDataFrame(rows, geometry="geometry", crs="EPSG:4326")


def _names(frame: geopandas.GeoDataFrame) -> npt.NDArray[np.object_]:
    """What warnings call the points: an attribute that says so, or their number from 1."""
    for name in frame.columns:
        if str(name).lower() in _NAMES:
            return np.asarray(frame[name], object)
    return np.arange(1, len(frame) + 1).astype(object)


def _projection(
    model: GAIR, components: int | Literal["all"]
) -> tuple[Tensor, npt.NDArray[np.float32]] | tuple[None, None]:
    """Return the first rows (K, D) of the model's basis, on its device, and the projected mean (K,)."""
    if components == "all":
        return None, None
    if model.basis is None:
        raise BadInputError(
            "The model has no PCA basis.", "Write the embedding itself with --components all."
        )
    found = len(model.basis.components)
    if components > found:
        raise BadInputError(
            f"The model's basis has {found} components, {components} were asked for.",
            f"Ask for at most {found}, or for all dimensions with --components all.",
        )
    rows = model.basis.components[:components]
    return rows.to(model.device), (rows @ model.basis.mean).cpu().numpy()


def _warn(progress: Progress, names: npt.NDArray[np.object_], reason: str) -> None:
    """Name the points that are left out, the first of many."""
    if len(names):
        listed = ", ".join(map(str, names[:_LISTED]))
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        plural = "point is" if len(names) == 1 else "points are"
        progress.log("warning", f"{len(names)} {plural} left out, {reason}: {listed}{more}.")


def _none_left(count: int, wanted: str) -> BadInputError:
    return BadInputError(
        f"None of the {count} points {wanted}.", "Check that scene and points are of the same place."
    )


def _estimate(groups: Sequence[Group], seconds: float, points: int, dimensions: int) -> Estimate:
    tiles = sum(group.plan.count for group in groups)
    return Estimate(tiles=tiles, seconds=seconds * tiles, bytes=4 * points * dimensions)


TASK = Task("sample", SampleRequest, sample)
