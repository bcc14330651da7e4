"""The year of a place: temperature, sun, leaves, drought, snow and what stands in the fields."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

from gair_core.world import spectra
from gair_core.world.noise import Floats, seed_of, smooth_step, uniform_of
from gair_core.world.regions import Region

_YEAR: Final = 365.25
_COLDEST_DAY: Final = 20


@dataclass(frozen=True)
class Crop:
    """One crop's calendar, in days of the northern year.

    Attributes:
        sown: Emergence; may be in the autumn before (negative).
        full: Full canopy.
        ripe: Ripening begins.
        cut: Harvest.
        leaf_area: Greatest leaf area index.
        height: Greatest height in metres.
        flowers: Share of yellow blossom between full canopy and ripening, 0-1.
        flooded: Whether the field stands under water when it is planted.
    """

    sown: int
    full: int
    ripe: int
    cut: int
    leaf_area: float
    height: float
    flowers: float = 0.0
    flooded: bool = False


CROPS: Final = {
    "wheat": Crop(-60, 130, 172, 205, 5.5, 0.9),
    "rapeseed": Crop(-100, 105, 165, 195, 5.0, 1.3, 0.85),
    "mustard": Crop(-70, 15, 55, 80, 4.0, 1.1, 0.8),
    "oats": Crop(120, 175, 215, 240, 4.5, 0.9),
    "maize": Crop(135, 205, 250, 285, 5.0, 2.3),
    "sorghum": Crop(150, 215, 250, 285, 3.5, 1.5),
    "soybean": Crop(145, 210, 255, 280, 5.0, 0.8),
    "sunflower": Crop(120, 190, 235, 265, 4.0, 1.7, 0.45),
    "cotton": Crop(130, 215, 260, 300, 4.0, 1.0),
    "potato": Crop(125, 180, 230, 260, 4.5, 0.6),
    "tulip": Crop(60, 105, 140, 180, 2.5, 0.4, 0.5),
    "sugar beet": Crop(115, 190, 300, 310, 5.0, 0.5),
    "rice": Crop(150, 215, 255, 285, 4.5, 0.9, 0.0, True),
    "millet": Crop(175, 235, 265, 290, 2.2, 1.6),
    "alfalfa": Crop(60, 110, 330, 345, 3.8, 0.6),
    "berries": Crop(100, 160, 280, 330, 2.5, 1.1),
    "vegetables": Crop(90, 140, 300, 320, 2.4, 0.4),
    "tea": Crop(-200, -150, 560, 600, 4.5, 0.9),
    "sugar cane": Crop(-200, -100, 560, 600, 5.5, 2.4),
    "cassava": Crop(-150, -60, 560, 600, 2.6, 1.6),
    "orchard": Crop(-200, -150, 560, 600, 1.8, 0.5),
    "olives": Crop(-200, -150, 560, 600, 1.0, 0.4),
    "vineyard": Crop(95, 160, 270, 320, 1.6, 1.4),
    "agave": Crop(-200, -150, 560, 600, 1.1, 0.9),
    "fallow": Crop(80, 150, 200, 330, 0.7, 0.2),
}
"""Calendars by name, rounded from crop calendars of FAO and USDA; southern fields run half a year later."""


@dataclass(frozen=True)
class Season:
    """A day in the life of a place.

    Attributes:
        temperature: Degrees Celsius, a smoothed daily mean.
        leaves: Share of the leaves that hang on deciduous trees, 0-1.
        autumn: Share of those that have turned, 0-1.
        drought: How dry grass is, 0-1.
        snow: Share of open ground under snow, 0-1.
        frozen: Whether lakes are frozen.
        day: Day of the northern year, 0-365: half a year later in the south.
    """

    temperature: float
    leaves: float
    autumn: float
    drought: float
    snow: float
    frozen: bool
    day: float


def day_of_year(when: date) -> int:
    """Return the day of the year, 1-366."""
    return when.timetuple().tm_yday


def season(region: Region, latitude: float, when: date) -> Season:
    """Return what time of the year it is at a place of a region.

    Cities north of their region's middle are colder by 0.7 degrees per degree of latitude.
    """
    northern_day = (day_of_year(when) + (0 if latitude >= 0 else _YEAR / 2)) % _YEAR
    phase = 2 * np.pi * (northern_day - _COLDEST_DAY) / _YEAR
    mean = region.mean_temperature - 0.7 * (abs(latitude) - abs(region.latitude))
    temperature = mean - region.temperature_swing * np.cos(phase)
    falling = np.sin(phase) < 0
    evergreen = region.temperature_swing < 5.5
    leaves = 1.0 if evergreen else float(smooth_step(6, 11.5, temperature + (2.5 if falling else 0)))
    autumn = 0.0 if evergreen or not falling else float(smooth_step(14, 8, temperature))
    drought = region.dry_strength * (
        0.5 + 0.5 * np.cos(2 * np.pi * (day_of_year(when) - region.dry_peak) / _YEAR)
    )
    return Season(
        temperature=float(temperature),
        leaves=leaves,
        autumn=autumn,
        drought=float(drought),
        snow=float(smooth_step(-0.5, -6, temperature)) * (1 - 0.8 * region.aridity * (mean > 0)),
        frozen=bool(temperature < -5),
        day=float(northern_day),
    )


def sun(latitude: float, when: date, hour: float) -> tuple[float, float]:
    """Return the sun's azimuth (clockwise from north) and elevation in degrees.

    Args:
        latitude: Degrees north.
        when: The day.
        hour: True solar time, 0-24.
    """
    declination = np.radians(-23.44) * np.cos(2 * np.pi * (day_of_year(when) + 10) / _YEAR)
    angle, phi = np.radians(15 * (hour - 12)), np.radians(latitude)
    up = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(angle)
    east = -np.cos(declination) * np.sin(angle)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(angle)
    return float(np.degrees(np.arctan2(east, north)) % 360), float(np.degrees(np.arcsin(up)))


def crop_of_slot(region: Region, seed: int, slot: int) -> tuple[Crop, float]:
    """Return the crop of one of the field slots and how many days it is ahead of its calendar."""
    draw = uniform_of(seed, 11, slot)
    name = region.crops[int(draw**1.3 * len(region.crops))]
    spread = 22.0 if region.temperature_swing > 4 else 110.0
    return CROPS[name], (uniform_of(seed, 12, slot) - 0.5) * 2 * spread


def crop_stage(crop: Crop, day: float) -> tuple[float, float, float, float, float]:
    """Return leaf area index, ripeness, stubble, blossom and height of a crop on a day.

    Args:
        crop: The crop.
        day: Day of the northern year, already shifted by how far the field is ahead.
    """
    # A crop sown in the autumn is looked at from both sides of New Year.
    turns = [turned for turned in (day - _YEAR, day, day + _YEAR) if crop.sown <= turned <= crop.cut]
    if not turns:
        since = (day - crop.cut) % _YEAR
        return 0.0, 0.0, float(smooth_step(110, 20, since)) * 0.9, 0.0, 0.12
    turned = turns[0]
    growth = float(smooth_step(crop.sown, crop.full, turned)) ** 1.5
    ripeness = float(smooth_step(crop.ripe, crop.cut - 5, turned))
    middle = (crop.full + crop.ripe) / 2
    blossom = crop.flowers * float(np.exp(-(((turned - middle) / 16) ** 2)))
    return crop.leaf_area * growth, ripeness, 0.0, blossom, crop.height * max(growth, 0.05)


@dataclass(frozen=True)
class Palette:
    """Everything about the materials of a place on a day.

    Attributes:
        reflectance: float32 of shape (`spectra.MATERIAL_COUNT`, 10), 0-1.
        colour: The same as a camera sees it, linear RGB, of shape (`spectra.MATERIAL_COUNT`, 3).
        height: Height of what grows, in metres, of shape (`spectra.MATERIAL_COUNT`,).
        rows: Whether the plants of a field stand in rows that one can tell apart.
        gaps: How open the crowns of trees are: a level of a texture of mean 0 and deviation 1.
    """

    reflectance: Floats
    colour: Floats
    height: Floats
    rows: Floats
    gaps: Floats


_SNOWED: Final = {
    "asphalt": 0.1, "concrete": 0.4, "paving": 0.35, "broadleaf": 0.1, "second broadleaf": 0.1,
    "conifer": 0.1, "palm": 0.0, "shrub": 0.6, "water": 0.0, "shallow water": 0.0, "dark car": 0.2,
    "bright car": 0.2, "marking": 0.3, "ice": 0.5, "snow": 1.0,
}  # fmt: skip


def _soils(table: Floats, region: Region) -> None:
    """Tint everything that is made of the region's soil."""
    red, green, blue = region.soil
    longer = 0.35 + 0.65 * red
    factors = np.array([blue, green, red, red, *[longer] * 6], dtype=np.float32)
    for name in ("bare soil", "dirt", "earth roof", "sand"):
        table[spectra.CODE[name]] *= factors if name != "sand" else np.sqrt(factors)


def _crops(table: Floats, growth: tuple[Floats, Floats], region: Region, seed: int, now: Season) -> None:
    """Sow the field slots; ``growth`` takes the heights of the crops and how far rows show."""
    height, rows = growth
    soil = table[spectra.CODE["bare soil"]]
    for slot in range(spectra.CROP_SLOTS):
        crop, ahead = crop_of_slot(region, seed, slot)
        leaf_area, ripeness, stubble, blossom, tall = crop_stage(crop, (now.day + ahead) % _YEAR)
        leaf_area *= 1 - 0.5 * region.aridity
        number = spectra.FIRST_CROP + slot
        # Fields differ in moisture and tillage even when nothing grows.
        moisture = 0.72 + 0.5 * uniform_of(seed, 13, slot)
        table[number] = spectra.crop(soil * moisture, leaf_area, ripeness, stubble, blossom)
        days_in = (now.day + ahead - crop.sown) % _YEAR
        if crop.flooded and days_in < 35:
            water = spectra.reflectance("shallow water")
            table[number] = spectra.mixed_with(table[number], water, 0.75)
        height[number] = tall
        rows[number] = 1.0 if stubble == 0 and leaf_area < 4.5 else 0.3


def palette(region: Region, latitude: float, seed: int, when: date) -> Palette:
    """Return the materials of a city on a day.

    Args:
        region: The city's region.
        latitude: Degrees north of the city.
        seed: The city's seed; cities of a region differ a little.
        when: The day.
    """
    now = season(region, latitude, when)
    table = spectra.all_reflectances()
    height = np.zeros(spectra.MATERIAL_COUNT, dtype=np.float32)
    rows = np.zeros(spectra.MATERIAL_COUNT, dtype=np.float32)
    _soils(table, region)
    _crops(table, (height, rows), region, seed_of(seed, when.year), now)
    code = spectra.CODE
    for name in ("broadleaf", "second broadleaf"):
        early = 0.0 if name == "broadleaf" else 0.25
        autumn = min(1.0, now.autumn * (1 + early))
        table[code[name]] = spectra.tree_in_season(table[code[name]], now.leaves, autumn, yellow=early * 3)
    # Grass greens and dries with drought; it also pales in the cold.
    dormant = 0.0 if region.temperature_swing < 5.5 else 0.6 * float(smooth_step(8, 0, now.temperature))
    dry = max(now.drought, dormant)
    for name, share in (("grass", 1.0), ("garden", 0.6), ("shrub", 0.6), ("playing field", 0.4)):
        table[code[name]] = spectra.mixed_with(table[code[name]], table[code["dry grass"]], dry * share)
    height[[code["grass"], code["dry grass"], code["shrub"]]] = 0.1, 0.15, 0.2
    wet = 0.94 + 0.12 * uniform_of(seed_of(seed, when.toordinal()), 14)
    table *= np.float32(wet)
    if now.frozen:
        for name in ("water", "shallow water"):
            table[code[name]] = spectra.mixed_with(table[code["ice"]], table[code["snow"]], 0.6 * now.snow)
    if now.snow > 0:
        snow = table[code["snow"]].copy()
        for number in range(spectra.MATERIAL_COUNT):
            name = spectra.MATERIALS[number] if number < spectra.FIRST_CROP else "field"
            table[number] = spectra.mixed_with(table[number], snow, now.snow * _SNOWED.get(name, 0.88))
    gaps = np.full(spectra.MATERIAL_COUNT, -1.3, dtype=np.float32)
    gaps[[code["broadleaf"], code["second broadleaf"]]] = -1.15 + 1.25 * (1 - now.leaves)
    gaps[code["conifer"]] = -1.8
    return Palette(table, spectra.photo_colours(table), height, rows, gaps)
