"""The model of the last task is kept until its file changes."""

from __future__ import annotations

import gair_core
from gair_core.head_checkpoint import load_head
from gair_core.inference.models import load_model


def test_a_file_is_kept_until_it_changes(tmp_path):
    path = tmp_path / "model.safetensors"
    model = load_model("demo")
    gair_core.save(model, path)
    kept = load_model(str(path))
    assert kept is not model
    assert load_model(str(path)) is kept
    path.unlink()
    gair_core.save(model, path)
    assert load_model(str(path)) is not kept


def test_the_demo_is_loaded_once_whoever_asks_for_it():
    model = load_model("demo")
    assert load_head("demo", load_model=load_model)[1] is model
    assert load_head("demo-land-cover", load_model=load_model)[1] is model
