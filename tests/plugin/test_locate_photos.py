"""`gair:locatephotos`: places of photos from a folder, a layer or a table."""

from __future__ import annotations

import shutil

import pytest
from qgis.core import QgsDistanceArea, QgsPointXY, QgsProcessingException, QgsRasterLayer, QgsVectorLayer
from qgis.PyQt.QtGui import QColor

from tests.plugin.photo_layers import (
    PAIRS,
    Log,
    layer_of,
    pairs_layer,
    photo_path,
    point_layer,
    scene_path,
    without_fid,
)

LON, LAT, _, _ = PAIRS["detroit"]
FOUND = ["rank", "score", "percentile", "distance_m"]

pytestmark = pytest.mark.usefixtures("provider", "gair_python", "qgis_new_project")


def run(parameters, log=None):
    import processing

    return processing.run("gair:locatephotos", parameters, feedback=log or Log())


def test_a_folder_of_photos_without_places(shared, tmp_path):
    folder = tmp_path / "Meine Fotos"
    (folder / "ü").mkdir(parents=True)
    shutil.copy(photo_path(shared, "tokyo"), folder / "a b.jpg")
    shutil.copy(photo_path(shared, "detroit"), folder / "ü" / "c.jpg")
    output = tmp_path / "Plätze.gpkg"
    parameters = {"INPUT": scene_path(shared), "FOLDER": str(folder), "PLACES": 2, "RADIUS": 300}
    run({**parameters, "OUTPUT": str(output)})
    layer, scene = QgsVectorLayer(str(output), "places", "ogr"), QgsRasterLayer(scene_path(shared))
    assert without_fid(layer) == ["photo", *FOUND]
    assert layer.crs().authid() == "EPSG:4326"
    rows = list(layer.getFeatures())
    assert [(row["photo"], row["rank"]) for row in rows] == [
        ("a b.jpg", 1),
        ("a b.jpg", 2),
        ("ü/c.jpg", 1),
        ("ü/c.jpg", 2),
    ]
    area = QgsDistanceArea()
    area.setEllipsoid("WGS84")
    for best, next_best in (rows[:2], rows[2:]):
        assert best["score"] >= next_best["score"]
        places = [row.geometry().asPoint() for row in (best, next_best)]
        assert all(map(scene.extent().contains, places))
        assert area.measureLine(*places) >= 300
    assert layer.renderer().symbol().symbolLayer(1).color() == QColor(227, 26, 28)


def test_a_layer_keeps_its_fields_and_tells_the_distance(shared):
    layer = pairs_layer(shared, "EPSG:3857")
    result = run({"INPUT": scene_path(shared), "PHOTOS": layer, "PLACES": 1, "OUTPUT": "TEMPORARY_OUTPUT"})
    found = layer_of(result["OUTPUT"])
    assert without_fid(found) == ["photo", "city", *FOUND]
    rows = {row["city"]: row for row in found.getFeatures()}
    assert set(rows) == set(PAIRS)
    area = QgsDistanceArea()
    area.setEllipsoid("WGS84")
    detroit = rows["detroit"]
    assert detroit["photo"] == photo_path(shared, "detroit")
    expected = area.measureLine(QgsPointXY(LON, LAT), detroit.geometry().asPoint())
    assert detroit["distance_m"] == pytest.approx(expected, rel=1e-3)
    assert rows["tokyo"]["distance_m"] > 1e6


def test_a_table_without_places_and_a_layer_without_crs(shared):
    rows = [(None, None, photo_path(shared, city), city) for city in PAIRS]
    table = point_layer(rows, "bild:string&field=city:string", kind="NoGeometry")
    parameters = {"INPUT": scene_path(shared), "PLACES": 1, "OUTPUT": "TEMPORARY_OUTPUT"}
    first = layer_of(run({**parameters, "PHOTOS": table, "PHOTO_FIELD": "bild"})["OUTPUT"])
    unplaced = point_layer([(LON, LAT, *row[2:]) for row in rows], "bild:string&field=city:string", crs="")
    second = layer_of(run({**parameters, "PHOTOS": unplaced})["OUTPUT"])
    for layer in (first, second):
        assert [row["city"] for row in layer.getFeatures()] == list(PAIRS)
        assert not any(row["distance_m"] for row in layer.getFeatures())
    for one, two in zip(first.getFeatures(), second.getFeatures()):
        assert one.geometry().equals(two.geometry())


def test_missing_photos_are_named_and_several_rows_of_one_photo_found(shared):
    rows = [(None, None, photo_path(shared), 1), (None, None, "/nowhere/x.jpg", 2), (None, None, None, 3)]
    table = point_layer(rows, "photo:string&field=number:integer", kind="NoGeometry")
    log = Log()
    parameters = {"INPUT": scene_path(shared), "PHOTOS": table, "PLACES": 1}
    found = layer_of(run({**parameters, "OUTPUT": "TEMPORARY_OUTPUT"}, log)["OUTPUT"])
    assert [row["number"] for row in found.getFeatures()] == [1]
    assert any("/nowhere/x.jpg" in warning for warning in log.warnings)


def test_exactly_one_of_folder_and_layer(shared):
    parameters = {"INPUT": scene_path(shared), "OUTPUT": "TEMPORARY_OUTPUT"}
    with pytest.raises(QgsProcessingException, match="Neither a folder nor a layer"):
        run(parameters)
    with pytest.raises(QgsProcessingException, match="Both a folder and a layer"):
        run({**parameters, "FOLDER": str(shared), "PHOTOS": pairs_layer(shared)})


def test_a_folder_without_photos_raises_with_what_photos_are(shared, tmp_path):
    with pytest.raises(QgsProcessingException, match=r"holds no photos[\s\S]*\.jpg"):
        run({"INPUT": scene_path(shared), "FOLDER": str(tmp_path), "OUTPUT": "TEMPORARY_OUTPUT"})
