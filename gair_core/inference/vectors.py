"""Vector results: GeoPackage, GeoJSON, CSV and GeoParquet, complete or not at all."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gair_core.inference import outputs

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".csv", ".parquet")
# Read without a warning by the GDAL of QGIS 3.22, which knows the format up to 1.3.
GEOPACKAGE_OPTIONS = {"VERSION": "1.2"}

# Names that the GeoPackage driver and readers of its files claim for the key and the geometry.
_RESERVED = ("fid", "geom", "geometry")
# Beginnings of layer names that GDAL and SQLite keep for themselves.
_RESERVED_LAYERS = ("gpkg", "sqlite_")

_SMALLEST_GEOPACKAGE = 1 << 20

# Bytes that one number of a row takes; GeoJSON repeats its name in every row.
_VALUE_BYTES = {".parquet": 5, ".gpkg": 10, ".csv": 16, ".geojson": 40}


def vector_destination(output: Path, frame: geopandas.GeoDataFrame, numbers: int) -> outputs.Destination:
    """Describe a table that is to be written, for `outputs.check_destinations`.

    Args:
        output: The file.
        frame: The rows, as far as they are known.
        numbers: How many numbers each row gets besides, such as its embedding.
    """
    value_bytes = _VALUE_BYTES.get(output.suffix.lower(), 0)
    needed = int(frame.memory_usage(deep=True).sum()) + len(frame) * numbers * value_bytes
    return outputs.Destination(output, VECTOR_SUFFIXES, needed + _SMALLEST_GEOPACKAGE)


def check_vector_destination(output: Path, *, token: str, inputs: Sequence[str | Path] = ()) -> None:
    """Refuse an impossible destination of a small table; see `outputs.check_destinations`."""
    destination = outputs.Destination(output, VECTOR_SUFFIXES)
    outputs.check_destinations([destination], token=token, inputs=inputs)


def write_vector(
    frame: geopandas.GeoDataFrame,
    path: str | Path,
    token: str,
    *,
    embeddings: npt.NDArray[np.float32] | None = None,
    layer: str | None = None,
    style: str | None = None,
    inputs: Sequence[str | Path] = (),
) -> Path:
    """Write a table with geometry in the format that the file name's ending asks for.

    GeoJSON and CSV hold WGS 84 longitude and latitude whatever the table's CRS is (RFC 7946; CSV points as
    columns ``lon`` and ``lat``, other geometry as ``wkt``). Lists and dictionaries become JSON text
    everywhere but in Parquet. Attribute names that the format cannot hold get a numbered ending.

    Args:
        frame: Rows to write, with a CRS.
        path: Destination: ``.gpkg``, ``.geojson``, ``.csv`` or ``.parquet``.
        token: The request's token, part of the temporary's name.
        embeddings: One vector a row, (N, D): a list column ``embedding`` in Parquet, else columns
            ``embedding_0`` to ``embedding_<D-1>``.
        layer: Layer name in a GeoPackage; default is the file's name without its ending.
        style: Text of a ``.qml`` beside the file, or None.
        inputs: Every file that was read; none of them may be the destination.

    Returns:
        The destination.

    Raises:
        BadInputError: Wrong ending, the destination is an input or cannot be written.
        ValueError: The embeddings do not fit the rows, or the table has no CRS.
    """
    output = Path(path)
    if frame.crs is None:
        raise ValueError("the table has no CRS")
    if embeddings is not None and len(embeddings) != len(frame):
        raise ValueError(f"{len(embeddings)} embeddings for {len(frame)} rows")
    check_vector_destination(output, token=token, inputs=inputs)
    with contextlib.ExitStack() as stack:
        # What is entered last is renamed first: the style follows the table that it belongs to.
        if style is not None:
            styled = stack.enter_context(outputs.replacing(output.with_suffix(".qml"), token))
            styled.write_text(style, encoding="utf-8", newline="\n")
        temporary = stack.enter_context(outputs.replacing(output, token))
        _write(frame, temporary, output, embeddings, layer or output.stem)
    return output


def _write(
    frame: geopandas.GeoDataFrame,
    temporary: Path,
    output: Path,
    embeddings: npt.NDArray[np.float32] | None,
    layer: str,
) -> None:
    suffix = output.suffix.lower()
    if suffix == ".parquet":
        if embeddings is not None:
            frame = frame.assign(embedding=list(embeddings))
        frame.to_parquet(temporary, index=False)
        return
    if embeddings is not None:
        frame = _with_columns(frame, embeddings)
    frame = _plain(frame)
    if suffix == ".csv":
        _table(frame).to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")
    else:
        _write_with_gdal(frame, temporary, output, layer)


def _with_columns(
    frame: geopandas.GeoDataFrame, embeddings: npt.NDArray[np.float32]
) -> geopandas.GeoDataFrame:
    import pandas as pd

    names = [f"embedding_{index}" for index in range(embeddings.shape[1])]
    columns = pd.DataFrame(embeddings, columns=names, index=frame.index)
    return frame.drop(columns=names, errors="ignore").join(columns)


def _plain(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Lists, dictionaries and arrays as JSON text, for formats of plain values."""
    changed = {}
    for name in frame.columns.drop(frame.geometry.name):
        column = frame[name]
        if (
            column.dtype == object
            and column.map(lambda value: isinstance(value, list | tuple | dict | np.ndarray)).any()
        ):
            changed[name] = column.map(_as_text)
    return frame.assign(**changed) if changed else frame


def _as_text(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else value


def _table(frame: geopandas.GeoDataFrame) -> pd.DataFrame:
    """The rows with their place in front, in degrees of WGS 84."""
    import pandas as pd

    places = frame.geometry.to_crs("EPSG:4326")
    if (places.geom_type.dropna() == "Point").all():
        columns = {"lon": places.x, "lat": places.y}
    else:
        columns = {"wkt": places.to_wkt()}
    attributes = frame.drop(columns=frame.geometry.name)
    attributes.columns = _unique_names(attributes.columns, taken=columns)
    return pd.concat([pd.DataFrame(columns), attributes], axis="columns")


def _write_with_gdal(frame: geopandas.GeoDataFrame, temporary: Path, output: Path, layer: str) -> None:
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

    geojson = output.suffix.lower() == ".geojson"
    if layer.casefold().startswith(_RESERVED_LAYERS):
        layer = f"layer_{layer}"
    if geojson:
        frame = frame.to_crs("EPSG:4326")
    geometry = frame.geometry.name
    attributes = frame.columns.drop(geometry)
    renamed = _unique_names(attributes, taken=_RESERVED)
    frame = frame.rename(columns=dict(zip(attributes, renamed, strict=True)))
    try:
        with warnings.catch_warnings():
            # The temporary's name ends in .part on purpose.
            warnings.filterwarnings("ignore", message=".*(extension|GeoPackage).*", category=RuntimeWarning)
            pyogrio.write_dataframe(
                frame,
                temporary,
                layer=layer,
                driver="GeoJSON" if geojson else "GPKG",
                dataset_options={} if geojson else GEOPACKAGE_OPTIONS,
                layer_options={"RFC7946": "YES"} if geojson else {},
            )
    except (DataLayerError, DataSourceError, FeatureError) as error:
        # GDAL seldom says that the disk is full; with less left than the table takes, it is.
        needed = int(frame.memory_usage(deep=True).sum()) + _SMALLEST_GEOPACKAGE
        raise outputs.writing_failed(output, error, needed) from error


def _unique_names(names: Iterable[Any], taken: Iterable[str]) -> list[str]:
    """Names that differ by more than case, as SQLite wants them, and avoid the ``taken`` ones."""
    used = {name.casefold() for name in taken}
    unique = []
    for name in map(str, names):
        candidate, number = name, 1
        while candidate.casefold() in used:
            number += 1
            candidate = f"{name}_{number}"
        used.add(candidate.casefold())
        unique.append(candidate)
    return unique
