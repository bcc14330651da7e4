"""The guide is built without a warning, and names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gair_core.task import TASK_MODULES
from tests.docs.pages import PAGES, ROOT

DOCS = ROOT / "docs"


def test_the_guide_is_built(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", DOCS, tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for page in PAGES:
        name = "project" if page == "README.md" else Path(page).stem
        assert (tmp_path / f"{name}.html").is_file()
    assert 'url=README.html"' in (tmp_path / "index.html").read_text("utf-8")
    # From the parsers and the docstrings, and all pictures.
    help_page = (tmp_path / "command_line.html").read_text("utf-8")
    assert [name for name in TASK_MODULES if f"usage: gair {name} " not in help_page] == []
    assert "Keyword Arguments" in (tmp_path / "python.html").read_text("utf-8")
    shown = set(re.findall(r"images/([\w.]+)\)", "".join(path.read_text("utf-8") for path in PAGES.values())))
    assert shown - {path.name for path in (tmp_path / "_images").iterdir()} == set()


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = set(re.findall(r"\]\(([a-z_]+)\.md\)", (DOCS / "README.md").read_text("utf-8")))
    pages = {path.stem for path in DOCS.glob("*.md")} - {"README", "project"}
    assert listed == pages
