"""UPerNet on the blocks of the scene encoder, for one date and for the change between two.

UPerNet (Xiao et al. 2018, "Unified Perceptual Parsing for Scene Understanding") joins pyramid pooling and a
feature pyramid network. A ViT has one scale only, so that features of four of its blocks are brought to 4, 2,
1 and 1/2 times the lattice first, as PANGAEA does (Marsocci et al. 2024, whose decoder comes from
mmsegmentation): the logits are four times as fine as the patches.

It is written here because the decoder of segmentation-models-pytorch (0.6) fits badly. It takes the stages of
a convolutional network and the size of its output from a first stage at full resolution, which a ViT does not
have; it leaves out the 3 x 3 convolution behind each level, so that its results could not be compared with
PANGAEA's; and the part before it, from one scale to four, would be ours anyway. Nor does `gair segment` need
another library for it this way.

Pyramid pooling looks at a whole tile, so that the logits of a pixel depend on the tile that it lies in. Tiles
are anchored at the scene's origin, whatever the extent: a part of a scene still equals the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from gair_core.errors import BadInputError
from gair_core.heads.base import Head, HeadConfig, HeadMetadata
from gair_core.model.gair import GAIR

LEVELS = 4
"""Levels of the pyramid, one a block."""

FINENESS = 4
"""Cells of the output along the side of a patch."""

POOL_SCALES = (1, 2, 3, 6)
"""Cells along the side of a tile to which pyramid pooling averages it."""


def default_blocks(depth: int) -> tuple[int, ...]:
    """Return the blocks that UPerNet reads, counted from 0: 3, 5, 7 and 11 of twelve.

    Other depths are read at the same parts of their depth; one with fewer blocks than levels is read several
    times at the same block.

    Args:
        depth: Number of blocks of the encoder.
    """
    return tuple(max(0, round((block + 1) * depth / 12) - 1) for block in (3, 5, 7, 11))


class UPerNetConfig(HeadConfig):
    """Sizes of a UPerNet head.

    Attributes:
        embed_dim: Width of the encoder's tokens; embeddings are not read.
        blocks: Blocks of the encoder that it reads, counted from 0, not falling: the first becomes the finest
            level. See `default_blocks`.
        channels: Channels of every level inside the decoder; PANGAEA's protocol has 512.
        dropout: Share of the channels before the classifier that training drops.
    """

    blocks: tuple[int, ...] = (3, 5, 7, 11)
    channels: int = Field(256, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _four_rising_blocks(self) -> Self:
        check_blocks(self.blocks)
        return self


def check_blocks(blocks: Sequence[int]) -> None:
    """Check the blocks of a configuration.

    Raises:
        ValueError: There are not four, or their numbers fall or are negative.
    """
    if len(blocks) != LEVELS or list(blocks) != sorted(blocks) or min(blocks) < 0:
        raise ValueError(f"blocks must be {LEVELS} numbers from 0 that do not fall, found {tuple(blocks)}")


class UPerNetDecoder(nn.Module):
    """Feature pyramid, pyramid pooling, fusion of the levels.

    While it trains, batch normalisation needs two tiles a batch: the coarsest pooling has one value a tile.

    Args:
        width: Channels of the features of each block.
        channels: Channels of every level, and of the output.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.rescale = nn.ModuleList(
            [
                nn.Sequential(_doubling(width), nn.BatchNorm2d(width), nn.GELU(), _doubling(width)),
                _doubling(width),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.pooling = PyramidPooling(width, channels)
        self.lateral = nn.ModuleList(_convolution(width, channels, 1) for _ in range(LEVELS - 1))
        self.level = nn.ModuleList(_convolution(channels, channels, 3) for _ in range(LEVELS - 1))
        self.fuse = _convolution(LEVELS * channels, channels, 3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Decode the features of four blocks.

        Args:
            features: One (B, width, P_y, P_x) a level, the finest first.

        Returns:
            Shape (B, channels, 4 P_y, 4 P_x).
        """
        rows, columns = features[0].shape[-2:]
        # The coarsest level takes two patches together; an odd one out is repeated, so that every level
        # covers the same ground.
        odd = (0, columns % 2, 0, rows % 2)
        even = [F.pad(one, odd, mode="replicate") if any(odd) else one for one in features]
        levels = [rescale(one) for rescale, one in zip(self.rescale, even, strict=True)]
        finer = [lateral(one) for lateral, one in zip(self.lateral, levels[:-1], strict=True)]
        pyramid = [*finer, self.pooling(levels[-1])]
        for number in reversed(range(LEVELS - 1)):
            pyramid[number] = pyramid[number] + _resize(pyramid[number + 1], pyramid[number])
        smooth = [level(one) for level, one in zip(self.level, pyramid[:-1], strict=True)]
        stacked = torch.cat([_resize(one, smooth[0]) for one in (*smooth, pyramid[-1])], dim=1)
        fused: Tensor = self.fuse(stacked)
        return fused[..., : FINENESS * rows, : FINENESS * columns]


class PyramidPooling(nn.Module):
    """Means over the tile's quarters, ninths and so on beside the features themselves (Zhao et al. 2017).

    Args:
        width: Channels of the features.
        channels: Channels of the output.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_convolution(width, channels, 1) for _ in POOL_SCALES)
        self.fuse = _convolution(width + len(POOL_SCALES) * channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, channels, rows, columns) for features (B, width, rows, columns)."""
        pooled = [
            _resize(branch(pool(features, scale)), features)
            for scale, branch in zip(POOL_SCALES, self.branches, strict=True)
        ]
        fused: Tensor = self.fuse(torch.cat([features, *pooled], dim=1))
        return fused


def pool(features: Tensor, scale: int) -> Tensor:
    """Average features over scale x scale cells, as `torch.nn.AdaptiveAvgPool2d` does.

    That one does not run on every device for every size (MPS), and its gradient is not reproducible on CUDA;
    the same as two products of matrices is and does.

    Args:
        features: Shape (B, C, rows, columns).
        scale: Cells along each side.

    Returns:
        Shape (B, C, scale, scale).
    """
    down, across = (_means(size, scale, features) for size in features.shape[-2:])
    return down @ features @ across.mT


def _means(size: int, scale: int, like: Tensor) -> Tensor:
    """Return the matrix (scale, size) whose rows average the positions from i n/s to (i + 1) n/s."""
    rows = []
    for cell in range(scale):
        start, stop = cell * size // scale, -(-(cell + 1) * size // scale)
        rows.append([1 / (stop - start) if start <= position < stop else 0.0 for position in range(size)])
    return torch.tensor(rows).to(like)


def _convolution(width: int, channels: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, side, padding=side // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )


def _doubling(width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(width, width, 2, stride=2)


def _resize(values: Tensor, like: Tensor) -> Tensor:
    size = (like.shape[-2], like.shape[-1])
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)


def check_encoder(model: GAIR, width: int, blocks: Sequence[int]) -> None:
    """Check that a decoder on blocks fits a model's scene encoder.

    Args:
        model: The model.
        width: Width of the tokens that the decoder reads.
        blocks: Blocks that it reads.

    Raises:
        BadInputError: The width is another one, there is no such block, or patches cannot be divided.
        CheckpointError: The model has no scene encoder.
    """
    config = model.require_remote_sensing().config
    if config.width != width or config.depth <= max(blocks):
        raise BadInputError(
            f"The head reads the blocks {', '.join(map(str, blocks))} of an encoder {width} wide; "
            f"the model's is {config.width} wide and has the blocks 0 to {config.depth - 1}.",
            "Use the model that the head was trained on.",
        )
    if config.patch_size % FINENESS:
        raise BadInputError(
            f"UPerNet divides patches into {FINENESS} x {FINENESS} cells, the model's have "
            f"{config.patch_size} x {config.patch_size} pixels.",
            f"Use a model whose patch size is a multiple of {FINENESS}.",
        )


def encode_blocks(model: GAIR, images: Tensor, blocks: Sequence[int]) -> Tensor:
    """Return the features of several blocks, one after another in the channels.

    Args:
        model: The encoder, on the images' device.
        images: Shape (B, bands, H, W), normalised.
        blocks: Numbers of the blocks from 0.

    Returns:
        Shape (B, len(blocks) * width, H/p, W/p).
    """
    return torch.cat(model.encode_remote_sensing_blocks(images, blocks), dim=1)


class UPerNetHead(Head):
    """UPerNet on one scene, frozen encoder or not; classes at a quarter of a patch.

    Args:
        config: Its configuration.
        metadata: Its description.
    """

    kind = "upernet"
    config_class = UPerNetConfig

    config: UPerNetConfig

    def __init__(self, config: UPerNetConfig, metadata: HeadMetadata) -> None:
        super().__init__(config, metadata)
        self.decoder = UPerNetDecoder(self._width, config.channels)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(config.channels, len(metadata.classes), 1)

    @property
    def _width(self) -> int:
        """Channels of a block's features when they reach the decoder."""
        return self.config.embed_dim

    @property
    def subdivision(self) -> int:
        """Cells along the side of a patch, see `Head.subdivision`."""
        return FINENESS

    def encode(self, model: GAIR, images: Tensor) -> Tensor:
        """Return the features of the head's blocks, (B, 4 width, P_y, P_x), see `encode_blocks`."""
        return encode_blocks(model, images, self.config.blocks)

    def lattice(self, model: GAIR, features: Tensor, scene: int = 0) -> Tensor:
        """Return the logits of the cells, (B, classes * 16, P_y, P_x), see `Head.subdivision`."""
        del model, scene
        decoded = self.dropout(self.decoder(features.chunk(LEVELS, dim=1)))
        return F.pixel_unshuffle(self.classifier(decoded), FINENESS)

    def rim_weight(self, model: GAIR, scene: int = 0) -> Tensor | None:
        """Return None: there is no such term, see `Head.rim_weight`."""
        del model, scene
        return None

    def logits(self, sampled: Sequence[Tensor]) -> Tensor:
        """Return what was interpolated, see `Head.logits`."""
        return sampled[0]

    def check_fits(self, model: GAIR) -> None:
        """Check that the head's blocks are there, see `check_encoder`."""
        check_encoder(model, self.config.embed_dim, self.config.blocks)


class UPerNetChangeConfig(UPerNetConfig):
    """Sizes of a Siamese UPerNet head.

    Attributes:
        fusion: What becomes of the two dates' features before the decoder: ``difference``, after less before,
            or ``concatenation``; PANGAEA has both.
    """

    fusion: Literal["difference", "concatenation"] = "difference"


class UPerNetChangeHead(UPerNetHead):
    """Siamese UPerNet: one encoder for both dates, whose features meet before the decoder.

    Args:
        config: Its configuration.
        metadata: Its description.
    """

    kind = "upernet_change"
    scenes = 2
    merges = True
    config_class = UPerNetChangeConfig

    config: UPerNetChangeConfig

    def __init__(self, config: UPerNetChangeConfig, metadata: HeadMetadata) -> None:
        super().__init__(config, metadata)

    @property
    def _width(self) -> int:
        return self.config.embed_dim * (2 if self.config.fusion == "concatenation" else 1)

    def merge(
        self, features: Sequence[Tensor], days: Tensor | None = None, valid: Tensor | None = None
    ) -> Sequence[Tensor]:
        """Return the difference of both dates, or block by block both of them, see `Head.merge`."""
        del days, valid
        before, after = features
        if self.config.fusion == "difference":
            return [after - before]
        pairs = zip(before.chunk(LEVELS, dim=1), after.chunk(LEVELS, dim=1), strict=True)
        return [torch.cat([part for pair in pairs for part in pair], dim=1)]
