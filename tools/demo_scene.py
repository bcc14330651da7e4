"""A small made-up Sentinel-2 scene with geotagged photos, for demonstrations without any data at hand.

A river, a town with streets, woods, water meadows and fields are drawn on 480 x 480 pixels of 10 m, with
reflectances as such surfaces have; the photos are sketches of what stands where they "were taken".
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import ExifTags, Image, ImageDraw
from rasterio.transform import from_origin
from rasterio.warp import transform as warp

SIZE = 480
CRS = "EPSG:32632"
TRANSFORM = from_origin(660_000, 5_340_000, 10, 10)
BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")

# Reflectance x 10000 of the ten bands, rounded from common Sentinel-2 surfaces in June.
SPECTRA = {
    "water": (420, 460, 330, 300, 230, 220, 190, 180, 110, 80),
    "wood": (240, 420, 270, 620, 1900, 2350, 2450, 2600, 1250, 600),
    "meadow": (380, 760, 460, 1150, 3000, 3700, 3900, 4050, 2100, 1100),
    "crop": (450, 820, 620, 1250, 2500, 2950, 3150, 3300, 2350, 1400),
    "stubble": (900, 1300, 1750, 2050, 2300, 2450, 2600, 2750, 3700, 2900),
    "town": (1050, 1200, 1300, 1450, 1750, 1900, 1950, 2050, 2150, 1850),
    "street": (800, 900, 980, 1050, 1120, 1180, 1220, 1250, 1350, 1250),
}
SURFACES = tuple(SPECTRA)
Map = npt.NDArray[np.float64]

Colour = tuple[int, int, int]


class Sketch(NamedTuple):
    """A photo to draw: what stands there, the colours of sky and ground, and near which row and column."""

    surface: str
    sky: Colour
    ground: Colour
    near: tuple[int, int]


PHOTOS = {
    "river_bank": Sketch("water", (160, 195, 230), (70, 100, 115), (70, 240)),
    "in_the_wood": Sketch("wood", (120, 150, 120), (60, 75, 45), (130, 150)),
    "water_meadow": Sketch("meadow", (150, 195, 240), (95, 140, 60), (350, 200)),
    "corn_field": Sketch("crop", (165, 205, 240), (125, 145, 70), (100, 380)),
    "after_harvest": Sketch("stubble", (190, 210, 225), (190, 165, 110), (360, 40)),
    "high_street": Sketch("street", (185, 200, 215), (110, 108, 105), (300, 330)),
}


def write(folder: Path, seed: int = 7) -> tuple[Path, Path]:
    """Write the scene and its photos.

    Args:
        folder: Where ``scene.tif`` and ``photos/`` go.
        seed: Of everything random in it.

    Returns:
        The scene's file and the photos' folder.
    """
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    surfaces = _surfaces(random)
    _write_scene(folder / "scene.tif", surfaces, random)
    for name, sketch in PHOTOS.items():
        row, column = _standpoint(surfaces == SURFACES.index(sketch.surface), sketch.near)
        _write_photo(photos / f"{name}.jpg", sketch, _lonlat(row, column), random)
    return folder / "scene.tif", photos


def _surfaces(random: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw the index into SURFACES of every pixel."""
    down, right = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    river = 210 + 45 * np.sin(down / 70) + 14 * np.sin(down / 23)
    from_river = np.abs(right - river)
    fields = _fields(down, right, random)
    hills = _noise(random, 90) + 0.4 * _noise(random, 30)
    town = np.hypot((right - 340) / 1.3, down - 300) + 25 * _noise(random, 20) < 75
    streets = town & ((right + 0.2 * down) % 13 < 1.6) | town & ((down - 0.2 * right) % 17 < 1.6)
    return np.select(
        [from_river < 9, streets, town, from_river < 34, hills > 0.55],
        [SURFACES.index(name) for name in ("water", "street", "town", "meadow", "wood")],
        fields,
    )


def _fields(down: Map, right: Map, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw fields: rectangles along a turned grid, each with a crop of its own."""
    u, v = 0.94 * right + 0.34 * down, 0.94 * down - 0.34 * right
    crops = random.choice([SURFACES.index(name) for name in ("crop", "stubble", "meadow")], size=(64, 64))
    return crops[(v // 26).astype(int) % 64, (u // 41).astype(int) % 64]


def _noise(random: np.random.Generator, scale: int) -> Map:
    """Draw smooth noise of deviation about 1 whose features are ``scale`` pixels wide."""
    side = SIZE // scale + 4
    coarse = Image.fromarray(random.normal(size=(side, side)).astype(np.float32))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float) * 1.4


def _write_scene(path: Path, surfaces: npt.NDArray[np.intp], random: np.random.Generator) -> None:
    reflectance = np.array([SPECTRA[name] for name in SURFACES], float)[surfaces].transpose(2, 0, 1)
    brightness = 1 + 0.08 * _noise(random, 12) + 0.05 * random.normal(size=(SIZE, SIZE))
    pixels = np.clip(reflectance * brightness, 1, 12000).round().astype(np.uint16)
    profile = {"driver": "GTiff", "dtype": "uint16", "count": len(BANDS), "width": SIZE, "height": SIZE}
    layout = {"tiled": True, "compress": "deflate", "predictor": 2, "crs": CRS, "transform": TRANSFORM}
    with rasterio.open(path, "w", **profile, **layout) as scene:
        scene.write(pixels)
        scene.descriptions = BANDS
        scene.update_tags(TIFFTAG_IMAGEDESCRIPTION="Made up for a demonstration; no satellite saw this")


def _standpoint(where: npt.NDArray[np.bool_], near: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the pixel with this surface that is nearest to a wished one."""
    rows, columns = np.nonzero(where)
    nearest = int(np.argmin(np.hypot(rows - near[0], columns - near[1])))
    return int(rows[nearest]), int(columns[nearest])


def _lonlat(row: int, column: int) -> tuple[float, float]:
    x, y = rasterio.transform.xy(TRANSFORM, row, column)
    (lon,), (lat,) = warp(CRS, "EPSG:4326", [x], [y])
    return lon, lat


def _write_photo(
    path: Path, sketch: Sketch, lonlat: tuple[float, float], random: np.random.Generator
) -> None:
    width, height, horizon = 640, 480, 230
    photo = Image.new("RGB", (width, height), sketch.sky)
    draw = ImageDraw.Draw(photo)
    draw.rectangle((0, horizon, width, height), fill=sketch.ground)
    if sketch.surface == "street":
        draw.polygon([(300, horizon), (340, horizon), (620, height), (20, height)], fill=(85, 85, 88))
    things = {"wood": 60, "street": 14, "meadow": 8, "water": 25}.get(sketch.surface, 4)
    # Over a river the trees stand on the other bank.
    depths = 20 if sketch.surface == "water" else 120
    for x, depth in sorted(random.uniform((0, 0), (width, 1), size=(things, 2)).tolist(), key=lambda t: t[1]):
        _draw_thing(draw, sketch.surface, x, horizon + 20 + depths * depth, 30 + depths * depth)
    grain = np.asarray(photo, float) + random.normal(0, 7, size=(height, width, 3))
    made = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
    made.save(path, quality=88, exif=_position(*lonlat))


def _draw_thing(draw: ImageDraw.ImageDraw, surface: str, x: float, foot: float, tall: float) -> None:
    """Draw a house in the street, a tree anywhere else."""
    if surface == "street":
        draw.rectangle((x - tall / 2, foot - 1.3 * tall, x + tall / 2, foot), fill=(176, 160, 142))
        draw.polygon(
            [(x - tall / 2, foot - 1.3 * tall), (x, foot - 1.8 * tall), (x + tall / 2, foot - 1.3 * tall)],
            fill=(140, 72, 58),
        )
        return
    draw.rectangle((x - tall / 16, foot - tall / 2, x + tall / 16, foot), fill=(72, 54, 38))
    draw.ellipse((x - tall / 3, foot - 1.3 * tall, x + tall / 3, foot - 0.4 * tall), fill=(48, 84, 40))


def _position(lon: float, lat: float) -> Image.Exif:
    """Say in EXIF where a photo was taken."""
    exif = Image.Exif()
    gps = ExifTags.GPS
    exif[ExifTags.IFD.GPSInfo] = {
        gps.GPSLatitudeRef: "N" if lat >= 0 else "S",
        gps.GPSLatitude: _sexagesimal(abs(lat)),
        gps.GPSLongitudeRef: "E" if lon >= 0 else "W",
        gps.GPSLongitude: _sexagesimal(abs(lon)),
    }
    return exif


def _sexagesimal(degrees: float) -> tuple[float, float, float]:
    whole = math.floor(degrees)
    minutes = math.floor((degrees - whole) * 60)
    return float(whole), float(minutes), round((degrees - whole - minutes / 60) * 3600, 4)
