"""SAFE products, in a folder or a zip."""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from defusedxml import ElementTree  # type: ignore[import-untyped]
from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]

from gair_core.errors import BadInputError
from gair_core.sentinel2.bands import recognise_name
from gair_core.sentinel2.offsets import common_offset, offset_from_baseline, offset_from_product_name
from gair_core.sentinel2.product import RASTER_SUFFIXES, BandFile, Product, first_known, processing_level

_LARGEST_METADATA = 32 * 1024 * 1024


@dataclass(frozen=True)
class Listing:
    """The files of a SAFE product, in a folder or a zip."""

    name: str
    prefix: str  # what makes a file's name a path for GDAL
    files: tuple[str, ...]  # relative, with slashes
    archive: Path | None = None

    @property
    def rasters(self) -> list[str]:
        """The files that are taken for rasters, by their suffix."""
        return [file for file in self.files if file.lower().endswith(RASTER_SUFFIXES)]

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


def folder_listing(folder: Path) -> Listing:
    """Return the files of a folder and its sub-folders."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return Listing(str(folder), str(folder), tuple(sorted(files)))


def zip_listing(path: str) -> Listing | None:
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
    return Listing(str(archive), f"/vsizip/{archive.as_posix()}", files, archive)


def open_safe(listing: Listing) -> Product:
    """Read the real layout: GRANULE/<tile>/IMG_DATA[/R10m]/T33UVP_<date>_B02[_10m].jp2 and MTD_MSIL*.xml."""
    images = [file for file in listing.rasters if "IMG_DATA/" in file]
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
        offset=first_known(announced, offset_from_product_name(listing.name)),
        level=processing_level(metadata or listing.name),
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
    return first_known(common_offset(announced), offset_from_baseline(baseline))
