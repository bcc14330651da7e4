"""Every command and snippet of README.md and the guide is run as it stands, in the order of its page.

What cannot run, and what would take hours, stands in `lists.py` with the reason. A new command needs no
entry: it is run, and fails here until it works on the inputs of `inputs.py`.

The quick test of a page runs the ``gair`` commands and the Python snippets in this process. The slow one also
types into a shell what is left: training, QGIS, benchmarks.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from gair_core import cli
from tests.docs.inputs import MAKERS, SHARED, Library
from tests.docs.lists import BEFORE_SNIPPETS, NEEDS_DATA, NOT_RUN, PLACEHOLDERS, SMALLER
from tests.docs.pages import PAGES, ROOT, Step, steps

BIN = ROOT / ".venv" / "bin"
QGIS_PYTHON = "/usr/bin/python3"
SECONDS = 900
CHECKOUT = (".venv", "training", "benchmarks", "tools")

STEPS = {page: steps(page) for page in PAGES}


def runs(step: Step) -> bool:
    return step.text not in NOT_RUN and (step.text not in NEEDS_DATA or SHARED.is_dir())


def is_quick(step: Step) -> bool:
    """Whether it runs in this process within seconds: without QGIS, and without what training leaves."""
    if not runs(step) or step.kind == "file":
        return runs(step)
    words = with_inputs(step.text)
    if step.kind == "python":
        return "Qgs" not in words
    return re.match(r"(\.venv/bin/)?gair |python \w+\.py|export ", words) is not None and not re.search(
        r"runs/|stores/mine|\|", words
    )


def with_inputs(text: str) -> str:
    """What is typed for a command: on our inputs, and with less to do where it would take long."""
    for placeholder, name in {**PLACEHOLDERS, "FOLDER": str(SHARED / "data")}.items():
        text = re.sub(rf"(?<![\w./-]){re.escape(placeholder)}(?![\w.=-])", name, text)
    more = [words for start, words in SMALLER.items() if start in text and "--dry-run" not in text]
    return " ".join([text, *more]) if "--print-config" not in text else text


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


def enter(page: str, folder: Path, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out a page's folder and go there: the inputs it names, its own files, and what a checkout has."""
    texts = "\n".join(with_inputs(step.text) for step in STEPS[page] if runs(step))
    for name in MAKERS:
        if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-])", texts):
            library.lay(name, folder)
    for step in STEPS[page]:
        if step.kind == "file":
            (folder / step.file).write_text(step.text, "utf-8")
    for name in CHECKOUT:
        (folder / name).symlink_to(ROOT / name)
    if "--model gair " in f"{texts} ".replace("\n", " "):
        library.lay("data/gair/models/gair.safetensors", folder)  # as `gair download gair` leaves it
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    monkeypatch.delenv("GAIR_MODELS", raising=False)
    monkeypatch.setenv("PWD", str(folder))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(is_quick(step) and step.kind != "file" for step in STEPS[page])]
)
def test_quick_steps(
    page: str,
    library: Library,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    enter(page, tmp_path, library, monkeypatch)
    names: dict[str, Any] = {"__name__": "__main__"}
    wrong = [problem_of(step, names, monkeypatch, capsys) for step in STEPS[page] if is_quick(step)]
    assert not any(wrong), "\n\n".join(filter(None, wrong))


def problem_of(
    step: Step, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run a step in this process; returns what went wrong.

    Args:
        step: A command or a snippet.
        names: What the snippets of its page have defined so far.
        monkeypatch: Keeps what a step changes.
        capsys: Has what it printed.
    """
    try:
        if step.kind == "python":
            code = compile(BEFORE_SNIPPETS.get(step.page, "") + step.text, f"{step.page}:{step.line}", "exec")
            exec(code, names)  # noqa: S102
        elif step.kind == "command":
            run_here(with_inputs(step.text), monkeypatch)
    except Exception:
        return f"{step.where}\n{traceback.format_exc(limit=-3)}{''.join(capsys.readouterr())[-2000:]}"
    return ""


def run_here(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a ``gair`` command, a script of the page's folder or an ``export`` in this process.

    Raises:
        RuntimeError: It failed.
    """
    program, *words = shlex.split(os.path.expandvars(command))
    if program == "export":
        monkeypatch.setenv(*words[0].split("=", 1))
        return
    if program != "python":
        code: object = cli.main(words)
    else:
        monkeypatch.setattr(sys, "argv", words)
        try:
            code = runpy.run_path(words[0], run_name="__main__") and 0
        except SystemExit as stop:
            code = stop.code or 0
    if code != 0:
        raise RuntimeError(f"it ended with {code}")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a reader's shell: the checkout's programs, QGIS with the plugin, a profile of its own."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "programs"
    folder.mkdir()
    qgis = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
    if qgis is not None:
        # On Debian 12 the wrapper adds an option that the program does not know; the guide says so.
        (folder / "qgis_process").symlink_to(qgis)
    # Not the whole folder of .venv: QGIS's own Python takes a python3 on the PATH for its home, and crashes.
    (folder / "gair").symlink_to(BIN / "gair")
    (folder / "python").write_text(f'#!/bin/sh\nexec "{BIN}/python" "$@"\n', "utf-8")
    (folder / "python").chmod(0o755)
    plugins = home / "plugins"
    runpy.run_path(str(ROOT / "tools" / "stage.py"))["stage"](plugins)
    return {
        "PATH": os.pathsep.join([str(folder), os.environ["PATH"]]),
        "QGIS_PLUGINPATH": str(plugins),
        "GAIR_PYTHON": str(BIN / "python"),
        "QT_QPA_PLATFORM": "offscreen",
        "GDAL_PAM_ENABLED": "NO",
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(runs(one) and not is_quick(one) for one in STEPS[page])]
)
def test_all_steps(  # noqa: PLR0917 (they are fixtures)
    page: str,
    library: Library,
    programs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    todo = [step for step in STEPS[page] if runs(step)]
    uses_qgis = any("qgis" in step.text.lower() for step in todo)
    if uses_qgis and not shutil.which("qgis_process", path=programs["PATH"]):
        pytest.skip("needs QGIS: make setup-qgis")
    enter(page, tmp_path, library, monkeypatch)
    # qgis_process crashes where the folder of its profile is missing.
    Path("profile").mkdir()
    monkeypatch.setenv("QGIS_CUSTOM_CONFIG_PATH", str(tmp_path / "profile"))
    if uses_qgis and not any("plugins enable" in step.text for step in todo):
        problem_in_shell(Step(page, 0, "command", "qgis_process plugins enable gair"), programs)
    names: dict[str, Any] = {"__name__": "__main__"}
    wrong = [
        problem_of(step, names, monkeypatch, capsys) if is_quick(step) else problem_in_shell(step, programs)
        for step in todo
    ]
    assert not any(wrong), "\n\n".join(filter(None, wrong))


def problem_in_shell(step: Step, programs: dict[str, str]) -> str:
    """Type a step into a shell; returns what went wrong."""
    text = with_inputs(step.text)
    if step.kind == "python":
        Path("snippet.py").write_text(f"from qgis.core import *\n{step.text}", "utf-8")
        text = f"{QGIS_PYTHON} snippet.py"
    run = subprocess.run(
        ["/bin/bash", "-c", text],
        env={**os.environ, **programs},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    said = (run.stdout + run.stderr)[-3000:]
    return "" if run.returncode == 0 else f"{step.where}\n{text}\nended with {run.returncode}: {said}"


def test_the_list_names_what_is_in_the_guide() -> None:
    texts = {step.text for listed in STEPS.values() for step in listed}
    assert [text for text in (*NOT_RUN, *NEEDS_DATA) if text not in texts] == []
    assert [start for start in SMALLER if not any(start in text for text in texts)] == []
    assert [
        step.where for listed in STEPS.values() for step in listed if step.kind == "windows" and runs(step)
    ] == []


def test_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    known = set(" ".join(re.findall(r"^([a-z-]+(?: [a-z-]+)*):(?!=)", makefile, re.MULTILINE)).split())
    asked = {
        step.text.split()[1] for listed in STEPS.values() for step in listed if step.text.startswith("make ")
    }
    assert asked - known == set()


@pytest.mark.parametrize(
    "command",
    [
        "gair --help",
        "gair segment scene.tif classes.tif",
        "python training/finetune.py training/configs/finetune/burn_scars.yaml --print-config",
    ],
)
def test_programs_start(command: str, library: Library, tmp_path: Path) -> None:
    library.lay("scene.tif", tmp_path)
    (tmp_path / "training").symlink_to(ROOT / "training")
    environment = {**os.environ, "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}
    subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=SECONDS,
    )
