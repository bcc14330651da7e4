"""Find the bands of a Sentinel-2 product, in whatever form the user has it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gair_core.errors import BadInputError
from gair_core.sentinel2.bands import BANDS, canonical_name, recognise_name
from gair_core.sentinel2.offsets import (
    common_offset,
    display_image,
    offset_from_product_name,
    tagged_offset,
)
from gair_core.sentinel2.product import (
    RASTER_SUFFIXES,
    BandFile,
    Product,
    first_known,
    list_bands,
    processing_level,
)
from gair_core.sentinel2.raster import is_local, open_raster
from gair_core.sentinel2.safe import Listing, folder_listing, open_safe, zip_listing
from gair_core.sentinel2.stac import open_stac_item
from gair_core.sentinel2.stacks import NAMING_HINT, described_names, unnamed_order

_BAND_IN_STEM = re.compile(r"(?i)(?<![A-Za-z0-9])(band[ _-]?|b)(8a|1[0-2]|0?[1-9])(?![A-Za-z0-9])(_\d{2}m)?")


def find_product(
    source: str | Path | Sequence[str | Path], mapping: Mapping[str, str | int] | None = None
) -> Product:
    """Find the bands of a product.

    Args:
        source: A stack, a folder of band files, a SAFE folder or zip (or its MTD_MSIL2A.xml), a STAC item,
            a GDAL path such as /vsicurl/..., or several files.
        mapping: Where bands are that names do not tell, see `Scene.open`.

    Raises:
        BadInputError: There is no such product, or its bands cannot be told apart.
    """
    wanted = {canonical_name(name): value for name, value in (mapping or {}).items()}
    product = _discover(source, wanted)
    return product if product.kind == "stack" else _map_names(product, wanted)


def _discover(source: str | Path | Sequence[str | Path], wanted: Mapping[str, str | int]) -> Product:
    if not isinstance(source, (str, Path)):
        if len(source) != 1:
            return _band_files([str(path) for path in source], "the list of files")
        source = source[0]
    path = str(source)
    if listing := zip_listing(path):
        return _zip(listing, wanted)
    if not is_local(path):
        return _stack(path, wanted)
    return _local(Path(path), wanted)


def _local(place: Path, wanted: Mapping[str, str | int]) -> Product:
    if not place.exists():
        raise BadInputError(f"{place} does not exist.", "Check the path.")
    if place.is_dir():
        return _folder(place, wanted)
    if place.suffix.lower() in (".json", ".geojson"):
        return open_stac_item(place)
    if re.fullmatch(r"MTD_MSIL\w+\.xml", place.name):
        return open_safe(folder_listing(place.parent))
    return _stack(str(place), wanted)


def _zip(listing: Listing, wanted: Mapping[str, str | int]) -> Product:
    """Open a zip: a SAFE product, one file per band, or one stack."""
    if any("IMG_DATA/" in file or "MTD_MSIL" in file for file in listing.files):
        return open_safe(listing)
    rasters = [posixpath.join(listing.prefix, file) for file in listing.rasters]
    if len(rasters) == 1:
        return _stack(rasters[0], wanted)
    return _band_files(rasters, listing.name)


# --- stacks -----------------------------------------------------------------------------------------------


def _stack(path: str, wanted: Mapping[str, str | int]) -> Product:
    """Name the bands of one file: by the user's mapping, the descriptions, or a usual order."""
    with open_raster(path) as dataset:
        if dataset.count == 0:
            raise BadInputError(
                f"{path} is a container of several rasters.",
                "Give the list of its subdatasets or its folder.",
            )
        numbers = {name: int(value) for name, value in wanted.items() if _is_number(value)}
        _check_numbers(path, numbers, dataset.count)
        remark = ""
        if set(BANDS) <= set(numbers):
            named: dict[str, int] = {}
        else:
            named = described_names(dataset.descriptions, path)
            if not named:
                _refuse_display_image(dataset)
                order, remark = unnamed_order(dataset, frozenset(wanted))
                named = {name: number for number, name in enumerate(order, start=1)}
        tags = dict(dataset.tags())
        for number in range(1, dataset.count + 1):
            tags |= {f"{number}:{name}": text for name, text in dataset.tags(number).items()}
        scl = next(
            (number for number, text in enumerate(dataset.descriptions, 1) if (text or "").upper() == "SCL"),
            None,
        )
        offset = first_known(tagged_offset(tags), _gdal_offset(dataset), offset_from_product_name(path))
    bands, stand_ins = _resolve_numbers(path, wanted, numbers, named)
    text = " ".join((path, *(value for name, value in tags.items() if name in ("PRODUCT_ID", "PRODUCT_URI"))))
    return Product(
        "stack",
        path,
        {name: BandFile(path, number) for name, number in bands.items()},
        stand_ins,
        offset,
        level=processing_level(text) or ("L1C" if "B10" in named else None),
        scl=BandFile(path, scl) if scl else None,
        order=remark,
        # Twelve and thirteen bands have one order that the values confirm; ten and eleven are taken on trust.
        warnings=(f"{path}: {remark}.",) if remark and len(named) < 12 else (),
    )


def _resolve_numbers(
    path: str, wanted: Mapping[str, str | int], numbers: Mapping[str, int], named: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, str]]:
    """Merge names found with the user's mapping; return band numbers and stand-ins."""
    bands = dict(named)
    stand_ins: dict[str, str] = {}
    by_number = {
        number: name for name, number in (named or numbers).items() if name not in wanted or not named
    }
    for name, value in wanted.items():
        if name in numbers:
            number = numbers[name]
        else:
            other = canonical_name(str(value))
            if other not in named:
                raise BadInputError(f"{path} has no band {other} for {name}.", NAMING_HINT)
            number = named[other]
        original = by_number.get(number, name)
        if named and original != name:
            stand_ins[name] = original
        bands[name] = number
    if not named:
        stand_ins |= _shared_numbers(numbers)
    return bands, stand_ins


def _shared_numbers(numbers: Mapping[str, int]) -> dict[str, str]:
    """Return which bands share a number with an earlier one: {"B8A": "B8"} for B8=8 and B8A=8."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name in sorted(numbers, key=lambda band: (len(band), band)):
        owner = first.setdefault(numbers[name], name)
        if owner != name:
            shared[name] = owner
    return shared


def _check_numbers(path: str, numbers: Mapping[str, int], count: int) -> None:
    for name, number in numbers.items():
        if not 1 <= number <= count:
            raise BadInputError(
                f"{name}={number} was asked for, but {path} has bands 1 to {count}.", "Count bands from 1."
            )


def _refuse_display_image(dataset: Any) -> None:  # noqa: ANN401
    if dataset.dtypes[0] in ("uint8", "int8"):
        raise display_image(dataset.name, f"its numbers are {dataset.dtypes[0]}")


def _gdal_offset(dataset: Any) -> float | None:  # noqa: ANN401
    """Return in DN what the band's scale and offset mean: reflectance = stored * scale + offset."""
    scale, offset = dataset.scales[0], dataset.offsets[0]
    return float(round(offset / scale, 3)) if offset and scale else None


# --- one file per band ------------------------------------------------------------------------------------


def _folder(folder: Path, wanted: Mapping[str, str | int]) -> Product:
    """Open a folder: a SAFE product, one file per band, one stack, or one sub-folder with any of these."""
    if folder.suffix.upper() == ".SAFE" or any(folder.glob("MTD_MSIL*.xml")):
        return open_safe(folder_listing(folder))
    rasters = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in RASTER_SUFFIXES]
    if any(recognise_name(path.stem) for path in rasters):
        return _band_files([str(path) for path in rasters], str(folder))
    if len(rasters) == 1:
        return _stack(str(rasters[0]), wanted)
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and _holds_bands(path)]
    if len(inside) == 1 and not rasters:
        return _folder(inside[0], wanted)
    listed = ", ".join(path.name for path in (rasters or inside)[:8]) or "nothing of the kind"
    raise BadInputError(
        f"{folder} holds {listed}; wanted one Sentinel-2 product: one stack, or one file per band whose name "
        "ends in the band, such as B8A.tif.",
        "Choose one product.",
    )


def _holds_bands(folder: Path) -> bool:
    if folder.suffix.upper() == ".SAFE" or any(folder.glob("MTD_MSIL*.xml")):
        return True
    return any(path.suffix.lower() in RASTER_SUFFIXES for path in folder.iterdir())


def _band_files(paths: Sequence[str], name: str) -> Product:
    """Tell the files of one product apart by their names; files that name no band are not bands."""
    candidates: dict[str, list[BandFile]] = {}
    stems: set[str] = set()
    scl: BandFile | None = None
    offsets: set[str] = set()
    for path in paths:
        stem = Path(path).stem
        band = recognise_name(stem)
        if band is None and re.search(r"(?<![A-Za-z])SCL(?![A-Za-z])", stem):
            scl = BandFile(path)
            continue
        for found, number in _bands_of_file(path, band).items():
            candidates.setdefault(found, []).append(BandFile(path, number))
            if band:
                stems.add(_without_band(stem))
    if not candidates:
        raise BadInputError(
            f"{name}: no file names a Sentinel-2 band.",
            "Name the files so that they end in the band, as B8A.tif.",
        )
    if len(stems) > 1:
        raise BadInputError(
            f"{name} mixes the products {', '.join(sorted(stems)[:4])}; wanted one product.",
            "Give the files of one product.",
        )
    for found in sorted(candidates):
        with open_raster(candidates[found][0].path) as dataset:
            offset = first_known(tagged_offset(dataset.tags()), _gdal_offset(dataset))
            offsets |= {str(offset)} if offset is not None else set()
    text = " ".join((name, *paths[:1]))
    return Product(
        "bands",
        name,
        {found: _finest(files) for found, files in candidates.items()},
        offset=first_known(common_offset(offsets), offset_from_product_name(text)),
        level=processing_level(text) or ("L1C" if "B10" in candidates else None),
        scl=scl,
    )


def _without_band(stem: str) -> str:
    """Return what the files of one product have in common: the name without its band and resolution."""
    if not _BAND_IN_STEM.search(stem):
        return ""  # a common name such as "red"
    return _BAND_IN_STEM.sub("", stem)


def _bands_of_file(path: str, band: str | None) -> dict[str, int]:
    with open_raster(path) as dataset:
        if dataset.count == 1 and band:
            return {band: 1}
        return described_names(dataset.descriptions, path)


def _finest(files: Sequence[BandFile]) -> BandFile:
    if len(files) == 1:
        return files[0]

    def pixels(file: BandFile) -> int:
        with open_raster(file.path) as dataset:
            return int(dataset.width * dataset.height)

    return max(files, key=pixels)


def _map_names(product: Product, wanted: Mapping[str, str | int]) -> Product:
    """Let bands stand for others in a product of several files; a number means the band of that number."""
    bands, stand_ins = dict(product.bands), {}
    for name, value in wanted.items():
        other = canonical_name(f"B{value}" if _is_number(value) else str(value))
        if other not in product.bands:
            raise BadInputError(
                f"{product.name} has no band {other} for {name}; it has {list_bands(product.bands)}.",
                "Let a band that exists stand for it.",
            )
        bands[name] = product.bands[other]
        if other != name:
            stand_ins[name] = other
    return Product(**{**product.__dict__, "bands": bands, "stand_ins": stand_ins})


def _is_number(value: str | int) -> bool:
    return isinstance(value, int) or str(value).isdecimal()
