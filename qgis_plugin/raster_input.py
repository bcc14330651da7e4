"""Any raster layer as something that gair_core opens: its own source, or a temporary copy of its pixels.

A layer is read once on the main thread (`RasterInput.read`); what is kept works on any thread.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCoordinateTransformContext,
    QgsCsException,
    QgsProcessingFeedback,
    QgsRasterBlockFeedback,
    QgsRasterFileWriter,
    QgsRasterLayer,
    QgsRasterPipe,
    QgsRectangle,
)
from qgis.PyQt.QtCore import Qt

from .compatibility import metres_to_units, raster_was_written, wkt
from .translation import tr

# The encoder looks beyond the requested extent, so that results hardly depend on it: pixels copied around it.
_MARGIN = 128
# A copy beyond this is a mistake rather than a wish: a web map of the whole world.
_MAX_PIXELS = 20_000 * 20_000
# Pixel size for layers that have none of their own, metres: Sentinel-2's.
_PIXEL_METRES = 10.0
_METRES_PER_DEGREE = 111_320.0

_BAND_FILE = re.compile(r"(?:^|[^A-Za-z0-9])B(?:8A|1[0-2]|0?[1-9])(?![A-Za-z0-9])", re.IGNORECASE)
_RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".cog")
# GDAL keeps these in the memory of QGIS, where no other process can read them.
_IN_MEMORY = ("/vsimem/", "MEM:")
_NUMBERED = re.compile(r"^Band 0*\d+(?:: )?")
# What QGIS makes of a product that is dragged into it: some of its bands.
_SUBDATASET = re.compile(r"SENTINEL2_L(?:1C|2A):(.+):(?:10m|20m|60m|TCI):\w+")
_METADATA = re.compile(r"MTD_MSIL\w+\.xml")
_ARCHIVED = re.compile(r"/vsizip/(.+?\.zip)(?:/|$)", re.IGNORECASE)


class InputError(Exception):
    """An input that cannot be used; the text says what was found and what to do."""


def parse_bands(text: str) -> dict[str, int | str] | None:
    """Read where the bands of a scene are.

    Args:
        text: Either ``B2=1,B3=2,...``, each a number counted from 1 or the name of the band that stands in,
            or all names in the layer's order, ``-`` for a band that is not used.

    Returns:
        Number or name by band name; None for an empty text.

    Raises:
        InputError: The text is neither.
    """
    items = re.split(r"[\s,;]+", re.sub(r"\s*=\s*", "=", text.strip(" \t\r\n,;")))
    if items == [""]:
        return None
    pairs = [item.partition("=") for item in items]
    if all(equals for _, equals, _ in pairs):
        places = [(name, _place(name, place, text)) for name, _, place in pairs]
    elif not any(equals for _, equals, _ in pairs):
        places = [(name, number) for number, name in enumerate(items, start=1) if name != "-"]
    else:
        raise _unreadable_bands(text, tr("some have a number and some have none"))
    names = [name for name, _ in places]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise _unreadable_bands(text, tr("{names} is there more than once").format(names=", ".join(repeated)))
    return dict(places)


def _place(name: str, place: str, text: str) -> int | str:
    if not name or not place:
        raise _unreadable_bands(text, tr("a name or a number is missing"))
    if not re.fullmatch(r"[+-]?\d+", place):
        return place
    if int(place) < 1:
        raise _unreadable_bands(text, tr("bands are counted from 1, found {place}").format(place=place))
    return int(place)


def _unreadable_bands(text: str, problem: str) -> InputError:
    return InputError(
        tr(
            "The bands {text!r} cannot be read: {problem}. Write names with numbers, such as "
            "B2=1,B3=2,B4=3,B5=4,B6=5,B7=6,B8=7,B8A=8,B11=9,B12=10, or all names in the layer's order, "
            "with - for a band that is not used."
        ).format(text=text, problem=problem)
    )


@dataclass(frozen=True)
class Extent:
    """A rectangle in a CRS; without a valid CRS it is in the scene's."""

    rectangle: QgsRectangle
    crs: QgsCoordinateReferenceSystem


@dataclass(frozen=True)
class PixelWindow:
    """Pixels of a layer, counted from its upper left corner."""

    column: int
    row: int
    width: int
    height: int


@dataclass(frozen=True)
class PixelGrid:
    """A layer's pixels: upper left corner and pixel size in units of its CRS, width and height in pixels."""

    left: float
    top: float
    pixel_width: float
    pixel_height: float
    width: int
    height: int

    def window(self, rectangle: QgsRectangle | None, margin: int) -> PixelWindow | None:
        """Return the pixels that a rectangle touches, and a margin as far as there are pixels.

        Args:
            rectangle: In the layer's CRS; None for all pixels.
            margin: Pixels to each side.

        Returns:
            None where the rectangle does not meet the layer.
        """
        if rectangle is None:
            return PixelWindow(0, 0, self.width, self.height)
        columns = _touched(
            (rectangle.xMinimum() - self.left) / self.pixel_width,
            (rectangle.xMaximum() - self.left) / self.pixel_width,
            self.width,
            margin,
        )
        rows = _touched(
            (self.top - rectangle.yMaximum()) / self.pixel_height,
            (self.top - rectangle.yMinimum()) / self.pixel_height,
            self.height,
            margin,
        )
        if columns is None or rows is None:
            return None
        return PixelWindow(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])

    def rectangle(self, window: PixelWindow) -> QgsRectangle:
        """Return a window's outline."""
        left = self.left + window.column * self.pixel_width
        top = self.top - window.row * self.pixel_height
        return QgsRectangle(
            left, top - window.height * self.pixel_height, left + window.width * self.pixel_width, top
        )


def _touched(start: float, stop: float, count: int, margin: int) -> tuple[int, int] | None:
    # An edge that lies on a pixel's edge but for rounding does not touch the pixel beyond.
    first, last = math.floor(start + 1e-6), math.ceil(stop - 1e-6)
    if max(first, 0) >= min(last, count):
        return None
    return max(first - margin, 0), min(last + margin, count)


class RasterInput:
    """A scene of the user: a path, or a layer whose pixels are copied when they are needed.

    Attributes:
        name: What to call it in messages and in the names of layers.
        path: What gair_core opens; None for a layer that must be copied.
        crs: The layer's; invalid for a product that is no layer.
    """

    def __init__(self, name: str, path: str | None, crs: QgsCoordinateReferenceSystem | None = None) -> None:
        self.name = name
        self.path = path
        self.crs = crs or QgsCoordinateReferenceSystem()
        self._copy: LayerCopy | None = None
        self._assigned_crs = False

    @classmethod
    def read(
        cls, layer: QgsRasterLayer | None, value: str, transforms: QgsCoordinateTransformContext
    ) -> RasterInput:
        """Read a layer; belongs to the main thread.

        Args:
            layer: The layer, or None where QGIS made none of the value.
            value: What the user gave: a path that gair_core understands and QGIS does not is used as it is.
            transforms: How to transform extents.

        Raises:
            InputError: There is nothing to read, or it has no CRS.
        """
        if layer is None or not layer.isValid():
            return cls._product(value)
        if not layer.crs().isValid():
            raise InputError(
                tr(
                    "The layer {name} has no CRS, so nobody knows where it is. Set its CRS in the layer's "
                    "properties (Source), or write it into the file with 'Assign projection'."
                ).format(name=layer.name())
            )
        provider = layer.dataProvider()
        path = _readable_path(layer) if provider.name() == "gdal" else None
        found = cls(layer.name(), path, QgsCoordinateReferenceSystem(layer.crs()))
        found._assigned_crs = provider.crs() != layer.crs() and not is_product(path)
        if path is None:
            found._copy = LayerCopy(layer, transforms)
        return found

    @classmethod
    def _product(cls, value: str) -> RasterInput:
        if is_product(value):
            path = Path(value).expanduser().resolve()
            return cls(path.stem, str(path))
        raise InputError(
            tr(
                "{value!r} is neither a raster layer nor a product that can be opened. Check the path, or "
                "load the layer into QGIS first."
            ).format(value=value)
        )

    def source(
        self, extent: Extent | None, folder: Callable[[], Path], feedback: QgsProcessingFeedback
    ) -> str:
        """Return what gair_core opens; copies the pixels where the layer is no file.

        Args:
            extent: The part that is needed; None for everything.
            folder: Gives the folder for a copy.
            feedback: May cancel the copying.

        Raises:
            InputError: The extent does not meet the layer, is too large, or the layer cannot be read.
        """
        if self._copy is not None:
            return self._copy.write(extent, self._free_path(folder(), ".tif"), feedback)
        if self._assigned_crs:
            return self._with_crs(self._free_path(folder(), ".vrt"))
        return str(self.path)

    def _free_path(self, folder: Path, suffix: str) -> Path:
        """Return a new file named like the layer, whose name then stands in messages."""
        name = re.sub(r"\W+", "_", self.name)[:60] or "layer"
        names = (f"{name}{'' if number == 1 else f'_{number}'}{suffix}" for number in itertools.count(1))
        return next(path for path in map(folder.joinpath, names) if not path.exists())

    def _with_crs(self, path: Path) -> str:
        """Describe the file with the CRS that the user gave the layer in QGIS."""
        # Not with the module: QGIS registers the algorithms when it starts.
        from osgeo import gdal

        dataset = gdal.Open(self.path)
        options = {"format": "VRT", "outputSRS": wkt(self.crs)}
        if dataset is None or gdal.Translate(str(path), dataset, **options) is None:
            raise InputError(tr("{name} cannot be read: {path}").format(name=self.name, path=self.path))
        return str(path)


class LayerCopy:
    """Copies the pixels of a layer that no other process can open.

    Args:
        layer: The layer; read at once, on the main thread.
        transforms: How to transform extents.
    """

    def __init__(self, layer: QgsRasterLayer, transforms: QgsCoordinateTransformContext) -> None:
        self.name = layer.name()
        self.crs = QgsCoordinateReferenceSystem(layer.crs())
        self._transforms = QgsCoordinateTransformContext(transforms)
        # The pipe owns the provider; it is not cloned again, since QGIS 3.22 breaks virtual layers so.
        self._pipe = QgsRasterPipe()
        self._pipe.set(layer.dataProvider().clone())

    def write(self, extent: Extent | None, path: Path, feedback: QgsProcessingFeedback) -> str:
        """Write a GeoTIFF on the layer's own pixels and return its path.

        Args:
            extent: The part that is needed, to which a margin is added; None for everything.
            path: The file.
            feedback: May cancel.

        Raises:
            InputError: The extent does not meet the layer, is too large, or the layer cannot be read.
        """
        provider = self._pipe.provider()
        grid = pixel_grid(provider.extent(), provider.xSize(), provider.ySize(), sentinel_pixel(self.crs))
        window = grid.window(None if extent is None else self._own_rectangle(extent), _MARGIN)
        if window is None:
            raise InputError(
                tr("The extent does not meet the layer {name}. Choose one inside it.").format(name=self.name)
            )
        size = {"width": window.width, "height": window.height, "name": self.name}
        if window.width * window.height > _MAX_PIXELS:
            raise InputError(
                tr(
                    "The layer {name} is no file and has {width} x {height} pixels here, too many to copy. "
                    "Choose a smaller extent."
                ).format(**size)
            )
        feedback.setProgressText(
            tr("Copying {width} x {height} pixels of {name}, which is no file.").format(**size)
        )
        names = [_NUMBERED.sub("", provider.generateBandName(i + 1)) for i in range(provider.bandCount())]
        self._write_pixels(grid, window, path, feedback)
        _write_band_names(names, path)
        return str(path)

    def _write_pixels(
        self, grid: PixelGrid, window: PixelWindow, path: Path, feedback: QgsProcessingFeedback
    ) -> None:
        writer = QgsRasterFileWriter(str(path))
        writer.setOutputFormat("GTiff")
        writer.setCreateOptions(["TILED=YES", "BIGTIFF=IF_SAFER"])
        block_feedback = QgsRasterBlockFeedback()
        # Direct, since this thread is busy writing and runs no event loop.
        feedback.canceled.connect(block_feedback.cancel, Qt.ConnectionType.DirectConnection)
        if feedback.isCanceled():
            block_feedback.cancel()
        outcome = writer.writeRaster(
            self._pipe,
            window.width,
            window.height,
            grid.rectangle(window),
            self.crs,
            self._transforms,
            block_feedback,
        )
        if feedback.isCanceled():
            raise InputError(tr("Cancelled: nothing was written."))
        if not raster_was_written(outcome) or block_feedback.errors():
            details = "; ".join(block_feedback.errors()) or self._pipe.provider().error().summary()
            raise InputError(
                tr("Copying the layer {name} failed. {details}").format(name=self.name, details=details)
            )

    def _own_rectangle(self, extent: Extent) -> QgsRectangle:
        if not extent.crs.isValid() or extent.crs == self.crs:
            return extent.rectangle
        transform = QgsCoordinateTransform(extent.crs, self.crs, self._transforms)
        try:
            return transform.transformBoundingBox(extent.rectangle)
        except QgsCsException as error:
            raise InputError(
                tr("The extent cannot be brought into the CRS of {name}: {error}").format(
                    name=self.name, error=error
                )
            ) from None


def pixel_grid(extent: QgsRectangle, width: int, height: int, side: float) -> PixelGrid:
    """Return a layer's pixels.

    Args:
        extent: The layer's.
        width: Its pixels across; 0 for a layer that has none of its own, such as a web map.
        height: Its pixels down.
        side: Side of a pixel where the layer has none of its own, units of its CRS.
    """
    if width > 0 and height > 0:
        size = extent.width() / width, extent.height() / height
    else:
        size = side, side
        width, height = math.ceil(extent.width() / side), math.ceil(extent.height() / side)
    return PixelGrid(extent.xMinimum(), extent.yMaximum(), *size, width, height)


def sentinel_pixel(crs: QgsCoordinateReferenceSystem) -> float:
    """Return the side of a pixel of Sentinel-2 in units of a CRS."""
    if crs.isGeographic():
        return _PIXEL_METRES / _METRES_PER_DEGREE
    return _PIXEL_METRES * metres_to_units(crs)


def is_product(value: object) -> bool:
    """Whether a value is the path of a product that gair_core opens and QGIS does not.

    Args:
        value: A parameter's value: a folder, an archive, a STAC item or a product's metadata file.
    """
    if not isinstance(value, str) or not value.strip():
        return False
    path = Path(value).expanduser()
    if path.is_dir():
        return True
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in (".zip", ".json") or bool(_METADATA.fullmatch(path.name)))


def _readable_path(layer: QgsRasterLayer) -> str | None:
    """Return a GDAL layer's source as another process opens it; None where only QGIS can."""
    # QGIS appends its own options, such as |option:NUM_THREADS=2.
    source = layer.source().split("|", 1)[0]
    if source.startswith(_IN_MEMORY):
        return None
    subdataset = _SUBDATASET.fullmatch(source)
    if subdataset:
        archived = _ARCHIVED.match(subdataset[1])
        return archived[1] if archived else subdataset[1]
    path = Path(source)
    if not path.exists():
        return source
    path = path.resolve()
    return str(product_of(path) if layer.bandCount() == 1 else path)


def product_of(path: Path) -> Path:
    """Return the product that a file of one band belongs to: its SAFE folder, or the folder of its siblings.

    Args:
        path: The file of a layer with one band.
    """
    if not _BAND_FILE.search(path.stem):
        return path
    for folder in path.parents:
        if folder.suffix.upper() == ".SAFE":
            return folder
    bands = [
        file
        for file in path.parent.iterdir()
        if file.suffix.lower() in _RASTER_SUFFIXES and _BAND_FILE.search(file.stem)
    ]
    return path.parent if len(bands) > 1 else path


def _write_band_names(names: list[str], path: Path) -> None:
    """Write band names beside a GeoTIFF, where GDAL reads them; QGIS's writer drops them."""
    if not any(names):
        return
    bands = "".join(
        f'<PAMRasterBand band="{number}"><Description>{escape(name)}</Description></PAMRasterBand>'
        for number, name in enumerate(names, start=1)
        if name
    )
    sidecar = path.with_name(f"{path.name}.aux.xml")
    sidecar.write_text(f"<PAMDataset>{bands}</PAMDataset>\n", encoding="utf-8")
