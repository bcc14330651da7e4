"""Tests of tools/demo_process.py with a program that stands for qgis_process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Writes its OUTPUTs unless it is told to fail or to forget one, and speaks as qgis_process does.
PROGRAM = """#!{python}
import pathlib, sys
given = dict(word.split("=", 1) for word in sys.argv[4:] if "=" in word)
print("----------------\\nInputs\\n----------------\\n\\nINPUT:\\tscene.tif\\nACCURACY:\\t0.1")
if "FAIL" in given:
    print("ERROR:\\tNo such scene.\\nNo such scene.\\nGive another one.", file=sys.stderr)
    sys.exit(1)
for name, value in given.items():
    if name.startswith("OUTPUT") and name != given.get("FORGET"):
        path = pathlib.Path(value)
        if not path.suffix:
            path.mkdir(exist_ok=True)
            path = path / "one.tif"
        path.write_text("new")
print("----------------\\nResults\\n----------------\\n\\nACCURACY:\\t0.97\\nOUTPUT:\\tout.tif")
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    import demo_process

    return demo_process


@pytest.fixture
def process(tool: ModuleType, tmp_path: Path) -> Any:
    program = tmp_path / "qgis process"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    return tool.Process(str(program), tmp_path / "profile", tmp_path / "work")


def test_a_step_knows_its_command_results_and_files(process: Any, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "layers").mkdir()
    (work / "layers" / "mine.tif").write_text("mine")
    step = process.run("gair:trainhead", INPUT="my scene.tif", OUTPUT="out.tif", OUTPUT_FOLDER="layers")
    assert step.command == (
        "'qgis process' run gair:trainhead -- 'INPUT=my scene.tif' OUTPUT=out.tif OUTPUT_FOLDER=layers"
    )
    assert step.results == {"ACCURACY": "0.97", "OUTPUT": "out.tif"}
    # Only what is new, also where other files lie.
    assert step.files == (work / "out.tif", work / "layers" / "one.tif")
    assert (work / "layers" / "mine.tif").read_text() == "mine"


def test_a_failure_says_why_once_and_loses_nothing(process: Any, tmp_path: Path) -> None:
    (tmp_path / "work" / "out.tif").write_text("old")
    with pytest.raises(SystemExit) as failed:
        process.run("gair:embed", FAIL="1", OUTPUT="out.tif")
    assert str(failed.value) == (
        "'qgis process' run gair:embed -- FAIL=1 OUTPUT=out.tif\nfailed: No such scene.\nGive another one."
    )
    assert (tmp_path / "work" / "out.tif").read_text() == "old"


def test_an_old_output_is_not_taken_for_a_new_one(process: Any, tmp_path: Path) -> None:
    (tmp_path / "work" / "out.tif").write_text("old")
    with pytest.raises(
        SystemExit, match=r"gair:embed said nothing of a failure, but did not write .*out\.tif"
    ):
        process.run("gair:embed", FORGET="OUTPUT", OUTPUT="out.tif")


def test_the_commands_before_the_first_step_work_without_a_screen(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "my demo").mkdir()
    qgis = tmp_path / "qgis_process"
    # As QGIS does, it falls over where it has neither a screen nor a word about it.
    qgis.write_text('#!/bin/sh\ntest "$QT_QPA_PLATFORM" = offscreen && echo "$@" in "$GAIR_PYTHON"\n')
    (tmp_path / "unzip").write_text('#!/bin/sh\ntest -d "$4"\n')
    for program in (qgis, tmp_path / "unzip"):
        program.chmod(0o755)
    commands = tool.setup_commands(qgis.name, tmp_path / "the gair.zip", tmp_path / "my demo")
    said = subprocess.run(
        ["/bin/sh", "-e", "-c", commands + "\npwd"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path / "home of mine")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.splitlines() == [f"plugins enable gair in {tool.GAIR_PYTHON}", str(tmp_path / "my demo")]


def test_without_qgis(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit, match="qgis_process is missing; run make setup-qgis"):
        tool.find_qgis()
