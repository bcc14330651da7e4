"""Weights to start from, what they do to the learning rate, and the schedule."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_patch_embed
from timm.models.vision_transformer import VisionTransformer

from gair_core import checkpoint
from gair_core.config import GAIRConfig
from gair_core.errors import CheckpointError
from gair_core.model.gair import GAIR
from gair_core.pretrain.config import InitializationConfig, OptimizerConfig
from gair_core.pretrain.initialization import initialize
from gair_core.pretrain.optimization import build_optimizer, rate_factor
from gair_core.yaml_config import merged
from tests.core.pretrain.runs import MODEL


def build(seed: int, **changes: object) -> GAIR:
    torch.manual_seed(seed)
    return GAIR(GAIRConfig.parse(merged(MODEL, changes)))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(build(1), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_all_parts_or_some_of_them_are_copied(saved: Path) -> None:
    source, model = build(1), build(2)
    names = initialize(model, [InitializationConfig(file=saved, parts=("remote_sensing", "location"))])
    for name, values in model.state_dict().items():
        same = torch.equal(values, source.state_dict()[name])
        if name.startswith(("remote_sensing.", "location.")):
            assert same
            assert name in names
        elif name.endswith("weight") and "norm" not in name:
            assert not same
            assert name not in names
    assert len(initialize(build(2), [InitializationConfig(file=saved)])) == len(source.state_dict()) - 1


def test_patches_of_another_size_are_resampled(saved: Path) -> None:
    model = build(2, remote_sensing={"patch_size": 12})
    initialize(model, [InitializationConfig(file=saved, parts=("remote_sensing",))])
    expected = resample_patch_embed(build(1).remote_sensing.patch_embed.proj.weight, [12, 12])
    torch.testing.assert_close(model.remote_sensing.patch_embed.proj.weight, expected)


def test_location_heads_of_another_width_start_anew(tmp_path: Path) -> None:
    torch.manual_seed(1)
    foreign = GAIRConfig.parse(
        {
            **MODEL,
            "embed_dim": 24,
            "remote_sensing": None,
            "nili": None,
            "street_view": None,
            "localizer": "bilinear",
        }
    )
    checkpoint.save(GAIR(foreign), tmp_path / "geoclip.safetensors")
    model = build(2)
    before = model.location.capsules[0].head.weight.clone()
    names = initialize(model, [InitializationConfig(file=tmp_path / "geoclip.safetensors")])
    assert torch.equal(model.location.capsules[0].head.weight, before)
    assert "location.capsules.0.head.weight" not in names
    loaded = checkpoint.load(tmp_path / "geoclip.safetensors")
    assert torch.equal(model.location.capsules[1].frequencies, loaded.location.capsules[1].frequencies)


def test_weights_of_timm_go_into_the_photo_encoder(tmp_path: Path) -> None:
    torch.manual_seed(3)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    model = build(2)
    names = initialize(model, [InitializationConfig(file=tmp_path / "vit.safetensors", kind="timm")])
    assert torch.equal(model.street_view.vit.blocks[1].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight)
    # Positions of 4 x 4 patches become those of 2 x 2.
    assert model.street_view.vit.pos_embed.shape == (1, 5, 16)
    torch.testing.assert_close(model.street_view.vit.pos_embed[:, 0], vit.pos_embed[:, 0])
    assert all(name.startswith("street_view.vit.") for name in names)


def test_what_does_not_fit_is_listed(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"unexpected remote_sensing\.blocks\.1"):
        initialize(build(2, remote_sensing={"depth": 1}), [InitializationConfig(file=saved)])
    with pytest.raises(
        CheckpointError, match=r"street_view\.vit\.blocks\.0\.mlp\.fc1\.weight \[64, 16\] \(wanted"
    ):
        initialize(build(2, street_view={"mlp_ratio": 2}), [InitializationConfig(file=saved)])
    with pytest.raises(CheckpointError, match="location is in both"):
        initialize(build(2, location=None), [InitializationConfig(file=saved, parts=("location",))])
    save_file({"blocks.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="lacks tensors of the photo encoder"):
        initialize(build(2), [InitializationConfig(file=tmp_path / "other.safetensors", kind="timm")])


def test_loaded_weights_learn_slowly_and_vectors_do_not_decay() -> None:
    model = build(0)
    loaded = {name for name, _ in model.named_parameters() if name.startswith("remote_sensing.")}
    optimizer = build_optimizer(model, OptimizerConfig(peak_rate=1.0, weight_decay=0.5), loaded)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen += 1
            assert group["peak"] == (0.1 if name in loaded else 1.0)
            assert group["weight_decay"] == (0.0 if name.endswith("bias") or "norm" in name else 0.5)
    # The temperature is fixed.
    assert seen == len(names) - 1


def test_the_rate_rises_linearly_and_falls_by_a_cosine() -> None:
    rates = [rate_factor(step, 100, 0.05) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1
    assert rates[52] == pytest.approx(0.5 * (1 + math.cos(math.pi * 47 / 95)))
    assert 0 < rates[99] < 1e-3
    assert rate_factor(0, 10, 0) == 1
