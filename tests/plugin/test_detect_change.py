"""`gair:detectchange` through Processing and the real worker: distances, grids, layers that are no files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from qgis import processing
from qgis.core import QgsCoordinateReferenceSystem, QgsProcessingException, QgsRasterLayer

from .made_scenes import LOCATION, made_scene, made_values

pytestmark = pytest.mark.usefixtures("provider", "gair_python")


@pytest.fixture
def pair(shared: Path, tmp_path: Path) -> list[str]:
    """Two dates of one place, as copies: QGIS leaves its statistics beside what it opens."""
    files = sorted((shared / "data/bitemporal_pair").glob("*.tif"))
    return [shutil.copy(file, tmp_path) for file in files]


def detect_change(before: object, after: object, **parameters: object) -> dict[str, object]:
    return processing.run(
        "gair:detectchange", {"BEFORE": before, "AFTER": after, "OUTPUT": "TEMPORARY_OUTPUT", **parameters}
    )


def pixels(path: object) -> np.ndarray:
    return gdal.Open(str(path)).ReadAsArray()


def test_two_dates_give_distances_on_the_first_ones_grid(pair):
    result = detect_change(*pair)
    layer, before = QgsRasterLayer(result["OUTPUT"], "change"), QgsRasterLayer(pair[0], "before")
    assert layer.crs() == before.crs()
    assert layer.extent() == before.extent()
    assert (layer.width(), layer.height()) == (before.width(), before.height())
    values = pixels(result["OUTPUT"])
    assert np.nanmin(values) >= 0
    assert np.nanmax(values) <= 2
    assert result["MEAN_DISTANCE"] == pytest.approx(np.nanmean(values, dtype=np.float64), rel=1e-6)
    assert result["VALID_FRACTION"] == pytest.approx(np.mean(np.isfinite(values)))
    # A fixed scale, so that maps can be compared: from the style beside the file.
    assert layer.renderer().type() == "singlebandpseudocolor"
    ramp = layer.renderer().shader().rasterShaderFunction()
    assert (ramp.minimumValue(), ramp.maximumValue()) == (0, 0.5)


def test_clouds_of_either_date_are_left_out(tmp_path):
    made_scene(tmp_path / "scene.tif", width=96, height=96)
    scene, layers = str(tmp_path / "scene.tif"), []
    for number, rows in enumerate((slice(10, 20), slice(50, 60))):
        classes = np.full((1, 96, 96), 4, np.uint16)
        classes[0, rows] = 9
        made_scene(tmp_path / f"{number}.tif", values=classes, names=None)
        layers.append(str(tmp_path / f"{number}.tif"))
    values = pixels(detect_change(scene, scene, SCL=layers[0], AFTER_SCL=layers[1])["OUTPUT"])
    assert [int(row) for row in np.flatnonzero(np.isnan(values).all(axis=1))] == [
        *range(10, 20),
        *range(50, 60),
    ]


def test_a_date_does_not_change_from_itself(pair):
    result = detect_change(pair[0], pair[0])
    assert np.nanmax(pixels(result["OUTPUT"])) < 1e-5
    assert result["MEAN_DISTANCE"] < 1e-5


def test_change_is_found_where_it_was_made(tmp_path):
    values = made_values(240, 200)
    made_scene(tmp_path / "before.tif", values=values)
    changed = values.copy()
    changed[:, 60:120, 80:160] = 9000 - changed[:, 60:120, 80:160]
    made_scene(tmp_path / "after.tif", values=changed)
    distance = pixels(detect_change(str(tmp_path / "before.tif"), str(tmp_path / "after.tif"))["OUTPUT"])
    inside = distance[70:110, 90:150].mean()
    outside = np.concatenate([distance[:30].ravel(), distance[150:].ravel()]).mean()
    assert inside > 10 * outside


def test_only_the_overlap_and_the_extent_are_written(tmp_path):
    values = made_values(240, 200)
    made_scene(tmp_path / "before.tif", values=values)
    made_scene(tmp_path / "after.tif", values=values[:, :150, :180])
    parameters = (str(tmp_path / "before.tif"), str(tmp_path / "after.tif"))
    assert pixels(detect_change(*parameters)["OUTPUT"]).shape == (150, 180)
    left, top = LOCATION
    extent = f"{left + 1000},{left + 2400},{top - 2000},{top - 500} [EPSG:32632]"
    output = detect_change(*parameters, EXTENT=extent)["OUTPUT"]
    assert pixels(output).shape == (100, 80)
    assert gdal.Open(output).GetGeoTransform()[0] == left + 1000
    assert gdal.Open(output).GetGeoTransform()[3] == top - 500


def test_each_date_may_have_bands_and_offset_of_its_own(tmp_path):
    values = made_values(120, 100)
    made_scene(tmp_path / "before.tif", values=values)
    made_scene(tmp_path / "after.tif", values=(values + 1000)[::-1], names=None)
    bands = "B12,B11,B9,B8A,B8,B7,B6,B5,B4,B3,B2,B1"
    result = detect_change(
        str(tmp_path / "before.tif"),
        str(tmp_path / "after.tif"),
        AFTER_BANDS=bands,
        OFFSET=0,
        AFTER_OFFSET=-1000,
    )
    assert result["MEAN_DISTANCE"] < 1e-5


def test_two_layers_that_are_no_files_are_both_copied(tmp_path):
    values = made_values(120, 100)
    names = ("one", "other")
    for name, shift in zip(names, (0, 400), strict=True):
        made_scene(tmp_path / f"{name}.tif", values=values + shift)
        gdal.FileFromMemBuffer(f"/vsimem/{name}.tif", (tmp_path / f"{name}.tif").read_bytes())
    expected = pixels(detect_change(*(str(tmp_path / f"{name}.tif") for name in names))["OUTPUT"])
    # Both with the same name, too.
    layers = [QgsRasterLayer(f"/vsimem/{name}.tif", "scene") for name in names]
    np.testing.assert_array_equal(pixels(detect_change(*layers)["OUTPUT"]), expected)
    for name in names:
        gdal.Unlink(f"/vsimem/{name}.tif")


def test_a_copied_second_date_of_another_crs_gets_the_extent_in_its_own(tmp_path):
    made_scene(tmp_path / "before.tif", width=240, height=200)
    gdal.Warp("/vsimem/after.tif", str(tmp_path / "before.tif"), dstSRS="EPSG:4326", resampleAlg="near")
    layer = QgsRasterLayer("/vsimem/after.tif", "after")
    left, top = LOCATION
    extent = f"{left + 500},{left + 1000},{top - 1000},{top - 500}"
    output = detect_change(str(tmp_path / "before.tif"), layer, EXTENT=f"{extent} [EPSG:32632]")["OUTPUT"]
    assert pixels(output).shape == (50, 50)
    assert QgsRasterLayer(output, "x").crs() == QgsCoordinateReferenceSystem("EPSG:32632")
    gdal.Unlink("/vsimem/after.tif")


def test_scenes_of_different_places_raise(pair, shared, tmp_path):
    detroit = shutil.copy(shared / "data/gair_pairs/queries/detroit_rs.tif", tmp_path)
    with pytest.raises(QgsProcessingException, match="do not overlap") as caught:
        detect_change(pair[0], detroit)
    assert "Give two dates of one place" in str(caught.value)


def test_a_missing_second_date_raises(pair):
    with pytest.raises(QgsProcessingException):
        detect_change(pair[0], "/missing/scene.tif")
