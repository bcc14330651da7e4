"""What QGIS calls differently in 3.22 and in 4: asked of the QGIS that runs, in this one place."""

from __future__ import annotations

from qgis.core import Qgis, QgsCoordinateReferenceSystem, QgsRasterFileWriter, QgsUnitTypes


def wkt(crs: QgsCoordinateReferenceSystem) -> str:
    """Return a CRS as WKT 2, which loses nothing."""
    if hasattr(Qgis, "CrsWktVariant"):
        return crs.toWkt(Qgis.CrsWktVariant.Wkt2_2019)
    return crs.toWkt(QgsCoordinateReferenceSystem.WktVariant.WKT2_2019)


def raster_was_written(outcome: object) -> bool:
    """Return whether QGIS's raster writer was successful."""
    if hasattr(Qgis, "RasterFileWriterResult"):
        return outcome == Qgis.RasterFileWriterResult.Success
    return outcome == QgsRasterFileWriter.WriterError.NoError


def metres_to_units(crs: QgsCoordinateReferenceSystem) -> float:
    """Return the units of a projected CRS that make a metre."""
    metres, _ = QgsUnitTypes.decodeDistanceUnit("meters")
    return float(QgsUnitTypes.fromUnitToUnitFactor(metres, crs.mapUnits()))
