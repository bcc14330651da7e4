"""Whole runs on scenes: learning, resuming, stopping early, what is left behind and what is refused."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from gair_core.errors import BadInputError, TrainingError
from gair_core.finetune import scene_task
from gair_core.finetune.class_weights import inverse_frequency
from gair_core.finetune.config import FinetuneConfig, read_config
from gair_core.finetune.datasets.scenes import IGNORED
from gair_core.finetune.schedule import FinetuneOptimizerConfig, schedule_factor
from gair_core.finetune.task import Results, Watched
from gair_core.finetune.trainer import finetune
from gair_core.head_checkpoint import load_head
from gair_core.pretrain.state import latest_state
from gair_core.yaml_config import to_yaml
from tests.core.finetune.runs import config, run, save_model, values
from tests.core.pretrain.stores import make_store

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "training" / "configs" / "finetune"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store", per_city=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def final_tensors(output: Path) -> dict[str, torch.Tensor]:
    state = latest_state(output / "state")
    assert state is not None
    return load_file(state)


@pytest.mark.parametrize(
    "name", ["burn_scars", "small_farms", "south_sudan", "world_segmentation", "world_change", "world_series"]
)
def test_every_configuration_of_a_scene_task_is_sound(name: str) -> None:
    found = read_config(CONFIGS / f"{name}.yaml", ["mode=full"])
    assert FinetuneConfig.parse(yaml.safe_load(to_yaml(found))) == found
    assert found.mode == "full"
    assert str(found.output) == f"runs/finetune/{name}"
    assert found.optimizer.milestones == (0.6, 0.9)


def test_a_frozen_encoder_gives_a_head_that_has_learnt(model: Path, store: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    upernet = {"head": {"kind": "upernet", "settings": {"channels": 8}}}
    outcome = run(model, store, output, task=upernet, epochs=40, evaluate_every=10)
    assert outcome.finished
    assert outcome.test is not None
    # Half of the pixels are bright: one class for all, or chance, reaches 0.35. It came to 0.78.
    assert outcome.test.metrics["mean_iou"] > 0.65
    head, encoder = load_head(output / "head.safetensors", backbone=str(model))
    assert head.metadata.backbone.name == "encoder"
    assert not any(name.startswith("encoder.") for name in load_file(output / "head.safetensors"))
    assert encoder.config.remote_sensing.gsd == 10
    described = json.loads((output / "test.json").read_text())
    assert described["metrics"] == outcome.test.metrics
    assert head.metadata.accuracy.metrics == outcome.test.metrics
    assert np.array(described["confusion"]).sum() == 2 * 40 * 40
    assert head.metadata.provenance.metrics == outcome.validation
    assert "training split: 8 examples" in head.metadata.provenance.training_data
    with (output / "evaluation.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [20, 40, 60, 80]
    with (output / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[0] == 1e-2
    assert rates[48] == pytest.approx(1e-3)
    assert rates[72] == pytest.approx(1e-4)
    assert list((output / "tensorboard").iterdir())


def test_a_full_run_trains_the_encoder_and_keeps_it_in_the_head(
    model: Path, store: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    upernet = {"head": {"kind": "upernet", "settings": {"channels": 8}}}
    outcome = run(model, store, output, mode="full", task=upernet, epochs=2)
    assert outcome.finished
    stored = load_file(output / "head.safetensors")
    before = load_file(model)
    moved = [
        name
        for name, values in before.items()
        if not torch.equal(stored.get(f"encoder.{name}", values), values)
    ]
    assert any("blocks.1" in name for name in moved)
    _, encoder = load_head(output / "head.safetensors")
    assert encoder.config.remote_sensing.width == 16


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        ("change", "change_linear"),
        ("change", "upernet_change"),
        ("series", "series_linear"),
        ("series", "series_ltae"),
    ],
)
def test_several_scenes_of_a_place_make_a_head_that_loads(
    use: str, kind: str, model: Path, store: Path, tmp_path: Path
) -> None:
    settings = {} if kind == "change_linear" else {"channels": 8}
    task = {"data": {"use": use}, "head": {"kind": kind, "settings": settings}}
    outcome = run(model, store, tmp_path / "run", task=task, epochs=1)
    assert outcome.test is not None
    assert np.array(outcome.test.confusion).sum() == 40 * 40
    head, _ = load_head(tmp_path / "run" / "head.safetensors", backbone=str(model))
    assert head.kind == kind
    assert len(head.classes) == 2


@pytest.mark.parametrize("head", [{"kind": "linear"}, {"kind": "upernet", "settings": {"channels": 8}}])
def test_mixed_precision_computes_the_loss_in_float32(
    head: dict[str, Any], model: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    real = scene_task.pixel_loss

    def noting(logits: torch.Tensor, target: torch.Tensor, weights: Any) -> torch.Tensor:
        seen.add(logits.dtype)
        loss = real(logits, target, weights)
        assert loss.dtype == torch.float32
        return loss

    monkeypatch.setattr(scene_task, "pixel_loss", noting)
    outcome = run(model, store, tmp_path / "run", task={"head": head}, epochs=1, precision="bf16-mixed")
    assert outcome.finished
    assert seen == {torch.bfloat16}


def test_processes_that_read_ahead_change_nothing(model: Path, store: Path, tmp_path: Path) -> None:
    run(model, store, tmp_path / "one", epochs=2, test=False)
    run(model, store, tmp_path / "two", epochs=2, test=False, workers=2)
    one, two = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "two")
    assert all(torch.equal(values, two[name]) for name, values in one.items())


def test_batches_of_one_are_refused_where_a_head_averages_over_them(
    model: Path, store: Path, tmp_path: Path
) -> None:
    upernet = {"head": {"kind": "upernet", "settings": {"channels": 8}}}
    with pytest.raises(BadInputError, match=r"batch of one example"):
        run(model, store, tmp_path / "run", task=upernet, batch_size=1)


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    mode: str, model: Path, store: Path, tmp_path: Path
) -> None:
    # UPerNet has dropout and batch statistics: all that a state must bring back.
    task = {"head": {"kind": "upernet", "settings": {"channels": 8}}, "class_weights": "inverse_frequency"}
    whole = run(model, store, tmp_path / "whole", mode=mode, task=task, epochs=3)
    cut = config(model, store, tmp_path / "cut", mode=mode, task=task, epochs=3)

    def stop(step: int, terms: dict[str, float]) -> None:
        del terms
        if step == 3:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = finetune(cut, show_progress=False, on_step=stop)
    assert (stopped.signal, stopped.steps, stopped.finished) == (signal.SIGTERM, 3, False)
    assert not (tmp_path / "cut" / "head.safetensors").exists()
    resumed = finetune(cut, resume=True, show_progress=False)
    assert resumed.test == whole.test
    one, two = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "cut")
    assert one.keys() == two.keys()
    assert all(torch.equal(values, two[name]) for name, values in one.items())
    first, second = (load_file(tmp_path / name / "head.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(values, second[name]) for name, values in first.items())
    for name in ("training.csv", "evaluation.csv"):
        lines = [(tmp_path / which / name).read_text().splitlines() for which in ("whole", "cut")]
        assert [line.split(",")[:2] for line in lines[0]] == [line.split(",")[:2] for line in lines[1]]


def test_it_stops_early_and_keeps_the_best_state(
    model: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.5, 0.4, 0.3, 0.9, 0.9])
    weights: list[torch.Tensor] = []

    def evaluate(task: scene_task.SceneTask, batches: Any) -> Results:
        weights.append(task.head.weight.detach().clone())
        return Results({"mean_iou": next(scores)})

    monkeypatch.setattr(scene_task.SceneTask, "evaluate", evaluate)
    outcome = run(model, store, tmp_path / "run", patience=2, test=False)
    assert outcome.finished
    assert outcome.steps == 8
    assert outcome.validation == {"mean_iou": 0.5}
    head, _ = load_head(tmp_path / "run" / "head.safetensors", backbone=str(model))
    assert torch.equal(head.weight.detach(), weights[1])
    assert head.metadata.accuracy is None
    assert not (tmp_path / "run" / "test.json").exists()
    again = finetune(
        config(model, store, tmp_path / "run", patience=2, test=False), resume=True, show_progress=False
    )
    assert again.steps == 8


def test_what_a_task_records_of_each_example_is_written(
    model: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {"lon": np.array([1.5, -2.25]), "target": np.array(["a, b", "é"])}
    results = Results({"mean_iou": 0.5}, records=records)
    monkeypatch.setattr(scene_task.SceneTask, "evaluate", lambda task, batches: results)
    run(model, store, tmp_path / "run", epochs=1)
    with (tmp_path / "run" / "test_records.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"lon": "1.5", "target": "a, b"}, {"lon": "-2.25", "target": "é"}]
    assert not list((tmp_path / "run").glob("*.part"))


def test_lower_may_be_better() -> None:
    error = Watched("rmse", higher_is_better=False)
    assert error.improves(1.0, None)
    assert error.improves(0.5, 1.0)
    assert not error.improves(1.5, 1.0)


def test_rare_classes_weigh_as_much_as_frequent_ones() -> None:
    weights = inverse_frequency(torch.tensor([90, 10, 0]))
    assert weights.tolist() == pytest.approx([100 / 180, 5, 0])
    logits = torch.zeros(1, 3, 10, 10)
    target = torch.zeros(1, 10, 10, dtype=torch.int64)
    target[0, 0] = 1
    logits[0, 0] = 2.0
    shares = torch.softmax(torch.tensor([2.0, 0.0, 0.0]), 0)
    expected = -0.5 * (shares[0].log() + shares[1].log())
    assert scene_task.pixel_loss(logits, target, weights) == pytest.approx(float(expected), rel=1e-5)
    target[:] = IGNORED
    assert float(scene_task.pixel_loss(logits, target, None)) == 0
    with pytest.raises(BadInputError, match="None of the training examples has a label"):
        inverse_frequency(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(BadInputError, match=r"All 7 labels .* one class, the one with the index 2 of 3"):
        inverse_frequency(torch.tensor([0, 0, 7]))


def test_the_rate_follows_the_schedule() -> None:
    stepped = FinetuneOptimizerConfig(warmup=0.1)
    factors = [schedule_factor(step, 20, stepped) for step in range(20)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[11] == 1.0
    assert factors[12:18] == pytest.approx([0.1] * 6)
    assert factors[18:] == pytest.approx([0.01] * 2)
    constant = FinetuneOptimizerConfig(schedule="constant")
    assert schedule_factor(19, 20, constant) == 1
    cosine = FinetuneOptimizerConfig(schedule="cosine")
    assert schedule_factor(10, 20, cosine) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("task.head.knd=linear", r"task.*head.*knd"),
        ("optimizer.peek_rate=1", r"optimizer\.peek_rate"),
        ("task.kind=scense", "scense"),
        ("task.data.kind=worlds", "worlds"),
        ("task.tile=12", r"task\.tile is 12, wanted a multiple of the model's patch size 8"),
        ("task.head.kind=unet", r"task\.head\.kind is 'unet'.* one scene"),
        ("task.head.kind=upernet_change", r"an example of segmentation in store is one scene"),
        ("task.head.settings={chanels: 4}", "chanels"),
        ("task.statistics=dataset", "has no statistics of its own"),
        ("task.data.folder=nowhere", "There is no store nowhere"),
        ("model=nowhere.safetensors", r"nowhere\.safetensors"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    override: str, named: str, model: Path, store: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values(model, store, tmp_path / "run")))
    with pytest.raises(BadInputError, match=named):
        finetune(read_config(path, [override]), show_progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_is_continued_only_as_it_was(model: Path, store: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(BadInputError, match="no state in"):
        finetune(config(model, store, output), resume=True, show_progress=False)
    run(model, store, output, epochs=1, test=False)
    with pytest.raises(BadInputError, match="holds a run already"):
        run(model, store, output)
    changed = config(model, store, output, epochs=2, test=False, seed=3)
    with pytest.raises(BadInputError, match=r"epochs 1, now 2; seed 0, now 3"):
        finetune(changed, resume=True, show_progress=False)
    fewer = make_store(tmp_path / "fewer", per_city=1, cities=("Aa", "Bb", "Cc", "Dd"))
    with pytest.raises(BadInputError, match=r"examples of the run .* are not those"):
        finetune(config(model, fewer, output, epochs=1, test=False), resume=True, show_progress=False)


def test_a_loss_that_is_no_number_names_the_examples(
    model: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(logits: torch.Tensor, target: torch.Tensor, weights: Any) -> torch.Tensor:
        return logits.sum() * float("nan")

    monkeypatch.setattr(scene_task, "pixel_loss", broken)
    with pytest.raises(TrainingError, match=r"loss of step 0 is nan.*batch holds tile_[A-D][a-d] 2021-0"):
        run(model, store, tmp_path / "run")


def test_the_command_line(
    model: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.syspath_prepend(ROOT / "training")
    spec = importlib.util.spec_from_file_location("finetune_script", ROOT / "training" / "finetune.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values(model, store, tmp_path / "run", epochs=1)))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["finetune.py", str(path), *arguments])
        code = script.main()
        return code, *capsys.readouterr()

    code, printed, _ = call("batch_size=2", "--print-config")
    assert code == 0
    assert yaml.safe_load(printed)["batch_size"] == 2
    code, _, wrong = call("optimiser.peak_rate=1")
    assert code == 1
    assert "finetune: error: " in wrong
    assert "optimiser" in wrong
    code, printed, _ = call()
    assert code == 0
    assert "test mean_iou: " in printed
    assert (tmp_path / "run" / "head.safetensors").is_file()
