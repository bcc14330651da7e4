"""Class rasters: names, colours and style of what `segment` and `change` write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gair_core.geo.grid import Grid
from gair_core.heads.base import NODATA, HeadClass
from gair_core.inference.styles import palette_style
from gair_core.inference.writers import RasterWriter
from gair_core.progress import Progress

Classes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def class_dtype(classes: Sequence[HeadClass]) -> str:
    """Return the pixel type that holds all class values: ``uint8``, or ``uint16`` beyond 255."""
    return "uint8" if max(one.value for one in classes) <= 255 else "uint16"


def class_values(logits: Tensor, valid: npt.NDArray[np.bool_], classes: Sequence[HeadClass]) -> Classes:
    """Return the value of the best class of every pixel.

    Args:
        logits: Shape (classes, height, width).
        valid: Whether a pixel has data, shape (height, width).
        classes: The classes, in the order of the logits.

    Returns:
        Shape (height, width); 0 where there is no data.
    """
    values = np.array([one.value for one in classes], dtype=class_dtype(classes))
    found: Classes = values[logits.argmax(dim=0).numpy()]
    found[~valid] = NODATA
    return found


def class_writer(
    path: Path,
    grid: Grid,
    classes: Sequence[HeadClass],
    *,
    token: str,
    tags: Mapping[str, str],
    progress: Progress,
    inputs: Sequence[str] = (),
) -> RasterWriter:
    """Return a writer of a raster with a colour table, class names and a palette style.

    Args:
        path: The GeoTIFF.
        grid: Its grid.
        classes: The classes.
        token: The request's token.
        tags: Provenance.
        progress: Whose cancel stops the conversion.
        inputs: Every file that is read, unless they have been compared with the destination before.
    """
    return RasterWriter(
        path,
        grid,
        1,
        class_dtype(classes),
        token=token,
        nodata=NODATA,
        band_names=["class"],
        tags=tags,
        colour_table={one.value: one.colour for one in classes},
        class_names={one.value: one.name for one in classes},
        style=palette_style((one.value, one.name, one.colour) for one in classes),
        inputs=inputs,
        progress=progress,
    )
