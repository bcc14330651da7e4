"""What `gair info` says about models, heads and damaged files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gair_core
from gair_core.checkpoint import write_tensors
from gair_core.cli import main
from gair_core.errors import CheckpointError
from gair_core.finetune.world_land_cover import CLASSES
from gair_core.head_checkpoint import save_head
from gair_core.heads import AccuracyReport, HeadConfig, HeadMetadata, LinearHead
from gair_core.info import InfoRequest, describe
from gair_core.progress import Progress
from gair_core.sentinel2.bands import BANDS, MEAN, STD
from gair_core.task import Registered
from tests.core.test_checkpoint import CONFIG, METADATA, WIDTH, make

TASKS = {"info": Registered("gair_core.info", "describe a checkpoint")}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    gair_core.save(make(components=4), path, metadata=METADATA, dtype=torch.float16)
    return path


def info(model):
    return describe(InfoRequest(model=str(model)), Progress())


def test_a_model(saved):
    result, model = info(saved), make(components=4)
    assert (result.title, result.kind, result.name, result.file) == ("a small one", "model", "model", saved)
    assert result.bytes == saved.stat().st_size
    assert result.config == CONFIG
    assert result.intact
    assert result.fingerprint == gair_core.load(saved).checkpoint.fingerprint
    assert [(band.name, band.mean, band.std) for band in result.bands] == list(
        zip(BANDS, MEAN, STD, strict=True)
    )
    assert result.parameters["remote_sensing"] == sum(p.numel() for p in model.remote_sensing.parameters())
    assert result.parameters["street_view"] == sum(
        p.numel() for part in (model.street_view, model.street_view_projection) for p in part.parameters()
    )
    assert result.parameters["nili"] == (9 * WIDTH + 2) * WIDTH + WIDTH
    assert result.parameters["location"] == sum(p.numel() for p in model.location.parameters())
    assert result.basis.components == 4
    assert result.basis.explained_variance == tuple(gair_core.load(saved).basis.variance.tolist())
    kept = 3 * 8 * 2 + 1 + sum(tensor.numel() for tensor in model.basis.state_dict().values())
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    assert result.dtypes == {"float16": total - kept, "float32": kept}


def test_the_text_says_everything(saved):
    text = info(saved).text()
    for fact in (
        "a small one",
        str(saved),
        "remote_sensing",
        "10 m per pixel, tiles of 32 x 32 pixels, patches of 8",
        "B8A (2284.64 ± 762.085)",
        "pooling pooler, projection on",
        "one Linear",
        "0.07, learnable",
        "4 components explain",
        "MIT",
        "top1",
        "float16",
        gair_core.load(saved).checkpoint.fingerprint,
    ):
        assert fact in text, fact


def test_the_command_prints_json(saved, capsys):
    assert main(["info", str(saved), "--json"], TASKS) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"]["remote_sensing"]["gsd"] == 10
    assert result["provenance"]["licence"] == "MIT"


def test_the_demo_says_what_it_is():
    result = info("demo")
    assert (result.name, result.intact) == ("demo", True)
    assert result.file.name == "demo.safetensors"
    assert result.basis.components == 16
    text = result.text()
    assert "small, trained on a procedural world" in text
    assert "no real imagery" in text
    assert "untrained" not in text
    assert "photo to scene recall 1 0.27\n" in text
    assert "{" not in text
    assert "\nencoder:" not in text  # it needs none but itself


def test_the_demos_head_says_what_it_is():
    text = info("demo-land-cover").text()
    assert "pixel_linear, embed dim 128, pixels: windows 3, 5; gsd 10" in text
    assert "{" not in text
    assert "no real imagery" in text
    assert all(one.name in text for one in CLASSES)


def test_a_head(tmp_path):
    path = tmp_path / "roads.safetensors"
    entry = {"title": "roads", "classes": ["road", "no road"], "backbone": {"name": "demo"}}
    write_tensors(path, {"weight": torch.ones(2, 3)}, "head", entry)
    result = info(path)
    assert (result.kind, result.config, result.basis) == ("head", None, None)
    assert result.head == {"classes": ["road", "no road"], "backbone": {"name": "demo"}}
    assert result.parameters == {"head": 6}
    assert "classes:     road, no road\n" in result.text()


@pytest.mark.parametrize("embedded", [False, True])
def test_a_head_reads_well(tmp_path, embedded):
    model = gair_core.load("demo")
    metadata = HeadMetadata(title="land cover", classes=CLASSES)
    head = LinearHead(HeadConfig(embed_dim=model.config.embed_dim), metadata)
    report = AccuracyReport(
        data="200 tiles of two held-out cities",
        metrics={"mean_iou": 0.51234},
        class_metrics={"water": {"iou": 0.9}, "snow and ice": {"iou": 0.25, "f1": 0.4}},
    )
    head.metadata = head.metadata.model_copy(update={"accuracy": report, "ignore_value": 255})
    path = tmp_path / "cover.safetensors"
    save_head(head, path, model, embed_backbone=embedded)
    result = info(path)
    text = result.text()
    assert "{" not in text
    assert "None" not in text
    lines = text.splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("classes:"))
    rows = [line.split(None, 2 if index else 3) for index, line in enumerate(lines[begin : begin + 8])]
    assert rows[0] == ["classes:", "value", "colour", "name          iou   f1"]
    assert [row[:2] for row in rows[1:3]] == [["1", "#419bdf"], ["2", "#397d49"]]
    assert rows[1][2].split() == ["water", "0.9"]
    assert rows[7][2].split() == ["snow", "and", "ice", "0.25", "0.4"]
    # The table stands in one column.
    columns = {line.index(word) for line, word in zip(lines[begin:], ("colour", "#419bdf"), strict=False)}
    assert len(columns) == 1
    assert "mean iou 0.5123 (200 tiles of two held-out cities)" in text
    assert "linear, embed dim 128" in text
    assert "ignore value:" in text
    assert ("4 blocks, 128 wide" in text) == embedded
    assert ("inside this file" in text) == embedded
    assert (model.checkpoint.fingerprint in text) == (not embedded)
    assert result.parameters["head"] == sum(tensor.numel() for tensor in head.state_dict().values())
    assert ("encoder" in result.parameters) == embedded


def test_a_damaged_weight_is_noticed(saved):
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor.clone() for name, tensor in load_file(saved).items()}
    tensors["remote_sensing.norm.weight"][3] += 1
    save_file(tensors, saved, metadata)
    progress = Progress()
    result = describe(InfoRequest(model=str(saved)), progress)
    assert not result.intact
    assert "DOES NOT FIT" in result.text()
    assert progress.warnings == list(result.warnings) != []


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no file"):
        info(tmp_path / "none.safetensors")
