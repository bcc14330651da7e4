"""The ablation's table: cells that stay, paired differences, and the photo probe's target."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gair_core.pretrain.store import Sample, Store, StoreWriter
from tests.core.pretrain.stores import make_store, make_tile

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "benchmarks" / "ablation.py"


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_finished_cells_are_kept_and_others_join_them(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), "--quick", "--output", str(tmp_path), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = run("--rows", "gair", "mae", "--seeds", "1")
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "cells.jsonl").read_text().splitlines()
    assert [(cell["row"], cell["seed"], cell["steps"]) for cell in map(json.loads, first)] == [
        ("gair", 0, 2),
        ("mae", 0, 2),
    ]
    assert "photo_to_scene_recall_1" not in json.loads(first[1])["metrics"]
    done = run("--rows", "gair", "hidden_layers", "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "cell 1 of 3: hidden_layers, seed 0" in done.stderr
    cells = (tmp_path / "cells.jsonl").read_text().splitlines()
    assert cells[:2] == first
    assert len(cells) == 5
    table = done.stdout.splitlines()
    assert table[1].split()[0] == "gair"
    assert not any(line.startswith("mae") for line in table)
    assert table[-1].startswith("hidden_layers")


def test_cells_of_other_settings_are_others(ablation: ModuleType, monkeypatch, tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "store"))

    def found(seed: int, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments])
        config = ablation.configuration("gair", seed, ablation.parse())
        return str(ablation.fingerprint(config, config.evaluation, store))

    same = found(0)
    assert found(1, "--output", "elsewhere", "--store", "moved", "accelerator=cuda") == same
    assert found(0, "optimizer.peak_rate=1e-2") != same
    assert found(0, "--budget", "9") != same


def test_hidden_layers_are_as_wide_as_the_embedding(
    ablation: ModuleType, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--output", str(tmp_path), "--budget", "9"])
    config = ablation.configuration("hidden_layers", 3, ablation.parse())
    assert config.model.nili.hidden == (128, 128)
    assert (config.steps, config.seed, config.model.embed_dim) == (9, 3, 128)
    pooled = ablation.configuration("without_nili", 3, ablation.parse())
    assert pooled.model.localizer == "pool"
    assert pooled.optimizer == config.optimizer


def test_differences_are_paired_by_seed(ablation: ModuleType) -> None:
    base = {0: 0.1, 1: 0.5, 2: 0.9, 3: 0.2}
    better = {
        seed: value + gain for (seed, value), gain in zip(base.items(), (0.1, 0.11, 0.12), strict=False)
    }
    # Three pairs: mean 0.11, standard deviation 0.01, t of two degrees of freedom 4.303.
    assert ablation.difference(better, base) == "+0.11 ± 0.025"
    assert ablation.difference({0: 0.2, 1: 0.4, 2: 1.0}, base) == "not resolved"
    assert ablation.difference({0: 0.2}, base) == "-"


def test_built_up_share_is_that_of_the_square_around_the_photo(ablation: ModuleType, tmp_path: Path) -> None:
    tile = make_tile("tile", 0)
    cover = np.zeros((40, 40), dtype=np.uint8)
    cover[:10] = 1
    cover[:, :5] = 2
    tile = type(tile)(**{**vars(tile), "land_cover": cover})
    writer = StoreWriter(tmp_path / "store", classes=("water", "dense built-up", "sparse built-up"))
    with writer.unit("unit") as unit:
        unit.add_tile(tile)
        unit.add_sample(Sample("middle", "tile", 20.0, 20.0, 0.0, 0.0, "a", split="train"))
        unit.add_sample(Sample("corner", "tile", 0.0, 0.0, 0.0, 0.0, "a", split="train"))
        unit.add_sample(Sample("north", "tile", 12.0, 30.0, 0.0, 0.0, "a", split="train"))
    writer.finish()
    store = Store(tmp_path / "store")
    shares = [ablation.built_up_share(store, row) for row in range(3)]
    # Of 20 x 20 pixels: none; ten rows and five columns of ten more; rows 2 to 9.
    assert shares == pytest.approx([0, (200 + 50) / 400, 160 / 400])
