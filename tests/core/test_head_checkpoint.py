"""Files of heads: round trips, their encoder found, missing or another one."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gair_core import checkpoint
from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.head_checkpoint import HEAD_KINDS, is_head, load_head, save_head
from gair_core.heads import AccuracyReport, HeadConfig, HeadMetadata, LinearHead
from gair_core.metadata import Provenance
from gair_core.model import GAIR
from tests.core.inference import brightness


@pytest.fixture(autouse=True)
def _empty_registry(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("GAIR_MODELS", str(tmp_path_factory.mktemp("registry")))


@pytest.fixture
def model(tmp_path) -> GAIR:
    return brightness.save_model(tmp_path / "encoder.safetensors")


def test_a_head_comes_back_as_it_was_with_the_encoder_beside_it(model, tmp_path):
    metadata = HeadMetadata(
        title="fields",
        classes=brightness.CLASSES,
        ignore_value=255,
        accuracy=AccuracyReport(
            data="a fifth, held out", metrics={"mean_iou": 0.5}, confusion=((1, 2), (3, 4))
        ),
        provenance=Provenance(licence="CC0"),
    )
    head = LinearHead(HeadConfig(embed_dim=16), metadata)
    torch.nn.init.normal_(head.weight)
    saved = save_head(head, tmp_path / "fields.safetensors", model)
    loaded, encoder = load_head(tmp_path / "fields.safetensors")
    assert loaded.metadata == saved
    assert saved.model_copy(update={"backbone": None, "name": "", "fingerprint": ""}) == metadata
    assert saved.backbone.name == "encoder"
    assert saved.backbone.sha256 == model.checkpoint.fingerprint == encoder.checkpoint.fingerprint
    assert torch.equal(loaded.weight, head.weight)
    assert not loaded.training
    with safe_open(tmp_path / "fields.safetensors", "pt") as file:
        assert set(file.keys()) == {"weight", "bias"}
    assert is_head(tmp_path / "fields.safetensors")
    assert not is_head(tmp_path / "encoder.safetensors")
    assert not is_head("demo")


def test_an_embedded_encoder_is_all_that_is_needed(tmp_path):
    config = GAIRConfig.preset("tiny")
    checkpoint.save(GAIR(config), tmp_path / "full.safetensors")
    model = checkpoint.load(tmp_path / "full.safetensors")
    head = LinearHead(HeadConfig(embed_dim=config.embed_dim), HeadMetadata(classes=brightness.CLASSES))
    (tmp_path / "alone").mkdir()
    save_head(head, tmp_path / "alone" / "whole.safetensors", model, embed_backbone=True)
    (tmp_path / "full.safetensors").unlink()
    _, encoder = load_head(tmp_path / "alone" / "whole.safetensors")
    assert encoder.parts == ("remote_sensing", "nili")
    assert encoder.checkpoint.fingerprint == model.checkpoint.fingerprint
    images = torch.rand(1, 10, 32, 32)
    with torch.no_grad():
        assert torch.equal(
            encoder.nili.lattice(encoder.encode_remote_sensing(images)),
            model.nili.lattice(model.encode_remote_sensing(images)),
        )


def test_a_missing_encoder_is_named_and_can_be_given(model, tmp_path):
    brightness.save_bright_head(tmp_path / "head.safetensors", model)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = shutil.move(tmp_path / "encoder.safetensors", elsewhere / "renamed.safetensors")
    with pytest.raises(
        CheckpointError, match=r"trained on the model 'encoder'.*no such model is here"
    ) as info:
        load_head(tmp_path / "head.safetensors")
    assert model.checkpoint.fingerprint[:12] in str(info.value)
    assert "encoder.safetensors" in info.value.hint
    _, encoder = load_head(tmp_path / "head.safetensors", backbone=str(moved))
    assert encoder.checkpoint.fingerprint == model.checkpoint.fingerprint


def test_a_registered_encoder_is_found_by_fingerprint_whatever_its_name(model, tmp_path, monkeypatch):
    brightness.save_bright_head(tmp_path / "head.safetensors", model)
    registry = tmp_path / "registry"
    registry.mkdir()
    shutil.move(tmp_path / "encoder.safetensors", registry / "renamed.safetensors")
    (registry / "broken.safetensors").write_bytes(b"not one")
    brightness.save_bright_head(registry / "head.safetensors", model)
    monkeypatch.setenv("GAIR_MODELS", str(registry))
    for name in (tmp_path / "head.safetensors", "head"):
        _, encoder = load_head(name)
        assert encoder.checkpoint.name == "renamed"


@pytest.mark.parametrize("given", [False, True])
def test_another_encoder_is_an_error_that_names_both(given, model, tmp_path):
    brightness.save_bright_head(tmp_path / "head.safetensors", model)
    with torch.no_grad():
        model.nili.layers[0].bias += 1
    other = checkpoint.save(model, tmp_path / "encoder.safetensors")
    backbone = str(tmp_path / "encoder.safetensors") if given else None
    with pytest.raises(CheckpointError, match="is another one") as info:
        load_head(tmp_path / "head.safetensors", backbone=backbone)
    assert other.fingerprint[:12] in str(info.value)


def test_an_encoder_that_was_never_saved_cannot_be_named(tmp_path):
    model = GAIR(GAIRConfig.preset("tiny"))
    head = LinearHead(HeadConfig(embed_dim=model.config.embed_dim), HeadMetadata(classes=brightness.CLASSES))
    with pytest.raises(CheckpointError, match="never saved"):
        save_head(head, tmp_path / "head.safetensors", model)
    assert not list(tmp_path.iterdir())
    save_head(head, tmp_path / "head.safetensors", model, embed_backbone=True)
    assert load_head(tmp_path / "head.safetensors")[1].parts == ("remote_sensing", "nili")


def test_the_demo_is_a_head_on_the_demo_model():
    head, model = load_head("demo")
    assert (head.metadata.name, model.checkpoint.name) == ("demo-land-cover", "demo")


def test_a_file_of_the_users_called_demo_may_be_a_head_of_its_own(model, tmp_path, monkeypatch):
    registry = tmp_path / "registry"
    registry.mkdir()
    brightness.save_bright_head(registry / "demo.safetensors", model)
    monkeypatch.setenv("GAIR_MODELS", str(registry))
    head, _ = load_head("demo", backbone=str(tmp_path / "encoder.safetensors"))
    assert head.metadata.name == "demo"


def test_a_model_is_not_a_head(model, tmp_path):
    with pytest.raises(CheckpointError, match="is a model without a head") as info:
        load_head(tmp_path / "encoder.safetensors")
    assert "train-head" in info.value.hint


def change_entry(path, **changes) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        entry = json.loads(file.metadata()["gair"])
    save_file(tensors, path, {"gair": json.dumps({**entry, **changes})})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_kind": "oracle"}, "unknown kind 'oracle'.*linear, change_linear"),
        ({"config": {"embed_dim": 0}}, "embed_dim"),
        ({"config": {"embed_dim": 9}}, r"mis-shaped: weight \[2, 16\].*\[2, 9\]"),
        ({"classes": []}, "classes"),
        ({"backbone": None}, "does not say which encoder"),
    ],
)
def test_impossible_files_are_refused(changes, words, model, tmp_path):
    brightness.save_bright_head(tmp_path / "head.safetensors", model)
    change_entry(tmp_path / "head.safetensors", **changes)
    with pytest.raises(BadInputError, match=words):
        load_head(tmp_path / "head.safetensors")


def test_every_kind_is_known_by_its_own_name():
    assert {name: kind.kind for name, kind in HEAD_KINDS.items()} == {name: name for name in HEAD_KINDS}
