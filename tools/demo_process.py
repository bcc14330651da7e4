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
    """

    algorithm: str
    command: str
    seconds: float
    results: dict[str, str]


class Process:
    """``qgis_process`` with a profile of its own.

    Args:
        profile: An empty folder.
        folder: Where algorithms run; relative paths of parameters are below it.
    """

    def __init__(self, profile: Path, folder: Path) -> None:
        self._plugins = profile / "profiles" / "default" / "python" / "plugins"
        self._plugins.mkdir(parents=True)
        self._folder = folder
        # On Debian 12 the wrapper adds an option that the program does not know.
        program = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
        if program is None:
            raise SystemExit("qgis_process is missing; run make setup-qgis")
        self._program = program
        self._environment = {
            **os.environ,
            **QUIET,
            "QGIS_CUSTOM_CONFIG_PATH": str(profile),
            "GAIR_PYTHON": str(GAIR_PYTHON),
        }
        self.steps: list[Step] = []

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
                makes. Files that an earlier demonstration left there are removed first.

        Raises:
            SystemExit: It failed; what it said stands in the message.
        """
        outputs = [
            self._folder / str(value)
            for name, value in parameters.items()
            if name.startswith("OUTPUT") or name == "REPORT"
        ]
        for path in outputs:
            _remove(path)
        arguments = ("run", algorithm, "--", *(f"{name}={value}" for name, value in parameters.items()))
        started = time.monotonic()
        said = self._call(*arguments)
        step = Step(
            algorithm,
            shlex.join((self.program, *arguments)),
            time.monotonic() - started,
            dict(_RESULT.findall(said.rpartition("Results")[2])),
        )
        missing = [str(path) for path in outputs if not path.exists()]
        if missing:
            raise SystemExit(f"{algorithm} said nothing of a failure, but {', '.join(missing)} is missing")
        self.steps.append(step)
        sys.stdout.write(f"{algorithm}: {step.seconds:.1f} s -> {', '.join(p.name for p in outputs)}\n")
        sys.stdout.flush()
        return step

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
            raise SystemExit(f"qgis_process {' '.join(arguments)} failed:\n{run.stdout}{run.stderr}")
        return run.stdout


def _remove(output: Path) -> None:
    """Remove a file, or the rasters and styles of a folder, that an earlier demonstration wrote."""
    if output.is_dir():
        for path in (*output.glob("*.tif"), *output.glob("*.qml")):
            path.unlink()
    else:
        output.unlink(missing_ok=True)
