import json
from datetime import date

import geopandas as gpd
import numpy as np
import pytest
import rasterio

from gair_core.errors import BadInputError, CancelledError
from gair_core.photos.exif import read_tags
from gair_core.photos.tables import read_photos
from gair_core.pretrain.splits import SplitConfig
from gair_core.pretrain.store import Store
from gair_core.pretrain.store_check import StoreCheckRequest, check_store
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene
from gair_core.world import LAND_COVER, World
from gair_core.world.demo import write_demo
from gair_core.world.writers import (
    write_land_cover,
    write_photos,
    write_polygons,
    write_roads,
    write_scene,
    write_store,
)

DAY = date(2023, 7, 1)


@pytest.fixture(scope="module")
def city():
    return World(1).city(4, 96)


def test_scene_opens_as_a_product(city, tmp_path):
    path = write_scene(city, tmp_path / "scene.tif", DAY)
    wanted = city.scene(DAY)
    with Scene.open(path) as scene:
        assert scene.band_names == ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
        assert scene.grid.crs.to_epsg() == city.epsg
        assert scene.grid.bounds == city.bounds
        values, valid = scene.read(scene.grid.full_window)
    assert valid.all()
    np.testing.assert_array_equal(values, wanted)
    assert list(tmp_path.iterdir()) == [path]


def test_land_cover_has_names_and_colours(city, tmp_path):
    path = write_land_cover(city, tmp_path / "cover.tif", DAY)
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(1), city.land_cover(DAY) + 1)
        assert source.tags(1)["CLASS_1"] == "water"
        assert source.colormap(1)[1][2] > source.colormap(1)[1][0]


def test_large_scene_is_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("gair_core.world.writers._BLOCK", 64)
    city = World(1).city(3, 96)
    with rasterio.open(write_scene(city, tmp_path / "scene.tif", DAY)) as source:
        np.testing.assert_array_equal(source.read(), city.scene(DAY))


def test_photos_carry_place_direction_and_date(city, tmp_path):
    views = city.photo_positions(3)
    paths = write_photos(city, tmp_path, views, DAY, size=64)
    for path, position, heading in zip(paths, *views, strict=True):
        tags = read_tags(path)
        assert tags.longitude == pytest.approx(position[0], abs=1e-8)
        assert tags.latitude == pytest.approx(position[1], abs=1e-8)
        assert tags.direction == pytest.approx(heading % 360, abs=0.006)
        assert tags.direction_reference == "true"
        assert tags.taken.date() == DAY


def test_photos_of_the_south_west_keep_their_hemispheres(tmp_path):
    south = next(one for one in (World(1).city(i, 96) for i in range(60)) if one.region.name == "Pampas")
    (path,) = write_photos(south, tmp_path, south.photo_positions(1), DAY, size=32)
    tags = read_tags(path)
    assert tags.longitude < 0
    assert tags.latitude < 0


def test_roads_meet_at_junctions(tmp_path):
    frame = gpd.read_file(write_roads(World(1).city(4, 256), tmp_path / "roads.gpkg"))
    assert frame.crs.to_epsg() == World(1).city(4).epsg
    ends = np.array([point for line in frame.geometry for point in (line.coords[0], line.coords[-1])])
    shared = [(np.hypot(*(ends - end).T) < 1).sum() for end in ends]
    # Three roads meet at a junction; others end at a shore or at the extent, where a stub may be cut off.
    assert np.isin(shared, [1, 3]).mean() > 0.9
    assert (np.array(shared) == 3).mean() > 0.5


def test_polygons_lie_inside_their_class(city, tmp_path):
    path = write_polygons(city, tmp_path / "polygons.gpkg", DAY, per_class=3)
    frame = gpd.read_file(path)
    assert len(frame) >= 6
    assert frame.groupby("class").size().max() <= 3
    cover = city.land_cover(DAY)
    for name, value, geometry in zip(frame["class"], frame["value"], frame.geometry, strict=True):
        assert LAND_COVER[value - 1] == name
        points = geometry.representative_point()
        west, _, _, north = city.bounds
        assert cover[int((north - points.y) / 10), int((points.x - west) / 10)] == value - 1
        assert geometry.area >= 100


def test_store_is_valid_and_continues(tmp_path):
    cities = [World(1).city(index, 96) for index in range(3)]
    dates = [date(2023, 7, 1), date(2023, 10, 1)]

    class Impatient(Progress):
        def report(self, fraction, _message=""):
            if 0.3 < fraction < 0.9:
                self.cancel()

    folder = tmp_path / "store"
    options = {"photos": 4, "size": 32, "splits": SplitConfig(validation=0.34, test=0.34)}
    with pytest.raises(CancelledError):
        write_store(folder, cities, dates, Impatient(), **options)
    finished = sorted(path.stat().st_mtime_ns for path in (folder / "units").glob("*.parquet"))
    assert finished
    with pytest.raises(BadInputError, match="plan"):
        write_store(folder, cities, dates, Progress(), **options | {"photos": 5})
    summary = write_store(folder, cities, dates, Progress(), **options)
    assert (summary.samples, summary.photos, summary.tiles) == (12, 12, 3)
    result = check_store(StoreCheckRequest(store=folder), Progress())
    assert not result.faults, result.faults
    store = Store(folder)
    sample = store.samples
    tile = store.tile(str(sample.tile[0]))
    assert tile.size == (96, 96)
    home = next(one for one in cities if one.name == sample.city[0])
    np.testing.assert_array_equal(store.read_whole(tile, 0), home.scene(dates[0]))


def test_processes_write_the_same_store(tmp_path):
    cities = [World(1).city(index, 96) for index in range(2)]
    splits = SplitConfig(validation=0, test=0)
    folders = [tmp_path / "one", tmp_path / "two"]
    for processes, folder in enumerate(folders, 1):
        options = {"photos": 2, "size": 32, "splits": splits, "processes": processes}
        write_store(folder, cities, [DAY], Progress(), held_out={cities[1].name}, **options)
    first, second = (Store(folder) for folder in folders)
    assert list(first.samples.id) == list(second.samples.id)
    assert list(first.samples.split) == ["train", "train", "test", "test"]
    for name in {str(name) for name in first.samples.tile}:
        scenes = [store.read_whole(store.tile(name), 0) for store in (first, second)]
        np.testing.assert_array_equal(*scenes)
    assert first.read_photo(3).tobytes() == second.read_photo(3).tobytes()


def test_store_needs_dates(tmp_path):
    with pytest.raises(BadInputError, match="dates"):
        write_store(tmp_path / "store", [World(1).city(0, 96)], [], Progress())


def test_demo_hides_its_wrong_tags_in_the_tags_alone(tmp_path):
    files = write_demo(tmp_path, photos=6, wrong=2, size=320)
    truth = json.loads(files.truth.read_text())
    assert len(truth["wrong"]) == 2
    table = read_photos(files.photos)
    place = World(0).city(2, 320)
    for path, said in zip(table.paths, table.lonlat, strict=True):
        away = np.hypot(*(place.to_local(said) - place.to_local(truth["positions"][path.name])))
        assert (away > 1500) == (path.name in truth["wrong"])
        assert away < 0.01 or away > 1500
    points = gpd.read_file(files.points)
    assert set(points.columns) == {"photo", "heading", "geometry"}
    assert all((tmp_path / name).exists() for name in points["photo"])
    for raster in (files.scene, files.later, files.land_cover, files.later_land_cover):
        with rasterio.open(raster) as source:
            assert source.shape == (320, 320)


def test_demo_refuses_what_cannot_be(tmp_path):
    with pytest.raises(BadInputError, match="3 wrong of 2"):
        write_demo(tmp_path, photos=2, wrong=3)
    with pytest.raises(BadInputError, match="too small"):
        write_demo(tmp_path, photos=2, wrong=1, size=96)
