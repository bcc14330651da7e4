"""Polygons that leave gair_core, in other formats than the GeoPackage that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qgis.core import (
    QgsCoordinateTransformContext,
    QgsProcessingContext,
    QgsProcessingException,
    QgsVectorFileWriter,
    QgsVectorLayer,
)

from .point_output import check_destination
from .translation import tr


def check_polygons(destination: str, context: QgsProcessingContext, scene: str) -> None:
    """Refuse a destination of polygons that cannot work before any time is spent.

    Args:
        destination: The file to write.
        context: The run's context.
        scene: What is read, which must not be overwritten.

    Raises:
        QgsProcessingException: As of `check_destination`, or QGIS does not know the format.
    """
    check_destination(destination, context, scene)
    if not QgsVectorFileWriter.driverForExtension(Path(destination).suffix):
        raise QgsProcessingException(
            tr("QGIS knows no format for polygons in {path}. Name a .gpkg file.").format(path=destination)
        )


def convert_polygons(
    source: str, destination: str, rasters: Sequence[str], transforms: QgsCoordinateTransformContext
) -> None:
    """Write polygons of a GeoPackage to another format, with their colours beside it.

    Args:
        source: The GeoPackage.
        destination: The file to write; its ending decides on the format, and a CSV holds WKT.
        rasters: Outputs whose styles lie beside them and must stay.
        transforms: The context's transformations.

    Raises:
        QgsProcessingException: QGIS cannot write this format, or to this place; nothing is left.
    """
    layer = QgsVectorLayer(source, "polygons", "ogr")
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = QgsVectorFileWriter.driverForExtension(Path(destination).suffix)
    if options.driverName == "CSV":
        options.layerOptions = ["GEOMETRY=AS_WKT", "CREATE_CSVT=NO"]
    outcome = QgsVectorFileWriter.writeAsVectorFormatV3(layer, destination, transforms, options)
    if outcome[0] != QgsVectorFileWriter.WriterError.NoError:
        Path(destination).unlink(missing_ok=True)
        raise QgsProcessingException(
            tr("The polygons cannot be written to {path}: {error}\nName a .gpkg file.").format(
                path=destination, error=outcome[1]
            )
        )
    style = Path(destination).with_suffix(".qml")
    if style not in [Path(raster).with_suffix(".qml") for raster in rasters]:
        layer.saveNamedStyle(str(style))
