"""Heads for a series of dates of one place: what changes with the seasons tells crops and trees apart.

Every date goes through the encoder by itself. Its patch features are then aggregated over the dates, patch
by patch, and decoded as those of one scene: by UPerNet, as PANGAEA does (Marsocci et al. 2024), where the
four blocks share what aggregates them, or by a linear classifier on the last block.

Two ways to aggregate: a weight a date, learnt, or L-TAE (Garnot and Landrieu 2020, "Lightweight Temporal
Attention Encoder for Satellite Image Time Series"), which looks at what there is to see and when. L-TAE is
written here because torchgeo's masks whole dates at most, while a cloud hides a date at some patches alone,
and because all of torchgeo would come along with a method of one page.

A date without data at a patch is left out there, not taken for zero. A patch that no date covers by half is
aggregated from whatever there is of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from gair_core.errors import BadInputError
from gair_core.heads.base import Head, HeadConfig, HeadMetadata
from gair_core.heads.upernet import (
    FINENESS,
    LEVELS,
    UPerNetDecoder,
    check_blocks,
    check_encoder,
    encode_blocks,
)
from gair_core.model.gair import GAIR

# Longest wavelength of the encoding of dates is 2 pi times this, in days; the paper's tau.
_PERIOD = 1000.0


class SeriesConfig(HeadConfig):
    """Sizes of a head for series.

    Attributes:
        embed_dim: Width of the encoder's tokens; embeddings are not read.
        decoder: What follows the aggregation: ``upernet`` on four blocks, or ``linear`` on the last one.
        blocks: Blocks that UPerNet reads, see `gair_core.heads.upernet.UPerNetConfig`; a linear decoder reads
            what `encode_remote_sensing` returns.
        channels: Channels of every level inside UPerNet.
        dropout: Share of the channels before the classifier that training drops.
    """

    decoder: Literal["upernet", "linear"] = "upernet"
    blocks: tuple[int, ...] = (3, 5, 7, 11)
    channels: int = Field(256, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _four_rising_blocks(self) -> Self:
        check_blocks(self.blocks)
        return self


class SeriesHead(Head):
    """A head for series, see the module's description; kinds differ in how they aggregate.

    Args:
        config: Its configuration.
        metadata: Its description.
    """

    scenes = None
    merges = True

    config: SeriesConfig

    def __init__(self, config: SeriesConfig, metadata: HeadMetadata) -> None:
        super().__init__(config, metadata)
        width = config.embed_dim
        self.decoder = UPerNetDecoder(width, config.channels) if self._fine else nn.Identity()
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(config.channels if self._fine else width, len(metadata.classes), 1)

    @property
    def _fine(self) -> bool:
        return self.config.decoder == "upernet"

    @property
    def subdivision(self) -> int:
        """Cells along the side of a patch: 4 with UPerNet, else 1; see `Head.subdivision`."""
        return FINENESS if self._fine else 1

    @abstractmethod
    def aggregate(self, features: Tensor, days: Tensor | None, present: Tensor) -> Tensor:
        """Make one of the features of all dates, patch by patch.

        Args:
            features: Shape (B, T, width, P_y, P_x).
            days: Day of the year of each date, shape (B, T); None where nobody knows.
            present: Whether a date counts at a patch, bool, shape (B, T, P_y, P_x).

        Returns:
            Shape (B, width, P_y, P_x); 0 where no date counts.
        """

    def encode(self, model: GAIR, images: Tensor) -> Tensor:
        """Return one date's features, those of four blocks one after another for UPerNet."""
        return (
            encode_blocks(model, images, self.config.blocks) if self._fine else super().encode(model, images)
        )

    def merge(
        self, features: Sequence[Tensor], days: Tensor | None = None, valid: Tensor | None = None
    ) -> Sequence[Tensor]:
        """Aggregate the dates, see `Head.merge`; the blocks share what does it."""
        series = torch.stack(list(features), dim=1)
        present = _present(series, valid)
        blocks = series.chunk(LEVELS if self._fine else 1, dim=2)
        return [torch.cat([self.aggregate(block, days, present) for block in blocks], dim=1)]

    def lattice(self, model: GAIR, features: Tensor, scene: int = 0) -> Tensor:
        """Return the logits of patches, or of their 4 x 4 cells, from aggregated features."""
        del model, scene
        decoded = self.decoder(features.chunk(LEVELS, dim=1)) if self._fine else features
        return F.pixel_unshuffle(self.classifier(self.dropout(decoded)), self.subdivision)

    def rim_weight(self, model: GAIR, scene: int = 0) -> Tensor | None:
        """Return None: there is no such term, see `Head.rim_weight`."""
        del model, scene
        return None

    def logits(self, sampled: Sequence[Tensor]) -> Tensor:
        """Return what was interpolated, see `Head.logits`."""
        return sampled[0]

    def check_fits(self, model: GAIR) -> None:
        """Check that a model has the features that this head reads.

        Raises:
            BadInputError: It has not.
            CheckpointError: It has no scene encoder.
        """
        if self._fine:
            check_encoder(model, self.config.embed_dim, self.config.blocks)
            return
        width = model.require_remote_sensing().config.width
        if width != self.config.embed_dim:
            raise BadInputError(
                f"The head reads features of {self.config.embed_dim} channels, the model's have {width}.",
                "Use the model that the head was trained on.",
            )


def _present(series: Tensor, valid: Tensor | None) -> Tensor:
    """Return which dates count at each patch: those that cover half of it, else those that touch it.

    Args:
        series: Shape (B, T, C, P_y, P_x).
        valid: Share of a patch's pixels with data, shape (B, T, P_y, P_x), or None for 1.
    """
    if valid is None:
        return torch.ones_like(series[:, :, 0], dtype=torch.bool)
    half = valid >= 0.5
    return torch.where(half.any(dim=1, keepdim=True), half, valid > 0)


class SeriesLinearConfig(SeriesConfig):
    """Sizes of a linear aggregation.

    Attributes:
        dates: Number of dates T of the series that it was trained on.
    """

    dates: int = Field(gt=1)


class SeriesLinearHead(SeriesHead):
    """Features sum_t w_t f_t, a learnt weight a date, in the order of the dates (PANGAEA's ``linear``).

    It knows the order of the dates and not when they were. A date that is missing at a patch is replaced by
    the mean of the others there. The sum has no bias of its own, since what follows has one.

    Args:
        config: Its configuration.
        metadata: Its description.
    """

    kind = "series_linear"
    config_class = SeriesLinearConfig

    config: SeriesLinearConfig

    def __init__(self, config: SeriesLinearConfig, metadata: HeadMetadata) -> None:
        super().__init__(config, metadata)
        #: w, shape (T,); the mean at first.
        self.weight = nn.Parameter(torch.full((config.dates,), 1 / config.dates))

    def check_scenes(self, count: int) -> None:
        """Check that there are as many dates as in training, see `Head.check_scenes`."""
        super().check_scenes(count)
        if count != self.config.dates:
            raise BadInputError(
                f"The head {self.metadata.name} gives each of {self.config.dates} dates its own weight; "
                f"found {count} dates.",
                f"Give {self.config.dates} dates at about the times of its training, or a head with L-TAE.",
            )

    def aggregate(self, features: Tensor, days: Tensor | None, present: Tensor) -> Tensor:
        """Return the weighted sum, see `SeriesHead.aggregate`; dates that pad the end may be left out."""
        del days
        count = features.shape[1]
        if count > self.config.dates:
            raise BadInputError(f"The head aggregates {self.config.dates} dates, found {count}.")
        there = present[:, :, None].to(features.dtype)
        known = features * there
        mean = known.sum(dim=1) / there.sum(dim=1).clamp(min=1)
        used = self.weight[:count].to(features.dtype)[:, None, None, None] * there
        missing = self.weight.sum().to(features.dtype) - used.sum(dim=1)
        return (used * known).sum(dim=1) + missing * mean


class SeriesLTAEConfig(SeriesConfig):
    """Sizes of L-TAE.

    Attributes:
        attention_heads: Heads; each looks at its own group of the channels. It must divide the width.
        key_dim: Dimension of keys and queries.
        attention_dropout: Share of the attention that training drops.
        aggregate_dropout: Share of the aggregated channels that training drops.
    """

    attention_heads: int = Field(16, gt=0)
    key_dim: int = Field(4, gt=0)
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    aggregate_dropout: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.embed_dim % self.attention_heads:
            raise ValueError(
                f"attention_heads {self.attention_heads} does not divide the width {self.embed_dim}"
            )
        return self


class SeriesLTAEHead(SeriesHead):
    """Features aggregated by L-TAE, which is told the day of the year of each date.

    Args:
        config: Its configuration.
        metadata: Its description.
    """

    kind = "series_ltae"
    config_class = SeriesLTAEConfig

    config: SeriesLTAEConfig

    def __init__(self, config: SeriesLTAEConfig, metadata: HeadMetadata) -> None:
        super().__init__(config, metadata)
        self.attention = LTAE(
            config.embed_dim,
            config.attention_heads,
            config.key_dim,
            attention_dropout=config.attention_dropout,
            dropout=config.aggregate_dropout,
        )

    def aggregate(self, features: Tensor, days: Tensor | None, present: Tensor) -> Tensor:
        """Return what L-TAE makes of the dates, see `SeriesHead.aggregate`."""
        if days is None:
            raise BadInputError("L-TAE needs the day of the year of each date, found none.")
        batch, _, width, rows, columns = features.shape
        tokens = features.permute(0, 3, 4, 1, 2).flatten(0, 2)
        mask = present.permute(0, 2, 3, 1).flatten(0, 2)
        when = days.to(features.device).repeat_interleave(rows * columns, dim=0)
        aggregated: Tensor = self.attention(tokens, when, mask)
        empty = ~present.any(dim=1)[:, None]
        return aggregated.reshape(batch, rows, columns, width).permute(0, 3, 1, 2).masked_fill(empty, 0)


class LTAE(nn.Module):
    """Lightweight temporal attention (Garnot and Landrieu 2020, section 3.1).

    Each head has one learnt query for all series and its own group of the channels as values, so that there
    are neither queries nor values to compute. The input is normalised date by date, so that a masked date has
    no part in anything.

    Args:
        width: Channels E.
        heads: Number of heads H, a divisor of the width.
        key_dim: Dimension K of keys and queries.
        attention_dropout: Share of the attention that training drops.
        dropout: Share of the output's channels that training drops.
    """

    def __init__(
        self, width: int, heads: int, key_dim: int, *, attention_dropout: float, dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.key_dim = key_dim
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(heads, key_dim) * (2 / key_dim) ** 0.5)
        self.key = nn.Linear(width, heads * key_dim)
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.mix = nn.Sequential(
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.LayerNorm(width),
        )
        nn.init.normal_(self.key.weight, std=width**-0.5)

    def forward(self, tokens: Tensor, days: Tensor, present: Tensor) -> Tensor:
        """Aggregate series.

        Args:
            tokens: Shape (N, T, E).
            days: Day of the year of each date, shape (N, T).
            present: Which dates count, bool, shape (N, T).

        Returns:
            Shape (N, E); meaningless where no date counts.
        """
        normal: Tensor = self.norm(tokens)
        dated = normal + self._positions(days).to(normal)
        keys = self.key(dated).unflatten(-1, (self.heads, self.key_dim))
        scores = torch.einsum("nthk,hk->nht", keys, self.query.to(keys)) / self.key_dim**0.5
        # The lowest finite number instead of minus infinity: a series without dates stays free of NaN.
        scores = scores.float().masked_fill(~present[:, None], torch.finfo(torch.float32).min)
        attention = self.attention_dropout(scores.softmax(dim=-1)).to(dated)
        groups = dated.unflatten(-1, (self.heads, -1))
        seen = torch.einsum("nht,nthc->nhc", attention, groups).flatten(1)
        mixed: Tensor = self.mix(seen)
        return mixed

    def _positions(self, days: Tensor) -> Tensor:
        """Return sines and cosines of the days, the same for every group of channels, (N, T, E)."""
        size = self.norm.normalized_shape[0] // self.heads
        index = torch.arange(size, device=days.device)
        angle = days.float()[..., None] / _PERIOD ** (2 * (index // 2) / size)
        waves: Tensor = torch.where(index % 2 == 0, angle.sin(), angle.cos())
        return waves.repeat(1, 1, self.heads)
