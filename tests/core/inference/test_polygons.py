"""Polygons made strip by strip equal those of the whole raster, are valid and cover it exactly."""

from __future__ import annotations

import geopandas
import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio.features
import shapely
from defusedxml import ElementTree

from gair_core.errors import BadInputError
from gair_core.geo.grid import Grid
from gair_core.heads import HeadClass
from gair_core.inference import polygons as module
from gair_core.inference.polygons import Dissolver, PolygonWriter, Table, categories_style
from tests.core.inference import scenes

CLASSES = tuple(
    HeadClass(value=value, name=f"class <{value}> & more", colour=(value % 256, 0, 255))
    for value in (1, 2, 3, 300)
)


def patches(classes: np.ndarray, rows: int):
    dissolver = Dissolver(classes.shape[1])
    found = [
        patch for top in range(0, len(classes), rows) for patch in dissolver.add(classes[top : top + rows])
    ]
    return [*found, *dissolver.finish()]


def whole(classes: np.ndarray):
    shapes = rasterio.features.shapes(classes, mask=classes != 0, connectivity=4)
    return [(int(value), shapely.geometry.shape(shape)) for shape, value in shapes]


def spiral() -> np.ndarray:
    """Two classes wound around each other, so that patches meet again and again."""
    y, x = np.mgrid[-40:40, -40:40]
    angle = np.arctan2(y, x) / (2 * np.pi)
    return (1 + (np.hypot(y, x) / 8 + angle).astype(int) % 2).astype(np.uint8)


RASTERS = {
    "noise": np.random.default_rng(0).integers(0, 4, (61, 47)).astype(np.uint8),
    "two classes": np.random.default_rng(1).integers(1, 3, (50, 50)).astype(np.uint8),
    "spiral": spiral(),
    "rings": (np.abs(np.mgrid[-30:30, -30:30]).max(axis=0) // 4 % 3 + 1).astype(np.uint8),
    "one": np.full((30, 20), 3, np.uint8),
    "nothing": np.zeros((30, 20), np.uint8),
    "many values": np.random.default_rng(2).integers(0, 2, (40, 30)).astype(np.uint16) * 300,
}


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("name", RASTERS)
def test_strips_make_no_difference(name, rows):
    raster = RASTERS[name]
    found, expected = patches(raster, rows), whole(raster)
    assert len(found) == len(expected)
    assert all(outline.is_valid and outline.geom_type == "Polygon" for _, outline in found)

    def keys(items):
        return sorted(
            (value, shapely.to_wkb(shapely.normalize(shapely.simplify(o, 0)))) for value, o in items
        )

    assert keys(found) == keys(expected)
    if found:
        burnt = rasterio.features.rasterize(
            [(outline, value) for value, outline in found], raster.shape, dtype=raster.dtype
        )
        np.testing.assert_array_equal(burnt, raster)


def test_finished_patches_do_not_wait():
    dissolver = Dissolver(8)
    column = np.ones((4, 8), np.uint8)
    column[:, 1:] = np.arange(4)[:, None] % 2 + 2
    for _ in range(50):
        list(dissolver.add(column))
        assert len(dissolver._open) <= 2


def write(tmp_path, raster, place="utm", rows=16, classes=CLASSES):
    crs, transform = scenes.PLACES[place]
    grid = Grid(crs, transform, raster.shape[1], raster.shape[0])
    writer = PolygonWriter(Table(tmp_path / "some.gpkg", "fields", grid, classes))
    for top in range(0, len(raster), rows):
        writer.write(raster[top : top + rows])
    writer.finish()
    return geopandas.read_file(tmp_path / "some.gpkg", layer="fields"), writer


@pytest.mark.parametrize("place", scenes.PLACES)
def test_places_and_areas_in_any_crs(place, tmp_path):
    raster = np.ones((64, 48), np.uint8)
    raster[10:40, 20:30] = 2
    frame, writer = write(tmp_path, raster, place)
    assert writer.count == len(frame) == 2
    assert frame.crs == pyproj.CRS(scenes.PLACES[place][0])
    assert list(frame.columns) == ["value", "name", "area_m2", "geometry"]
    inner = frame[frame["value"] == 2].iloc[0]
    transform = scenes.PLACES[place][1]
    corners = [transform @ corner for corner in [(20, 10), (30, 10), (30, 40), (20, 40)]]
    assert shapely.equals_exact(
        shapely.normalize(inner.geometry), shapely.normalize(shapely.Polygon(corners)), 1e-6
    )
    lonlat = pyproj.Transformer.from_crs(frame.crs, "OGC:CRS84", always_xy=True)
    area, _ = pyproj.Geod(ellps="WGS84").polygon_area_perimeter(
        *lonlat.transform(*np.transpose(corners).tolist())
    )
    assert inner["area_m2"] == pytest.approx(abs(area), rel=1e-6)
    assert inner["area_m2"] == pytest.approx(30 * 10 * 100, rel=0.02)
    # The other class is the rest: the hole is taken off.
    outer = frame[frame["value"] == 1].iloc[0]
    assert outer["area_m2"] == pytest.approx(inner["area_m2"] * (64 * 48 - 300) / 300, rel=1e-3)


def test_names_values_and_a_style_inside_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 5)
    raster = RASTERS["many values"]
    frame, writer = write(tmp_path, raster)
    assert writer.count == len(frame) == len(whole(raster)) > 5
    assert set(frame["name"]) == {"class <300> & more"}
    styles = pyogrio.read_dataframe(tmp_path / "some.gpkg", layer="layer_styles")
    assert styles["f_table_name"].tolist() == ["fields"]
    assert styles["useAsDefault"].tolist() == [True]
    root = ElementTree.fromstring(styles["styleQML"][0].split("\n", 1)[1])
    categories = root.findall(".//category")
    assert [one.get("value") for one in categories] == ["1", "2", "3", "300"]
    assert categories[3].get("label") == "class <300> & more"
    assert len(root.findall(".//symbol")) == 4


def test_without_any_class_the_layer_is_empty(tmp_path):
    frame, writer = write(tmp_path, RASTERS["nothing"])
    assert writer.count == len(frame) == 0
    assert list(frame.columns) == ["value", "name", "area_m2", "geometry"]


def test_a_full_or_missing_folder_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(BadInputError, match=r"some\.gpkg failed"):
        write(tmp_path / "nowhere", RASTERS["noise"])


def test_the_style_names_the_attribute():
    assert 'attr="value"' in categories_style([(1, "a", (0, 0, 0))])
