"""The plan of a place: rivers, lakes, hills and woods from layered noise, and districts between main roads.

Main roads run along the borders of Voronoi cells, so they form one connected network of junctions with three
arms. Inside of a cell (a district) streets follow a lattice of the district's own direction and width, and
the lattice's cells are the blocks, parcels and fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from gair_core.world.noise import Floats, Integers, layered_noise, seed_of, smooth_step, uniform_of
from gair_core.world.regions import Region
from gair_core.world.spectra import CODE

NODE: Final = 20.0
"""Distance of the nodes on which the slow fields are stored, in metres."""

DISTRICT: Final = 620.0
"""Mean distance of the districts' centres in metres."""

TOWN: Final = 7000.0
"""Mean distance of towns in metres."""

CENTRE, TOWERS, HOUSES, INDUSTRY, PARK, FIELDS, PASTURE, WOODS, BARREN = range(9)
RURAL: Final = (FIELDS, PASTURE, WOODS, BARREN)

# Columns of the slow fields.
BEND_X, BEND_Y, RIVER, LAKE, WOODLAND, ELEVATION, VIGOUR, SPARE = range(8)

# Columns of the table of districts.
(
    SITE_X,
    SITE_Y,
    COS,
    SIN,
    BLOCK_A,
    BLOCK_B,
    STREET,
    KIND,
    STAGGER,
    LOT_A,
    LOT_B,
    LOTS_A,
    LOTS_B,
    FILL_A,
    FILL_B,
    LOW,
    HIGH,
    PITCH,
    PRESENCE,
    RING,
    MAIN_ROAD,
    TRACKS,
    MARGIN,
    TREES,
    ROOF,
    WALL,
    ROW_TREES,
    FLOOR,
    HIGH_POWER,
    SECOND_ROOF,
) = range(30)


@dataclass(frozen=True)
class _Style:
    """How one kind of district is cut up and built; lengths in metres, shares 0-1."""

    block: tuple[float, float]
    lot: tuple[float, float]
    fill: tuple[float, float]
    height: tuple[float, float]
    skew: float
    presence: float
    ring: bool
    margin: float
    trees: float
    floor: str


_STYLES: Final = {
    CENTRE: _Style((118, 92), (15, 14), (1.0, 1.0), (9, 24), 1.2, 0.93, True, 3.2, 0.3, "paving"),
    TOWERS: _Style((170, 150), (56, 50), (0.48, 0.42), (18, 62), 1.0, 0.85, False, 4.0, 0.3, "grass"),
    HOUSES: _Style((150, 72), (19, 34), (0.6, 0.32), (4.2, 7.5), 1.5, 0.93, False, 2.4, 0.3, "garden"),
    INDUSTRY: _Style((190, 160), (88, 74), (0.72, 0.66), (6.5, 13), 2.0, 0.85, False, 3.0, 0.04, "concrete"),
    PARK: _Style((260, 210), (60, 60), (0.25, 0.2), (4, 6), 1.0, 0.03, False, 1.5, 0.34, "grass"),
    FIELDS: _Style((1, 0.72), (36, 34), (0.5, 0.38), (4.5, 8), 1.0, 0.018, False, 0.6, 0.0, "fields"),
    PASTURE: _Style((0.8, 0.6), (36, 34), (0.5, 0.38), (4.5, 7), 1.0, 0.014, False, 0.6, 0.015, "grass"),
    WOODS: _Style((420, 380), (50, 50), (0.2, 0.2), (4, 5), 1.0, 0.004, False, 0.6, 0.97, "shrub"),
    BARREN: _Style((340, 300), (40, 40), (0.35, 0.3), (3.5, 6), 1.0, 0.01, False, 0.6, 0.0, "barren"),
}


@dataclass(frozen=True)
class Layout:
    """The slow fields and the districts around a place.

    Attributes:
        west: Coordinate of the first column of nodes in metres.
        south: Coordinate of the first row of nodes in metres.
        columns: Number of columns of nodes.
        rows: Number of rows of nodes.
        fields: float32 (rows x columns, 8): bend of the streets (x, y), distance to the river and to the
            lake or sea (negative inside, about metres), woodland (positive inside), elevation in metres,
            vigour.
        nearest: int32 (rows x columns, 3): the three nearest districts of a node.
        districts: float32 (districts, 30): the columns above.
        seeds: uint32 (districts,): one hash a district.
    """

    west: float
    south: float
    columns: int
    rows: int
    fields: Floats
    nearest: Integers
    districts: Floats
    seeds: np.ndarray[tuple[int, ...], np.dtype[np.uint32]]


@dataclass(frozen=True)
class Character:
    """What tells one city of a region from another; drawn once from the city's seed.

    Attributes:
        seed: The city's seed.
        region: Its region.
        direction: Direction of a regular street grid in radians.
        coast: Direction of the sea in radians, or None inland.
        river: Half the width of the river in metres, 0 for none.
    """

    seed: int
    region: Region
    direction: float
    coast: float | None
    river: float


def character(seed: int, region: Region) -> Character:
    """Draw a city's character."""
    coastal = uniform_of(seed, 3) < 0.18 + 0.15 * region.lakes
    return Character(
        seed=seed,
        region=region,
        direction=(uniform_of(seed, 1) - 0.5) * (0.12 if uniform_of(seed, 2) < 0.5 else 1.4),
        coast=uniform_of(seed, 4) * 2 * np.pi if coastal else None,
        river=12 + 45 * uniform_of(seed, 5) ** 2 if uniform_of(seed, 6) < 0.75 else 0.0,
    )


def _to_metres(field: Floats) -> Floats:
    """Divide a field by its slope, so that near its zero it is a distance in metres."""
    along_y, along_x = np.gradient(field, NODE)
    slope = np.hypot(along_x, along_y)
    return np.asarray(field / np.maximum(slope, 0.25 * float(slope.mean()) + 1e-9), dtype=np.float32)


def _slow_fields(city: Character, x: Floats, y: Floats) -> Floats:
    seed, region = city.seed, city.region
    fields = np.zeros((*x.shape, 8), dtype=np.float32)
    fields[..., BEND_X] = region.bend * layered_noise(x, y, 520, 2, seed_of(seed, 21))
    fields[..., BEND_Y] = region.bend * layered_noise(x, y, 520, 2, seed_of(seed, 22))
    fields[..., RIVER] = 1e4
    if city.river:
        meander = _to_metres(layered_noise(x, y, 3100, 3, seed_of(seed, 23)))
        fields[..., RIVER] = np.abs(meander) - city.river * (
            1 + 0.35 * layered_noise(x, y, 900, 2, seed_of(seed, 24))
        )
    threshold = 0.78 - 0.42 * region.lakes
    lake = _to_metres(threshold - layered_noise(x, y, 1300, 4, seed_of(seed, 25)))
    if city.coast is not None:
        shore = 900 + 900 * uniform_of(seed, 7) - (x * np.cos(city.coast) + y * np.sin(city.coast))
        lake = np.minimum(lake, shore + 350 * layered_noise(x, y, 1600, 4, seed_of(seed, 26)))
    fields[..., LAKE] = lake
    fields[..., WOODLAND] = layered_noise(x, y, 850, 4, seed_of(seed, 27)) - (0.62 - 0.95 * region.woods)
    shore = np.minimum(fields[..., RIVER], fields[..., LAKE])
    hills = 0.6 + layered_noise(x, y, 5200, 3, seed_of(seed, 28))
    fields[..., ELEVATION] = region.relief * np.maximum(hills, 0) * smooth_step(10, 700, shore)
    fields[..., VIGOUR] = layered_noise(x, y, 240, 4, seed_of(seed, 29))
    return fields


def _towns(city: Character, x: float, y: float) -> float:
    """Return how urban a point is, 0 in the open country and 1 in the middle of a town."""
    column, row = int(np.floor(x / TOWN + 0.5)), int(np.floor(y / TOWN + 0.5))
    urban = 0.0
    for j in range(row - 1, row + 2):
        for i in range(column - 1, column + 2):
            home = i == 0 and j == 0
            reach = 0.1 if home else 0.3
            cx = (i + (uniform_of(city.seed, 31, i, j) - 0.5) * 2 * reach) * TOWN
            cy = (j + (uniform_of(city.seed, 32, i, j) - 0.5) * 2 * reach) * TOWN
            size = (
                450 + 900 * uniform_of(city.seed, 33, i, j)
                if home
                else 300 + 800 * uniform_of(city.seed, 34, i, j)
            )
            urban = max(urban, float(np.exp(-((np.hypot(x - cx, y - cy) / size) ** 2))))
    return urban


def _rural_kind(region: Region, draw: float, woodland: float) -> int:
    if woodland > 0.12 and region.woods > 0.02:
        return WOODS
    if draw < region.aridity * 0.9:
        return BARREN
    return PASTURE if (draw - region.aridity) / (1 - region.aridity + 1e-6) < region.pasture else FIELDS


def _kind(city: Character, key: tuple[int, int], urban: float, woodland: float) -> int:
    draw = uniform_of(city.seed, 41, *key)
    noisy = urban + 0.22 * (uniform_of(city.seed, 42, *key) - 0.5)
    towers = city.region.towers
    if noisy > 0.72:
        return TOWERS if draw < 0.5 * towers else PARK if draw > 0.93 else CENTRE
    if noisy > 0.34:
        if draw < 0.62 * towers:
            return TOWERS
        return INDUSTRY if draw > 0.86 else PARK if draw > 0.77 else HOUSES
    if noisy > 0.16:
        return (
            INDUSTRY
            if draw > 0.88
            else HOUSES
            if draw > 0.3
            else _rural_kind(city.region, draw / 0.3, woodland)
        )
    return _rural_kind(city.region, draw, woodland)


@dataclass(frozen=True)
class _Draft:
    """A district whose row of the table is being worked out; ``draw`` gives its own random numbers."""

    city: Character
    key: tuple[int, int]
    kind: int
    urban: float

    @property
    def region(self) -> Region:
        return self.city.region

    @property
    def style(self) -> _Style:
        return _STYLES[self.kind]

    @property
    def farmed(self) -> bool:
        return self.kind in (FIELDS, PASTURE)

    @property
    def rural(self) -> bool:
        return self.kind in RURAL

    def draw(self, number: int) -> float:
        return uniform_of(self.city.seed, number, *self.key)


def _district(draft: _Draft) -> Floats:
    """Return one row of the table of districts, but for its place."""
    row = np.zeros(30, dtype=np.float32)
    row[KIND] = draft.kind
    _lay_streets(row, draft)
    _divide_into_lots(row, draft)
    _choose_buildings(row, draft)
    _choose_colours(row, draft)
    _plant(row, draft)
    return row


def _lay_streets(row: Floats, draft: _Draft) -> None:
    region, style, kind = draft.region, draft.style, draft.kind
    angle = draft.city.direction + (0.05 * (draft.draw(51) - 0.5) if region.grid else np.pi * draft.draw(51))
    row[[COS, SIN]] = np.cos(angle), np.sin(angle)
    scale = 0.85 + 0.3 * draft.draw(52)
    if draft.farmed:
        scale = region.field_size * (0.65 + 0.7 * draft.draw(52))
    row[[BLOCK_A, BLOCK_B]] = style.block[0] * scale, style.block[1] * scale
    if draft.rural:
        row[STREET] = 1.9 if draft.farmed else 1.6
    else:
        row[STREET] = region.street * (0.8 if kind == HOUSES else 1.0)
    row[STAGGER] = 0.0 if region.grid else 0.5
    row[MARGIN] = style.margin
    row[MAIN_ROAD] = 3.4 if draft.rural else 7.0
    row[TRACKS] = 0.35 if draft.farmed else 0.12 if draft.rural else 1.0


def _divide_into_lots(row: Floats, draft: _Draft) -> None:
    edge = 2 * (row[STREET] + row[MARGIN])
    for block, lot, lots, wanted in ((BLOCK_A, LOT_A, LOTS_A, 0), (BLOCK_B, LOT_B, LOTS_B, 1)):
        row[lots] = max(1, round(float(row[block] - edge) / draft.style.lot[wanted]))
        if draft.kind == HOUSES and lots == LOTS_B:
            # Back to back, so that every house has a street.
            row[lots] = 2
        row[lot] = (row[block] - edge) / row[lots]


def _choose_buildings(row: Floats, draft: _Draft) -> None:
    region, style, kind = draft.region, draft.style, draft.kind
    high = style.height[1] * (0.8 + 0.4 * draft.draw(54))
    if kind == CENTRE:
        high *= 0.5 + 0.6 * draft.urban + 1.4 * region.towers * draft.urban
    if kind == TOWERS:
        high *= 0.45 + 0.8 * draft.urban
    row[[FILL_A, FILL_B]] = style.fill
    row[[LOW, HIGH, HIGH_POWER]] = style.height[0], high, style.skew
    pitched = draft.farmed or kind in (HOUSES, PARK) or (kind == CENTRE and region.pitch > 0.3)
    row[PITCH] = region.pitch if pitched else 0
    row[[PRESENCE, RING]] = style.presence, style.ring


def _choose_colours(row: Floats, draft: _Draft) -> None:
    region, kind = draft.region, draft.kind
    large = kind in (TOWERS, INDUSTRY) or (kind == CENTRE and region.pitch <= 0.3)
    palette = region.flat_roofs if large else region.roofs
    row[ROOF] = CODE[palette[int(draft.draw(56) ** 1.6 * len(palette))]]
    row[SECOND_ROOF] = CODE[palette[int(draft.draw(58) * len(palette))]]
    row[WALL] = int(draft.draw(57) ** 1.4 * len(region.walls))
    floor = draft.style.floor
    if floor == "barren":
        floor = "shrub"
        if region.aridity > 0.4:
            floor = ("bare soil", "sand", "rock")[int(3 * draft.draw(53))]
    # The floor of fields is their crop, which changes from field to field.
    row[FLOOR] = -1 if floor == "fields" else CODE[floor]


def _plant(row: Floats, draft: _Draft) -> None:
    region = draft.region
    # Beyond the tree line nothing is planted, and little where it is dry.
    green = 0.0 if region.mean_temperature < -4 else 0.4 if region.aridity > 0.3 else 1.0
    if draft.kind == WOODS:
        row[TREES] = draft.style.trees
    else:
        row[TREES] = draft.style.trees * green * (0.6 + 0.8 * draft.draw(55))
    if draft.farmed:
        row[ROW_TREES] = 0.35 * (1 - region.aridity) * (region.woods > 0.03)
    elif not draft.rural:
        row[ROW_TREES] = 0.5 * green


def plan(city: Character, west: float, south: float, width: float, height: float) -> Layout:
    """Work out the slow fields and the districts of a rectangle.

    Args:
        city: The city's character.
        west: Western edge in metres from the city's centre.
        south: Southern edge in metres from the city's centre.
        width: Extent in metres.
        height: Extent in metres.
    """
    first_column, first_row = int(np.floor(west / NODE)), int(np.floor(south / NODE))
    columns, rows = int(np.ceil(width / NODE)) + 2, int(np.ceil(height / NODE)) + 2
    x = ((first_column + np.arange(columns)) * NODE).astype(np.float32)
    y = ((first_row + np.arange(rows)) * NODE).astype(np.float32)
    grid_x, grid_y = (np.asarray(a, dtype=np.float32) for a in np.meshgrid(x, y))
    fields = _slow_fields(city, grid_x, grid_y)
    low_i, high_i = (int(np.floor(v / DISTRICT)) + d for v, d in ((west, -2), (west + width, 3)))
    low_j, high_j = (int(np.floor(v / DISTRICT)) + d for v, d in ((south, -2), (south + height, 3)))
    keys = [(i, j) for j in range(low_j, high_j) for i in range(low_i, high_i)]
    table = np.stack([_placed_district(city, key) for key in keys])
    bent_x, bent_y = grid_x + fields[..., BEND_X], grid_y + fields[..., BEND_Y]
    nearest = _three_nearest(bent_x, bent_y, table, (low_i, low_j), high_i - low_i)
    seeds = np.array([seed_of(city.seed, 61, *key) for key in keys], dtype=np.uint32)
    return Layout(
        float(x[0]), float(y[0]), columns, rows, fields.reshape(-1, 8), nearest.reshape(-1, 3), table, seeds
    )


def _placed_district(city: Character, key: tuple[int, int]) -> Floats:
    x = (key[0] + 0.5 + 0.76 * (uniform_of(city.seed, 43, *key) - 0.5)) * DISTRICT
    y = (key[1] + 0.5 + 0.76 * (uniform_of(city.seed, 44, *key) - 0.5)) * DISTRICT
    urban = _towns(city, x, y)
    point_x, point_y = np.array([[x]], dtype=np.float32), np.array([[y]], dtype=np.float32)
    noise = layered_noise(point_x, point_y, 850, 4, seed_of(city.seed, 27))
    woodland = float(noise[0, 0]) - (0.62 - 0.95 * city.region.woods)
    row = _district(_Draft(city, key, _kind(city, key, urban, woodland), urban))
    row[[SITE_X, SITE_Y]] = x, y
    return row


def _three_nearest(x: Floats, y: Floats, table: Floats, first: tuple[int, int], columns: int) -> Integers:
    """Return the three nearest districts of each point; they lie among the 5 x 5 cells around it."""
    rows = len(table) // columns
    column = np.floor(x / DISTRICT).astype(np.int32) - first[0]
    row = np.floor(y / DISTRICT).astype(np.int32) - first[1]
    distances, numbers = [], []
    for j in range(-2, 3):
        for i in range(-2, 3):
            number = np.clip(row + j, 0, rows - 1) * columns + np.clip(column + i, 0, columns - 1)
            # Clipping repeats districts at the rim, which must not count twice.
            inside = (row + j >= 0) & (row + j < rows) & (column + i >= 0) & (column + i < columns)
            square = (x - table[number, SITE_X]) ** 2 + (y - table[number, SITE_Y]) ** 2
            distances.append(np.where(inside, square, np.float32(1e12)))
            numbers.append(number)
    stacked = np.stack(distances, axis=-1)
    order = np.argpartition(stacked, 3, axis=-1)[..., :3]
    return np.take_along_axis(np.stack(numbers, axis=-1), order, axis=-1).astype(np.int32)
