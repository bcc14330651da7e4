"""CROMA's optical encoder: what the ten-band import gives beside the twelve-band original."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gair_core.config import RemoteSensingConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.importers.croma import CROMA_BANDS, import_croma
from gair_core.model.remote_sensing import RemoteSensingEncoder

WIDTH, DEPTH, HEADS = 64, 2, 4
KEPT = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11]


def croma_weights(width=WIDTH, depth=DEPTH, norm=True, patch=8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator) / math.sqrt(
            math.prod(shape[1:]) if len(shape) > 1 else 20
        )

    tensors = {"linear_input.weight": draw(width, 12 * patch * patch), "linear_input.bias": draw(width)}
    for index in range(depth):
        layer = f"transformer.layers.{index}"
        tensors |= {
            f"{layer}.0.to_qkv.weight": draw(3 * width, width),
            f"{layer}.0.to_out.weight": draw(width, width),
            f"{layer}.0.to_out.bias": draw(width),
            f"{layer}.0.input_norm.weight": 1 + draw(width),
            f"{layer}.0.input_norm.bias": draw(width),
            f"{layer}.1.net.0.weight": draw(4 * width, width),
            f"{layer}.1.net.0.bias": draw(4 * width),
            f"{layer}.1.net.3.weight": draw(width, 4 * width),
            f"{layer}.1.net.3.bias": draw(width),
            f"{layer}.1.input_norm.weight": 1 + draw(width),
            f"{layer}.1.input_norm.bias": draw(width),
        }
    if norm:
        tensors |= {"transformer.norm_out.weight": 1 + draw(width), "transformer.norm_out.bias": draw(width)}
    return tensors


def write(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    others = {
        "s1_encoder": {"linear_input.weight": torch.zeros(3)},
        "s2_GAP_FFN": {"0.weight": torch.zeros(3)},
    }
    torch.save({**others, "s2_encoder": weights}, path)
    return path


def twelve_band_encoder(weights: dict[str, torch.Tensor], heads=HEADS) -> RemoteSensingEncoder:
    """The original, loaded by hand: an encoder of twelve bands that nothing was folded into."""
    width = weights["linear_input.bias"].numel()
    config = RemoteSensingConfig(
        bands=CROMA_BANDS, mean=(1.0,) * 12, std=(1.0,) * 12, width=width, depth=DEPTH, num_heads=heads
    )
    encoder = RemoteSensingEncoder(config).eval()
    renamed = {}
    for name, tensor in weights.items():
        if name == "linear_input.weight":
            renamed["patch_embed.proj.weight"] = tensor.reshape(width, 12, 8, 8)
        elif name == "linear_input.bias":
            renamed["patch_embed.proj.bias"] = tensor
        elif name.startswith("transformer.norm_out"):
            renamed[name.replace("transformer.norm_out", "norm")] = tensor
        else:
            _, _, block, half, leaf = name.split(".", 4)
            ours = {
                ("0", "to_qkv.weight"): "attn.qkv.weight",
                ("0", "to_out.weight"): "attn.proj.weight",
                ("0", "to_out.bias"): "attn.proj.bias",
                ("0", "input_norm.weight"): "norm1.weight",
                ("0", "input_norm.bias"): "norm1.bias",
                ("1", "input_norm.weight"): "norm2.weight",
                ("1", "input_norm.bias"): "norm2.bias",
                ("1", "net.0.weight"): "mlp.fc1.weight",
                ("1", "net.0.bias"): "mlp.fc1.bias",
                ("1", "net.3.weight"): "mlp.fc2.weight",
                ("1", "net.3.bias"): "mlp.fc2.bias",
            }
            renamed[f"blocks.{block}.{ours[half, leaf]}"] = tensor
    encoder.load_state_dict(renamed, strict=True)
    return encoder


def test_ten_bands_give_what_twelve_give_with_the_dropped_ones_at_their_mean(tmp_path):
    weights = croma_weights()
    model, report = import_croma(write(tmp_path / "croma.pt", weights), num_heads=HEADS)
    twelve = torch.rand((2, 12, 64, 96), generator=torch.Generator().manual_seed(1))
    twelve[:, [0, 9]] = 0.5
    with torch.inference_mode():
        wanted = twelve_band_encoder(weights)(twelve)
        found = model.encode_remote_sensing(twelve[:, KEPT])
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, wanted.flip(-1), atol=1e-2)
    assert model.parts == ("remote_sensing",)
    assert (model.config.localizer, model.config.embed_dim) == ("bilinear", WIDTH)
    assert model.config.remote_sensing.gsd == 10
    assert model.config.remote_sensing.depth == DEPTH
    assert {"s1_encoder", "s2_GAP_FFN"} == {record.name for record in report.of("ignored")}
    assert {record.name for record in report.of("used")} == set(weights)


def test_the_bands_are_ours_in_our_order():
    assert tuple(CROMA_BANDS[index] for index in KEPT) == RemoteSensingConfig().bands


def test_a_file_without_norm_out_has_no_final_norm(tmp_path):
    path = write(tmp_path / "croma.pt", croma_weights(norm=False))
    model, _ = import_croma(path, num_heads=HEADS)
    assert not model.config.remote_sensing.final_norm
    with pytest.raises(CheckpointError, match="norm_out"):
        import_croma(path, num_heads=HEADS, final_norm=True)


def test_the_final_norm_can_be_left_out(tmp_path):
    model, report = import_croma(
        write(tmp_path / "croma.pt", croma_weights()), num_heads=HEADS, final_norm=False
    )
    assert isinstance(model.remote_sensing.norm, torch.nn.Identity)
    assert "transformer.norm_out.weight" in report.ignored["the final norm is off"]


def test_patch_16_sees_an_enlarged_scene_as_patch_8_sees_the_scene(tmp_path):
    path = write(tmp_path / "croma.pt", croma_weights())
    eight, _ = import_croma(path, num_heads=HEADS)
    sixteen, report = import_croma(path, num_heads=HEADS, patch_size=16)
    scene = torch.rand((1, 10, 8, 8), generator=torch.Generator().manual_seed(2))
    enlarged = torch.nn.functional.interpolate(
        scene, scale_factor=2, mode="bicubic", antialias=True, align_corners=False
    )
    with torch.inference_mode():
        wanted = eight.remote_sensing.patch_embed(scene)
        found = sixteen.remote_sensing.patch_embed(enlarged)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert any("from 8 to 16" in note for note in report.notes)


def test_base_width_has_16_heads_and_any_other_must_say(tmp_path):
    path = write(tmp_path / "base.pt", croma_weights(width=768, depth=1))
    assert import_croma(path)[0].config.remote_sensing.num_heads == 16
    path = write(tmp_path / "small.pt", croma_weights())
    with pytest.raises(BadInputError, match=r"64 wide.*--num-heads"):
        import_croma(path)
    with pytest.raises(BadInputError, match="no multiple of num_heads 5"):
        import_croma(path, num_heads=5)


def test_every_problem_of_the_tensors_is_listed(tmp_path):
    weights = croma_weights()
    del weights["transformer.layers.1.0.to_out.bias"]
    weights["transformer.layers.0.1.net.3.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        import_croma(write(tmp_path / "croma.pt", weights), num_heads=HEADS)
    assert "missing transformer.layers.1.0.to_out.bias" in str(caught.value)
    assert "transformer.layers.0.1.net.3.bias" in str(caught.value)
    assert "7" in str(caught.value)


def test_another_band_count_is_refused(tmp_path):
    weights = croma_weights()
    weights["linear_input.weight"] = torch.zeros(WIDTH, 640)
    with pytest.raises(CheckpointError, match="640 values, wanted 12 bands"):
        import_croma(write(tmp_path / "croma.pt", weights), num_heads=HEADS)


def test_a_file_without_the_optical_encoder_is_refused(tmp_path):
    path = tmp_path / "radar.pt"
    torch.save({"s1_encoder": croma_weights()}, path)
    with pytest.raises(CheckpointError, match="'s2_encoder', found: s1_encoder"):
        import_croma(path)


def test_an_empty_encoder_is_refused(tmp_path):
    path = tmp_path / "empty.pt"
    torch.save({"s2_encoder": {}}, path)
    with pytest.raises(CheckpointError, match="tensors by name"):
        import_croma(path)


def test_an_encoder_without_blocks_is_refused(tmp_path):
    weights = {k: v for k, v in croma_weights().items() if "layers" not in k}
    with pytest.raises(CheckpointError, match=r"lacks the tensor transformer\.layers\.0"):
        import_croma(write(tmp_path / "croma.pt", weights), num_heads=HEADS)
