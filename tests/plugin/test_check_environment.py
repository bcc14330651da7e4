"""Tests of gair:checkenvironment through Processing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gair.worker_client import close_shared_client
from qgis.core import QgsProcessingException, QgsProcessingFeedback


@pytest.fixture
def another_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A session whose worker and environment are the test's own."""
    close_shared_client()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    yield monkeypatch
    close_shared_client()


def check(**parameters: object) -> dict[str, object]:
    import processing

    return processing.run("gair:checkenvironment", parameters)


def test_a_good_environment(provider: object, gair_python: Path, tmp_path: Path) -> None:
    report = tmp_path / "new folder" / "report ä.html"
    result = check(DEVICE="cpu", HTML=str(report))
    assert result["OK"] is True
    assert result["PYTHON"] == str(gair_python)
    for words in ("the environment variable GAIR_PYTHON", "gair_core 0.", "Test 'coordinates': pass", "demo"):
        assert words in result["TEXT"]
    assert result["TEXT"].endswith("Everything works.")
    page = report.read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "Test &#x27;coordinates&#x27;" in page


def test_no_environment_is_a_finding_with_advice(
    provider: object, another_environment: pytest.MonkeyPatch
) -> None:
    another_environment.delenv("GAIR_PYTHON")
    result = check()
    assert result["OK"] is False
    assert result["PYTHON"] == ""
    assert "Interpreter in use: none" in result["TEXT"]
    assert "gair:createenvironment" in result["TEXT"]
    assert "HTML" not in result


def test_a_missing_interpreter_is_named(provider: object, another_environment: pytest.MonkeyPatch) -> None:
    another_environment.setenv("GAIR_PYTHON", "/no/python")
    result = check()
    assert result["OK"] is False
    assert "/no/python does not exist (the environment variable GAIR_PYTHON)" in result["TEXT"]


def test_an_interpreter_without_gair_core(provider: object, another_environment: pytest.MonkeyPatch) -> None:
    another_environment.setenv("GAIR_PYTHON", "/usr/bin/python3")
    result = check()
    assert result["OK"] is False
    assert "the Python /usr/bin/python3 has no gair_core" in result["TEXT"]


def test_a_model_that_does_not_exist_is_a_fault_of_a_worker_that_is_there(
    provider: object, gair_python: Path, tmp_path: Path
) -> None:
    result = check(MODEL=str(tmp_path / "none.safetensors"))
    assert result["OK"] is False
    assert "Worker: gair_core" in result["TEXT"]
    assert "none.safetensors" in result["TEXT"]


def test_a_report_that_cannot_be_written_raises(
    provider: object, another_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    another_environment.setenv("GAIR_PYTHON", "/no/python")
    (tmp_path / "file").write_text("")
    with pytest.raises(QgsProcessingException, match="cannot be written"):
        check(HTML=str(tmp_path / "file" / "report.html"))


def test_cancel(provider: object, gair_python: Path) -> None:
    import processing

    class Cancelled(QgsProcessingFeedback):
        def isCanceled(self) -> bool:
            return True

    with pytest.raises(QgsProcessingException, match="Cancelled"):
        processing.run("gair:checkenvironment", {}, feedback=Cancelled())
