"""How results look, after the paper's figures 7 and 8: ramps of colours over the scene, stars for photos."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from qgis.core import (
    QgsLayerTree,
    QgsMapLayer,
    QgsMarkerSymbol,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProject,
    QgsRasterLayer,
    QgsSingleSymbolRenderer,
    QgsVectorLayer,
    QgsWkbTypes,
)

from .translation import tr

# Streets and roofs stay recognisable below the ramp.
_OPACITY = 0.65

# The paper's figure 7 marks the places of photos with red stars. The white and the dark rim keep them visible
# over every colour of the similarity's ramp and of a scene.
_STAR = (
    {"color": "0,0,0,255", "outline_color": "0,0,0,255", "outline_width": "1.4"},
    {"color": "227,26,28,255", "outline_color": "255,255,255,255", "outline_width": "0.6"},
)
_STAR_MILLIMETRES = "6.5"


def apply_star_style(layer: QgsVectorLayer) -> None:
    """Show points as stars that are visible over any raster."""
    halo, star = (
        QgsMarkerSymbol.createSimple({"name": "star", "size": _STAR_MILLIMETRES, **look}) for look in _STAR
    )
    halo.appendSymbolLayer(star.symbolLayer(0).clone())
    layer.setRenderer(QgsSingleSymbolRenderer(halo))


def save_star_style(destination: str, feedback: QgsProcessingFeedback) -> None:
    """Make the stars the default style of a file: inside a GeoPackage, beside other files as a .qml.

    Layers in memory get theirs when they are loaded, from `Figure`; tables of databases are left as they
    are, and so is the style of a raster of the same name.
    """
    path = Path(destination.split("|", maxsplit=1)[0])
    if not path.is_file():
        return
    in_file = path.suffix.lower() == ".gpkg"
    if not in_file and any(path.with_suffix(suffix).exists() for suffix in (".tif", ".tiff")):
        return
    layer = QgsVectorLayer(destination, path.stem, "ogr")
    if not layer.isValid() or not _has_points(layer):
        return
    apply_star_style(layer)
    if in_file:
        message = layer.saveStyleToDatabase("GAIR", tr("Places of photos"), True, "")
    else:
        text, saved = layer.saveNamedStyle(str(path.with_suffix(".qml")))
        message = "" if saved else text
    if message:
        feedback.pushWarning(
            tr("The style of {path} was not saved: {message}").format(path=path, message=message)
        )


def make_see_through(path: str, feedback: QgsProcessingFeedback) -> None:
    """Change the style beside a raster of similarities so that the scene below it shows."""
    layer = QgsRasterLayer(path, Path(path).stem, "gdal")
    layer.loadDefaultStyle()
    if layer.renderer() is None:
        return
    layer.renderer().setOpacity(_OPACITY)
    text, saved = layer.saveNamedStyle(str(Path(path).with_suffix(".qml")))
    if not saved:
        feedback.pushWarning(
            tr("The style of {path} was not saved: {message}").format(path=path, message=text)
        )


class Figure:
    """The layers of one run, in order when they are loaded: stars above ramps of colours.

    Layers other than points get the style beside or in them. Processing by itself loads outputs without
    their styles, in any order.
    """

    # What PyQGIS knows of a post-processor has to live until the layer is loaded, longer than the algorithm.
    _kept: ClassVar[deque[Figure]] = deque(maxlen=64)

    def __init__(self) -> None:
        self._points: list[str] = []
        self._below: list[str] = []
        self._arrangers: list[_Arranger] = []
        Figure._kept.append(self)

    def watch(self, context: QgsProcessingContext, destination: str) -> None:
        """Take part in the loading of an output, if it is to be loaded."""
        if context.willLoadLayerOnCompletion(destination):
            # The context deletes post-processors in the end, so that no two layers may share one.
            self._arrangers.append(_Arranger(self))
            context.layerToLoadOnCompletionDetails(destination).setPostProcessor(self._arrangers[-1])

    def arrange(self, layer: QgsMapLayer, project: QgsProject | None) -> None:
        """Style a layer that was loaded, and keep points above the run's other layers."""
        if _has_points(layer):
            # Not the style beside it: a layer in memory has none.
            apply_star_style(layer)
            self._points.append(layer.id())
        else:
            layer.loadDefaultStyle()
            self._below.append(layer.id())
        layer.triggerRepaint()
        if project is not None:
            for identifier in self._points:
                _raise_above(project.layerTreeRoot(), identifier, self._below)


class _Arranger(QgsProcessingLayerPostProcessorInterface):
    """Calls a figure when a layer has been loaded."""

    def __init__(self, figure: Figure) -> None:
        super().__init__()
        self._figure = figure

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Arrange the layer."""
        self._figure.arrange(layer, context.project())


def _has_points(layer: QgsMapLayer) -> bool:
    return (
        isinstance(layer, QgsVectorLayer) and layer.geometryType() == QgsWkbTypes.GeometryType.PointGeometry
    )


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
