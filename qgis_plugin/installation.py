"""Build the Python environment in which gair_core runs: which commands, and running them.

An environment is built in a new folder of its own, tried out, and only then named by the stamp
(`environment.STAMP`) beside it. So one that failed or was cancelled is never taken for whole, an older one
keeps working until then, and building again repairs and updates.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

from . import environment
from .translation import tr

BUILDS = ("cpu", "cuda", "index")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# The CUDA of the torch that requirements.lock pins; only Windows needs it, Linux gets it from PyPI.
CUDA_INDEX = "https://download.pytorch.org/whl/cu132"

# Python of the standalone builds that uv fetches.
STANDALONE_PYTHON = "3.12"
OLDEST_PYTHON = (3, 10)

# Bytes that an environment and its downloads take, roughly.
NEEDED_BYTES = {"cpu": 3e9, "cuda": 12e9, "index": 3e9}

# A folder with this file was made here, and may be removed here.
_OWNED = "gair-environment.txt"
# A folder with this file is being built by somebody, unless the file is old.
_MARKER = "gair-building"
_MARKER_SECONDS = 24 * 3600
_FOLDER_PREFIX = "py-"

# ssl is what fails first in a Python that was torn out of QGIS for Windows.
_PROBE = (
    "import sys, venv, ensurepip, ssl, ctypes; "
    "print('gair-probe', sys.version_info[0], sys.version_info[1], int(sys.maxsize > 2**32))"
)


class InstallationError(Exception):
    """An environment that cannot be built.

    Args:
        message: What was found and what was wanted.
        hint: What the user can do.
        cancelled: Whether the user wanted it.
    """

    def __init__(self, message: str, hint: str = "", *, cancelled: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.cancelled = cancelled


class Options(NamedTuple):
    """What to build.

    Attributes:
        folder: Where environments are built; `environment.data_folder` by default.
        build: ``cpu``, ``cuda``, or ``index``: the torch that the package index offers.
        index_url: Address of a package index; empty for pip's own configuration.
        torch_index_url: Address of an index with torch and torchvision; empty: chosen by the build.
        geoclip: Whether to install the package geoclip too, whose weights can be imported.
    """

    folder: str
    build: str = "cpu"
    index_url: str = ""
    torch_index_url: str = ""
    geoclip: bool = False


class Step(NamedTuple):
    """A command of an installation.

    Attributes:
        title: What it does.
        arguments: The program and its arguments.
        share: Its part of the whole time, in [0, 1].
        with_qgis: Whether it needs QGIS's own variables, because it runs QGIS's Python.
    """

    title: str
    arguments: tuple[str, ...]
    share: float
    with_qgis: bool = False


class Machine(NamedTuple):
    """Where an environment is built.

    Attributes:
        platform: A value of `sys.platform`.
        variables: Environment variables without QGIS's.
        qgis_variables: QGIS's own.
        base_prefix: `sys.base_prefix` of QGIS's Python.
    """

    platform: str
    variables: Mapping[str, str]
    qgis_variables: Mapping[str, str]
    base_prefix: str


class Listener(NamedTuple):
    """Who is told, and asked whether to stop; all are called on the thread that builds.

    Attributes:
        say: Told lines for the log.
        report: Told the fraction that is done, in [0, 1], and what happens now.
        cancelled: Asked often.
    """

    say: Callable[[str], None]
    report: Callable[[float, str], None]
    cancelled: Callable[[], bool]


class BasePython(NamedTuple):
    """The Python from which an environment is made.

    Attributes:
        path: The program.
        standalone: Whether it only fetches uv, which fetches a standalone Python.
    """

    path: str
    standalone: bool = False


class Build(NamedTuple):
    """One environment to be built.

    Attributes:
        options: What to build.
        machine: Where.
        base: From which Python.
        folder: The environment's folder, from `new_folder`; must not exist.
        core: gair_core's source in the plugin's folder: pyproject.toml, requirements.lock and the package.
    """

    options: Options
    machine: Machine
    base: BasePython
    folder: Path
    core: Path

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return environment.interpreter_in(str(self.folder), self.machine.platform)

    @property
    def source(self) -> Path:
        """A copy of the source: pip writes beside what it builds, and the plugin's folder is not for that."""
        return self.folder / "gair-source"

    @property
    def tools(self) -> Path:
        """Where uv is put for as long as it is needed."""
        return self.folder / "gair-uv"


def torch_index(options: Options, platform: str) -> str:
    """Return the index from which torch and torchvision come; empty: the same as everything else.

    They come from one index, because a torchvision of one does not work with a torch of another. PyPI has
    CUDA builds for Linux, CPU builds for Windows and the only builds for macOS.
    """
    if options.torch_index_url:
        return options.torch_index_url
    chosen = {("cpu", "linux"): CPU_INDEX, ("cuda", "win32"): CUDA_INDEX}
    return chosen.get((options.build, platform), "")


def plan(build: Build) -> list[Step]:
    """Return the commands that build an environment."""
    options = build.options
    pip = (build.python, "-I", "-m", "pip", "install")
    index = ("--index-url", options.index_url) if options.index_url else ()
    # Progress for programs came with pip 24.1, the pip that Python brings may be older.
    steps = [
        *_environment_steps(build),
        Step(tr("Update pip"), (*pip, "--upgrade", "--progress-bar", "off", *index, "pip>=24.1"), 0.04),
    ]
    pinned = (*pip, "--progress-bar", "raw", "--constraint", str(build.core / "requirements.lock"))
    separate = torch_index(options, build.machine.platform)
    if separate:
        torch = (*pinned, "--index-url", separate, "torch", "torchvision")
        steps.append(Step(tr("Install PyTorch"), torch, 0.55))
    package = f"{build.source}[geoclip]" if options.geoclip else str(build.source)
    steps.append(Step(tr("Install gair_core"), (*pinned, *index, package), 0.3 if separate else 0.85))
    return steps


def _environment_steps(build: Build) -> list[Step]:
    base, folder, windows = build.base.path, str(build.folder), build.machine.platform == "win32"
    if not build.base.standalone:
        return [Step(tr("Make the environment"), (base, "-I", "-m", "venv", folder), 0.04)]
    uv = str(build.tools / "bin" / ("uv.exe" if windows else "uv"))
    index = ("--index-url", build.options.index_url) if build.options.index_url else ()
    fetch = (base, "-m", "pip", "install", *index, "--target", str(build.tools), "uv")
    # The folder exists already: it holds the mark that it is being built.
    make = (uv, "venv", "--allow-existing", "--managed-python", "--python", STANDALONE_PYTHON, folder)
    return [
        Step(tr("Fetch uv"), fetch, 0.02, with_qgis=True),
        Step(
            tr("Fetch Python {version} and make the environment").format(version=STANDALONE_PYTHON),
            make,
            0.03,
        ),
        Step(tr("Add pip"), (build.python, "-I", "-m", "ensurepip"), 0.01),
    ]


def shown(arguments: Sequence[str], platform: str) -> str:
    """Return a command as a person would type it, without the passwords of index addresses."""
    hidden = [re.sub(r"(\w+://)[^/@\s]+@", r"\1****@", argument) for argument in arguments]
    if platform == "win32":
        return " ".join(f'"{text}"' if re.search(r"[\s&()^;,<>|]", text) else text for text in hidden)
    return " ".join(map(shlex.quote, hidden))


def find_base_python(choice: str, machine: Machine, cancelled: Callable[[], bool]) -> BasePython:
    """Return the Python to build from: the first that can, else QGIS's own, to fetch a standalone one.

    Args:
        choice: The user's choice, or an empty text.
        machine: Where.
        cancelled: Asked whether to stop.

    Raises:
        InstallationError: There is none; says what is wrong with each.
    """
    path = next((value for name, value in machine.variables.items() if name.upper() == "PATH"), None)
    candidates = environment.base_python_candidates(
        choice, machine.platform, machine.base_prefix, lambda name: shutil.which(name, path=path)
    )
    problems = {}
    for candidate in candidates:
        problem = _probe(candidate, machine.variables, cancelled)
        if not problem:
            return BasePython(candidate)
        problems[candidate] = problem
    if not choice.strip():
        for candidate in environment.qgis_pythons(machine.platform, machine.base_prefix):
            code, _ = _output((candidate, "-m", "pip", "--version"), machine.qgis_variables, cancelled)
            if code == 0:
                return BasePython(candidate, standalone=True)
    found = "\n".join(f"{candidate}: {problem}" for candidate, problem in problems.items())
    raise InstallationError(
        tr("No Python on this machine can make an environment:") + f"\n{found or tr('none was found')}",
        base_python_advice(machine.platform),
    )


def base_python_advice(platform: str) -> str:
    """Return how to get a Python that can make environments."""
    if platform.startswith("linux"):
        return tr(
            "Install the venv module, on Debian and Ubuntu: sudo apt install python3-venv. Or choose another "
            "Python (3.10 or newer) in the parameter PYTHON."
        )
    return tr(
        "Install Python 3.12 from python.org, or choose a Python (3.10 or newer) in the parameter PYTHON."
    )


def _probe(python: str, variables: Mapping[str, str], cancelled: Callable[[], bool]) -> str:
    """Return what keeps a Python from making environments; empty when nothing does."""
    code, output = _output((python, "-I", "-c", _PROBE), variables, cancelled)
    found = re.search(r"gair-probe (\d+) (\d+) ([01])", output)
    if code != 0 or not found:
        missing = re.search(r"No module named '?(\w+)", output)
        if missing:
            return tr("the module {name} is missing").format(name=missing.group(1))
        lines = output.strip().splitlines()
        return lines[-1] if lines else tr("it cannot be started")
    version = int(found.group(1)), int(found.group(2))
    if version < OLDEST_PYTHON:
        return tr("it is Python {found}, 3.10 or newer is needed").format(found=f"{version[0]}.{version[1]}")
    return "" if found.group(3) == "1" else tr("it has 32 bits, PyTorch needs 64")


def _output(
    arguments: Sequence[str], variables: Mapping[str, str], cancelled: Callable[[], bool]
) -> tuple[int, str]:
    """Run a short command; one that cannot be started has the code -1 and the reason as its output."""
    from .command import run_command

    lines: list[str] = []
    try:
        finished = run_command(arguments, variables, line=lines.append, cancelled=cancelled)
    except OSError as error:
        return -1, str(error.strerror or error)
    if finished.cancelled:
        raise InstallationError(tr("Cancelled."), cancelled=True)
    return finished.code, "\n".join(lines)


def new_folder(options: Options) -> Path:
    """Return the folder of a new environment; short, as Windows limits the paths of what is in it."""
    return Path(options.folder) / f"{_FOLDER_PREFIX}{uuid.uuid4().hex[:6]}"


def install(build: Build, listener: Listener) -> str:
    """Build an environment and stamp it as the one to use.

    Args:
        build: What, where, and from what.
        listener: Told and asked.

    Returns:
        The environment's interpreter.

    Raises:
        InstallationError: A command failed, the result does not work, or the user cancelled. Nothing is left.
    """
    marker = build.folder / _MARKER
    try:
        build.folder.mkdir(parents=True)
        (build.folder / _OWNED).write_text("Made by the QGIS plugin GAIR, which replaces and removes it.\n")
        marker.touch()
        shutil.copytree(build.core, build.source, ignore=shutil.ignore_patterns("__pycache__"))
        _run_steps(build, listener)
        version = _try_out(build, listener)
        _remove(build.source)
        _remove(build.tools)
        marker.unlink()
        _stamp(build, version)
    except OSError as error:
        _remove(build.folder)
        raise InstallationError(
            tr("The environment cannot be written: {error}").format(error=error),
            tr("Choose a folder that you may write to, on a disk with space, in the parameter FOLDER."),
        ) from None
    except BaseException:
        _remove(build.folder)
        raise
    return build.python


def remove_others(root: Path, keep: Path) -> None:
    """Remove the environments of a folder that are not in use: older ones and what failed builds left."""
    for path in root.glob(f"{_FOLDER_PREFIX}*"):
        # The user may have chosen a folder with other things in it.
        if path == keep or not (path / _OWNED).is_file():
            continue
        is_building = False
        with contextlib.suppress(OSError):
            is_building = time.time() - (path / _MARKER).stat().st_mtime < _MARKER_SECONDS
        if not is_building:
            _remove(path)


def _run_steps(build: Build, listener: Listener) -> None:
    from .command import run_command

    machine, folder = build.machine, build.folder
    variables = _installer_variables(folder.parent)
    done = 0.0
    for step in plan(build):
        listener.say(f"\n{step.title}:\n{shown(step.arguments, machine.platform)}")
        listener.report(done, step.title)
        (folder / _MARKER).touch()
        output = InstallerOutput(step, done, listener)
        inherited = machine.qgis_variables if step.with_qgis else machine.variables
        try:
            finished = run_command(
                step.arguments, {**inherited, **variables}, line=output.read, cancelled=listener.cancelled
            )
        except OSError as error:
            raise InstallationError(f"{step.title}: {step.arguments[0]}: {error.strerror or error}") from None
        if finished.cancelled:
            raise InstallationError(tr("Cancelled: no environment was made."), cancelled=True)
        if finished.code != 0:
            raise _failure(step, finished.code, output.last_words, machine.platform)
        done += step.share


def _installer_variables(root: Path) -> dict[str, str]:
    return {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        # A user's configuration may say otherwise, which an environment refuses.
        "PIP_USER": "0",
        "UV_PYTHON_INSTALL_DIR": str(root / "python"),
    }


def _failure(step: Step, code: int, last_words: str, platform: str) -> InstallationError:
    message = tr("{title} failed (exit code {code}):").format(title=step.title, code=code) + f"\n{last_words}"
    words = last_words.lower()
    network = tr(
        "Check the internet connection and try again: what was downloaded is kept. Where only a mirror of "
        "the package index can be reached, give its address in INDEX_URL, and one with PyTorch in "
        "TORCH_INDEX_URL or choose the build 'index'."
    )
    if "connection broken" in words or "timed out" in words:
        hint = network
    elif "ensurepip" in words or "python3-venv" in words:
        hint = base_python_advice(platform)
    elif "no space left" in words or "not enough space" in words:
        hint = tr("Make room, or choose a folder on another disk in the parameter FOLDER.")
    elif "could not find a version" in words or "no matching distribution" in words:
        hint = tr(
            "The package index lacks a package for this Python and system. Choose another Python (PYTHON) or "
            "index (INDEX_URL, TORCH_INDEX_URL), or the build 'index'."
        )
    else:
        hint = network
    return InstallationError(message, hint)


class InstallerOutput:
    """Turns an installer's lines into progress: what counts are packages and bytes.

    Args:
        step: The running command.
        start: Fraction of the whole that was done before it.
        listener: Told.
    """

    def __init__(self, step: Step, start: float, listener: Listener) -> None:
        self._step = step
        self._start = start
        self._listener = listener
        self._packages = 0
        self._message = step.title
        self._furthest = start
        self._lines: list[str] = []

    @property
    def last_words(self) -> str:
        """The end of the output."""
        return "\n".join(self._lines[-15:])

    def read(self, line: str) -> None:
        """Take a line."""
        text = line.strip()
        progress = re.fullmatch(r"Progress (\d+) of (\d+)", text)
        if progress:
            done, total = int(progress.group(1)), max(int(progress.group(2)), 1)
            self._report(f"{self._message}: {100 * done // total} %", done / total)
            return
        self._lines = [*self._lines[-30:], line]
        self._listener.say(line)
        if text.startswith(("Collecting ", "Requirement already satisfied")):
            self._packages += 1
        if text.startswith(("Collecting ", "Downloading ", "Building ", "Installing collected")):
            self._message = text.split(" (")[0].split(":")[0][:80]
            self._report(self._message, 0.0)

    def _report(self, message: str, part: float) -> None:
        """How many packages there will be is not known, so each comes a little closer to the end."""
        counted = self._packages + part
        within = 0.95 if message.startswith("Installing") else 0.9 * counted / (counted + 15)
        self._furthest = max(self._furthest, self._start + self._step.share * within)
        self._listener.report(self._furthest, message)


def _try_out(build: Build, listener: Listener) -> str:
    """Start the worker of a new environment, run a task in it and return the version of gair_core."""
    from .worker_client import WorkerClient, WorkerError
    from .worker_process import Launch

    command = shown(environment.worker_command(build.python), build.machine.platform)
    listener.say("\n" + tr("Try it out:") + f"\n{command}")
    listener.report(0.95, tr("Trying it out"))
    interpreter = environment.Interpreter(build.python, tr("the new environment"))
    wanted = environment.carried_version(str(build.core.parent))
    client = WorkerClient(lambda: Launch(interpreter, build.machine.variables, wanted))
    try:
        client.run("models", {}, cancelled=listener.cancelled)
        return str((client.greeting or {}).get("gair_core", wanted))
    except WorkerError as error:
        if error.kind == "cancelled":
            raise InstallationError(tr("Cancelled: no environment was made."), cancelled=True) from None
        raise InstallationError(
            tr("The new environment does not work: {message}").format(message=error.message),
            tr("Choose another build (BUILD) or Python (PYTHON); please report it with the log."),
        ) from None
    finally:
        client.close()


def _stamp(build: Build, version: str) -> None:
    """Name the environment as the one to use: the last act, and done at once."""
    stamp = {
        "folder": build.folder.name,
        "gair_core": version,
        "build": build.options.build,
        "base_python": build.base.path,
        "made": time.strftime("%Y-%m-%d %H:%M"),
    }
    path = build.folder.parent / environment.STAMP
    temporary = path.with_name(f"{path.name}.{build.folder.name}.part")
    temporary.write_text(json.dumps(stamp, indent=1), "utf-8")
    temporary.replace(path)


def _remove(folder: Path) -> None:
    """Remove a folder; what another program holds open stays, and is removed by the next installation."""
    shutil.rmtree(folder, ignore_errors=True)
