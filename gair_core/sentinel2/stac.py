"""STAC items of one scene, with an asset a band."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gair_core.errors import BadInputError
from gair_core.sentinel2.bands import recognise_name
from gair_core.sentinel2.offsets import common_offset, offset_from_baseline
from gair_core.sentinel2.product import BandFile, Product, first_known, processing_level
from gair_core.sentinel2.raster import is_local

_PICTURE = re.compile(r"(?i)visual|tci|preview|thumbnail|overview")


def open_stac_item(path: Path) -> Product:
    """Read a STAC item whose assets name their bands in `eo:bands` (STAC 1.0) or `bands` (1.1)."""
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} is no readable JSON: {error}.", "Give a STAC item.") from error
    assets = item.get("assets") if isinstance(item, dict) else None
    if not isinstance(assets, dict):
        raise BadInputError(f"{path} is no STAC item: it has no assets.", "Give the item of one scene.")
    candidates: dict[str, tuple[float, BandFile]] = {}
    scl: BandFile | None = None
    offsets: set[str] = set()
    for key, asset in assets.items():
        if not isinstance(asset, dict) or not isinstance(asset.get("href"), str) or _is_picture(key, asset):
            continue
        file = _resolve_href(path, asset["href"])
        if re.match(r"(?i)scl(?![a-z])", key):
            scl = scl or BandFile(file)
            continue
        for name, number in _stac_bands(key, asset).items():
            found = (_stac_resolution(key, asset), BandFile(file, number))
            if name not in candidates or found[0] < candidates[name][0]:
                candidates[name] = found
            offsets |= _stac_offsets(asset)
    if not candidates:
        raise BadInputError(
            f"None of the {len(assets)} assets of {path} names a Sentinel-2 band.",
            "Give an item whose assets have `eo:bands` or `bands`.",
        )
    properties = item.get("properties") if isinstance(item.get("properties"), dict) else {}
    return Product(
        "STAC",
        str(path),
        {name: file for name, (_, file) in candidates.items()},
        offset=_stac_offset(properties, offsets),
        level=processing_level(f"{item.get('collection', '')} {item.get('id', '')}"),
        scl=scl,
    )


def _is_picture(key: str, asset: Mapping[str, Any]) -> bool:
    """Return whether an asset is made for looking at, such as the true-colour image."""
    roles = asset.get("roles")
    shown = isinstance(roles, list) and bool({"visual", "thumbnail", "overview"} & set(map(str, roles)))
    return shown or bool(_PICTURE.match(key))


def _stac_resolution(key: str, asset: Mapping[str, Any]) -> float:
    """Return an asset's resolution in metres as far as it is told: opening remote files to see is slow."""
    for entry in (asset, *_entries(asset, "raster:bands"), *_entries(asset, "bands")):
        for name in ("gsd", "spatial_resolution", "raster:spatial_resolution"):
            if isinstance(entry.get(name), (int, float)):
                return float(entry[name])
    match = re.search(r"_(\d{2})m$", key)
    return float(match[1]) if match else float("inf")


def _stac_bands(key: str, asset: Mapping[str, Any]) -> dict[str, int]:
    names = [_stac_name(band) for band in _entries(asset, "eo:bands") or _entries(asset, "bands")]
    if len(names) <= 1:
        name = (names[0] if names else None) or recognise_name(key)
        return {name: 1} if name else {}
    return {name: number for number, name in enumerate(names, start=1) if name}


def _entries(asset: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return the objects of a list in an asset, and nothing where it is no such list."""
    listed = asset.get(key)
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _stac_name(band: Mapping[str, Any]) -> str | None:
    for entry in ("name", "description", "eo:common_name", "common_name"):
        if name := recognise_name(str(band.get(entry) or "")):
            return name
    return None


def _stac_offsets(asset: Mapping[str, Any]) -> set[str]:
    """Return the offsets in DN of `raster:bands` (STAC 1.0) or `bands` (1.1): offset / scale."""
    found = set()
    for band in (*_entries(asset, "raster:bands"), *_entries(asset, "bands"), asset):
        offset = band.get("offset", band.get("raster:offset"))
        scale = band.get("scale", band.get("raster:scale"))
        if isinstance(offset, (int, float)) and isinstance(scale, (int, float)) and scale:
            found.add(str(float(round(offset / scale, 3))))
    return found


def _stac_offset(properties: Mapping[str, Any], offsets: set[str]) -> float | None:
    if properties.get("earthsearch:boa_offset_applied") is True:
        return None  # the archive says that it has taken it off
    baseline = properties.get("s2:processing_baseline") or properties.get("processing:version") or ""
    return first_known(common_offset(offsets), offset_from_baseline(str(baseline)))


def _resolve_href(item: Path, href: str) -> str:
    if not is_local(href):
        return href
    place = Path(href)
    return str(place if place.is_absolute() else item.parent / place)
