"""A city of the world: one real place with its scenes, its land cover and its photos."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gair_core.errors import BadInputError
from gair_core.world import layout as plan
from gair_core.world import seasons
from gair_core.world.camera import REACH, Camera
from gair_core.world.noise import Bytes, Flags, Floats, seed_of, uniform_of
from gair_core.world.projection import Doubles, from_utm, to_utm
from gair_core.world.regions import Region
from gair_core.world.roads import main_roads
from gair_core.world.scene import PIXEL, SceneRenderer, Weather, Window, sees_ground
from gair_core.world.seasons import Palette
from gair_core.world.shading import Shader, light_of
from gair_core.world.surface import Surface

_OVERPASS: float = 10.5
"""True solar time at which Sentinel-2 passes, in hours."""


class Viewpoints(NamedTuple):
    """Places to take photos from.

    Attributes:
        positions: Longitude and latitude in degrees, float64 of shape (N, 2).
        headings: Degrees clockwise from true north in [0, 360), float64 of shape (N,).
    """

    positions: Doubles
    headings: Doubles


@dataclass(frozen=True)
class City:
    """One city and the land around it; everything about it follows from its fields.

    Attributes:
        name: What it is called; unique in its world.
        region: The region it lies in.
        index: Its number in the world.
        seed: What it is drawn from.
        epsg: EPSG code of its UTM zone.
        easting: UTM easting of its centre in metres, a multiple of 20.
        northing: UTM northing of its centre in metres, a multiple of 20.
        size: Height and width of its extent in pixels of 10 m.
    """

    name: str
    region: Region
    index: int
    seed: int
    epsg: int
    easting: float
    northing: float
    size: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north of the extent in metres of the UTM zone."""
        half = self._half
        return self.easting - half, self.northing - half, self.easting + half, self.northing + half

    @property
    def longitude(self) -> float:
        """Degrees east of the centre."""
        return float(from_utm((self.easting, self.northing), self.epsg)[0])

    @property
    def latitude(self) -> float:
        """Degrees north of the centre."""
        return float(from_utm((self.easting, self.northing), self.epsg)[1])

    @property
    def geotransform(self) -> tuple[float, float, float, float, float, float]:
        """The coefficients a to f of the affine transform from (column, row) to UTM metres."""
        west, _, _, north = self.bounds
        return PIXEL, 0.0, west, 0.0, -PIXEL, north

    @property
    def _half(self) -> float:
        return (self.size // 2) * PIXEL

    def scene(
        self,
        when: date,
        window: Window | None = None,
        *,
        clouds: float = 0.0,
        haze: float | None = None,
    ) -> npt.NDArray[np.uint16]:
        """Return the ten-band scene of a day.

        Pixels do not depend on the window: a part of a scene equals that part of the whole. Further days of a
        year are drawn in a fraction of the first one's time.

        Args:
            when: The day.
            window: The part to draw; the whole extent by default.
            clouds: Share of the sky that clouds cover, 0-1.
            haze: 0 clear to 1 thick; drawn from the day by default.

        Returns:
            Surface reflectance in DN (x 10000, no offset), uint16 of shape (10, H, W), bands in the order of
            `gair_core.world.BANDS`. The six bands that the instrument takes at 20 m are replicated from 20 m.

        Raises:
            BadInputError: The window leaves the city's extent.
        """
        renderer = _renderer(self, when.year, self._checked(window))
        palette = _palette(self.region, self.latitude, self.seed, when)
        sun = seasons.sun(self.latitude, when, _OVERPASS)
        return renderer.draw(palette, sun, self._weather(when, clouds, haze))

    def clear(self, when: date, window: Window | None = None, *, clouds: float = 0.0) -> Flags:
        """Return where the scene of a day shows the ground and not a cloud, bool of shape (H, W)."""
        weather = self._weather(when, clouds, None)
        renderer = _renderer(self, when.year, self._checked(window))
        return sees_ground(renderer.clouds(weather)[0])

    def land_cover(self, when: date = date(2023, 7, 1), window: Window | None = None) -> Bytes:
        """Return the true land cover of a day.

        Args:
            when: The day: towns grow, woods are felled and, in the cold, open ground lies under snow.
            window: The part to draw; the whole extent by default.

        Returns:
            Index into `gair_core.world.LAND_COVER` of what covers most of each pixel, uint8 of shape (H, W).
        """
        snow = seasons.season(self.region, self.latitude, when).snow > 0.6
        return _renderer(self, when.year, self._checked(window)).cover(snow)

    def main_roads(self) -> list[Doubles]:
        """Return the main roads of the extent as lines, each float64 (N, 2) in metres of the UTM zone."""
        centre = np.array([self.easting, self.northing])
        return [line + centre for line in main_roads(self.surface(2023), self._half)]

    def photo_positions(self, count: int, seed: int = 0) -> Viewpoints:
        """Choose places on roads to take photos from, all over the extent, and directions to look in.

        Half of the photos look along the road, give or take, and half anywhere.

        Args:
            count: How many.
            seed: Another seed chooses other places.

        Raises:
            BadInputError: There is too little road in the extent.
        """
        rng = np.random.default_rng([self.seed, seed, count])
        surface = self.surface(2023)
        half = self._half - PIXEL
        found: list[tuple[Floats, Floats, Floats]] = []
        total = 0
        for _ in range(400):
            x, y = (rng.uniform(-half, half, 4096).astype(np.float32) for _ in range(2))
            chosen = surface.lanes(surface.place(x, y))
            x, y = x[chosen], y[chosen]
            place = surface.place(x, y)
            found.append((x, y, surface.road_direction(place)))
            total += len(x)
            if total >= count:
                break
        else:
            raise BadInputError(
                f"{self.name} has road for {total} of {count} photos.",
                "Ask for fewer photos or a larger city.",
            )
        x, y, along = (np.concatenate(parts)[:count] for parts in zip(*found, strict=True))
        turn = np.where(
            rng.random(count) < 0.5, rng.uniform(-0.6, 0.6, count), rng.uniform(-np.pi, np.pi, count)
        )
        grid_heading = np.degrees(along + turn + np.where(rng.random(count) < 0.5, np.pi, 0))
        positions = self.to_lonlat(np.stack([x, y], axis=1).astype(np.float64))
        return Viewpoints(positions, (grid_heading - self._north_of(positions)) % 360)

    def photos(
        self,
        positions: npt.ArrayLike,
        headings: npt.ArrayLike,
        when: date,
        size: int | tuple[int, int] = 256,
        *,
        workers: int = 1,
    ) -> Bytes:
        """Take photos.

        The time of the day and the weather of each photo are drawn from its place, heading and day, so a
        photo can be taken again, alone or among others.

        Args:
            positions: Longitude and latitude in degrees, of shape (N, 2); off the road the view may be
                blocked.
            headings: Degrees clockwise from true north, of shape (N,).
            when: The day.
            size: Height and width in pixels, or one number for both.
            workers: Number of threads.

        Returns:
            RGB, uint8 of shape (N, H, W, 3).

        Raises:
            BadInputError: A position lies outside of the city, or shapes differ.
        """
        lonlat, degrees = np.asarray(positions, dtype=np.float64), np.asarray(headings, dtype=np.float64)
        if lonlat.ndim != 2 or lonlat.shape[1] != 2 or degrees.shape != lonlat.shape[:1]:
            raise BadInputError(
                f"Found positions of shape {lonlat.shape} and headings of shape {degrees.shape}, "
                "wanted (N, 2) and (N,).",
                "Give one longitude, latitude and heading for each photo.",
            )
        shape = (size, size) if isinstance(size, int) else size
        local = self.to_local(lonlat)
        # Written so that NaN is outside too.
        outside = ~(np.abs(local).max(axis=1, initial=0) <= self._half)
        if outside.any():
            lon, lat = lonlat[np.flatnonzero(outside)[0]]
            raise BadInputError(
                f"({lon:.6f}, {lat:.6f}) lies outside of {self.name}.",
                "Give longitude first, inside of City.bounds.",
            )
        bearings = np.radians(degrees + self._north_of(lonlat))
        studio = self._studio(when)
        result = np.empty((len(lonlat), *shape, 3), dtype=np.uint8)

        def take(number: int) -> None:
            x, y = local[number]
            result[number] = studio.photo(float(x), float(y), float(bearings[number]), shape)

        if workers == 1:
            for number in range(len(lonlat)):
                take(number)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(take, range(len(lonlat))))
        return result

    def to_local(self, lonlat: npt.ArrayLike) -> Doubles:
        """Return metres east and north of the centre for longitudes and latitudes, (N, 2)."""
        metres = to_utm(lonlat, self.epsg) - np.array([self.easting, self.northing])
        return np.asarray(metres, dtype=np.float64)

    def to_lonlat(self, local: Doubles) -> Doubles:
        """Return longitude and latitude for metres east and north of the centre, (N, 2)."""
        return from_utm(local + np.array([self.easting, self.northing]), self.epsg)

    def to_pixel(self, lonlat: npt.ArrayLike) -> Doubles:
        """Return row and column in the scene, (N, 2); the upper left corner of the extent is (0, 0)."""
        local = self.to_local(lonlat)
        return np.stack([self._half - local[..., 1], local[..., 0] + self._half], axis=-1) / PIXEL

    def _north_of(self, lonlat: Doubles) -> Doubles:
        """Return the direction of true north in the grid, degrees clockwise from grid north."""
        here, there = to_utm(lonlat, self.epsg), to_utm(lonlat + np.array([0.0, 1e-4]), self.epsg)
        step = there - here
        return np.asarray(np.degrees(np.arctan2(step[:, 0], step[:, 1])), dtype=np.float64)

    def _checked(self, window: Window | None) -> Window:
        if window is None:
            return 0, 0, self.size, self.size
        row, column, height, width = window
        if min(window) < 0 or min(height, width) < 1 or max(row + height, column + width) > self.size:
            raise BadInputError(
                f"The window (row, column, height, width) {window} leaves the "
                f"{self.size} x {self.size} pixels of {self.name}.",
                "Choose a window inside, or a larger city: World.city(index, size).",
            )
        return window

    def _weather(self, when: date, clouds: float, haze: float | None) -> Weather:
        key = seed_of(self.seed, when.toordinal(), 101)
        drawn = 0.3 * uniform_of(key, 1) ** 2 if haze is None else haze
        return Weather(haze=drawn, clouds=clouds, seed=key)

    @cached_property
    def _layout(self) -> plan.Layout:
        reach = self._half + REACH + 200
        return plan.plan(plan.character(self.seed, self.region), -reach, -reach, 2 * reach, 2 * reach)

    def surface(self, year: int) -> Surface:
        """Return the surface of a year, in metres from the centre; it reaches 1.5 km beyond the extent."""
        return Surface(self._layout, self.seed, year, self.region.conifers, self.region.palms)

    def _studio(self, when: date) -> _Studio:
        return _Studio(
            self, self.surface(when.year), _palette(self.region, self.latitude, self.seed, when), when
        )


@lru_cache(maxsize=32)
def _palette(region: Region, latitude: float, seed: int, when: date) -> Palette:
    return seasons.palette(region, latitude, seed, when)


@lru_cache(maxsize=1)
def _renderer(city: City, year: int, window: Window) -> SceneRenderer:
    """Return a renderer; the last one is kept, so that a year's scenes and labels sample the surface once."""
    half = city.size // 2 * PIXEL
    return SceneRenderer(city.surface(year), city.seed, (-half, half), window)


class _Studio:
    """Takes photos of one city on one day."""

    def __init__(self, city: City, surface: Surface, palette: Palette, when: date) -> None:
        self.latitude = city.latitude
        self.seed = city.seed
        self.when = when
        self.surface = surface
        self.palette = palette
        self.shader = Shader(surface, palette, city.region, city.seed)
        self.gloom = 0.2 + 0.2 * (city.region.dry_strength < 0.5)

    def photo(self, x: float, y: float, bearing: float, shape: tuple[int, int]) -> Bytes:
        """Take one photo from local coordinates in a grid direction (radians)."""
        key = seed_of(self.seed, round(x * 10), round(y * 10), round(bearing * 100), self.when.toordinal())
        azimuth, elevation = seasons.sun(self.latitude, self.when, 9 + 7 * uniform_of(key, 1))
        draw = uniform_of(key, 2)
        overcast = float(np.clip((draw - 1 + self.gloom) * 6, 0, 1))
        light = light_of(azimuth, elevation, overcast, 0.15 + 0.5 * uniform_of(key, 3) ** 3)
        camera = Camera(self.surface, self.palette.height, self.palette.gaps, light.azimuth, shape)
        return self.shader.paint(camera.view(x, y, bearing), light, shape, key)
