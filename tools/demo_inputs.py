"""What a demonstration runs on, and the folder that it writes, in which nothing of anybody else's is lost."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from gair_core.world.demo import DemoFiles

_MARK = "made_by_make_demo.txt"
_NOTE = "make demo writes this folder anew. It leaves files alone that are called otherwise than its own.\n"
# Every page begins so, see demo_page.html.
_TITLE = "<title>GAIR on "


@dataclass(frozen=True)
class Inputs:
    """What a demonstration runs on.

    Attributes:
        folder: Where everything goes, and where commands run.
        page: The page.
        scene: The scene.
        photos: A folder of geotagged photos or a table, if there are any.
        world: The files of the procedural city; None for a scene of the user's.
    """

    folder: Path
    page: Path
    scene: Path
    photos: Path | None
    world: DemoFiles | None

    def name(self, path: Path) -> str:
        """Return a path as commands in the folder write it."""
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)


def check_files(options: argparse.Namespace, folder: Path) -> None:
    """Make the paths of a command line absolute, for algorithms run in another folder, and check them.

    Args:
        options: With ``scene`` and ``photos`` (None where they were not given), ``model`` and ``head``, which
            may be names of registered ones too.
        folder: Where everything goes.

    Raises:
        SystemExit: A file is missing, or lies where the demonstration writes.
    """
    for name in ("scene", "photos", "model", "head"):
        given = getattr(options, name)
        path = None if given is None else Path(given).absolute()
        if path is None or (name in ("model", "head") and not path.is_file()):
            continue
        if not path.exists():
            raise SystemExit(f"{name.upper()}: {path} does not exist.")
        if path.resolve().is_relative_to(folder.resolve()):
            raise SystemExit(
                f"{name.upper()}: {path} lies in {folder}, which make demo writes anew.\n"
                "Move it, or run tools/demo.py with another --output."
            )
        setattr(options, name, path if name in ("scene", "photos") else str(path))


def claim(folder: Path, page: Path) -> None:
    """Make the folder of a demonstration, or take that of an earlier one.

    Args:
        folder: Where everything goes.
        page: The page, which may lie elsewhere.

    Raises:
        SystemExit: The folder or the page is somebody else's.
    """
    strange = None
    if page.exists() and _TITLE not in page.read_text("utf-8", errors="replace"):
        strange = page
    if folder.exists() and not (folder / _MARK).is_file() and (folder.is_file() or any(folder.iterdir())):
        strange = folder
    if strange is not None:
        raise SystemExit(
            f"{strange} was not made by make demo and would be overwritten.\n"
            "Move it, or run tools/demo.py with another --output."
        )
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    (folder / _MARK).write_text(_NOTE, encoding="utf-8")
