"""What each material of the world reflects: ten Sentinel-2 bands, by season, and its colour in a photo.

Where the shapes come from:

- Crops by leaf area index: PROSAIL (PROSPECT-D by Féret et al. 2017, Remote Sens. Environ. 193; 4SAIL by
  Verhoef et al. 2007, IEEE TGRS 45), run with the package ``prosail`` over the mean of its dry and wet soil
  and averaged over Sentinel-2A's bands.
- Grass, dry grass, trees, ripe and autumn canopies: PROSAIL's shapes again, moved to the medians of grass
  and forest in real Sentinel-2 scenes, because 4SAIL knows no shade between crowns.
- Soils: between the dry and the wet soil of the same package.
- Snow and ice: Warren 1982 (Rev. Geophys. 20) for the fall from visible to short-wave infrared, at the level
  of a Sentinel-2 scene of the Greenland ice sheet.
- Water: the fall from blue to infrared of clear and of turbid inland water (Lee et al. 1999, Appl. Opt. 38).
- Asphalt, concrete, gravel, tiles, slate, metal, painted sheet: after the manufactured materials of the
  ECOSTRESS spectral library (Meerdink et al. 2019, Remote Sens. Environ. 230) and of the London library SLUM
  (Kotthaus et al. 2014, ISPRS J. 94).

Outside of the crops the numbers are rounded readings of those shapes at the bands' centres, not copies of the
libraries' samples: they stand for a kind of surface, never for one specimen.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from gair_core.world.noise import Floats

BANDS: Final = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
"""The order of the bands everywhere in the world; that of `gair_core.sentinel2.bands.BANDS`."""

MATERIALS: Final = (
    "water", "shallow water", "ice", "snow", "broadleaf", "second broadleaf", "conifer", "palm", "shrub",
    "grass", "dry grass", "garden", "bare soil", "sand", "rock", "asphalt", "concrete", "paving", "dirt",
    "gravel", "tiles", "slate", "metal", "gravel roof", "white roof", "blue sheet", "rusty sheet",
    "earth roof", "dark car", "bright car", "marking", "playing field",
)  # fmt: skip
"""Names of the materials; a material's number is its place here. Crops follow from `FIRST_CROP` on."""

CODE: Final = {name: number for number, name in enumerate(MATERIALS)}
FIRST_CROP: Final = len(MATERIALS)
CROP_SLOTS: Final = 16
MATERIAL_COUNT: Final = FIRST_CROP + CROP_SLOTS

# DN (reflectance x 10000) in the order of BANDS.
_SHAPES: Final = {
    "water": (310, 290, 150, 110, 80, 75, 65, 60, 40, 30),
    "shallow water": (560, 740, 560, 450, 260, 240, 200, 170, 90, 60),
    "ice": (6900, 6700, 6200, 5900, 5000, 4500, 4100, 3700, 250, 220),
    "snow": (8800, 8700, 8500, 8500, 8100, 7800, 7600, 7300, 750, 620),
    "broadleaf": (160, 390, 200, 640, 2700, 3500, 3650, 3800, 1750, 760),
    "second broadleaf": (210, 480, 290, 800, 2600, 3200, 3330, 3480, 1900, 880),
    "conifer": (130, 260, 160, 450, 1500, 1830, 1920, 2020, 900, 390),
    "palm": (230, 470, 300, 760, 2100, 2550, 2650, 2760, 1650, 820),
    "shrub": (330, 540, 500, 900, 1750, 2050, 2200, 2330, 1900, 1150),
    "grass": (270, 610, 330, 960, 2830, 3400, 3450, 3540, 2050, 980),
    "dry grass": (640, 1020, 1180, 1700, 2250, 2500, 2720, 2900, 3250, 2200),
    "garden": (340, 640, 470, 1000, 2350, 2750, 2830, 2920, 2000, 1100),
    "bare soil": (900, 1250, 1700, 1980, 2180, 2340, 2500, 2620, 3250, 2750),
    "sand": (1750, 2350, 2950, 3180, 3320, 3450, 3600, 3700, 4350, 3900),
    "rock": (1150, 1350, 1550, 1650, 1720, 1790, 1880, 1930, 2300, 2100),
    "asphalt": (800, 855, 895, 930, 1000, 1040, 1080, 1110, 1300, 1270),
    "concrete": (1620, 1800, 1930, 2000, 2060, 2110, 2180, 2220, 2480, 2350),
    "paving": (1250, 1400, 1520, 1590, 1650, 1700, 1760, 1800, 2050, 1950),
    "dirt": (1150, 1550, 2000, 2220, 2400, 2540, 2680, 2780, 3400, 3000),
    "gravel": (1300, 1450, 1560, 1620, 1680, 1730, 1800, 1840, 2100, 2000),
    "tiles": (700, 1050, 2150, 2450, 2600, 2720, 2850, 2900, 3300, 3150),
    "slate": (620, 680, 720, 750, 790, 820, 860, 880, 1080, 1080),
    "metal": (2700, 2850, 2950, 3000, 3020, 3050, 3120, 3150, 3300, 3050),
    "gravel roof": (1350, 1480, 1580, 1640, 1690, 1740, 1800, 1840, 2080, 1980),
    "white roof": (4300, 4750, 4900, 4950, 4950, 4950, 4950, 4900, 4300, 3700),
    "blue sheet": (2500, 1900, 1250, 1250, 1600, 1900, 2200, 2300, 2500, 2200),
    "rusty sheet": (720, 900, 1500, 1800, 1950, 2080, 2250, 2350, 2900, 2750),
    "earth roof": (1200, 1650, 2150, 2350, 2500, 2630, 2780, 2860, 3500, 3150),
    "dark car": (500, 520, 560, 600, 650, 700, 760, 780, 700, 600),
    "bright car": (3300, 3400, 3450, 3400, 3350, 3300, 3250, 3200, 2500, 2200),
    "marking": (4400, 4700, 4800, 4850, 4850, 4850, 4850, 4850, 4400, 4000),
    "playing field": (330, 820, 420, 1050, 2700, 3200, 3280, 3350, 2100, 1050),
}  # fmt: skip

# PROSAIL's crops by leaf area index over the mean soil, ripening and dead canopies; DN.
_CROP_STAGES: Final = {
    0.4: (516, 692, 673, 929, 1486, 1648, 1735, 1785, 2043, 1497),
    1.0: (357, 601, 407, 815, 1946, 2242, 2308, 2345, 1989, 1174),
    2.0: (244, 535, 218, 732, 2554, 3106, 3148, 3169, 1967, 905),
    4.0: (198, 513, 139, 705, 3238, 4285, 4303, 4305, 2000, 774),
    6.0: (198, 522, 133, 716, 3503, 4889, 4898, 4890, 2037, 770),
}
_RIPE: Final = (760, 1200, 1560, 1950, 2400, 2650, 2900, 3050, 3000, 1950)
_STUBBLE: Final = (950, 1330, 1760, 2040, 2280, 2460, 2660, 2790, 3350, 2650)
_AUTUMN: Final = (330, 640, 1080, 1650, 2250, 2480, 2600, 2750, 1900, 950)
_YELLOW: Final = (340, 960, 1000, 1550, 2450, 2700, 2800, 2900, 1850, 900)
_BARE_TWIGS: Final = (420, 540, 620, 780, 1080, 1240, 1400, 1500, 1900, 1350)
_BLOSSOM: Final = (420, 1700, 1500, 1750, 3000, 3900, 4000, 4050, 1950, 900)


_CAMERA: Final = np.zeros((10, 3), dtype=np.float32)
_CAMERA[:4, 0] = 0.0, 0.14, 0.82, 0.04
_CAMERA[:3, 1] = 0.06, 0.88, 0.06
_CAMERA[:2, 2] = 0.9, 0.1


def reflectance(name: str) -> Floats:
    """Return a material's reflectance (0-1) in the ten bands, in summer and dry."""
    return np.asarray(_SHAPES[name], dtype=np.float32) / 10000


def all_reflectances() -> Floats:
    """Return the reflectance of every material in summer, of shape (`MATERIAL_COUNT`, 10); crops as soil."""
    table = np.empty((MATERIAL_COUNT, len(BANDS)), dtype=np.float32)
    for name, number in CODE.items():
        table[number] = reflectance(name)
    table[FIRST_CROP:] = reflectance("bare soil")
    return table


def mixed_with(base: Floats, other: Floats | tuple[int, ...], share: float) -> Floats:
    """Mix two spectra linearly; a tuple is in DN, an array in reflectance."""
    spectrum = np.asarray(other, dtype=np.float32) / (10000 if isinstance(other, tuple) else 1)
    return np.asarray(base * (1 - share) + spectrum * share, dtype=np.float32)


def tree_in_season(summer: Floats, leaves: float, autumn: float, yellow: float = 0.0) -> Floats:
    """Return a deciduous crown with its leaves turned and fallen.

    Args:
        summer: The crown's reflectance in full leaf.
        leaves: Share of the leaves that hang, 0-1.
        autumn: Share of those that have turned, 0-1.
        yellow: How yellow and not red they turn, 0-1.
    """
    turned = mixed_with(np.asarray(_AUTUMN, dtype=np.float32) / 10000, _YELLOW, yellow)
    leafy = mixed_with(summer, turned, autumn)
    return mixed_with(np.asarray(_BARE_TWIGS, dtype=np.float32) / 10000, leafy, leaves)


def crop(soil: Floats, leaf_area: float, ripeness: float, stubble: float, blossom: float) -> Floats:
    """Return a field's reflectance at one stage.

    Args:
        soil: Reflectance of the bare field.
        leaf_area: Leaf area index, 0-6.
        ripeness: 0 green to 1 ready for harvest.
        stubble: Share of straw and stubble on a harvested field, 0-1.
        blossom: Share of yellow blossom, 0-1.
    """
    levels = np.array([0.0, *_CROP_STAGES])
    stages = np.array([soil * 10000, *_CROP_STAGES.values()], dtype=np.float32) / 10000
    green = np.array([np.interp(leaf_area, levels, stages[:, band]) for band in range(len(BANDS))])
    # Wheel tracks and gaps show some soil in every field.
    green = mixed_with(green.astype(np.float32), soil, 0.07)
    canopy = mixed_with(mixed_with(green, _BLOSSOM, blossom), _RIPE, ripeness)
    return mixed_with(canopy, _STUBBLE, stubble)


def photo_colours(table: Floats) -> Floats:
    """Return what a camera makes of a table of spectra.

    A camera's colours are broader than the instrument's bands, so its red takes in some of B3 and B5 and its
    blue some of B3; brightened as an exposure does, and a little more saturated, as cameras deliver them.

    Args:
        table: Reflectance of shape (N, 10).

    Returns:
        Linear RGB of shape (N, 3).
    """
    linear = table @ _CAMERA * 1.9
    grey = linear @ np.array([0.3, 0.59, 0.11], dtype=np.float32)
    return np.asarray(np.clip(grey[:, None] + 1.25 * (linear - grey[:, None]), 0.004, 1), dtype=np.float32)
