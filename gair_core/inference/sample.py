"""NILI embeddings of a scene at points, to a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic_settings import CliPositionalArg
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.heads.base import embedding_lattice, embedding_localizer, embedding_rim
from gair_core.inference.models import load_model
from gair_core.inference.outputs import check_destinations
from gair_core.inference.point_tables import (
    inside_scene,
    none_left,
    point_names,
    warn_of,
    without_repeated_places,
)
from gair_core.inference.points import Group, Places, plan_groups, sample_places
from gair_core.inference.request import EngineOptions, Estimate, OutputRequest, SceneOptions
from gair_core.inference.vectors import vector_destination, write_vector
from gair_core.model.gair import GAIR
from gair_core.photos.tables import read_points
from gair_core.progress import Progress
from gair_core.task import Result, Task


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
    lon_field: str | None = Field(None, description="longitude column of a CSV; default: found by its name")
    lat_field: str | None = Field(None, description="latitude column of a CSV; default: found by its name")
    layer: str | None = Field(None, description="layer of a file with several")


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
    table = read_points(
        request.points, lon_field=request.lon_field, lat_field=request.lat_field, layer=request.layer
    )
    model = load_model(request.model)
    embedding_localizer(model)
    engine = request.engine(model)
    rows, centre = _projection(model, request.components)
    dimensions = model.config.embed_dim if rows is None else len(rows)

    def transform(features: Tensor) -> Tensor:
        return embedding_lattice(model, features, rows)

    with request.open(request.scene, engine.config.gsd, progress) as scene:
        inputs = [*scene.files, request.points]
        rows_inside, uv = inside_scene(table, scene, progress)
        inside = table.take(rows_inside)
        destination = vector_destination(Path(request.output), inside.frame, dimensions)
        check_destinations([destination], token=request.token, inputs=inputs)
        places = Places.of(uv, (scene.grid.width, scene.grid.height), engine.patch)
        groups = plan_groups(engine, scene, places)
        if request.dry_run:
            return _estimate(groups, engine.seconds_per_tile(transform), len(uv), dimensions)
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
    warn_of(progress, point_names(table)[rows_inside[~valid]], "on pixels without data")
    if not valid.any():
        raise none_left(len(table), "lies on a pixel with data")
    if centre is not None:
        values -= centre
    progress.raise_if_cancelled()
    write_vector(
        without_repeated_places(inside.take(valid).frame, Path(request.output)),
        request.output,
        request.token,
        embeddings=values[valid],
        inputs=inputs,
    )
    progress.report(1.0, "done")
    return SampleResult(
        output=request.output,
        points=int(valid.sum()),
        left_out=len(table) - int(valid.sum()),
        dimensions=values.shape[1],
        warnings=tuple(progress.warnings),
    )


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


def _estimate(groups: Sequence[Group], seconds: float, points: int, dimensions: int) -> Estimate:
    tiles = sum(group.plan.count for group in groups)
    return Estimate(tiles=tiles, seconds=seconds * tiles, bytes=4 * points * dimensions)


TASK = Task("sample", SampleRequest, sample)
