from datetime import date

import numpy as np
import pyproj
import pytest

from gair_core.errors import BadInputError
from gair_core.world import BANDS, LAND_COVER, World
from gair_core.world.camera import CAR, FOLIAGE, GROUND, SKY, WALL, Camera, _first_steps
from gair_core.world.seasons import palette

SIZE = 256
SUMMER = date(2023, 7, 1)
BUILT = LAND_COVER.index("dense built-up")
WATER = LAND_COVER.index("water")


@pytest.fixture(scope="module")
def city():
    return next(
        one for one in (World(1).city(i, SIZE) for i in range(60)) if one.region.name == "Central Europe"
    )


@pytest.fixture(scope="module")
def scene(city):
    return city.scene(SUMMER)


@pytest.fixture(scope="module")
def cover(city):
    return city.land_cover(SUMMER)


def test_world_is_a_function_of_its_seed():
    assert World(1).city(5) == World(1).city(5)
    assert World(1).city(5) != World(2).city(5)
    first, again = (World(3).city(4, 64) for _ in range(2))
    np.testing.assert_array_equal(first.scene(SUMMER), again.scene(SUMMER))
    views = first.photo_positions(2)
    np.testing.assert_array_equal(views.positions, again.photo_positions(2).positions)
    np.testing.assert_array_equal(
        first.photos(*views, SUMMER, (40, 60)), again.photos(*views, SUMMER, (40, 60))
    )


def test_cities_go_round_the_regions_and_have_names_of_their_own():
    world = World(0)
    cities = [world.city(index) for index in range(100)]
    assert len({one.name for one in cities}) == 100
    count = len(world.regions)
    assert {one.region.name for one in cities[:count]} == {region.name for region in world.regions}
    for one in cities:
        zone = pyproj.CRS.from_epsg(one.epsg)
        assert zone.is_projected
        assert zone.area_of_use.west - 0.1 <= one.longitude <= zone.area_of_use.east + 0.1
        assert zone.area_of_use.south <= one.latitude <= zone.area_of_use.north
        assert one.easting % 20 == one.northing % 20 == 0
        assert abs(one.latitude - one.region.latitude) < one.region.spread + 0.1


def test_pixels_do_not_depend_on_window_or_size(city, scene, cover):
    window = (101, 33, 50, 71)
    part = slice(101, 151), slice(33, 104)
    np.testing.assert_array_equal(city.scene(SUMMER, window), scene[(slice(None), *part)])
    np.testing.assert_array_equal(city.land_cover(SUMMER, window), cover[part])
    small = World(1).city(city.index, 64)
    half = (city.size - small.size) // 2
    middle = slice(half, half + 64)
    np.testing.assert_array_equal(small.land_cover(SUMMER), cover[middle, middle])
    difference = np.abs(small.scene(SUMMER).astype(int) - scene[:, middle, middle])
    # The instrument's noise is counted from the corner of the extent.
    assert np.percentile(difference / (scene[:, middle, middle] + 30), 99) < 0.06


def test_scene_is_what_the_land_cover_says(scene, cover):
    assert scene.shape == (len(BANDS), SIZE, SIZE)
    assert scene.dtype == np.uint16
    median = {
        name: np.median(scene[:, cover == number], axis=1)
        for number, name in enumerate(LAND_COVER)
        if (cover == number).sum() > 200
    }
    assert {"water", "forest", "crops", "road", "sparse built-up", "dense built-up"} <= set(median)

    def index(name, first, second):
        one, other = (median[name][BANDS.index(band)] for band in (first, second))
        return (one - other) / (one + other)

    assert index("water", "B3", "B8") > 0.2
    assert index("forest", "B8", "B4") > 0.7
    assert index("dense built-up", "B8", "B4") < 0.5
    assert median["forest"][2] < median["crops"][2] < median["dense built-up"][2]


def test_bands_of_20_m_are_replicated(scene):
    for band in ("B5", "B6", "B7", "B8A", "B11", "B12"):
        values = scene[BANDS.index(band)].astype(int)
        assert (values[::2] == values[1::2]).all()
        assert (values[:, ::2] == values[:, 1::2]).all()
    assert (scene[0, ::2] != scene[0, 1::2]).mean() > 0.9


def test_clouds_cover_about_their_share_and_are_white(city, scene):
    clear = city.clear(SUMMER, clouds=0.5)
    assert 0.2 < 1 - clear.mean() < 0.8
    cloudy = city.scene(SUMMER, clouds=0.5)
    assert np.median(cloudy[0][~clear]) > np.median(scene[0]) * 2
    assert city.clear(SUMMER).all()


def test_haze_brightens_the_blue_most(city):
    window = (0, 0, 64, 64)
    clear, hazy = (city.scene(SUMMER, window, haze=haze).astype(float).mean(axis=(1, 2)) for haze in (0, 1))
    gain = hazy - clear
    assert gain[0] > gain[2] > abs(gain[9]) >= 0


def test_snow_is_in_scene_and_labels():
    nordic = next(one for one in (World(1).city(i, 64) for i in range(60)) if one.region.name == "Volga")
    winter = date(2023, 1, 20)
    assert (nordic.land_cover(winter) == LAND_COVER.index("snow and ice")).any() or (
        nordic.land_cover(SUMMER) >= LAND_COVER.index("road")
    ).all()
    assert np.median(nordic.scene(winter)[0]) > 3 * np.median(nordic.scene(SUMMER)[0])


def test_places_change_between_years(city, cover):
    later = city.land_cover(date(2027, 7, 1))
    changed = later != cover
    assert 0.002 < changed.mean() < 0.2
    assert ((later == BUILT) & changed).any()


def test_positions_lie_on_roads_and_agree_with_pyproj(city, cover):
    views = city.photo_positions(200)
    assert views.positions.shape == (200, 2)
    assert ((views.headings >= 0) & (views.headings < 360)).all()
    metres = np.stack(
        pyproj.Transformer.from_crs(4326, city.epsg, always_xy=True).transform(*views.positions.T), axis=1
    )
    a, _, west, _, e, north = city.geotransform
    pixels = np.stack([(metres[:, 1] - north) / e, (metres[:, 0] - west) / a], axis=1)
    np.testing.assert_allclose(city.to_pixel(views.positions), pixels, atol=1e-4)
    row, column = pixels.astype(int).T
    assert (cover[row, column] == LAND_COVER.index("road")).mean() > 0.6
    assert (cover[row, column] != WATER).mean() > 0.95


def test_main_roads_are_where_the_surface_has_them(city):
    lines = city.main_roads()
    assert len(lines) > 10
    points = np.concatenate(lines) - [city.easting, city.northing]
    assert np.abs(points).max() <= SIZE * 5
    place = city.surface(2023).place(*(points[:, axis].astype(np.float32) for axis in (0, 1)))
    gap = np.abs(place.main_gap + np.where(place.main, place.road_width, 0))
    assert place.main.all()
    assert np.percentile(gap, 99) < 0.5
    # The other way round: what the surface calls the middle of a main road lies on a line.
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(-SIZE * 4, SIZE * 4, 60_000).astype(np.float32) for _ in range(2))
    place = city.surface(2023).place(x, y)
    middle = place.main & (place.road_centre < 0.5) & (place.fields[:, 3] > 60)
    assert middle.sum() > 50
    away = [np.hypot(*(points - [px, py]).T).min() for px, py in zip(x[middle], y[middle], strict=True)]
    assert max(away) < 12


def test_photos_do_not_depend_on_company(city):
    views = city.photo_positions(6)
    together = city.photos(*views, SUMMER, (48, 64), workers=2)
    assert together.shape == (6, 48, 64, 3)
    alone = city.photos(views.positions[4:5], views.headings[4:5], SUMMER, (48, 64))
    np.testing.assert_array_equal(alone[0], together[4])


def test_photo_shows_what_stands_before_the_camera(city):
    """A ray that is followed step by step on the surface ends at the distance that the photo shows."""
    surface = city.surface(2023)
    today = palette(city.region, city.latitude, city.seed, SUMMER)
    camera = Camera(surface, today.height, today.gaps, 0.5, (96, 128))
    views = city.photo_positions(12)
    checked = 0
    for (x, y), heading in zip(city.to_local(views.positions), np.radians(views.headings), strict=True):
        view = camera.view(float(x), float(y), float(heading))
        walls = np.flatnonzero((view.kind == WALL) & (view.distance < 120) & (view.height > 0.5))
        for pixel in walls[:: max(1, len(walls) // 5)]:
            direction = np.array([np.sin(view.azimuth[pixel]), np.cos(view.azimuth[pixel])])
            distance = float(view.distance[pixel])
            just = np.array([distance - 0.25, distance + 0.05])
            points = (np.array([x, y]) + just[:, None] * direction).astype(np.float32)
            top = surface.buildings(surface.place(points[:, 0], points[:, 1])).top
            assert top[1] >= view.height[pixel] - 0.1
            assert top[0] < top[1] + 0.01
            checked += 1
    assert checked > 10


def test_sky_is_above_and_ground_below(city):
    surface = city.surface(2023)
    today = palette(city.region, city.latitude, city.seed, SUMMER)
    camera = Camera(surface, today.height, today.gaps, 0.5, (96, 128))
    views = city.photo_positions(20)
    kinds = np.stack(
        [
            camera.view(float(x), float(y), float(h)).kind.reshape(96, 128)
            for (x, y), h in zip(city.to_local(views.positions), np.radians(views.headings), strict=True)
        ]
    )
    assert (kinds[:, -1] != SKY).all()
    assert (kinds[:, 70:] == GROUND).mean() > 0.5
    assert (kinds[:, :20] == SKY).mean() > 0.3
    assert {WALL, FOLIAGE, CAR} <= set(np.unique(kinds))


def test_first_step_is_the_first_that_reaches_a_row():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 11, (7, 30))
    found = _first_steps(rows, 10)
    for column in range(7):
        for row in range(10):
            reaching = np.flatnonzero(rows[column] <= row)
            assert found[column, row] == (reaching[0] if len(reaching) else 30)


def test_photo_tells_of_its_surroundings(city):
    """The more is built within 60 m ahead, the more of the photo is wall."""
    surface = city.surface(2023)
    today = palette(city.region, city.latitude, city.seed, SUMMER)
    camera = Camera(surface, today.height, today.gaps, 0.5, (48, 64))
    views = city.photo_positions(150, seed=5)
    built, seen = [], []
    for (x, y), heading in zip(city.to_local(views.positions), np.radians(views.headings), strict=True):
        fan = np.linspace(-0.7, 0.7, 15)[:, None] + heading
        reach = np.linspace(4, 60, 29)[None]
        points = (x + np.sin(fan) * reach).ravel(), (y + np.cos(fan) * reach).ravel()
        place = surface.place(*(axis.astype(np.float32) for axis in points))
        built.append((surface.buildings(place).top > 3).mean())
        view = camera.view(float(x), float(y), float(heading))
        seen.append((view.kind == WALL).mean())
    assert np.corrcoef(built, seen)[0, 1] > 0.6


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda c: c.scene(SUMMER, (250, 0, 20, 20)), "leaves the 256 x 256 pixels"),
        (lambda c: c.photos([(c.latitude, c.longitude)], [0.0], SUMMER), "outside"),
        (lambda c: c.photos([(0.0, 0.0)], [0.0], SUMMER), "outside"),
        (lambda c: c.photos([(c.longitude, np.nan)], [0.0], SUMMER), "outside"),
        (lambda c: c.photos([0.0, 1.0], [0.0], SUMMER), "wanted"),
        (lambda c: World(0).city(-1), "index"),
        (lambda c: World(0).city(0, 33), "even"),
    ],
)
def test_bad_input_is_named(city, call, wanted):
    with pytest.raises(BadInputError, match=wanted):
        call(city)
