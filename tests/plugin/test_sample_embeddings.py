"""`gair:sampleembeddings`: points in any CRS get the scene's embedding at their place."""

from __future__ import annotations

import pytest
from qgis.core import (
    QgsPointXY,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QVariant

from tests.plugin.photo_layers import PAIRS, Log, layer_of, point_layer, saved, scene_path, without_fid

LON, LAT, ROW, COLUMN = PAIRS["detroit"]

pytestmark = pytest.mark.usefixtures("provider", "gair_python", "qgis_new_project")


def run(parameters, log=None):
    import processing

    return processing.run("gair:sampleembeddings", parameters, feedback=log or Log())


def embedding(feature, count):
    return [feature[f"embedding_{index}"] for index in range(count)]


def pixel_centre(layer, row, column):
    extent = layer.extent()
    return (
        extent.xMinimum() + (column + 0.5) * extent.width() / layer.width(),
        extent.yMaximum() - (row + 0.5) * extent.height() / layer.height(),
    )


def test_values_at_pixel_centres_are_those_of_the_raster(shared, tmp_path):
    import processing

    scene = QgsRasterLayer(scene_path(shared))
    raster = QgsRasterLayer(
        processing.run(
            "gair:embed",
            {
                "INPUT": scene,
                "COMPONENTS": 3,
                "DTYPE": "float32",
                "OUTPUT": str(tmp_path / "embedding.tif"),
            },
            feedback=Log(),
        )["OUTPUT"]
    )
    places = [pixel_centre(scene, row, column) for row, column in ((0, 0), (67, 201), (100, 3), (180, 245))]
    points = point_layer([(lon, lat, str(index)) for index, (lon, lat) in enumerate(places)], "name:string")
    result = run({"INPUT": scene, "POINTS": points, "COMPONENTS": 3, "OUTPUT": "TEMPORARY_OUTPUT"})
    sampled = layer_of(result["OUTPUT"])
    assert without_fid(sampled) == ["name", "embedding_0", "embedding_1", "embedding_2"]
    assert sampled.fields().field("embedding_0").type() == QVariant.Double
    for (lon, lat), feature in zip(places, sampled.getFeatures()):
        expected = [raster.dataProvider().sample(QgsPointXY(lon, lat), band)[0] for band in (1, 2, 3)]
        assert embedding(feature, 3) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:3857"])
def test_the_crs_of_the_points_changes_nothing_but_theirs(shared, crs):
    rows = [(LON, LAT, "first"), (LON - 0.01, LAT - 0.003, "second")]
    parameters = {"INPUT": scene_path(shared), "COMPONENTS": 4, "OUTPUT": "TEMPORARY_OUTPUT"}
    plain = layer_of(run({**parameters, "POINTS": point_layer(rows, "name:string")})["OUTPUT"])
    other = layer_of(run({**parameters, "POINTS": point_layer(rows, "name:string", crs)})["OUTPUT"])
    assert other.crs().authid() == crs
    for one, two in zip(plain.getFeatures(), other.getFeatures()):
        assert one["name"] == two["name"]
        assert embedding(two, 4) == pytest.approx(embedding(one, 4), abs=1e-4)


def test_all_dimensions_by_default_and_points_elsewhere_left_out_by_name(shared):
    log = Log()
    rows = [(LON, LAT, "here", 12), (0.0, 0.0, "gulf of guinea", 13), (None, None, "nowhere", 14)]
    points = point_layer(rows, "name:string&field=number:integer")
    result = run({"INPUT": scene_path(shared), "POINTS": points, "OUTPUT": "TEMPORARY_OUTPUT"}, log)
    (feature,) = layer_of(result["OUTPUT"]).getFeatures()
    assert (feature["name"], feature["number"], result["LEFT_OUT"]) == ("here", 12, 2)
    assert len([name for name in feature.fields().names() if name.startswith("embedding_")]) > 100
    assert any("outside the scene: gulf of guinea" in warning for warning in log.warnings)
    assert any("without a position: nowhere" in warning for warning in log.warnings)


def test_only_selected_points(shared):
    layer = point_layer([(LON, LAT, "a"), (LON, LAT - 0.001, "b")], "name:string")
    QgsProject.instance().addMapLayer(layer)
    layer.selectByExpression("name = 'b'")
    source = QgsProcessingFeatureSourceDefinition(layer.id(), selectedFeaturesOnly=True)
    result = run(
        {"INPUT": scene_path(shared), "POINTS": source, "COMPONENTS": 1, "OUTPUT": "TEMPORARY_OUTPUT"}
    )
    assert [feature["name"] for feature in layer_of(result["OUTPUT"]).getFeatures()] == ["b"]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".csv"])
def test_files_of_any_format_and_a_name_with_spaces(shared, tmp_path, suffix):
    points = saved(
        point_layer([(LON, LAT, "ä ö")], "name:string", "EPSG:32617"), tmp_path / "meine Punkte.gpkg"
    )
    path = str(tmp_path / f"Werte für 1{suffix}")
    result = run({"INPUT": scene_path(shared), "POINTS": points, "COMPONENTS": 2, "OUTPUT": path})
    (feature,) = QgsVectorLayer(result["OUTPUT"], "values", "ogr").getFeatures()
    assert feature["name"] == "ä ö"
    assert float(feature["embedding_1"]) != 0
    if suffix == ".csv":
        assert (float(feature["lon"]), float(feature["lat"])) == pytest.approx((LON, LAT), abs=1e-8)


def test_a_sampled_layer_can_be_sampled_again(shared):
    parameters = {"INPUT": scene_path(shared), "COMPONENTS": 2, "OUTPUT": "TEMPORARY_OUTPUT"}
    first = layer_of(run({**parameters, "POINTS": point_layer([(LON, LAT, "a")], "name:string")})["OUTPUT"])
    second = layer_of(run({**parameters, "POINTS": first})["OUTPUT"])
    names = ["name", "embedding_0", "embedding_1", "embedding_0_2", "embedding_1_2"]
    assert without_fid(second) == names
    (feature,) = second.getFeatures()
    assert feature["embedding_0"] == feature["embedding_0_2"]


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(0.0, 0.0, "far")], "None of the 1 points lies in the scene"),
        ([(LAT, LON, "swapped")], r"swap|latitude"),
        ([], "my photos has no rows"),
    ],
)
def test_points_that_cannot_be_used_raise(shared, tmp_path, points, said):
    output = tmp_path / "values.gpkg"
    with pytest.raises(QgsProcessingException, match=said):
        run(
            {"INPUT": scene_path(shared), "POINTS": point_layer(points, "name:string"), "OUTPUT": str(output)}
        )
    assert not output.exists()


def test_more_components_than_the_model_has_raise_with_the_way_out(shared):
    parameters = {"INPUT": scene_path(shared), "POINTS": point_layer([(LON, LAT, "a")], "name:string")}
    with pytest.raises(QgsProcessingException, match=r"basis has 16 components, 999 were asked for"):
        run({**parameters, "COMPONENTS": 999, "OUTPUT": "TEMPORARY_OUTPUT"})
