"""Any raster layer as something that gair_core opens: its own source, or a temporary copy of its pixels."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Callable

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCoordinateTransformContext,
    QgsProcessingFeedback,
    QgsRasterBlockFeedback,
    QgsRasterDataProvider,
    QgsRasterFileWriter,
    QgsRasterInterface,
    QgsRasterLayer,
    QgsRasterPipe,
    QgsRectangle,
)

from .translation import tr

Extent = tuple  # (QgsRectangle, QgsCoordinateReferenceSystem)


class InputError(Exception):
    """An input that cannot be used; the text says what was found and what to do."""


def parse_bands(text: str) -> dict[str, int | str] | None:
    """Read where the bands are.

    Args:
        text: ``B2=1,B3=2,...`` (numbers from 1, or another band's name), or names in the layer's order.

    Returns:
        Number or name by band name; None for an empty text.

    Raises:
        InputError: The text is neither.
    """
    items = [item.strip() for item in re.split(r"[,;\s]+(?![^=]*=\s*$)", text.strip()) if item.strip()]
    if not items:
        return None
    named = [item for item in items if "=" in item]
    if not named:
        return _in_order(items)
    return dict(_pair(item) for item in items)


def _in_order(names: list[str]) -> dict[str, int | str]:
    return {name: number for number, name in enumerate(names, start=1)}


def _pair(item: str) -> tuple[str, int | str]:
    name, _, place = item.partition("=")
    return name.strip(), int(place) if place.strip().isdecimal() else place.strip()


class RasterInput:
    """A raster layer's essence, read on the main thread and usable on any.

    Args:
        path: What gair_core opens, where that is possible.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    @classmethod
    def read(cls, layer: QgsRasterLayer | None, value: str) -> RasterInput:
        """Read a layer; belongs to the main thread."""
        if layer is None or not layer.isValid():
            raise InputError(tr("The layer {value} cannot be opened as a raster.").format(value=value))
        return cls(layer.source())

    def source(
        self, extent: Extent | None, folder: Callable[[], Path], feedback: QgsProcessingFeedback
    ) -> str:
        """Return what gair_core opens."""
        return self._path
