"""A linear head that sees the embedding and the pixel's own bands.

The embedding z(q) varies as slowly as its patches; what a pixel and its closest neighbours reflect keeps
the borders between classes sharp.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gair_core.heads.base import Head, HeadConfig, HeadMetadata, embedding_lattice, embedding_rim
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.model.gair import GAIR


class PixelLinearConfig(HeadConfig):
    """Sizes of a pixel head.

    Attributes:
        pixels: Features of the scene's own pixels.
    """

    pixels: PixelFeatures = PixelFeatures()


class PixelLinearHead(Head):
    """Logits A z + B (x - m) / s + b of the embedding z and the features x of every pixel.

    Args:
        config: Its configuration.
        metadata: Its description.
    """

    kind = "pixel_linear"
    config_class = PixelLinearConfig

    config: PixelLinearConfig

    def __init__(self, config: PixelLinearConfig, metadata: HeadMetadata) -> None:
        super().__init__(config, metadata)
        self.pixel_features = config.pixels
        classes, count = len(metadata.classes), config.pixels.count
        #: A, shape (classes, D).
        self.weight = nn.Parameter(torch.zeros(classes, config.embed_dim))
        #: B, shape (classes, F).
        self.band_weight = nn.Parameter(torch.zeros(classes, count))
        #: b, shape (classes,).
        self.bias = nn.Parameter(torch.zeros(classes))
        #: m, DN, shape (F,).
        self.band_mean: Tensor
        self.register_buffer("band_mean", torch.zeros(count))
        #: s, DN, shape (F,).
        self.band_scale: Tensor
        self.register_buffer("band_scale", torch.ones(count))

    def lattice(self, model: GAIR, features: Tensor, scene: int = 0) -> Tensor:
        """Return A G, see `Head.lattice`."""
        del scene
        return embedding_lattice(model, features, self.weight)

    def rim_weight(self, model: GAIR, scene: int = 0) -> Tensor | None:
        """Return A W_c, see `Head.rim_weight`."""
        del scene
        return embedding_rim(model, self.weight)

    def logits(self, sampled: Sequence[Tensor]) -> Tensor:
        """Return A z + B (x - m) / s + b, see `Head.logits`.

        The sum runs over the features one by one: a product of matrices may round a pixel differently in a
        window of another size, and a part of a scene must equal the whole.

        Args:
            sampled: A z, shape (classes, height, width), and x, DN, shape (F, height, width).
        """
        embedding, pixels = sampled
        logits = embedding + self._column(self.bias, embedding)
        mean, scale = self.band_mean.to(pixels), self.band_scale.to(pixels)
        for number, weight in enumerate(self.band_weight.T):
            standard = (pixels[number] - mean[number]) / scale[number]
            logits += self._column(weight, embedding) * standard
        return logits

    @staticmethod
    def _column(values: Tensor, like: Tensor) -> Tensor:
        return values.to(like)[:, None, None]
