"""When a product was taken, as its metadata or its name tell it."""

from __future__ import annotations

import calendar
import datetime as dt
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import rasterio
from rasterio.errors import RasterioError

_DATE: Final = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_:/]?(0[1-9]|1[0-2])[-_:/]?(0[1-9]|[12]\d|3[01])(?=\D|$)")
# Tags that name the product or the day that it was taken; those of the day it was processed are left out.
_TAGS: Final = ("PRODUCT_URI", "PRODUCT_ID", "DATATAKE_IDENTIFIER", "system-index", "ACQUISITION_DATE")
# ESA's names have the day of the sensing first and the day of the processing last.
_ESA_NAME: Final = re.compile(r"S2[A-D]_MSI")


def product_date(source: str | Path) -> dt.date | None:
    """Return the day when a product was taken, or None where nothing tells it beyond doubt.

    The properties of a STAC item come first, then the tags of a raster, then the name of the file and of its
    folder. A name with several different days tells none, unless it is one of ESA's.

    Args:
        source: A file, folder, SAFE, zip, STAC item or path that GDAL understands.
    """
    path = Path(source)
    for text in (*_stac_texts(path), *_tag_texts(path), path.stem, path.parent.name):
        if found := parse_date(text):
            return found
    return None


def parse_date(text: str) -> dt.date | None:
    """Return the day that a text names, such as 2020-02-23, 20200223T032739 or an ESA name, or None."""
    days = list(dict.fromkeys(_days(text)))
    if len(days) > 1 and not _ESA_NAME.search(text):
        return None
    return days[0] if days else None


def _days(text: str) -> Iterable[dt.date]:
    for year, month, day in _DATE.findall(text):
        if int(day) <= calendar.monthrange(int(year), int(month))[1]:
            yield dt.date(int(year), int(month), int(day))


def _stac_texts(path: Path) -> list[str]:
    if path.suffix.lower() not in (".json", ".geojson") or not path.is_file():
        return []
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return []
    properties = item.get("properties") if isinstance(item, dict) else None
    if not isinstance(properties, dict):
        return []
    return [str(properties.get(name) or "") for name in ("datetime", "start_datetime")]


def _tag_texts(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        with rasterio.open(path) as dataset:
            tags = dataset.tags()
    except RasterioError:  # zips and STAC items are known by their names
        return []
    return [tags[name] for name in _TAGS if name in tags]
