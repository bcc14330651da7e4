"""A scene on another grid: right to a fraction of a pixel, unchanged where grids coincide, for any window."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.warp import Resampling, reproject

from gair_core.geo.grid import Grid, Window
from gair_core.inference.alignment import AlignedScene
from gair_core.sentinel2.scene import Scene
from tests.core.inference import scenes


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = 1500 + 600 * np.sin(x / 9) + 500 * np.cos(y / 7)
    return np.clip(waves[None] + 20 * np.arange(10)[:, None, None], 1, 9000).astype(np.uint16)


@pytest.mark.parametrize("shift", [(0, 0), (7, -5)])
def test_grids_that_coincide_give_the_same_values(shift, tmp_path):
    dn = scenes.textured(60, 50)
    with Scene.open(scenes.write(tmp_path / "a.tif", dn)) as scene:
        own = scene.grid
        target = Grid(own.crs, own.transform * Affine.translation(*shift), own.width, own.height)
        values, valid = AlignedScene(scene, target).read(target.full_window)
        columns, rows = shift
        expected = np.zeros_like(values)
        expected[:, max(0, -rows) : 60 - max(0, rows), : 50 - columns] = dn[:, max(0, rows) :, columns:][
            :, : 60 - abs(rows)
        ]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(valid, expected[0] > 0)


@pytest.mark.parametrize("place", ["degrees", "mercator", "rotated"])
def test_other_crs_agree_with_gdal(place, tmp_path):
    dn = smooth(120, 110)
    path = scenes.write(tmp_path / "a.tif", dn, "utm")
    crs, _ = scenes.PLACES[place]
    with Scene.open(path) as scene, rasterio.open(path) as dataset:
        if place == "rotated":
            transform = scenes.PLACES["utm"][1] * Affine.translation(20, 30) * Affine.rotation(20)
        else:
            left, bottom, right, top = rasterio.warp.transform_bounds(dataset.crs, crs, *dataset.bounds)
            transform = Affine((right - left) / 90, 0, left, 0, (bottom - top) / 80, top)
        target = Grid(crs, transform, 90, 80)
        values, valid = AlignedScene(scene, target).read(target.full_window)
        expected = np.zeros((10, 80, 90), np.float32)
        reproject(
            dn.astype(np.float32),
            expected,
            src_transform=dataset.transform,
            src_crs=dataset.crs,
            dst_transform=transform,
            dst_crs=crs,
            resampling=Resampling.bilinear,
            tolerance=0,
            XSCALE=1,
            YSCALE=1,
        )
    both = valid & (expected[0] > 0)
    assert both.sum() > 0.7 * valid.sum() > 1000
    inner = both & np.roll(both, 2, 0) & np.roll(both, -2, 0) & np.roll(both, 2, 1) & np.roll(both, -2, 1)
    assert np.abs(values - expected)[:, inner].max() < 5
    assert (values[:, ~valid] == 0).all()


def test_a_window_equals_the_same_pixels_of_the_whole(tmp_path):
    dn = scenes.textured(120, 110)
    dn[:, 40:60, 30:50] = 0
    crs = scenes.PLACES["degrees"][0]
    with Scene.open(scenes.write(tmp_path / "a.tif", dn, "degrees", nodata=0)) as scene:
        grid = Grid(
            "EPSG:32632",
            rasterio.warp.calculate_default_transform(crs, "EPSG:32632", 110, 120, *scene.grid.bounds)[0],
            140,
            150,
        )
        aligned = AlignedScene(scene, grid)
        whole, valid = aligned.read(grid.full_window)
        assert 0.3 < valid.mean() < 1
        for window in [Window(0, 0, 1, 1), Window(13, 71, 90, 30), Window(149, 139, 1, 1)]:
            part, part_valid = aligned.read(window)
            rows, columns = slice(window.row, window.row_stop), slice(window.col, window.col_stop)
            np.testing.assert_array_equal(part, whole[:, rows, columns])
            np.testing.assert_array_equal(part_valid, valid[rows, columns])


def test_beyond_the_scene_nothing_is_valid(tmp_path):
    with Scene.open(scenes.write(tmp_path / "a.tif", scenes.textured(40, 40))) as scene:
        far = Grid("EPSG:32632", Affine(10, 0, 700000, 0, -10, 5000000), 20, 30)
        values, valid = AlignedScene(scene, far).read(far.full_window)
        other_side = Grid("EPSG:3031", Affine(10, 0, 0, 0, -10, 0), 20, 30)
        assert not AlignedScene(scene, other_side).read(other_side.full_window)[1].any()
    assert values.shape == (10, 30, 20)
    assert not valid.any()
