"""Points that leave gair_core, as a layer of the user's choice: any format, a temporary layer, a model step.

gair_core writes a GeoPackage of its own, whose rows know the source's row that they belong to. From here they
go with the original attributes, types and CRS into a feature sink of Processing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from osgeo import gdal
from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsFeature,
    QgsFeatureSink,
    QgsField,
    QgsFields,
    QgsLayerTree,
    QgsMapLayer,
    QgsMarkerSymbol,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingOutputLayerDefinition,
    QgsProcessingUtils,
    QgsRasterLayer,
    QgsSingleSymbolRenderer,
    QgsVectorLayer,
    QgsWkbTypes,
)

from .photo_input import ROW, Rows
from .translation import tr

# The paper's figure 7 marks the places of photos with red stars. The white and the dark rim keep them visible
# over every colour of the similarity's ramp and of a scene.
_STAR = (
    {"name": "star", "color": "0,0,0,255", "outline_color": "0,0,0,255", "outline_width": "1.2", "size": "5"},
    {
        "name": "star",
        "color": "227,26,28,255",
        "outline_color": "255,255,255,255",
        "outline_width": "0.5",
        "size": "5",
    },
)


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
    # gair_core's GDAL is newer than that of an old QGIS, which warns about the version and reads the file.
    gdal.PushErrorHandler("CPLQuietErrorHandler")
    try:
        layer = QgsVectorLayer(str(path), "result", "ogr")
        if not layer.isValid():
            raise QgsProcessingException(tr("The result {path} cannot be opened.").format(path=path))
        features = [QgsFeature(feature) for feature in layer.getFeatures()]
    finally:
        gdal.PopErrorHandler()
    return Rows(path.name, features, layer.fields(), layer.crs(), layer.wkbType())


def write_features(
    joined: Joined,
    make_sink: Callable[[QgsFields, Any, QgsCoordinateReferenceSystem], tuple[Any, str]],
    feedback: QgsProcessingFeedback,
) -> str:
    """Write features to a sink of Processing, with their style where the format can keep one.

    Args:
        joined: What to write.
        make_sink: `parameterAsSink` for fields, geometry type and CRS.
        feedback: Told about failures of the style.

    Returns:
        The output as Processing knows it.

    Raises:
        QgsProcessingException: The destination cannot be written.
    """
    sink, destination = make_sink(joined.fields, joined.geometry_type, joined.crs)
    if sink is None:
        raise QgsProcessingException(
            tr("The points cannot be written: their destination cannot be made. Choose another one.")
        )
    for feature in joined.features:
        if not sink.addFeature(feature, QgsFeatureSink.Flag.FastInsert):
            raise QgsProcessingException(
                tr("Writing {destination} failed: {message}").format(
                    destination=destination, message=sink.lastError()
                )
            )
    # The file is complete when its sink is gone.
    del sink
    save_style(destination, feedback)
    return destination


def check_destination(value: object, context: QgsProcessingContext, layer_path: str = "") -> None:
    """Refuse a destination of points that cannot work before any time is spent.

    Args:
        value: The parameter's value.
        context: Resolves properties of a definition.
        layer_path: The file of the layer that is read, which must not be overwritten.

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
    if layer_path and path.exists() and path.samefile(layer_path):
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


def apply_style(layer: QgsVectorLayer) -> None:
    """Show points as stars that are visible over any raster."""
    symbol = QgsMarkerSymbol.createSimple(_STAR[0])
    top = QgsMarkerSymbol.createSimple(_STAR[1])
    symbol.appendSymbolLayer(top.symbolLayer(0).clone())
    layer.setRenderer(QgsSingleSymbolRenderer(symbol))


def save_style(destination: str, feedback: QgsProcessingFeedback) -> None:
    """Make the stars the default style of a file: inside a GeoPackage, beside other files as a .qml.

    Layers in memory get theirs when they are loaded, from `Figure`; tables of databases are left as they are.
    """
    path = Path(destination.split("|", maxsplit=1)[0])
    if not path.is_file():
        return
    layer = QgsVectorLayer(destination, path.stem, "ogr")
    if not layer.isValid() or layer.geometryType() != QgsWkbTypes.GeometryType.PointGeometry:
        return
    apply_style(layer)
    if path.suffix.lower() == ".gpkg":
        message = layer.saveStyleToDatabase("GAIR", tr("Places of photos"), True, "")
    else:
        text, saved = layer.saveNamedStyle(str(path.with_suffix(".qml")))
        message = "" if saved else text
    if message:
        feedback.pushWarning(
            tr("The style of {path} was not saved: {message}").format(path=path, message=message)
        )


class Figure(QgsProcessingLayerPostProcessorInterface):
    """Puts the layers of one run in order when they are loaded: stars above rasters, as in figure 7."""

    # Processing does not own post-processors, and needs them after the algorithm is gone.
    _kept: ClassVar[deque[Figure]] = deque(maxlen=64)

    def __init__(self) -> None:
        super().__init__()
        self._points: list[str] = []
        self._rasters: list[str] = []
        Figure._kept.append(self)

    def watch(self, context: QgsProcessingContext, destination: str) -> None:
        """Take part in the loading of an output, if it is to be loaded."""
        if context.willLoadLayerOnCompletion(destination):
            context.layerToLoadOnCompletionDetails(destination).setPostProcessor(self)

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Style points, and keep them above the run's rasters."""
        if isinstance(layer, QgsRasterLayer):
            self._rasters.append(layer.id())
        else:
            apply_style(layer)
            self._points.append(layer.id())
            layer.triggerRepaint()
        project = context.project()
        if project is not None:
            for identifier in self._points:
                _raise_above(project.layerTreeRoot(), identifier, self._rasters)


def _raise_above(root: QgsLayerTree, identifier: str, below: Sequence[str]) -> None:
    """Move a layer directly above the uppermost of some others, if one of them covers it."""
    order = [node.layerId() for node in root.findLayers()]
    covering = [other for other in below if other in order and order.index(other) < order.index(identifier)]
    if not covering:
        return
    uppermost = root.findLayer(min(covering, key=order.index))
    node = root.findLayer(identifier)
    parent = uppermost.parent()
    parent.insertChildNode(parent.children().index(uppermost), node.clone())
    node.parent().removeChildNode(node)
