"""The regions of the world: where they lie, their climate, how they build, and in which colours.

The places are real and the characters are sketches: enough of a palette, a climate and a street pattern that
a location says something about what is there. Nobody should read geography out of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Region:
    """One region.

    Attributes:
        name: What the region is called.
        longitude: Degrees east of its middle.
        latitude: Degrees north of its middle.
        spread: Cities lie within this many degrees of the middle.
        mean_temperature: Yearly mean in degrees Celsius.
        temperature_swing: Half of the difference between the warmest and the coldest month.
        dry_peak: Day of the year when the vegetation is driest.
        dry_strength: How dry it becomes then, 0-1.
        aridity: Share of the land that is barren for lack of water, 0-1.
        lakes: How much standing water, 0-1.
        relief: Height of the hills in metres.
        woods: Share of woodland outside of towns, 0-1.
        conifers: Share of conifers among the trees, 0-1.
        palms: Share of palms among the trees, 0-1.
        pasture: Share of pasture in the farmland, 0-1.
        field_size: Typical width of a field in metres.
        grid: Whether streets keep one direction through the town.
        bend: How far streets stray from straight lines, in metres.
        towers: Share of tower blocks in the centre and the estates, 0-1.
        street: Half the width of a town's street in metres.
        roofs: Materials of roofs of houses, the commonest first.
        flat_roofs: Materials of roofs of large buildings.
        walls: Colours of walls (linear RGB), the commonest first.
        pitch: Rise of a house's roof per metre.
        soil: Factors on the soil's reflectance in red, green and blue.
        yellow_lines: Whether the middle line of a road is yellow.
        crops: Names of the crops, see `gair_core.world.seasons.CROPS`.
    """

    name: str
    longitude: float
    latitude: float
    spread: float
    mean_temperature: float
    temperature_swing: float
    dry_peak: int
    dry_strength: float
    aridity: float
    lakes: float
    relief: float
    woods: float
    conifers: float
    palms: float
    pasture: float
    field_size: float
    grid: bool
    bend: float
    towers: float
    street: float
    roofs: tuple[str, ...]
    flat_roofs: tuple[str, ...]
    walls: tuple[Colour, ...]
    pitch: float
    soil: Colour
    yellow_lines: bool
    crops: tuple[str, ...]


_BRICK: Final = (0.36, 0.13, 0.08)
_DARK_BRICK: Final = (0.21, 0.09, 0.07)
_CREAM: Final = (0.72, 0.62, 0.42)
_WHITE: Final = (0.82, 0.81, 0.78)
_GREY: Final = (0.38, 0.38, 0.38)
_CONCRETE: Final = (0.5, 0.48, 0.44)
_OCHRE: Final = (0.66, 0.43, 0.16)
_PINK: Final = (0.68, 0.38, 0.3)
_FALU: Final = (0.27, 0.07, 0.05)
_YELLOW: Final = (0.75, 0.55, 0.2)
_EARTH: Final = (0.45, 0.27, 0.14)
_RED_EARTH: Final = (0.44, 0.22, 0.12)
_SKY: Final = (0.35, 0.55, 0.65)
_MINT: Final = (0.4, 0.62, 0.46)
_TIMBER: Final = (0.24, 0.14, 0.08)
_BEIGE: Final = (0.6, 0.5, 0.38)

REGIONS: Final = (
    Region("Great Lakes", -85.5, 42.6, 2.5, 9, 14, 230, 0.25, 0.0, 0.5, 12, 0.3, 0.25, 0, 0.15, 330, True,
           5, 0.35, 5.0, ("slate", "gravel roof", "rusty sheet"), ("gravel roof", "white roof", "slate"),
           (_WHITE, _BRICK, _BEIGE, _SKY), 0.5, (0.9, 0.92, 0.95), True, ("maize", "soybean", "wheat")),
    Region("High Plains", -101.0, 38.5, 2.5, 12, 14, 250, 0.6, 0.15, 0.05, 8, 0.04, 0.2, 0, 0.3, 620, True,
           3, 0.15, 6.5, ("slate", "gravel roof", "metal"), ("white roof", "metal", "gravel roof"), (_BEIGE,
           _WHITE, _BRICK), 0.35, (1.1, 1.0, 0.9), True, ("wheat", "sorghum", "fallow", "maize")),
    Region("California Valley", -120.8, 37.4, 1.3, 17, 9, 240, 0.95, 0.1, 0.08, 10, 0.06, 0.2, 0.3, 0.2,
           380, True, 4, 0.2, 6.5, ("tiles", "slate", "gravel roof"), ("white roof", "gravel roof"),
           (_CREAM, _WHITE, _BEIGE, _PINK), 0.3, (1.15, 1.05, 0.95), True,
           ("orchard", "cotton", "alfalfa", "fallow")),
    Region("Cascadia", -122.6, 46.8, 1.5, 10.5, 7, 220, 0.4, 0.0, 0.45, 70, 0.65, 0.9, 0, 0.55, 210, True,
           18, 0.25, 5.5, ("slate", "slate", "metal"), ("gravel roof", "white roof"), (_TIMBER, _GREY, _SKY,
           _WHITE), 0.45, (0.75, 0.75, 0.75), True, ("alfalfa", "wheat", "berries")),
    Region("Mexican Plateau", -101.0, 20.8, 1.8, 17.5, 4, 90, 0.85, 0.25, 0.12, 60, 0.1, 0.2, 0.15, 0.3,
           200, True, 10, 0.1, 4.0, ("earth roof", "gravel roof", "tiles"),
           ("gravel roof", "white roof", "metal"), (_OCHRE, _PINK, _SKY, _YELLOW, _MINT), 0.0, (1.1, 0.9,
           0.75), True, ("maize", "sorghum", "agave")),
    Region("Amazonia", -60.5, -4.0, 3.5, 26.5, 1, 250, 0.25, 0.0, 0.45, 12, 0.8, 0.0, 0.25, 0.7, 260, False,
           30, 0.1, 4.0, ("rusty sheet", "metal", "tiles"), ("metal", "gravel roof"), (_SKY, _MINT, _WHITE,
           _YELLOW), 0.3, (1.45, 0.85, 0.65), True, ("soybean", "cassava", "fallow")),
    Region("Pampas", -61.5, -34.0, 2.5, 16.5, 7, 20, 0.35, 0.0, 0.2, 4, 0.04, 0.1, 0.03, 0.4, 520, True, 3,
           0.25, 5.0, ("gravel roof", "tiles", "metal"), ("gravel roof", "metal"), (_WHITE, _CREAM, _BRICK),
           0.1, (0.8, 0.78, 0.75), False, ("soybean", "maize", "wheat", "sunflower")),
    Region("Scandinavia", 15.5, 60.2, 2.5, 5, 11, 230, 0.1, 0.0, 0.75, 30, 0.72, 0.85, 0, 0.3, 170, False,
           45, 0.15, 4.5, ("tiles", "slate", "metal"), ("gravel roof", "metal"), (_FALU, _FALU, _YELLOW,
           _WHITE), 0.6, (0.75, 0.74, 0.74), False, ("oats", "alfalfa", "rapeseed")),
    Region("Low Countries", 5.4, 52.1, 0.9, 10.5, 7.5, 220, 0.15, 0.0, 0.6, 1, 0.08, 0.2, 0, 0.6, 190,
           False, 25, 0.25, 4.0, ("tiles", "slate"), ("gravel roof", "white roof"), (_DARK_BRICK, _BRICK,
           _WHITE), 0.9, (0.72, 0.7, 0.66), False, ("potato", "wheat", "tulip", "maize")),
    Region("Central Europe", 11.5, 49.6, 2.2, 9, 10, 220, 0.2, 0.0, 0.18, 45, 0.36, 0.6, 0, 0.35, 170,
           False, 40, 0.2, 4.0, ("tiles", "tiles", "slate"), ("gravel roof", "metal", "white roof"),
           (_WHITE, _CREAM, _YELLOW, _PINK), 0.85, (0.95, 0.9, 0.85), False,
           ("wheat", "rapeseed", "maize", "potato")),
    Region("Iberia", -4.2, 39.8, 2.0, 15, 10, 220, 0.9, 0.25, 0.08, 45, 0.12, 0.3, 0.03, 0.25, 260, False,
           35, 0.45, 4.0, ("tiles", "tiles", "gravel roof"), ("gravel roof", "tiles"), (_WHITE, _OCHRE,
           _CREAM, _BRICK), 0.3, (1.3, 0.95, 0.78), False, ("wheat", "olives", "vineyard", "sunflower")),
    Region("Nile Valley", 31.2, 28.6, 1.0, 22, 8, 180, 0.25, 0.55, 0.15, 15, 0.0, 0.0, 0.75, 0.05, 110,
           False, 25, 0.5, 3.5, ("earth roof", "gravel roof"), ("earth roof", "gravel roof"), (_EARTH,
           _BRICK, _BEIGE), 0.0, (1.15, 1.1, 1.0), False, ("rice", "cotton", "wheat", "alfalfa")),
    Region("Sahel", 3.5, 13.4, 2.5, 28.5, 5, 100, 1.0, 0.5, 0.05, 10, 0.06, 0.0, 0.15, 0.3, 150, False, 40,
           0.05, 4.0, ("earth roof", "metal", "rusty sheet"), ("metal", "earth roof"), (_EARTH, _RED_EARTH,
           _BEIGE), 0.0, (1.35, 0.95, 0.72), False, ("millet", "sorghum", "fallow")),
    Region("Congo Basin", 21.5, 1.2, 3.0, 25, 1, 30, 0.2, 0.0, 0.35, 20, 0.75, 0.0, 0.4, 0.3, 120, False,
           45, 0.05, 3.5, ("rusty sheet", "metal"), ("metal", "rusty sheet"), (_RED_EARTH, _WHITE, _MINT),
           0.4, (1.6, 0.8, 0.55), False, ("cassava", "maize", "fallow")),
    Region("Highveld", 27.6, -26.6, 1.7, 15.5, 6, 220, 0.9, 0.1, 0.12, 30, 0.05, 0.3, 0.03, 0.45, 380, True,
           15, 0.2, 5.0, ("metal", "tiles", "rusty sheet"), ("metal", "white roof"), (_BRICK, _CREAM,
           _BEIGE), 0.35, (1.35, 0.9, 0.7), False, ("maize", "sunflower", "soybean")),
    Region("Anatolia", 33.0, 38.9, 2.0, 11, 12, 225, 0.85, 0.35, 0.1, 80, 0.08, 0.7, 0, 0.3, 230, False, 30,
           0.6, 4.5, ("tiles", "tiles", "metal"), ("tiles", "gravel roof"), (_CREAM, _PINK, _YELLOW, _MINT),
           0.35, (1.15, 1.05, 0.95), False, ("wheat", "sugar beet", "fallow")),
    Region("Volga", 47.5, 54.3, 2.5, 4.5, 15, 220, 0.3, 0.0, 0.3, 25, 0.25, 0.4, 0, 0.25, 640, True, 12,
           0.7, 6.0, ("metal", "blue sheet", "slate"), ("slate", "gravel roof"), (_CONCRETE, _GREY, _YELLOW,
           _TIMBER), 0.55, (0.62, 0.58, 0.55), False, ("wheat", "sunflower", "fallow")),
    Region("West Siberia", 72.5, 60.8, 2.5, -1.5, 19, 210, 0.1, 0.0, 0.95, 4, 0.7, 0.75, 0, 0.85, 350, True,
           10, 0.6, 6.0, ("slate", "blue sheet", "metal"), ("slate", "white roof"), (_CONCRETE, _SKY,
           _TIMBER), 0.55, (0.75, 0.72, 0.7), False, ("alfalfa", "oats")),
    Region("Ganges Plain", 82.0, 26.2, 2.2, 25.5, 8, 140, 0.65, 0.0, 0.2, 2, 0.05, 0.0, 0.25, 0.1, 95,
           False, 45, 0.1, 3.2, ("gravel roof", "earth roof", "white roof"), ("gravel roof", "blue sheet"),
           (_WHITE, _YELLOW, _PINK, _SKY, _BRICK), 0.0, (1.0, 0.95, 0.85), False,
           ("rice", "wheat", "sugar cane", "mustard")),
    Region("North China Plain", 115.8, 36.2, 1.8, 14, 15, 110, 0.5, 0.05, 0.12, 2, 0.06, 0.1, 0, 0.03, 150,
           True, 6, 0.75, 6.5, ("tiles", "blue sheet", "slate"),
           ("blue sheet", "gravel roof", "white roof"), (_CONCRETE, _BRICK, _BEIGE, _GREY), 0.35, (1.1,
           1.02, 0.9), True, ("wheat", "maize", "orchard", "cotton")),
    Region("Honshu", 139.2, 36.2, 0.9, 14, 11, 20, 0.3, 0.0, 0.2, 45, 0.3, 0.55, 0.02, 0.05, 90, False, 18,
           0.4, 3.0, ("slate", "blue sheet", "tiles"), ("gravel roof", "white roof", "slate"), (_WHITE,
           _BEIGE, _GREY), 0.45, (0.62, 0.58, 0.55), False, ("rice", "rice", "tea", "vegetables")),
    Region("Mekong", 104.6, 16.6, 1.6, 26.5, 3, 60, 0.9, 0.0, 0.3, 6, 0.15, 0.0, 0.35, 0.12, 105, False, 30,
           0.08, 4.0, ("rusty sheet", "metal", "tiles"), ("metal", "gravel roof"), (_TIMBER, _MINT, _CREAM,
           _SKY), 0.5, (1.3, 0.95, 0.75), True, ("rice", "rice", "cassava", "sugar cane")),
    Region("Murray Basin", 144.5, -35.4, 2.0, 16.5, 7.5, 30, 0.8, 0.2, 0.12, 5, 0.1, 0.0, 0.02, 0.45, 480,
           True, 6, 0.08, 7.0, ("metal", "rusty sheet", "tiles"), ("metal", "white roof"), (_BRICK, _CREAM,
           _BEIGE), 0.35, (1.5, 0.92, 0.68), False, ("wheat", "rice", "vineyard", "fallow")),
    Region("Patagonia", -69.5, -47.5, 2.5, 8, 6.5, 20, 0.6, 0.75, 0.15, 60, 0.02, 0.4, 0, 0.9, 300, True, 8,
           0.05, 6.0, ("metal", "rusty sheet", "blue sheet"), ("metal", "gravel roof"), (_WHITE, _SKY,
           _YELLOW, _FALU), 0.5, (1.0, 0.98, 0.95), True, ("alfalfa", "fallow")),
    Region("West Greenland", -50.6, 68.6, 2.0, -6.5, 11, 200, 0.1, 0.9, 0.75, 130, 0.0, 0.0, 0, 1.0, 300,
           False, 40, 0.1, 3.5, ("slate", "rusty sheet", "metal"), ("slate", "gravel roof"), (_FALU, _SKY,
           _YELLOW, _MINT), 0.8, (0.8, 0.82, 0.85), False, ("fallow",)),
)  # fmt: skip
"""All regions; a city's region is a function of its index and of the world's seed."""
