"""Which features of a scene's own pixels a head reads beside the embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from gair_core.sentinel2.bands import BANDS

WINDOWS = (3, 5)
"""Sides of the windows whose means a head reads, in pixels."""


class PixelFeatures(BaseModel):
    """Which features of a scene's own pixels a head reads beside the embedding.

    They are the reflectance (DN) of the ten bands at the pixel, then for each window their mean over the
    square around it, in the order of `BANDS`.

    Attributes:
        windows: Sides of the squares in pixels, odd and rising.
        gsd: Size of a pixel in metres on the ground (the root of its area) where the head was trained. A
            scene with pixels of nearly this size is read as it is, another is resampled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    windows: tuple[int, ...] = WINDOWS
    gsd: float = Field(10.0, gt=0)

    @field_validator("windows")
    @classmethod
    def _odd_and_rising(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if any(side < 3 or side % 2 == 0 for side in windows) or list(windows) != sorted(set(windows)):
            raise ValueError(f"windows must be odd, at least 3 and rising, found {windows}")
        return windows

    @property
    def count(self) -> int:
        """Number of features F."""
        return len(BANDS) * (1 + len(self.windows))

    @property
    def margin(self) -> int:
        """How many pixels beyond its own a feature reads."""
        return max(self.windows, default=1) // 2


def features_of_tile(dn: Tensor, features: PixelFeatures) -> Tensor:
    """Return the features of every pixel of a tile in memory, all of whose pixels have data.

    Args:
        dn: The ten bands in the order of `BANDS`, DN, float32 of shape (10, H, W).
        features: Which features; the tile's pixels must be of their size.

    Returns:
        DN, shape (F, H, W); a mean is over the pixels of its window that are within the tile.
    """
    means = [
        F.avg_pool2d(dn[None], side, stride=1, padding=side // 2, count_include_pad=False)[0]
        for side in features.windows
    ]
    return torch.cat([dn, *means])
