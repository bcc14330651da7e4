"""Import CROMA's optical encoder: twelve bands become our ten, and nothing of what it learned is lost."""

from __future__ import annotations

import math
from pathlib import Path

from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor

from gair_core.config import GAIRConfig, RemoteSensingConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.importers.common import ImportReport, TensorMapping, build_model, read_foreign, state_dict
from gair_core.importers.official import map_croma_encoder
from gair_core.model.gair import GAIR
from gair_core.sentinel2.bands import BANDS

#: The bands that CROMA sees, in its order.
CROMA_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
#: What a band at its mean becomes when mean - 2 std ... mean + 2 std is mapped to [0, 1].
NORMALISED_MEAN = 0.5
_ENTRY = "s2_encoder"
_BASE_WIDTH, _BASE_HEADS = 768, 16
_KEPT = [CROMA_BANDS.index(band) for band in BANDS]
_DROPPED = [index for index in range(len(CROMA_BANDS)) if index not in _KEPT]


def import_croma(
    path: Path,
    *,
    num_heads: int | None = None,
    patch_size: int | None = None,
    final_norm: bool | None = None,
) -> tuple[GAIR, ImportReport]:
    """Read a CROMA checkpoint as a model that has a scene encoder alone, with the bilinear localizer.

    Args:
        path: A dict with the entry ``s2_encoder``.
        num_heads: Attention heads, which no tensor tells; 16 for the width 768 when None.
        patch_size: Resample the patch embedding to this side, pixels; the file's own when None.
        final_norm: Whether the LayerNorm ``norm_out`` follows the last block; when the file has it if None.

    Returns:
        The model in evaluation mode, and what became of every tensor.

    Raises:
        BadInputError: The number of heads is unknown or impossible.
        CheckpointError: The file is no such checkpoint; missing and mis-shaped tensors are listed.
    """
    mapping = TensorMapping(*state_dict(read_foreign(path), path, _ENTRY))
    has_norm = "transformer.norm_out.weight" in mapping
    if final_norm and not has_norm:
        raise CheckpointError(
            f"{path} has no transformer.norm_out, which the final norm needs.", "Leave the final norm out."
        )
    native_patch = _patch_size(mapping, path)
    config = _configuration(
        mapping, num_heads, patch_size or native_patch, has_norm if final_norm is None else final_norm
    )
    scenes = config.remote_sensing or RemoteSensingConfig()
    _map_patch_embedding(mapping, native_patch, scenes.patch_size)
    map_croma_encoder(mapping, "", scenes.depth, scenes.final_norm)
    mapping.ignore("transformer.norm_out", "the final norm is off")
    model = build_model(config, mapping, path)
    dropped = " and ".join(CROMA_BANDS[index] for index in _DROPPED)
    notes = [
        f"{dropped} are folded into the bias at their mean",
        f"the final norm is {'on' if scenes.final_norm else 'off'}"
        + ("" if has_norm else ", the file has none"),
    ]
    if scenes.patch_size != native_patch:
        notes.append(f"the patch embedding is resampled from {native_patch} to {scenes.patch_size} pixels")
    return model, mapping.report("croma", path, notes)


def fold_bias(bias: Tensor, weight: Tensor) -> Tensor:
    """Add what the dropped bands contribute when they sit at their mean.

    Args:
        bias: Bias of the patch embedding, shape (width,).
        weight: Its weight, shape (width, 12 * patch * patch), columns ordered (band, row, column).

    Returns:
        The bias of the ten-band patch embedding, shape (width,).
    """
    bands = weight.double().reshape(len(weight), len(CROMA_BANDS), -1)
    return (bias.double() + NORMALISED_MEAN * bands[:, _DROPPED].sum(dim=(1, 2))).float()


def select_bands(weight: Tensor, native_patch: int, patch_size: int) -> Tensor:
    """Return the kernel of the ten bands.

    Args:
        weight: As in `fold_bias`.
        native_patch: Side of a patch in the file, pixels.
        patch_size: Side of a patch that is wanted, pixels.

    Returns:
        Shape (width, 10, patch_size, patch_size).
    """
    kernel = weight.reshape(len(weight), len(CROMA_BANDS), native_patch, native_patch)[:, _KEPT]
    resampled: Tensor = resample_patch_embed(kernel, [patch_size, patch_size])
    return resampled


def _map_patch_embedding(mapping: TensorMapping, native_patch: int, patch_size: int) -> None:
    target = "remote_sensing.patch_embed.proj"
    mapping.add(
        f"{target}.weight",
        "linear_input.weight",
        combine=lambda weight: select_bands(weight, native_patch, patch_size),
    )
    mapping.add(f"{target}.bias", "linear_input.bias", "linear_input.weight", combine=fold_bias)


def _patch_size(mapping: TensorMapping, path: Path) -> int:
    columns = mapping.shape("linear_input.weight")[-1]
    patch = math.isqrt(columns // len(CROMA_BANDS))
    if patch == 0 or columns != len(CROMA_BANDS) * patch * patch:
        raise CheckpointError(
            f"{path} has patches of {columns} values, wanted {len(CROMA_BANDS)} bands times a square.",
            "Check that this is CROMA's optical encoder.",
        )
    return patch


def _configuration(
    mapping: TensorMapping, num_heads: int | None, patch_size: int, final_norm: bool
) -> GAIRConfig:
    width = mapping.shape("linear_input.weight")[0]
    if num_heads is None and width != _BASE_WIDTH:
        raise BadInputError(
            f"The encoder is {width} wide, and no tensor tells its number of attention heads.",
            "Give it: --num-heads 16 for CROMA large.",
        )
    scenes = {
        "width": width,
        "depth": mapping.count("transformer.layers.{}.0.to_qkv.weight"),
        "num_heads": num_heads or _BASE_HEADS,
        "mlp_ratio": mapping.shape("transformer.layers.0.1.net.0.weight")[0] / width,
        "patch_size": patch_size,
        "final_norm": final_norm,
    }
    return GAIRConfig.parse(
        {
            "embed_dim": width,
            "remote_sensing": scenes,
            "street_view": None,
            "location": None,
            "nili": None,
            "localizer": "bilinear",
        }
    )
