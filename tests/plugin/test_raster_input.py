"""Any raster layer becomes something that gair_core opens: files by path, everything else as a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gair.algorithms.base import crs_text
from gair.raster_input import (
    Extent,
    InputError,
    PixelGrid,
    PixelWindow,
    RasterInput,
    is_product,
    parse_bands,
    pixel_grid,
    product_of,
    sentinel_pixel,
)
from osgeo import gdal
from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCoordinateTransformContext,
    QgsProcessingFeedback,
    QgsRasterLayer,
    QgsRectangle,
)

from .made_scenes import NAMES, made_scene, virtual_layer

UTM = QgsCoordinateReferenceSystem("EPSG:32632")


@pytest.fixture
def scene(shared: Path, tmp_path: Path) -> Path:
    """A writable copy: QGIS leaves its statistics beside what it opens."""
    return Path(shutil.copy(shared / "data/gair_pairs/queries/detroit_rs.tif", tmp_path))


def read(layer: QgsRasterLayer | None, value: str = "") -> RasterInput:
    return RasterInput.read(layer, value, QgsCoordinateTransformContext())


def source_of(layer: QgsRasterLayer, folder: Path, extent: Extent | None = None) -> str:
    return read(layer).source(extent, lambda: folder, QgsProcessingFeedback())


# --- bands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bands"),
    [
        ("", None),
        (" , ", None),
        ("B2=1,B3=2", {"B2": 1, "B3": 2}),
        (" B2 = 1 ; B3=2,", {"B2": 1, "B3": 2}),
        ("B2=1 B8A=B8", {"B2": 1, "B8A": "B8"}),
        ("B02,B03,B04", {"B02": 1, "B03": 2, "B04": 3}),
        ("-,B2,-,B3", {"B2": 2, "B3": 4}),
        ("blue green red", {"blue": 1, "green": 2, "red": 3}),
    ],
)
def test_bands_are_read_in_both_spellings(text, bands):
    assert parse_bands(text) == bands


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("B2=1,B3", "some have a number and some have none"),
        ("B2=0", "bands are counted from 1, found 0"),
        ("B2=-3", "bands are counted from 1, found -3"),
        ("B2=", "a name or a number is missing"),
        ("=4", "a name or a number is missing"),
        ("B2=1,B3=2,B2=3", "B2 is there more than once"),
        ("B2,B3,B2", "B2 is there more than once"),
    ],
)
def test_unreadable_bands_say_what_is_wrong_and_how_to_write_them(text, problem):
    with pytest.raises(InputError, match=problem) as caught:
        parse_bands(text)
    assert repr(text) in str(caught.value)
    assert "B2=1,B3=2,B4=3" in str(caught.value)


# --- windows ----------------------------------------------------------------------------------------------

GRID = PixelGrid(left=1000, top=2000, pixel_width=10, pixel_height=20, width=50, height=40)


@pytest.mark.parametrize(
    ("rectangle", "margin", "window"),
    [
        (None, 5, PixelWindow(0, 0, 50, 40)),
        (QgsRectangle(1100, 1800, 1200, 1900), 0, PixelWindow(10, 5, 10, 5)),
        (QgsRectangle(1101, 1801, 1199, 1899), 0, PixelWindow(10, 5, 10, 5)),
        (QgsRectangle(1100 + 1e-7, 1800, 1200 + 1e-7, 1900), 0, PixelWindow(10, 5, 10, 5)),
        (QgsRectangle(1100, 1800, 1200, 1900), 3, PixelWindow(7, 2, 16, 11)),
        (QgsRectangle(0, 0, 9999, 9999), 3, PixelWindow(0, 0, 50, 40)),
        (QgsRectangle(0, 0, 1000, 9999), 3, None),
        (QgsRectangle(1500, 1300, 1600, 1400), 3, None),
    ],
)
def test_windows_grow_to_whole_pixels_and_stay_inside(rectangle, margin, window):
    assert GRID.window(rectangle, margin) == window


def test_a_windows_outline_lies_on_pixel_edges():
    assert GRID.rectangle(PixelWindow(10, 5, 10, 5)) == QgsRectangle(1100, 1800, 1200, 1900)


# --- layers that are files --------------------------------------------------------------------------------


def test_files_pass_by_absolute_path(scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_of(QgsRasterLayer(scene.name, "scene"), tmp_path / "none") == str(scene)
    assert not (tmp_path / "none").exists()


def test_paths_inside_archives_and_options_of_qgis_pass(scene, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path, scene.name)
    inside = f"/vsizip/{archive}/{scene.name}"
    assert source_of(QgsRasterLayer(inside, "inside"), tmp_path) == inside
    layer = QgsRasterLayer(f"{scene}|option:NUM_THREADS=2", "options")
    if layer.isValid():
        assert source_of(layer, tmp_path) == str(scene)


def test_subdatasets_pass(tmp_path):
    path = tmp_path / "pages.tif"
    values = np.ones((4, 5), np.uint8)
    for append in ("NO", "YES"):
        memory = gdal.GetDriverByName("MEM").Create("", 5, 4, 1)
        memory.SetGeoTransform((0, 1, 0, 4, 0, -1))
        memory.SetProjection(UTM.toWkt())
        memory.GetRasterBand(1).WriteArray(values)
        gdal.GetDriverByName("GTiff").CreateCopy(str(path), memory, options=[f"APPEND_SUBDATASET={append}"])
    source = f"GTIFF_DIR:2:{path}"
    assert source_of(QgsRasterLayer(source, "second"), tmp_path) == source


def test_one_band_of_a_product_stands_for_the_product(shared, tmp_path):
    folder = next((shared / "data/laos_bands").iterdir())
    assert product_of(folder / "B02.tif") == folder
    assert product_of(folder / "cloud_mask.tif") == folder / "cloud_mask.tif"
    safe = tmp_path / "S2A.SAFE/GRANULE/L2A/IMG_DATA/R10m/T48QUE_B02_10m.jp2"
    assert product_of(safe) == tmp_path / "S2A.SAFE"
    copied = tmp_path / "bands"
    copied.mkdir()
    for name in ("B02.tif", "B03.tif"):
        shutil.copy(folder / name, copied)
    assert source_of(QgsRasterLayer(str(copied / "B03.tif"), "B3"), tmp_path) == str(copied)


def test_products_that_are_no_layers_are_known_by_their_paths(tmp_path):
    for name in ("S2A.SAFE.zip", "item.json", "MTD_MSIL2A.xml", "scene.tif"):
        (tmp_path / name).touch()
    assert [
        is_product(str(tmp_path / name)) for name in ("", "S2A.SAFE.zip", "item.json", "MTD_MSIL2A.xml")
    ] == [True] * 4
    assert not is_product(str(tmp_path / "scene.tif"))
    assert not is_product(str(tmp_path / "missing.zip"))
    assert not is_product("")
    assert not is_product(None)
    product = read(None, str(tmp_path / "S2A.SAFE.zip"))
    assert product.path == str(tmp_path / "S2A.SAFE.zip")


# --- layers that are none ---------------------------------------------------------------------------------


def test_a_layer_in_the_memory_of_qgis_is_copied_with_its_band_names(tmp_path, monkeypatch):
    # The names are beside the copy, where the worker's GDAL looks, too.
    monkeypatch.setenv("GDAL_PAM_ENABLED", "YES")
    values = made_scene(tmp_path / "scene.tif")
    gdal.FileFromMemBuffer("/vsimem/scene.tif", (tmp_path / "scene.tif").read_bytes())
    layer = QgsRasterLayer("/vsimem/scene.tif", "in memory")
    copied = gdal.Open(source_of(layer, tmp_path))
    gdal.Unlink("/vsimem/scene.tif")
    assert copied.GetDescription() == str(tmp_path / "in_memory.tif")
    np.testing.assert_array_equal(copied.ReadAsArray(), values)
    assert copied.GetGeoTransform() == (500000, 10, 0, 5100000, 0, -10)
    assert [copied.GetRasterBand(i).GetDescription() for i in range(1, 13)] == list(NAMES)
    assert copied.GetRasterBand(1).GetNoDataValue() == 0
    assert QgsCoordinateReferenceSystem(copied.GetProjection()) == UTM


def test_a_virtual_layer_is_copied_for_the_extent_and_a_margin_on_its_own_pixels(tmp_path):
    values = made_scene(tmp_path / "scene.tif", width=300, height=400)
    layer = virtual_layer(tmp_path / "scene.tif")
    assert layer.isValid(), layer.error().summary()
    # Rows 200 to 209 and columns 150 to 159, given in degrees.
    rectangle = QgsRectangle(501501, 5097901, 501599, 5097999)
    degrees = QgsCoordinateReferenceSystem("EPSG:4326")
    transform = QgsCoordinateTransform(UTM, degrees, QgsCoordinateTransformContext())
    extent = Extent(transform.transformBoundingBox(rectangle), degrees)
    copied = gdal.Open(source_of(layer, tmp_path, extent))
    left, _, _, top, _, _ = copied.GetGeoTransform()
    column, row = round((left - 500000) / 10), round((5100000 - top) / 10)
    assert (column, row) == (150 - 128, 200 - 128)
    assert copied.RasterXSize == 10 + 2 * 128
    assert copied.RasterYSize == 10 + 2 * 128
    part = values[1, row : row + copied.RasterYSize, column : column + copied.RasterXSize]
    np.testing.assert_array_equal(copied.ReadAsArray(), 2.0 * part)


def test_an_extent_elsewhere_is_refused(tmp_path):
    made_scene(tmp_path / "scene.tif")
    extent = Extent(QgsRectangle(0, 0, 10, 10), UTM)
    with pytest.raises(InputError, match="The extent does not meet the layer twice"):
        source_of(virtual_layer(tmp_path / "scene.tif"), tmp_path, extent)


def test_a_layer_of_the_world_is_refused_without_an_extent(tmp_path, monkeypatch):
    made_scene(tmp_path / "scene.tif")
    layer = virtual_layer(tmp_path / "scene.tif")
    monkeypatch.setattr("gair.raster_input._MAX_PIXELS", 120 * 100 - 1)
    with pytest.raises(InputError, match=r"has 120 x 100 pixels here, too many to copy. Choose a smaller"):
        source_of(layer, tmp_path)
    assert not list(tmp_path.glob("twice*"))


@pytest.mark.parametrize(
    ("crs", "extent", "pixel"),
    [
        ("EPSG:3857", QgsRectangle(0, 0, 1000, 2000), 10.0),
        ("EPSG:2263", QgsRectangle(0, 0, 1000, 2000), 32.808),
        ("EPSG:4326", QgsRectangle(0, 0, 1, 2), 10 / 111_320),
    ],
)
def test_web_maps_are_copied_at_ten_metres(crs, extent, pixel):
    grid = pixel_grid(extent, 0, 0, sentinel_pixel(QgsCoordinateReferenceSystem(crs)))
    assert grid.pixel_width == pytest.approx(pixel, rel=1e-4)
    assert grid.pixel_height == grid.pixel_width
    assert grid.width == -(-extent.width() // grid.pixel_width)
    assert grid.height == -(-extent.height() // grid.pixel_height)


def test_cancelling_stops_the_copy(tmp_path):
    made_scene(tmp_path / "scene.tif")
    feedback = QgsProcessingFeedback()
    feedback.cancel()
    with pytest.raises(InputError, match="Cancelled"):
        read(virtual_layer(tmp_path / "scene.tif")).source(None, lambda: tmp_path, feedback)


# --- CRS --------------------------------------------------------------------------------------------------


def test_a_layer_without_crs_is_refused_with_advice(tmp_path):
    made_scene(tmp_path / "scene.tif", crs="")
    with pytest.raises(InputError, match=r"The layer nowhere has no CRS.*Set its CRS"):
        read(QgsRasterLayer(str(tmp_path / "scene.tif"), "nowhere"))


def test_a_crs_that_was_set_in_qgis_holds(tmp_path):
    values = made_scene(tmp_path / "scene.tif", crs="")
    layer = QgsRasterLayer(str(tmp_path / "scene.tif"), "somewhere")
    layer.setCrs(UTM)
    described = gdal.Open(source_of(layer, tmp_path))
    assert described.GetDescription().endswith("somewhere.vrt")
    assert QgsCoordinateReferenceSystem(described.GetProjection()) == UTM
    np.testing.assert_array_equal(described.ReadAsArray(), values)
    assert described.GetRasterBand(9).GetDescription() == "B8A"


def test_what_is_neither_layer_nor_product_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither a raster layer nor a product"):
        read(None, str(tmp_path / "missing.tif"))


def test_a_crs_without_a_code_travels_as_wkt(tmp_path):
    own = QgsCoordinateReferenceSystem.fromProj("+proj=laea +lat_0=46 +lon_0=9 +datum=WGS84 +units=m")
    values = made_scene(tmp_path / "scene.tif", crs="")
    layer = QgsRasterLayer(str(tmp_path / "scene.tif"), "own")
    layer.setCrs(own)
    described = gdal.Open(source_of(layer, tmp_path))
    np.testing.assert_array_equal(described.ReadAsArray(), values)
    assert "Lambert_Azimuthal_Equal_Area" in described.GetProjection()
    assert crs_text(own).startswith("PROJCRS")
    assert crs_text(UTM) == "EPSG:32632"
