"""The photo encoder g: timm's ViT with three ways to pool, and the projection into the common space."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.norm import LayerNorm2d
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from gair_core.config import StreetViewConfig


class StreetViewEncoder(nn.Module):
    """A ViT that turns a photo into one vector.

    ``avg`` pools the patch tokens after the final norm (the paper); ``cls`` takes the class token after it;
    ``pooler`` is tanh(Linear(cls)), the pooled output of the official weights.
    """

    def __init__(self, config: StreetViewConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = VisionTransformer(
            img_size=config.image_size,
            **_embedding(config),
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            num_classes=0,
            global_pool="",
            drop_path_rate=config.drop_path,
            norm_layer=partial(nn.LayerNorm, eps=config.norm_eps),
        )
        self.pooler = nn.Linear(config.width, config.width) if config.pooling == "pooler" else None

    def forward(self, photos: Tensor) -> Tensor:
        """Encode preprocessed photos.

        Args:
            photos: Shape (B, 3, S, S), normalised (`gair_core.photos.preprocess`).

        Returns:
            Pooled features before the projection, shape (B, width).
        """
        tokens = self.vit.forward_features(photos)
        if self.config.pooling == "avg":
            return tokens[:, self.vit.num_prefix_tokens :].mean(dim=1)
        first = tokens[:, 0]
        return first if self.pooler is None else torch.tanh(self.pooler(first))


def _embedding(config: StreetViewConfig) -> dict[str, Any]:
    """Return the arguments that say how the ViT turns pixels into tokens."""
    if config.stem == "linear":
        return {"patch_size": config.patch_size}
    halvings = config.patch_size.bit_length() - 1
    # Twice the channels for half the side, up to the tokens' width. LayerNorm, so that no sample of a batch
    # depends on the others: cached gradients and several ranks must equal the full batch.
    channels = tuple(max(config.width >> (halvings - 1 - number), 8) for number in range(halvings))
    stem = ConvStem(
        depth=halvings, channels=channels, stride=(2,) * halvings, norm_layer=LayerNorm2d, act_layer=nn.GELU
    )
    return {"patch_size": 1, "embed_layer": partial(HybridEmbed, stem, proj=False)}
