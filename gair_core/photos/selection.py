"""Leaving out the photos that a task cannot use, and saying which and why."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
import numpy.typing as npt

from gair_core.errors import BadInputError
from gair_core.geo.footprint import Footprint
from gair_core.photos.reading import open_image
from gair_core.photos.tables import PhotoTable
from gair_core.progress import Progress

MAX_WARNINGS: Final = 20
"""Photos that are named in warnings of their own; the rest are counted."""


class SkippedPhotos:
    """Warns about skipped photos, each by name, up to `MAX_WARNINGS` of them.

    Args:
        progress: Where the warnings go.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._reasons: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(self._reasons.values())

    def skip(self, name: str, reason: str, detail: str = "") -> None:
        """Count a photo and warn about it.

        Args:
            name: What the photo is called.
            reason: Why it is skipped, in words that suit a count ("outside the scene").
            detail: What to print instead of the reason; by default the reason.
        """
        self._reasons[reason] += 1
        if len(self) <= MAX_WARNINGS:
            self._progress.log("warning", f"Photo {name} is skipped: {detail or reason}.")

    def finish(self) -> None:
        """Warn about the number of those that were not named."""
        unnamed = len(self) - MAX_WARNINGS
        if unnamed > 0:
            self._progress.log("warning", f"{unnamed} more photos are skipped; in all {self.summary()}.")

    def summary(self) -> str:
        """Return the counts by reason, such as ``3 missing, 2 outside the scene``."""
        return ", ".join(f"{count} {reason}" for reason, count in self._reasons.most_common())


def usable(
    photos: PhotoTable,
    footprint: Footprint | None = None,
    progress: Progress | None = None,
    *,
    need_position: bool = True,
) -> PhotoTable:
    """Return the photos that a task can work with, and warn by name about each of the others.

    A file's header is read, not its pixels: damage further on shows when `PhotoBatcher` loads the photo.

    Args:
        photos: A table of photos.
        footprint: The scene that photos must lie in; None leaves their places unchecked.
        progress: Where warnings go.
        need_position: Whether photos without coordinates are skipped; without it only those that have
            coordinates are compared with the footprint.

    Returns:
        The remaining rows, in their order.

    Raises:
        BadInputError: No photo is left; says how many were skipped for which reason, and when
            swapping longitude and latitude would place all photos in the scene.
        CancelledError: The task was cancelled.
    """
    progress = progress or Progress()
    skipped = SkippedPhotos(progress)
    outside = _outside(photos, footprint)
    placed = photos.placed
    keep = np.zeros(len(photos), dtype=bool)
    for row in range(len(photos)):
        progress.raise_if_cancelled()
        if need_position and not placed[row]:
            skipped.skip(photos.name(row), "without coordinates")
        elif outside[row]:
            lon, lat = photos.lonlat[row]
            skipped.skip(
                photos.name(row), "outside the scene", f"outside the scene (lon {lon:.6f}, lat {lat:.6f})"
            )
        else:
            keep[row] = _can_be_opened(photos, row, skipped)
    skipped.finish()
    if not keep.any():
        _explain_none_left(photos, footprint, skipped)
    return photos.take(keep)


def _outside(photos: PhotoTable, footprint: Footprint | None) -> npt.NDArray[np.bool_]:
    outside = np.zeros(len(photos), dtype=bool)
    placed = photos.placed
    if footprint is not None and placed.any():
        outside[placed] = ~footprint.contains(footprint.uv(photos.lonlat[placed]))
    return outside


def _can_be_opened(photos: PhotoTable, row: int, skipped: SkippedPhotos) -> bool:
    path = photos.paths[row]
    if path is None:
        skipped.skip(photos.name(row), "without a path", "the table names no file")
        return False
    if not path.exists():
        skipped.skip(photos.name(row), "missing", f"{path} does not exist")
        return False
    try:
        open_image(path).close()
    except BadInputError as error:
        skipped.skip(photos.name(row), "unreadable", error.message.rstrip("."))
        return False
    return True


def _explain_none_left(photos: PhotoTable, footprint: Footprint | None, skipped: SkippedPhotos) -> None:
    placed = photos.placed
    if footprint is not None and placed.any():
        footprint.check_not_swapped(photos.lonlat[placed])
    raise BadInputError(
        f"None of the {len(photos)} photos of {photos.source} can be used: {skipped.summary()}.",
        "The warnings name them; check the paths, the coordinates and that they belong to this scene.",
    )
