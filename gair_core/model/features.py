"""The scene encoder as a feature extractor with the interface of timm's ``features_only`` models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from timm.models import FeatureInfo
from torch import Tensor, nn

from gair_core.errors import BadInputError
from gair_core.model.remote_sensing import RemoteSensingEncoder, check_images


class SceneFeatures(nn.Module):
    """Feature maps of some blocks of a scene encoder, as decoders of other libraries read them.

    As with timm's vision transformers every map has the resolution of the patches; a decoder that wants a
    pyramid resamples them (`gair_core.heads.upernet` does). The weights are shared with the encoder, and
    blocks behind the last one that is asked for are left out, so that all parameters get gradients.

    Args:
        encoder: The scene encoder.
        out_indices: Numbers of the blocks, rising, negative ones from the end; or n for the last n blocks.

    Attributes:
        feature_info: timm's description of the maps: ``channels()``, ``reduction()``, ``module_name()``.

    Raises:
        BadInputError: There is no such block, or the numbers do not rise.
    """

    def __init__(self, encoder: RemoteSensingEncoder, out_indices: int | Sequence[int] = 4) -> None:
        super().__init__()
        self.out_indices = _resolve(out_indices, len(encoder.blocks))
        self.encoder = _first_blocks(encoder, self.out_indices[-1] + 1)
        width, patch = encoder.config.width, encoder.config.patch_size
        described = [
            {"num_chs": width, "reduction": patch, "module": f"encoder.blocks.{block}"}
            for block in range(self.out_indices[-1] + 1)
        ]
        self.feature_info = FeatureInfo(described, self.out_indices)
        self.train(encoder.training)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, the first block first.

        Args:
            images: Shape (B, C, H, W), values in [0, 1] (`gair_core.sentinel2.bands.normalize`), bands in the
                order of the encoder's configuration, H and W divisible by the patch size p.

        Returns:
            One tensor (B, width, H/p, W/p) a block. That of the encoder's last block has passed its final
            norm, which was trained on it.

        Raises:
            BadInputError: Another shape, band count or dtype.
        """
        check_images(images, self.encoder.config)
        return self.encoder.forward_blocks(images, self.out_indices)


def _resolve(indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Return the numbers of the blocks from 0.

    Raises:
        BadInputError: There is no such block, or the numbers do not rise.
    """
    if isinstance(indices, int):
        wanted = tuple(range(depth - indices, depth))
    else:
        wanted = tuple(depth + index if index < 0 else index for index in indices)
    rising = all(low < high for low, high in itertools.pairwise(wanted))
    if not wanted or not rising or wanted[0] < 0 or wanted[-1] >= depth:
        raise BadInputError(
            f"The scene encoder has the blocks 0 to {depth - 1}, asked for out_indices={indices}.",
            "Give rising numbers of blocks that there are, or how many of the last ones.",
        )
    return wanted


def _first_blocks(encoder: RemoteSensingEncoder, count: int) -> RemoteSensingEncoder:
    """Return an encoder of the first blocks of another one, with the same modules inside."""
    whole = count == len(encoder.blocks)
    changes = {"depth": count, "final_norm": whole and encoder.config.final_norm}
    with torch.device("meta"):
        part = RemoteSensingEncoder(encoder.config.model_copy(update=changes))
    part.patch_embed = encoder.patch_embed
    part.blocks = nn.ModuleList(encoder.blocks[:count])
    part.norm = encoder.norm if whole else nn.Identity()
    return part
