"""Tests of tools/stage.py."""

from __future__ import annotations

from pathlib import Path

from .conftest import ROOT, load_tool


def test_staging_again_copies_nothing_and_removes_what_has_no_source(tmp_path: Path) -> None:
    tool = load_tool("stage")
    plugin = tool.stage(tmp_path)
    init = plugin / "__init__.py"
    written = init.stat().st_ino
    stale = plugin / "algorithms" / "gone.py"
    stale.parent.mkdir(exist_ok=True)
    stale.write_text("")
    cache = plugin / "algorithms" / "__pycache__" / "gone.cpython-311.pyc"
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("")
    tool.stage(tmp_path)
    assert init.stat().st_ino == written
    assert not stale.exists()
    assert not cache.exists()


def test_a_changed_source_is_staged(tmp_path: Path) -> None:
    tool = load_tool("stage")
    staged = tool.stage(tmp_path) / "core" / "pyproject.toml"
    staged.write_text("old")
    tool.stage(tmp_path)
    assert staged.read_bytes() == (ROOT / "pyproject.toml").read_bytes()


def test_the_core_can_be_installed_from_the_stage(tmp_path: Path) -> None:
    core = load_tool("stage").stage(tmp_path) / "core"
    assert {"pyproject.toml", "README.md", "LICENSE", "requirements.lock", "gair_core"} == {
        path.name for path in core.iterdir()
    }
    assert (core / "gair_core" / "py.typed").is_file()
    assert (core / "gair_core" / "worker.py").is_file()
