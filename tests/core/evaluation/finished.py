"""Folders of runs as training leaves them, for the tests of the tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gair_core.pretrain.config import read_config
from gair_core.yaml_config import to_yaml

CONFIGS = Path(__file__).resolve().parents[3] / "training" / "configs"


def pretrained(folder: Path, name: str, *overrides: str) -> str:
    """Write a pretraining run of a configuration; return its model."""
    folder.mkdir(parents=True)
    config = read_config(CONFIGS / f"{name}.yaml", overrides)
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    (folder / "model.safetensors").touch()
    return str(folder / "model.safetensors")


def finetuned(
    folder: Path,
    model: str,
    task: Mapping[str, Any],
    metrics: Mapping[str, float] | None,
    *,
    mode: str = "frozen",
    class_metrics: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write a fine-tuning run; without metrics it has not ended."""
    folder.mkdir(parents=True)
    config = {"model": model, "mode": mode, "task": task, "output": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    if metrics is not None:
        test = {"data": "x", "split": "test", "metrics": metrics, "class_metrics": class_metrics or {}}
        (folder / "test.json").write_text(json.dumps(test), encoding="utf-8")
    return folder


def records(folder: Path, header: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    """Write the test records of a run."""
    with (folder / "test_records.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
