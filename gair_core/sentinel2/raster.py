"""Raster files, with errors that a user understands."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from gair_core.errors import BadInputError
from gair_core.geo.grid import Window

Array = npt.NDArray[Any]

SAMPLE_SIZE = 512
"""Rows and columns, at most, of the sample of a scene from which decisions about all of it are taken."""

_SAMPLE_WINDOWS = 8  # per axis


def is_local(path: str) -> bool:
    """Return whether a path is one of the local file system, not a /vsi path, URL or subdataset."""
    return not path.startswith("/vsi") and "://" not in path and not path.startswith("SENTINEL2_")


def public_name(path: str) -> str:
    """Return a path without the signature or password of a URL, for files that others will see."""
    if is_local(path):
        return path
    return re.sub(r"//[^/@]+@", "//", path.partition("?")[0])


def open_raster(path: str) -> DatasetReader:
    """Open a raster for reading.

    Raises:
        BadInputError: It does not exist, is damaged or is no raster.
    """
    if is_local(path) and not Path(path).exists():
        raise BadInputError(f"{path} does not exist.", "Check the path.")
    try:
        with warnings.catch_warnings():
            # A raster without a place is refused in our own words.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        raise BadInputError(
            f"{path} cannot be opened as a raster: {error}.",
            "The file may be damaged, truncated or no raster.",
        ) from error


def files_of(dataset: DatasetReader) -> tuple[str, ...]:
    """Return every file that a raster is made of: its own, those beside it, and the sources of a VRT."""
    found: dict[str, None] = {}
    waiting = list(dataset.files)
    while waiting:
        path = str(waiting.pop(0))
        if path in found:
            continue
        found[path] = None
        # GDAL lists the sources of a VRT, but not the sources of a VRT among them.
        if path != dataset.name and path.lower().endswith(".vrt") and is_local(path) and Path(path).exists():
            with open_raster(path) as inner:
                waiting += inner.files
    return tuple(found)


def read_window(dataset: DatasetReader, indexes: Sequence[int], window: Window) -> Array:
    """Read bands (numbers from 1) of a window, (len(indexes), height, width).

    Raises:
        BadInputError: The file is truncated or damaged.
    """
    return _read(dataset, indexes, window=RasterioWindow(window.col, window.row, window.width, window.height))


def read_decimated(dataset: DatasetReader, indexes: Sequence[int], shape: tuple[int, int]) -> Array:
    """Read bands of the whole raster in fewer pixels, from its overviews where it has any."""
    return _read(dataset, indexes, out_shape=(len(indexes), *shape))


def read_mask(dataset: DatasetReader, window: Window) -> npt.NDArray[np.bool_]:
    """Read where the file's own mask or alpha band says that there is data, (height, width)."""
    place = RasterioWindow(window.col, window.row, window.width, window.height)
    try:
        return cast("npt.NDArray[np.bool_]", dataset.dataset_mask(window=place) > 0)
    except RasterioIOError as error:
        raise _damaged(dataset, error) from error


def can_be_decimated(dataset: DatasetReader) -> bool:
    """Return whether a decimated read is cheap: there are overviews, or the raster is small."""
    return bool(dataset.overviews(1)) or max(dataset.shape) <= 4 * SAMPLE_SIZE


def sample_shape(height: int, width: int) -> tuple[int, int]:
    """Return the shape of a decimated sample."""
    return min(height, SAMPLE_SIZE), min(width, SAMPLE_SIZE)


def sample_windows(height: int, width: int) -> list[Window]:
    """Return small windows spread evenly over a raster, together `SAMPLE_SIZE` squared pixels at most."""
    rows, cols = _spread(height), _spread(width)
    return [Window(row, col, tall, wide) for row, tall in rows for col, wide in cols]


def sample_stack(dataset: DatasetReader, indexes: Sequence[int]) -> Array:
    """Return a sample of bands of one raster, (len(indexes), pixels)."""
    if can_be_decimated(dataset):
        return read_decimated(dataset, indexes, sample_shape(*dataset.shape)).reshape(len(indexes), -1)
    parts = [read_window(dataset, indexes, window) for window in sample_windows(*dataset.shape)]
    return np.concatenate([part.reshape(len(indexes), -1) for part in parts], axis=1)


def _spread(size: int) -> list[tuple[int, int]]:
    length = SAMPLE_SIZE // _SAMPLE_WINDOWS
    if size <= SAMPLE_SIZE:
        return [(0, size)]
    gap = (size - length) / (_SAMPLE_WINDOWS - 1)
    return [(round(step * gap), length) for step in range(_SAMPLE_WINDOWS)]


def _read(dataset: DatasetReader, indexes: Sequence[int], **options: Any) -> Array:  # noqa: ANN401
    try:
        return cast("Array", dataset.read(list(indexes), **options))
    except RasterioIOError as error:
        raise _damaged(dataset, error) from error


def _damaged(dataset: DatasetReader, error: Exception) -> BadInputError:
    return BadInputError(
        f"{dataset.name} cannot be read to its end: {error}.",
        "The file is truncated or damaged; copy or download it again.",
    )
