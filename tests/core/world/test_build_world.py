"""The script that draws the world as a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gair_core.pretrain.config import read_config
from gair_core.pretrain.store import Store
from gair_core.pretrain.store_check import StoreCheckRequest, check_store
from gair_core.progress import Progress

TRAINING = Path(__file__).resolve().parents[3] / "training"
SCRIPT = [sys.executable, str(TRAINING / "build_world.py")]
SMALL = ["--photos", "4", "--size", "96", "--photo-size", "32"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_interrupted_build_continues_to_a_sound_store(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    command = [*SCRIPT, str(folder), "--cities", "9", "--validation", "1", "--test", "2", *SMALL]
    with subprocess.Popen(
        [*command, "--processes", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until = time.monotonic() + 60
        while not list(folder.glob("units/*.parquet")) and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines() == ["Stopped; run the same command again to continue."]
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("photos/*.tar")}
    # What the processes had begun and what stood ready for them is finished.
    assert 0 < len(kept) < 9
    finished = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "36 samples (train 24, validation 4, test 8), 9 tiles" in finished
    assert all(path.stat().st_mtime_ns == mark for path, mark in kept.items())
    result = check_store(StoreCheckRequest(store=folder), Progress())
    assert result.ok, result.text()
    samples = Store(folder).samples
    regions = {str(name) for name in samples.city[samples.split == "test"]}
    assert len(regions) == 2
    again = run(str(folder), "--cities", "7", *SMALL)
    assert again.returncode == 2
    assert "--validation 10 and --test 10 leave no city of --cities 7" in again.stderr


def test_dry_run_states_size_and_time_and_writes_nothing(tmp_path: Path) -> None:
    said = run(str(tmp_path / "store"), "--dry-run", "--processes", "2", *SMALL).stdout
    assert said.startswith("400 cities, 1600 photos: about ")
    assert "MB" in said
    assert "minutes with 2 processes" in said
    assert not list(tmp_path.iterdir())


def test_help_and_configuration_name_the_same_store() -> None:
    text = run("--help").stdout
    store = read_config(TRAINING / "configs" / "world_tiny.yaml").data.store
    assert str(store) in text


@pytest.mark.parametrize("argument", ["--photos", "--processes"])
def test_numbers_below_one_are_refused(argument: str) -> None:
    refused = run(argument, "0")
    assert refused.returncode == 2
    assert "must be at least 1" in refused.stderr
