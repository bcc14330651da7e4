"""Small Sentinel-2 products in the layouts that users have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from gair_core.sentinel2.bands import ALL_BANDS

SURFACE = tuple(name for name in ALL_BANDS if name != "B10")
PIXEL = {**dict.fromkeys(ALL_BANDS, 20), "B1": 60, "B9": 60, "B10": 60} | dict.fromkeys(
    ("B2", "B3", "B4", "B8"), 10
)
NORTH_UP = Affine(10, 0, 500000, 0, -10, 5000000)


def values(count=12, height=48, width=60, *, seed=0, low=100, high=4000, dtype="uint16"):
    """Random DN that any band might have, of shape (count, height, width)."""
    return np.random.default_rng(seed).integers(low, high, (count, height, width)).astype(dtype)


def write(path, data, names=None, *, crs="EPSG:32633", transform=NORTH_UP, nodata=None, tags=None, **options):
    options = {"driver": "GTiff", **options}
    profile = {"count": len(data), "height": data.shape[1], "width": data.shape[2], "dtype": data.dtype}
    with rasterio.open(
        path, "w", crs=crs, transform=transform, nodata=nodata, **profile, **options
    ) as dataset:
        dataset.write(data)
        if names is not None:
            dataset.descriptions = tuple(names)
        if tags:
            dataset.update_tags(**tags)
    return path


def two_digits(name):
    return name if name == "B8A" else f"B{int(name[1:]):02d}"


def stored_bands(names=ALL_BANDS, seed=0, offset=0):
    """Return each band's pixels at its own resolution over the same 48 x 60 pixels of 10 m."""
    rng = np.random.default_rng(seed)
    bands = {}
    for name in names:
        factor = PIXEL[name] // 10
        size = (48 // factor, 60 // factor)
        bands[name] = (rng.integers(50, 4000, size) + offset).astype("uint16")
    return bands


def fine(bands, name):
    """Return a band replicated to 10 m."""
    return np.kron(bands[name], np.ones((PIXEL[name] // 10,) * 2, dtype="uint16"))


def coarse_transform(name):
    return NORTH_UP * Affine.scale(PIXEL[name] / 10)


def write_band_files(folder: Path, bands, pattern="{band}.tif"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in bands.items():
        write(folder / pattern.format(band=two_digits(name)), data[None], transform=coarse_transform(name))
    return folder


METADATA = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info><Product_Info><PRODUCT_URI>{uri}</PRODUCT_URI>
  <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></Product_Info>
  <Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>
  <BOA_QUANTIFICATION_VALUE unit="none">{quantification}</BOA_QUANTIFICATION_VALUE>
  </QUANTIFICATION_VALUES_LIST>
  {offsets}</Product_Image_Characteristics></n1:General_Info></n1:Level-2A_User_Product>
"""


def write_safe(
    parent: Path, bands, *, offset=-1000, baseline="05.11", quantification=10000, scl=None
) -> Path:
    """Write the real layout: R10m/R20m/R60m with a coarser copy, TCI, SCL, QI_DATA and metadata."""
    name = f"S2B_MSIL2A_20240824T162829_N{baseline.replace('.', '')}_R083_T33TWN_20240824T204911.SAFE"
    safe = parent / name
    granule = safe / "GRANULE/L2A_T33TWN_A039005_20240824T163435"
    stem = "T33TWN_20240824T162829"
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    for folder in ("R10m", "R20m", "R60m"):
        (granule / "IMG_DATA" / folder).mkdir(parents=True)
    for band, data in bands.items():
        pixel = PIXEL[band]
        place = granule / f"IMG_DATA/R{pixel}m/{stem}_{two_digits(band)}_{pixel}m.jp2"
        write(place, data[None], transform=coarse_transform(band), **lossless)
    # The real product repeats fine bands at coarser resolutions; here with other values, to be told apart.
    decoy = np.full((1, 24, 30), 7777, dtype="uint16")
    place = granule / f"IMG_DATA/R20m/{stem}_B02_20m.jp2"
    write(place, decoy, transform=NORTH_UP * Affine.scale(2), **lossless)
    picture = np.full((3, 48, 60), 99, dtype="uint8")
    write(granule / f"IMG_DATA/R10m/{stem}_TCI_10m.jp2", picture, **lossless)
    if scl is not None:
        place = granule / f"IMG_DATA/R20m/{stem}_SCL_20m.jp2"
        write(place, scl[None], transform=NORTH_UP * Affine.scale(2), **lossless)
    (granule / "QI_DATA").mkdir()
    write(granule / "QI_DATA/MSK_DETFOO_B02.jp2", picture[:1], **lossless)
    offsets = ""
    if offset is not None:
        entries = "".join(f'<BOA_ADD_OFFSET band_id="{band}">{offset}</BOA_ADD_OFFSET>' for band in range(13))
        offsets = f"<BOA_ADD_OFFSET_VALUES_LIST>{entries}</BOA_ADD_OFFSET_VALUES_LIST>"
    text = METADATA.format(uri=name, baseline=baseline, offsets=offsets, quantification=quantification)
    (safe / "MTD_MSIL2A.xml").write_text(text)
    return safe


def write_stac(folder: Path, bands, *, key="eo:bands", properties=None, raster=None, scl=None) -> Path:
    """Write a STAC item with relative links, a picture and a thumbnail among the assets."""
    write_band_files(folder / "data", bands, "{band}.tif")
    assets = {
        two_digits(name): {"href": f"./data/{two_digits(name)}.tif", key: [{"name": two_digits(name)}]}
        | ({"raster:bands": [raster]} if raster else {})
        for name in bands
    }
    assets["visual"] = {"href": "./TCI.tif", key: [{"name": "B04"}, {"name": "B03"}, {"name": "B02"}]}
    assets["thumbnail"] = {"href": "./preview.jpg", "roles": ["thumbnail"]}
    if scl is not None:
        write(folder / "data/SCL.tif", scl[None], transform=NORTH_UP * Affine.scale(2))
        assets["scl"] = {"href": "data/SCL.tif"}
    item = {
        "type": "Feature",
        "collection": "sentinel-2-l2a",
        "properties": properties or {},
        "assets": assets,
    }
    path = folder / "item.json"
    path.write_text(json.dumps(item))
    return path
