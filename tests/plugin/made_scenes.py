"""Small scenes made up for tests, and layers that are no files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from osgeo import gdal
from qgis.core import QgsCoordinateReferenceSystem, QgsRasterLayer

NAMES = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
#: Upper left corner, EPSG:32632.
LOCATION = (500_000, 5_100_000)


def made_values(width: int, height: int) -> np.ndarray:
    """Twelve bands of smooth relief and noise, in DN: every pixel is another."""
    generator = np.random.default_rng(3)
    rows, columns = np.mgrid[:height, :width]
    relief = 600 * (1 + np.sin(rows / 9) * np.cos(columns / 13))
    noise = generator.integers(100, 900, (12, height, width))
    return (noise + relief + 150 * np.arange(12)[:, None, None]).astype(np.uint16)


def made_scene(
    path: Path,
    *,
    crs: str = "EPSG:32632",
    width: int = 120,
    height: int = 100,
    values: np.ndarray | None = None,
    names: tuple[str, ...] | None = NAMES,
) -> np.ndarray:
    """Write a scene of 10 m pixels at `LOCATION` and return its values, (bands, height, width)."""
    values = made_values(width, height) if values is None else values
    bands, height, width = values.shape
    dataset = gdal.GetDriverByName("GTiff").Create(str(path), width, height, bands, gdal.GDT_UInt16)
    dataset.SetGeoTransform((LOCATION[0], 10, 0, LOCATION[1], 0, -10))
    if crs:
        dataset.SetProjection(QgsCoordinateReferenceSystem(crs).toWkt())
    for number in range(1, bands + 1):
        band = dataset.GetRasterBand(number)
        if names is not None:
            band.SetDescription(names[number - 1])
        band.WriteArray(values[number - 1])
        band.SetNoDataValue(0)
    dataset.FlushCache()
    return values


def virtual_layer(path: Path) -> QgsRasterLayer:
    """A layer that QGIS computes from a made scene and that is no file: twice its second band."""
    dataset = gdal.Open(str(path))
    width, height = dataset.RasterXSize, dataset.RasterYSize
    left, top = LOCATION
    extent = f"{left},{top - 10 * height},{left + 10 * width},{top}"
    return QgsRasterLayer(
        f"?crs=EPSG:32632&extent={extent}&width={width}&height={height}"
        f'&formula="scene@2" * 2&scene:uri={path}&scene:provider=gdal',
        "twice",
        "virtualraster",
    )
