"""What happens inside QGIS for the pictures of the user's guide; tools/screenshots.py starts it.

Does what the guide tells a reader to do, through the same dialogs, and fails where a run fails or QGIS shows
a warning.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import processing
from qgis.core import (
    Qgis,
    QgsMapLayer,
    QgsMarkerSymbol,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QCoreApplication, Qt, QTimer, QUrl
from qgis.PyQt.QtWebKitWidgets import QWebView
from qgis.PyQt.QtWidgets import QDockWidget, QLineEdit, QTextEdit, QToolBar, QWidget
from qgis.utils import iface

WORK = Path(os.environ["GAIR_GUIDE"])
# With a square map between layers and toolbox, and without the toolbox.
WINDOW, RESULT_WINDOW = (1405, 830), (1050, 830)
DIALOG, LOG = (1000, 910), (1000, 560)
REPORT = (1000, 1100)
TOOLBARS = {"mFileToolBar", "mMapNavToolBar"}
TOOLBOX_WIDTH, LAYERS_WIDTH = 345, 290
RUN_SECONDS = 600.0
# Of the scene's width; the guide says that the outermost pixels of a scene are less certain.
PART_SHOWN = 0.92


def wait_until(happened: Callable[[], bool], seconds: float, what: str) -> None:
    """Let QGIS go on until something has happened."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        QCoreApplication.processEvents()
        time.sleep(0.02)


def settle(seconds: float = 1.0) -> None:
    """Let QGIS paint."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, seconds + 60, "painting")
    wait_until(lambda: not iface.mapCanvas().isDrawing(), 120, "the map's drawing")


def save(widget: QWidget, name: str) -> None:
    """Save what a widget shows, once the map is drawn and if nothing warns."""
    settle()
    warnings = [
        f"{item.title()}: {item.text()}"
        for item in iface.messageBar().items()
        if item.level() in (Qgis.MessageLevel.Warning, Qgis.MessageLevel.Critical)
    ]
    if warnings:
        raise RuntimeError(f"QGIS warns while {name} is taken: {warnings}")
    iface.messageBar().clearWidgets()
    # Icons of chosen layers are tinted.
    iface.layerTreeView().setCurrentLayer(None)
    iface.layerTreeView().clearSelection()
    settle(0.5)
    pictures = WORK / "pictures"
    pictures.mkdir(exist_ok=True)
    if not widget.grab().save(str(pictures / f"{name}.png")):
        raise OSError(f"{name} could not be saved")


def arrange_window() -> QDockWidget:
    """Show the window with layers, map and toolbox; returns the toolbox."""
    window = iface.mainWindow()
    window.setWindowState(Qt.WindowState.WindowNoState)
    window.setGeometry(0, 0, *WINDOW)
    for toolbar in window.findChildren(QToolBar):
        toolbar.setVisible(toolbar.objectName() in TOOLBARS)
    docks = {dock.objectName(): dock for dock in window.findChildren(QDockWidget)}
    layers, toolbox = docks["Layers"], docks["ProcessingToolbox"]
    for dock in docks.values():
        dock.setVisible(dock in (layers, toolbox))
    # Too narrow a window would cut its texts.
    window.statusBar().hide()
    settle()
    window.resizeDocks([layers, toolbox], [LAYERS_WIDTH, TOOLBOX_WIDTH], Qt.Orientation.Horizontal)
    return toolbox


def show_group(toolbox: QDockWidget, name: str) -> None:
    """Expand a provider in the toolbox, and only that."""
    tree = toolbox.algorithmTree
    tree.collapseAll()
    model = tree.model()
    top = [model.index(row, 0) for row in range(model.rowCount())]
    provider = next(index for index in top if index.data() == name)
    tree.expandRecursively(provider)
    tree.scrollTo(provider, tree.ScrollHint.PositionAtCenter)


def open_scene() -> QgsRasterLayer:
    """Open the scene in natural colours."""
    from render import open_scene as in_natural_colours

    scene = in_natural_colours(str(WORK / "scene.tif"))
    scene.setName("scene")
    QgsProject.instance().addMapLayer(scene)
    node = QgsProject.instance().layerTreeRoot().findLayer(scene.id())
    node.setExpanded(False)
    return scene


def open_photos() -> QgsVectorLayer:
    """Open the photos' folder as QGIS's own import makes a layer of it."""
    file = str(WORK / "photos.gpkg")
    processing.run("native:importphotos", {"FOLDER": str(WORK / "photos"), "OUTPUT": file})
    photos = QgsVectorLayer(file, "photos")
    look = {"name": "circle", "size": "3.5", "color": "255,220,60", "outline_color": "30,30,30"}
    photos.renderer().setSymbol(QgsMarkerSymbol.createSimple(look))
    QgsProject.instance().addMapLayer(photos)
    return photos


def open_polygons() -> QgsVectorLayer:
    """Open the labelled polygons with the colours of their classes."""
    polygons = QgsVectorLayer(str(WORK / "polygons.gpkg"), "polygons")
    QgsProject.instance().addMapLayer(polygons)
    return polygons


def zoom(layer: QgsMapLayer) -> None:
    """Fill the map with the middle of a layer, whatever the map's shape."""
    canvas, extent = iface.mapCanvas(), layer.extent()
    width = extent.width() * PART_SHOWN
    extent = QgsRectangle.fromCenterAndSize(extent.center(), width, width * canvas.height() / canvas.width())
    canvas.setExtent(extent)
    canvas.refresh()


def fill_in(algorithm: str, parameters: dict[str, object], size: tuple[int, int] = DIALOG) -> QWidget:
    """Open an algorithm's dialog with parameters filled in."""
    dialog = processing.createAlgorithmDialog(algorithm, parameters)
    dialog.show()
    # QGIS gives every dialog the size of the last one as it appears.
    settle(0.3)
    dialog.setGeometry(20, 20, *size)
    settle()
    # Otherwise a text would be marked as if somebody were about to replace it.
    for line in dialog.findChildren(QLineEdit):
        line.deselect()
    dialog.runButton().setFocus()
    return dialog


def run(dialog: QWidget) -> list[QgsMapLayer]:
    """Press Run and wait; returns the layers that were loaded."""
    before = set(QgsProject.instance().mapLayers())
    outcomes: list[bool] = []
    dialog.algorithmFinished.connect(lambda successful, _: outcomes.append(successful))
    dialog.runButton().click()
    wait_until(lambda: bool(outcomes), RUN_SECONDS, "the end of the run")
    settle()
    if not outcomes[0]:
        raise RuntimeError(f"the run failed: {dialog.logText() if hasattr(dialog, 'logText') else ''}")
    loaded = QgsProject.instance().mapLayers()
    return [layer for identifier, layer in loaded.items() if identifier not in before]


def picture_result(layers: list[QgsMapLayer], name: str) -> None:
    """Picture the window with the layers of a run, and take them away again."""
    tree = QgsProject.instance().layerTreeRoot()
    for layer in layers:
        # Only a change is passed on to the panel.
        tree.findLayer(layer.id()).setExpanded(False)
        tree.findLayer(layer.id()).setExpanded(True)
    save(iface.mainWindow(), name)
    QgsProject.instance().removeMapLayers([layer.id() for layer in layers])


def picture_page(page: Path, name: str) -> None:
    """Picture the beginning of an HTML page."""
    view = QWebView()
    loaded: list[bool] = []
    view.loadFinished.connect(loaded.append)
    view.resize(*REPORT)
    view.load(QUrl.fromLocalFile(str(page)))
    wait_until(lambda: bool(loaded), 60, f"the loading of {page.name}")
    view.show()
    save(view, name)
    view.close()


def picture_training(scene: QgsRasterLayer) -> None:
    """Train a model from polygons: the dialog with the labels, and the report."""
    model, report = WORK / "landcover.safetensors", WORK / "report.html"
    values = {
        "LABELS": open_polygons(),
        "CLASS_FIELD": "class",
        "OUTPUT_MODEL": str(model),
        "REPORT": str(report),
    }
    dialog = fill_in("gair:trainhead", {"INPUT": [scene], **values})
    save(dialog, "train_head")
    run(dialog)
    dialog.close()
    picture_page(report, "train_head_report")


def take_pictures() -> None:
    """Take all of them, in the guide's order."""
    toolbox = arrange_window()
    environment = fill_in("gair:createenvironment", {"COMMANDS_ONLY": True}, LOG)
    run(environment)
    environment.findChild(QTextEdit, "txtLog").verticalScrollBar().setValue(0)
    save(environment, "create_environment")
    environment.close()
    scene, photos = open_scene(), open_photos()
    settle()
    QgsProject.instance().setCrs(scene.crs())
    show_group(toolbox, "GAIR")
    zoom(scene)
    save(iface.mainWindow(), "toolbox")
    toolbox.hide()
    iface.mainWindow().resize(*RESULT_WINDOW)
    settle()
    zoom(scene)
    similarity = fill_in("gair:photosimilarity", {"INPUT": scene, "PHOTOS": photos, "PHOTO_FIELD": "photo"})
    save(similarity, "dialog")
    similarity.resize(*LOG)
    layers = run(similarity)
    save(similarity, "log")
    similarity.close()
    # The photos that came back lie on the same places.
    QgsProject.instance().layerTreeRoot().findLayer(photos.id()).setItemVisibilityChecked(False)
    picture_result(layers, "similarity")
    for algorithm in ("segment", "embed"):
        dialog = fill_in(f"gair:{algorithm}", {"INPUT": scene})
        layers = run(dialog)
        dialog.close()
        picture_result(layers, algorithm)
    picture_training(scene)


def main() -> None:
    """Take the pictures, say what failed, and end QGIS."""
    try:
        take_pictures()
        (WORK / "done").touch()
    except BaseException:
        # QGIS would show an exception in its window, which nobody sees.
        (WORK / "failure.txt").write_text(traceback.format_exc(), "utf-8")
    QgsProject.instance().clear()
    iface.actionExit().trigger()


# QGIS runs this as a text, which knows no file.
sys.path.insert(0, os.environ["GAIR_GUIDE_TOOLS"])
# The window is still being built while QGIS runs this.
QTimer.singleShot(3000, main)
