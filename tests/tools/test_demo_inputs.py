"""Tests of tools/demo_inputs.py: nothing of anybody else's is lost, and what is missing is said at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    import demo_inputs

    return demo_inputs


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"scene": None, "photos": None, "model": "demo", "head": "demo", **given})


def test_a_folder_of_an_earlier_demonstration_is_taken_again(tool: ModuleType, tmp_path: Path) -> None:
    folder, page = tmp_path / "demo" / "world", tmp_path / "demo" / "index.html"
    tool.claim(folder, page)
    page.write_text("<!DOCTYPE html>\n<title>GAIR on a city</title>", encoding="utf-8")
    (folder / "maps" / "mine.png").write_bytes(b"mine")
    (folder / "scene.tif").touch()
    tool.claim(folder, page)
    assert (folder / "maps" / "mine.png").read_bytes() == b"mine"


def test_somebody_elses_page_stays(tool: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_bytes(b"<title>My page, gr\xfcn</title>")
    with pytest.raises(SystemExit, match=r"index\.html was not made by make demo"):
        tool.claim(tmp_path / "world", page)
    assert page.read_bytes() == b"<title>My page, gr\xfcn</title>"
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize("name", ["world/notes.txt", "world"])
def test_somebody_elses_folder_stays(tool: ModuleType, tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(SystemExit, match="world was not made by make demo"):
        tool.claim(tmp_path / "world", tmp_path / "index.html")
    assert mine.read_text() == "mine"
    assert not (tmp_path / "world" / "maps").exists()


@pytest.mark.parametrize("name", ["scene", "photos"])
def test_files_that_are_missing_are_named(tool: ModuleType, tmp_path: Path, name: str) -> None:
    given = {"scene": None, name: tmp_path / "nowhere.tif"}
    with pytest.raises(SystemExit, match=rf"{name.upper()}: .*nowhere\.tif does not exist"):
        tool.check_files(options(**given), tmp_path / "demo")


@pytest.mark.parametrize("name", ["scene", "photos", "model", "head"])
def test_inputs_are_never_where_outputs_go(tool: ModuleType, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "demo" / "classes"
    folder.mkdir(parents=True)
    (folder / "classes.tif").touch()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(SystemExit, match="which make demo writes anew"):
        tool.check_files(options(**{name: tmp_path / "link" / "classes.tif"}), folder)


def test_paths_are_absolute_and_names_stay(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scene.tif", "head.safetensors"):
        Path(name).touch()
    given = options(scene=Path("scene.tif"), head="head.safetensors")
    tool.check_files(given, tmp_path / "demo" / "scene")
    assert given.scene == tmp_path / "scene.tif"
    assert (given.model, given.head) == ("demo", str(tmp_path / "head.safetensors"))
