"""Find the bands of a Sentinel-2 product, in whatever form the user has it."""

from __future__ import annotations

import json
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from defusedxml import ElementTree  # type: ignore[import-untyped]
from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]

from gair_core.errors import BadInputError
from gair_core.sentinel2.bands import BANDS, canonical_name, recognise_name
from gair_core.sentinel2.offsets import (
    common_offset,
    display_image,
    offset_from_baseline,
    offset_from_product_name,
    tagged_offset,
)
from gair_core.sentinel2.raster import is_local, open_raster
from gair_core.sentinel2.stacks import NAMING_HINT, described_names, unnamed_order

_RASTERS: Final = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".cog")
_LARGEST_METADATA = 32 * 1024 * 1024
_BAND_IN_STEM = re.compile(r"(?i)(?<![A-Za-z0-9])(band[ _-]?|b)(8a|1[0-2]|0?[1-9])(?![A-Za-z0-9])(_\d{2}m)?")
_PICTURE = re.compile(r"(?i)visual|tci|preview|thumbnail|overview")


@dataclass(frozen=True)
class BandFile:
    """One band of one file: a path that GDAL opens and a band number counted from 1."""

    path: str
    number: int = 1


@dataclass(frozen=True)
class Product:
    """What was found.

    Attributes:
        kind: "stack", "bands", "SAFE" or "STAC".
        name: What to call it in messages.
        bands: Where each band is, by canonical name; may hold more than the model uses.
        stand_ins: Bands that another band stands for, by the user's wish: missing band to used band.
        offset: Radiometric offset in DN that metadata announce, or None.
        level: "L1C", "L2A" or None where unknown.
        scl: The product's scene classification, or None.
        order: How the bands of a stack without names were told apart, or an empty string.
        warnings: What the user should know.
    """

    kind: str
    name: str
    bands: Mapping[str, BandFile]
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    offset: float | None = None
    level: str | None = None
    scl: BandFile | None = None
    order: str = ""
    warnings: tuple[str, ...] = ()


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
    if listing := _zip_listing(path):
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
        return _stac_item(place)
    if re.fullmatch(r"MTD_MSIL\w+\.xml", place.name):
        return _safe(_folder_listing(place.parent))
    return _stack(str(place), wanted)


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
        offset = _first_known(tagged_offset(tags), _gdal_offset(dataset), offset_from_product_name(path))
    bands, stand_ins = _resolve_numbers(path, wanted, numbers, named)
    text = " ".join((path, *(value for name, value in tags.items() if name in ("PRODUCT_ID", "PRODUCT_URI"))))
    return Product(
        "stack",
        path,
        {name: BandFile(path, number) for name, number in bands.items()},
        stand_ins,
        offset,
        level=_level(text) or ("L1C" if "B10" in named else None),
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
        return _safe(_folder_listing(folder))
    rasters = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _RASTERS]
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
    return any(path.suffix.lower() in _RASTERS for path in folder.iterdir())


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
            offset = _first_known(tagged_offset(dataset.tags()), _gdal_offset(dataset))
            offsets |= {str(offset)} if offset is not None else set()
    text = " ".join((name, *paths[:1]))
    return Product(
        "bands",
        name,
        {found: _finest(files) for found, files in candidates.items()},
        offset=_first_known(common_offset(offsets), offset_from_product_name(text)),
        level=_level(text) or ("L1C" if "B10" in candidates else None),
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


# --- SAFE -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listing:
    """The files of a SAFE product, in a folder or a zip."""

    name: str
    prefix: str  # what makes a file's name a path for GDAL
    files: tuple[str, ...]  # relative, with slashes
    archive: Path | None = None

    def read(self, file: str) -> bytes:
        """Return a metadata file's content."""
        if self.archive is None:
            place = Path(self.prefix) / file
            size = place.stat().st_size
        else:
            with zipfile.ZipFile(self.archive) as archive:
                size = archive.getinfo(file).file_size
        if size > _LARGEST_METADATA:
            raise BadInputError(f"{self.name}: {file} has {size} bytes, too many for metadata.")
        if self.archive is None:
            return place.read_bytes()
        try:
            with zipfile.ZipFile(self.archive) as archive:
                return archive.read(file)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise BadInputError(f"{self.name}: {file} is damaged: {error}.", "Download it again.") from error


def _folder_listing(folder: Path) -> _Listing:
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return _Listing(str(folder), str(folder), tuple(sorted(files)))


def _zip_listing(path: str) -> _Listing | None:
    """Return the files of a zipped product, or None where the path is no zip or one file inside it."""
    match = re.fullmatch(r"(?:/vsizip/)?(.+?\.zip)((?:/[^/]+\.SAFE)?/?)", path, re.IGNORECASE)
    if match is None or not Path(match[1]).is_file():
        return None
    archive, inside = Path(match[1]), match[2].strip("/")
    try:
        with zipfile.ZipFile(archive) as opened:
            files = tuple(name for name in opened.namelist() if name.startswith(inside) and name[-1] != "/")
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInputError(
            f"{archive} cannot be opened as a zip archive: {error}.", "The download may be incomplete."
        ) from error
    return _Listing(str(archive), f"/vsizip/{archive.as_posix()}", files, archive)


def _zip(listing: _Listing, wanted: Mapping[str, str | int]) -> Product:
    """Open a zip: a SAFE product, one file per band, or one stack."""
    if any("IMG_DATA/" in file or "MTD_MSIL" in file for file in listing.files):
        return _safe(listing)
    rasters = [
        posixpath.join(listing.prefix, file) for file in listing.files if file.lower().endswith(_RASTERS)
    ]
    if len(rasters) == 1:
        return _stack(rasters[0], wanted)
    return _band_files(rasters, listing.name)


def _safe(listing: _Listing) -> Product:
    """Read the real layout: GRANULE/<tile>/IMG_DATA[/R10m]/T33UVP_<date>_B02[_10m].jp2 and MTD_MSIL*.xml."""
    images = [file for file in listing.files if "IMG_DATA/" in file and file.lower().endswith(_RASTERS)]
    granules = {file.split("IMG_DATA/")[0] for file in images}
    if len(granules) != 1:
        found = ", ".join(posixpath.basename(granule.rstrip("/")) for granule in sorted(granules)) or "none"
        raise BadInputError(
            f"{listing.name} has {len(granules)} tiles with images ({found}); wanted a SAFE product of one.",
            "Give the folder or zip of one complete product.",
        )
    bands: dict[str, tuple[int, str]] = {}
    scl: tuple[int, str] | None = None
    for file in images:
        stem = Path(file).stem
        pixel = int(match[1]) if (match := re.search(r"_(\d{2})m$", stem)) else 0
        if re.search(r"_SCL(_|$)", stem):
            scl = min(scl or (pixel, file), (pixel, file))
        elif band := recognise_name(stem):
            bands[band] = min(bands.get(band, (pixel, file)), (pixel, file))
    metadata = next((file for file in listing.files if re.search(r"(^|/)MTD_MSIL\w+\.xml$", file)), None)
    announced = _safe_offset(listing.read(metadata), metadata) if metadata else None
    return Product(
        "SAFE",
        listing.name,
        {name: BandFile(posixpath.join(listing.prefix, file)) for name, (_, file) in bands.items()},
        offset=_first_known(announced, offset_from_product_name(listing.name)),
        level=_level(metadata or listing.name),
        scl=BandFile(posixpath.join(listing.prefix, scl[1])) if scl else None,
    )


def _safe_offset(content: bytes, file: str) -> float | None:
    """Return the offset in DN that the product's metadata announce."""
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, DefusedXmlException) as error:
        raise BadInputError(f"{file} is damaged: {error}.", "Download the product again.") from error
    texts: dict[str, set[str]] = {}
    for element in root.iter():
        texts.setdefault(element.tag.rsplit("}", 1)[-1], set()).add((element.text or "").strip())
    announced = texts.get("BOA_ADD_OFFSET") or texts.get("RADIO_ADD_OFFSET") or set()
    baseline = next(iter(texts.get("PROCESSING_BASELINE", {""})))
    quantification = texts.get("BOA_QUANTIFICATION_VALUE") or texts.get("QUANTIFICATION_VALUE") or {"10000"}
    if common_offset(quantification) != 10000:
        raise BadInputError(
            f"{file} stores a reflectance of 1 as {', '.join(sorted(quantification))}; wanted 10000.",
            "Use a product of ESA's usual encoding.",
        )
    return _first_known(common_offset(announced), offset_from_baseline(baseline))


# --- STAC -------------------------------------------------------------------------------------------------


def _stac_item(path: Path) -> Product:
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
        level=_level(f"{item.get('collection', '')} {item.get('id', '')}"),
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
    return _first_known(common_offset(offsets), offset_from_baseline(str(baseline)))


def _resolve_href(item: Path, href: str) -> str:
    if not is_local(href):
        return href
    place = Path(href)
    return str(place if place.is_absolute() else item.parent / place)


# --- shared -----------------------------------------------------------------------------------------------


def _first_known(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _level(text: str) -> str | None:
    """Return the processing level that a product's name or collection speaks of."""
    match = re.search(r"(?i)(?<![A-Za-z0-9])(?:(?:MSI)?L|S2[ABC])(1C|2A)(?![A-Za-z0-9])", text)
    return f"L{match[1].upper()}" if match else None


def _is_number(value: str | int) -> bool:
    return isinstance(value, int) or str(value).isdecimal()


def list_bands(names: Iterable[str]) -> str:
    """Return band names in their order, separated by commas."""
    return ", ".join(sorted(names, key=lambda name: (int(re.sub(r"\D", "", name)), name)))
