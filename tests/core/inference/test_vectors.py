from __future__ import annotations

import contextlib
import json
import sqlite3

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
from shapely.geometry import Point, box

from gair_core.errors import BadInputError
from gair_core.inference.vectors import write_vector

X, Y = np.array([500000.0, 510000.0]), np.array([2000000.0, 1990000.0])


@pytest.fixture
def frame():
    return geopandas.GeoDataFrame(
        {"id": ["à", "b"], "ID": [1, 2], "fid": [7, 7], "lon": [0.0, 0.0], "views": [[1, 2], [3]]},
        geometry=geopandas.points_from_xy(X, Y),
        crs="EPSG:32648",
    )


def degrees():
    return np.column_stack(pyproj.Transformer.from_crs(32648, 4326, always_xy=True).transform(X, Y))


def test_geopackage_keeps_crs_and_every_column(frame, tmp_path):
    path = write_vector(frame, tmp_path / "pünkte 1.gpkg", "t", embeddings=np.eye(2, 3, dtype="float32"))
    found = geopandas.read_file(path)
    assert found.crs == frame.crs
    assert list(found.columns) == [
        "id", "ID_2", "fid_2", "lon", "views", "embedding_0", "embedding_1", "embedding_2", "geometry",
    ]  # fmt: skip
    assert found["views"].map(json.loads).tolist() == [[1, 2], [3]]
    assert found["embedding_1"].tolist() == [0, 1]
    assert np.array_equal(found.geometry.x, X)
    assert list(tmp_path.iterdir()) == [path]


def test_geojson_is_in_degrees(frame, tmp_path):
    content = json.loads(write_vector(frame, tmp_path / "p.geojson", "t").read_text(encoding="utf-8"))
    places = [feature["geometry"]["coordinates"] for feature in content["features"]]
    assert np.allclose(places, degrees(), atol=1e-7)


def test_csv_has_places_in_front(frame, tmp_path):
    found = pd.read_csv(write_vector(frame, tmp_path / "p.csv", "t"))
    assert list(found.columns) == ["lon", "lat", "id", "ID_2", "fid", "lon_2", "views"]
    assert np.allclose(found[["lon", "lat"]], degrees(), atol=1e-9)
    assert found["id"].tolist() == ["à", "b"]


def test_csv_writes_other_geometry_as_text(tmp_path):
    frame = geopandas.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs="EPSG:4326")
    assert pd.read_csv(write_vector(frame, tmp_path / "p.csv", "t"))["wkt"][0].startswith("POLYGON")


def test_parquet_holds_vectors_as_lists(frame, tmp_path):
    vectors = np.arange(6, dtype="float32").reshape(2, 3)
    found = geopandas.read_parquet(write_vector(frame, tmp_path / "p.parquet", "t", embeddings=vectors))
    assert found.crs == frame.crs
    assert np.array_equal(np.stack(found["embedding"]), vectors)


@pytest.mark.parametrize("name", ["p.gpkg", "p.geojson", "p.csv", "p.parquet"])
def test_a_failure_keeps_the_old_file(frame, tmp_path, name, monkeypatch):
    path = write_vector(frame, tmp_path / name, "t")
    before = path.read_bytes()

    def fail(*arguments):
        arguments[1].write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gair_core.inference.vectors._write", fail)
    with pytest.raises(BadInputError, match="the disk is full"):
        write_vector(frame, path, "t")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bad_destinations(frame, tmp_path):
    with pytest.raises(BadInputError, match=r"must end in \.gpkg"):
        write_vector(frame, tmp_path / "p.shp", "t")
    path = write_vector(frame, tmp_path / "p.gpkg", "t")
    with pytest.raises(BadInputError, match="is the input"):
        write_vector(frame, path, "t", inputs=[path])
    with pytest.raises(ValueError, match="no CRS"):
        write_vector(geopandas.GeoDataFrame(geometry=[Point(0, 0)]), tmp_path / "q.gpkg", "t")
    with pytest.raises(ValueError, match="1 embeddings for 2 rows"):
        write_vector(frame, tmp_path / "q.gpkg", "t", embeddings=np.zeros((1, 3), "float32"))


def test_geopackages_suit_the_gdal_of_old_qgis(frame, tmp_path):
    path = write_vector(frame, tmp_path / "p.gpkg", "t")
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (10200,)


@pytest.mark.parametrize("name", ["gpkg_a", "SQLite_a", "a b ü", "it's", 'a"b'])
def test_layers_of_any_name(frame, tmp_path, name):
    path = write_vector(frame, tmp_path / f"{name}.gpkg", "t", style="<qgis/>")
    assert len(geopandas.read_file(path)) == 2
    assert path.with_suffix(".qml").read_text() == "<qgis/>"


@pytest.mark.parametrize("name", ["p.gpkg", "p.geojson", "p.csv", "p.parquet"])
def test_rows_without_a_place_stay(frame, tmp_path, name):
    frame = frame.assign(views="x", geometry=[Point(X[0], Y[0]), None]).set_crs(32648)
    path = write_vector(frame, tmp_path / name, "t")
    if name.endswith("csv"):
        assert pd.read_csv(path)["lat"].isna().tolist() == [False, True]
    else:
        read = geopandas.read_parquet if name.endswith("parquet") else geopandas.read_file
        assert read(path).geometry.isna().tolist() == [False, True]


def test_an_attribute_called_geometry(frame, tmp_path):
    frame = frame.rename_geometry("place").assign(geometry=["u", "v"])
    found = geopandas.read_file(write_vector(frame, tmp_path / "p.gpkg", "t"))
    assert found["geometry_2"].tolist() == ["u", "v"]


def test_a_failing_style_keeps_table_and_style(frame, tmp_path, monkeypatch):
    path = write_vector(frame, tmp_path / "p.csv", "t", style="<old/>")
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gair_core.inference.vectors._write", fail)
    with pytest.raises(BadInputError, match="the disk is full"):
        write_vector(frame.iloc[:1], path, "t", style="<new/>")
    assert path.read_bytes() == before
    assert path.with_suffix(".qml").read_text() == "<old/>"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["DataLayerError", "DataSourceError", "FeatureError"])
def test_every_error_of_gdal_names_the_file(frame, tmp_path, monkeypatch, kind):
    def fail(*_, **__):
        raise getattr(pyogrio.errors, kind)("Cannot write feature")

    monkeypatch.setattr(pyogrio, "write_dataframe", fail)
    with pytest.raises(BadInputError, match=r"p\.gpkg failed: Cannot write feature"):
        write_vector(frame, tmp_path / "p.gpkg", "t")
    assert not list(tmp_path.iterdir())
