"""Import the authors' checkpoint: CROMA's optical ViT, a Hugging Face ViT, GeoCLIP's capsules and H."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gair_core.config import GAIRConfig, LocationConfig, NILIConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import CheckpointError
from gair_core.importers.common import ImportReport, TensorMapping, build_model, read_foreign, state_dict
from gair_core.model.gair import GAIR

# Ground sampling distance of the scenes that the authors publish: web-mercator zoom-14 tiles at 96 pixels.
GSD = 20.0
_SCENES = "rs_encoder.s2_encoder"
_NORM_OUT = f"{_SCENES}.transformer.norm_out"
_LOCATIONS = "location_encoder"


def import_official(path: Path, final_norm: bool | None = None) -> tuple[GAIR, ImportReport]:
    """Read the authors' checkpoint.

    Args:
        path: The .pth file.
        final_norm: Whether the LayerNorm ``norm_out`` follows the scene encoder's last block: None applies it
            when the file has it; True without it in the file is an error.

    Returns:
        The model in evaluation mode, and what became of every tensor.

    Raises:
        CheckpointError: The file is not that checkpoint; missing and mis-shaped tensors are listed.
    """
    mapping = TensorMapping(*state_dict(read_foreign(path), path))
    has_norm = f"{_NORM_OUT}.weight" in mapping
    if final_norm and not has_norm:
        raise CheckpointError(
            f"{path} has no {_NORM_OUT}, which the final norm needs.", "Import it without --final-norm."
        )
    config = _configuration(mapping, has_norm if final_norm is None else final_norm)
    _map_remote_sensing(mapping, config)
    _map_street_view(mapping, config)
    _map_location(mapping, config)
    mapping.add_module("nili.layers.0", "imnet")
    mapping.add_module("street_view_projection", "optical_proj")
    # The authors store log(1 / temperature); some tools write a scalar with one dimension.
    mapping.add("log_temperature", "logit_scale", combine=lambda scale: -scale.reshape(()))
    _explain_the_rest(mapping)

    model = build_model(config, mapping, path)
    applied = "on" if f"{_NORM_OUT}.weight" in mapping and final_norm is not False else "off"
    notes = [
        f"scenes are expected at {GSD:g} m, quantised to 8 bits",
        f"the final norm is {applied}" + ("" if has_norm else " (the file has none)"),
    ]
    return model, mapping.report("official", path, notes)


def _configuration(mapping: TensorMapping, final_norm: bool) -> GAIRConfig:
    """Read the sizes off the tensors; what they cannot tell is the authors' base model."""
    width = mapping.shape(f"{_SCENES}.linear_input.weight")[0]
    photo_width = mapping.shape("sv_encoder.embeddings.cls_token")[-1]
    tokens = mapping.shape("sv_encoder.embeddings.position_embeddings")[1] - 1
    patch = mapping.shape("sv_encoder.embeddings.patch_embeddings.projection.weight")[-1]
    hidden, fourier = mapping.shape(f"{_LOCATIONS}.LocEnc0.capsule.1.weight")
    return GAIRConfig(
        embed_dim=mapping.shape("imnet.weight")[0],
        remote_sensing=RemoteSensingConfig(
            width=width,
            depth=_count(mapping, f"{_SCENES}.transformer.layers.{{}}.0.to_qkv.weight"),
            final_norm=final_norm,
            quantize=True,
            gsd=GSD,
        ),
        street_view=StreetViewConfig(
            image_size=round(tokens**0.5) * patch,
            patch_size=patch,
            width=photo_width,
            depth=_count(mapping, "sv_encoder.encoder.layer.{}.layernorm_before.weight"),
            pooling="pooler",
            norm_eps=1e-12,
            projection=True,
            antialias=False,
        ),
        location=LocationConfig(num_frequencies=fourier // 2, hidden_width=hidden),
        nili=NILIConfig(),
    )


def _count(mapping: TensorMapping, pattern: str) -> int:
    count = 0
    while pattern.format(count) in mapping:
        count += 1
    return max(count, 1)


def map_croma_encoder(mapping: TensorMapping, prefix: str, depth: int, final_norm: bool) -> None:
    """Map the blocks of CROMA's optical encoder, everything but its patch embedding.

    Args:
        mapping: Receives the names.
        prefix: Name before ``transformer`` in the foreign file, with its dot, or empty.
        depth: Number of blocks.
        final_norm: Whether ``norm_out`` is used.
    """
    for index in range(depth):
        block, layer = f"remote_sensing.blocks.{index}", f"{prefix}transformer.layers.{index}"
        mapping.add_module(f"{block}.norm1", f"{layer}.0.input_norm")
        mapping.add_module(f"{block}.attn.qkv", f"{layer}.0.to_qkv", bias=False)
        mapping.add_module(f"{block}.attn.proj", f"{layer}.0.to_out")
        mapping.add_module(f"{block}.norm2", f"{layer}.1.input_norm")
        mapping.add_module(f"{block}.mlp.fc1", f"{layer}.1.net.0")
        mapping.add_module(f"{block}.mlp.fc2", f"{layer}.1.net.3")
    if final_norm:
        mapping.add_module("remote_sensing.norm", f"{prefix}transformer.norm_out")


def _map_remote_sensing(mapping: TensorMapping, config: GAIRConfig) -> None:
    scenes = config.remote_sensing
    if scenes is None:
        return
    channels, patch = len(scenes.bands), scenes.patch_size
    mapping.add(
        "remote_sensing.patch_embed.proj.weight",
        f"{_SCENES}.linear_input.weight",
        # Rows of the Linear are ordered (c, i, j), as a convolution's kernel is.
        combine=lambda weight: weight.reshape(-1, channels, patch, patch),
    )
    mapping.add("remote_sensing.patch_embed.proj.bias", f"{_SCENES}.linear_input.bias")
    map_croma_encoder(mapping, f"{_SCENES}.", scenes.depth, scenes.final_norm)


def _map_street_view(mapping: TensorMapping, config: GAIRConfig) -> None:
    vit, foreign = "street_view.vit", "sv_encoder"
    mapping.add(f"{vit}.cls_token", f"{foreign}.embeddings.cls_token")
    mapping.add(f"{vit}.pos_embed", f"{foreign}.embeddings.position_embeddings")
    mapping.add_module(f"{vit}.patch_embed.proj", f"{foreign}.embeddings.patch_embeddings.projection")
    for index in range(config.street_view.depth if config.street_view else 0):
        block, layer = f"{vit}.blocks.{index}", f"{foreign}.encoder.layer.{index}"
        mapping.add_module(f"{block}.norm1", f"{layer}.layernorm_before")
        for leaf in ("weight", "bias"):
            parts = [f"{layer}.attention.attention.{name}.{leaf}" for name in ("query", "key", "value")]
            mapping.add(f"{block}.attn.qkv.{leaf}", *parts, combine=_concatenate)
        mapping.add_module(f"{block}.attn.proj", f"{layer}.attention.output.dense")
        mapping.add_module(f"{block}.norm2", f"{layer}.layernorm_after")
        mapping.add_module(f"{block}.mlp.fc1", f"{layer}.intermediate.dense")
        mapping.add_module(f"{block}.mlp.fc2", f"{layer}.output.dense")
    mapping.add_module(f"{vit}.norm", f"{foreign}.layernorm")
    mapping.add_module("street_view.pooler", f"{foreign}.pooler.dense")


def _concatenate(*tensors: Tensor) -> Tensor:
    return torch.cat(tensors)


def _map_location(mapping: TensorMapping, config: GAIRConfig) -> None:
    places = config.location
    for index in range(len(places.sigmas) if places else 0):
        capsule, foreign = f"location.capsules.{index}", f"{_LOCATIONS}.LocEnc{index}"
        mapping.add(f"{capsule}.frequencies", f"{foreign}.capsule.0.b")
        for layer in range(places.hidden_layers if places else 0):
            # Both are Sequentials of Linear and ReLU; theirs begins with the Fourier features.
            mapping.add_module(f"{capsule}.layers.{2 * layer}", f"{foreign}.capsule.{2 * layer + 1}")
        mapping.add_module(f"{capsule}.head", f"{foreign}.head.0")


def _explain_the_rest(mapping: TensorMapping) -> None:
    for prefix, reason in (
        (_NORM_OUT, "the final norm is off"),
        ("rs_encoder.layer_norm", "not used by the public inference code"),
        ("rs_encoder.head", "not used by the public inference code"),
        ("nerf_fn", "not used by the public inference code"),
        ("query_feature", "not used by the public inference code"),
        ("rs_patch_pos_encoding", "not used by the public inference code"),
        ("radar_proj", "a projection that the public inference code never applies"),
        ("location_proj", "a projection that the public inference code never applies"),
        ("queue_", "the memory bank of the training"),
        ("teacher", "a teacher network of the training"),
        ("momentum", "a teacher network of the training"),
    ):
        mapping.ignore(prefix, reason)
