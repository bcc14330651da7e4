"""What the QGIS plugin Deepness expects of an ONNX model, and one that gives it a head's classes.

Deepness (0.5 to 0.7) cuts a raster layer into square tiles at the resolution that the model names, takes the
first bands of the layer as they are stored (zeros beyond its edges), divides them by 255 in whatever type,
subtracts ``standardization_mean`` and divides by ``standardization_std`` where the model names them, and
hands over float32 (1, bands, side, side). What comes back must be (1, classes, side, side) with values from 0
to 1: values below the threshold become 0 and the largest wins, so logits would not do. Of two tiles that
overlap each has its half of the overlap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gair_core.errors import BadInputError
from gair_core.heads.base import Head
from gair_core.heads.pixel_features import window_features
from gair_core.inference.engine import MARGIN
from gair_core.inference.pixel_bands import nearly_same_size
from gair_core.model.gair import GAIR
from gair_core.model.nili import NILI
from gair_core.sentinel2.bands import normalize

SMALLEST_TILE = 4 * MARGIN
"""Side of the smallest tile, pixels: the margins, in which two tiles meet, then take half of it."""

NO_DATA_NAME = "no data"
"""Name of channel 0, which is 1 where a pixel has no data; the head's classes follow."""

_INPUT_SCALE = 255.0
_SATURATED = 65535.0
# Division by 255 in float32 moves a stored number by less than 0.01; this takes it back exactly.
_STEPS = 16.0


class Radiometry(NamedTuple):
    """How the layer's numbers become harmonised DN (reflectance x 10000): ``stored * scale + offset``."""

    scale: float = 1.0
    offset: float = 0.0


class DeepnessSegmentor(nn.Module):
    """A head and its encoder as one network from the tile that Deepness hands over to class probabilities.

    It computes what `gair segment` computes of a scene that is exactly this tile: no data by the same rule,
    the band means in the gaps, normalisation, encoder, head, NILI's interpolation with its rim, softmax.

    Args:
        head: A head for maps of one scene.
        model: Its encoder.
        tile_size: Side of a tile, pixels.
        radiometry: How the layer's numbers become DN.

    Raises:
        BadInputError: The head looks at several scenes, or reads pixels of another size than the encoder's;
            or no such tile is possible.
    """

    def __init__(self, head: Head, model: GAIR, tile_size: int, radiometry: Radiometry) -> None:
        super().__init__()
        self.config = model.require_remote_sensing().config
        _check_head(head, self.config.gsd)
        _check_tile(tile_size, self.config.patch_size)
        self.head, self.model = head, model
        self.tile_size = tile_size
        self.radiometry = radiometry
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(self.config.mean)[:, None, None], persistent=False)
        self.rim: Tensor | None
        self.register_buffer("rim", self._rim_raster(), persistent=False)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the output's channels in their order."""
        return (NO_DATA_NAME, *(one.name for one in self.head.classes))

    @torch.no_grad()
    def _rim_raster(self) -> Tensor | None:
        """Return NILI's rim term of a tile, shape (1, C, side, side), the same for every image."""
        weight = self.head.tile_rim(self.model, 1)
        if weight is None:
            return None
        patches = self.tile_size // self.config.patch_size
        nothing = torch.zeros(1, len(weight), patches, patches)
        return NILI.upsample(nothing, (self.tile_size, self.tile_size), weight.float())

    def forward(self, tile: Tensor) -> Tensor:
        """Return probabilities.

        Args:
            tile: The stored numbers over 255, float32, shape (1, bands, side, side).

        Returns:
            Shape (1, 1 + classes, side, side): no data, then the classes in the head's order; they sum to 1.
        """
        valid = ~_is_nodata(tile)
        dn = self._to_dn(tile)
        probabilities = self.logits(dn, valid).softmax(dim=1)
        there = valid.to(probabilities)
        return torch.cat([1 - there, probabilities * there], dim=1)

    def logits(self, dn: Tensor, valid: Tensor) -> Tensor:
        """Return the logits of the classes.

        Args:
            dn: Harmonised DN, shape (1, bands, side, side).
            valid: Whether a pixel has data, bool, shape (1, 1, side, side).

        Returns:
            Shape (1, classes, side, side).
        """
        filled = torch.where(valid, dn, self.mean)
        images = normalize(filled, self.config.mean, self.config.std, quantize=self.config.quantize)
        cells = self.head.tile_lattice(self.model, [images])
        if self.head.subdivision > 1:
            cells = F.pixel_shuffle(cells, self.head.subdivision)
        size = (self.tile_size, self.tile_size)
        sampled = F.interpolate(cells, size=size, mode="bilinear", align_corners=False)
        if self.rim is not None:
            sampled = sampled + self.rim
        features = self.head.pixel_features
        pixels = [] if features is None else [window_features(dn, features, valid)[0]]
        return self.head.logits([sampled[0], *pixels])[None]

    def _to_dn(self, tile: Tensor) -> Tensor:
        scale, offset = self.radiometry
        dn = torch.round(tile * (_INPUT_SCALE * scale * _STEPS)) / _STEPS + offset
        # NaN compares with nothing: it becomes 0 like negative reflectance.
        return torch.where(dn > 0, dn, 0.0)


def _is_nodata(tile: Tensor) -> Tensor:
    """Return where no band has data, (1, 1, side, side): 0, less or 65535 in all bands, or NaN in one."""
    nothing = (tile <= 0) | (tile >= _SATURATED / _INPUT_SCALE)
    return nothing.all(dim=1, keepdim=True) | (tile != tile).any(dim=1, keepdim=True)  # noqa: PLR0124


def deepness_metadata(segmentor: DeepnessSegmentor) -> dict[str, str]:
    """Return the entries that Deepness reads, as it reads them: JSON each.

    Its documentation names the side of a tile ``tiles_size``, its code reads ``tile_size``; here are both.
    ``standardization_mean`` and ``_std`` change nothing, but without them 0.6 assumes three bands.
    """
    side, bands = segmentor.tile_size, len(segmentor.config.bands)
    entries = {
        "model_type": "Segmentor",
        "class_names": {str(channel): name for channel, name in enumerate(segmentor.channels)},
        "resolution": 100 * segmentor.config.gsd,
        "tile_size": side,
        "tiles_size": side,
        "tiles_overlap": math.ceil(100 * 2 * MARGIN / side),
        "standardization_mean": [0.0] * bands,
        "standardization_std": [1.0] * bands,
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    return {name: json.dumps(value) for name, value in entries.items()}


def own_metadata(segmentor: DeepnessSegmentor) -> dict[str, str]:
    """Return what else a user or a program may want to know, which Deepness does not read."""
    head, scenes = segmentor.head, segmentor.config
    known = head.metadata
    described: Mapping[str, object] = {
        "title": known.title,
        "head": known.name,
        "head_kind": head.kind,
        "head_fingerprint": known.fingerprint,
        "encoder_fingerprint": "" if known.backbone is None else known.backbone.sha256,
        "licence": known.provenance.licence,
        "bands": scenes.bands,
        "scale": segmentor.radiometry.scale,
        "offset": segmentor.radiometry.offset,
        "classes": [one.model_dump(mode="json") for one in head.classes],
    }
    return {"gair": json.dumps(described)}


def example_tile(segmentor: DeepnessSegmentor) -> Tensor:
    """Return a made-up tile, as Deepness would hand it over, with gaps, dark and saturated pixels."""
    generator = torch.Generator().manual_seed(0)
    config, side = segmentor.config, segmentor.tile_size
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    coarse = torch.randn(1, len(config.bands), side // 8 + 1, side // 8 + 1, generator=generator)
    smooth = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)
    noise = torch.randn(smooth.shape, generator=generator)
    scale, offset = segmentor.radiometry
    dn = (mean + std * (smooth + 0.3 * noise)).round().clamp(1, _SATURATED - 1)
    stored = (dn - offset) / scale
    stored[..., : side // 6, : side // 5] = 0
    stored[..., -3:, -5:] = _SATURATED
    return (stored.double() / _INPUT_SCALE).float()


def check_one_scene(head: Head) -> None:
    """Check that a head looks at one scene, which is what Deepness hands over.

    Raises:
        BadInputError: It compares two dates or reads a series.
    """
    if head.scenes == 1:
        return
    what = "a series of dates" if head.scenes is None else f"{head.scenes} dates"
    command = "gair change" if head.scenes == 2 else "gair segment --series"
    raise BadInputError(
        f"The head {head.metadata.name} (kind {head.kind}) looks at {what}; Deepness hands over one layer.",
        f"Run it with {command}, or export a head of the kind linear, pixel_linear or upernet.",
    )


def _check_head(head: Head, gsd: float) -> None:
    check_one_scene(head)
    features = head.pixel_features
    if features is not None and not nearly_same_size(gsd, features.gsd):
        raise BadInputError(
            f"The head {head.metadata.name} reads pixels of {features.gsd:g} m beside tiles of {gsd:g} m; "
            "Deepness has one resolution for both.",
            "Run it with gair segment, or train it on a scene of the encoder's resolution.",
        )


def _check_tile(tile_size: int, patch: int) -> None:
    if tile_size < SMALLEST_TILE or tile_size % patch:
        raise BadInputError(
            f"The tile size must be a multiple of {patch} pixels and at least {SMALLEST_TILE}, found "
            f"{tile_size}.",
            f"Leave it at its default, or use {max(SMALLEST_TILE, round(tile_size / patch) * patch)}.",
        )
