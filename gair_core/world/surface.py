"""The world at any point: what covers the ground, what stands on it, and how tall that is.

Scenes, labels and photos all ask this one function of place, so they agree with one another to the
centimetre: a photo shows what the scene shows because both sample the same surface. Edges of roads, houses
and crowns are exact and not cells of a raster, so a wall that a photo sees at a grazing angle is straight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from gair_core.world import layout as plan
from gair_core.world.layout import Layout
from gair_core.world.noise import Bytes, Flags, Floats, Hashes, Integers, hashes, mixed, seed_of, unit
from gair_core.world.spectra import CODE, CROP_SLOTS, FIRST_CROP

LAND_COVER: Final = (
    "water",
    "forest",
    "crops",
    "grass",
    "bare soil",
    "snow and ice",
    "road",
    "dense built-up",
    "sparse built-up",
)
"""Names of the land-cover classes; a class's number is its place here."""

COLOURS: Final = (
    (38, 107, 178),
    (24, 98, 44),
    (222, 190, 78),
    (140, 196, 92),
    (168, 128, 92),
    (240, 246, 255),
    (70, 70, 74),
    (196, 52, 44),
    (236, 150, 128),
)
"""Colour of each class of `LAND_COVER`: red, green, blue, 0 to 255."""

COVER: Final = {name: number for number, name in enumerate(LAND_COVER)}

_KIND_COVER: Final = np.array(
    [
        COVER[name]
        for name in (
            "dense built-up",
            "dense built-up",
            "sparse built-up",
            "dense built-up",
            "grass",
            "crops",
            "grass",
            "forest",
            "bare soil",
        )
    ],
    dtype=np.uint8,
)

TREE_CELL: Final = 8.0
_ROW_SPACING: Final = 9.0
CAR_LENGTH: Final = 4.3
CAR_HEIGHT: Final = 1.5
_STOREY: Final = 3.1


@dataclass(frozen=True)
class Place:
    """Where points lie in the plan; all arrays of shape (N,), lengths in metres.

    Attributes:
        x: Metres east of the city's centre.
        y: Metres north of the city's centre.
        fields: The slow fields, (N, 8).
        district: Number of the district.
        table: The district's row, (N, 30).
        block: One hash a block.
        across_a: Position in the block along the district's first axis, from its middle.
        across_b: The same along the second axis.
        road: Distance beyond the edge of the nearest road, negative on it.
        road_width: Half the width of that road; 0 for a bare boundary between fields.
        road_centre: Distance from the road's centre line.
        along: Position along that road.
        main: Whether the nearest road is a main road between districts.
        main_gap: Distance beyond the edge of the nearest main road.
        road_hash: One hash a road.
        edge_x: Direction across the nearest main road, first component; its sign is arbitrary.
        edge_y: The second component.
        kind: Kind of the district.
        side_a: Whether the nearest side street runs along the second axis.
    """

    x: Floats
    y: Floats
    fields: Floats
    district: Integers
    table: Floats
    block: Hashes
    across_a: Floats
    across_b: Floats
    road: Floats
    road_width: Floats
    road_centre: Floats
    along: Floats
    main: Flags
    main_gap: Floats
    road_hash: Hashes
    edge_x: Floats
    edge_y: Floats
    kind: Bytes
    side_a: Flags

    def subset(self, chosen: Flags) -> Place:
        """Return the chosen points only."""
        return Place(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Buildings:
    """What is built at points; arrays of shape (N,).

    Attributes:
        top: Height of the roof or of a car above the ground in metres, 0 where nothing stands.
        eave: Height of the walls in metres.
        car: Whether a parked car stands there.
        key: One hash a building or car.
        lot_a: Position along the district's first axis from the building's middle.
        lot_b: The same along the second.
        half_a: Half the building's size along the first axis.
        half_b: The same along the second.
        cleared: Whether the point is a plot that waits for its building.
    """

    top: Floats
    eave: Floats
    car: Flags
    key: Hashes
    lot_a: Floats
    lot_b: Floats
    half_a: Floats
    half_b: Floats
    cleared: Flags


@dataclass(frozen=True)
class _Lot:
    """The lots of points, see `Buildings`; ``inside`` where there is a lot, ``covered`` by its outline."""

    key: Hashes
    a: Floats
    b: Floats
    half_a: Floats
    half_b: Floats
    inside: Flags
    covered: Flags


@dataclass(frozen=True)
class Trees:
    """The crowns over points; arrays of shape (N,).

    Attributes:
        top: Height of the crown's top above the ground in metres, 0 where there is no tree.
        base: Height of its lower side.
        material: The tree's material.
        key: One hash a tree.
        offset_x: Position in the crown, from -1 in the west to 1 in the east of its rim.
        offset_y: The same from south to north.
        trunk: Whether the trunk passes through the point.
    """

    top: Floats
    base: Floats
    material: Bytes
    key: Hashes
    offset_x: Floats
    offset_y: Floats
    trunk: Flags


class _Block(NamedTuple):
    """The blocks that points lie in: coordinates in the district, in the block, and the block's number."""

    a: Floats
    b: Floats
    across_a: Floats
    across_b: Floats
    column: Integers
    row: Integers
    key: Hashes


class _Street(NamedTuple):
    """The nearest side streets of points, see `Place`."""

    centre: Floats
    width: Floats
    along: Floats
    key: Hashes
    side_a: Flags


def _block(table: Floats, x: Floats, y: Floats, seeds: Hashes) -> _Block:
    """Find the block of each point of a district."""
    dx, dy = x - table[:, plan.SITE_X], y - table[:, plan.SITE_Y]
    cos, sin = table[:, plan.COS], table[:, plan.SIN]
    a, b = dx * cos + dy * sin, dy * cos - dx * sin
    size_a, size_b = table[:, plan.BLOCK_A], table[:, plan.BLOCK_B]
    row = np.floor(b / size_b)
    across_b = b - (row + 0.5) * size_b
    # Rows of blocks are shifted against one another where streets do not go through.
    in_blocks = a / size_a + table[:, plan.STAGGER] * np.float32(0.618) * row
    column = np.floor(in_blocks)
    across_a = (in_blocks - column - 0.5) * size_a
    columns, rows = column.astype(np.int32), row.astype(np.int32)
    return _Block(a, b, across_a, across_b, columns, rows, hashes(columns, rows, seeds))


def _nearest_street(table: Floats, block: _Block, seeds: Hashes) -> _Street:
    """Find the nearer of the two side streets around a block; some boundaries of fields carry no track."""
    street, tracks = table[:, plan.STREET], table[:, plan.TRACKS]
    key_a = hashes(block.column + (block.across_a > 0), block.row, seeds ^ np.uint32(0x51ED))
    key_b = hashes(block.row + (block.across_b > 0), block.row * 0, seeds ^ np.uint32(0xA511))
    width_a = np.where(unit(key_a, 0) < tracks, street, 0)
    width_b = np.where(unit(key_b, 0) < tracks, street, 0)
    centre_a = table[:, plan.BLOCK_A] / 2 - np.abs(block.across_a)
    centre_b = table[:, plan.BLOCK_B] / 2 - np.abs(block.across_b)
    side_a = centre_a - width_a < centre_b - width_b
    return _Street(
        centre=np.where(side_a, centre_a, centre_b),
        width=np.where(side_a, width_a, width_b),
        along=np.where(side_a, block.b, block.a),
        key=np.where(side_a, key_a, key_b),
        side_a=side_a,
    )


class Surface:
    """The surface of one city in one year.

    Args:
        layout: Its plan.
        seed: The city's seed.
        year: Fields rotate, plots are built up and woods are felled from year to year.
        conifers: Share of conifers among the trees, 0-1.
        palms: Share of palms among the trees, 0-1.
    """

    def __init__(self, layout: Layout, seed: int, year: int, conifers: float, palms: float) -> None:
        self.layout = layout
        self.seed = seed
        self.year = year
        self.conifers = conifers
        self.palms = palms

    def fields(self, x: Floats, y: Floats) -> tuple[Floats, Integers]:
        """Return the slow fields (N, 8) at points, bilinear, and the nearest node of each."""
        layout = self.layout
        u, v = (x - layout.west) * (1 / plan.NODE), (y - layout.south) * (1 / plan.NODE)
        u = np.clip(u, 0, layout.columns - 1.001).astype(np.float32)
        v = np.clip(v, 0, layout.rows - 1.001).astype(np.float32)
        column, row = u.astype(np.int32), v.astype(np.int32)
        fu, fv = (u - column)[:, None], (v - row)[:, None]
        corner = row * layout.columns + column
        fields = layout.fields
        south = fields.take(corner, axis=0)
        south += (fields.take(corner + 1, axis=0) - south) * fu
        north = fields.take(corner + layout.columns, axis=0)
        north += (fields.take(corner + layout.columns + 1, axis=0) - north) * fu
        south += (north - south) * fv
        node = corner + (fu[:, 0] > 0.5) + layout.columns * (fv[:, 0] > 0.5)
        return south, node.astype(np.int32)

    def elevation(self, x: Floats, y: Floats) -> Floats:
        """Return the height of the ground above the water in metres."""
        return self.fields(x, y)[0][:, plan.ELEVATION]

    def place(self, x: Floats, y: Floats) -> Place:
        """Find points in the plan.

        Args:
            x: Metres east of the city's centre, float32 of shape (N,).
            y: Metres north of it.
        """
        fields, node = self.fields(x, y)
        bent_x, bent_y = x + fields[:, plan.BEND_X], y + fields[:, plan.BEND_Y]
        first, second, gap, edge_x, edge_y = self._districts(bent_x, bent_y, node)
        table = self.layout.districts.take(first, axis=0)
        seeds = self.layout.seeds[first]
        block = _block(table, bent_x, bent_y, seeds)
        street = _nearest_street(table, block, seeds)
        main_width = np.maximum(table[:, plan.MAIN_ROAD], self.layout.districts[second, plan.MAIN_ROAD])
        main_gap = gap - main_width
        main = main_gap < street.centre - street.width
        # The same for both districts beside the road.
        pair = mixed(seeds + self.layout.seeds[second])
        return Place(
            x=x,
            y=y,
            fields=fields,
            district=first,
            table=table,
            block=block.key,
            across_a=block.across_a,
            across_b=block.across_b,
            road=np.where(main, main_gap, street.centre - street.width),
            road_width=np.where(main, main_width, street.width),
            road_centre=np.where(main, gap, street.centre),
            along=np.where(main, bent_y * edge_x - bent_x * edge_y, street.along),
            main=main,
            main_gap=main_gap,
            road_hash=np.where(main, pair, street.key),
            edge_x=edge_x,
            edge_y=edge_y,
            kind=table[:, plan.KIND].astype(np.uint8),
            side_a=street.side_a,
        )

    def _districts(
        self, x: Floats, y: Floats, node: Integers
    ) -> tuple[Integers, Integers, Floats, Floats, Floats]:
        """Return the nearest and the next district, the distance to the border and its normal."""
        table = self.layout.districts
        candidates = self.layout.nearest.take(node, axis=0)
        sites_x, sites_y = table[:, plan.SITE_X], table[:, plan.SITE_Y]
        squares = []
        for k in range(3):
            number = candidates[:, k]
            squares.append((x - sites_x[number]) ** 2 + (y - sites_y[number]) ** 2)
        c0, c1, c2 = candidates[:, 0], candidates[:, 1], candidates[:, 2]
        swap = squares[1] < squares[0]
        first, second = np.where(swap, c1, c0), np.where(swap, c0, c1)
        near, next_one = np.minimum(squares[0], squares[1]), np.maximum(squares[0], squares[1])
        closest, middle = squares[2] < near, squares[2] < next_one
        second = np.where(closest, first, np.where(middle, c2, second))
        first = np.where(closest, c2, first)
        next_one = np.where(closest, near, np.minimum(next_one, squares[2]))
        near = np.minimum(near, squares[2])
        across_x, across_y = sites_x[second] - sites_x[first], sites_y[second] - sites_y[first]
        length = np.hypot(across_x, across_y)
        gap = (next_one - near) / (2 * length)
        # One direction for both sides of a road, so that positions along it agree.
        sign = np.where(first < second, np.float32(1), np.float32(-1)) / length
        return first, second, gap, across_x * sign, across_y * sign

    def _road_on_ground(self, place: Place) -> Flags:
        """Return where there is road: on land, and main roads on bridges over rivers."""
        lake, river = place.fields[:, plan.LAKE], place.fields[:, plan.RIVER]
        return (place.road < 0) & (lake > 2) & ((river > 2) | place.main)

    def water(self, place: Place) -> Flags:
        """Return where there is open water: rivers, lakes and the sea, but for bridges."""
        wet = np.minimum(place.fields[:, plan.LAKE], place.fields[:, plan.RIVER]) < 0
        return wet & ~self._road_on_ground(place)

    def wooded(self, place: Place) -> Flags:
        """Return where natural or planted woodland grows that has not been felled lately."""
        kind = place.kind
        natural = (place.fields[:, plan.WOODLAND] > 0) & ((kind == plan.FIELDS) | (kind == plan.PASTURE))
        woods = natural | (kind == plan.WOODS)
        # One block in twelve is felled in some year and grows back after eight.
        felled = (unit(place.block, 3) < 0.25) & (
            (self.year + (place.block & np.uint32(31)).astype(np.int32)) % 32 < 8
        )
        grown: Flags = woods & ~(felled & (kind == plan.WOODS))
        return grown

    def undeveloped(self, place: Place) -> tuple[Flags, Flags]:
        """Return where a block in town is still a meadow, and where it has just been cleared for building.

        One block in eight is developed in one of the years 2017 to 2032; it lies bare for two years before.
        """
        key = mixed(place.block ^ np.uint32(0xB10C))
        ready = 2017 + np.floor(unit(key, 1) * 16)
        late = (place.kind <= plan.INDUSTRY) & (unit(key, 0) < 0.125) & (self.year < ready)
        bare = late & (self.year >= ready - 2)
        return late & ~bare, bare

    def greens(self, place: Place) -> Flags:
        """Return where a block in town is a small park, a school ground or a playing field."""
        return (place.kind <= plan.INDUSTRY) & (unit(place.block, 1) < 0.075)

    def buildings(self, place: Place) -> Buildings:
        """Return what is built at points."""
        lot = self._lot(place)
        wanted, built = self._occupied(place, lot)
        stands = lot.covered & wanted & built
        eave, top = self._heights(place, lot)
        car, car_top, car_key = self._cars(place)
        return Buildings(
            top=np.where(stands, top, car_top).astype(np.float32),
            eave=np.where(stands, eave, car_top).astype(np.float32),
            car=car & ~stands,
            key=np.where(stands, lot.key, car_key),
            lot_a=lot.a,
            lot_b=lot.b,
            half_a=lot.half_a,
            half_b=lot.half_b,
            cleared=lot.covered & wanted & ~built,
        )

    def _lot(self, place: Place) -> _Lot:
        """Find the lot of each point and the outline of its building."""
        table = place.table
        size_a, size_b = table[:, plan.LOT_A], table[:, plan.LOT_B]
        lots_a, lots_b = table[:, plan.LOTS_A], table[:, plan.LOTS_B]
        in_a = place.across_a / size_a + lots_a / 2
        in_b = place.across_b / size_b + lots_b / 2
        index_a, index_b = np.floor(in_a), np.floor(in_b)
        key = hashes(index_a.astype(np.int32), index_b.astype(np.int32), place.block)
        inside = (index_a >= 0) & (index_a < lots_a) & (index_b >= 0) & (index_b < lots_b)
        # In the centre houses stand wall to wall around a court.
        ring = table[:, plan.RING] > 0
        rim = (index_a == 0) | (index_a == lots_a - 1) | (index_b == 0) | (index_b == lots_b - 1)
        half_a = size_a * 0.5 * np.where(ring, 1.0, table[:, plan.FILL_A] * (0.75 + 0.5 * unit(key, 0)))
        half_b = size_b * 0.5 * np.where(ring, 1.0, table[:, plan.FILL_B] * (0.75 + 0.5 * unit(key, 1)))
        a, b = (in_a - index_a - 0.5) * size_a, (in_b - index_b - 0.5) * size_b
        return _Lot(
            key=key,
            a=a.astype(np.float32),
            b=b.astype(np.float32),
            half_a=half_a.astype(np.float32),
            half_b=half_b.astype(np.float32),
            inside=inside & (~ring | rim),
            covered=(np.abs(a) < half_a) & (np.abs(b) < half_b),
        )

    def _occupied(self, place: Place, lot: _Lot) -> tuple[Flags, Flags]:
        """Return where a lot has a building at some time, and where it has one by now."""
        table = place.table
        dry = np.minimum(place.fields[:, plan.LAKE], place.fields[:, plan.RIVER]) > 9
        clear = place.main_gap > table[:, plan.MARGIN] + np.where(table[:, plan.RING] > 0, 0, 2)
        open_land = (place.fields[:, plan.WOODLAND] < -0.05) | (place.kind < plan.FIELDS)
        kept_free = self.greens(place) | np.logical_or(*self.undeveloped(place))
        wanted = lot.inside & clear & dry & open_land & ~kept_free
        wanted &= unit(lot.key, 2) < table[:, plan.PRESENCE]
        # One plot in fourteen was built on in one of the years 2015 to 2028.
        young = unit(mixed(lot.key ^ np.uint32(77)), 0)
        return wanted, (young >= 1 / 14) | (2015 + np.floor(young * 14 * 14) <= self.year)

    def _heights(self, place: Place, lot: _Lot) -> tuple[Floats, Floats]:
        """Return the heights of eaves and roofs over points, in whole storeys and roofs pitched on top."""
        table = place.table
        low, high = table[:, plan.LOW], table[:, plan.HIGH]
        wanted = low + (high - low) * unit(lot.key, 3) ** table[:, plan.HIGH_POWER]
        eave = np.maximum(np.round(wanted / _STOREY), 1) * np.float32(_STOREY)
        from_edge = np.where(lot.half_a > lot.half_b, lot.half_b - np.abs(lot.b), lot.half_a - np.abs(lot.a))
        return eave, eave + table[:, plan.PITCH] * from_edge

    def _cars(self, place: Place) -> tuple[Flags, Floats, Hashes]:
        """Park cars along the kerbs of streets in town."""
        cell = np.floor(place.along * (1 / 6.2))
        offset = place.along - (cell + 0.5) * np.float32(6.2)
        key = hashes(cell.astype(np.int32), np.zeros_like(place.district), place.block ^ np.uint32(self.year))
        lane = (place.road > -2.1) & (place.road < -0.3) & (place.kind <= plan.INDUSTRY) & ~place.main
        parked = lane & (np.abs(offset) < CAR_LENGTH / 2) & (unit(key, 0) < 0.2) & self._road_on_ground(place)
        bonnet = np.abs(offset + 0.2) > CAR_LENGTH * 0.3
        top = np.where(parked, np.where(bonnet, np.float32(0.85), np.float32(CAR_HEIGHT)), np.float32(0))
        return parked, top.astype(np.float32), key

    def trees(self, place: Place, taken: Flags) -> Trees:
        """Return the crowns over points.

        Args:
            place: The points.
            taken: Where a building stands, so that no tree can.
        """
        wooded = self.wooded(place)
        lattice = self._lattice_trees(place, wooded)
        rows = self._row_trees(place, wooded)
        size = np.where(rows[0] > lattice[0], rows[0], lattice[0])
        from_rows = rows[0] > lattice[0]
        chosen = [np.where(from_rows, one, other) for one, other in zip(rows, lattice, strict=True)]
        _, offset_x, offset_y, key, radius = chosen
        key = key.astype(np.uint32)
        free = ~taken & (size > 0) & ~self.water(place)
        draw = unit(key, 2)
        # Woods come in stands, some of needles and some of leaves.
        stand = np.clip(self.conifers + 1.3 * (unit(mixed(place.block ^ np.uint32(0xF0)), 0) - 0.5), 0, 1)
        stand = stand * np.float32(self.conifers > 0)
        conifer = draw < np.where(wooded, stand, np.float32(self.conifers * 0.5))
        palm = ~conifer & (draw > 1 - self.palms)
        material = np.where(conifer, CODE["conifer"], np.where(palm, CODE["palm"], CODE["broadleaf"]))
        second = ~conifer & ~palm & ((key >> np.uint32(9)) & np.uint32(1) > 0)
        material = np.where(second, CODE["second broadleaf"], material).astype(np.uint8)
        # Leaves make the outline of a crown ragged.
        leaf = hashes(np.floor(place.x * 2.3).astype(np.int32), np.floor(place.y * 2.3).astype(np.int32), key)
        ragged = unit(leaf, 0) - np.float32(0.5)
        squared = (offset_x**2 + offset_y**2) * (1 + 0.3 * ragged)
        tall = np.where(wooded, 9 + 9 * unit(key, 1), 4.5 + 5.5 * unit(key, 1)) * np.where(palm, 1.3, 1.0)
        arch = np.sqrt(np.maximum(1 - squared, 0))
        dome = np.where(conifer, 1 - 0.95 * np.sqrt(squared), (0.62 + 0.38 * arch) * (1 + 0.1 * ragged))
        dome = np.where(squared < 1, dome, 0)
        top = np.where(free, tall * dome, 0)
        hollow = np.where(conifer, 0.1, np.where(palm, 0.86 - 0.1 * arch, 0.6 - 0.27 * arch + 0.04 * ragged))
        # A wood is seen from its rim: trunks and crowns there, and a dark mass behind them.
        natural = (place.kind == plan.FIELDS) | (place.kind == plan.PASTURE)
        deep = wooded & (place.road > 11) & (~natural | (place.fields[:, plan.WOODLAND] > 0.035))
        base = np.where(deep, 0.0, tall * hollow)
        return Trees(
            top=top.astype(np.float32),
            base=base.astype(np.float32),
            material=material,
            key=key,
            offset_x=offset_x.astype(np.float32),
            offset_y=offset_y.astype(np.float32),
            trunk=free & ((offset_x**2 + offset_y**2) * radius**2 < 0.09),
        )

    def _lattice_trees(self, place: Place, wooded: Flags) -> tuple[Floats, Floats, Floats, Hashes, Floats]:
        """Scatter trees over blocks: one chance in each cell of a jittered lattice."""
        table = place.table
        in_a = (place.across_a + table[:, plan.BLOCK_A] / 2) * np.float32(1 / TREE_CELL)
        in_b = (place.across_b + table[:, plan.BLOCK_B] / 2) * np.float32(1 / TREE_CELL)
        index_a, index_b = np.floor(in_a), np.floor(in_b)
        key = hashes(index_a.astype(np.int32), index_b.astype(np.int32), place.block ^ np.uint32(0x7EE5))
        radius = 2.3 + 1.7 * unit(key, 1)
        room = np.maximum(TREE_CELL / 2 - radius, 0)
        jitter = mixed(key ^ np.uint32(5))
        da = (in_a - index_a - 0.5) * TREE_CELL - (unit(jitter, 0) - 0.5) * 2 * room
        db = (in_b - index_b - 0.5) * TREE_CELL - (unit(jitter, 1) - 0.5) * 2 * room
        radius = np.where(wooded, radius * 1.45, radius)
        # The trunk's own distance from the streets decides, so that crowns are whole.
        half_a, half_b = table[:, plan.BLOCK_A] / 2, table[:, plan.BLOCK_B] / 2
        gap = np.minimum(half_a - np.abs(place.across_a - da), half_b - np.abs(place.across_b - db))
        gap = np.minimum(gap - table[:, plan.STREET], place.main_gap)
        # Some blocks are leafier than others.
        share = np.where(wooded, 0.97, table[:, plan.TREES] * (0.35 + 1.3 * unit(place.block, 2)))
        share = np.where(self.greens(place), np.float32(0.3), share)
        felled = (place.kind == plan.WOODS) & ~wooded
        share = np.where(felled | np.logical_or(*self.undeveloped(place)), np.float32(0.02), share)
        grows = (unit(key, 0) < share) & (gap > table[:, plan.MARGIN] + 0.5)
        squared = (da * da + db * db) / radius**2
        size = np.where(grows & (squared < 1), 1 - squared, 0)
        cos, sin = table[:, plan.COS], table[:, plan.SIN]
        return size, (da * cos - db * sin) / radius, (da * sin + db * cos) / radius, key, radius

    def _row_trees(self, place: Place, wooded: Flags) -> tuple[Floats, Floats, Floats, Hashes, Floats]:
        """Plant rows of trees along some roads and hedges along some fields."""
        table = place.table
        hedge = place.road_width == 0
        spacing = np.where(hedge, np.float32(4.5), np.float32(_ROW_SPACING))
        cell = np.floor(place.along / spacing)
        along = place.along - (cell + 0.5) * spacing
        # The two sides of a road are told apart by the block that the point lies in.
        key = hashes(
            cell.astype(np.int32), (place.road_hash & np.uint32(0xFFFF)).astype(np.int32), place.road_hash
        )
        radius = np.where(hedge, np.float32(2.4), 2.4 + 1.2 * unit(key, 1))
        across = place.road_centre - np.where(hedge, 0, place.road_width + 1.9)
        share = table[:, plan.ROW_TREES]
        lined = unit(place.road_hash, 1) < np.where(place.main, np.minimum(share * 1.6, 0.9), share)
        rural = (place.kind >= plan.FIELDS) & (place.kind != plan.PARK)
        lined &= ~(hedge & ~rural) & ~wooded & (unit(key, 0) < 0.9)
        # Keep whole crowns away from crossings.
        half_a, half_b = table[:, plan.BLOCK_A] / 2, table[:, plan.BLOCK_B] / 2
        gap_a, gap_b = half_a - np.abs(place.across_a - along), half_b - np.abs(place.across_b - along)
        crossing = np.where(place.side_a, gap_b, gap_a) - table[:, plan.STREET]
        lined &= place.main | ((crossing > 6) & (place.main_gap > 7))
        squared = (along * along + across * across) / radius**2
        size = np.where(lined & (squared < 1), 1 - squared, 0)
        # In the frame of the road: good enough for the light on a crown.
        return size, along / radius, across / radius, key, radius

    def ground(self, place: Place, built: Buildings) -> Bytes:
        """Return the material that covers the ground at points, below trees and roofs."""
        table, kind = place.table, place.kind
        floor = table[:, plan.FLOOR]
        slot = self.crop_slot(place.block)
        material = np.where(floor < 0, slot, floor).astype(np.uint8)
        pasture_dry = (kind == plan.PASTURE) & (unit(place.block, 2) < 0.2)
        material[pasture_dry] = CODE["dry grass"]
        material[self.wooded(place)] = CODE["shrub"]
        material[(kind == plan.WOODS) & ~self.wooded(place)] = CODE["dirt"]
        lots = kind <= plan.INDUSTRY
        material[(kind == plan.CENTRE) & (unit(place.block, 0) < 0.35)] = CODE["garden"]
        material[(kind == plan.TOWERS) & (unit(built.key, 1) < 0.3)] = CODE["asphalt"]
        material[(kind == plan.INDUSTRY) & (unit(place.block, 0) < 0.55)] = CODE["asphalt"]
        material[(kind == plan.INDUSTRY) & (unit(built.key, 2) > 0.9)] = CODE["grass"]
        material[(kind == plan.PARK) & (unit(place.block, 0) < 0.18)] = CODE["playing field"]
        material[built.cleared & lots] = CODE["bare soil"]
        green = self.greens(place)
        pitch = unit(place.block, 0) < 0.3
        material[green] = np.where(pitch[green], CODE["playing field"], CODE["grass"])
        meadow, cleared = self.undeveloped(place)
        material[meadow] = CODE["grass"]
        material[cleared] = CODE["bare soil"]
        pavement = (place.road < table[:, plan.MARGIN]) & lots & (place.road_width > 0)
        material[pavement] = CODE["paving"]
        verge = (place.road < 1.5) & ~lots & (place.road_width > 0) & (kind != plan.BARREN)
        material[verge] = CODE["grass"]
        return self._roads_and_water(place, material)

    def _roads_and_water(self, place: Place, material: Bytes) -> Bytes:
        shore = np.minimum(place.fields[:, plan.LAKE], place.fields[:, plan.RIVER])
        bank = (shore < 5 + 4 * place.fields[:, plan.VIGOUR]) & (place.kind >= plan.PARK)
        lake = place.fields[:, plan.LAKE] < place.fields[:, plan.RIVER]
        material[bank] = np.where(lake[bank], CODE["sand"], CODE["shrub"])
        material[shore < 0] = CODE["shallow water"]
        material[shore < -14] = CODE["water"]
        road = self._road_on_ground(place)
        rural = place.kind >= plan.FIELDS
        dirt = rural & ~place.main
        material[road] = np.where(dirt[road], CODE["dirt"], CODE["asphalt"])
        return material

    def lanes(self, place: Place) -> Flags:
        """Return where a camera may drive: in a lane, clear of what is parked and of low crowns."""
        lane = (place.road_centre > 0.25 * place.road_width) & (place.road_centre < 0.55 * place.road_width)
        lane |= place.road_width < 2.5
        crowns = self.trees(place, np.zeros(len(place.x), dtype=np.bool_))
        lane &= (crowns.top == 0) | (crowns.base > 3)
        return lane & (place.road_width > 1.5) & (place.road < 0) & self._road_on_ground(place)

    def road_direction(self, place: Place) -> Floats:
        """Return the direction of the nearest road, radians clockwise from north, one of the two."""
        cos, sin = place.table[:, plan.COS], place.table[:, plan.SIN]
        # A side street runs along the axis that it does not cross.
        east = np.where(place.side_a, -sin, cos)
        north = np.where(place.side_a, cos, sin)
        east = np.where(place.main, -place.edge_y, east)
        north = np.where(place.main, place.edge_x, north)
        return np.arctan2(east, north).astype(np.float32)

    def crop_slot(self, block: Hashes) -> Bytes:
        """Rotate crops: a field's slot changes from year to year."""
        slot = mixed(block ^ np.uint32(seed_of(self.year))) & np.uint32(CROP_SLOTS - 1)
        return (slot + FIRST_CROP).astype(np.uint8)

    def roof(self, place: Place, built: Buildings) -> Bytes:
        """Return the material of the roof, or of the car, at points."""
        common = place.table[:, plan.ROOF].astype(np.uint8)
        odd = np.array(
            [CODE[name] for name in ("gravel roof", "white roof", "metal", "slate")], dtype=np.uint8
        )
        mixed_key = mixed(built.key ^ np.uint32(3))
        other = odd[(mixed_key & np.uint32(3)).astype(np.int32)]
        second = place.table[:, plan.SECOND_ROOF].astype(np.uint8)
        draw = unit(mixed_key, 1)
        roof = np.where(draw < 0.16, other, np.where(draw < 0.42, second, common))
        car = np.where(unit(mixed_key, 2) < 0.5, CODE["dark car"], CODE["bright car"])
        return np.where(built.car, car, roof).astype(np.uint8)

    def cover(self, place: Place, crowns: Trees, built: Buildings) -> Bytes:
        """Return the land-cover class of points, as an index into `LAND_COVER`; snow is not considered."""
        kind = place.kind
        cover = _KIND_COVER[kind]
        cover[(kind == plan.BARREN) & (place.table[:, plan.FLOOR] == CODE["shrub"])] = COVER["grass"]
        cover[(kind == plan.WOODS) & ~self.wooded(place)] = COVER["bare soil"]
        cover[self.wooded(place)] = COVER["forest"]
        rural = kind >= plan.PARK
        cover[rural & (crowns.top > 2) & (built.top == 0)] = COVER["forest"]
        cover[rural & (built.top > 2)] = COVER["sparse built-up"]
        cover[built.cleared & ~rural] = COVER["bare soil"]
        meadow, cleared = self.undeveloped(place)
        cover[meadow] = COVER["grass"]
        cover[cleared] = COVER["bare soil"]
        cover[self.greens(place)] = COVER["grass"]
        cover[self._road_on_ground(place)] = COVER["road"]
        cover[self.water(place)] = COVER["water"]
        return cover
