"""`create_feature_extractor`: the scene encoder of any checkpoint for other libraries."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gair_core import checkpoint
from gair_core.head_checkpoint import is_head, load_head
from gair_core.model.features import SceneFeatures
from gair_core.model.gair import GAIR


def create_feature_extractor(
    model: GAIR | str | os.PathLike[str], out_indices: int | Sequence[int] = 4
) -> SceneFeatures:
    """Return the scene encoder with the interface of timm's ``features_only=True`` models.

    Args:
        model: A model, whose weights are shared; or a checkpoint or registered name. Of a head for maps it is
            the encoder that the head was trained on or with.
        out_indices: Numbers of the blocks, rising, negative ones from the end; or n for the last n blocks.

    Returns:
        From normalised images (B, C, H, W) to one map (B, width, H/p, W/p) a block.

    Raises:
        BadInputError: There is no such block, or the numbers do not rise.
        CheckpointError: There is no such file or model, or it has no scene encoder.
    """
    if not isinstance(model, GAIR):
        model = load_head(model)[1] if is_head(model) else checkpoint.load(model)
    return SceneFeatures(model.require_remote_sensing(), out_indices)
