"""Classes or quantities of single photos and places, by a head without a map, to a table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.head_checkpoint import load_point_head
from gair_core.heads.base import embedding_lattice, embedding_rim
from gair_core.heads.geo_prior import GeoPrior, combine
from gair_core.heads.point import Input, PointHead
from gair_core.inference.encoding import photo_vectors
from gair_core.inference.engine import select_device
from gair_core.inference.models import load_model
from gair_core.inference.outputs import check_destinations
from gair_core.inference.point_tables import (
    inside_scene,
    none_left,
    point_names,
    warn_of,
    without_repeated_places,
)
from gair_core.inference.points import Places, plan_groups, sample_places
from gair_core.inference.request import EngineOptions, Estimate, OutputRequest, SceneOptions
from gair_core.inference.vectors import vector_destination, write_vector
from gair_core.model.gair import GAIR
from gair_core.photos.tables import PhotoTable, PointTable, read_photos, read_points
from gair_core.progress import Progress
from gair_core.task import Result, Task

# Samples that the head sees at once: memory for thousands of classes is that of some megabytes.
_STEP = 1024
# Parts of the progress that belong to the scene and to the photos.
_SCENE_SHARE, _PHOTO_SHARE = (0.0, 0.45), (0.45, 0.95)
_COLUMNS = "columns"
_PROBABILITY = "probability_"


class PredictRequest(EngineOptions, SceneOptions, OutputRequest):
    """Apply a head for single photos and places (probe, fusion, geo-prior, regression) to a table.

    What the head reads must be there: photos that the table names, a position, --scene for the embedding at
    that position, --image-features. Rows that lack something are left out with a warning that names them. The
    output has the columns of the table and predicted_class, predicted_value and confidence, or, for a
    regression, predicted_NAME of every quantity.
    """

    points: CliPositionalArg[str] = Field(
        description="photos or points: GeoPackage, GeoJSON, Parquet, CSV, or a folder of photos"
    )
    output: CliPositionalArg[str] = Field(description="the table to write: .parquet, .gpkg, .geojson or .csv")
    model: str = Field(description="a checkpoint of a head for single photos and places")
    backbone: str | None = Field(
        None, description="the head's encoder, where it is neither inside, beside it nor registered"
    )
    scene: str | None = Field(
        None, description="a Sentinel-2 product, for a head that reads the scene at the place"
    )
    image_features: str | None = Field(
        None, description="a .npy file with a row of features a point, for a head that reads given features"
    )
    image_probabilities: str | None = Field(
        None,
        description="for a geo-prior, what the image alone says: a .npy or sparse .npz file with a row a "
        "point, or 'columns' for the columns probability_CLASS of the points",
    )
    probabilities: bool = Field(False, description="write the probability of every class too")
    photo_field: str | None = Field(None, description="column with the photos' paths; default: found")
    lon_field: str | None = Field(None, description="longitude column of a CSV; default: found by its name")
    lat_field: str | None = Field(None, description="latitude column of a CSV; default: found by its name")
    layer: str | None = Field(None, description="layer of a file with several")

    @property
    def inputs(self) -> list[str]:
        """Every file that is read, the scene's apart."""
        given = [self.image_features, self.image_probabilities]
        return [self.points, *(name for name in given if name is not None and name != _COLUMNS)]


class PredictResult(Result):
    """What `predict` wrote.

    Attributes:
        output: The table.
        points: Number of its rows.
        left_out: Rows that were read but lack something that the head needs.
        classes: Rows of each class by name; classes that were not predicted are left out.
        means: Mean of each quantity of a regression by name.
    """

    output: str
    points: int
    left_out: int
    classes: dict[str, int]
    means: dict[str, float]


def predict(request: PredictRequest, progress: Progress | None = None) -> PredictResult | Estimate:
    """Write a table of predictions.

    Args:
        request: What to do.
        progress: Told how far it is; may cancel.

    Returns:
        What was written, or the estimate of a dry run.

    Raises:
        BadInputError: The head, the table, the scene, a file or an option cannot be used, or no row is left.
        CancelledError: The user cancelled; nothing is left.
    """
    progress = progress or Progress()
    head, model = load_point_head(request.model, backbone=request.backbone, load_model=load_model)
    wanted = head.config.order
    _check_options(request, head)
    table = _read_table(request, wanted)
    image = _image_probabilities(request, head, table)
    given = _image_features(request, head, len(table))
    # Where the image says something, a prior without a place leaves it the word.
    rows = np.arange(len(table))
    if "location" in wanted and image is None:
        rows = np.flatnonzero(table.placed)
        warn_of(progress, point_names(table)[~table.placed], "without a position")
        if not len(rows):
            raise none_left(len(table), "has a position")
    columns = len(head.classes) if request.probabilities else max(3, len(head.metadata.targets))
    destination = vector_destination(Path(request.output), table.frame, columns)
    check_destinations([destination], token=request.token, inputs=request.inputs)
    model = model.to(select_device(request.device)).eval()
    if request.dry_run:
        tiles, seconds = _estimate(request, model, table.take(rows), wanted, progress)
        return Estimate(tiles=tiles, seconds=seconds, bytes=8 * columns * len(rows))
    vectors = _Vectors(rows)
    if "scene" in wanted:
        vectors.add("scene", *_scene_vectors(request, model, table.take(rows), progress))
    if isinstance(table, PhotoTable) and "photo" in wanted:
        part = table.take(vectors.rows)
        vectors.add("photo", *photo_vectors(part, model, progress, _PHOTO_SHARE, project=False))
    if "location" in wanted:
        vectors.add("location", *_location_vectors(model, table.take(vectors.rows)))
    if given is not None:
        vectors.add("image", np.arange(len(vectors.rows)), torch.from_numpy(given[vectors.rows]))
    chosen = table.take(vectors.rows)
    values = _apply(head, vectors.inputs, image, chosen, vectors.rows)
    progress.raise_if_cancelled()
    frame = _with_predictions(chosen.frame, head, values, request.probabilities, progress)
    write_vector(
        without_repeated_places(frame, Path(request.output)),
        request.output,
        request.token,
        inputs=request.inputs,
    )
    progress.report(1.0, "done")
    found = Counter(head.classes[index].name for index in values.argmax(axis=1)) if head.classes else {}
    return PredictResult(
        output=request.output,
        points=len(chosen),
        left_out=len(table) - len(chosen),
        classes=dict(found),
        means={
            one.name: float(mean)
            for one, mean in zip(head.metadata.targets, values.mean(axis=0), strict=False)
        },
        warnings=tuple(progress.warnings),
    )


@dataclass
class _Vectors:
    """Vectors of the rows that have everything so far.

    Attributes:
        rows: Their numbers in the table.
        inputs: Each input, (rows, its length), float32, on the CPU.
    """

    rows: npt.NDArray[np.int64]
    inputs: dict[Input, Tensor]

    def __init__(self, rows: npt.NDArray[np.int64]) -> None:
        self.rows, self.inputs = rows, {}

    def add(self, name: Input, kept: npt.NDArray[np.int64], values: Tensor) -> None:
        """Add an input that only some of the rows have.

        Args:
            name: The input.
            kept: Which of the present rows have it.
            values: Their vectors.
        """
        self.inputs = {other: vectors[torch.from_numpy(kept)] for other, vectors in self.inputs.items()}
        self.inputs[name] = values
        self.rows = self.rows[kept]


def _check_options(request: PredictRequest, head: PointHead) -> None:
    """Refuse a head without what it reads, and what it would not read.

    Raises:
        BadInputError: An option is missing or has no use.
    """
    order = head.config.order
    options = {
        "--scene": (request.scene, "scene" in order),
        "--image-features": (request.image_features, "image" in order),
    }
    for option, (value, needed) in options.items():
        if needed and value is None:
            raise BadInputError(f"The head {request.model} needs {option}.", f"It reads {', '.join(order)}.")
        if value is not None and not needed:
            raise BadInputError(
                f"The head {request.model} has no use for {option}: it reads {', '.join(order)}.",
                "Leave the option out.",
            )
    if request.image_probabilities is not None and not isinstance(head, GeoPrior):
        raise BadInputError(
            f"--image-probabilities are for a geo-prior; {request.model} is of the kind {head.kind}."
        )
    if request.probabilities and head.is_regression:
        raise BadInputError(f"The head {request.model} predicts quantities, which have no probabilities.")


def _read_table(request: PredictRequest, wanted: Sequence[Input]) -> PointTable:
    fields = {"lon_field": request.lon_field, "lat_field": request.lat_field, "layer": request.layer}
    if "photo" in wanted:
        return read_photos(request.points, photo_field=request.photo_field, **fields)
    return read_points(request.points, **fields)


def _scene_vectors(
    request: PredictRequest, model: GAIR, table: PointTable, progress: Progress
) -> tuple[npt.NDArray[np.int64], Tensor]:
    """Return the rows that lie on the scene and z(q) there."""
    engine = request.engine(model)
    with request.open(str(request.scene), engine.config.gsd, progress) as scene:
        check_destinations(
            [vector_destination(Path(request.output), table.frame, 0)],
            token=request.token,
            inputs=scene.files,
        )
        rows, uv = inside_scene(table, scene, progress)
        places = Places.of(uv, (scene.grid.width, scene.grid.height), engine.patch)
        values, valid = sample_places(
            engine,
            scene,
            places,
            plan_groups(engine, scene, places),
            transform=lambda features: embedding_lattice(model, features),
            rim_weight=embedding_rim(model),
            progress=progress,
            share=_SCENE_SHARE,
        )
    warn_of(progress, point_names(table)[rows[~valid]], "on pixels without data")
    if not valid.any():
        raise none_left(len(table), "lies on a pixel with data")
    return rows[valid], torch.from_numpy(values[valid])


def _location_vectors(model: GAIR, table: PointTable) -> tuple[npt.NDArray[np.int64], Tensor]:
    """Return every row and its e(x); a row without a place gets that of (0, 0), which `_apply` disregards."""
    places = torch.from_numpy(np.nan_to_num(table.lonlat))
    with torch.inference_mode():
        parts = [model.encode_location(part).float().cpu() for part in places.split(_STEP)]
    return np.arange(len(table)), torch.cat(parts)


def _apply(
    head: PointHead,
    inputs: Mapping[Input, Tensor],
    image: npt.NDArray[np.float32] | None,
    table: PointTable,
    rows: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return class probabilities (N, classes) or quantities (N, targets)."""
    found = []
    placed = torch.from_numpy(table.placed)
    with torch.inference_mode():
        for start in range(0, len(rows), _STEP):
            part = slice(start, start + _STEP)
            values = head.predict({name: vectors[part] for name, vectors in inputs.items()})
            if image is not None:
                values = combine(torch.from_numpy(image[rows[part]]), values, placed[part])
            found.append(values.double())
    joined: npt.NDArray[np.float64] = torch.cat(found).numpy()
    return joined


def _with_predictions(
    frame: geopandas.GeoDataFrame,
    head: PointHead,
    values: npt.NDArray[np.float64],
    probabilities: bool,
    progress: Progress,
) -> geopandas.GeoDataFrame:
    """Return the table with the predictions behind its own columns."""
    columns: dict[str, npt.NDArray[np.generic]] = {}
    if head.is_regression:
        for target, column in zip(head.metadata.targets, values.T, strict=True):
            columns[f"predicted_{target.name}"] = column
    else:
        best = values.argmax(axis=1)
        columns["predicted_class"] = np.array([one.name for one in head.classes], dtype=object)[best]
        columns["predicted_value"] = np.array([one.value for one in head.classes])[best]
        columns["confidence"] = values.max(axis=1)
        if probabilities:
            columns |= {
                f"{_PROBABILITY}{one.name}": column
                for one, column in zip(head.classes, values.T, strict=True)
            }
    replaced = [name for name in frame.columns if name in columns]
    if replaced:
        progress.log("warning", f"The points' own columns {', '.join(replaced)} are replaced.")
    new = pd.DataFrame(columns, index=frame.index)
    return frame.drop(columns=replaced).join(new)


def _image_features(request: PredictRequest, head: PointHead, rows: int) -> npt.NDArray[np.float32] | None:
    if request.image_features is None:
        return None
    features = _matrix(Path(request.image_features), rows, head.config.inputs["image"], "features")
    if not np.isfinite(features).all():
        raise BadInputError(f"{request.image_features} holds values that are no numbers.")
    return features


def _image_probabilities(
    request: PredictRequest, head: PointHead, table: PointTable
) -> npt.NDArray[np.float32] | None:
    """Return P(y | I) of every row, in the order of the head's classes.

    Raises:
        BadInputError: A column is missing, the file has another shape, or a value is no probability.
    """
    if request.image_probabilities is None:
        return None
    if request.image_probabilities == _COLUMNS:
        names = [f"{_PROBABILITY}{one.name}" for one in head.classes]
        missing = [name for name in names if name not in table.frame.columns]
        if missing:
            raise BadInputError(
                f"{request.points} lacks the columns {', '.join(missing[:5])} ({len(missing)} in all).",
                "gair predict --probabilities writes them with a head of the same classes.",
            )
        found = np.asarray(table.frame[names].to_numpy(dtype=np.float32, na_value=np.nan))
    else:
        path = Path(request.image_probabilities)
        found = _matrix(path, len(table), len(head.classes), "classes")
    if not ((found >= 0) & (found <= 1 + 1e-5)).all():
        raise BadInputError("The image probabilities must lie in [0, 1]; some do not.")
    return found


def _matrix(path: Path, rows: int, columns: int, what: str) -> npt.NDArray[np.float32]:
    """Read an array of numbers from .npy, or from .npz as SciPy stores sparse ones.

    Raises:
        BadInputError: It is missing, of another kind or shape.
    """
    try:
        if path.suffix.lower() == ".npz":
            from scipy import sparse

            found = sparse.load_npz(path).toarray()
        else:
            found = np.load(path, allow_pickle=False)
    except ImportError:
        raise BadInputError(
            f"Sparse files such as {path} need SciPy.", "Install it: pip install 'gair-core[train]'."
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise BadInputError(
            f"{path} cannot be read: {error}.", "A .npy or sparse .npz file is needed."
        ) from None
    if found.shape != (rows, columns):
        raise BadInputError(
            f"{path} has the shape {found.shape}; ({rows}, {columns}) is needed: "
            f"a row a point, {columns} {what}."
        )
    return np.asarray(found, dtype=np.float32)


def _estimate(
    request: PredictRequest, model: GAIR, table: PointTable, wanted: Sequence[Input], progress: Progress
) -> tuple[int, float]:
    """Return the tiles to encode, and the seconds by measuring a tile and a photo."""
    tiles, seconds = 0, 0.0
    if "scene" in wanted:
        engine = request.engine(model)
        with request.open(str(request.scene), engine.config.gsd, progress) as scene:
            _, uv = inside_scene(table, scene, progress)
            places = Places.of(uv, (scene.grid.width, scene.grid.height), engine.patch)
            tiles = sum(group.plan.count for group in plan_groups(engine, scene, places))
        seconds += tiles * engine.seconds_per_tile(lambda features: embedding_lattice(model, features))
    photos = model.config.street_view
    if "photo" in wanted and photos is not None:
        image = torch.zeros(1, 3, photos.image_size, photos.image_size, device=model.device)
        for _ in range(2):
            start = time.perf_counter()
            with torch.inference_mode():
                model.encode_street_view(image, project=False).cpu()
            each = time.perf_counter() - start
        seconds += each * len(table)
    return tiles, seconds


TASK = Task("predict", PredictRequest, predict)
