"""The figures of the demo, and the commands that make and measure it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gair_core
from gair_core.errors import BadInputError
from gair_core.evaluation.demo import real_as_text, real_figures, untrained_like
from gair_core.head_checkpoint import load_head

TRAINING = Path(__file__).resolve().parents[3] / "training"


def test_the_untrained_model_is_the_same_again_and_touches_no_random_state():
    model = gair_core.load("demo")
    before = torch.get_rng_state()
    one, other = untrained_like(model), untrained_like(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.config == model.config
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.nili.layers[0].weight, model.nili.layers[0].weight)


def test_real_scenes_that_are_not_there(tmp_path):
    with pytest.raises(BadInputError, match="has no folder germany_polygons"):
        real_figures(tmp_path)


def test_the_demo_holds_on_real_scenes(shared):
    """The bars that were set before it was made; docs/model_card.md says how far it is above them."""
    figures = real_figures(shared / "data")
    found = {(one.scene, one.name): one.value for one in figures}
    assert found["germany_polygons/sen2.tif", "accuracy within polygons"] >= 0.6
    assert found["germany_polygons/sen2.tif", "water found as water"] >= 0.9
    assert found["world_patches/patch_74721.tif", "water"] >= 0.95
    assert found["world_patches/patch_57755.tif", "water"] >= 0.95
    assert found["eurosat_order/SeaLake_3000.tif", "water"] >= 0.95
    assert found["world_patches/patch_25630.tif", "snow and ice"] >= 0.9
    assert found["world_patches/patch_502692.tif", "trees"] >= 0.9
    assert len(real_as_text(figures).splitlines()) == len(figures) + 1


def demo(folder: Path, *more: str) -> list[str]:
    paths = ["--store", str(folder / "store #1"), "--runs", str(folder / "run"), "--processes", "2"]
    return [sys.executable, str(TRAINING / "demo.py"), "--quick", *paths, *more]


def interrupt(command: list[str], begun: Callable[[], bool]) -> None:
    """Press Ctrl-C, which reaches all processes of a command, once something has begun."""
    # A runner in the background ignores Ctrl-C, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        signal.signal(signal.SIGINT, before)
        until = time.monotonic() + 300
        while not begun() and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("Stopped; run the same command again to continue.")
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it starts the command nine times
def test_the_demo_is_made_in_pieces_by_one_command(tmp_path):
    refused = subprocess.run(demo(tmp_path, "--processes", "0"), capture_output=True, text=True, check=False)
    assert "--processes must be at least 1, found 0" in refused.stderr

    def cities() -> int:
        return len(list(tmp_path.glob("store #1/units/*.parquet")))

    # While its processes start, which finish what they have begun, and when a further city is done.
    interrupt(demo(tmp_path), (tmp_path / "store #1").is_dir)
    before = cities()
    interrupt(demo(tmp_path), lambda: cities() > before)
    begun = {path: path.stat().st_mtime_ns for path in tmp_path.glob("store #1/photos/*.tar")}
    assert begun
    for part in ("run/state", "run/models/demo.safetensors", "run/models/demo-land-cover.safetensors"):
        interrupt(demo(tmp_path), (tmp_path / part).exists)
    made = subprocess.run(demo(tmp_path), capture_output=True, text=True, check=True).stdout
    assert all(path.stat().st_mtime_ns == mark for path, mark in begun.items())
    assert "photo to scene, recall@1" in made
    figures = json.loads((tmp_path / "run" / "figures.json").read_text("utf-8"))
    assert len(figures) == 6
    trained = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    models = tmp_path / "run" / "models"
    head, model = load_head(models / "demo-land-cover.safetensors")
    assert head.metadata.backbone.sha256 == model.checkpoint.fingerprint
    assert model.checkpoint.provenance.training_data.startswith("the procedural world")
    # The same command again trains nothing anew, and a finished model can be given instead.
    own = ["--trained", str(tmp_path / "run" / "model.safetensors"), "--output", str(tmp_path / "mine")]
    subprocess.run(demo(tmp_path, *own), capture_output=True, text=True, check=True)
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == trained
    again, _ = load_head(tmp_path / "mine" / "demo-land-cover.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    # What it measured is what the other command measures.
    command = [sys.executable, str(TRAINING / "evaluate.py"), "demo", "--head", "demo-land-cover"]
    command += ["--store", str(tmp_path / "store #1"), "--galleries", "2", "--localized", "4"]
    environment = {**os.environ, "GAIR_MODELS": str(models)}
    said = subprocess.run(
        [*command, "--json", str(tmp_path / "figures.json")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout
    assert said.count("%") == 6 * 3
    assert len(json.loads((tmp_path / "figures.json").read_text("utf-8"))["held_out"]) == 6


def test_evaluate_says_what_is_missing():
    command = [sys.executable, str(TRAINING / "evaluate.py"), "demo", "--only-real"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "--only-real leaves nothing to measure without --real" in failed.stderr
