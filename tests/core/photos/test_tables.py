from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from PIL import Image

from gair_core.errors import BadInputError
from gair_core.photos.tables import read_photos, read_points

LONLAT = np.array([[9.167152047157288, 48.77279729009419], [9.168262481689451, 48.76480664682288]])


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "Fotos für Bärbel"
    (place / "bilder").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 6)).save(place / "bilder" / name)
    return place


def layer(crs="EPSG:4326", **columns) -> gpd.GeoDataFrame:
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*LONLAT.T)
    columns = columns or {"photo": ["bilder/a.jpg", "bilder/b.jpg"], "rating": [1, 5], "note": ["gut", None]}
    return gpd.GeoDataFrame(columns, geometry=gpd.points_from_xy(x, y), crs=crs)


def write_csv(folder, text: str, encoding="utf-8"):
    path = folder / "photos.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632", "EPSG:3857", "EPSG:31467", "EPSG:2056"])
@pytest.mark.parametrize("name", ["photos.gpkg", "photos.shp", "photos.geojson"])
def test_layers_in_any_crs(folder, name, crs):
    if name.endswith("geojson") and crs != "EPSG:4326":
        pytest.skip("GeoJSON is in longitude and latitude")
    layer(crs).to_file(folder / name)
    photos = read_photos(folder / name)
    np.testing.assert_allclose(photos.lonlat, LONLAT, atol=1e-8)
    assert photos.lonlat.dtype == np.float64
    assert [path.is_file() for path in photos.paths] == [True, True]
    assert list(photos.frame["rating"]) == [1, 5]
    assert photos.frame["note"][0] == "gut"
    assert photos.frame.crs == "EPSG:4326"
    np.testing.assert_allclose(shapely.get_coordinates(photos.frame.geometry), LONLAT, atol=1e-8)
    assert photos.name(0) in ("bilder/a.jpg", "bilder\\a.jpg")


def test_streetscapes_table(shared):
    photos = read_photos(shared / "data/photos_csv/photos.csv")
    assert len(photos) == 25
    assert photos.panorama.sum() == 9
    assert photos.frame["orig_id"][0] == "483343130885198"
    assert {len(value) for value in photos.frame["orig_id"]} == {15, 16}
    assert photos.frame["sequence_index"].dtype == np.int64
    assert np.isnan(photos.frame["hFoV"]).sum() == 9
    assert tuple(photos.lonlat[0]) == (9.167152047157288, 48.77279729009419)
    assert photos.heading[0] == 236.587
    assert all(path.is_file() for path in photos.paths)


def test_pairs_table_prefers_the_photo_over_the_scene(shared):
    photos = read_photos(shared / "data/gair_pairs/photos.csv")
    assert [path.name for path in photos.paths] == ["detroit_sv.jpg", "sacramento_sv.jpg", "tokyo_sv.jpg"]
    assert tuple(photos.lonlat[2]) == (139.75009, 35.657349)
    scenes = read_photos(shared / "data/gair_pairs/photos.csv", photo_field="scene")
    assert scenes.paths[0].name == "detroit_rs.tif"


def test_folder_of_photos(shared):
    photos = read_photos(shared / "data/photos_exif")
    assert len(photos) == 13
    assert [path.name for path in photos.paths[:2]] == ["DSCN0010.jpg", "DSCN0012.jpg"]
    assert photos.name(12) == "helsinki/HMD_Nokia_8.3_5G.jpg"
    np.testing.assert_allclose(photos.lonlat[12], [24.906772, 60.146706], atol=5.1e-7)
    assert photos.heading[12] == 56
    assert np.isnan(photos.heading[:12]).all()
    last = photos.frame.iloc[12]
    assert (last["photo"], last["direction_reference"]) == ("helsinki/HMD_Nokia_8.3_5G.jpg", "magnetic")
    assert last["taken"] == "2022-08-14T14:12:31+03:00"
    assert list(photos.frame["altitude"][9:12]) == [27, 30, 39]


def test_a_single_photo(shared):
    photos = read_photos(shared / "data/photos_exif/berlin/01.jpg")
    assert len(photos) == 1
    assert photos.name(0) == "01.jpg"
    np.testing.assert_allclose(photos.lonlat[0], [13.400294, 52.518917], atol=5.1e-7)


def test_points_of_real_tables(shared):
    points = read_points(shared / "data/tables/global_streetscapes/02_metadata_common_attributes.csv")
    assert len(points) == 500
    assert tuple(points.lonlat[0]) == (9.1716206073761, 48.76894355452018)
    forest = read_points(shared / "data/tables/mosaiks/forest_cover.csv")
    assert len(forest) == 2000
    assert forest.frame["label"].dtype == np.float64


def test_points_of_a_layer_and_a_folder(folder, shared):
    layer("EPSG:32632", label=["x", "y"]).to_file(folder / "points.gpkg")
    np.testing.assert_allclose(read_points(folder / "points.gpkg").lonlat, LONLAT, atol=1e-8)
    assert len(read_points(shared / "data/photos_exif")) == 13


@pytest.mark.parametrize("names", ["lon,lat", "Longitude,Latitude", "lng,lat", "LONG,LAT", "x,y", "X,Y"])
def test_usual_names_of_positions(folder, names):
    path = write_csv(folder, f"photo,{names}\nbilder/a.jpg,9.167152047157288,48.77279729009419\n")
    np.testing.assert_array_equal(read_photos(path).lonlat, LONLAT[:1])


def test_named_fields(folder):
    path = write_csv(folder, "a,b,east,north,lon,lat\nbilder/a.jpg,bilder/b.jpg,9.5,48.5,0,1\n")
    photos = read_photos(path, photo_field="b", lon_field="east", lat_field="north")
    assert photos.paths[0].name == "b.jpg"
    np.testing.assert_array_equal(photos.lonlat, [[9.5, 48.5]])
    with pytest.raises(BadInputError, match="a, b"):
        read_photos(path)
    with pytest.raises(BadInputError, match="no column c; it has a, b, east"):
        read_photos(path, photo_field="c")
    with pytest.raises(BadInputError, match="Name both"):
        read_photos(path, photo_field="a", lon_field="east")


def test_byte_order_mark_semicolons_and_decimal_commas(folder):
    text = 'Datei;lon;lat;Bemerkung\nbilder/a.jpg;9,25;48,5;"schön; wirklich"\nbilder/b.jpg;9.5;48.25;\n'
    photos = read_photos(write_csv(folder, text, "utf-8-sig"))
    np.testing.assert_array_equal(photos.lonlat, [[9.25, 48.5], [9.5, 48.25]])
    assert list(photos.frame.columns)[:2] == ["Datei", "lon"]
    assert photos.frame["Bemerkung"][0] == "schön; wirklich"
    assert photos.frame["Bemerkung"][1] is None
    tabs = write_csv(folder, "photo\tlon\tlat\nbilder/a.jpg\t9.25\t48.5\n")
    assert tuple(read_photos(tabs).lonlat[0]) == (9.25, 48.5)


def test_attributes_keep_their_meaning(folder):
    text = (
        "photo,lon,lat,id,code,count,gap,share,flag,geometry,version\n"
        "bilder/a.jpg,9,48,4833431308851980123,007,3,1,0.5,NA,here,1.2.3\n"
        "bilder/b.jpg,9,48,12,12,4,,1e-3,b,there,2.0.0\n"
    )
    frame = read_photos(write_csv(folder, text)).frame
    assert list(frame["id"]) == ["4833431308851980123", "12"]
    assert list(frame["code"]) == ["007", "12"]
    assert frame["count"].dtype == np.int64
    assert frame["gap"][0] == 1
    assert pd.isna(frame["gap"][1])
    assert list(frame["share"]) == [0.5, 0.001]
    assert list(frame["flag"]) == ["NA", "b"]
    assert list(frame["geometry"]) == ["here", "there"]
    assert frame.geometry.name == "geometry_"
    assert list(frame["version"]) == ["1.2.3", "2.0.0"]


def test_the_frame_survives_a_geopackage(folder, shared):
    frame = read_photos(shared / "data/photos_csv/photos.csv").frame
    frame.to_file(folder / "out.gpkg")
    back = gpd.read_file(folder / "out.gpkg")
    assert list(back["orig_id"]) == list(frame["orig_id"])
    assert list(back["sequence_index"]) == list(frame["sequence_index"])
    assert back.geometry.geom_equals(frame.geometry).all()


def test_absolute_windows_and_empty_paths(folder):
    absolute = folder / "bilder" / "a.jpg"
    text = f"photo,lon,lat\n{absolute},9,48\nbilder\\b.jpg,9,48\n,9,48\n"
    photos = read_photos(write_csv(folder, text))
    assert photos.paths[0] == absolute
    assert photos.paths[1].is_file()
    assert photos.paths[2] is None
    assert photos.name(2) == "row 3"


def test_rows_without_positions_are_kept(folder):
    path = write_csv(folder, "photo,lon,lat\na.jpg,9,48\nb.jpg,,48\nc.jpg,9,n/a\nd.jpg,9,480\n")
    photos = read_photos(path)
    np.testing.assert_array_equal(photos.placed, [True, False, False, False])
    assert np.isnan(photos.lonlat[1:]).all()
    assert photos.frame.geometry.isna().tolist() == [False, True, True, True]
    without = read_photos(write_csv(folder, "photo,rating\nbilder/a.jpg,3\n"))
    assert np.isnan(without.lonlat).all()
    points = layer()
    points.loc[1, "geometry"] = None
    points.to_file(folder / "p.gpkg")
    np.testing.assert_array_equal(read_photos(folder / "p.gpkg").placed, [True, False])


def test_swapped_and_projected_columns_are_refused(folder):
    with pytest.raises(BadInputError, match="Swap"):
        read_points(write_csv(folder, "lon,lat\n1.31,103.81\n1.32,103.82\n"))
    with pytest.raises(BadInputError, match="projected"):
        read_points(write_csv(folder, "x,y\n512345,5404321\n512346,5404322\n"))


def test_several_layers(folder):
    for name in ("spring", "autumn"):
        layer().to_file(folder / "p.gpkg", layer=name)
    with pytest.raises(BadInputError, match="spring, autumn"):
        read_photos(folder / "p.gpkg")
    with pytest.raises(BadInputError, match="no layer summer"):
        read_photos(folder / "p.gpkg", layer="summer")
    assert len(read_photos(folder / "p.gpkg", layer="autumn")) == 2


def test_collections_of_one_point_and_heights(folder):
    points = layer(photo=["bilder/a.jpg", "bilder/b.jpg"])
    points.geometry = [shapely.MultiPoint([p]) for p in LONLAT]
    points.to_file(folder / "multi.gpkg")
    np.testing.assert_allclose(read_photos(folder / "multi.gpkg").lonlat, LONLAT)
    points.geometry = [shapely.Point(*p, 321.0) for p in LONLAT]
    points.to_file(folder / "height.gpkg")
    np.testing.assert_allclose(read_photos(folder / "height.gpkg").lonlat, LONLAT)


def test_layers_that_are_no_points(folder):
    areas = layer()
    areas.geometry = [shapely.Point(p).buffer(0.001) for p in LONLAT]
    areas.to_file(folder / "areas.gpkg")
    with pytest.raises(BadInputError, match=r"Row 1 of .*areas\.gpkg is a Polygon"):
        read_photos(folder / "areas.gpkg")
    layer().to_file(folder / "p.shp")
    (folder / "p.prj").unlink()
    with pytest.raises(BadInputError, match="no coordinate reference system"):
        read_photos(folder / "p.shp")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "cannot be read|no rows"),
        ("photo,lon,lat\n", "no rows"),
        ("lon,lat\n9,48\n", "paths of photos; found lon, lat"),
        ("photo,lon,lat\na.jpg,9,48,7,8\n", "more columns than its header"),
        ("photo,lon,lat\na.jpg,9,48\nb.jpg,9,48,7,8\n", "cannot be read as a table"),
    ],
)
def test_impossible_csv_tables(folder, content, found):
    with pytest.raises(BadInputError, match=found):
        read_photos(write_csv(folder, content))


def test_other_bad_sources(folder):
    with pytest.raises(BadInputError, match="UTF-8"):
        read_photos(write_csv(folder, "photo,lon,lat\nStraße.jpg,9,48\n", "latin-1"))
    with pytest.raises(BadInputError, match=r"nowhere\.gpkg does not exist"):
        read_photos(folder / "nowhere.gpkg")
    (folder / "broken.gpkg").write_bytes(b"not a geopackage")
    with pytest.raises(BadInputError, match=r"broken\.gpkg cannot be read"):
        read_photos(folder / "broken.gpkg")
    (folder / "empty").mkdir()
    (folder / "empty" / "._a.jpg").write_bytes(b"")
    with pytest.raises(BadInputError, match="holds no photos"):
        read_photos(folder / "empty")
    with pytest.raises(BadInputError, match="no columns for longitude and latitude; it has a, b"):
        read_points(write_csv(folder, "a,b\n1,2\n"))
    with pytest.raises(BadInputError, match="has a position"):
        read_points(write_csv(folder, "lon,lat\n,\n,\n"))


def test_take_keeps_everything_together(shared):
    photos = read_photos(shared / "data/photos_csv/photos.csv")
    some = photos.take([3, 1])
    assert list(some.frame["uuid"]) == [photos.frame["uuid"][3], photos.frame["uuid"][1]]
    assert some.paths == (photos.paths[3], photos.paths[1])
    np.testing.assert_array_equal(some.lonlat, photos.lonlat[[3, 1]])
    np.testing.assert_array_equal(some.heading, photos.heading[[3, 1]])
    assert photos.take(photos.panorama).panorama.all()
    assert len(photos.take(photos.panorama)) == 9
    assert len(photos.take(np.zeros(25, bool))) == 0


def test_parquet_is_read_with_and_without_geometries(tmp_path):
    frame = pd.DataFrame({"photo": ["a.jpg", "b.jpg"], "lon": [9.25, 9.5], "lat": [48.75, 48.5]})
    frame.to_parquet(tmp_path / "plain.parquet")
    points = gpd.GeoDataFrame(
        frame[["photo"]], geometry=gpd.points_from_xy(frame.lon, frame.lat), crs="EPSG:4326"
    )
    points.to_crs("EPSG:32632").to_parquet(tmp_path / "geo.parquet")
    for name in ("plain.parquet", "geo.parquet"):
        table = read_photos(tmp_path / name)
        np.testing.assert_allclose(table.lonlat, frame[["lon", "lat"]], atol=1e-9)
        assert [path.name for path in table.paths] == ["a.jpg", "b.jpg"]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(BadInputError, match="cannot be read as a table"):
        read_points(tmp_path / "bad.parquet")
