"""Whether a scene reflects as the scenes did that a head was trained on.

A forgotten offset of 1000 DN, or another processing level, moves every band; a classifier then answers as
confidently as ever, and wrongly. Other land cover moves single bands, and some up while others go down.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gair_core.heads.base import Head
from gair_core.heads.pixel import PixelLinearHead
from gair_core.sentinel2.bands import BANDS

IntArray = npt.NDArray[np.int64]
Values = npt.NDArray[np.floating]

# Most bands are off by more standard deviations than this, or all of them by more DN in one direction.
_FAR = 2.0
_FAR_DN = 500.0
# Fewer pixels of a class than this say little about how a scene reflects.
_FEWEST = 5


def differing_scenes(bands: Values, target: IntArray, origin: IntArray) -> list[int]:
    """Return which scenes reflect far differently from those before them where they have the same class.

    Args:
        bands: Features of labelled pixels, the ten bands (DN) first, shape (N, F).
        target: Class of each, shape (N,).
        origin: Scene of each, shape (N,).

    Returns:
        Indices of the scenes.
    """
    found = []
    for scene in np.unique(origin):
        shifts: list[Values] = []
        spreads: list[Values] = []
        for one in np.unique(target[origin == scene]):
            own = bands[(target == one) & (origin == scene), : len(BANDS)]
            others = bands[(target == one) & (origin < scene), : len(BANDS)]
            if min(len(own), len(others)) >= _FEWEST:
                shifts.append(own.mean(axis=0) - others.mean(axis=0))
                spreads.append(np.sqrt((own.var(axis=0) + others.var(axis=0)) / 2))
        if shifts and _is_far(np.asarray(np.mean(shifts, axis=0)), np.asarray(np.mean(spreads, axis=0))):
            found.append(int(scene))
    return found


def _is_far(shift: Values, spread: Values) -> bool:
    """Return whether the means of the bands are so far apart (DN) that land cover does not explain it."""
    most = np.median(np.abs(shift) / np.maximum(spread, 1)) > _FAR
    return bool(most or shift.min() > _FAR_DN or shift.max() < -_FAR_DN)


class RadiometryCheck:
    """Compares the scene that a head segments with the pixels that it was trained on.

    Args:
        head: The head; one that does not know its training's reflectance is never warned of.
    """

    def __init__(self, head: Head) -> None:
        self._mean: npt.NDArray[np.float64] | None = None
        if isinstance(head, PixelLinearHead):
            self._mean = head.band_mean[: len(BANDS)].cpu().numpy().astype(np.float64)
            self._scale = head.band_scale[: len(BANDS)].cpu().numpy().astype(np.float64)
        self._sum = np.zeros(len(BANDS))
        self._count = 0

    def add(self, pixels: Values, valid: npt.NDArray[np.bool_]) -> None:
        """Take in features of pixels, the ten bands first, (F, h, w), and which have data, (h, w)."""
        if self._mean is not None:
            self._sum += pixels[: len(BANDS)][:, valid].sum(axis=1, dtype=np.float64)
            self._count += int(valid.sum())

    def warning(self) -> str | None:
        """Return what to say, None where nothing is far off."""
        if self._mean is None or self._count == 0:
            return None
        found = self._sum / self._count
        if not _is_far(found - self._mean, self._scale):
            return None
        return (
            f"This scene reflects far differently from what the head was trained on (mean of the ten bands "
            f"{found.mean():.0f} DN, in training {self._mean.mean():.0f}): its classes are not to be "
            "trusted. Check the scene's offset (--offset), processing level and season."
        )
