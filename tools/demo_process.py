"""``qgis_process`` with the built plugin in a throw-away profile; runs are kept as commands to repeat."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from stage import NAME

GAIR_PYTHON = Path(sys.executable)
# No screen, and no statistics of GDAL's beside somebody's scene.
QUIET = {"QT_QPA_PLATFORM": "offscreen", "GDAL_PAM_ENABLED": "NO"}

_RESULT = re.compile(r"^([A-Z][A-Z0-9_]*):\s(.*)$", re.MULTILINE)

Value = str | int | float | Path


@dataclass(frozen=True)
class Step:
    """One run of an algorithm.

    Attributes:
        algorithm: Its identifier.
        command: What to type in the demonstration's folder to repeat it.
        seconds: How long it took, the start of QGIS included.
        results: What the algorithm said that it made, by name.
        files: The outputs that it wrote; those of a folder one by one.
    """

    algorithm: str
    command: str
    seconds: float
    results: dict[str, str]
    files: tuple[Path, ...] = ()


def find_qgis() -> str:
    """Return the path of the program ``qgis_process``.

    Raises:
        SystemExit: It is not installed.
    """
    # On Debian 12 the wrapper adds an option that the program does not know.
    program = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
    if program is None:
        raise SystemExit("qgis_process is missing; run make setup-qgis")
    return program


def setup_commands(program: str, archive: Path, folder: Path) -> str:
    """Return what to type before the commands of steps.

    Args:
        program: Name of ``qgis_process``.
        archive: The plugin's zip.
        folder: Where the steps ran.
    """
    plugins = "$HOME/.local/share/QGIS/QGIS3/profiles/default/python/plugins"
    return "\n".join(
        (
            # First of all: without a screen QGIS does not even enable a plugin otherwise.
            "export " + " ".join(f"{name}={value}" for name, value in QUIET.items()),
            f"export GAIR_PYTHON={shlex.quote(str(GAIR_PYTHON))}",
            f'mkdir -p "{plugins}" && unzip -oq {shlex.quote(str(archive))} -d "{plugins}"',
            f"{program} plugins enable {NAME}",
            f"cd {shlex.quote(str(folder))}",
        )
    )


class Process:
    """``qgis_process`` with a profile of its own.

    Args:
        program: Its path.
        profile: An empty folder.
        folder: Where algorithms run; relative paths of parameters are below it.
    """

    def __init__(self, program: str, profile: Path, folder: Path) -> None:
        self._plugins = profile / "profiles" / "default" / "python" / "plugins"
        self._plugins.mkdir(parents=True)
        self._folder = folder
        self._program = program
        self._environment = {
            **os.environ,
            **QUIET,
            "QGIS_CUSTOM_CONFIG_PATH": str(profile),
            "GAIR_PYTHON": str(GAIR_PYTHON),
        }

    @property
    def program(self) -> str:
        """The program's name in commands."""
        return Path(self._program).name

    def install(self, archive: Path) -> None:
        """Unpack the plugin's zip where QGIS's "install from ZIP" does, and enable it."""
        with zipfile.ZipFile(archive) as plugin:
            plugin.extractall(self._plugins)
        self._call("plugins", "enable", NAME)

    def run(self, algorithm: str, **parameters: Value) -> Step:
        """Run an algorithm and check that its outputs are there and new.

        Args:
            algorithm: Its identifier.
            parameters: By name; those whose name begins with OUTPUT, and REPORT, are files or folders that it
                makes. It writes over files that an earlier demonstration left there.

        Raises:
            SystemExit: It failed; the reason stands in the message.
        """
        outputs = [
            self._folder / str(value)
            for name, value in parameters.items()
            if name.startswith("OUTPUT") or name == "REPORT"
        ]
        earlier = [_states(output) for output in outputs]
        arguments = ("run", algorithm, "--", *(f"{name}={value}" for name, value in parameters.items()))
        started = time.monotonic()
        said = self._call(*arguments)
        seconds = time.monotonic() - started
        made = []
        for output, states in zip(outputs, earlier, strict=True):
            new = [path for path, state in _states(output).items() if states.get(path) != state]
            if not new:
                raise SystemExit(f"{algorithm} said nothing of a failure, but did not write {output}")
            made += new
        results = dict(_RESULT.findall(said.rpartition("Results")[2]))
        sys.stdout.write(f"{algorithm}: {seconds:.1f} s -> {', '.join(path.name for path in outputs)}\n")
        sys.stdout.flush()
        return Step(algorithm, shlex.join((self.program, *arguments)), seconds, results, tuple(made))

    def _call(self, *arguments: str) -> str:
        run = subprocess.run(
            [self._program, *arguments],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise SystemExit(
                f"{shlex.join((self.program, *arguments))}\nfailed: {_reason(run.stdout + run.stderr)}"
            )
        return run.stdout


def _states(output: Path) -> dict[Path, tuple[int, int]]:
    """Return a file, or the files of a folder, with what changes when one is written anew."""
    files = sorted(output.iterdir()) if output.is_dir() else [output] if output.exists() else []
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def _reason(said: str) -> str:
    """Return why a run failed, without what QGIS repeats; all that was said where no error is named."""
    _, named, reason = said.partition("ERROR:")
    return "\n".join(dict.fromkeys(reason.strip().splitlines())) if named else said
