"""From a photo to the tensor that the photo encoder takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from gair_core.config import StreetViewConfig
from gair_core.errors import BadInputError


def preprocess(photo: Image.Image | NDArray[Any], config: StreetViewConfig) -> torch.Tensor:
    """Normalise a photo and resize it to the encoder's square, without keeping its aspect ratio.

    The order (normalise, then resize, with bicubic overshoots left in place) and the resize itself (torch's
    interpolation, half-pixel centres) reproduce the pipeline of the official weights when ``antialias`` is
    off. Pillow's resize would not: it filters before shrinking and rounds to 8 bits.

    Args:
        photo: An RGB image, or uint8 (H, W, 3) in the order R, G, B. `open_photo` makes one of any file.
        config: `image_size`, `mean` and `std` (scale 0 to 255), `resampling` and `antialias` of the encoder.

    Returns:
        float32 (3, image_size, image_size), normalised with the mean and standard deviation.

    Raises:
        BadInputError: The photo is not RGB, not 8-bit, has another shape or no pixels.
    """
    pixels = torch.from_numpy(_rgb_pixels(photo)).permute(2, 0, 1).to(torch.float32)
    mean = torch.tensor(config.mean).view(3, 1, 1)
    std = torch.tensor(config.std).view(3, 1, 1)
    resized = F.interpolate(
        pixels.sub_(mean).div_(std).unsqueeze(0),
        size=(config.image_size, config.image_size),
        mode=config.resampling,
        align_corners=False,
        antialias=config.antialias,
    )
    return resized.squeeze(0)


def _rgb_pixels(photo: Image.Image | NDArray[Any]) -> NDArray[np.uint8]:
    """Return a writable, contiguous uint8 (H, W, 3) array, or say what the photo is instead."""
    if isinstance(photo, Image.Image):
        if photo.mode != "RGB":
            raise BadInputError(
                f"The photo has mode {photo.mode}; an upright RGB image is needed.",
                "Read it with gair_core.photos.reading.open_photo, which converts any mode.",
            )
        photo = np.array(photo)
    if not isinstance(photo, np.ndarray):
        raise BadInputError(f"A photo must be a PIL image or a NumPy array, found {type(photo).__name__}.")
    if photo.dtype != np.uint8:
        raise BadInputError(
            f"The photo has values of type {photo.dtype}; uint8 from 0 to 255 is needed.",
            "Scale the values to 0..255 and convert them to uint8.",
        )
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
        raise BadInputError(
            f"The photo has shape {photo.shape}; (height, width, 3) with R, G, B last is needed.",
            "Drop an alpha channel, repeat a grey channel, and move channels to the end.",
        )
    return np.array(photo, order="C")
