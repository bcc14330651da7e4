"""Logits of an image of any size, tile by tile, as the engine computes those of a scene."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gair_core.heads.base import Head
from gair_core.inference.tiling import Axis
from gair_core.model.gair import GAIR
from gair_core.model.nili import NILI


def tiled_logits(
    head: Head,
    model: GAIR,
    images: Tensor,
    *,
    tile: int,
    margin: int,
    days: Tensor | None = None,
    valid: Tensor | None = None,
    batch: int = 8,
) -> Tensor:
    """Return the logits of all pixels of an image.

    Its edges are reflected to whole patches; tiles overlap, and their lattices are blended before they are
    interpolated. That is what `gair_core.inference.engine` does, which reads scenes from files.

    Args:
        head: The head.
        model: The encoder, on the images' device.
        images: One normalised image a scene, shape (scenes, bands, H, W).
        tile: Side of a tile, pixels; a multiple of the patch size.
        margin: What two tiles share on each side, pixels; rounded up to whole patches.
        days: Day of the year of each scene, shape (scenes,); None where nobody knows.
        valid: Whether a pixel of a scene has data, bool, shape (scenes, H, W); None for all.
        batch: Tiles that are encoded at once.

    Returns:
        Shape (classes, H, W), float32.
    """
    patch = model.require_remote_sensing().config.patch_size
    height, width = images.shape[-2:]
    images = _continued(images, patch)
    # Reflection continues validity as it continues pixels.
    seen = None if valid is None else F.avg_pool2d(_continued(valid[:, None].float(), patch), patch)[:, 0]
    side, shared = tile // patch, -(-margin // patch)
    rows, columns = (Axis.plan(size // patch, side, shared) for size in images.shape[-2:])
    places = [(row, column) for row in range(len(rows.starts)) for column in range(len(columns.starts))]
    total: Tensor | None = None
    weight = torch.zeros(rows.patches, columns.patches, device=images.device)
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        windows = [(_window(rows, row), _window(columns, column)) for row, column in part]
        pixels = torch.stack([images[..., _scaled(v, patch), _scaled(h, patch)] for v, h in windows])
        masks = None if seen is None else torch.stack([seen[..., v, h] for v, h in windows])
        stamps = None if days is None else days.expand(len(part), -1)
        lattices = head.tile_lattice(model, list(pixels.unbind(1)), stamps, masks).float()
        if total is None:
            total = torch.zeros(lattices.shape[1], *weight.shape, device=images.device)
        for (row, column), (v, h), lattice in zip(part, windows, lattices, strict=True):
            share = torch.from_numpy(np.outer(rows.weights(row), columns.weights(column))).to(weight)
            total[:, v, h] += lattice * share
            weight[v, h] += share
    if total is None:
        raise ValueError("an image without tiles")
    sampled = _interpolate(head, model, total / weight, (images.shape[-2], images.shape[-1]), len(images))
    return head.logits(head.split(sampled[:, :height, :width], len(images))).float()


def _interpolate(head: Head, model: GAIR, lattice: Tensor, size: tuple[int, int], scenes: int) -> Tensor:
    """Interpolate a lattice at the pixels, (C f^2, P_y, P_x) -> (C, height, width)."""
    cells = F.pixel_shuffle(lattice, head.subdivision)[None]
    rim = head.tile_rim(model, scenes)
    if rim is None:
        return F.interpolate(cells, size=size, mode="bilinear", align_corners=False)[0]
    return NILI.upsample(cells, size, rim)[0]


def _continued(images: Tensor, patch: int) -> Tensor:
    """Continue images (N, C, H, W) to whole patches below and to the right, by reflection where they can."""
    height, width = images.shape[-2:]
    beyond = (0, -width % patch, 0, -height % patch)
    can_reflect = beyond[1] < width and beyond[3] < height
    return F.pad(images, beyond, mode="reflect" if can_reflect else "replicate")


def _window(axis: Axis, index: int) -> slice:
    return slice(axis.starts[index], axis.starts[index] + axis.tile)


def _scaled(window: slice, patch: int) -> slice:
    return slice(window.start * patch, window.stop * patch)
