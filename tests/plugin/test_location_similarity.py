"""`gair:locationsimilarity`: a photo against every place of an extent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from qgis.core import QgsPointXY, QgsProcessingException, QgsRasterBandStats, QgsRasterLayer

from tests.plugin.photo_layers import Log, photo_path

pytestmark = pytest.mark.usefixtures("provider", "gair_python", "qgis_new_project")


def run(parameters):
    import processing

    return processing.run("gair:locationsimilarity", parameters, feedback=Log())


def test_the_map_has_the_extent_and_the_best_place_is_its_maximum(shared, tmp_path):
    result = run(
        {
            "PHOTO": photo_path(shared, "tokyo"),
            "EXTENT": "139.6,139.9,35.5,35.7 [EPSG:4326]",
            "RESOLUTION": 0.01,
            "OUTPUT": str(tmp_path / "Über Tokyo.tif"),
        }
    )
    layer = QgsRasterLayer(result["OUTPUT"])
    assert layer.crs().authid() == "EPSG:4326"
    assert (layer.width(), layer.height()) == (30, 20)
    extent = layer.extent()
    assert (extent.xMinimum(), extent.xMaximum(), extent.yMinimum(), extent.yMaximum()) == pytest.approx(
        (139.6, 139.9, 35.5, 35.7), abs=1e-12
    )
    statistics = layer.dataProvider().bandStatistics(1, QgsRasterBandStats.Stats.Max)
    assert statistics.maximumValue == pytest.approx(result["MAXIMUM"], abs=1e-6)
    best = QgsPointXY(result["BEST_LONGITUDE"], result["BEST_LATITUDE"])
    assert layer.dataProvider().sample(best, 1)[0] == pytest.approx(result["MAXIMUM"], abs=1e-6)
    assert layer.renderer().type() == "singlebandpseudocolor"
    assert layer.renderer().opacity() == pytest.approx(0.65)


def test_relative_paths_start_from_the_current_folder(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(photo_path(shared, "tokyo"), "photo.jpg")
    parameters = {"PHOTO": "photo.jpg", "EXTENT": "139,140,35,36 [EPSG:4326]", "RESOLUTION": 0.1}
    assert run({**parameters, "OUTPUT": "map.tif"})["OUTPUT"] == str(tmp_path / "map.tif")
    assert QgsRasterLayer(str(tmp_path / "map.tif")).renderer().opacity() == pytest.approx(0.65)


def test_the_extents_crs_is_the_outputs(shared):
    extent = "540000,560000,4170000,4180000 [EPSG:32610]"
    layer = QgsRasterLayer(
        run(
            {
                "PHOTO": photo_path(shared, "sacramento"),
                "EXTENT": extent,
                "RESOLUTION": 500,
                "OUTPUT": "TEMPORARY_OUTPUT",
            }
        )["OUTPUT"]
    )
    assert layer.crs().authid() == "EPSG:32610"
    assert (layer.width(), layer.height()) == (40, 20)


def test_without_crs_and_resolution_it_is_degrees_and_512_pixels(shared):
    layer = QgsRasterLayer(
        run({"PHOTO": photo_path(shared), "EXTENT": "-84,-82,42,43", "OUTPUT": "TEMPORARY_OUTPUT"})["OUTPUT"]
    )
    assert layer.crs().authid() == "EPSG:4326"
    assert (layer.width(), layer.height()) == (512, 256)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"PHOTO": "/nowhere/photo.jpg"}, "/nowhere/photo.jpg"),
        ({"EXTENT": "0,400,0,10 [EPSG:4326]"}, "degrees wide|leaves the Earth"),
        ({"EXTENT": "0,1,0,1 [EPSG:4326]", "RESOLUTION": 1e-9}, "too fine"),
        ({"MODEL": "no such model"}, "no registered model 'no such model'"),
    ],
)
def test_bad_input_raises_with_the_way_out_and_leaves_nothing(shared, tmp_path, changed, said):
    parameters = {
        "PHOTO": photo_path(shared),
        "EXTENT": "0,1,0,1 [EPSG:4326]",
        "OUTPUT": str(tmp_path / "map.tif"),
    }
    with pytest.raises(QgsProcessingException, match=said):
        run({**parameters, **changed})
    assert list(Path(tmp_path).iterdir()) == []
