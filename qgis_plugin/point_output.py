"""Points that leave gair_core, as a layer of the user's choice: any format, a temporary layer, a model step.

gair_core writes a GeoPackage of its own, whose rows know the source's row that they belong to. From here they
go with the original attributes, types and CRS into a feature sink of Processing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeature,
    QgsFeatureSink,
    QgsField,
    QgsFields,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputLayerDefinition,
    QgsProcessingUtils,
    QgsVectorLayer,
    QgsWkbTypes,
)
from qgis.PyQt.QtCore import QVariant

from .figure import save_star_style
from .photo_input import ROW, Rows
from .translation import tr


@dataclass(frozen=True)
class Joined:
    """Rows of a result of gair_core, each with the source's row that it belongs to.

    Attributes:
        fields: Fields of the output.
        crs: CRS of the output.
        geometry_type: Geometry type of the output.
        features: The output's features.
    """

    fields: QgsFields
    crs: QgsCoordinateReferenceSystem
    geometry_type: Any
    features: Sequence[QgsFeature]


def join_result(rows: Rows, path: Path, columns: Sequence[str]) -> Joined:
    """Add columns of a result to the original rows; rows that are not in the result are left out.

    Args:
        rows: The source's rows.
        path: The GeoPackage that gair_core wrote, with the column `ROW`.
        columns: The result's columns to add; a clash with a field of the source gives them another name.

    Returns:
        Features in the source's order, CRS and geometry; where the source is a table without geometries, in
        longitude and latitude.
    """
    result = read_result(path)
    indices = [result.fields.indexOf(column) for column in columns]
    row_index = result.fields.indexOf(ROW)
    fields = QgsProcessingUtils.combineFields(rows.fields, select_fields(result.fields, columns))
    features = []
    for found in result.features:
        values = found.attributes()
        original = rows.features[int(values[row_index])]
        feature = QgsFeature(fields)
        feature.setGeometry(original.geometry() if rows.spatial else found.geometry())
        feature.setAttributes([*original.attributes(), *(values[index] for index in indices)])
        features.append(feature)
    if rows.spatial:
        return Joined(fields, rows.crs, rows.geometry_type, features)
    return Joined(fields, result.crs, QgsWkbTypes.Type.Point, features)


def select_fields(fields: QgsFields, names: Sequence[str]) -> QgsFields:
    """Return some fields, in the order of the names."""
    selected = QgsFields()
    for name in names:
        selected.append(QgsField(fields.at(fields.indexOf(name))))
    return selected


def read_result(path: Path) -> Rows:
    """Read a table that gair_core wrote.

    Raises:
        QgsProcessingException: It cannot be opened.
    """
    layer = QgsVectorLayer(str(path), "result", "ogr")
    if not layer.isValid():
        raise QgsProcessingException(tr("The result {path} cannot be opened.").format(path=path))
    features = [QgsFeature(feature) for feature in layer.getFeatures()]
    return Rows(path.name, features, layer.fields(), layer.crs(), layer.wkbType())


def write_features(
    joined: Joined,
    destination: object,
    make_sink: Callable[[QgsFields, Any, QgsCoordinateReferenceSystem], tuple[Any, str]],
    context: QgsProcessingContext,
    feedback: QgsProcessingFeedback,
) -> str:
    """Write features to a sink of Processing, with their style where the format can keep one.

    Args:
        joined: What to write.
        destination: The parameter's value; a CSV, in which QGIS keeps no geometry, gets columns of places.
        make_sink: `parameterAsSink` for fields, geometry type and CRS.
        context: The run's context.
        feedback: Told about failures of the style.

    Returns:
        The output as Processing knows it.

    Raises:
        QgsProcessingException: The destination cannot be written.
    """
    if destination_text(destination, context).lower().endswith(".csv"):
        joined = _with_places(joined, context)
    sink, written = make_sink(joined.fields, joined.geometry_type, joined.crs)
    if sink is None:
        raise QgsProcessingException(
            tr("The points cannot be written: their destination cannot be made. Choose another one.")
        )
    for feature in joined.features:
        if not sink.addFeature(feature, QgsFeatureSink.Flag.FastInsert):
            raise QgsProcessingException(
                tr("Writing {destination} failed: {message}").format(
                    destination=written, message=sink.lastError()
                )
            )
    # The file is complete when its sink is gone.
    del sink
    save_star_style(written, feedback)
    return written


def _with_places(joined: Joined, context: QgsProcessingContext) -> Joined:
    """Add columns of longitude and latitude, in degrees of WGS 84, unless there are such columns already."""
    if "lon" in joined.fields.names() and "lat" in joined.fields.names():
        return joined
    lonlat = QgsCoordinateReferenceSystem("EPSG:4326")
    transform = QgsCoordinateTransform(joined.crs, lonlat, context.transformContext())
    places = QgsFields()
    for name in ("lon", "lat"):
        places.append(QgsField(name, QVariant.Double))
    fields = QgsProcessingUtils.combineFields(joined.fields, places)
    features = []
    for feature in joined.features:
        extended = QgsFeature(fields)
        extended.setGeometry(feature.geometry())
        # Every point that gair_core used has been in longitude and latitude before.
        vertex = next(feature.geometry().vertices())
        point = transform.transform(vertex.x(), vertex.y())
        extended.setAttributes([*feature.attributes(), point.x(), point.y()])
        features.append(extended)
    return Joined(fields, joined.crs, joined.geometry_type, features)


def check_destination(value: object, context: QgsProcessingContext, layer_path: str = "") -> None:
    """Refuse a destination of features that cannot work before any time is spent.

    Args:
        value: The parameter's value.
        context: Resolves properties of a definition.
        layer_path: What is read, which must not be overwritten; may be no file.

    Raises:
        QgsProcessingException: The folder does not exist or cannot be written to, or the file is the input.
    """
    path = Path(destination_text(value, context))
    if not path.is_absolute():
        return  # a temporary layer, a database, or a name that Processing places itself
    if not path.parent.is_dir():
        raise QgsProcessingException(
            tr("The folder {folder} of the output {name} does not exist. Create it first.").format(
                folder=path.parent, name=path.name
            )
        )
    if not os.access(path.parent, os.W_OK):
        raise QgsProcessingException(
            tr("The folder {folder} cannot be written to. Choose another one.").format(folder=path.parent)
        )
    if layer_path and path.exists() and Path(layer_path).exists() and path.samefile(layer_path):
        raise QgsProcessingException(
            tr("The output {path} is the input. Inputs are never overwritten: choose another name.").format(
                path=path
            )
        )


def destination_text(value: object, context: QgsProcessingContext) -> str:
    """Return a destination as text; empty where the output is not wanted."""
    if isinstance(value, QgsProcessingOutputLayerDefinition):
        value = value.sink.valueAsString(context.expressionContext())[0]
    return str(value or "")
