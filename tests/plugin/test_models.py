"""Models are found where gair_core finds them, and the last choice is remembered."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from gair import settings
from gair.models import (
    default_model,
    model_folders,
    registered_models,
    resolve_model,
    user_folder,
)
from gair.worker_client import shared_client


@pytest.fixture
def _forgetful():
    settings.remember_model("segment", "")
    yield
    settings.remember_model("segment", "")


def test_folders_are_searched_in_gair_cores_order(monkeypatch):
    monkeypatch.setenv("GAIR_MODELS", os.pathsep.join(["/models/one", "", "/models/two"]))
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert model_folders()[:3] == (Path("/models/one"), Path("/models/two"), Path("/data/gair/models"))


def test_names_are_stems_of_checkpoints_and_demo_is_first(tmp_path):
    for name in ("zeta.safetensors", "alpha.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.safetensors").mkdir()
    assert registered_models((tmp_path, tmp_path / "missing")) == ("demo", "alpha", "zeta")


def test_agrees_with_the_worker(provider, gair_python):
    result = shared_client().run("models", {})
    assert {model["name"] for model in result["models"]} == set(registered_models())
    # The worker's own package folder is another copy of what the plugin carries.
    assert str(user_folder()) in result["folders"]


@pytest.mark.usefixtures("_forgetful")
def test_default_is_demo_until_something_else_worked(monkeypatch, tmp_path):
    assert default_model("segment") == "demo"
    monkeypatch.setenv("GAIR_MODELS", str(tmp_path))
    (tmp_path / "crops.safetensors").touch()
    settings.remember_model("segment", "crops")
    assert default_model("segment") == "crops"
    assert default_model("embed") == "demo"
    (tmp_path / "crops.safetensors").unlink()
    assert default_model("segment") == "demo"


@pytest.mark.usefixtures("_forgetful")
def test_a_remembered_file_counts_while_it_exists(tmp_path):
    file = tmp_path / "m.safetensors"
    file.touch()
    settings.remember_model("segment", str(file))
    assert default_model("segment") == str(file)
    file.unlink()
    assert default_model("segment") == "demo"


def test_files_become_absolute_and_names_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("m.safetensors").touch()
    assert resolve_model("m.safetensors") == str(tmp_path / "m.safetensors")
    assert resolve_model("demo") == "demo"
    assert resolve_model("missing.safetensors") == "missing.safetensors"


def test_interpreter_setting_is_kept_and_forgotten():
    settings.set_interpreter(sys.executable)
    assert settings.interpreter() == sys.executable
    settings.set_interpreter("")
    assert settings.interpreter() == ""


def test_dialog_offers_names_and_takes_any_text(provider, monkeypatch, tmp_path):
    wrappers = pytest.importorskip("processing.gui.wrappers")
    from qgis.PyQt.QtWidgets import QWidget

    monkeypatch.setenv("GAIR_MODELS", str(tmp_path))
    (tmp_path / "crops.safetensors").touch()
    algorithm = provider.algorithm("segment").create()
    dialog = QWidget()
    wrapper = wrappers.WidgetWrapperFactory.create_wrapper(algorithm.parameterDefinition("MODEL"), dialog)
    names = wrapper.widget.list
    assert [names.itemText(i) for i in range(names.count())] == ["demo", "crops", "demo-land-cover"]
    assert wrapper.value() == "demo"
    wrapper.setValue("/some/where/my model.safetensors")
    assert wrapper.value() == "/some/where/my model.safetensors"
    wrapper.widget.set_text(" ")
    with pytest.raises(wrappers.InvalidParameterValue):
        wrapper.value()
