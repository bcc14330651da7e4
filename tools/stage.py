"""Stage the plugin: what QGIS loads and what the zip holds, gathered in one folder.

``build/stage/gair`` gets the contents of ``qgis_plugin``, metadata.txt, LICENSE and, in ``core``, what
`pip install` needs of gair_core. Only changed files are copied and files without a source are removed, so
staging again is quick and harmless while a test or a QGIS reads the folder. Needs the standard library only.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGE = ROOT / "build" / "stage"
NAME = "gair"

# Whatever else lies about in a working tree (caches, editors' files, half-written outputs) stays out.
SUFFIXES = {".csv", ".html", ".json", ".md", ".py", ".qm", ".qml", ".safetensors", ".svg", ".txt", ".typed"}
PLUGIN_FILES = ("metadata.txt", "LICENSE")
CORE_FILES = ("pyproject.toml", "README.md", "LICENSE", "requirements.lock")


def sources() -> dict[Path, Path]:
    """The staged files: path below the plugin's folder -> path of the source."""
    found = _tree(ROOT / "qgis_plugin", Path())
    found.update({Path(name): ROOT / name for name in PLUGIN_FILES if (ROOT / name).is_file()})
    found.update(_tree(ROOT / "gair_core", Path("core") / "gair_core"))
    found.update({Path("core") / name: ROOT / name for name in CORE_FILES})
    return found


def stage(folder: Path = STAGE) -> Path:
    """Bring ``folder/gair`` up to date and return it."""
    plugin = folder / NAME
    wanted = sources()
    for relative, source in wanted.items():
        _update(source, plugin / relative)
    _remove_all_but(plugin, {plugin / relative for relative in wanted})
    return plugin


def _tree(source: Path, destination: Path) -> dict[Path, Path]:
    return {
        destination / path.relative_to(source): path
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.suffix in SUFFIXES and not _is_hidden(path.relative_to(source))
    }


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in relative.parts)


def _update(source: Path, destination: Path) -> None:
    if destination.is_file() and filecmp.cmp(source, destination, shallow=True):
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    # Several test runs may stage at once: each writes its own file and the last one wins.
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}")
    shutil.copy2(source, temporary)
    temporary.replace(destination)


def _remove_all_but(folder: Path, wanted: set[Path]) -> None:
    """Remove the files that have no source; caches of the files that stay are left to Python."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif "__pycache__" in path.parts:
            if path.parent.parent / f"{path.name.split('.')[0]}.py" not in wanted:
                path.unlink(missing_ok=True)
        elif path not in wanted and not path.name.startswith("."):
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.stdout.write(f"{stage().relative_to(ROOT)}\n")
