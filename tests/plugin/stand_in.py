"""A Python that only pretends to build environments, so that installations are tested in seconds."""

from __future__ import annotations

import sys
from pathlib import Path

# What it does: answers the probe, makes `bin/python` (itself again) for venv, prints what pip prints, and
# answers like gair_core's worker. Each command is noted in `calls`.
_PROGRAM = """
import json, os, sys, time
from pathlib import Path
arguments = sys.argv[1:]
mode = Path({mode!r}).read_text()
with open({calls!r}, "a") as calls:
    calls.write(" ".join(arguments) + "\\n")
if "-c" in arguments:
    if mode == "without ensurepip":
        sys.exit("ModuleNotFoundError: No module named 'ensurepip'")
    print("gair-probe", *(dict([("old", "3 9 1"), ("32 bits", "3 11 0")]).get(mode, "3 11 1").split()))
elif "gair_core.worker" in arguments:
    if mode == "broken":
        sys.exit("ImportError: libcudart.so is missing")
    greeting = dict(ready=True, gair_core={version!r}, protocol=1, torch="2", devices=["cpu"])
    print(json.dumps(greeting), flush=True)
    for line in sys.stdin:
        print(json.dumps(dict(id=json.loads(line)["id"], result=dict(models=[]))), flush=True)
elif "venv" in arguments:
    python = Path(arguments[-1]) / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(Path({own!r}).read_text())
    python.chmod(0o755)
elif "pip" in arguments and "--version" in arguments:
    sys.exit("No module named pip")
elif "--upgrade" in arguments:
    print("Collecting pip>=24.1", flush=True)
else:
    print("Collecting torch<3,>=2.5 (from gair-core==0.1.0)")
    print("  Downloading torch-2.9.0.whl (500.0 MB)")
    print("Progress 100 of 400", flush=True)
    if mode == "fail":
        print("ERROR: No matching distribution found for torch")
        sys.exit(1)
    if mode == "hang":
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        child = os.spawnv(os.P_NOWAIT, sys.executable, sleep)
        Path({child!r}).write_text(str(child))
        time.sleep(600)
    print("Installing collected packages: torch, gair-core", flush=True)
"""


class StandIn:
    """The stand-in.

    Args:
        folder: A folder for its files, which are made.
        version: The version of gair_core that it says it has.
    """

    def __init__(self, folder: Path, version: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "python3"
        self._mode = folder / "mode"
        self._calls = folder / "calls"
        self._child = folder / "child"
        program = folder / "program.py"
        names = {"mode": self._mode, "calls": self._calls, "child": self._child, "own": self.path}
        texts = {name: str(path) for name, path in names.items()}
        program.write_text(_PROGRAM.format(version=version, **texts))
        self.path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{program}" "$@"\n')
        self.path.chmod(0o755)
        self.behave("well")

    def behave(self, mode: str) -> None:
        """Choose what it does from now on: well, fail, hang, broken, old, 32 bits, without ensurepip."""
        self._mode.write_text(mode)

    @property
    def calls(self) -> list[str]:
        """The arguments of every call but the probe's."""
        if not self._calls.exists():
            return []
        return [line for line in self._calls.read_text().splitlines() if "-c import sys" not in line]

    @property
    def child(self) -> int:
        """The process that a hanging installer has started; 0 before that."""
        text = self._child.read_text() if self._child.exists() else ""
        return int(text or 0)
