import pyproj
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from gair_core.errors import BadInputError
from gair_core.geo.grid import Grid, Window

UTM = Grid("EPSG:32633", Affine(10, 0, 500000, 0, -10, 5000000), 300, 200)


def test_window_is_aligned_outwards_and_clipped():
    assert UTM.window((500010, 4999900, 500050, 4999990)) == Window(1, 1, 9, 4)
    assert UTM.window((500011, 4999901, 500049, 4999989)) == Window(1, 1, 9, 4)
    assert UTM.window((0, 0, 1e7, 1e7)) == UTM.full_window == Window(0, 0, 200, 300)
    assert UTM.window((502995, 4998005, 502996, 4998006)) == Window(199, 299, 1, 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 250), st.integers(0, 150), st.integers(1, 50), st.integers(1, 50))
def test_window_of_a_crop_is_the_crop(col, row, width, height):
    window = Window(row, col, height, width)
    cropped = UTM.crop(window)
    assert UTM.window(cropped.bounds) == window
    assert (cropped.width, cropped.height) == (width, height)


def test_window_in_another_crs_covers_every_point_of_the_extent():
    to_lonlat = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
    left, bottom = to_lonlat.transform(500505, 4998805)
    right, top = to_lonlat.transform(501495, 4999495)
    window = UTM.window((left, bottom, right, top), "EPSG:4326")
    assert window.row <= 50 and window.row_stop > 119
    assert window.col <= 50 and window.col_stop > 149
    assert window.height <= 72
    assert window.width <= 102


def test_the_whole_world_is_the_whole_grid():
    assert UTM.window((-180, -90, 180, 90), "EPSG:4326") == UTM.full_window


def test_rotated_grid():
    transform = Affine.translation(500000, 5000000) * Affine.rotation(45) * Affine.scale(10, -10)
    grid = Grid("EPSG:32633", transform, 100, 100)
    assert grid.window(grid.bounds) == grid.full_window
    x, y = transform * (50.5, 20.5)
    assert grid.window((x - 0.1, y - 0.1, x + 0.1, y + 0.1)) == Window(20, 50, 1, 1)


@pytest.mark.parametrize(
    ("extent", "crs", "message"),
    [
        ((600000, 4999000, 600100, 4999100), None, "does not meet the scene"),
        ((100, 10, 101, 11), "EPSG:4326", "does not meet the scene"),
        ((500100, 4999000, 500000, 4999100), None, "is empty"),
        ((500100, 4999000, float("nan"), 4999100), None, "is empty"),
    ],
)
def test_bad_extents_are_refused(extent, crs, message):
    with pytest.raises(BadInputError, match=message):
        UTM.window(extent, crs)


def test_resampling_keeps_the_extent():
    coarse = UTM.resampled(20)
    assert (coarse.width, coarse.height) == (150, 100)
    assert coarse.bounds == pytest.approx(UTM.bounds, abs=1e-6)
    assert UTM.resampled(10) is UTM
    assert UTM.resampled(9.9) is UTM
    odd = UTM.resampled(7)
    assert (odd.width, odd.height) == (round(3000 / 7), round(2000 / 7))
    assert (UTM.resampled(1e6).width, UTM.resampled(1e6).height) == (1, 1)


def test_resampling_of_degrees_makes_pixels_square_on_the_ground():
    grid = Grid("EPSG:4326", Affine(8.983e-5, 0, 13, 0, -8.983e-5, 60), 400, 400)
    square = grid.resampled(10)
    assert square.height == 400  # within 2 % of 10 m along the meridian
    assert square.width == pytest.approx(200, abs=3)  # half of it across
    assert square.footprint.pixel_size_metres() == pytest.approx((10, 10), rel=0.02)


@pytest.mark.parametrize("gsd", [0, -10, float("nan"), float("inf")])
def test_impossible_resolution_is_refused(gsd):
    with pytest.raises(BadInputError, match="impossible"):
        UTM.resampled(gsd)
