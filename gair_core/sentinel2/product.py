"""What a product is once its bands have been found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

RASTER_SUFFIXES: Final = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".cog")
"""Files of a folder or an archive that are taken for rasters."""


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


def first_known(*values: float | None) -> float | None:
    """Return the first value that is known, or None."""
    return next((value for value in values if value is not None), None)


def processing_level(text: str) -> str | None:
    """Return the processing level that a product's name or collection speaks of."""
    match = re.search(r"(?i)(?<![A-Za-z0-9])(?:(?:MSI)?L|S2[ABC])(1C|2A)(?![A-Za-z0-9])", text)
    return f"L{match[1].upper()}" if match else None


def list_bands(names: Iterable[str]) -> str:
    """Return band names in their order, separated by commas."""
    return ", ".join(sorted(names, key=lambda name: (int(re.sub(r"\D", "", name)), name)))
