"""A city as a ten-band Sentinel-2 scene: its surface sampled at 2.5 m, averaged over 10 and 20 m pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from gair_core.world import layout as plan
from gair_core.world.noise import (
    Bytes,
    Flags,
    Floats,
    hashes,
    layered_noise,
    look_up,
    mixed,
    seed_of,
    smooth_step,
    texture,
    unit,
)
from gair_core.world.seasons import Palette
from gair_core.world.spectra import BANDS, CODE
from gair_core.world.surface import COVER, LAND_COVER, Surface

PIXEL: Final = 10.0
"""Size of a pixel in metres."""

SAMPLES: Final = 4
"""Samples along each side of a pixel."""

_STEP: Final = PIXEL / SAMPLES
_CHUNK: Final = 1 << 16
_COARSE: Final = (3, 4, 5, 7, 8, 9)
"""Bands that the instrument takes at 20 m."""

_SNOWY: Final = (COVER["crops"], COVER["grass"], COVER["bare soil"])

Window = tuple[int, int, int, int]
"""First row, first column, height and width in pixels."""

_REACH: Final = 48
"""How far a shadow is followed, in samples."""

# Path reflectance of a hazy sky, the share of the surface that shines through it, and clouds, by band.
_HAZE: Final = np.array(
    [0.115, 0.095, 0.075, 0.068, 0.06, 0.054, 0.048, 0.045, 0.014, 0.008], dtype=np.float32
)
_CLOUD: Final = np.array([0.66, 0.66, 0.67, 0.69, 0.71, 0.72, 0.73, 0.72, 0.5, 0.38], dtype=np.float32)
# Light that a shadow keeps: what comes from the sky, more of it in the blue.
_SKY_LIGHT: Final = np.array([0.4, 0.33, 0.28, 0.26, 0.25, 0.24, 0.23, 0.23, 0.17, 0.15], dtype=np.float32)


@dataclass(frozen=True)
class Weather:
    """The air over a scene.

    Attributes:
        haze: 0 clear to 1 thick haze.
        clouds: Share of the sky that clouds cover, 0-1.
        seed: Another seed gives other clouds.
    """

    haze: float
    clouds: float
    seed: int


@dataclass(frozen=True)
class _Samples:
    """The surface at 2.5 m, north up; arrays of shape (H, W)."""

    material: Bytes
    top: npt.NDArray[np.float16]
    tint: npt.NDArray[np.float16]
    cover: Bytes


def _axes(
    origin: tuple[float, float], rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[Floats, Floats]:
    """Return x of the samples' columns and y of their rows for a range of pixels, in metres."""
    x = origin[0] + (np.arange(columns[0] * SAMPLES, columns[1] * SAMPLES) + 0.5) * _STEP
    y = origin[1] - (np.arange(rows[0] * SAMPLES, rows[1] * SAMPLES) + 0.5) * _STEP
    return x.astype(np.float32), y.astype(np.float32)


def _sample(surface: Surface, x: Floats, y: Floats) -> _Samples:
    shape = (len(y), len(x))
    material, cover = np.empty(shape, dtype=np.uint8), np.empty(shape, dtype=np.uint8)
    top, tint = np.empty(shape, dtype=np.float16), np.empty(shape, dtype=np.float16)
    rows = max(1, _CHUNK // len(x))
    for start in range(0, len(y), rows):
        part = slice(start, start + rows)
        lines = y[part]
        block = (len(lines), len(x))
        flat_x, flat_y = np.tile(x, len(lines)), np.repeat(lines, len(x))
        found = _sample_points(surface, flat_x, flat_y)
        material[part], top[part], tint[part], cover[part] = (array.reshape(block) for array in found)
    return _Samples(material, top, tint, cover)


def _sample_points(surface: Surface, x: Floats, y: Floats) -> tuple[Bytes, Floats, Floats, Bytes]:
    place = surface.place(x, y)
    built = surface.buildings(place)
    roofed = built.top > 0
    crowns = surface.trees(place, roofed)
    leafy = crowns.top > 0
    material = surface.ground(place, built)
    material = np.where(roofed, surface.roof(place, built), material)
    material = np.where(leafy, crowns.material, material)
    top = np.maximum(built.top, crowns.top)
    # Roofs, fields and crowns of one kind are never of exactly one colour.
    key = mixed(np.where(leafy, crowns.key, np.where(roofed, built.key, place.block)) ^ np.uint32(1234))
    tint = 1 + (0.32 * unit(key, 0) - 0.16) * np.where(leafy | roofed, 1, 0.7)
    plants = (place.kind >= plan.PARK) & ~roofed & (place.road > 0)
    tint += 0.11 * np.clip(place.fields[:, plan.VIGOUR], -1, 1) * plants
    # The side of a crown or of a pitched roof that the sun does not reach.
    tint *= np.where(leafy, 0.93 + 0.2 * (crowns.offset_x * 0.5 - crowns.offset_y * 0.5), 1)
    return material, top, tint, surface.cover(place, crowns, built)


def _shadows(top: Floats, azimuth: float, elevation: float, margin: int) -> Floats:
    """Return the share of direct light, 0 or 1, for the inner part of a raster of heights.

    Args:
        top: Heights in metres, with ``margin`` samples more on every side.
        azimuth: Of the sun, degrees clockwise from north.
        elevation: Of the sun in degrees.
        margin: Samples to leave out on every side of the result.
    """
    height, width = (side - 2 * margin for side in top.shape)
    # Half precision stores well and compares slowly.
    top = top.astype(np.float32)
    own = top[margin : margin + height, margin : margin + width]
    lit = np.ones((height, width), dtype=np.float32)
    rise = np.tan(np.radians(max(elevation, 8.0)))
    for step in range(1, margin):
        distance = step * (1.0 + step / 24)
        row = -round(distance * np.cos(np.radians(azimuth)))
        column = round(distance * np.sin(np.radians(azimuth)))
        if max(abs(row), abs(column)) > margin:
            break
        there = top[margin + row : margin + row + height, margin + column : margin + column + width]
        lit[there > own + np.float32(distance * _STEP * rise)] = 0
    return lit


class SceneRenderer:
    """Draws a window of a city on any days of one year; the surface is sampled once.

    Args:
        surface: The city's surface in that year.
        seed: The city's seed.
        origin: Local coordinates (metres) of the upper left corner of pixel (0, 0).
        window: First row, first column, height and width in pixels.
    """

    def __init__(self, surface: Surface, seed: int, origin: tuple[float, float], window: Window) -> None:
        self.surface = surface
        self.seed = seed
        self.origin = origin
        self.window = window
        row, column, height, width = window
        # Whole 20 m pixels, each with a neighbour for the blur.
        self._rows = (row - 2) // 2 * 2, -(-(row + height + 2) // 2) * 2
        self._columns = (column - 2) // 2 * 2, -(-(column + width + 2) // 2) * 2

    @cached_property
    def _samples(self) -> _Samples:
        return _sample(self.surface, *self._axes)

    @cached_property
    def _axes(self) -> tuple[Floats, Floats]:
        """Return x and y of the samples, with a margin that shadows may fall from."""
        margin = _REACH // SAMPLES
        rows, columns = self._rows, self._columns
        return _axes(
            self.origin, (rows[0] - margin, rows[1] + margin), (columns[0] - margin, columns[1] + margin)
        )

    def draw(self, palette: Palette, sun: tuple[float, float], weather: Weather) -> npt.NDArray[np.uint16]:
        """Return surface reflectance in DN.

        Args:
            palette: The materials on the day.
            sun: Azimuth and elevation in degrees.
            weather: Haze and clouds.

        Returns:
            uint16 of shape (10, H, W), reflectance x 10000.
        """
        row, column, height, width = self.window
        reflectance = _blurred(self._surface_reflectance(palette, sun))
        for band in _COARSE:
            coarse = _means(reflectance[band], 2)
            reflectance[band] = np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)
        top, left = row - self._rows[0], column - self._columns[0]
        image = np.ascontiguousarray(reflectance[:, top : top + height, left : left + width])
        self._add_air(image, weather, sun)
        self._add_noise(image, weather.seed)
        return np.clip(np.rint(image * 10000), 1, 16000).astype(np.uint16)

    def cover(self, snow: bool) -> Bytes:
        """Return the land-cover class that covers most of each pixel, uint8 of shape (H, W).

        Args:
            snow: Whether open ground lies under snow.
        """
        row, column, height, width = self.window
        top = (row - self._rows[0]) * SAMPLES + _REACH
        left = (column - self._columns[0]) * SAMPLES + _REACH
        cover = self._samples.cover[top : top + height * SAMPLES, left : left + width * SAMPLES]
        shares = [_means((cover == number).astype(np.float32), SAMPLES) for number in range(len(LAND_COVER))]
        votes = np.stack(shares)
        # A road is narrower than a pixel and still what one sees there.
        votes[COVER["road"]] *= 1.7
        majority: Bytes = votes.argmax(axis=0).astype(np.uint8)
        if snow:
            majority[np.isin(majority, _SNOWY)] = COVER["snow and ice"]
        return majority

    def _surface_reflectance(self, palette: Palette, sun: tuple[float, float]) -> Floats:
        x, y = self._axes
        lit = _shadows(self._samples.top, *sun, margin=_REACH)
        inner = slice(_REACH, -_REACH)
        material = self._samples.material[inner, inner]
        # A crown's spectrum is that of a whole canopy: most of the shade within it is in the numbers already.
        leafy = (material >= CODE["broadleaf"]) & (material <= CODE["palm"])
        lit[leafy] = 0.85 + 0.15 * lit[leafy]
        gain = self._samples.tint[inner, inner].astype(np.float32)
        grain = texture(seed_of(self.seed, 71), 0.6)
        gain *= 1 + 0.035 * look_up(grain, (x[inner] / _STEP)[None], (y[inner] / _STEP)[:, None])
        slope = self._hill_shade(x[inner][::SAMPLES], y[inner][::SAMPLES], sun)
        water = (material == CODE["water"]) | (material == CODE["shallow water"])
        gain[water] = 1.0
        result = np.empty((len(BANDS), *slope.shape), dtype=np.float32)
        for band in range(len(BANDS)):
            light = _SKY_LIGHT[band] + (1 - _SKY_LIGHT[band]) * lit
            result[band] = _means(palette.reflectance[:, band][material] * gain * light, SAMPLES) * slope
        return result

    def _hill_shade(self, x: Floats, y: Floats, sun: tuple[float, float]) -> Floats:
        """Return how much brighter or darker than level ground the slopes of the hills are."""
        grid_x, grid_y = (np.asarray(a, dtype=np.float32) for a in np.meshgrid(x, y))
        reach = 25.0

        def height(dx: float, dy: float) -> Floats:
            x, y = grid_x.ravel() + np.float32(dx), grid_y.ravel() + np.float32(dy)
            return self.surface.elevation(x, y).reshape(grid_x.shape)

        east = (height(reach, 0) - height(-reach, 0)) / (2 * reach)
        north = (height(0, reach) - height(0, -reach)) / (2 * reach)
        azimuth, low = np.radians(sun[0]), np.tan(np.radians(max(sun[1], 12.0)))
        tilt = 1 - (east * np.sin(azimuth) + north * np.cos(azimuth)) / low
        return np.asarray(np.clip(tilt, 0.35, 1.6), dtype=np.float32)

    def clouds(self, weather: Weather) -> tuple[Floats, Floats]:
        """Return the opacity of the clouds and the shadow under them, both 0-1, of shape (H, W)."""
        row, column, height, width = self.window
        if weather.clouds <= 0:
            clear = np.zeros((height, width), dtype=np.float32)
            return clear, clear
        x = self.origin[0] + (np.arange(column, column + width) + 0.5) * PIXEL
        y = self.origin[1] - (np.arange(row, row + height) + 0.5) * PIXEL
        grid_x, grid_y = (np.asarray(a, dtype=np.float32) for a in np.meshgrid(x, y))
        # Quantiles of this noise, so that the share of the sky comes out about right.
        level = 0.62 * np.sign(0.5 - weather.clouds) * np.abs(1 - 2 * weather.clouds) ** 0.8

        def opacity(dx: float, dy: float) -> Floats:
            noise = layered_noise(grid_x + np.float32(dx), grid_y + np.float32(dy), 2100, 6, weather.seed)
            return smooth_step(level - 0.03, level + 0.22, noise)

        return opacity(0, 0), opacity(420, -650) * 0.62

    def _add_air(self, image: Floats, weather: Weather, sun: tuple[float, float]) -> None:
        air = (weather.haze * (0.55 if sun[1] > 25 else 0.75)) * np.float32(1)
        image *= 1 - air * _HAZE[:, None, None] * 3
        image += air * _HAZE[:, None, None]
        if weather.clouds > 0:
            opacity, shade = self.clouds(weather)
            image *= 1 - shade * (1 - _SKY_LIGHT[:, None, None])
            image *= 1 - opacity
            image += opacity * _CLOUD[:, None, None] * (0.75 + 0.35 * opacity)

    def _add_noise(self, image: Floats, seed: int) -> None:
        """Add the instrument's noise: about 0.6 % and 4 DN, other numbers every day."""
        row, column, _, _ = self.window
        rows = np.arange(row, row + image.shape[1], dtype=np.int32)[:, None]
        columns = np.arange(column, column + image.shape[2], dtype=np.int32)[None]
        for band in range(len(image)):
            step = 2 if band in _COARSE else 1
            word = hashes(rows // step, columns // step, seed_of(seed, 81, band))
            noise = unit(word, 0) + unit(word, 1) + unit(word, 2) - 1.5
            image[band] *= 1 + 0.012 * noise
            image[band] += 0.0008 * noise


def _means(values: Floats, size: int) -> Floats:
    """Average squares of ``size`` samples."""
    height, width = values.shape
    blocks = values.reshape(height // size, size, width // size, size)
    return np.asarray(blocks.sum(axis=1).sum(axis=2) / np.float32(size * size), dtype=np.float32)


def _blurred(image: Floats) -> Floats:
    """Spread a ninth of every pixel over its neighbours, as the instrument's optics do."""
    for axis in (1, 2):
        spread = image * np.float32(0.8)
        before, after = (np.roll(image, shift, axis=axis) for shift in (1, -1))
        spread += np.float32(0.1) * (before + after)
        image = spread
    return image


def sees_ground(opacity: Floats) -> Flags:
    """Return where a scene shows the ground: the clouds' opacity is below a tenth."""
    return opacity < 0.1
