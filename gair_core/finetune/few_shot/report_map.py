"""The pictures of a report, and the area that each class covers on the map; in the memory of some strips."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from PIL import Image, ImageDraw
from rasterio.windows import Window as RasterWindow

from gair_core.finetune.few_shot.label_pixels import reprojected
from gair_core.finetune.few_shot.labels import LabelLayer
from gair_core.geo.footprint import apply_affine
from gair_core.geo.grid import Grid, Window
from gair_core.heads.base import HeadClass
from gair_core.inference.polygons import ellipsoidal_areas
from gair_core.sentinel2.bands import BANDS
from gair_core.sentinel2.scene import Scene

Picture = npt.NDArray[np.uint8]

# Longer side of the pictures, pixels.
_SIDE = 960
# Small scenes are enlarged at most so many times.
_LARGEST_FACTOR = 4
# Pixels of the scene that are read at a time.
_STEP = 1 << 21
_TRUE_COLOUR = tuple(BANDS.index(name) for name in ("B4", "B3", "B2"))
# Percentiles of reflectance that are shown as black and as white.
_STRETCH = (1, 99)
# Rows whose pixels' areas are computed; between them they are interpolated.
_AREA_ROWS = 33


@dataclass(frozen=True)
class ReportMap:
    """The map of a report.

    Attributes:
        true_colour: PNG as a data URI.
        classes: The same place in the classes' colours.
        caption: What they show, and thereby what the areas are of.
    """

    true_colour: str
    classes: str
    caption: str


def map_areas(raster: Path, grid: Grid, classes: Sequence[HeadClass]) -> npt.NDArray[np.float64]:
    """Return the area of each class on the ellipsoid, square metres, (classes,).

    Args:
        raster: A raster of classes.
        grid: Its grid.
        classes: The classes.
    """
    per_row = pixel_areas(grid)
    total = np.zeros(max(one.value for one in classes) + 1)
    with rasterio.open(raster) as dataset:
        for window in _strips(grid.full_window, grid.width):
            values = dataset.read(1, window=RasterWindow(0, window.row, window.width, window.height))
            rows = np.broadcast_to(per_row[window.row : window.row_stop, None], (window.height, window.width))
            total += np.bincount(values.ravel(), rows.ravel(), minlength=len(total))
    return np.array([total[one.value] for one in classes])


def pixel_areas(grid: Grid) -> npt.NDArray[np.float64]:
    """Return the area of a pixel in the middle of each row on the ellipsoid, square metres, (height,)."""
    rows = np.unique(np.linspace(0, grid.height - 1, min(_AREA_ROWS, grid.height)).astype(np.int64))
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64) + np.array([grid.width // 2, 0])
    rings = [apply_affine(grid.transform, corners + np.array([0, row])) for row in rows]
    areas = ellipsoidal_areas(shapely.polygons(rings), grid.crs)
    return np.interp(np.arange(grid.height), rows, areas)


def class_picture(raster: Path, grid: Grid, classes: Sequence[HeadClass]) -> str:
    """Return a raster of classes in their colours as the data URI of a PNG; no data is transparent."""
    width, height = picture_size(grid)
    with rasterio.open(raster) as dataset:
        shape = min(height, grid.height), min(width, grid.width)
        values = dataset.read(1, out_shape=shape)
    colours = np.zeros((max(one.value for one in classes) + 1, 4), dtype=np.uint8)
    for one in classes:
        colours[one.value] = (*one.colour, 255)
    image = Image.fromarray(colours[values], "RGBA").resize((width, height), Image.Resampling.NEAREST)
    return _data_uri(image)


def true_colour_picture(scene: Scene, window: Window, labels: LabelLayer) -> str:
    """Return a part of a scene in true colour, with the outlines of the labels, as the data URI of a PNG.

    Args:
        scene: The scene.
        window: Pixels of ``scene.native``.
        labels: The labels; outlines have the colours of their classes.
    """
    grid = scene.native.crop(window)
    width, height = picture_size(grid)
    image = Image.fromarray(_stretched(_decimated(scene, window)), "RGBA")
    image = image.resize((width, height), Image.Resampling.NEAREST)
    _draw_labels(image, labels, grid)
    return _data_uri(image)


def picture_size(grid: Grid) -> tuple[int, int]:
    """Return width and height of the picture of a grid."""
    longer = max(grid.width, grid.height)
    factor = _SIDE / longer if longer > _SIDE else float(min(_LARGEST_FACTOR, _SIDE // longer))
    return max(1, round(grid.width * factor)), max(1, round(grid.height * factor))


def _strips(window: Window, width: int, multiple: int = 1) -> Iterator[Window]:
    """Divide a window into strips of whole rows, a multiple of so many."""
    step = max(1, _STEP // (width * multiple)) * multiple
    for row in range(window.row, window.row_stop, step):
        yield Window(row, window.col, min(step, window.row_stop - row), window.width)


def _decimated(scene: Scene, window: Window) -> npt.NDArray[np.float32]:
    """Return red, green and blue (DN) as means over squares of pixels, (3, h, w); NaN without data."""
    factor = -(-max(window.width, window.height) // _SIDE)
    parts = []
    for strip in _strips(window, window.width, factor):
        values, valid = scene.read_native(strip)
        beyond = [(0, -size % factor) for size in valid.shape]
        chosen = np.pad(values[list(_TRUE_COLOUR)], [(0, 0), *beyond])
        count = np.pad(valid, beyond).astype(np.float32)
        rows, columns = (size // factor for size in count.shape)
        blocks = (rows, factor, columns, factor)
        # Pixels without data are 0 in what was read.
        total = chosen.reshape(3, *blocks).sum(axis=(2, 4))
        number = count.reshape(blocks).sum(axis=(1, 3))
        parts.append(np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32))
    return np.concatenate(parts, axis=1)


def _stretched(dn: npt.NDArray[np.float32]) -> Picture:
    """Return RGBA (h, w, 4) of reflectance (3, h, w), each band stretched on its own."""
    valid = np.isfinite(dn).all(axis=0)
    picture = np.zeros((*valid.shape, 4), dtype=np.uint8)
    picture[..., 3] = 255 * valid
    for band, values in enumerate(dn):
        if valid.any():
            low, high = np.percentile(values[valid], _STRETCH)
            scaled = (np.nan_to_num(values) - low) / max(float(high - low), 1.0)
            picture[..., band] = (255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return picture


def _draw_labels(image: Image.Image, labels: LabelLayer, grid: Grid) -> None:
    """Draw the outlines of polygons, and rings around points, white around the classes' colours."""
    scale = np.array([image.width / grid.width, image.height / grid.height])
    frame = shapely.box(0, 0, image.width, image.height)
    inverse = ~grid.transform

    def to_picture(xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(apply_affine(inverse, xy) * scale)

    draw = ImageDraw.Draw(image)
    shapes = shapely.transform(reprojected(labels.shapes, grid), to_picture)
    for width, only_white in ((5, True), (3, False)):
        for number in np.flatnonzero(shapely.intersects(shapes, frame)):
            colour = (255, 255, 255) if only_white else labels.classes[labels.target[number]].colour
            shape = shapes[number]
            if shape.geom_type == "Point":
                size = 3 + width // 2
                draw.ellipse(
                    [shape.x - size, shape.y - size, shape.x + size, shape.y + size],
                    outline=colour,
                    width=width,
                )
                continue
            for ring in (shape.exterior, *shape.interiors):
                draw.line([(x, y) for x, y in ring.coords], fill=colour, width=width, joint="curve")


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
