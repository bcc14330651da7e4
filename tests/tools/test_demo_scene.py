"""Tests of tools/demo_scene.py: photos tagged to the metre, three of them wrong, and the truth of it all."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
from PIL import Image
from PIL.ExifTags import GPS, IFD

from gair_core.photos.tables import read_photos
from gair_core.sentinel2.bands import BANDS
from gair_core.sentinel2.scene import Scene
from gair_core.world import LAND_COVER
from gair_core.world.demo import DemoFiles

GEOD = pyproj.Geod(ellps="WGS84")
TOWN = ("dense built-up", "sparse built-up")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    import demo_scene

    return demo_scene


@pytest.fixture(scope="module")
def files(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    folder = tmp_path_factory.mktemp("demo")
    (folder / "photos").mkdir()
    # Of an earlier run that was interrupted, and what QGIS leaves beside a photo that somebody looked at.
    (folder / "photos" / "Nornov_000.jpg").touch()
    (folder / "photos" / "Nornov_000.jpg.aux.xml").touch()
    return tool.write(folder)


def test_photos_of_somebody_else_are_neither_removed_nor_compared(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    mine = tmp_path / "photos" / "Mine.JPG"
    mine.write_bytes(b"mine")
    with pytest.raises(SystemExit, match=r"holds Mine\.JPG\. Move them"):
        tool.write(tmp_path)
    assert mine.read_bytes() == b"mine"
    assert not (tmp_path / "scene.tif").exists()


def tag_of(photo: Path) -> tuple[float, float]:
    """Longitude and latitude of a photo, read with Pillow alone."""
    tags = Image.open(photo).getexif().get_ifd(IFD.GPSInfo)

    def degrees(name: GPS, sign: GPS) -> float:
        whole, minutes, seconds = (float(part) for part in tags[name])
        return (whole + minutes / 60 + seconds / 3600) * (1 if tags[sign] in "NE" else -1)

    return degrees(GPS.GPSLongitude, GPS.GPSLongitudeRef), degrees(GPS.GPSLatitude, GPS.GPSLatitudeRef)


def test_three_of_forty_photos_are_tagged_elsewhere_and_the_others_to_the_metre(
    tool: ModuleType, files: DemoFiles
) -> None:
    truth = json.loads(files.truth.read_text())
    photos = sorted(files.photos.glob("*.jpg"))
    assert len(photos) == tool.PHOTOS == 40
    assert len(truth["wrong"]) == tool.WRONG == 3
    assert set(truth["positions"]) == {photo.name for photo in photos}
    for photo in photos:
        away = GEOD.inv(*tag_of(photo), *truth["positions"][photo.name])[2]
        assert away > 1500 if photo.name in truth["wrong"] else away < 0.01
    # gair_core reads the same places.
    table = read_photos(files.photos)
    for path, lonlat in zip(table.paths, table.lonlat, strict=True):
        assert path is not None
        assert lonlat == pytest.approx(tag_of(path), abs=1e-8)


def test_wrong_tags_lie_in_surroundings_of_another_kind(files: DemoFiles) -> None:
    truth = json.loads(files.truth.read_text())
    with rasterio.open(files.land_cover) as source:
        cover = source.read(1)
        to_scene = pyproj.Transformer.from_crs("EPSG:4326", source.crs, always_xy=True)

        def town(lonlat: tuple[float, float]) -> float:
            row, column = source.index(*to_scene.transform(*lonlat))
            around = cover[max(row - 10, 0) : row + 11, max(column - 10, 0) : column + 11]
            built = np.isin(around, [LAND_COVER.index(name) + 1 for name in TOWN]).sum()
            return float(built / (around != LAND_COVER.index("road") + 1).sum())

        for name in truth["wrong"]:
            shares = town(truth["positions"][name]), town(tag_of(files.photos / name))
            assert max(shares) > 0.8
            assert min(shares) < 0.1


def test_both_dates_are_whole_scenes_of_real_size(tool: ModuleType, files: DemoFiles) -> None:
    for path in (files.scene, files.later):
        with Scene.open(str(path)) as scene:
            assert tuple(scene.band_names) == BANDS
            assert not scene.warnings
            assert (scene.grid.width, scene.grid.height) == (512, 512) == (tool.SIZE, tool.SIZE)
            assert scene.grid.crs.to_epsg() == 32633
            _, valid = scene.read(scene.grid.full_window)
            assert valid.all()


def test_the_truth_is_known_in_the_classes_of_the_demo_too(tool: ModuleType, files: DemoFiles) -> None:
    merged_file = files.scene.with_name("true_classes.tif")
    with rasterio.open(files.land_cover) as one, rasterio.open(merged_file) as other:
        cover, merged = one.read(1), other.read(1)
    assert np.array_equal(merged == 0, cover == LAND_COVER.index("road") + 1)
    value_of = {head.name: head.value for head in tool.CLASSES}
    for name in ("water", "crops", "forest", "bare soil", *TOWN):
        found = merged[cover == LAND_COVER.index(name) + 1]
        assert found.size > 0
        assert set(found) == {value_of[tool.MERGED[name]]}


def test_true_changes_are_the_differences_of_the_true_classes(files: DemoFiles) -> None:
    with (
        rasterio.open(files.land_cover) as before,
        rasterio.open(files.later_land_cover) as after,
        rasterio.open(files.scene.with_name("true_change.tif")) as change,
    ):
        then, now, kinds = before.read(1), after.read(1), change.read(1)
    assert np.array_equal(kinds > 0, then != now)
    assert 0.01 < (kinds > 0).mean() < 0.1
    felled = (then == LAND_COVER.index("forest") + 1) & (now == LAND_COVER.index("bare soil") + 1)
    assert felled.sum() > 100
    assert set(kinds[felled]) == {2}


def test_polygons_hold_their_class_and_the_style_of_the_truth(files: DemoFiles) -> None:
    polygons = gpd.read_file(files.polygons)
    assert set(polygons["class"]) <= set(LAND_COVER)
    assert all(LAND_COVER[value - 1] == name for value, name in polygons[["value", "class"]].to_numpy())
    assert 'label="forest"' in files.polygons.with_suffix(".qml").read_text()
