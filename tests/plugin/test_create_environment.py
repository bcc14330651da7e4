"""Tests of gair:createenvironment through Processing: with a stand-in Python, and once for real."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from gair import environment, settings
from gair.settings import data_folder
from qgis.core import QgsProcessingException, QgsProcessingFeedback

from .conftest import STAGE
from .stand_in import StandIn


class Feedback(QgsProcessingFeedback):
    """Keeps the log in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def pushInfo(self, info: str) -> None:
        self.lines.append(info)

    def pushCommandInfo(self, info: str) -> None:
        self.lines.append(info)

    def pushWarning(self, warning: str) -> None:
        self.lines.append(f"warning: {warning}")

    def reportError(self, error: str, fatalError: bool = False) -> None:  # noqa: ARG002 - QGIS's name
        self.lines.append(f"error: {error}")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in base Python, and a user without any environment."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data ä"))
    monkeypatch.delenv("GAIR_PYTHON")
    yield StandIn(tmp_path / "base", environment.carried_version(str(STAGE / "gair")))
    settings.set_interpreter("")


def create(feedback: QgsProcessingFeedback | None = None, **parameters: object) -> dict[str, object]:
    import processing

    return processing.run("gair:createenvironment", parameters, feedback=feedback or Feedback())


def test_the_commands_are_shown_and_nothing_is_done(provider: object, stand_in: StandIn) -> None:
    feedback = Feedback()
    result = create(
        feedback, COMMANDS_ONLY=True, PYTHON=str(stand_in.path), INDEX_URL="https://me:pass@mirror"
    )
    assert result["PYTHON"] == ""
    commands = result["COMMANDS"].splitlines()
    assert commands[0].startswith(f"{stand_in.path} -I -m venv ")
    assert "--index-url https://download.pytorch.org/whl/cpu torch torchvision" in commands[2]
    assert "https://****@mirror" in commands[3]
    assert result["COMMANDS"] in feedback.lines
    assert stand_in.calls == []
    assert not Path(data_folder()).exists()


def test_the_environment_is_built_and_in_use(provider: object, stand_in: StandIn) -> None:
    settings.set_interpreter("/an/older/choice")
    feedback = Feedback()
    result = create(feedback, BUILD="index", PYTHON=str(stand_in.path))
    assert result["PYTHON"] == environment.created_interpreter(data_folder(), "linux")
    assert Path(result["PYTHON"]).is_file()
    assert settings.interpreter() == ""
    # The commands come before what they print.
    assert feedback.lines.index(result["COMMANDS"]) < feedback.lines.index("Collecting pip>=24.1")
    assert any("/an/older/choice" in line for line in feedback.lines)
    assert feedback.progress() > 90


def test_building_again_removes_the_older_one(provider: object, stand_in: StandIn) -> None:
    first = create(BUILD="index", PYTHON=str(stand_in.path))["PYTHON"]
    second = create(BUILD="index", PYTHON=str(stand_in.path))["PYTHON"]
    assert first != second
    assert not Path(first).exists()
    assert Path(second).is_file()


def test_another_folder_is_noted_in_the_setting(
    provider: object, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAIR_PYTHON", "/somewhere/python")
    feedback = Feedback()
    result = create(feedback, BUILD="index", PYTHON=str(stand_in.path), FOLDER=str(tmp_path / "my folder"))
    assert settings.interpreter() == result["PYTHON"]
    assert Path(result["PYTHON"]).is_relative_to(tmp_path / "my folder")
    assert any(line.startswith("warning:") and "/somewhere/python" in line for line in feedback.lines)


def test_a_failure_raises_with_the_installers_words_and_advice(provider: object, stand_in: StandIn) -> None:
    stand_in.behave("fail")
    with pytest.raises(QgsProcessingException, match="No matching distribution") as caught:
        create(BUILD="index", PYTHON=str(stand_in.path))
    assert "TORCH_INDEX_URL" in str(caught.value)
    assert list(Path(data_folder()).iterdir()) == []


def test_debian_without_venv_is_told_what_to_install(provider: object, stand_in: StandIn) -> None:
    stand_in.behave("without ensurepip")
    with pytest.raises(QgsProcessingException, match="sudo apt install python3-venv"):
        create(PYTHON=str(stand_in.path))


def test_cancel_leaves_nothing(provider: object, stand_in: StandIn) -> None:
    stand_in.behave("hang")

    class Cancelling(Feedback):
        def isCanceled(self) -> bool:
            return stand_in.child > 0

    with pytest.raises(QgsProcessingException, match="Cancelled"):
        create(Cancelling(), BUILD="index", PYTHON=str(stand_in.path))
    assert list(Path(data_folder()).iterdir()) == []


def test_the_plugins_folder_is_refused(provider: object, stand_in: StandIn) -> None:
    with pytest.raises(QgsProcessingException, match="plugin's folder"):
        create(PYTHON=str(stand_in.path), FOLDER=str(STAGE / "gair" / "environment"))


@pytest.mark.slow
def test_a_real_environment_works(provider: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes minutes and gigabytes: the packages come from the configured index."""
    import processing
    from gair.worker_client import close_shared_client

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("GAIR_PYTHON")
    close_shared_client()
    result = create(BUILD="index")
    checked = processing.run("gair:checkenvironment", {})
    assert checked["OK"], checked["TEXT"]
    assert checked["PYTHON"] == result["PYTHON"]
    assert os.fspath(tmp_path) in result["PYTHON"]
    close_shared_client()
    # pytest keeps the folders of its last runs; this one has gigabytes.
    shutil.rmtree(tmp_path)
