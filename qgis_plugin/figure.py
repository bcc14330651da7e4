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

    Layers in memory get theirs when they are loaded, from `Figure`; tables of databases are left as they are.
    """
    path = Path(destination.split("|", maxsplit=1)[0])
    if not path.is_file():
        return
    layer = QgsVectorLayer(destination, path.stem, "ogr")
    if not layer.isValid() or layer.geometryType() != QgsWkbTypes.GeometryType.PointGeometry:
        return
    apply_star_style(layer)
    if path.suffix.lower() == ".gpkg":
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
    text, saved = layer.saveDefaultStyle()
    if not saved:
        feedback.pushWarning(
            tr("The style of {path} was not saved: {message}").format(path=path, message=text)
        )


def load_default_styles(context: QgsProcessingContext) -> None:
    """Let every output of a run that has no post-processor yet be loaded with the style beside or in it.

    Processing itself leaves that out.
    """
    for destination in context.layersToLoadOnCompletion():
        details = context.layerToLoadOnCompletionDetails(destination)
        if details.postProcessor() is None:
            Figure().watch(context, destination, stars=False)


class Figure:
    """The layers of one run, in order when they are loaded: stars above ramps of colours.

    Processing loads outputs without the style that lies beside or in them, and in any order.
    """

    # What PyQGIS knows of a post-processor has to live until the layer is loaded, longer than the algorithm.
    _kept: ClassVar[deque[Figure]] = deque(maxlen=64)

    def __init__(self) -> None:
        self._points: list[str] = []
        self._rasters: list[str] = []
        self._arrangers: list[_Arranger] = []
        Figure._kept.append(self)

    def watch(self, context: QgsProcessingContext, destination: str, *, stars: bool = True) -> None:
        """Take part in the loading of an output, if it is to be loaded.

        Args:
            context: The run's context.
            destination: The output as Processing knows it.
            stars: Whether points become stars; other layers get the style beside or in them.
        """
        if context.willLoadLayerOnCompletion(destination):
            # The context deletes post-processors in the end, so that no two layers may share one.
            self._arrangers.append(_Arranger(self, stars=stars))
            context.layerToLoadOnCompletionDetails(destination).setPostProcessor(self._arrangers[-1])

    def arrange(self, layer: QgsMapLayer, project: QgsProject | None, *, stars: bool) -> None:
        """Style a layer that was loaded, and keep points above the run's rasters."""
        is_raster = isinstance(layer, QgsRasterLayer)
        if is_raster or not stars:
            layer.loadDefaultStyle()
        else:
            # Layers in memory have no style beside them.
            apply_star_style(layer)
        (self._rasters if is_raster else self._points).append(layer.id())
        layer.triggerRepaint()
        if project is not None:
            for identifier in self._points:
                _raise_above(project.layerTreeRoot(), identifier, self._rasters)


class _Arranger(QgsProcessingLayerPostProcessorInterface):
    """Calls a figure when a layer has been loaded."""

    def __init__(self, figure: Figure, *, stars: bool) -> None:
        super().__init__()
        self._figure = figure
        self._stars = stars

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Arrange the layer."""
        self._figure.arrange(layer, context.project(), stars=self._stars)


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
