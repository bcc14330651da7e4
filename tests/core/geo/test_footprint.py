import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from gair_core.errors import BadInputError
from gair_core.geo.footprint import Footprint, check_lonlat

PHOTOS = {  # longitude, latitude, column, row, as the data's description gives them
    "detroit": (-83.258332, 42.482289, 201, 67),
    "sacramento": (-121.474012, 38.570138, 143, 138),
    "tokyo": (139.75009, 35.657349, 44, 198),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_fall_on_their_known_pixels(shared, name):
    lon, lat, col, row = PHOTOS[name]
    with rasterio.open(shared / f"data/gair_pairs/queries/{name}_rs.tif") as dataset:
        place = Footprint.from_dataset(dataset)
    uv = place.uv([[lon, lat]])
    assert (int(uv[0, 0] * place.width), int(uv[0, 1] * place.height)) == (col, row)
    golden = np.load(shared / "parity/golden_a.npz")[f"{name}_uv"]
    np.testing.assert_allclose(uv[0], golden, atol=1e-8)
    assert place.contains(uv).all()


def test_uv_agrees_with_pyproj_to_a_millimetre_on_a_rotated_grid():
    transform = Affine.translation(600000, 5800000) * Affine.rotation(30) * Affine.scale(10, -10)
    place = Footprint("EPSG:32632", transform, 200, 100)
    lonlat = np.array([[10.47, 52.34], [10.48, 52.35]])
    uv = place.uv(lonlat)
    x, y = pyproj.Transformer.from_crs(4326, 32632, always_xy=True).transform(*lonlat.T)
    for point, (u, v) in enumerate(uv):
        back = transform * (u * 200, v * 100)
        assert back == pytest.approx((x[point], y[point]), abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    u=st.floats(0, 1),
    v=st.floats(0, 1),
    angle=st.floats(0, 360),
    crs_origin=st.sampled_from(
        [("EPSG:32633", 5e5, 5e6, 10), ("EPSG:4326", 13.0, 47.0, 1e-4), ("EPSG:3857", 1.5e6, 6e6, 15)]
    ),
)
def test_lonlat_inverts_uv(u, v, angle, crs_origin):
    crs, x, y, pixel = crs_origin
    place = Footprint(
        crs, Affine.translation(x, y) * Affine.rotation(angle) * Affine.scale(pixel, -pixel), 300, 200
    )
    np.testing.assert_allclose(place.uv(place.lonlat([[u, v]])), [[u, v]], atol=1e-6)


def test_v_points_down():
    place = Footprint.from_bounds(10, 40, 11, 42, crs="EPSG:4326", width=10, height=20)
    np.testing.assert_allclose(place.uv([[10.25, 41.5]]), [[0.25, 0.25]], atol=1e-12)


def test_date_line():
    place = Footprint.from_bounds(179, -17, 181, -16, crs="EPSG:4326", width=20, height=10)
    np.testing.assert_allclose(place.uv([[179.5, -16.5], [-179.5, -16.5]]), [[0.25, 0.5], [0.75, 0.5]])
    np.testing.assert_allclose(place.lonlat([[0.75, 0.5]]), [[-179.5, -16.5]])


def test_edges_belong_to_the_pixel_that_starts_there():
    place = Footprint.from_bounds(10, 40, 11, 42, crs="EPSG:4326", width=10, height=20)
    np.testing.assert_array_equal(
        place.contains([[0, 0], [1, 0.5], [0.5, 1], [-1e-9, 0.5]]), [True, *[False] * 3]
    )
    assert not place.contains([[np.inf, np.inf]])[0]


@pytest.mark.parametrize(
    ("crs", "bounds", "expected"),
    [
        ("EPSG:32633", (499000, 5.3e6, 501000, 5.302e6), (10, 10)),
        # One arc second: 30.92 m along the meridian, and cos(60 degrees) of 30.92 m across (on the sphere).
        ("EPSG:4326", (10, 60, 10 + 200 / 3600, 60 + 200 / 3600), (15.5, 30.95)),
        # Web mercator at 60 degrees is twice as large as the ground.
        ("EPSG:3857", (1113000, 8399000, 1115000, 8401000), (5.01, 5.0)),
    ],
)
def test_pixel_size_is_measured_on_the_ground(crs, bounds, expected):
    place = Footprint.from_bounds(*bounds, crs=crs, width=200, height=200)
    assert place.pixel_size_metres() == pytest.approx(expected, rel=0.006)


def test_swapped_coordinates_are_named():
    with pytest.raises(BadInputError, match="Swap them"):
        check_lonlat([[35.6, 139.7], [35.7, 139.8]])
    with pytest.raises(BadInputError, match="longitude first"):
        check_lonlat([[500000.0, 4649776.0]])
    with pytest.raises(BadInputError, match="Place 2 of 2"):
        check_lonlat([[10.0, 45.0], [10.0, np.nan]])
    place = Footprint.from_bounds(10, 40, 11, 42, crs="EPSG:4326", width=10, height=20)
    place.check_not_swapped([[10.5, 41.0], [41.0, 10.5]])
    with pytest.raises(BadInputError, match="swapped all of them"):
        place.check_not_swapped([[41.0, 10.5], [41.5, 10.6]])


def test_bad_geometry_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="not a coordinate reference system"):
        Footprint("nonsense", Affine.identity(), 1, 1)
    with pytest.raises(BadInputError, match="without area"):
        Footprint("EPSG:4326", Affine.scale(0, 1), 1, 1)
    with pytest.raises(BadInputError, match="0 x 4"):
        Footprint("EPSG:4326", Affine.identity(), 0, 4)
    with pytest.raises(BadInputError, match="turned around"):
        Footprint.from_bounds(11, 40, 10, 42, crs="EPSG:4326", width=1, height=1)
    with pytest.raises(BadInputError, match="N pairs"):
        Footprint.from_bounds(10, 40, 11, 42, crs="EPSG:4326", width=1, height=1).uv([10, 40])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_local_coordinates_are_refused():
    local = 'LOCAL_CS["a building",UNIT["metre",1]]'
    with pytest.raises(BadInputError, match="no known relation"):
        Footprint(local, Affine(1, 0, 0, 0, -1, 0), 5, 5).pixel_size_metres()


def test_dataset_without_place_is_refused(tmp_path):
    for crs, message in ((None, "no coordinate reference system"), ("EPSG:4326", "no transform")):
        path = tmp_path / "plain.tif"
        with rasterio.open(path, "w", driver="GTiff", width=2, height=2, count=1, dtype="uint16", crs=crs):
            pass
        with rasterio.open(path) as dataset, pytest.raises(BadInputError, match=message):
            Footprint.from_dataset(dataset)
