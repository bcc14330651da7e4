"""Models by name: the search order, the demo, and names that nobody knows."""

from __future__ import annotations

import os
import time

import numpy as np
import platformdirs
import pytest
import torch

import gair_core
from gair_core import registry
from gair_core.catalogue import ModelsRequest, list_catalogue
from gair_core.checkpoint import fingerprint_of
from gair_core.config import GAIRConfig
from gair_core.demo import build_demo
from gair_core.errors import CheckpointError
from gair_core.metadata import CheckpointMetadata
from gair_core.model import GAIR
from gair_core.progress import Progress
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
    with pytest.raises(CheckpointError, match=r"'andes'; registered are: alps, demo\. .*GAIR_MODELS"):
        gair_core.load("andes")


def test_listing(folders):
    put(folders[1] / "alps.safetensors", "the Alps")
    (folders[1] / "broken.safetensors").write_bytes(b"broken")
    (folders[1] / "notes.txt").write_text("no model")
    models = registry.list_models()
    assert [model.name for model in models] == ["alps", "broken", "demo"]
    assert models[0].path == folders[1] / "alps.safetensors"
    result = list_catalogue(ModelsRequest(), Progress())
    assert [(entry.name, entry.kind) for entry in result.models] == [
        ("alps", "model"),
        ("broken", "damaged"),
        ("demo", "model"),
    ]
    assert result.models[0].parts == ("location",)
    assert "broken.safetensors" in result.warnings[0]
    assert result.folders[:2] == tuple(folders[:2])
    assert "the Alps (location)" in result.text()
    assert "demo (untrained)" in result.text()


def test_a_file_named_demo_replaces_the_built_in_one(folders):
    put(folders[2] / "demo.safetensors", "trained")
    assert gair_core.load("demo").checkpoint.title == "trained"


def test_the_demo_says_what_it_is():
    model = gair_core.load("demo")
    assert model.checkpoint.title == "demo (untrained)"
    assert model.checkpoint.name == "demo"
    assert model.checkpoint.fingerprint == fingerprint_of(model.state_dict())
    assert model.config == GAIRConfig.preset("tiny")
    assert not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) <= 5_500_000


def test_the_demo_is_always_the_same_and_touches_no_random_state():
    torch.manual_seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = build_demo()
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    torch.manual_seed(2)
    second = build_demo()
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_the_demo_was_drawn_by_numpy():
    """Pins the stream: a change of the weights would orphan every head trained on the demo."""
    import zlib

    name = "remote_sensing.blocks.3.mlp.fc2.weight"
    generator = np.random.Generator(np.random.PCG64([20250316, zlib.crc32(name.encode())]))
    wanted = generator.standard_normal((192, 768), dtype=np.float32) * np.float32(768**-0.5)
    assert np.array_equal(build_demo().state_dict()[name].numpy(), wanted)


def test_the_demo_is_quick_to_build():
    build_demo()
    start = time.process_time()
    build_demo()
    assert time.process_time() - start < 3  # takes 0.2 s; the rest is for busy machines


def test_the_demo_has_a_basis_whose_int8_scales_fit_its_embeddings():
    model = gair_core.load("demo")
    basis = model.basis
    assert basis.components.shape == (16, model.config.embed_dim)
    assert torch.allclose(basis.components @ basis.components.mT, torch.eye(16), atol=1e-5)
    assert bool((basis.variance.diff() <= 0).all())
    assert 0.5 < float(basis.variance.sum()) <= 1
    scenes = torch.rand((2, 10, 96, 96), generator=torch.Generator().manual_seed(5)) * 0.2 + 0.4
    with torch.inference_mode():
        lattice = model.localizer.lattice(model.encode_remote_sensing(scenes))
        steps = basis.project(lattice.movedim(1, -1)) / basis.scale
    assert float((steps.abs() <= 127).float().mean()) > 0.99


def test_the_demo_tells_scenes_photos_and_places_apart():
    model = gair_core.load("demo")
    generator = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        images = torch.rand((3, 10, 96, 96), generator=generator)
        photos = model.encode_street_view(torch.randn((3, 3, 128, 128), generator=generator))
        z = model.interpolate(model.encode_remote_sensing(images), torch.full((3, 1, 2), 0.5))[:, 0]
        e = model.encode_location(torch.tensor([[0, 0], [10, 50], [-70, -30]], dtype=torch.float64))
    for embeddings in (photos, z, e):
        assert bool(embeddings.isfinite().all())
        assert len(torch.unique(embeddings.round(decimals=4), dim=0)) == 3
