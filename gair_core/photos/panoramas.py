"""From a 360-degree panorama to the pictures that an ordinary camera would have taken.

Directions: the centre column of an equirectangular panorama looks along its heading, angles grow clockwise
(to the right), and the top row looks at the zenith. So a heading offset of 0 is the stored heading, 90 is to
the right of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gair_core.errors import BadInputError

HFOV: Final = 90.0
"""Horizontal field of view in degrees: 90 across 4:3 pixels are 73.7 downwards, as phones have."""

SIZE: Final = (640, 480)
"""Width and height of a view in pixels."""

PROJECTION_TYPES: Final = frozenset({"spherical", "equirectangular"})
"""Values of a projection type, in lower case, that mean a full panorama (Mapillary's and GPano's words)."""


def views(
    panorama: Image.Image,
    count: int = 1,
    *,
    pitch: float = 0.0,
    hfov: float = HFOV,
    size: tuple[int, int] = SIZE,
) -> Iterator[tuple[float, Image.Image]]:
    """Yield perspective views evenly around a panorama, the first along its heading.

    One view to the front is the default: it is what the panorama's stored heading describes, and it keeps
    the camera's car, the tripod and the zenith out of sight.

    Args:
        panorama: RGB image, 2:1, the full sphere.
        count: Number of views; 4 with a field of view of 90 degrees see the whole horizon once.
        pitch: Degrees above the horizon, see `perspective_view`.
        hfov: Horizontal field of view, degrees.
        size: Width and height of a view, pixels.

    Yields:
        The heading offset in degrees, in [0, 360), and the view.

    Raises:
        BadInputError: As `perspective_view`, or `count` is not positive.
    """
    if count < 1:
        raise BadInputError(f"Found {count} views of a panorama, wanted at least 1.")
    for number in range(count):
        offset = 360.0 * number / count
        yield offset, perspective_view(panorama, offset, pitch, hfov, size)


def perspective_view(
    panorama: Image.Image,
    heading_offset: float = 0.0,
    pitch: float = 0.0,
    hfov: float = HFOV,
    size: tuple[int, int] = SIZE,
) -> Image.Image:
    """Render what a camera without distortion sees inside an equirectangular panorama.

    Bilinear, across the panorama's seam and its poles. A panorama with more detail than the view can show
    is averaged down first, so that fine patterns do not alias.

    Args:
        panorama: RGB image, 2:1, the full sphere.
        heading_offset: Degrees to the right of the panorama's centre column, any number.
        pitch: Degrees above the horizon, in [-90, 90].
        hfov: Horizontal field of view, degrees between 0 and 180; pixels are square.
        size: Width and height of the view, pixels.

    Returns:
        RGB image of `size`.

    Raises:
        BadInputError: The panorama is not RGB or not 2:1, or an angle or the size is out of range.
    """
    _check(panorama, heading_offset, pitch, hfov, size)
    focal = size[0] / 2 / math.tan(math.radians(hfov) / 2)
    pixels = np.asarray(_without_surplus_detail(panorama, focal))
    azimuth, elevation = _ray_angles(size, focal, math.radians(heading_offset), math.radians(pitch))
    height, width = pixels.shape[:2]
    column = (azimuth / (2 * math.pi) + 0.5) * width - 0.5
    row = (0.5 - elevation / math.pi) * height - 0.5
    return Image.fromarray(_bilinear(pixels, column, row))


def is_full_panorama(size: tuple[int, int]) -> bool:
    """Return whether an image of (width, height) can be a full equirectangular panorama: 2:1 within 1 %."""
    width, height = size
    return abs(width - 2 * height) <= 0.02 * height


def _check(
    panorama: Image.Image, heading_offset: float, pitch: float, hfov: float, size: tuple[int, int]
) -> None:
    if panorama.mode != "RGB":
        raise BadInputError(f"The panorama has mode {panorama.mode}; RGB is needed.")
    if not is_full_panorama(panorama.size):
        raise BadInputError(
            f"A panorama of the full sphere is twice as wide as high; found {panorama.width} x "
            f"{panorama.height} pixels.",
            "Pad a cropped panorama to 2:1, or treat it as an ordinary photo.",
        )
    if not math.isfinite(heading_offset):
        raise BadInputError(f"The heading offset is {heading_offset}; a finite number of degrees is needed.")
    if not -90 <= pitch <= 90:
        raise BadInputError(f"The pitch is {pitch} degrees; it lies in [-90, 90].")
    if not 0 < hfov < 180:
        raise BadInputError(f"The field of view is {hfov} degrees; it lies between 0 and 180.")
    if min(size) < 1:
        raise BadInputError(f"The view's size is {size[0]} x {size[1]} pixels; at least 1 x 1 is needed.")


def _without_surplus_detail(panorama: Image.Image, focal: float) -> Image.Image:
    """Average a panorama over whole blocks until a pixel subtends about as much as the view's central one."""
    factor = int(panorama.width / (2 * math.pi * focal))
    if factor < 2:
        return panorama
    size = (max(1, panorama.width // factor), max(1, panorama.height // factor))
    # Not Image.reduce: it would shift the geometry where the size is no multiple of the factor.
    return panorama.resize(size, Image.Resampling.BOX)


def _ray_angles(
    size: tuple[int, int], focal: float, heading: float, pitch: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return azimuth and elevation (height, width) in radians of the rays through the pixels' centres."""
    width, height = size
    right = (np.arange(width) + 0.5 - width / 2)[None, :] / focal
    up = (height / 2 - np.arange(height) - 0.5)[:, None] / focal
    # The camera looks along (forward 1, right 0, up 0) and is then tilted about its horizontal axis.
    forward = math.cos(pitch) - math.sin(pitch) * up
    upward = math.sin(pitch) + math.cos(pitch) * up
    azimuth = heading + np.arctan2(right, forward)
    elevation = np.arctan2(upward, np.hypot(right, forward))
    return azimuth, elevation


def _bilinear(
    pixels: NDArray[np.uint8], column: NDArray[np.float64], row: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Sample (H, W, 3) at fractional columns and rows on the sphere, rounded to uint8."""
    left, above = np.floor(column), np.floor(row)
    x, y = (column - left).astype(np.float32)[..., None], (row - above).astype(np.float32)[..., None]
    j, i = left.astype(np.intp), above.astype(np.intp)
    upper = _at(pixels, i, j) * (1 - x) + _at(pixels, i, j + 1) * x
    lower = _at(pixels, i + 1, j) * (1 - x) + _at(pixels, i + 1, j + 1) * x
    return (upper * (1 - y) + lower * y + 0.5).astype(np.uint8)


def _at(pixels: NDArray[np.uint8], i: NDArray[np.intp], j: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return pixels (..., 3) at rows -1 to H and any columns: past a pole lies the opposite meridian."""
    height, width = pixels.shape[:2]
    past_pole = (i < 0) | (i >= height)
    inside = np.where(i < 0, -1 - i, np.where(i >= height, 2 * height - 1 - i, i))
    values: NDArray[np.float32] = pixels[inside, (j + past_pole * (width // 2)) % width].astype(np.float32)
    return values
