"""What a camera in a street sees: rays marched over the surface, one fan of columns per photo.

Every column of a photo is a vertical half plane. Along it the surface is sampled at growing distances; the
highest line of sight so far hides everything below it, so the first sample that rises above a pixel's line
of sight is what the pixel shows. Walls are then moved to where the ray really enters the building, by
bisection, and crowns that hang free over the ground are laid over the result as vertical spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gair_core.world import layout as plan
from gair_core.world.noise import Bytes, Flags, Floats, Hashes, Integers, look_up, texture
from gair_core.world.spectra import CODE
from gair_core.world.surface import Buildings, Place, Surface

EYE: Final = 2.3
"""Height of the camera above the road in metres, as on the roof of a small car."""

REACH: Final = 1500.0
"""How far a photo sees, in metres."""

HALF_VIEW: Final = np.radians(46.0)
"""Half of the horizontal angle of view."""

SKY, GROUND, WALL, ROOF, FOLIAGE, CAR, BARK = range(7)

_TALL: Final = 0.25
"""Height in metres from which a crop hides what is behind it."""

INTERIOR: Final = 255
"""Stands in `View.wall` for the inside of a wood."""


def _distances() -> Floats:
    """Return the distances of samples along a ray: every half metre near by, then every 2.6 %."""
    steps = [1.2]
    while steps[-1] < REACH:
        steps.append(steps[-1] + max(0.45, 0.026 * steps[-1]))
    return np.array(steps, dtype=np.float32)


DISTANCES: Final = _distances()


@dataclass(frozen=True)
class View:
    """What each pixel of a photo shows; arrays of shape (H x W,), row by row, unless stated otherwise.

    Attributes:
        kind: SKY, GROUND, WALL, ROOF, FOLIAGE or CAR.
        distance: Horizontal distance in metres; infinite in the sky.
        height: Height above the ground at the foot of what is seen, in metres.
        x: Metres east of the city's centre.
        y: Metres north of it.
        material: Material of a crown, or of what grows on the ground.
        key: Hash of the building, car or tree.
        u: Position along a wall from its corner in metres; in a crown, from -1 to 1 towards the sun.
        extent: Height of the wall or of the crown's top in metres.
        normal: Direction that a wall faces, radians clockwise from north.
        style: Kind of the district.
        wall: Number of the district's wall colour.
        azimuth: Direction of each pixel, radians clockwise from north.
        slope: Tangent of the elevation of each pixel's line of sight.
    """

    kind: Bytes
    distance: Floats
    height: Floats
    x: Floats
    y: Floats
    material: Bytes
    key: Hashes
    u: Floats
    extent: Floats
    normal: Floats
    style: Bytes
    wall: Bytes
    azimuth: Floats
    slope: Floats


@dataclass
class _March:
    """Samples along all columns of a photo; arrays of shape (W, S) or flat with W x S entries."""

    place: Place
    built: Buildings
    solid: Floats
    foliage: Flags
    grown: Floats
    material: Bytes
    tree_key: Hashes
    tree_light: Floats
    tree_top: Floats
    tree_base: Floats
    trunk: Flags
    ground: Floats
    distance: Floats
    walls: Flags


@dataclass(frozen=True)
class _Rays:
    """Where a photo is taken from, and the direction of every sample of `_March`."""

    x: np.float32
    y: np.float32
    eye: float
    azimuth: Floats
    east: Floats
    north: Floats

    def points(self, distance: Floats, index: npt.NDArray[np.int64] | slice) -> tuple[Floats, Floats]:
        """Return the points at distances along some of the samples' rays."""
        return self.x + self.east[index] * distance, self.y + self.north[index] * distance


def _march(
    surface: Surface, points: tuple[Floats, Floats], distance: Floats, heights: Floats, sun: float
) -> _March:
    """Sample the surface at points and say how tall it is there; ``heights`` are those of what grows."""
    place = surface.place(*points)
    built = surface.buildings(place)
    roofed = built.top > 0
    crowns = surface.trees(place, roofed & ~built.car)
    wooded = surface.wooded(place)
    field = (place.table[:, plan.FLOOR] < 0) & (place.road > 0.4) & ~wooded & ~surface.water(place)
    slot = surface.crop_slot(place.block)
    grown = np.where(field, heights[slot], 0).astype(np.float32)
    grown = np.where(wooded & (place.road > 1), heights[CODE["shrub"]], grown)
    rooted = (crowns.top > 0) & (crowns.base <= 0.01)
    solid = np.maximum(built.top, grown)
    foliage = rooted & (crowns.top > solid)
    hanging = (crowns.top > 0) & ~rooted
    light = crowns.offset_x * np.float32(np.sin(sun)) + crowns.offset_y * np.float32(np.cos(sun))
    return _March(
        place=place,
        built=built,
        solid=np.where(foliage, crowns.top, solid),
        foliage=foliage,
        grown=grown,
        material=np.where(foliage | hanging, crowns.material, np.where(field, slot, CODE["shrub"])).astype(
            np.uint8
        ),
        tree_key=crowns.key,
        tree_light=light,
        tree_top=np.where(hanging, crowns.top, 0),
        tree_base=crowns.base,
        trunk=crowns.trunk & hanging,
        ground=place.fields[:, plan.ELEVATION],
        distance=distance,
        walls=np.zeros(len(distance), dtype=np.bool_),
    )


def _first_steps(rows: npt.NDArray[np.integer], height: int) -> Integers:
    """Return the first sample that each pixel sees.

    Args:
        rows: Uppermost row that each sample covers, (W, S), from 0 to ``height`` (none).
        height: Number of rows.

    Returns:
        int32 of shape (W, H): the number of a sample, or S where the pixel sees the sky.
    """
    width, steps = rows.shape
    highest = np.minimum.accumulate(rows, axis=1)
    flat = highest + (np.arange(width) * (height + 1))[:, None]
    counts = np.bincount(flat.ravel(), minlength=width * (height + 1)).reshape(width, height + 1)
    first: Integers = (steps - np.cumsum(counts[:, :height], axis=1)).astype(np.int32)
    return first


class Camera:
    """A camera over one surface.

    Args:
        surface: The city's surface in the photo's year.
        heights: Height of what grows of each material, in metres.
        gaps: For each material the level of a texture (mean 0, deviation 1) below which a crown is open.
        sun: Azimuth of the sun in radians.
        size: Height and width of a photo in pixels.
    """

    def __init__(
        self, surface: Surface, heights: Floats, gaps: Floats, sun: float, size: tuple[int, int]
    ) -> None:
        self.surface = surface
        self.grain = texture(71, 0.4)
        self.gaps = gaps
        self.heights = heights
        self.sun = sun
        self.height, self.width = size
        self.focal = self.width / 2 / np.tan(HALF_VIEW)
        self.horizon = 0.53 * self.height
        offset = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        self.angle = np.arctan(offset).astype(np.float32)
        self.cosine = np.cos(self.angle).astype(np.float32)

    def view(self, x: float, y: float, heading: float) -> View:
        """Return what a photo shows.

        Args:
            x: Metres east of the city's centre.
            y: Metres north of it.
            heading: Direction of the photo's middle, radians clockwise from north.
        """
        rays = self._rays(x, y, heading)
        distance = np.tile(DISTANCES, self.width)
        points = rays.points(distance, slice(None))
        march = _march(self.surface, points, distance, self.heights, self.sun)
        self._enter_buildings(march, rays)
        rows = self._rows(march.ground + march.solid - rays.eye, march.distance)
        steps = _first_steps(rows, self.height)
        return self._resolve(march, rays, steps)

    def _rays(self, x: float, y: float, heading: float) -> _Rays:
        azimuth = self.angle + np.float32(heading)
        here = np.array([x], dtype=np.float32), np.array([y], dtype=np.float32)
        count = len(DISTANCES)
        return _Rays(
            x=np.float32(x),
            y=np.float32(y),
            eye=float(self.surface.elevation(*here)[0]) + EYE,
            azimuth=azimuth,
            east=np.repeat(np.sin(azimuth), count),
            north=np.repeat(np.cos(azimuth), count),
        )

    def _rows(self, rise: Floats, distance: Floats) -> Integers:
        """Return the uppermost row that something covers that rises so far above the eye, (W, S)."""
        depth = distance.reshape(self.width, -1) * self.cosine[:, None]
        line = self.horizon - self.focal * rise.reshape(depth.shape) / depth
        rows: Integers = np.clip(np.ceil(line - 0.5), 0, self.height).astype(np.int32)
        return rows

    def _enter_buildings(self, march: _March, rays: _Rays) -> None:
        """Move the first sample in every visible building to where the ray enters it."""
        shape = (self.width, -1)
        key = march.built.key.reshape(shape)
        standing = (march.built.top > 0).reshape(shape)
        entered = standing.copy()
        entered[:, 1:] &= ~standing[:, :-1] | (key[:, 1:] != key[:, :-1])
        entered[:, 0] = False
        rows = self._rows(march.ground + march.solid - rays.eye, march.distance)
        highest = np.minimum.accumulate(rows, axis=1)
        entered[:, 1:] &= highest[:, 1:] < highest[:, :-1]
        march.walls[:] = entered.ravel()
        index = np.flatnonzero(march.walls)
        if not len(index):
            return
        inside, outside = march.distance[index], march.distance[index - 1]
        wanted = march.built.key[index]
        for _ in range(6):
            middle = (inside + outside) / 2
            place = self.surface.place(*rays.points(middle, index))
            built = self.surface.buildings(place)
            hit = (built.top > 0) & (built.key == wanted)
            inside, outside = np.where(hit, middle, inside), np.where(hit, outside, middle)
        place = self.surface.place(*rays.points(inside, index))
        built = self.surface.buildings(place)
        march.distance[index] = inside
        for name in ("lot_a", "lot_b", "top", "eave"):
            getattr(march.built, name)[index] = getattr(built, name)
        march.solid[index] = np.maximum(built.top, march.grown[index])

    def _resolve(self, march: _March, rays: _Rays, steps: Integers) -> View:
        """Turn the first sample of each pixel into what the pixel shows."""
        height, width = self.height, self.width
        count = len(DISTANCES)
        # Columns first while marching, rows first in a photo.
        step = steps.T.ravel()
        column = np.tile(np.arange(width, dtype=np.int32), height)
        sample = column * count + np.minimum(step, count - 1)
        sky = step >= count
        row = np.repeat(np.arange(height, dtype=np.float32), width)
        cosine = self.cosine[column]
        slope = (self.horizon - row - 0.5) / self.focal * cosine
        distance = march.distance[sample]
        ground = march.ground[sample]
        seen = rays.eye + slope * distance - ground
        kind = self._kinds(march, sample, seen)
        kind[sky] = SKY
        top = march.solid[sample]
        # Level ground, and what grows on it, is met where the line of sight meets its height.
        level = (kind == GROUND) | ((kind == FOLIAGE) & ~march.foliage[sample])
        flat = np.where(kind == GROUND, 0, march.grown[sample])
        down = np.minimum(slope, -1e-4)
        exact = (ground + flat - rays.eye) / down
        previous = march.distance[np.maximum(sample - 1, 0)] * (step > 0)
        distance = np.where(level, np.clip(exact, np.maximum(previous, 0.5), distance), distance)
        # Where the line of sight comes down on a crop it shows its top, else its side at the field's edge.
        within = (march.grown[np.maximum(sample - 1, 0)] > _TALL) & (step > 0)
        on_top = (kind == FOLIAGE) & level & (within | (exact >= previous))
        seen = np.where(on_top, top, seen)
        view = View(
            kind=kind,
            distance=np.where(sky, np.float32(np.inf), distance),
            height=seen.astype(np.float32),
            x=rays.x + np.sin(rays.azimuth)[column] * distance,
            y=rays.y + np.cos(rays.azimuth)[column] * distance,
            material=march.material[sample],
            key=np.where(march.foliage[sample], march.tree_key[sample], march.built.key[sample]),
            u=np.where(march.foliage[sample], march.tree_light[sample], 0).astype(np.float32),
            extent=top.astype(np.float32),
            normal=np.zeros(len(sample), dtype=np.float32),
            style=march.place.kind[sample],
            wall=np.where(march.foliage[sample], INTERIOR, march.place.table[:, plan.WALL][sample]).astype(
                np.uint8
            ),
            azimuth=rays.azimuth[column],
            slope=slope,
        )
        self._face_walls(march, sample, view)
        self._hang_crowns(march, rays, step, view)
        return view

    def _kinds(self, march: _March, sample: Integers, seen: Floats) -> Bytes:
        standing = march.built.top[sample] > 0
        car = march.built.car[sample]
        kind = np.where(march.foliage[sample] | (march.grown[sample] > _TALL), FOLIAGE, GROUND).astype(
            np.uint8
        )
        kind[standing] = np.where(march.walls[sample], WALL, ROOF)[standing]
        kind[standing & car] = CAR
        # The bonnet, the boot and the roof of a car are seen from above, its screens from the front.
        before = march.built.top[np.maximum(sample - 1, 0)]
        screen = (march.built.top[sample] > before + 0.3) & (before > 0)
        above = standing & car & ~march.walls[sample] & ~screen
        seen[above] = np.where(march.built.top[sample] > 1, 1.45, 0.84)[above]
        # Between the last sample before a wall and its foot lies ground.
        kind[(seen < 0.02) & (kind != FOLIAGE)] = GROUND
        kind[(seen < 0.02) & (kind == FOLIAGE) & march.foliage[sample]] = GROUND
        return kind

    def _face_walls(self, march: _March, sample: Integers, view: View) -> None:
        """Say which face of its building every wall pixel lies on, and where along that face."""
        index = np.flatnonzero((view.kind == WALL) | (view.kind == ROOF))
        if not len(index):
            return
        at = sample[index]
        built, table = march.built, march.place.table
        half_a, half_b = built.half_a[at], built.half_b[at]
        lot_a, lot_b = built.lot_a[at], built.lot_b[at]
        end = half_a - np.abs(lot_a) < half_b - np.abs(lot_b)
        view.u[index] = np.where(end, lot_b + half_b, lot_a + half_a)
        view.extent[index] = built.eave[at]
        cos, sin = table[at, plan.COS], table[at, plan.SIN]
        sign_a, sign_b = np.sign(lot_a), np.sign(lot_b)
        east = np.where(end, cos * sign_a, -sin * sign_b)
        north = np.where(end, sin * sign_a, cos * sign_b)
        view.normal[index] = np.arctan2(east, north)

    def _hang_crowns(self, march: _March, rays: _Rays, step: Integers, view: View) -> None:
        """Lay the crowns and trunks of single trees over a photo, the farthest first."""
        count = len(DISTANCES)
        # Columns stay together and run from far to near, so that the nearest is written last.
        order = np.flatnonzero((march.tree_top > 0).reshape(self.width, count)[:, ::-1])
        column, back = order // count, order % count
        at_step = count - 1 - back
        at = column * count + at_step
        trunk = march.trunk[at]
        low = np.where(trunk, 0, march.tree_base[at])
        depth = march.distance[at] * self.cosine[column]
        foot = march.ground[at] - rays.eye
        top_row = np.ceil(self.horizon - self.focal * (foot + march.tree_top[at]) / depth - 0.5)
        low_row = np.ceil(self.horizon - self.focal * (foot + low) / depth - 0.5)
        top_row = np.clip(top_row, 0, self.height).astype(np.int32)
        low_row = np.clip(low_row, 0, self.height).astype(np.int32)
        length = low_row - top_row
        keep = length > 0
        at, column, at_step, top_row, length = (
            at[keep],
            column[keep],
            at_step[keep],
            top_row[keep],
            length[keep],
        )
        if not len(at):
            return
        span = np.repeat(np.arange(len(at)), length)
        inside = np.arange(len(span)) - np.repeat(np.cumsum(length) - length, length)
        pixel = (top_row[span] + inside) * self.width + column[span]
        free = step[pixel] >= at_step[span]
        free &= self._leafy(march, rays, at[span], column[span], pixel // self.width)
        owner = np.full(self.height * self.width, -1, dtype=np.int64)
        owner[pixel[free]] = at[span[free]]
        index = np.flatnonzero(owner >= 0)
        self._write_crowns(march, rays, view, index, owner[index])

    def _leafy(
        self,
        march: _March,
        rays: _Rays,
        at: npt.NDArray[np.int64],
        column: npt.NDArray[np.int64],
        row: npt.NDArray[np.int64],
    ) -> Flags:
        """Return where a crown has leaves or twigs and not a gap."""
        distance = march.distance[at]
        along = rays.azimuth[column] * distance * 7
        up = (self.horizon - row) / self.focal * distance * 7
        gaps = self.gaps[march.material[at]]
        return (look_up(self.grain, along, up) > gaps) | march.trunk[at]

    def _write_crowns(
        self,
        march: _March,
        rays: _Rays,
        view: View,
        index: npt.NDArray[np.int64],
        at: npt.NDArray[np.int64],
    ) -> None:
        distance = march.distance[at]
        height = rays.eye + view.slope[index] * distance - march.ground[at]
        bark = march.trunk[at] & (height < march.tree_base[at])
        view.kind[index] = np.where(bark, BARK, FOLIAGE)
        view.distance[index] = distance
        view.height[index] = height
        view.x[index] = rays.x + np.sin(view.azimuth[index]) * distance
        view.y[index] = rays.y + np.cos(view.azimuth[index]) * distance
        view.material[index] = march.material[at]
        view.key[index] = march.tree_key[at]
        view.u[index] = march.tree_light[at]
        view.extent[index] = march.tree_top[at]
        view.wall[index] = 0
