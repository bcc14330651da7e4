"""The simplest heads: one matrix on the embeddings of one scene, or of two dates.

They commute with NILI's bilinear interpolation (`gair_core.model.nili`), so the whole head runs at patch
resolution and the pixels cost one bilinear resize of its logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gair_core.heads.base import Head, HeadConfig, HeadMetadata, embedding_lattice, embedding_rim
from gair_core.model.gair import GAIR


class LinearHead(Head):
    """Logits A z + b of the embedding z of every pixel.

    Args:
        config: Its configuration.
        metadata: Its description.
    """

    kind = "linear"

    def __init__(self, config: HeadConfig, metadata: HeadMetadata) -> None:
        super().__init__(config, metadata)
        #: A, shape (classes, D).
        self.weight = nn.Parameter(torch.zeros(len(metadata.classes), config.embed_dim))
        #: b, shape (classes,).
        self.bias = nn.Parameter(torch.zeros(len(metadata.classes)))

    def lattice(self, model: GAIR, features: Tensor, scene: int = 0) -> Tensor:
        """Return A G, see `Head.lattice`."""
        del scene
        return embedding_lattice(model, features, self.weight)

    def rim_weight(self, model: GAIR, scene: int = 0) -> Tensor | None:
        """Return A W_c, see `Head.rim_weight`."""
        del scene
        return embedding_rim(model, self.weight)

    def logits(self, sampled: Sequence[Tensor]) -> Tensor:
        """Add b, see `Head.logits`."""
        return sampled[0] + self.bias[:, None, None].to(sampled[0])


class LinearChangeHead(Head):
    """Logits A [z_before; z_after] + b; a matrix on the difference is the case A = [-D, D].

    Args:
        config: Its configuration; ``embed_dim`` is that of one date.
        metadata: Its description.
    """

    kind = "change_linear"
    scenes = 2

    def __init__(self, config: HeadConfig, metadata: HeadMetadata) -> None:
        super().__init__(config, metadata)
        #: A, shape (2, classes, D): before, after.
        self.weight = nn.Parameter(torch.zeros(2, len(metadata.classes), config.embed_dim))
        #: b, shape (classes,).
        self.bias = nn.Parameter(torch.zeros(len(metadata.classes)))

    def lattice(self, model: GAIR, features: Tensor, scene: int = 0) -> Tensor:
        """Return this date's part of A G, see `Head.lattice`."""
        return embedding_lattice(model, features, self.weight[scene])

    def rim_weight(self, model: GAIR, scene: int = 0) -> Tensor | None:
        """Return this date's part of A W_c, see `Head.rim_weight`."""
        return embedding_rim(model, self.weight[scene])

    def logits(self, sampled: Sequence[Tensor]) -> Tensor:
        """Sum the two dates and add b, see `Head.logits`."""
        before, after = sampled
        return before + after + self.bias[:, None, None].to(before)
