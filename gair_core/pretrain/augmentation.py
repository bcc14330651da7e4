"""From a batch as it was read to what the encoders take: colour, normalisation and flips, on any device.

Flips of a scene take the query along (u -> 1 - u, v -> 1 - v) and never touch longitude and latitude. Colour
acts on the visible bands and on photos, before normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gair_core.config import GAIRConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.pretrain.dataset import Batch
from gair_core.sentinel2.bands import normalize

_VISIBLE = ("B4", "B3", "B2")  # red, green, blue
_LUMA = (0.299, 0.587, 0.114)
# What the engine, too, puts in place of missing pixels: the mean under mean ± 2 std -> [0, 1].
_MISSING = 0.5


@dataclass(frozen=True)
class Inputs:
    """What the encoders take.

    Attributes:
        scene: Normalised scenes, (B, C, S, S), or None.
        photo: Normalised photos, (B, 3, P, P), or None.
        uv: Queries, (B, 1, 2), in [0, 1].
        lonlat: Longitude and latitude, degrees, (B, 2), float64.
        has_photo: Whether a sample has a photo, (B,), bool; None when all have.
    """

    scene: Tensor | None
    photo: Tensor | None
    uv: Tensor
    lonlat: Tensor
    has_photo: Tensor | None

    def __len__(self) -> int:
        return len(self.uv)

    def part(self, rows: slice) -> Inputs:
        """Return some of the samples."""

        def take(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows]

        return Inputs(
            take(self.scene), take(self.photo), self.uv[rows], self.lonlat[rows], take(self.has_photo)
        )


def prepare(batch: Batch, model: GAIRConfig, dtype: torch.dtype = torch.float32) -> Inputs:
    """Augment and normalise a batch.

    Args:
        batch: The batch, on the device where this shall happen.
        model: Statistics and bands.
        dtype: Floating-point type of images and queries.

    Returns:
        The encoders' inputs.
    """
    uv = torch.where(batch.flips[:, :2], 1 - batch.uv, batch.uv)
    scene = None if model.remote_sensing is None else prepare_scenes(batch, model.remote_sensing).to(dtype)
    photo = None
    if model.street_view is not None and batch.photo is not None:
        photo = prepare_photos(batch, model.street_view).to(dtype)
    return Inputs(
        scene=scene,
        photo=photo,
        uv=uv.to(dtype)[:, None],
        lonlat=batch.lonlat,
        has_photo=None if photo is None else batch.has_photo,
    )


def prepare_scenes(batch: Batch, config: RemoteSensingConfig) -> Tensor:
    """Return normalised, flipped scenes, (B, C, S, S), float32 in [0, 1]."""
    dn = batch.scene.to(torch.float32)
    missing = (dn == 0).all(dim=1, keepdim=True)
    if set(_VISIBLE) <= set(config.bands):
        visible = [config.bands.index(name) for name in _VISIBLE]
        colours = jitter_colours(dn[:, visible], batch.jitter[:, 0])
        # Where nothing is jittered not even rounding may touch the values.
        unchanged = (batch.jitter[:, 0] == 1).all(dim=1)[:, None, None, None]
        dn[:, visible] = torch.where(unchanged, dn[:, visible], colours)
    images = _normalized(dn, missing, config)
    images = torch.where(batch.flips[:, 0, None, None, None], images.flip(3), images)
    return torch.where(batch.flips[:, 1, None, None, None], images.flip(2), images)


def normalize_scenes(dn: Tensor, config: RemoteSensingConfig) -> Tensor:
    """Return scenes as the encoder takes them, without augmentation.

    Args:
        dn: Surface reflectance, DN (10000 = 1.0), 0 in all bands where there is no data, (B, C, H, W).
        config: Statistics.

    Returns:
        (B, C, H, W), float32 in [0, 1].
    """
    dn = dn.to(torch.float32)
    return _normalized(dn, (dn == 0).all(dim=1, keepdim=True), config)


def _normalized(dn: Tensor, missing: Tensor, config: RemoteSensingConfig) -> Tensor:
    return normalize(dn, config.mean, config.std, config.quantize).masked_fill(missing, _MISSING)


def prepare_photos(batch: Batch, config: StreetViewConfig) -> Tensor:
    """Return normalised, flipped photos, (B, 3, P, P), float32; zeros where there is none."""
    if batch.photo is None:
        raise ValueError("the batch was read without photos")
    pixels = batch.photo.to(torch.float32)
    colours = jitter_colours(pixels, batch.jitter[:, 1]).clamp(max=255)
    unchanged = (batch.jitter[:, 1] == 1).all(dim=1)[:, None, None, None]
    colours = torch.where(unchanged, pixels, colours)
    mean = pixels.new_tensor(config.mean)[:, None, None]
    std = pixels.new_tensor(config.std)[:, None, None]
    photos = (colours - mean) / std * batch.has_photo[:, None, None, None]
    return torch.where(batch.flips[:, 2, None, None, None], photos.flip(3), photos)


def jitter_colours(colours: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, then contrast, then saturation.

    Args:
        colours: Red, green and blue on any scale that starts at 0, (B, 3, H, W).
        factors: Factors of brightness, contrast (around the image's mean grey) and saturation (around each
            pixel's grey), (B, 3); 1 changes nothing.

    Returns:
        The colours, at least 0.
    """
    brightness, contrast, saturation = factors.T[..., None, None, None]
    luma = colours.new_tensor(_LUMA)[:, None, None]
    bright = colours * brightness
    mean = (bright * luma).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    contrasted = mean + contrast * (bright - mean)
    grey = (contrasted * luma).sum(dim=1, keepdim=True)
    saturated: Tensor = grey + saturation * (contrasted - grey)
    return saturated.clamp(min=0)
