"""The ten bands of the model: their names, their statistics and their normalisation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from gair_core.errors import BadInputError

BANDS: Final = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
"""The model's input bands, in their order."""

ALL_BANDS: Final = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
"""Every band of the instrument, by wavelength."""

MEAN: Final = (
    1172.9397,
    1378.0846,
    1509.3327,
    1750.0275,
    2073.2758,
    2207.3283,
    2245.1629,
    2284.6384,
    2231.7283,
    1899.1932,
)
"""Mean of each band of `BANDS` in the training data, in DN (reflectance x 10000, no offset)."""

STD: Final = (
    706.6250,
    720.1862,
    783.1424,
    707.1962,
    714.2782,
    748.1827,
    852.3585,
    762.0849,
    690.0165,
    669.9036,
)
"""Standard deviation of each band of `BANDS` in the training data, in DN."""

# A name standing alone in a longer text, such as "B4, central wavelength 665 nm" or "T33UVP_B8A_20m".
_NAME = re.compile(r"(?<![A-Za-z0-9])(?:band[ _-]?|b)(8a|1[0-2]|0?[1-9])(?![A-Za-z0-9])", re.IGNORECASE)

# The names that STAC catalogues use; "rededge" alone is missing because it means any of three bands.
_COMMON_NAMES: Final = {
    "coastal": "B1",
    "blue": "B2",
    "green": "B3",
    "red": "B4",
    "rededge1": "B5",
    "rededge071": "B5",
    "rededge2": "B6",
    "rededge075": "B6",
    "rededge3": "B7",
    "rededge078": "B7",
    "nir": "B8",
    "nir08": "B8A",
    "nir09": "B9",
    "cirrus": "B10",
    "swir16": "B11",
    "swir22": "B12",
}


def canonical_name(name: str) -> str:
    """Return the spelling used here of a band's name.

    Args:
        name: For example ``B02``, ``b2``, ``Band 8A``, ``B4, central wavelength 665 nm`` or ``swir16``.

    Returns:
        One of `ALL_BANDS`.

    Raises:
        BadInputError: The text names no Sentinel-2 band, or more than one.
    """
    found = recognise_name(name)
    if found is None:
        raise BadInputError(
            f"{name!r} is not the name of a Sentinel-2 band.", f"Use one of {', '.join(ALL_BANDS)}."
        )
    return found


def recognise_name(text: str | None) -> str | None:
    """Return the one band that a description or a file name speaks of, or None."""
    if not text:
        return None
    common = _COMMON_NAMES.get(text.strip().lower())
    if common is not None:
        return common
    found = {f"B{match.upper().lstrip('0')}" for match in _NAME.findall(text)}
    return found.pop() if len(found) == 1 else None


def normalize(
    dn: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, quantize: bool = True
) -> Tensor:
    """Scale mean ± 2 std of each band to [0, 1] and clip.

    Args:
        dn: Harmonised DN (reflectance x 10000, no offset), of shape (..., C, H, W).
        mean: Mean of each of the C bands, in DN.
        std: Standard deviation of each of the C bands, in DN.
        quantize: Whether to truncate the result to 8 bits, as in the official weights' pipeline.

    Returns:
        float32 in [0, 1], of the shape of ``dn``; clip((x - (mean - 2 std)) / (4 std), 0, 1).

    Raises:
        ValueError: ``dn`` does not have as many bands as there are means.
    """
    if dn.ndim < 3 or dn.shape[-3] != len(mean) or len(mean) != len(std):
        raise ValueError(f"found DN of shape {tuple(dn.shape)}, wanted (..., {len(mean)}, H, W)")
    # Truncation to 8 bits turns a rounding error into a whole grey value, hence float64 where there is any.
    dtype = torch.float32 if dn.device.type == "mps" else torch.float64
    means = torch.tensor(mean, dtype=dtype, device=dn.device)[:, None, None]
    stds = torch.tensor(std, dtype=dtype, device=dn.device)[:, None, None]
    scaled = (dn.to(dtype) - (means - 2 * stds)) / (4 * stds)
    scaled = scaled.clamp_(0, 1)
    if quantize:
        # Nothing is negative, so that rounding down truncates; ONNX has no truncation.
        scaled = scaled.mul_(255).floor_().div_(255)
    return scaled.to(torch.float32)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize normalised images as the official pipeline does: bicubic, without antialiasing.

    Args:
        images: Normalised images of shape (C, H, W) or (B, C, H, W); normalise first, then resize.
        size: Height and width of the result in pixels.

    Returns:
        Images of the same rank. Bicubic weights overshoot, so values may leave [0, 1] slightly.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    batch = images if images.ndim == 4 else images[None]
    resized = F.interpolate(batch, size=tuple(size), mode="bicubic", align_corners=False, antialias=False)
    return resized if images.ndim == 4 else resized[0]
