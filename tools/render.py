"""Render maps to PNG with QGIS's own renderer, styles and legend. Runs in QGIS's Python.

    QT_QPA_PLATFORM=offscreen /usr/bin/python3 tools/render.py maps.json

The JSON is a list of objects with the fields of `sketch.Sketch`. Layers lie over the scene from bottom to
top, with the styles that were written beside them; marks lie on top.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsContrastEnhancement,
    QgsFeature,
    QgsGeometry,
    QgsLayerTree,
    QgsLayerTreeModel,
    QgsLegendRenderer,
    QgsLegendSettings,
    QgsLineSymbol,
    QgsMapLayer,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsMarkerSymbol,
    QgsMultiBandColorRenderer,
    QgsPointXY,
    QgsProject,
    QgsRasterLayer,
    QgsRasterMinMaxOrigin,
    QgsRenderContext,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QPoint, QSize
from qgis.PyQt.QtGui import QColor, QImage, QPainter
from sketch import Sketch

LEGEND_WIDTH = 400
DOTS_PER_INCH = 120
RASTER_SUFFIXES = {".tif", ".tiff"}
# A photo's places: where its tag says, where it was taken, where the scene is most similar.
MARKS = {
    "tagged": {"name": "cross_fill", "color": "255,70,60", "angle": "45"},
    "true": {"name": "circle", "color": "60,220,110"},
    "best": {"name": "diamond", "color": "70,160,255"},
    "photo": {"name": "circle", "color": "255,225,60"},
    "wrong": {"name": "cross_fill", "color": "255,70,60", "angle": "45"},
}
# Forests and water are dark; a stretch from the darkest to the brightest leaves them almost black.
GAMMA = 1.7


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
    scene.brightnessFilter().setGamma(GAMMA)
    return scene


def _band(scene: QgsRasterLayer, name: str, otherwise: int) -> int:
    for number in range(1, scene.bandCount() + 1):
        words = scene.bandName(number).replace(":", " ").replace(",", " ").split()
        if {f"B{name}", f"B0{name}"} & set(words):
            return number
    return min(otherwise, scene.bandCount())


def open_layer(path: str, opacity: float) -> QgsMapLayer:
    """Open an output with the style beside it."""
    name = Path(path).stem.replace("_", " ")
    if Path(path).suffix.lower() in RASTER_SUFFIXES:
        raster = QgsRasterLayer(path, name)
        if not raster.isValid():
            raise SystemExit(f"QGIS cannot open {path}")
        raster.setOpacity(opacity)
        return raster
    vector = QgsVectorLayer(path, name)
    if not vector.isValid():
        raise SystemExit(f"QGIS cannot open {path}")
    return vector


def mark_layers(wanted: Sketch) -> list[QgsVectorLayer]:
    """Return layers in memory that show a map's lines and marks."""
    layers = []
    size = wanted.width * wanted.mark_share / DOTS_PER_INCH * 25.4
    if wanted.lines:
        layer = _memory("LineString", [[QgsPointXY(*place) for place in line] for line in wanted.lines])
        look = {"color": "255,255,255", "width": f"{size / 6:.2f}", "line_style": "dash", "capstyle": "round"}
        layer.renderer().setSymbol(QgsLineSymbol.createSimple(look))
        layers.append(layer)
    # Kinds in the order of the first mark, so that the last ones lie on top.
    for kind in dict.fromkeys(kind for kind, *_ in wanted.marks):
        layer = _memory("Point", [QgsPointXY(*place) for other, *place in wanted.marks if other == kind])
        rim = {"outline_color": "20,20,20", "outline_width": f"{size / 10:.2f}"}
        layer.renderer().setSymbol(
            QgsMarkerSymbol.createSimple({**MARKS[kind], **rim, "size": f"{size:.2f}"})
        )
        layers.append(layer)
    return layers


def _memory(kind: str, places: list[QgsPointXY] | list[list[QgsPointXY]]) -> QgsVectorLayer:
    layer = QgsVectorLayer(f"{kind}?crs=EPSG:4326", "marks", "memory")
    features = []
    for place in places:
        feature = QgsFeature()
        make = QgsGeometry.fromPointXY if kind == "Point" else QgsGeometry.fromPolylineXY
        feature.setGeometry(make(place))
        features.append(feature)
    layer.dataProvider().addFeatures(features)
    layer.updateExtents()
    return layer


def render(wanted: Sketch, layers: list[QgsMapLayer], marks: list[QgsVectorLayer]) -> None:
    """Draw the layers, bottom first, and the marks, with the legend beside them where it is wanted."""
    sheet = _draw_map(layers + marks, layers[wanted.zoom], wanted.width)
    if wanted.legend:
        drawn = sheet
        sheet = QImage(
            drawn.width() + LEGEND_WIDTH, drawn.height(), QImage.Format.Format_ARGB32_Premultiplied
        )
        sheet.fill(QColor("white"))
        painter = QPainter(sheet)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.drawImage(QPoint(0, 0), drawn)
        painter.translate(drawn.width(), 0)
        _draw_legend(painter, layers[:0:-1])
        painter.end()
    if not sheet.save(wanted.picture):
        raise SystemExit(f"{wanted.picture} could not be written")


def _draw_map(layers: list[QgsMapLayer], shown: QgsMapLayer, width: int) -> QImage:
    settings = QgsMapSettings()
    settings.setLayers(layers[::-1])
    settings.setDestinationCrs(shown.crs())
    settings.setTransformContext(QgsProject.instance().transformContext())
    extent = shown.extent()
    settings.setExtent(extent)
    settings.setOutputDpi(DOTS_PER_INCH)
    # A degree of longitude is shorter than one of latitude; QGIS draws both alike, and so do we.
    settings.setOutputSize(QSize(width, max(1, round(width * extent.height() / extent.width()))))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    if job.errors():
        raise SystemExit("; ".join(f"{error.layerID}: {error.message}" for error in job.errors()))
    return job.renderedImage()


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
    maps = [Sketch(**entry) for entry in json.loads(Path(sys.argv[1]).read_text("utf-8"))]
    application = QgsApplication([], True)
    application.initQgis()
    # Stretching a scene takes longer than drawing it.
    scenes = {path: open_scene(path) for path in dict.fromkeys(wanted.scene for wanted in maps)}
    QgsProject.instance().addMapLayers(list(scenes.values()))
    for wanted in maps:
        layers = [open_layer(path, wanted.opacity) for path in wanted.layers]
        marks = mark_layers(wanted)
        # The legend follows layers of the project only.
        QgsProject.instance().addMapLayers([*layers, *marks])
        render(wanted, [scenes[wanted.scene], *layers], marks)
        QgsProject.instance().removeMapLayers([layer.id() for layer in (*layers, *marks)])
    QgsProject.instance().clear()
    application.exitQgis()


if __name__ == "__main__":
    main()
