"""Small scenes with known content, in any CRS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.transform import from_origin

from gair_core.sentinel2.bands import BANDS

# About 10 m pixels around 50 degrees north, in coordinate systems that users have.
PLACES = {
    "utm": ("EPSG:32632", from_origin(450000, 5500000, 10, 10)),
    "degrees": ("EPSG:4326", from_origin(8.3, 49.65, 0.0001385, 0.0000899)),
    "mercator": ("EPSG:3857", from_origin(924000, 6379000, 15.4, 15.4)),
    "rotated": (
        "EPSG:32632",
        Affine.translation(450000, 5500000) @ Affine.rotation(30) @ Affine.scale(10, -10),
    ),
}


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Reflectances (10, height, width) with structure at several scales, DN 1 to 8000."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(BANDS), height, width))
    for scale in (5, 23):
        shape = (len(BANDS), height // scale + 1, width // scale + 1)
        noise += np.kron(rng.normal(size=shape), np.ones((scale, scale)))[:, :height, :width]
    return np.clip(1800 + 400 * noise, 1, 8000).astype(np.uint16)


def write(path: Path, dn: np.ndarray, place: str = "utm", nodata: float | None = None) -> Path:
    crs, transform = PLACES[place]
    count, height, width = dn.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": dn.dtype}
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform, nodata=nodata) as dataset:
        dataset.write(dn)
        dataset.descriptions = BANDS[:count]
    return path
