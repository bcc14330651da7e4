"""Small runs for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gair_core.pretrain.config import PretrainConfig
from gair_core.pretrain.state import latest_state
from gair_core.yaml_config import merged

MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "remote_sensing": {"width": 16, "depth": 2, "num_heads": 2, "tile_size": 24, "patch_size": 8},
    "street_view": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2},
    "location": {"num_frequencies": 8, "hidden_width": 8, "hidden_layers": 1},
}


def values(store: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A run of six steps on a CPU in float64, as nested values."""
    base = {
        "model": MODEL,
        "data": {"store": str(store), "workers": 0},
        "sampling": {"batch_size": 8},
        "objective": {"bank_capacity": 16, "mae": {"decoder_width": 16, "decoder_heads": 2}},
        "optimizer": {"peak_rate": 1e-2},
        "evaluation": {"gallery": 6, "galleries": 2, "batch_size": 6},
        "output": str(output),
        "steps": 6,
        "precision": "64-true",
        "accelerator": "cpu",
        "log_every": 2,
        "save_every": 100,
        "basis_components": 4,
        "basis_samples": 12,
    }
    return merged(base, changes)


def config(store: Path, output: Path, **changes: Any) -> PretrainConfig:
    return PretrainConfig.parse(values(store, output, **changes))


def final_state(output: Path) -> dict[str, torch.Tensor]:
    """The tensors of a run's last state."""
    state = latest_state(output / "state")
    if state is None:
        raise AssertionError(f"no state in {output}")
    return load_file(state)
