"""Outputs are loaded with their styles and in the order of a figure, whatever order they are loaded in."""

from __future__ import annotations

import gc

import pytest
from gair.figure import Figure, apply_star_style, save_star_style
from qgis.core import (
    QgsProcessingContext,
    QgsProcessingUtils,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtGui import QColor

from tests.plugin.photo_layers import Log, point_layer, saved, scene_path

RED = QColor(227, 26, 28)
_SQUARE = (
    '{"type": "Feature", "properties": {}, "geometry": '
    '{"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}}'
)

pytestmark = pytest.mark.usefixtures("provider", "qgis_new_project")


def context_that_loads(*destinations):
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    for number, (destination, hint) in enumerate(destinations):
        details = QgsProcessingContext.LayerDetails(str(number), QgsProject.instance(), str(number), hint)
        context.addLayerToLoadOnCompletion(destination, details)
    return context


def load(context):
    """What Processing does after a run, with the garbage of the run collected."""
    from processing.gui.Postprocessing import handleAlgorithmResults
    from qgis.core import QgsApplication

    gc.collect()
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("native:buffer")
    assert handleAlgorithmResults(algorithm, context, Log())
    return [node.layer() for node in QgsProject.instance().layerTreeRoot().findLayers()]


@pytest.mark.parametrize(("raster_name", "points_name"), [("a", "b"), ("b", "a")])
def test_stars_lie_above_the_raster_in_any_order_of_loading(shared, tmp_path, raster_name, points_name):
    raster = tmp_path / f"{raster_name}.tif"
    raster.symlink_to(scene_path(shared))
    points = tmp_path / f"{points_name}.gpkg"
    saved(point_layer([(-83.26, 42.48, "a.jpg")]), points)
    hint = QgsProcessingUtils.LayerHint
    context = context_that_loads((str(raster), hint.Raster), (str(points), hint.Vector))
    figure = Figure()
    figure.watch(context, str(raster))
    figure.watch(context, str(points))
    figure.watch(context, "of an output that is not loaded")
    first, second = load(context)
    assert isinstance(first, QgsVectorLayer)
    assert isinstance(second, QgsRasterLayer)
    assert first.renderer().symbol().symbolLayer(1).color() == RED


def test_other_layers_are_loaded_with_the_style_beside_them(shared, tmp_path):
    raster = tmp_path / "classes.tif"
    raster.symlink_to(scene_path(shared))
    styled = QgsRasterLayer(str(raster), "classes")
    styled.renderer().setOpacity(0.25)
    styled.saveDefaultStyle()
    areas = tmp_path / "areas.geojson"
    areas.write_text(_SQUARE)
    layer = QgsVectorLayer(str(areas), "areas", "ogr")
    layer.renderer().symbol().setColor(QColor("#123456"))
    layer.saveDefaultStyle()
    hint = QgsProcessingUtils.LayerHint
    context = context_that_loads((str(raster), hint.Raster), (str(areas), hint.Vector))
    for output in (raster, areas):
        Figure().watch(context, str(output))
    layers = {type(layer): layer for layer in load(context)}
    assert layers[QgsRasterLayer].renderer().opacity() == pytest.approx(0.25)
    assert layers[QgsVectorLayer].renderer().symbol().color() == QColor("#123456")


@pytest.mark.parametrize(("driver", "name"), [("GPKG", "a b.gpkg"), ("GeoJSON", "ä.geojson")])
def test_stars_are_the_saved_style_of_a_file(tmp_path, driver, name):
    path = tmp_path / name
    saved(point_layer([(1, 2, "a.jpg")]), path, driver)
    log = Log()
    save_star_style(str(path), log)
    assert log.warnings == []
    layer = QgsVectorLayer(str(path), "again", "ogr")
    assert layer.renderer().symbol().symbolLayer(1).color() == RED
    assert [file.suffix for file in tmp_path.iterdir() if file != path] == (
        [] if driver == "GPKG" else [".qml"]
    )


def test_the_style_of_a_raster_of_the_same_name_is_kept(tmp_path):
    saved(point_layer([(1, 2, "a.jpg")]), tmp_path / "a.geojson", "GeoJSON")
    (tmp_path / "a.tif").touch()
    (tmp_path / "a.qml").write_text("the raster's")
    save_star_style(str(tmp_path / "a.geojson"), Log())
    assert (tmp_path / "a.qml").read_text() == "the raster's"


def test_what_is_no_file_is_left_alone(tmp_path):
    log = Log()
    save_star_style("points_2606a612", log)
    save_star_style(str(tmp_path / "missing.gpkg"), log)
    assert log.warnings == []


def test_the_star_is_drawn_over_its_halo():
    layer = point_layer([(1, 2, "a.jpg")])
    apply_star_style(layer)
    symbol = layer.renderer().symbol()
    halo, star = (symbol.symbolLayer(index) for index in (0, 1))
    assert (halo.size(), halo.strokeWidth()) == (6.5, 1.4)
    assert (star.size(), star.strokeWidth()) == (6.5, 0.6)
