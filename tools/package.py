"""Build the plugin's zip with pb_tool: ``build/gair-<version>.zip``, as the plugin repository wants it."""

from __future__ import annotations

import configparser
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from stage import NAME, ROOT, stage

CONFIGURATION = ROOT / "pb_tool.cfg"
WORK = ROOT / "build" / "package"


def version() -> str:
    """The version of gair_core and of the plugin, read without importing either."""
    return str(runpy.run_path(str(ROOT / "gair_core" / "version.py"))["__version__"])


def package(destination: Path | None = None) -> Path:
    """Build the zip and return its path.

    Args:
        destination: Where it goes; default: ``build/gair-<version>.zip``.

    Raises:
        SystemExit: pb_tool failed or left staged files out.
    """
    shutil.rmtree(WORK, ignore_errors=True)
    # A stage of its own: the one that QGIS and the tests load gets caches while they run.
    staged = stage(WORK / "stage")
    wanted = _files(staged)
    deployed = WORK / "deployed"
    deployed.mkdir(parents=True)
    command = [Path(sys.executable).with_name("pb_tool"), "zip", "-q", "-n", "-p", deployed]
    run = subprocess.run(
        [*command, "--config_file", _configuration(staged), "--release-version", version()],
        cwd=staged,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    made = staged / f"{NAME}.zip"
    if run.returncode != 0 or not made.is_file():
        raise SystemExit(f"pb_tool failed:\n{run.stdout}{run.stderr}")
    missing = [path for path in wanted if not (deployed / NAME / path).is_file()]
    if missing:
        raise SystemExit(f"pb_tool left out {', '.join(map(str, missing))}")
    destination = destination or ROOT / "build" / f"{NAME}-{version()}.zip"
    return made.replace(destination)


def _configuration(staged: Path) -> Path:
    """Write pb_tool.cfg with the names of what is staged, which pb_tool wants one by one."""
    configuration = configparser.ConfigParser()
    configuration.read(CONFIGURATION, encoding="utf-8")
    files = configuration["files"]
    files["python_files"] = " ".join(sorted(path.name for path in staged.glob("*.py")))
    files["extra_dirs"] = " ".join(sorted(path.name for path in staged.iterdir() if path.is_dir()))
    filled_in = WORK / CONFIGURATION.name
    with filled_in.open("w", encoding="utf-8") as file:
        configuration.write(file)
    return filled_in


def _files(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]


if __name__ == "__main__":
    made = package()
    sys.stdout.write(f"{made.relative_to(ROOT)} ({made.stat().st_size / 1e6:.2f} MB)\n")
