from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gair_core.errors import BadInputError
from gair_core.photos.panoramas import perspective_view, views
from gair_core.photos.reading import open_photo


def colour(east: np.ndarray, north: np.ndarray, up: np.ndarray) -> np.ndarray:
    """A colour that depends on the direction alone, smoothly, and differs wherever the direction does."""
    return 127.5 + 120 * np.stack([east, north, up], axis=-1)


def panorama(width: int, heading: float) -> Image.Image:
    """The panorama whose centre column looks along `heading`, from each pixel's own direction."""
    azimuth = np.radians(heading + ((np.arange(width) + 0.5) / width - 0.5) * 360)[None, :]
    elevation = np.radians(90 - (np.arange(width // 2) + 0.5) / (width // 2) * 180)[:, None]
    east, north = np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation)
    up = np.broadcast_to(np.sin(elevation), east.shape)
    return Image.fromarray(np.round(colour(east, north, up)).astype(np.uint8))


def camera_rays(size, hfov: float, heading: float, pitch: float):
    """Rays of a pinhole camera from its three axes in the world (east, north, up)."""
    h, p = np.radians(heading), np.radians(pitch)
    forward = np.array([np.sin(h) * np.cos(p), np.cos(h) * np.cos(p), np.sin(p)])
    right = np.array([np.cos(h), -np.sin(h), 0.0])
    upward = np.cross(right, forward)
    half = np.tan(np.radians(hfov) / 2)
    x = ((np.arange(size[0]) + 0.5) / size[0] * 2 - 1) * half
    y = -((np.arange(size[1]) + 0.5) / size[1] * 2 - 1) * half * size[1] / size[0]
    rays = forward + x[None, :, None] * right + y[:, None, None] * upward
    return np.moveaxis(rays / np.linalg.norm(rays, axis=-1, keepdims=True), -1, 0)


@pytest.mark.parametrize("offset", [0, 30, 90, 180, 179.9, -135, 725])
@pytest.mark.parametrize(("pitch", "hfov"), [(0, 90), (20, 60), (-35, 110), (90, 90), (-90, 120)])
def test_every_ray_has_the_colour_of_its_direction(offset, pitch, hfov):
    heading, size = 37.0, (96, 72)
    view = perspective_view(panorama(1024, heading), offset, pitch, hfov, size)
    assert view.size == size
    expected = colour(*camera_rays(size, hfov, heading + offset, pitch))
    np.testing.assert_allclose(np.asarray(view, float), expected, atol=1.6)


def test_geometry_to_a_tenth_of_a_pixel():
    """A steep ramp in azimuth: a shift of half a panorama pixel would change the values by 2."""
    width = 512
    ramp = np.abs((np.arange(width) + 0.5) - width / 2) * 4 % 256
    image = Image.fromarray(np.repeat(np.tile(ramp, (256, 1))[..., None], 3, 2).astype(np.uint8))
    view = np.asarray(perspective_view(image, 0, 0, 40, (161, 3)), float)[1, :, 0]
    azimuth = np.arctan(((np.arange(161) + 0.5) / 161 * 2 - 1) * np.tan(np.radians(20)))
    distance = np.abs(azimuth) / (2 * np.pi) * width
    away = distance > 1
    np.testing.assert_allclose(view[away], 4 * distance[away], atol=0.51)


def test_the_centre_column_is_the_heading_and_right_is_clockwise():
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 62:66] = [255, 0, 0]
    image[:, 94:98] = [0, 255, 0]
    image[:, [126, 127, 0, 1]] = [0, 0, 255]
    front, right, back, left = (
        np.asarray(view) for _, view in views(Image.fromarray(image), 4, size=(33, 33))
    )
    np.testing.assert_array_equal(front[16, 16], [255, 0, 0])
    np.testing.assert_array_equal(right[16, 16], [0, 255, 0])
    np.testing.assert_array_equal(back[16, 16], [0, 0, 255])
    np.testing.assert_array_equal(left[16, 16], [0, 0, 0])


def test_views_go_evenly_around():
    assert [offset for offset, _ in views(panorama(64, 0), 3, size=(4, 4))] == [0, 120, 240]
    ((offset, view),) = views(panorama(64, 0))
    assert offset == 0
    assert view.size == (640, 480)


def test_surplus_detail_is_averaged_not_aliased():
    stripes = np.zeros((1024, 2048, 3), np.uint8)
    stripes[:, ::2] = 255
    view = np.asarray(perspective_view(Image.fromarray(stripes), size=(64, 48)), float)
    np.testing.assert_allclose(view, 127.5, atol=8)


def test_averaging_keeps_the_geometry_of_odd_sizes():
    view = perspective_view(panorama(1250, 10), 170, 5, 90, (64, 48))
    np.testing.assert_allclose(np.asarray(view, float), colour(*camera_rays((64, 48), 90, 180, 5)), atol=1.6)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"pitch": 91}, "91"),
        ({"hfov": 180}, "180"),
        ({"hfov": 0}, "0 degrees"),
        ({"heading_offset": float("nan")}, "nan"),
        ({"size": (0, 4)}, "0 x 4"),
    ],
)
def test_impossible_arguments(arguments, found):
    with pytest.raises(BadInputError, match=found):
        perspective_view(panorama(64, 0), **arguments)


def test_images_that_are_no_full_panorama():
    with pytest.raises(BadInputError, match="1600 x 1200"):
        perspective_view(Image.new("RGB", (1600, 1200)))
    with pytest.raises(BadInputError, match="mode L"):
        perspective_view(Image.new("L", (64, 32)))
    with pytest.raises(BadInputError, match="0 views"):
        list(views(panorama(64, 0), 0))


def test_a_real_panorama_loses_its_black_band(shared):
    image = open_photo(shared / "data/photos_csv/images/ae62555a-4b80-40c7-adbf-90265464a977.jpg")
    assert image.size == (1600, 800)
    assert (np.asarray(image).max(axis=2) < 30)[-200:].mean() > 0.5
    assert (np.asarray(perspective_view(image)).max(axis=2) < 30)[-100:].mean() < 0.02
