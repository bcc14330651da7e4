"""Layers of photos reach gair_core with every row's attributes, place and photo."""

from __future__ import annotations

import ast
import math
import sqlite3
from pathlib import Path

import pytest
from gair import photo_input
from gair.photo_input import (
    PHOTO,
    ROW,
    Rows,
    export_table,
    find_photos,
    layer_file,
    photo_folders,
    read_rows,
    recognise_photo_field,
    resolve_path,
)
from qgis.core import (
    NULL,
    QgsFeature,
    QgsGeometry,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSource,
    QgsProject,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QDate

from tests.plugin.conftest import ROOT
from tests.plugin.photo_layers import PAIRS, Log, pairs_layer, point_layer, saved


def rows_of(layer: QgsVectorLayer, **options: object) -> Rows:
    # A source owns neither its layer nor its context.
    context = QgsProcessingContext()
    return read_rows(QgsProcessingFeatureSource(layer, context), Log(), **options)


def exported(rows: Rows, folder: Path, **options: object) -> list[dict]:
    """The exported table as gair_core's side sees it, read without QGIS."""
    table = export_table(rows, folder / "table.gpkg", QgsProcessingContext(), Log(), **options)
    with sqlite3.connect(table.path) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM rows ORDER BY gair_row")]


def position(blob: bytes) -> tuple[float, float]:
    """Longitude and latitude of a GeoPackage geometry without envelope."""
    geometry = QgsGeometry()
    geometry.fromWkb(blob[8:])
    return geometry.asPoint().x(), geometry.asPoint().y()


def constant(module: str, name: str) -> object:
    """A constant of gair_core, which this Python cannot import."""
    tree = ast.parse((ROOT / "gair_core" / "photos" / module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and node.target.id == name:
            value = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
            return ast.literal_eval(value)
    raise LookupError(name)


def test_names_of_photos_are_those_that_gair_core_knows():
    assert constant("columns.py", "PHOTOS") == photo_input.PHOTO_FIELDS
    assert constant("reading.py", "SUFFIXES") == photo_input.PHOTO_SUFFIXES


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32617", "EPSG:2253"])
def test_places_are_longitude_and_latitude_whatever_the_crs(crs, tmp_path):
    lon, lat, _, _ = PAIRS["detroit"]
    (row,) = exported(rows_of(point_layer([(lon, lat, "a.jpg")], crs=crs)), tmp_path)
    assert position(row["gair_geometry"]) == pytest.approx((lon, lat), abs=1e-8)


def test_every_attribute_is_kept(tmp_path):
    layer = point_layer(
        [
            (1.0, 2.0, 7, 1234567890123456, 56.5, "Häuser, 'grün'", QDate(2024, 5, 31), True, "key", "shape"),
            (1.0, 2.0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        ],
        "fid:integer&field=orig_id:int8&field=heading:double&field=name:string&field=day:date&field=yes:bool"
        "&field=gair_row:string&field=geom:string",
    )
    first, second = exported(rows_of(layer), tmp_path)
    assert first.pop("gair_geometry") and second.pop("gair_geometry")
    assert {name: value for name, value in first.items() if name != "gair_fid"} == {
        ROW: 0,
        "fid": 7,
        "orig_id": 1234567890123456,
        "heading": 56.5,
        "name": "Häuser, 'grün'",
        "day": "2024-05-31",
        "yes": 1,
        "gair_row_": "key",
        "geom": "shape",
    }
    assert {value for name, value in second.items() if name not in ("gair_fid", ROW)} == {None}


def test_names_that_sqlite_or_gair_core_would_confuse_differ(tmp_path):
    layer = point_layer(
        [(1.0, 2.0, "a", "b", 0.5, 3.0)],
        "Name:string&field=name:string&field=similarity:double&field=EMBEDDING_3:double",
    )
    rows = rows_of(layer)
    table = export_table(rows, tmp_path / "table.gpkg", QgsProcessingContext(), Log())
    assert table.columns == {
        "Name": "Name",
        "name": "name_2",
        "similarity": "similarity_",
        "EMBEDDING_3": "EMBEDDING_3_",
    }


def test_rows_without_a_place_stay_without(tmp_path):
    first, second = exported(rows_of(point_layer([(1.0, 2.0, "a.jpg"), (None, None, "b.jpg")])), tmp_path)
    assert position(first["gair_geometry"]) == (1, 2)
    # QGIS writes POINT EMPTY, whose coordinates are not numbers.
    assert all(map(math.isnan, position(second["gair_geometry"])))


def test_a_point_where_the_projection_has_no_earth_is_named(tmp_path):
    layer = point_layer([(1.0, 2.0, "a.jpg")], crs="EPSG:3035")
    far = QgsFeature(layer.fields())
    far.setAttributes(["far.jpg"])
    far.setGeometry(QgsGeometry.fromWkt("POINT (1e12 1e12)"))
    layer.dataProvider().addFeature(far)
    log = Log()
    export_table(rows_of(layer), tmp_path / "table.gpkg", QgsProcessingContext(), log)
    assert log.warnings == [
        "1 rows of my photos lie where EPSG:3035 has no longitude and latitude, the first is row 2."
    ]


def test_a_layer_without_crs_is_refused_with_the_way_out(tmp_path):
    rows = rows_of(point_layer([(1.0, 2.0, "a.jpg")], crs=""))
    with pytest.raises(QgsProcessingException, match=r"my photos has no coordinate reference.*Set CRS"):
        exported(rows, tmp_path)
    (row,) = exported(rows, tmp_path, need_positions=False)
    assert "gair_geometry" not in row


def test_multipoints_of_one_point_are_points_and_others_refused(tmp_path):
    layer = point_layer([], kind="MultiPoint")
    for wkt in ("MULTIPOINT ((3 4))", "MULTIPOINT ((3 4), (5 6))"):
        feature = QgsFeature(layer.fields())
        feature.setGeometry(QgsGeometry.fromWkt(wkt))
        layer.dataProvider().addFeature(feature)
    rows = rows_of(layer)
    (row,) = exported(Rows("one", rows.features[:1], rows.fields, rows.crs, rows.geometry_type), tmp_path)
    assert position(row["gair_geometry"]) == (3, 4)
    with pytest.raises(QgsProcessingException, match="Row 2 of my photos is not one point but MultiPoint"):
        exported(rows, tmp_path)


def test_a_table_without_geometries_keeps_its_columns(shared, tmp_path):
    layer = QgsVectorLayer(str(shared / "data" / "gair_pairs" / "photos.csv"), "photos", "ogr")
    rows = rows_of(layer)
    assert not rows.spatial
    first, *_ = exported(rows, tmp_path)
    assert (first["id"], float(first["lon"]), float(first["lat"])) == ("detroit", *PAIRS["detroit"][:2])
    assert "gair_geometry" not in first


def test_no_rows_and_nothing_selected_are_told_apart():
    with pytest.raises(QgsProcessingException, match="my photos has no rows"):
        rows_of(point_layer([]))
    with pytest.raises(QgsProcessingException, match="no feature of my photos is selected"):
        rows_of(point_layer([]), selected_only=True)


@pytest.mark.parametrize(
    ("fields", "values", "found"),
    [
        (["photo", "filename"], ["/x/a.JPG", "a"], "photo"),  # as Import geotagged photos makes it
        (["filename", "thumb"], ["a.jpg", "t.png"], "filename"),
        (["bild", "id"], ["a.tiff", "x"], "bild"),
        (["thumb", "Path"], ["t.png", "a.webp"], "Path"),
        (["IMAGE", "id"], ["no suffix", "x"], "IMAGE"),
    ],
)
def test_the_photo_field_is_recognised(fields, values, found):
    layer = point_layer([(1, 2, *values)], "&field=".join(f"{name}:string" for name in fields))
    assert recognise_photo_field(rows_of(layer)) == found


@pytest.mark.parametrize(
    ("fields", "values", "said"),
    [
        (["left", "right"], ["a.jpg", "b.jpg"], "the fields left, right all do"),
        (["id", "note"], ["1", "hello"], "its fields are id, note"),
    ],
)
def test_an_unclear_photo_field_is_asked_for(fields, values, said):
    layer = point_layer([(1, 2, *values)], "&field=".join(f"{name}:string" for name in fields))
    with pytest.raises(QgsProcessingException, match=f"{said}.*Choose the photo field"):
        recognise_photo_field(rows_of(layer))


def test_photos_as_qgis_imports_them(provider, shared):
    import processing

    folder = shared / "data" / "photos_exif"
    result = processing.run(
        "native:importphotos", {"FOLDER": str(folder), "RECURSIVE": True, "OUTPUT": "TEMPORARY_OUTPUT"}
    )
    rows, log = rows_of(result["OUTPUT"]), Log()
    photos = find_photos(rows, "", [], log)
    assert photos.field == "photo"
    assert {Path(path) for path in photos.paths} == set(folder.rglob("*.jpg"))
    (said,) = log.information
    assert said.startswith("Photos: 13 of 13 rows of Photos name one, in the field photo (recognised")


def test_paths_relative_to_the_layers_file_or_the_project(qgis_new_project, tmp_path):
    for name in ("layer/in_layer.jpg", "project/in project.jpg", "elsewhere.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = [
        (1, 2, "in_layer.jpg"),
        (1, 2, "in project.jpg"),
        (1, 2, "../elsewhere.jpg"),
        (1, 2, "nowhere.jpg"),
        (1, 2, NULL),
        (1, 2, (tmp_path / "elsewhere.jpg").as_uri()),
    ]
    layer = saved(point_layer(rows), tmp_path / "layer" / "photos.gpkg")
    project = QgsProject.instance()
    project.write(str(tmp_path / "project" / "mine.qgz"))
    folders = photo_folders(layer_file(layer), project)
    assert [Path(folder).name for folder in folders] == ["layer", "project"]
    photos = find_photos(rows_of(layer), "photo", folders, Log())
    assert [path and str(Path(path).relative_to(tmp_path)) for path in photos.paths] == [
        "layer/in_layer.jpg",
        "project/in project.jpg",
        "elsewhere.jpg",
        "layer/nowhere.jpg",
        "",
        "elsewhere.jpg",
    ]


@pytest.mark.parametrize("driver", ["GPKG", "GeoJSON", "ESRI Shapefile", "CSV"])
def test_the_file_of_a_layer(driver, tmp_path):
    suffix = {"GPKG": "gpkg", "GeoJSON": "geojson", "ESRI Shapefile": "shp", "CSV": "csv"}[driver]
    path = tmp_path / f"Fotos é 1.{suffix}"
    layer = saved(point_layer([(1, 2, "a.jpg")]), path, driver)
    assert layer_file(layer) == str(path)


def test_the_file_of_delimited_text_and_of_layers_without_one(shared):
    path = shared / "data" / "gair_pairs" / "photos.csv"
    uri = f"{path.absolute().as_uri()}?delimiter=,&xField=lon&yField=lat&crs=EPSG:4326"
    assert layer_file(QgsVectorLayer(uri, "photos", "delimitedtext")) == str(path.absolute())
    assert layer_file(point_layer([])) == ""
    assert layer_file(None) == ""


def test_relative_paths_without_a_folder_are_refused(shared):
    rows = rows_of(point_layer([(1, 2, "a.jpg")]))
    with pytest.raises(QgsProcessingException, match=r"relative \(such as a.jpg\).*Save the project"):
        find_photos(rows, "", [], Log())


def test_a_field_that_is_missing_or_empty_is_refused():
    rows = rows_of(point_layer([(1, 2, "", "x")], "photo:string&field=id:string"))
    with pytest.raises(QgsProcessingException, match="no field bild; it has photo, id"):
        find_photos(rows, "bild", ["/"], Log())
    with pytest.raises(QgsProcessingException, match="The field photo of my photos is empty"):
        find_photos(rows, "photo", ["/"], Log())


def test_backslashes_of_windows_are_understood(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jpg").touch()
    assert resolve_path("a\\b.jpg", [str(tmp_path)]) == str(tmp_path / "a" / "b.jpg")
    assert resolve_path("C:\\photos\\b.jpg", [str(tmp_path)]) == "C:\\photos\\b.jpg"
    assert resolve_path("", [str(tmp_path)]) == ""


def test_photos_and_rows_stay_together(shared, tmp_path):
    rows = rows_of(pairs_layer(shared, "EPSG:3857"))
    photos = find_photos(rows, "", [], Log())
    table = exported(rows, tmp_path, photos=photos)
    assert [(row[ROW], Path(row[PHOTO]).stem.split("_")[0], row["city"]) for row in table] == [
        (index, city, city) for index, city in enumerate(PAIRS)
    ]


def test_a_full_or_missing_folder_is_an_error_that_names_it(tmp_path):
    rows = rows_of(point_layer([(1, 2, "a.jpg")]))
    with pytest.raises(QgsProcessingException, match="cannot be written"):
        export_table(rows, tmp_path / "missing" / "table.gpkg", QgsProcessingContext(), Log())
