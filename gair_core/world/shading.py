"""The colours of a photo: light, sky, façades, leaves, roads and water, from what each pixel shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gair_core.world import camera as seen
from gair_core.world import layout as plan
from gair_core.world.camera import View
from gair_core.world.noise import (
    Bytes,
    Floats,
    look_up,
    look_up_smoothly,
    mixed,
    seed_of,
    smooth_step,
    texture,
    unit,
)
from gair_core.world.regions import Region
from gair_core.world.seasons import Palette
from gair_core.world.spectra import CODE, FIRST_CROP
from gair_core.world.surface import Place, Surface

STOREY: Final = 3.1

_BARK: Final = np.array([0.11, 0.08, 0.06], dtype=np.float32)
_GLASS: Final = np.array([0.05, 0.065, 0.085], dtype=np.float32)
_WHITE_LINE: Final = np.array([0.75, 0.75, 0.73], dtype=np.float32)
_YELLOW_LINE: Final = np.array([0.75, 0.5, 0.06], dtype=np.float32)
_CAR_PAINTS: Final = np.array(
    [
        (0.6, 0.6, 0.6),
        (0.03, 0.03, 0.035),
        (0.75, 0.75, 0.74),
        (0.25, 0.26, 0.28),
        (0.38, 0.03, 0.03),
        (0.04, 0.09, 0.28),
        (0.12, 0.12, 0.13),
        (0.1, 0.18, 0.12),
    ],
    dtype=np.float32,
)


@dataclass(frozen=True)
class Light:
    """The light of a photo.

    Attributes:
        azimuth: Of the sun, radians clockwise from north.
        elevation: Of the sun in radians.
        overcast: 0 blue sky to 1 grey sky.
        haze: 0 clear to 1 thick.
        direct: Linear RGB of the sun's light on a surface that faces it.
        ambient: Linear RGB of the sky's light.
        horizon: Linear RGB of the sky at the horizon, which distance fades into.
        zenith: Linear RGB of the sky overhead.
    """

    azimuth: float
    elevation: float
    overcast: float
    haze: float
    direct: Floats
    ambient: Floats
    horizon: Floats
    zenith: Floats


def light_of(azimuth: float, elevation: float, overcast: float, haze: float) -> Light:
    """Return the light for a sun (degrees) and a sky (0-1)."""
    low = float(smooth_step(25, 4, elevation))
    warm = np.array([1.0, 0.93 - 0.13 * low, 0.84 - 0.34 * low], dtype=np.float32)
    clear = 1 - overcast
    blue_zenith = np.array([0.11, 0.26, 0.62], dtype=np.float32)
    blue_horizon = np.array([0.55 + 0.15 * low, 0.68, 0.84 - 0.14 * low], dtype=np.float32)
    grey = np.array([0.58, 0.6, 0.63], dtype=np.float32)
    milky = 0.55 * haze
    zenith = blue_zenith * (1 - milky) + grey * milky
    return Light(
        azimuth=float(np.radians(azimuth)),
        elevation=float(np.radians(max(elevation, 4))),
        overcast=overcast,
        haze=haze,
        direct=(warm * (1.25 * clear + 0.08)).astype(np.float32),
        ambient=(np.array([0.36, 0.42, 0.5], dtype=np.float32) * clear + 0.72 * grey / 0.6 * overcast).astype(
            np.float32
        ),
        horizon=(blue_horizon * clear + grey * 1.15 * overcast).astype(np.float32),
        zenith=(zenith * clear + grey * 0.95 * overcast).astype(np.float32),
    )


class Shader:
    """Paints the views of one city on one day.

    Args:
        surface: The surface that the camera looked at.
        palette: The materials on the day.
        region: The city's region.
        seed: The city's seed.
    """

    def __init__(self, surface: Surface, palette: Palette, region: Region, seed: int) -> None:
        self.surface = surface
        self.palette = palette
        self.region = region
        self.walls = np.array(region.walls, dtype=np.float32)
        self.grain = texture(seed_of(seed, 91), 0.5)
        self.patches = texture(seed_of(seed, 92), 1.25)
        self.roughness = np.full(len(palette.height), 0.5, dtype=np.float32)
        smooth = [CODE[name] for name in ("asphalt", "paving", "concrete", "snow", "ice", "sand")]
        self.roughness[smooth] = 0.2
        self.cloud = texture(seed_of(seed, 93), 1.9)

    def paint(self, view: View, light: Light, size: tuple[int, int], key: int) -> Bytes:
        """Return a photo, uint8 of shape (H, W, 3).

        Args:
            view: What each pixel shows.
            light: The light.
            size: Height and width in pixels.
            key: Seed of what belongs to this photo alone: clouds and exposure.
        """
        colour = np.zeros((len(view.kind), 3), dtype=np.float32)
        painters = (
            (seen.GROUND, self._ground),
            (seen.WALL, self._walls_of),
            (seen.ROOF, self._roofs),
            (seen.FOLIAGE, self._foliage),
            (seen.CAR, self._cars),
            (seen.BARK, self._bark),
        )
        for kind, painter in painters:
            index = np.flatnonzero(view.kind == kind)
            if len(index):
                colour[index] = painter(view, index, light)
        self._air(colour, view, light)
        sky = np.flatnonzero(view.kind == seen.SKY)
        if len(sky):
            colour[sky] = self._sky(view.azimuth[sky], view.slope[sky], light, key)
        return _developed(colour.reshape(*size, 3), key)

    def _air(self, colour: Floats, view: View, light: Light) -> None:
        """Fade what is far into the horizon's colour."""
        length = 5200 * (1 - light.haze) ** 2 + 500
        near = np.exp(-np.minimum(view.distance, 1e5) / np.float32(length))[:, None]
        colour *= near
        colour += (1 - near) * light.horizon

    def _sky(self, azimuth: Floats, slope: Floats, light: Light, key: int) -> Floats:
        up = np.maximum(slope, 0)
        rise = (up / (up + 0.45))[:, None]
        colour = light.horizon * (1 - rise) + light.zenith * rise
        bend = (up + 0.12) * 0.9
        u = np.sin(azimuth) / bend * 42 + (key & 511)
        v = np.cos(azimuth) / bend * 42 + (key >> 9 & 511)
        noise = look_up_smoothly(self.cloud, u, v) + 0.28 * look_up_smoothly(self.cloud, u * 3.1, v * 3.1)
        cover = -0.9 + 2.2 * ((key >> 18 & 255) / 255) - 1.2 * light.overcast
        puff = (
            smooth_step(cover, cover + 1.1, noise) * (1 - 0.75 * light.overcast) * smooth_step(0.0, 0.12, up)
        )
        bright = (0.92 - 0.12 * np.clip(noise - cover - 0.6, 0, 1.5)).astype(np.float32)
        white = np.array([0.98, 0.98, 1.0], dtype=np.float32) * (1 - 0.22 * light.overcast)
        colour += puff[:, None] * 0.85 * (white * bright[:, None] - colour)
        away = np.cos(azimuth - light.azimuth)
        glow = np.clip(away, 0, 1) ** 6 * np.exp(-np.abs(slope - np.tan(light.elevation)) * 1.6)
        colour += (0.5 * (1 - light.overcast) * glow)[:, None] * np.array([1, 0.93, 0.78], dtype=np.float32)
        return np.asarray(colour, dtype=np.float32)

    def _lit(self, light: Light, facing: Floats, sheltered: Floats | float = 1.0) -> Floats:
        """Return linear RGB of the light on surfaces that face the sun by a cosine ``facing``."""
        return np.asarray(
            light.ambient * np.asarray(sheltered)[..., None]
            + np.clip(facing, 0, 1)[..., None] * light.direct,
            dtype=np.float32,
        )

    def _detail(self, texture_of: Floats, x: Floats, y: Floats, distance: Floats, scale: float) -> Floats:
        """Return a texture that fades where its texels are finer than pixels, about in [-1, 1]."""
        fade = np.clip(scale * 260 / np.maximum(distance, 1), 0, 1)
        return (
            np.clip(look_up_smoothly(texture_of, x / np.float32(scale), y / np.float32(scale)), -2, 2)
            * 0.5
            * fade
        )

    def _ground(self, view: View, index: npt.NDArray[np.int64], light: Light) -> Floats:
        x, y, distance = view.x[index], view.y[index], view.distance[index]
        place = self.surface.place(x, y)
        built = self.surface.buildings(place)
        material = self.surface.ground(place, built)
        colour = self.palette.colour[material]
        grain = self._detail(self.grain, x, y, distance, 0.06)
        patches = self._detail(self.patches, x, y, distance, 0.35)
        rough = self.roughness[material]
        colour *= (1 + rough * grain + (0.1 + 0.4 * self.roughness[material]) * patches)[:, None]
        tint = unit(mixed(place.block ^ np.uint32(1234)), 0)
        colour *= (0.9 + 0.2 * tint)[:, None]
        self._rows_of_plants(colour, place.across_b, material, distance)
        self._markings(colour, place, material, distance)
        shade = self._shadow(place, light)
        colour *= self._lit(light, np.sin(light.elevation) * shade, 0.75 + 0.25 * shade)
        water = np.flatnonzero((material == CODE["water"]) | (material == CODE["shallow water"]))
        if len(water):
            colour[water] = self._water(view, index[water], colour[water], light)
        return np.asarray(colour, dtype=np.float32)

    def _shadow(self, place: Place, light: Light) -> Floats:
        """Return the share of sunlight that reaches the ground, from what stands towards the sun."""
        share = np.ones(len(place.x), dtype=np.float32)
        if light.overcast > 0.7:
            return share
        east, north = np.sin(light.azimuth), np.cos(light.azimuth)
        rise = np.tan(light.elevation)
        for reach in (2.5, 6.5, 14.0):
            x = place.x + np.float32(east * reach)
            y = place.y + np.float32(north * reach)
            there = self.surface.place(x, y)
            built = self.surface.buildings(there)
            crowns = self.surface.trees(there, built.top > 0)
            higher = np.maximum(built.top, crowns.top) > reach * rise
            share[higher] = 0.12
        return share

    def _rows_of_plants(self, colour: Floats, across: Floats, material: Bytes, distance: Floats) -> None:
        rows = self.palette.rows[material] * ((material >= FIRST_CROP) & (distance < 90))
        if rows.any():
            stripe = np.abs((across / 0.75) % 1 - 0.5) * 4 - 1
            colour *= (1 + 0.28 * stripe * rows * np.clip(1.4 - distance / 60, 0, 1))[:, None]

    def _markings(self, colour: Floats, place: Place, material: Bytes, distance: Floats) -> None:
        asphalt = (material == CODE["asphalt"]) & (place.road < 0)
        wide = 0.09 + 0.0035 * distance
        strength = np.clip(0.16 / wide, 0, 1)
        dashed = (place.along % 9) < 3.5
        town = place.kind < plan.FIELDS
        middle = asphalt & (place.road_centre < wide) & (place.main | town) & (dashed | (place.main & town))
        edge = asphalt & place.main & (np.abs(place.road + 0.4) < wide)
        kerb = (np.abs(place.road) < wide) & town & (place.road_width > 0)
        line = _YELLOW_LINE if self.region.yellow_lines else _WHITE_LINE
        for where, paint in ((middle, line), (edge, _WHITE_LINE), (kerb, np.float32(0.42))):
            at = np.flatnonzero(where)
            colour[at] += (strength[at] * 0.85)[:, None] * (paint - colour[at])

    def _water(self, view: View, index: npt.NDArray[np.int64], deep: Floats, light: Light) -> Floats:
        """Reflect the sky in rippled water; more of it at grazing angles."""
        x, y, distance = view.x[index], view.y[index], view.distance[index]
        ripple = look_up_smoothly(self.patches, x * 1.4, y * 4.1 + x) * np.clip(60 / distance, 0.06, 1)
        grazing = np.clip(-view.slope[index], 0.002, 1)
        mirror = 0.12 + 0.8 * np.exp(-grazing * 9)
        up = np.clip(grazing + 0.12 * np.abs(ripple), 0, 1)[:, None]
        sky = light.horizon * (1 - up) + light.zenith * up
        return np.asarray(
            deep * 0.8 + (mirror * (0.85 + 0.16 * ripple))[:, None] * sky * 0.8, dtype=np.float32
        )

    def _walls_of(self, view: View, index: npt.NDArray[np.int64], light: Light) -> Floats:
        key, style = view.key[index], view.style[index]
        u, z, distance, extent = view.u[index], view.height[index], view.distance[index], view.extent[index]
        colour = self._wall_colours(view, index)
        dirt = self._detail(self.patches, u + unit(key, 0) * 97, z, distance, 0.22)
        colour *= (1 + 0.14 * dirt)[:, None]
        colour *= (0.86 + 0.14 * np.clip(z / 1.2, 0, 1))[:, None]
        self._openings(colour, view, index, light)
        gable = (z > extent) & (style != plan.INDUSTRY)
        colour[gable] *= 0.96
        cornice = (np.abs(z - extent) < 0.28) & (distance < 220)
        colour[cornice] = colour[cornice] * 0.6 + 0.12
        facing = np.cos(view.normal[index] - light.azimuth) * np.cos(light.elevation)
        return np.asarray(
            colour * self._lit(light, facing, 0.82 + 0.18 * np.clip(z / 9, 0, 1)), dtype=np.float32
        )

    def _wall_colours(self, view: View, index: npt.NDArray[np.int64]) -> Floats:
        key, style = view.key[index], view.style[index]
        scrambled = mixed(key ^ np.uint32(17))
        number = np.where(
            unit(scrambled, 0) < 0.62,
            view.wall[index],
            (unit(scrambled, 1) * len(self.walls)).astype(np.int32),
        )
        colour = self.walls[np.minimum(number, len(self.walls) - 1)]
        colour *= (0.8 + 0.4 * unit(scrambled, 2))[:, None]
        sheet = np.array(
            [(0.55, 0.56, 0.57), (0.3, 0.36, 0.42), (0.62, 0.58, 0.5), (0.42, 0.4, 0.38)], dtype=np.float32
        )
        halls = style == plan.INDUSTRY
        colour[halls] = sheet[(scrambled[halls] >> np.uint32(24)) & np.uint32(3)]
        large = (style == plan.CENTRE) | (style == plan.TOWERS)
        colour[large] = colour[large] * 0.62 + 0.16
        slabs = (style == plan.TOWERS) & (unit(scrambled, 3) < 0.6)
        colour[slabs] = colour[slabs] * 0.35 + 0.36
        return colour

    def _openings(self, colour: Floats, view: View, index: npt.NDArray[np.int64], light: Light) -> None:
        """Paint windows, shop fronts and doors; far away they merge into a mean tone."""
        key, style = view.key[index], view.style[index]
        u, z, distance = view.u[index], view.height[index], view.distance[index]
        storey = np.floor(z / STOREY)
        up = z / STOREY - storey
        spacing = 2.3 + 2.2 * unit(key, 1)
        across = u / spacing
        bay = np.floor(across)
        beside = across - bay
        tall = 0.4 + 0.14 * unit(key, 2)
        wide = 0.13 + 0.14 * unit(key, 0)
        band = (style == plan.TOWERS) & (unit(key, 3) < 0.4)
        window = (np.abs(up - 0.56) < tall / 2) & ((np.abs(beside - 0.5) < wide) | band)
        hall = style == plan.INDUSTRY
        window = np.where(hall, (z > 4.2) & (z < 5.4) & (np.abs(beside - 0.5) < 0.42), window)
        shop = (style == plan.CENTRE) & (storey == 0) & (unit(key, 3) < 0.7)
        window = np.where(shop, (z > 0.5) & (z < 2.5) & (np.abs(beside - 0.5) < 0.43), window)
        window &= z < view.extent[index] - 0.25
        fine = np.clip(1.6 * 160 / np.maximum(distance, 1), 0, 1)[:, None]
        flicker = unit(
            mixed(
                key
                + bay.astype(np.int32).astype(np.uint32) * np.uint32(31)
                + storey.astype(np.int32).astype(np.uint32)
            ),
            0,
        )
        reflecting = (
            light.horizon * 0.5 * flicker[:, None] ** 2 + _GLASS * (0.6 + 0.8 * flicker[:, None])
        ).astype(np.float32)
        curtain = (flicker > 0.8)[:, None] & ~band[:, None]
        pane = np.where(curtain, colour * 0.3 + 0.16, reflecting)
        frame = window & ((np.abs(np.abs(beside - 0.5) - wide) < 0.03) & (distance < 45)) & ~shop & ~hall
        pane[frame] = 0.6
        share = np.where(window, 0.92, 0)[:, None] * fine + 0.24 * (1 - fine)
        colour += share * (pane - colour)
        sign = shop & (z > 2.55) & (z < 3.1)
        paint = _CAR_PAINTS[(mixed(key ^ np.uint32(99)) & np.uint32(7)).astype(np.int32)] * 0.9 + 0.05
        colour[sign] = paint[sign]
        ribs = hall & ~window & (distance < 120)
        colour[ribs] *= (1 - 0.12 * ((u[ribs] / 0.6) % 1 < 0.3))[:, None]
        balcony = (style == plan.TOWERS) & ~band & (up < 0.3) & (bay.astype(np.int32) % 3 == 1) & (storey > 0)
        colour[balcony] = colour[balcony] * 0.55 + 0.22
        door = (style == plan.HOUSES) & (z < 2.1) & (np.abs(u - view_middle(view, index)) < 0.55)
        colour[door] = paint[door] * 0.5 + 0.03

    def _roofs(self, view: View, index: npt.NDArray[np.int64], light: Light) -> Floats:
        x, y = view.x[index], view.y[index]
        place = self.surface.place(x, y)
        built = self.surface.buildings(place)
        colour = self.palette.colour[self.surface.roof(place, built)]
        courses = 1 + 0.16 * ((view.height[index] / 0.32) % 1 < 0.35) * (view.distance[index] < 60)
        colour *= (0.85 + 0.3 * unit(mixed(view.key[index] ^ np.uint32(1234)), 0) * courses)[:, None]
        tilt = (
            np.cos(view.normal[index] - light.azimuth) * np.cos(light.elevation) * 0.45
            + np.sin(light.elevation) * 0.85
        )
        return np.asarray(colour * self._lit(light, tilt), dtype=np.float32)

    def _foliage(self, view: View, index: npt.NDArray[np.int64], light: Light) -> Floats:
        key, distance = view.key[index], view.distance[index]
        material, z = view.material[index], view.height[index]
        colour = self.palette.colour[material]
        tree = material < FIRST_CROP
        on_top = (z >= view.extent[index]) & ((material >= FIRST_CROP) | (material == CODE["shrub"]))
        around = np.where(on_top, view.x[index], view.azimuth[index] * distance)
        beside = np.where(on_top, view.y[index], z)
        scale = np.where(tree, np.float32(9.0), np.float32(14.0))
        u, v = around * scale, beside * scale + np.where(on_top, 0, key & np.uint32(511)).astype(np.float32)
        fade = np.clip(45 / np.maximum(distance, 1), 0.12, 1)
        leaves = np.clip(look_up_smoothly(self.grain, u, v), -1.6, 1.6) * fade
        clumps = np.clip(look_up_smoothly(self.patches, u * 0.2, v * 0.2), -2, 2) * np.clip(4 * fade, 0, 1)
        share = np.clip(z / np.maximum(view.extent[index], 0.3), 0, 1)
        tint = 0.84 + 0.32 * unit(mixed(key ^ np.uint32(1234)), 0)
        # Under the crowns of a wood it is dark, and trunks stand there.
        under = (view.wall[index] == seen.INTERIOR) & (view.extent[index] > 5.5) & (share < 0.42)
        colour[under] *= 0.35
        colour *= (tint * (1 + np.where(tree, 0.38, 0.4) * leaves + np.where(tree, 0.25, 0.18) * clumps))[
            :, None
        ]
        facing = 0.3 + 0.42 * np.clip(view.u[index], -1, 1) * np.cos(light.elevation) + 0.5 * (share - 0.4)
        facing = np.where(tree, facing + 0.12 * clumps, np.sin(light.elevation) * (0.55 + 0.45 * share))
        lit = self._lit(light, facing, 0.35 + 0.65 * share)
        return np.asarray(np.clip(colour, 0, 1) * lit * 1.15, dtype=np.float32)

    def _cars(self, view: View, index: npt.NDArray[np.int64], light: Light) -> Floats:
        z, key = view.height[index], view.key[index]
        paint = _CAR_PAINTS[(mixed(key ^ np.uint32(3)) & np.uint32(7)).astype(np.int32)]
        glass = (z > 0.88) & (z < 1.36)
        wheel = z < 0.32
        colour = np.where(glass[:, None], _GLASS + 0.25 * light.horizon, paint)
        colour = np.where(wheel[:, None], np.float32(0.02), colour)
        facing = np.full(len(index), 0.45, dtype=np.float32) + 0.4 * (z > 1.3)
        return np.asarray(colour * self._lit(light, facing, 0.9) + 0.04, dtype=np.float32)

    def _bark(self, view: View, index: npt.NDArray[np.int64], light: Light) -> Floats:
        z = view.height[index]
        grain = look_up(self.grain, view.azimuth[index] * view.distance[index] * 9, z * 3)
        lit = self._lit(light, 0.35 + 0.4 * view.u[index], 0.7)
        return np.asarray(_BARK * (1 + 0.3 * np.clip(grain, -1, 1))[:, None] * lit, dtype=np.float32)


def view_middle(view: View, index: npt.NDArray[np.int64]) -> Floats:
    """Return where along its wall a house's door is: a few metres from the corner, by its hash."""
    return np.asarray(2.0 + 3.5 * unit(view.key[index], 2), dtype=np.float32)


def _developed(linear: Floats, key: int) -> Bytes:
    """Expose, compress the highlights and encode a linear image as sRGB would."""
    exposure = 0.92 + 0.2 * (key >> 26 & 31) / 31
    bright = linear * np.float32(exposure)
    # A shoulder keeps white walls in the sun from clipping.
    toned = bright * (1 + bright * np.float32(0.18)) / (1 + bright * np.float32(0.42))
    encoded = np.sqrt(np.clip(toned, 0, 1), dtype=np.float32)
    encoded *= 255
    photo: Bytes = np.clip(np.rint(encoded), 0, 255).astype(np.uint8)
    return photo
