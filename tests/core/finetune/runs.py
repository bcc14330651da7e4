"""Small fine-tuning runs on scenes for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import gair_core
from gair_core.config import GAIRConfig
from gair_core.finetune.config import FinetuneConfig
from gair_core.finetune.trainer import Outcome, finetune
from gair_core.model.gair import GAIR
from gair_core.yaml_config import merged

MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "remote_sensing": {"width": 16, "depth": 2, "num_heads": 2, "tile_size": 24, "patch_size": 8},
    "street_view": None,
    "location": None,
}


def build_model(**changes: Any) -> GAIR:
    torch.manual_seed(1)
    return GAIR(GAIRConfig.parse(merged(MODEL, changes))).eval()


def save_model(folder: Path, **changes: Any) -> Path:
    """An untrained encoder; what is learnt on it, the head has learnt."""
    path = folder / "encoder.safetensors"
    gair_core.save(build_model(**changes), path)
    return path


def values(model: Path, store: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A run of 6 epochs of 2 steps on the store of `tests.core.pretrain.stores`, as nested values."""
    base = {
        "model": str(model),
        "task": {
            "kind": "scenes",
            "data": {"kind": "world", "folder": str(store), "use": "segmentation"},
            "head": {"kind": "linear"},
            "statistics": "model",
        },
        "optimizer": {"peak_rate": 1e-2},
        "output": str(output),
        "epochs": 6,
        "batch_size": 4,
        "workers": 0,
        "accelerator": "cpu",
        "log_every": 1,
    }
    return merged(base, changes)


def config(model: Path, store: Path, output: Path, **changes: Any) -> FinetuneConfig:
    return FinetuneConfig.parse(values(model, store, output, **changes))


def run(model: Path, store: Path, output: Path, **changes: Any) -> Outcome:
    return finetune(config(model, store, output, **changes), show_progress=False)
