"""Whole runs: reproducibility, resuming, ranks, failures and what a run leaves behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import gair_core
from gair_core import checkpoint as checkpoint_module
from gair_core.errors import BadInputError, TrainingError
from gair_core.pretrain.run_log import Meter, RunLog
from gair_core.pretrain.trainer import pretrain
from gair_core.yaml_config import to_yaml
from tests.core.pretrain.runs import config, final_state, values
from tests.core.pretrain.stores import make_store

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store", without_photo=1)


def run(store: Path, output: Path, **changes: Any) -> list[dict[str, float]]:
    """Train and return the terms of each step."""
    terms: list[dict[str, float]] = []
    pretrain(
        config(store, output, **changes), show_progress=False, on_step=lambda _, values: terms.append(values)
    )
    return terms


def assert_same(first: Path, second: Path, tolerance: float = 0.0) -> None:
    one, two = final_state(first), final_state(second)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            tensor, two[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_run_learns_and_leaves_a_model_a_log_and_a_state(store: Path, tmp_path: Path) -> None:
    terms = run(store, tmp_path / "run", steps=60, evaluation={"every": 30}, save_every=20)
    first = sum(values["loss"] for values in terms[:6])
    last = sum(values["loss"] for values in terms[-6:])
    assert last < 0.8 * first
    model = gair_core.load(tmp_path / "run" / "model.safetensors")
    assert model.basis is not None
    assert model.basis.components.shape == (4, 16)
    assert bool((model.basis.scale > 0).all())
    assert "photo_to_scene_recall_1" in model.checkpoint.provenance.metrics
    assert "60 of 60 steps" in model.checkpoint.provenance.source
    for name in ("last", "best"):
        assert gair_core.load(tmp_path / "run" / f"{name}.safetensors").basis is None
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-000000060.safetensors"]
    with (tmp_path / "run" / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(2, 61, 2))
    assert float(rows[-1]["learning_rate"]) == pytest.approx(
        1e-2 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 56 / 57)).item()), rel=1e-4
    )
    with (tmp_path / "run" / "evaluation.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [30, 60]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["optimizer"]["peak_rate"] == 1e-2


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"kind": "mae"}},
        {"objective": {"modalities": ["scene", "photo"]}, "model": {"location": None}},
        {"objective": {"modalities": ["scene", "location"]}, "sampling": {"balance": "settlement"}},
        {"model": {"nili": None, "localizer": "pool"}},
        {"model": {"nili": None, "localizer": "bicubic"}, "precision": "bf16-mixed"},
        {"model": {"nili": {"hidden": [8]}, "learnable_temperature": True}, "precision": "32-true"},
        {"augmentation": {"location_kappa": 300}, "sampling": {"city_block": 4}},
    ],
)
def test_every_variant_is_a_configuration(store: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    terms = run(store, tmp_path / "run", steps=3, **changes)
    assert len(terms) == 3
    assert all(torch.isfinite(torch.tensor(list(values.values()))).all() for values in terms)
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("changes", [{}, {"objective": {"kind": "mae"}}, {"cached_chunk": 3}])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    store: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    dropping = {"remote_sensing": {"drop_path": 0.3}, "street_view": {"drop_path": 0.3}}
    changes = {**changes, "model": dropping, "precision": "32-true", "augmentation": {"location_kappa": 1e6}}
    whole = run(store, tmp_path / "whole", **changes)

    def stop_in_mid_epoch(step: int, terms: dict[str, float]) -> None:
        if step == 2:  # an epoch has three
            signal.raise_signal(signal.SIGTERM)

    settings = config(store, tmp_path / "parts", **changes)
    outcome = pretrain(settings, show_progress=False, on_step=stop_in_mid_epoch)
    assert (outcome.steps, outcome.finished, outcome.signal) == (2, False, signal.SIGTERM)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    with pytest.raises(BadInputError, match="holds a run already"):
        pretrain(settings, show_progress=False)
    rest: list[dict[str, float]] = []
    pretrain(settings, resume=True, show_progress=False, on_step=lambda _, values: rest.append(values))
    assert rest == whole[2:]
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "whole" / "training.csv").read_text().count("\n") == 4
    assert (tmp_path / "parts" / "training.csv").read_text().count("\n") == 4


def test_resume_refuses_another_run(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path / "run", steps=1, basis_components=0)
    with pytest.raises(BadInputError, match=r"optimizer.peak_rate 0.01, now 0.5"):
        pretrain(
            config(store, tmp_path / "run", steps=1, basis_components=0, optimizer={"peak_rate": 0.5}),
            resume=True,
            show_progress=False,
        )
    with pytest.raises(BadInputError, match="no state in"):
        pretrain(config(store, tmp_path / "other"), resume=True, show_progress=False)
    path = next((tmp_path / "run" / "state").iterdir())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadInputError, match="cannot be read"):
        pretrain(
            config(store, tmp_path / "run", steps=1, basis_components=0), resume=True, show_progress=False
        )


@pytest.mark.parametrize("changes", [{}, {"cached_chunk": 2}])
def test_two_process_run_equals_one_process_run(store: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    run(store, tmp_path / "one", **changes)
    path = tmp_path / "two.yaml"
    path.write_text(to_yaml(config(store, tmp_path / "two", devices=2, **changes)))
    command = [sys.executable, str(ROOT / "training" / "pretrain.py"), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "one", tmp_path / "two", 1e-10)
    logs = [list(csv.DictReader((tmp_path / name / "training.csv").open())) for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 3
    for one, two in zip(*logs, strict=True):
        for name in ("loss", "incl", "secl_scene", "secl_photo"):
            # The log keeps nine digits.
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-8)


def test_a_loss_that_is_no_number_stops_and_names_the_batch(store: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss of step \d is nan, .* nan; the batch holds [A-D][a-d]\d"):
        run(store, tmp_path / "run", optimizer={"peak_rate": 1e300, "warmup": 0, "clip_norm": None})
    described = json.loads((tmp_path / "run" / "not-a-number.json").read_text())
    assert len(described["ids"]) == 8
    assert described["terms"]["loss"] == "nan"


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss still is one, and a state is saved after each step."""
    real = torch.nn.utils.clip_grad_norm_
    steps: list[int] = []

    def spoiled(parameters: list[torch.Tensor], limit: float) -> torch.Tensor:
        steps.append(len(steps))
        if len(steps) == 3:
            parameters[0].grad.view(-1)[0] = torch.nan
        return real(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoiled)
    with pytest.raises(TrainingError, match=r"loss of step 2 is \d.*gradient nan; the batch holds"):
        run(store, tmp_path / "run", save_every=1)
    state = final_state(tmp_path / "run")
    assert all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point())


def test_a_run_stopped_at_its_last_step_is_evaluated_when_it_goes_on(store: Path, tmp_path: Path) -> None:
    settings = config(store, tmp_path / "run", steps=4, evaluation={"every": 2})

    def stop_at_the_end(step: int, terms: dict[str, float]) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    stopped = pretrain(settings, show_progress=False, on_step=stop_at_the_end)
    assert stopped.signal == signal.SIGTERM
    outcome = pretrain(settings, resume=True, show_progress=False)
    assert outcome.finished
    assert "score" in outcome.metrics
    with (tmp_path / "run" / "evaluation.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [2, 4]


def test_the_log_starts_anew_where_its_first_line_was_not_written(tmp_path: Path) -> None:
    (tmp_path / "training.csv").touch()
    log = RunLog(tmp_path, 3)
    log.write("training", 4, {"loss": 0.5})
    log.close()
    assert (tmp_path / "training.csv").read_text().split() == ["step,loss", "4,0.5"]


def test_speed_leaves_out_evaluating_and_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gair_core.pretrain.run_log.time.monotonic", lambda: now[0])
    meter = Meter(8)
    meter.start()
    now[0] = 1.0
    meter.loaded()
    meter._steps = 1
    now[0] = 4.0
    with meter.paused():
        now[0] = 100.0
    assert meter.take() == {"samples_per_second": 2.0, "data_wait": 0.25}


def test_a_full_disk_keeps_the_last_good_state(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint_module.save_file

    def save_file(tensors: dict, path: Path, **options: Any) -> None:
        real(tensors, path, **options)
        if "000000004" in path.name:
            path.write_bytes(path.read_bytes()[:100])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", save_file)
    with pytest.raises(BadInputError, match="No space left") as caught:
        run(store, tmp_path / "run", save_every=2)
    assert "step-000000002.safetensors is complete" in caught.value.hint
    monkeypatch.undo()
    run(store, tmp_path / "whole", save_every=2)
    pretrain(config(store, tmp_path / "run", save_every=2), resume=True, show_progress=False)
    assert_same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_log_on_a_full_disk_says_how_to_go_on(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    (tmp_path / "training.csv").symlink_to("/dev/full")
    with pytest.raises(BadInputError, match=r"after step 7.*No space left") as caught:
        log.write("training", 7, {"loss": 0.5})
    assert "--resume" in caught.value.hint


def test_unreadable_photos_are_counted_up_to_a_limit(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "store")
    shard = folder / "photos" / "Aa.tar"
    data = bytearray(shard.read_bytes())
    data[600:800] = bytes(200)
    shard.write_bytes(bytes(data))
    run(folder, tmp_path / "run")
    with (tmp_path / "run" / "training.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["unreadable_photos"]) == 2  # once in each of two passes
    with pytest.raises(BadInputError, match="photos could not be read, the limit is 0"):
        run(folder, tmp_path / "strict", data={"unreadable_limit": 0})


def test_older_states_are_kept_on_request(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path / "run", save_every=2, keep=1)
    names = sorted(path.name for path in (tmp_path / "run" / "state").iterdir())
    assert names == ["step-000000004.safetensors", "step-000000006.safetensors"]


def test_the_command_line_trains(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values(store, tmp_path / "run")))
    script = [sys.executable, str(ROOT / "training" / "pretrain.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    options: dict[str, Any] = {"env": environment, "capture_output": True, "text": True}
    printed = subprocess.run([*script, str(path), "steps=2", "--print-config"], check=False, **options)
    assert yaml.safe_load(printed.stdout)["steps"] == 2
    wrong = subprocess.run([*script, str(path), "optimizer.peek_rate=2"], check=False, **options)
    assert wrong.returncode == 1
    assert "optimizer.peek_rate" in wrong.stderr
    done = subprocess.run([*script, str(path), "steps=2"], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert "photo_to_scene_recall_1" in done.stdout


def test_a_store_without_the_split_to_evaluate_on_is_refused_before_the_first_step(
    store: Path, tmp_path: Path
) -> None:
    steps: list[int] = []
    with pytest.raises(BadInputError, match="in the split 'holdout'; it has test"):
        pretrain(
            config(store, tmp_path / "run", data={"evaluation_split": "holdout"}),
            show_progress=False,
            on_step=lambda step, _: steps.append(step),
        )
    assert not steps
    run(store, tmp_path / "run", steps=1, data={"evaluation_split": None})
    assert not (tmp_path / "run" / "evaluation.csv").exists()
