"""Tests of qgis_plugin/installation.py and command.py: the commands of all platforms, and running them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gair import environment, installation
from gair.command import run_command
from gair.installation import BasePython, Build, InstallationError, Listener, Machine, Options

from .conftest import STAGE
from .stand_in import StandIn

CORE = STAGE / "gair" / "core"
VERSION = environment.carried_version(str(STAGE / "gair"))


def machine(platform: str = "linux", **variables: str) -> Machine:
    return Machine(platform, {"PATH": os.environ["PATH"], **variables}, dict(os.environ), "/nowhere")


def build(options: Options, platform: str = "linux", *, standalone: bool = False) -> Build:
    folder = Path(options.folder) / "py-1"
    return Build(
        options, machine(platform), BasePython("/base/python3", standalone), folder, Path("/plugin/core")
    )


def commands(made: Build) -> list[str]:
    return [installation.shown(step.arguments, made.machine.platform) for step in installation.plan(made)]


def never() -> bool:
    return False


class Recorder:
    """Remembers what an installation tells."""

    def __init__(self, cancelled: Callable[[], bool] = never) -> None:
        self.lines: list[str] = []
        self.fractions: list[float] = []
        self.messages: list[str] = []
        self.cancelled = cancelled

    def listener(self) -> Listener:
        return Listener(self.lines.append, self._report, self.cancelled)

    def _report(self, fraction: float, message: str) -> None:
        self.fractions.append(fraction)
        self.messages.append(message)


# The commands.


def test_the_commands_of_a_cpu_build_on_linux() -> None:
    pip = "/env/py-1/bin/python -I -m pip install"
    pinned = "--progress-bar raw --constraint /plugin/core/requirements.lock"
    assert commands(build(Options("/env"))) == [
        "/base/python3 -I -m venv /env/py-1",
        f"{pip} --upgrade --progress-bar off 'pip>=24.1'",
        f"{pip} {pinned} --index-url https://download.pytorch.org/whl/cpu torch torchvision",
        f"{pip} {pinned} /env/py-1/gair-source",
    ]


def test_a_mirror_serves_everything_but_a_chosen_torch() -> None:
    options = Options("/env", "index", index_url="https://mirror/simple")
    assert [command.count("https://mirror/simple") for command in commands(build(options))] == [0, 1, 1]
    options = options._replace(torch_index_url="https://mirror/torch", geoclip=True)
    _, pip, torch, core = commands(build(options))
    assert "https://mirror/simple" in pip
    assert torch.endswith("--index-url https://mirror/torch torch torchvision")
    assert core.endswith("--index-url https://mirror/simple '/env/py-1/gair-source[geoclip]'")


@pytest.mark.parametrize(
    ("build_name", "platform", "index"),
    [
        ("cpu", "linux", installation.CPU_INDEX),
        ("cuda", "linux", ""),
        ("index", "linux", ""),
        ("cpu", "win32", ""),
        ("cuda", "win32", installation.CUDA_INDEX),
        ("cpu", "darwin", ""),
        ("cuda", "darwin", ""),
    ],
)
def test_where_torch_comes_from(build_name: str, platform: str, index: str) -> None:
    assert installation.torch_index(Options("/env", build_name), platform) == index
    own = Options("/env", build_name, torch_index_url="https://own")
    assert installation.torch_index(own, platform) == "https://own"


def test_torch_and_torchvision_always_come_from_one_index() -> None:
    for name in installation.BUILDS:
        for platform in ("linux", "win32", "darwin"):
            for command in commands(build(Options("/env", name), platform)):
                assert (" torch " in command) == command.endswith("torchvision")


def test_a_standalone_python_comes_through_uv_and_from_qgis_own_pip() -> None:
    steps = installation.plan(build(Options("/env", "cuda"), standalone=True))
    assert [installation.shown(step.arguments, "linux") for step in steps[:3]] == [
        "/base/python3 -m pip install --target /env/py-1/gair-uv uv",
        "/env/py-1/gair-uv/bin/uv venv --allow-existing --managed-python --python 3.12 /env/py-1",
        "/env/py-1/bin/python -I -m ensurepip",
    ]
    assert [step.with_qgis for step in steps] == [True, False, False, False, False]


def test_commands_on_windows_are_quoted_for_its_shell() -> None:
    arguments = (r"C:\Program Files\Python\python.exe", "-m", "pip", "install", "pip>=24.1")
    assert (
        installation.shown(arguments, "win32")
        == r'"C:\Program Files\Python\python.exe" -m pip install "pip>=24.1"'
    )


def test_passwords_of_index_addresses_are_not_shown() -> None:
    options = Options("/env", "index", index_url="https://me:secret@mirror/simple")
    shown = "\n".join(commands(build(options)))
    assert "secret" not in shown
    assert "https://****@mirror/simple" in shown


@pytest.mark.parametrize("platform", ["linux", "win32", "darwin"])
@pytest.mark.parametrize("standalone", [False, True])
def test_the_shares_of_the_steps_leave_room_for_the_trial(platform: str, standalone: bool) -> None:
    for name in installation.BUILDS:
        steps = installation.plan(build(Options("/env", name), platform, standalone=standalone))
        assert 0.9 < sum(step.share for step in steps) <= 0.96


# The base Python.


def test_a_good_python_is_found_on_the_path(tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path / "bin", VERSION)
    here = Machine("linux", {"PATH": str(tmp_path / "bin")}, {}, "/nowhere")
    assert installation.find_base_python("", here, never) == BasePython(str(stand_in.path))


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        ("without ensurepip", "the module ensurepip is missing"),
        ("old", "it is Python 3.9, 3.10 or newer is needed"),
        ("32 bits", "it has 32 bits"),
    ],
)
def test_an_unusable_python_is_named_with_its_fault_and_advice(
    tmp_path: Path, mode: str, problem: str
) -> None:
    stand_in = StandIn(tmp_path, VERSION)
    stand_in.behave(mode)
    with pytest.raises(InstallationError) as caught:
        installation.find_base_python(str(stand_in.path), machine(), never)
    assert f"{stand_in.path}: {problem}" in caught.value.message
    assert "apt install python3-venv" in caught.value.hint


def test_a_missing_python_is_named() -> None:
    with pytest.raises(InstallationError, match="/no/python: No such file"):
        installation.find_base_python("/no/python", machine("win32"), never)


def test_without_a_good_python_the_one_of_qgis_fetches_a_standalone_one(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\n[ "$2" = pip ] && echo pip 23\n')
    python.chmod(0o755)
    here = Machine("linux", {"PATH": "/nowhere"}, dict(os.environ), str(tmp_path))
    assert installation.find_base_python("", here, never) == BasePython(str(python), standalone=True)


# Running it.


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path / "base", VERSION)


def real_build(tmp_path: Path, stand_in: StandIn, name: str = "py-1") -> Build:
    options = Options(str(tmp_path / "environments ä"), "index")
    folder = Path(options.folder) / name
    return Build(options, machine(), BasePython(str(stand_in.path)), folder, CORE)


def test_an_environment_is_built_tried_out_and_stamped(tmp_path: Path, stand_in: StandIn) -> None:
    made, recorder = real_build(tmp_path, stand_in), Recorder()
    python = installation.install(made, recorder.listener())
    root = Path(made.options.folder)
    assert (
        environment.created_interpreter(str(root), "linux") == python == str(made.folder / "bin" / "python")
    )
    stamp = json.loads((root / environment.STAMP).read_text())
    assert stamp["gair_core"] == environment.carried_version(str(CORE.parent))
    assert sorted(path.name for path in made.folder.iterdir()) == ["bin", "gair-environment.txt"]
    assert sorted(path.name for path in root.iterdir()) == [environment.STAMP, "py-1"]
    assert [call.split()[2] for call in stand_in.calls] == ["venv", "pip", "pip", "utf8"]
    assert recorder.fractions == sorted(recorder.fractions)
    assert "Downloading torch-2.9.0.whl: 25 %" in recorder.messages
    assert not any(line.startswith("Progress") for line in recorder.lines)


def test_pip_builds_a_copy_of_the_source(tmp_path: Path, stand_in: StandIn) -> None:
    made = real_build(tmp_path, stand_in)
    before = sorted(CORE.rglob("*"))
    installation.install(made, Recorder().listener())
    assert f"--constraint {CORE / 'requirements.lock'} {made.source}" in stand_in.calls[2]
    assert [path for path in sorted(CORE.rglob("*")) if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]


@pytest.mark.parametrize(
    ("mode", "words", "hint"),
    [
        ("fail", "No matching distribution found for torch", "TORCH_INDEX_URL"),
        ("broken", "libcudart.so is missing", "BUILD"),
    ],
)
def test_a_failed_build_leaves_the_previous_one_in_use(
    tmp_path: Path, stand_in: StandIn, mode: str, words: str, hint: str
) -> None:
    first = installation.install(real_build(tmp_path, stand_in), Recorder().listener())
    stand_in.behave(mode)
    made = real_build(tmp_path, stand_in, "py-2")
    with pytest.raises(InstallationError, match=words) as caught:
        installation.install(made, Recorder().listener())
    assert hint in caught.value.hint
    assert not made.folder.exists()
    assert environment.created_interpreter(made.options.folder, "linux") == first


def test_a_cancelled_build_leaves_nothing_and_no_process(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.behave("hang")
    made, recorder = real_build(tmp_path, stand_in), Recorder(lambda: stand_in.child > 0)
    with pytest.raises(InstallationError) as caught:
        installation.install(made, recorder.listener())
    assert caught.value.cancelled
    assert list(Path(made.options.folder).iterdir()) == []
    end = time.monotonic() + 10
    while Path(f"/proc/{stand_in.child}").exists() and "Z" not in _state(stand_in.child):
        assert time.monotonic() < end
        time.sleep(0.05)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_building_again_replaces_the_environment(tmp_path: Path, stand_in: StandIn) -> None:
    installation.install(real_build(tmp_path, stand_in), Recorder().listener())
    made = real_build(tmp_path, stand_in, "py-2")
    second = installation.install(made, Recorder().listener())
    root = Path(made.options.folder)
    assert environment.created_interpreter(str(root), "linux") == second
    for name in ("py-busy", "py-stale"):
        (root / name).mkdir()
        (root / name / "gair-environment.txt").touch()
        (root / name / "gair-building").touch()
    os.utime(root / "py-stale" / "gair-building", (0, 0))
    (root / "py-projects").mkdir()
    (root / "models").mkdir()
    installation.remove_others(root, made.folder)
    assert sorted(path.name for path in root.iterdir()) == [
        environment.STAMP,
        "models",
        "py-2",
        "py-busy",
        "py-projects",
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, stand_in: StandIn) -> None:
    (tmp_path / "environments ä").write_text("a file")
    with pytest.raises(InstallationError, match="environments ä") as caught:
        installation.install(real_build(tmp_path, stand_in), Recorder().listener())
    assert "FOLDER" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("ERROR: [Errno 28] No space left on device", "FOLDER"),
        ("The virtual environment was not created because ensurepip is not available", "python3-venv"),
        ("Retrying after connection broken by NameResolutionError\nno matching distributions", "internet"),
        ("ERROR: No matching distribution found for torch==2.15.0", "the build 'index'"),
        ("Segmentation fault", "internet"),
    ],
)
def test_a_failure_comes_with_the_advice_that_fits(words: str, hint: str) -> None:
    error = installation._failure(installation.Step("Install", ("pip",), 1), 1, words, "linux")
    assert error.message == f"Install failed (exit code 1):\n{words}"
    assert hint in error.hint


# Programs.


def test_a_program_is_told_line_by_line_with_its_errors_and_code() -> None:
    lines: list[str] = []
    program = "import sys; print('ä'); print('a\\rb', flush=True); sys.stderr.write('error'); sys.exit(3)"
    finished = run_command(
        [sys.executable, "-X", "utf8", "-c", program], os.environ, line=lines.append, cancelled=never
    )
    assert finished == (3, False)
    assert lines == ["ä", "a", "b", "error"]


def test_a_program_that_ignores_the_first_signal_is_killed() -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    lines: list[str] = []
    start = time.monotonic()
    finished = run_command(
        [sys.executable, "-c", program], os.environ, line=lines.append, cancelled=lambda: bool(lines)
    )
    assert finished == (-9, True)
    assert time.monotonic() - start < 30


def test_a_program_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        run_command(["/no/program"], {}, line=print, cancelled=never)


def test_a_listener_that_fails_ends_the_program() -> None:
    def fail(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="1"):
        run_command(
            [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"],
            os.environ,
            line=fail,
            cancelled=never,
        )
