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


def window_features(dn: Tensor, features: PixelFeatures, valid: Tensor | None = None) -> Tensor:
    """Return the features of all pixels of a tile in memory; nothing is known beyond its edges.

    Args:
        dn: The bands in the order of `BANDS`, harmonised DN, shape (1, bands, H, W); the pixels must be
            of the features' size.
        features: Which features.
        valid: Whether a pixel has data, bool, shape (1, 1, H, W); all have when None.

    Returns:
        DN, shape (1, F, H, W), as `gair_core.inference.pixel_bands.read_features` returns them.
    """
    there = torch.ones_like(dn[:, :1]) if valid is None else valid.to(dn)
    known = dn * there
    parts = [known]
    for side in features.windows:
        count = _window_sum(there, side).clamp(min=1)
        parts.append(_window_sum(known, side) / count)
    return torch.cat(parts, dim=1)


def _window_sum(values: Tensor, side: int) -> Tensor:
    """Return sums over squares, of whole numbers up to 65535 in 5 x 5 pixels without rounding."""
    channels = values.shape[1]
    ones = torch.ones(channels, 1, side, side, dtype=values.dtype, device=values.device)
    return F.conv2d(values, ones, padding=side // 2, groups=channels)
