"""Whether a scene reflects as the scenes did that a head was trained on.

A forgotten offset of 1000 DN, or another processing level, moves every band; a classifier then answers as
confidently as ever, and wrongly. What is compared is robust: bands are measured in their own standard
deviations, and the median over the ten bands must be far off.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gair_core.heads.base import Head
from gair_core.heads.pixel import PixelLinearHead
from gair_core.sentinel2.bands import BANDS

IntArray = npt.NDArray[np.int64]
Values = npt.NDArray[np.floating]

# Standard deviations. Another season or other land cover moves single bands by so much, seldom most of them.
_FAR = 2.0
# Fewer pixels of a class than this say little about how a scene reflects.
_FEWEST = 5


def differing_scenes(bands: Values, target: IntArray, origin: IntArray) -> list[int]:
    """Return which scenes reflect far differently from the others where they have the same class.

    Args:
        bands: Features of labelled pixels, the ten bands (DN) first, shape (N, F).
        target: Class of each, shape (N,).
        origin: Scene of each, shape (N,).

    Returns:
        Indices of the scenes.
    """
    found = []
    for scene in np.unique(origin):
        shifts = []
        for one in np.unique(target[origin == scene]):
            own = bands[(target == one) & (origin == scene), : len(BANDS)]
            others = bands[(target == one) & (origin != scene), : len(BANDS)]
            if min(len(own), len(others)) >= _FEWEST:
                spread = np.sqrt((own.var(axis=0) + others.var(axis=0)) / 2)
                shifts.append((own.mean(axis=0) - others.mean(axis=0)) / np.maximum(spread, 1))
        if shifts and np.median(np.abs(np.mean(shifts, axis=0))) > _FAR:
            found.append(int(scene))
    # Of two scenes each differs from the other: the first one is what the user compares with.
    return found[1:] if len(found) == len(np.unique(origin)) else found


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
        far = (found - self._mean) / self._scale
        if np.median(np.abs(far)) <= _FAR:
            return None
        return (
            f"This scene reflects far differently from what the head was trained on (mean of the ten bands "
            f"{found.mean():.0f} DN, in training {self._mean.mean():.0f}): its classes are not to be "
            "trusted. Check the scene's offset (--offset), processing level and season."
        )
