"""Figures 7 and 8 of the paper for any model and store, as pictures that need Pillow alone."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from gair_core.model.gair import GAIR
from gair_core.pretrain.config import EvaluationConfig
from gair_core.pretrain.evaluation import EvaluationReader, similarity_maps
from gair_core.pretrain.store import Store

PANEL: Final = 288
"""Side of a panel, pixels."""

_GAP: Final = 6
_TITLE: Final = 18
# Anchors of viridis (van der Walt and Smith), dark to bright.
_RAMP: Final = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 74, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (109, 205, 89),
    (180, 222, 44),
    (253, 231, 37),
)
_STAR: Final = (220, 20, 30)
# Reflectance 0.3 is white in most true-colour pictures of Sentinel-2.
_WHITE_DN: Final = 3000.0

Pixels = npt.NDArray[np.uint8]


def colour_ramp(values: npt.NDArray[np.floating]) -> Pixels:
    """Return colours (..., 3) of values in [0, 1]."""
    anchors = np.array(_RAMP, dtype=np.float64)
    places = np.linspace(0, 1, len(anchors))
    clipped = np.clip(values, 0, 1)
    return np.stack([np.interp(clipped, places, anchors[:, c]) for c in range(3)], axis=-1).astype(np.uint8)


def stretched(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return values scaled so that their extremes are 0 and 1; a constant becomes 0."""
    low, high = float(values.min()), float(values.max())
    return (np.asarray(values, dtype=np.float64) - low) / (high - low if high > low else 1.0)


def true_colour(dn: npt.NDArray[np.integer]) -> Pixels:
    """Return a picture (H, W, 3) of harmonised DN (10, H, W)."""
    visible = np.clip(dn[[2, 1, 0]].astype(np.float64) / _WHITE_DN, 0, 1) ** (1 / 1.4)
    return (255 * visible).astype(np.uint8).transpose(1, 2, 0)


def star(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float = 9) -> None:
    """Draw a red star with a white rim."""
    for size, colour in ((radius + 2, (255, 255, 255)), (radius, _STAR)):
        points = [
            (
                x + (size if number % 2 == 0 else 0.42 * size) * math.sin(math.pi * number / 5),
                y - (size if number % 2 == 0 else 0.42 * size) * math.cos(math.pi * number / 5),
            )
            for number in range(10)
        ]
        draw.polygon(points, fill=colour)


def contact_sheet(rows: list[list[tuple[Image.Image, str]]]) -> Image.Image:
    """Lay panels out in rows, each under its title."""
    columns = max(len(row) for row in rows)
    size = (columns * (PANEL + _GAP) + _GAP, len(rows) * (PANEL + _TITLE + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = _GAP + number * (PANEL + _TITLE + _GAP)
        for column, (panel, title) in enumerate(row):
            left = _GAP + column * (PANEL + _GAP)
            draw.text((left, top + 2), title, fill="black")
            sheet.paste(panel, (left, top + _TITLE))
    return sheet


def photo_panel(photo: Image.Image) -> Image.Image:
    """Return a photo within a square panel, its shape kept."""
    panel = Image.new("RGB", (PANEL, PANEL), "white")
    scale = PANEL / max(photo.size)
    fitted = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))
    panel.paste(fitted, ((PANEL - fitted.width) // 2, (PANEL - fitted.height) // 2))
    return panel


def figure_7(model: GAIR, store: Store, rows: npt.NDArray[np.int64], config: EvaluationConfig) -> Image.Image:
    """Draw, for each photo, its scene and the cosine of g(s) with z at every pixel; a star is the true place.

    Args:
        model: The model, in evaluation mode.
        store: The store.
        rows: Samples with photos.
        config: Size of the scenes and seed.

    Returns:
        The picture: one row a photo.
    """
    drawn = []
    for found in similarity_maps(model, store, rows, config):
        cosine = found.cosine.double().numpy()
        v, u = found.place / cosine.shape[0]
        drawn.append(
            [
                (photo_panel(store.read_photo(found.row)), str(store.samples.id[found.row])),
                (_with_star(true_colour(found.scene), u, v), "scene, true colour"),
                (
                    _with_star(colour_ramp(stretched(cosine)), u, v),
                    f"cosine of g and z, {cosine.min():.2f} to {cosine.max():.2f}",
                ),
            ]
        )
    return contact_sheet(drawn)


@torch.no_grad()
def figure_8(
    model: GAIR, store: Store, rows: npt.NDArray[np.int64], *, degrees: float = 0.5, size: int = 96
) -> Image.Image:
    """Draw, for each photo, the cosine of g(s) with e(x) on a grid around it; a star is the true place.

    Args:
        model: The model, in evaluation mode, with a location encoder.
        store: The store.
        rows: Samples with photos.
        degrees: Height of the grid, degrees of latitude; it is as wide in kilometres.
        size: Points along each side.

    Returns:
        The picture: two panels a photo.
    """
    photos = EvaluationReader(store, model, ("photo",), EvaluationConfig())
    drawn = []
    for part, inputs in photos.batches(rows):
        if inputs.photo is None:
            break
        embeddings = F.normalize(model.encode_street_view(inputs.photo).float(), dim=1)
        for place, row in enumerate(part):
            longitude, latitude = store.samples.lonlat[row]
            steps = (np.arange(size) + 0.5) / size - 0.5
            lat, lon = np.meshgrid(
                np.clip(latitude - degrees * steps, -90, 90),
                longitude + degrees * steps / max(math.cos(math.radians(latitude)), 0.01),
                indexing="ij",
            )
            grid = np.stack([(lon + 180) % 360 - 180, lat], axis=-1).reshape(-1, 2)
            found = model.encode_location(torch.from_numpy(grid).to(model.device)).float()
            cosine = (F.normalize(found, dim=1) @ embeddings[place]).reshape(size, size).cpu().numpy()
            span = f"{degrees:g} degrees high, {cosine.min():.2f} to {cosine.max():.2f}"
            drawn.append(
                [
                    (photo_panel(store.read_photo(int(row))), str(store.samples.id[row])),
                    (
                        _with_star(colour_ramp(stretched(cosine)), 0.5, 0.5),
                        f"cosine of g and e, {span}",
                    ),
                ]
            )
    return contact_sheet(drawn)


def _with_star(pixels: Pixels, u: float, v: float) -> Image.Image:
    panel = Image.fromarray(pixels).resize((PANEL, PANEL), Image.Resampling.NEAREST)
    star(ImageDraw.Draw(panel), u * PANEL, v * PANEL)
    return panel
