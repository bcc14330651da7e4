"""Layers of labelled polygons or points, whatever provider they come from, as a file that gair_core reads.

gair_core reads files, in its own process. A layer may be a memory layer, a selection, have edits, a filter or
a CRS of the user's: only QGIS knows all that. So the features are taken from QGIS and written to a temporary
GeoPackage in their own CRS, and the layer's style beside it, from which gair_core reads the colours of the
classes exactly as it does for a file of the user's.
"""

from __future__ import annotations

import re
from pathlib import Path

from qgis.core import (
    QgsFeature,
    QgsFeatureSink,
    QgsField,
    QgsFields,
    QgsGeometry,
    QgsProcessingContext,
    QgsProcessingException,
    QgsVectorFileWriter,
    QgsVectorLayer,
    QgsWkbTypes,
)

from .photo_input import Rows, exported_type, plain
from .translation import tr


def export_labels(
    rows: Rows, layer: QgsVectorLayer | None, field: str, folder: Path, context: QgsProcessingContext
) -> str:
    """Write features with one of their fields to a GeoPackage, and their layer's style beside it.

    Args:
        rows: The features.
        layer: The layer that they come from, for its style; None where there is none.
        field: The field with their classes.
        folder: A temporary folder; the file in it is named like the layer, for messages.
        context: For transformations.

    Returns:
        The GeoPackage.

    Raises:
        QgsProcessingException: There is no such field, no CRS, or the disk is full.
    """
    index = rows.fields.lookupField(field)
    if index < 0:
        raise QgsProcessingException(
            tr("{name} has no field {field}; it has {fields}.").format(
                name=rows.name, field=field, fields=", ".join(rows.fields.names())
            )
        )
    if not rows.crs.isValid():
        raise QgsProcessingException(
            tr("The layer {name} has no coordinate reference system, so it could be anywhere.").format(
                name=rows.name
            )
            + " "
            + tr("Assign one: Layer > Set CRS of Layer(s).")
        )
    name = re.sub(r"[^\w.-]+", "_", rows.name)[:60] or "labels"
    path = folder / f"{name}.gpkg"
    _write(rows, index, path, context)
    if layer is not None:
        if context.temporaryLayerStore().mapLayer(layer.id()) is not None:
            # Processing opened the file itself, without the style that it has in a project.
            layer.loadDefaultStyle()
        layer.saveNamedStyle(str(path.with_suffix(".qml")))
    return str(path)


def _write(rows: Rows, index: int, path: Path, context: QgsProcessingContext) -> None:
    fields = QgsFields()
    fields.append(QgsField(rows.fields.at(index).name(), exported_type(rows.fields.at(index))))
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "GPKG"
    options.layerName = "labels"
    # Names that leave "fid" and "geom" to the source's own fields.
    options.layerOptions = ["FID=gair_fid", "GEOMETRY_NAME=gair_geometry", "SPATIAL_INDEX=NO"]
    plane = QgsWkbTypes.linearType(QgsWkbTypes.flatType(rows.geometry_type))
    writer = QgsVectorFileWriter.create(
        str(path), fields, QgsWkbTypes.multiType(plane), rows.crs, context.transformContext(), options
    )
    for feature in rows.features:
        exported = QgsFeature(fields)
        exported.setAttributes([plain(feature.attribute(index))])
        if feature.hasGeometry():
            geometry = QgsGeometry(feature.geometry())
            # gair_core's reader knows no curves.
            geometry.convertToStraightSegment()
            geometry.convertToMultiType()
            exported.setGeometry(geometry)
        if not writer.addFeature(exported, QgsFeatureSink.Flag.FastInsert):
            break
    message = writer.errorMessage()
    failed = writer.hasError() != QgsVectorFileWriter.WriterError.NoError
    # Dropping the writer, after its error was read, is what closes the file.
    del writer
    if failed:
        raise QgsProcessingException(
            tr("The temporary table {path} cannot be written: {message}.").format(path=path, message=message)
            + " "
            + tr("Free some space in the temporary folder, or choose another in the Processing options.")
        )
