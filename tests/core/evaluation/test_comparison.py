from __future__ import annotations

import csv
import io
import runpy
import shlex
import sys

import pytest

from gair_core.errors import BadInputError
from gair_core.evaluation.columns import default_inputs, slot
from gair_core.evaluation.comparison import compare
from gair_core.evaluation.paper_tables import TITLES, paper_table
from gair_core.evaluation.printing import as_csv, as_json, as_text
from gair_core.finetune.config import read_config as read_finetuning
from gair_core.pretrain.config import read_config as read_pretraining
from tests.core.evaluation.finished import CONFIGS, finetuned, pretrained, records

_SOCIOECONOMIC = {"kind": "photo", "data": {"kind": "socioeconomic", "folder": "x"}}
_BURN_SCARS = {"kind": "scenes", "data": {"kind": "burn_scars"}, "head": {"kind": "upernet"}}


@pytest.mark.parametrize("name", TITLES)
def test_every_missing_result_has_commands_that_make_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    table = paper_table(name)
    rows = {row.name: row for row in table.rows}
    comparison = compare(name, [tmp_path], CONFIGS)
    expected = [(row.name, column) for row in table.rows if row.pretraining for column in table.columns]
    assert [(one.row, one.column) for one in comparison.missing] == expected
    outputs = set()
    for one in comparison.missing:
        pretraining, finetuning = (shlex.split(command) for command in one.commands)
        assert pretraining[:2] == ["python", "training/pretrain.py"]
        assert finetuning[:2] == ["python", "training/finetune.py"]
        made = read_pretraining(CONFIGS.parents[1] / pretraining[2])
        config = read_finetuning(CONFIGS.parents[1] / finetuning[2], finetuning[3:])
        assert config.model == str(made.output / "model.safetensors")
        found = slot(config.model_dump(mode="json"))
        assert (found.column, found.inputs) == (
            one.column,
            rows[one.row].inputs or default_inputs(one.column),
        )
        outputs.add(config.output)
    assert len(outputs) == len(expected)


@pytest.fixture
def runs(tmp_path):
    """Models of three rows and of none, with results of some tasks; two seeds of one of them."""
    folder = tmp_path / "runs"
    models = {name: pretrained(folder / name, name) for name in ("base", "ablation_mae", "patch16")}
    models["small"] = pretrained(folder / "small", "base", "model.preset=small")
    models["hidden"] = pretrained(folder / "hidden", "ablation_hidden_layers")
    for number, value in enumerate((0.80, 0.90)):
        finetuned(folder / f"seed{number}", models["base"], _SOCIOECONOMIC, {"rmse": value})
    finetuned(folder / "small_probe", models["small"], {**_SOCIOECONOMIC, "hidden": 64}, {"rmse": 1.5})
    finetuned(folder / "hidden_probe", models["hidden"], _SOCIOECONOMIC, {"rmse": 0.7})
    finetuned(folder / "demo_probe", "demo", _SOCIOECONOMIC, {"rmse": 0.95}, mode="full")
    finetuned(folder / "fires", models["patch16"], _BURN_SCARS, {"mean_iou": 0.8123})
    linear = {**_BURN_SCARS, "head": {"kind": "linear"}}
    finetuned(folder / "other", models["base"], linear, {"mean_iou": 0.9})
    finetuned(folder / "going", models["base"], _BURN_SCARS, None)
    return folder


def test_results_stand_beside_the_same_variant(runs):
    comparison = compare("table 1", [runs], CONFIGS)
    ours = {(row.name, row.beside): row.results for row in comparison.ours}
    assert set(ours) == {
        (f"{runs}/base", "GAIR"),
        (f"{runs}/small (embed_dim 384)", "GAIR"),
        (f"{runs}/hidden", ""),
        ("demo", ""),
    }
    seeds = ours[f"{runs}/base", "GAIR"]["socioeconomic linear"]
    assert seeds.value == pytest.approx(0.85)
    assert seeds.spread == pytest.approx(0.05 * 2**0.5)
    assert [folder.name for folder in seeds.runs] == ["seed0", "seed1"]
    missing = {(one.row, one.column): one.commands for one in comparison.missing}
    assert ("GAIR", "socioeconomic linear") not in missing
    [command] = missing["GAIR", "socioeconomic full"]
    assert f"model={runs}/base/model.safetensors" in command
    assert len(missing["GAIR w/o Loc", "socioeconomic linear"]) == 2
    text = as_text(comparison)
    lines = text.splitlines()
    gair = next(number for number, line in enumerate(lines) if line.startswith("GAIR  "))
    assert "0.8500 ±0.0707" in lines[gair + 1]
    assert "0.8803" in lines[gair]


def test_models_are_found_from_any_directory(tmp_path, monkeypatch):
    pretrained(tmp_path / "runs" / "mine", "debias")
    task = {**_BURN_SCARS, "data": {"kind": "small_farms"}}
    finetuned(tmp_path / "runs" / "deep" / "er", "runs/mine/last.safetensors", task, {"mean_iou": 0.4})
    monkeypatch.chdir(CONFIGS)
    [row] = compare("table 2", [tmp_path / "runs"], CONFIGS).ours
    assert (row.name, row.beside) == ("runs/mine/last", "GAIR Debias")


def test_tables_4_and_6_share_runs_with_1_and_2(runs):
    [row] = [row for row in compare("table 6", [runs], CONFIGS).ours if row.beside]
    assert (row.beside, row.results["burn_scars frozen"].value) == ("patch 16, 96 x 96", pytest.approx(81.23))
    beside = {row.beside for row in compare("table 4", [runs], CONFIGS).ours if row.results}
    assert beside == {"GAIR", ""}


def test_left_out_and_unfinished_runs_are_named(runs):
    notes = compare("table 2", [runs], CONFIGS).notes
    assert any("other is left out: the head is linear" in note for note in notes)
    assert any("going has no results yet" in note and "--resume" in note for note in notes)
    assert len(notes) == 2


def test_figure_5_goes_by_inputs(tmp_path):
    model = pretrained(tmp_path / "base", "base")
    fusion = {**_SOCIOECONOMIC, "kind": "fusion", "inputs": ["photo", "scene"], "scenes": {"folder": "x"}}
    finetuned(tmp_path / "fusion", model, fusion, {"rmse": 0.71})
    finetuned(tmp_path / "photo", model, _SOCIOECONOMIC, {"rmse": 0.88})
    found = {row.beside for row in compare("figure 5", [tmp_path], CONFIGS).ours}
    assert found == {"RS + SV", "SV only"}
    assert [row.beside for row in compare("table 1", [tmp_path], CONFIGS).ours] == ["GAIR"]


def test_the_image_alone_is_the_row_without_prior(tmp_path):
    model = pretrained(tmp_path / "base", "base")
    task = {"kind": "geo_prior", "data": {"kind": "inaturalist", "year": 2018, "folder": "x"}}
    finetuned(tmp_path / "a", model, task, {"top_1": 0.72, "top_1_image": 0.602}, mode="full")
    ours = {row.beside: row.results["inat2018"].value for row in compare("table 3", [tmp_path], CONFIGS).ours}
    assert ours == {"RFF, GAIR": pytest.approx(72.0), "No prior": pytest.approx(60.2)}


def test_csv_and_json_hold_the_same(runs):
    comparison = compare("table 1", [runs], CONFIGS)
    values = as_json(comparison)
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert sum(row["source"] == "paper" for row in rows) == 13 * 12
    for row in rows:
        [same] = [
            one
            for one in values[row["source"]]
            if one["row"] == row["row"] and one.get("beside", "") == row["beside"]
        ]
        value = same["values"][row["column"]]
        assert float(row["value"]) == (value["value"] if row["source"] == "ours" else value)
    assert len(values["not_run"]) == len(comparison.missing)


def test_bad_folders_and_files(tmp_path):
    with pytest.raises(BadInputError, match="There is no folder"):
        compare("table 1", [tmp_path / "none"], CONFIGS)
    broken = finetuned(tmp_path / "broken", "demo", _SOCIOECONOMIC, {"rmse": 1.0})
    (broken / "test.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInputError, match="cannot be read as JSON"):
        compare("table 1", [tmp_path], CONFIGS)
    (broken / "test.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BadInputError, match="holds no metrics"):
        compare("table 1", [tmp_path], CONFIGS)


def _evaluate(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    # As Python does for a script that it is given.
    monkeypatch.syspath_prepend(CONFIGS.parent)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(CONFIGS.parent / "evaluate.py"), run_name="__main__")
    return end.value.code


def test_commands(runs, monkeypatch, capsys):
    json_file, csv_file = runs / "table.json", runs / "table.csv"
    assert _evaluate(monkeypatch, "table", 1, "--runs", runs, "--json", json_file, "--csv", csv_file) == 0
    assert "Not run" in capsys.readouterr().out
    assert json_file.stat().st_size > 0
    assert csv_file.stat().st_size > 0
    assert _evaluate(monkeypatch, "figure", 5, "--runs", runs) == 0
    assert _evaluate(monkeypatch, "table", 2, "--runs", runs / "none") == 1
    assert "There is no folder" in capsys.readouterr().err
    assert _evaluate(monkeypatch, "table", 7) == 0
    assert "Not run: python benchmarks/table_7.py" in capsys.readouterr().out


def test_geo_bias_of_runs(tmp_path, monkeypatch, capsys):
    classes = finetuned(tmp_path / "classes", "demo", {}, {"top_1": 0.5})
    rows = [(10 + k / 1000, 50.0, k % 7, k % 7 if k < 20 else 0) for k in range(40)]
    records(classes, ("lon", "lat", "target", "prediction"), rows)
    quantities = finetuned(tmp_path / "quantities", "demo", {}, {"rmse": 1.0})
    header = ("lon", "lat", "target_a", "prediction_a", "target_b", "prediction_b")
    records(quantities, header, [(10 + k / 1000, 50.0, k, k + k % 5, 0.0, k) for k in range(40)])
    assert _evaluate(monkeypatch, "geo-bias", classes, quantities, "--json", tmp_path / "bias.json") == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    # Of the last 20 samples, those of class 0 are right by chance.
    assert printed[1].split()[-3:] == ["17", "40", "0"]
    assert printed[2].startswith(f"{quantities}, a")
    assert _evaluate(monkeypatch, "geo-bias", tmp_path) == 1
    (classes / "test_records.csv").unlink()
    assert _evaluate(monkeypatch, "geo-bias", classes) == 1
    assert "Only tasks on photos and places" in capsys.readouterr().err
