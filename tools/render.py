"""Render layers over a scene to PNG with QGIS's own renderer, styles and legend. Runs in QGIS's Python.

    QT_QPA_PLATFORM=offscreen /usr/bin/python3 tools/render.py picture.png TITLE scene.tif layer...

The layers lie over the scene from bottom to top, with the styles that were written beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsContrastEnhancement,
    QgsLayerTree,
    QgsLayerTreeModel,
    QgsLegendRenderer,
    QgsLegendSettings,
    QgsMapLayer,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsMarkerSymbol,
    QgsMultiBandColorRenderer,
    QgsPalLayerSettings,
    QgsProject,
    QgsRasterLayer,
    QgsRasterMinMaxOrigin,
    QgsRenderContext,
    QgsTextBufferSettings,
    QgsTextFormat,
    QgsVectorLayer,
    QgsVectorLayerSimpleLabeling,
    QgsWkbTypes,
)
from qgis.PyQt.QtCore import QPoint, QRectF, QSize, Qt
from qgis.PyQt.QtGui import QColor, QFont, QImage, QPainter

WIDTH = 1000
HEADING = 46
LEGEND_WIDTH = 400
DOTS_PER_INCH = 120
# The scene shines through, so that one sees what lies where.
OPACITY = 0.72
RASTER_SUFFIXES = {".tif", ".tiff"}
LABEL_FIELDS = ("name", "id", "photo", "filename")


def open_scene(path: str) -> QgsRasterLayer:
    """Open a scene in natural colours, stretched as QGIS does by default."""
    scene = QgsRasterLayer(path, "Sentinel-2, natural colours")
    if not scene.isValid():
        raise SystemExit(f"QGIS cannot open the scene {path}")
    bands = [_band(scene, name, number) for name, number in (("4", 3), ("3", 2), ("2", 1))]
    scene.setRenderer(QgsMultiBandColorRenderer(scene.dataProvider(), *bands))
    scene.setContrastEnhancement(
        QgsContrastEnhancement.ContrastEnhancementAlgorithm.StretchToMinimumMaximum,
        QgsRasterMinMaxOrigin.Limits.CumulativeCut,
    )
    return scene


def _band(scene: QgsRasterLayer, name: str, otherwise: int) -> int:
    for number in range(1, scene.bandCount() + 1):
        words = scene.bandName(number).replace(":", " ").replace(",", " ").split()
        if {f"B{name}", f"B0{name}"} & set(words):
            return number
    return min(otherwise, scene.bandCount())


def open_layer(path: str) -> QgsMapLayer:
    """Open an output with the style beside it."""
    name = Path(path).stem.replace("_", " ")
    if Path(path).suffix.lower() in RASTER_SUFFIXES:
        raster = QgsRasterLayer(path, name)
        if not raster.isValid():
            raise SystemExit(f"QGIS cannot open {path}")
        raster.setOpacity(OPACITY)
        return raster
    vector = QgsVectorLayer(path, name)
    if not vector.isValid():
        raise SystemExit(f"QGIS cannot open {path}")
    if vector.geometryType() == QgsWkbTypes.GeometryType.PointGeometry:
        _mark(vector)
    return vector


def _mark(points: QgsVectorLayer) -> None:
    """Show points as marks with a name, where no style beside them says otherwise."""
    renderer = points.renderer()
    if renderer.type() == "singleSymbol":
        mark = {"name": "star", "size": "5", "color": "255,240,0", "outline_color": "0,0,0"}
        renderer.setSymbol(QgsMarkerSymbol.createSimple(mark))
    field = next((name for name in LABEL_FIELDS if points.fields().indexOf(name) >= 0), None)
    if field is None or points.labelsEnabled():
        return
    settings = QgsPalLayerSettings()
    settings.isExpression = True
    settings.fieldName = f'file_name("{field}")' if field == "photo" else f'"{field}"'
    text = QgsTextFormat()
    text.setSize(9)
    buffer = QgsTextBufferSettings()
    buffer.setEnabled(True)
    buffer.setSize(0.8)
    text.setBuffer(buffer)
    settings.setFormat(text)
    points.setLabeling(QgsVectorLayerSimpleLabeling(settings))
    points.setLabelsEnabled(True)


def render(picture: str, title: str, layers: list[QgsMapLayer]) -> None:
    """Draw the layers, bottom first, below a title and beside their legend."""
    scene = layers[0]
    settings = QgsMapSettings()
    settings.setLayers(layers[::-1])
    settings.setDestinationCrs(scene.crs())
    settings.setTransformContext(QgsProject.instance().transformContext())
    extent = scene.extent()
    settings.setExtent(extent)
    settings.setOutputDpi(DOTS_PER_INCH)
    # A degree of longitude is shorter than one of latitude; QGIS draws both alike, and so do we.
    height = max(1, round(WIDTH * extent.height() / extent.width()))
    settings.setOutputSize(QSize(WIDTH, height))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    if job.errors():
        raise SystemExit("; ".join(f"{error.layerID}: {error.message}" for error in job.errors()))
    sheet = QImage(WIDTH + LEGEND_WIDTH, height + HEADING, QImage.Format.Format_ARGB32_Premultiplied)
    sheet.fill(QColor("white"))
    painter = QPainter(sheet)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setFont(QFont("Sans Serif", 15))
    heading = QRectF(10, 0, WIDTH + LEGEND_WIDTH - 20, HEADING)
    painter.drawText(heading, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, title)
    painter.drawImage(QPoint(0, HEADING), job.renderedImage())
    painter.translate(WIDTH, HEADING)
    _draw_legend(painter, layers[:0:-1])
    painter.end()
    if not sheet.save(picture):
        raise SystemExit(f"{picture} could not be written")


def _draw_legend(painter: QPainter, layers: list[QgsMapLayer]) -> None:
    tree = QgsLayerTree()
    for layer in layers:
        tree.addLayer(layer)
    model = QgsLayerTreeModel(tree)
    legend = QgsLegendRenderer(model, QgsLegendSettings())
    millimetres = DOTS_PER_INCH / 25.4
    context = QgsRenderContext.fromQPainter(painter)
    context.setScaleFactor(millimetres)
    # Legends measure in millimetres of paper.
    painter.scale(millimetres, millimetres)
    legend.minimumSize(context)
    legend.drawLegend(context)


def main() -> None:
    """Render what the command line names."""
    picture, title, scene, *paths = sys.argv[1:]
    application = QgsApplication([], True)
    application.initQgis()
    layers = [open_scene(scene), *(open_layer(path) for path in paths)]
    # The legend follows layers of the project only.
    QgsProject.instance().addMapLayers(layers)
    render(picture, title, layers)
    QgsProject.instance().clear()
    application.exitQgis()


if __name__ == "__main__":
    main()
