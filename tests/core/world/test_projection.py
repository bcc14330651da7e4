import numpy as np
import pyproj
import pytest

from gair_core.world.projection import from_utm, to_utm, utm_epsg


def places(count=400):
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(-180, 180, count), rng.uniform(-80, 84, count)], axis=1)


@pytest.mark.parametrize("epsg", [32601, 32631, 32660, 32733, 32755])
def test_utm_agrees_with_pyproj_to_a_millimetre(epsg):
    rng = np.random.default_rng(epsg)
    south = epsg > 32700
    longitude = (epsg % 100) * 6 - 183 + rng.uniform(-4, 4, 200)
    latitude = rng.uniform(-80, 0, 200) if south else rng.uniform(0, 84, 200)
    lonlat = np.stack([(longitude + 180) % 360 - 180, latitude], axis=1)
    forward = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
    wanted = np.stack(forward.transform(*lonlat.T), axis=1)
    np.testing.assert_allclose(to_utm(lonlat, epsg), wanted, atol=1e-3, rtol=0)
    back = from_utm(wanted, epsg)
    np.testing.assert_allclose(to_utm(back, epsg), wanted, atol=1e-3, rtol=0)
    np.testing.assert_allclose((back - lonlat + 180) % 360, 180, atol=1e-8)


def test_zone_is_that_of_the_place():
    assert utm_epsg(103.75, 17.9) == 32648
    assert utm_epsg(-68.2, -54.2) == 32719
    assert utm_epsg(-180, 1) == 32601
    assert utm_epsg(179.999, -1) == 32760
    for longitude, latitude in places(50):
        metres = to_utm((longitude, latitude), utm_epsg(longitude, latitude))
        assert 100_000 < metres[0] < 900_000
        assert 0 <= metres[1] <= 10_000_000
