"""Weights to start from: our checkpoints and imports, and timm's ViT weights from a file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from gair_core.checkpoint import enumerate_names, load
from gair_core.errors import CheckpointError
from gair_core.importers.common import read_foreign, state_dict
from gair_core.model.gair import GAIR
from gair_core.pretrain.config import InitializationConfig

_PATCH_EMBED = "remote_sensing.patch_embed.proj.weight"
_VIT = "street_view.vit."


def initialize(model: GAIR, sources: Sequence[InitializationConfig]) -> frozenset[str]:
    """Copy weights into a model.

    Args:
        model: The model.
        sources: Files, in order.

    Returns:
        Names of the tensors that were copied, which learn more slowly than new ones.

    Raises:
        CheckpointError: A file cannot be read, lacks a part, or its tensors do not fit (all are listed).
    """
    copied: set[str] = set()
    for source in sources:
        tensors = _from_timm(model, source) if source.kind == "timm" else _from_gair(model, source)
        own = model.state_dict()
        wrong = [
            f"{name} {list(values.shape)} (wanted {list(own[name].shape)})"
            for name, values in tensors.items()
            if own[name].shape != values.shape
        ]
        if wrong:
            raise CheckpointError(
                f"The weights of {source.file} do not fit the model: {enumerate_names(wrong)}.",
                "Give the model the sizes of these weights, or take fewer parts.",
            )
        with torch.no_grad():
            for name, values in tensors.items():
                own[name].copy_(values)
        copied |= tensors.keys()
    return frozenset(copied)


def _from_gair(model: GAIR, source: InitializationConfig) -> dict[str, Tensor]:
    other = load(source.file)
    parts: tuple[str, ...] = source.parts or tuple(part for part in other.parts if part in model.parts)
    absent = [part for part in parts if part not in other.parts or part not in model.parts]
    if absent or not parts:
        raise CheckpointError(
            f"{source.file} holds {', '.join(other.parts)} and the model {', '.join(model.parts)}; "
            f"{', '.join(absent) or 'no part'} is in both.",
            "Take parts that both have.",
        )
    prefixes = tuple(f"{part}." for part in parts)
    if "street_view" in parts:
        prefixes += ("street_view_projection.",)
    tensors = {name: values for name, values in other.state_dict().items() if name.startswith(prefixes)}
    own = model.state_dict()
    missing = [name for name in own if name.startswith(prefixes) and name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    if missing or unexpected:
        raise CheckpointError(
            f"The weights of {source.file} do not fit the model: missing "
            f"{enumerate_names(missing) or 'none'}; unexpected {enumerate_names(unexpected) or 'none'}.",
            "Give the model the depth, norms and projection of these weights.",
        )
    if _PATCH_EMBED in tensors:
        size = [int(side) for side in own[_PATCH_EMBED].shape[2:]]
        tensors[_PATCH_EMBED] = resample_patch_embed(tensors[_PATCH_EMBED], size)
    return {
        name: values
        for name, values in tensors.items()
        # GeoCLIP's heads end in its own space of 512 dimensions; ours then start anew.
        if not (_is_location_head(name) and values.shape != own[name].shape)
    }


def _is_location_head(name: str) -> bool:
    return name.startswith("location.capsules.") and ".head." in name


def _from_timm(model: GAIR, source: InitializationConfig) -> dict[str, Tensor]:
    if model.street_view is None or source.parts not in ((), ("street_view",)):
        raise CheckpointError(f"{source.file} has timm's weights, which fit the part street_view alone.")
    foreign, _ = state_dict(read_foreign(source.file), source.file)
    vit = model.street_view.vit
    own = vit.state_dict()
    # Position embeddings and patches of another size are resampled as timm does it.
    found = checkpoint_filter_fn(dict(foreign), vit)
    missing = [name for name in own if name not in found]
    if missing:
        raise CheckpointError(
            f"{source.file} lacks tensors of the photo encoder: {enumerate_names(missing)}.",
            "Give weights of a plain ViT of this depth with a class token, such as vit_base_patch16_224.",
        )
    return {f"{_VIT}{name}": found[name] for name in own}
