"""Models by name: the search order, the demo, and names that nobody knows."""

from __future__ import annotations

import os
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch

import gair_core
from gair_core import registry
from gair_core.catalogue import ModelsRequest, list_catalogue
from gair_core.checkpoint import stored_tensors
from gair_core.errors import CheckpointError
from gair_core.finetune.world_land_cover import CLASSES
from gair_core.head_checkpoint import load_head
from gair_core.info import InfoRequest, describe
from gair_core.metadata import CheckpointMetadata
from gair_core.model import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.bands import MEAN, STD, normalize
from gair_core.world import World
from tests.core.test_checkpoint import partial


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Three folders: two in the variable, and the user's."""
    paths = [tmp_path / name for name in ("first", "second", "user/models")]
    for path in paths:
        path.mkdir(parents=True)
    monkeypatch.setenv(registry.VARIABLE, os.pathsep.join(map(str, [*paths[:2], tmp_path / "absent"])))
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: tmp_path / "user")
    return paths


def put(path, title):
    gair_core.save(GAIR(partial("location")), path, metadata=CheckpointMetadata(title=title))


def test_the_first_folder_wins(folders):
    for folder in folders:
        put(folder / "alps.safetensors", folder.name)
    assert gair_core.load("alps").checkpoint.title == "first"
    (folders[0] / "alps.safetensors").unlink()
    assert gair_core.load("alps").checkpoint.title == "second"
    (folders[1] / "alps.safetensors").unlink()
    model = gair_core.load("alps")
    assert (model.checkpoint.title, model.checkpoint.name) == ("models", "alps")


def test_a_path_is_no_name(folders, monkeypatch):
    put(folders[0] / "alps.safetensors", "registered")
    monkeypatch.chdir(folders[0].parent)
    put(folders[0].parent / "alps.safetensors", "here")
    assert gair_core.load("alps.safetensors").checkpoint.title == "here"
    assert gair_core.load("alps").checkpoint.title == "registered"


def test_an_unknown_name_lists_the_known(folders):
    put(folders[1] / "alps.safetensors", "x")
    with pytest.raises(
        CheckpointError, match=r"'andes'; registered are: alps, demo, demo-land-cover\. .*GAIR_MODELS"
    ):
        gair_core.load("andes")


def test_listing(folders):
    put(folders[1] / "alps.safetensors", "the Alps")
    (folders[1] / "broken.safetensors").write_bytes(b"broken")
    (folders[1] / "notes.txt").write_text("no model")
    models = registry.list_models()
    assert [model.name for model in models] == ["alps", "broken", "demo", "demo-land-cover"]
    assert models[0].path == folders[1] / "alps.safetensors"
    result = list_catalogue(ModelsRequest(), Progress())
    assert [(entry.name, entry.kind) for entry in result.models] == [
        ("alps", "model"),
        ("broken", "damaged"),
        ("demo", "model"),
        ("demo-land-cover", "head"),
    ]
    assert result.models[0].parts == ("location",)
    assert "broken.safetensors" in result.warnings[0]
    assert result.folders[:2] == tuple(folders[:2])
    assert "the Alps (location)" in result.text()
    assert "GAIR demo: small, trained on a procedural world" in result.text()


def test_a_file_named_demo_replaces_the_built_in_one(folders):
    put(folders[2] / "demo.safetensors", "trained")
    assert gair_core.load("demo").checkpoint.title == "trained"


def test_without_any_file_the_message_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "PACKAGED", tmp_path / "lost")
    with pytest.raises(CheckpointError, match=r"'demo'; registered are: none\."):
        gair_core.load("demo")


def test_the_demo_says_what_it_is():
    model = gair_core.load("demo")
    assert model.checkpoint.name == "demo"
    assert model.checkpoint.title == "GAIR demo: small, trained on a procedural world"
    provenance = model.checkpoint.provenance
    assert provenance.licence == "Apache-2.0"
    assert "procedural world" in provenance.training_data
    assert "no real imagery" in provenance.training_data
    assert provenance.git_revision
    assert provenance.metrics["photo_to_scene_recall_1"] > 10 * provenance.metrics["chance_recall_1"]
    assert not model.training
    assert model.parts == ("remote_sensing", "nili", "street_view", "location")


def test_the_demos_files_are_whole_small_and_half_precision():
    described = [describe(InfoRequest(model=name), Progress()) for name in ("demo", "demo-land-cover")]
    assert all(one.intact for one in described)
    assert sum(one.bytes for one in described) <= 12_000_000
    stored = stored_tensors(described[0].file)
    kept = {name for name, tensor in stored.items() if tensor.dtype == "F32"}
    precise = (".frequencies", "log_temperature")
    assert kept == {name for name in stored if name.startswith("basis.") or name.endswith(precise)}
    assert {tensor.dtype for name, tensor in stored.items() if name not in kept} == {"F16"}


def test_the_demos_head_belongs_to_the_demo():
    head, model = load_head("demo")
    named, _ = load_head("demo-land-cover")
    assert head.metadata == named.metadata
    assert head.metadata.backbone.sha256 == model.checkpoint.fingerprint
    assert head.metadata.backbone.name == model.checkpoint.name == "demo"
    assert head.kind == "pixel_linear"
    assert [one.name for one in head.classes] == [one.name for one in CLASSES]
    assert "no real imagery" in head.metadata.provenance.training_data
    assert 0.3 < head.metadata.accuracy.metrics["mean_iou"] < 1


def test_wheel_and_plugin_carry_the_demo():
    root = Path(gair_core.__file__).parents[1]
    sys.path.insert(0, str(root / "tools"))
    try:
        import stage
    finally:
        sys.path.pop(0)
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11 to read pyproject.toml")
    names = {"demo.safetensors", "demo-land-cover.safetensors"}
    models = Path("gair_core", "models")
    assert {Path("core") / models / name for name in names} <= set(stage.sources())
    with (root / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["gair_core"]
    carried = {path for pattern in patterns for path in (root / "gair_core").glob(pattern)}
    assert {root / models / name for name in names} <= carried


def test_the_demo_is_quick_to_load():
    gair_core.load("demo")
    start = time.process_time()
    gair_core.load("demo")
    assert time.process_time() - start < 3  # takes 0.1 s; the rest is for busy machines


@pytest.fixture(scope="module")
def city():
    """A city of a world that no training saw."""
    return World(seed=4711).city(9, 96)


def test_the_demo_has_a_basis_whose_int8_scales_fit_its_embeddings(city):
    model = gair_core.load("demo")
    basis = model.basis
    assert basis.components.shape == (16, model.config.embed_dim)
    assert torch.allclose(basis.components @ basis.components.mT, torch.eye(16), atol=1e-5)
    assert bool((basis.variance.diff() <= 0).all())
    assert 0.5 < float(basis.variance.sum()) <= 1
    scenes = torch.from_numpy(city.scene(date(2023, 7, 10)).astype(np.float32))
    with torch.inference_mode():
        images = normalize(scenes, MEAN, STD, quantize=False)[None]
        lattice = model.localizer.lattice(model.encode_remote_sensing(images))
        steps = basis.project(lattice.movedim(1, -1)) / basis.scale
    assert float((steps.abs() <= 127).float().mean()) > 0.99
    assert float(steps[..., 0].abs().amax()) > 20  # the steps are not wasted either


def test_the_demo_tells_scenes_photos_and_places_apart():
    model = gair_core.load("demo")
    generator = torch.Generator().manual_seed(3)
    side = model.config.street_view.image_size
    with torch.inference_mode():
        images = torch.rand((3, 10, 96, 96), generator=generator)
        photos = model.encode_street_view(torch.randn((3, 3, side, side), generator=generator))
        z = model.interpolate(model.encode_remote_sensing(images), torch.full((3, 1, 2), 0.5))[:, 0]
        e = model.encode_location(torch.tensor([[0, 0], [10, 50], [-70, -30]], dtype=torch.float64))
    for embeddings in (photos, z, e):
        assert bool(embeddings.isfinite().all())
        assert len(torch.unique(embeddings.round(decimals=4), dim=0)) == 3
