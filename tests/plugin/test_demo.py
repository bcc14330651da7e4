"""Test of `make demo` as a whole: the built zip, in a profile of its own, and the page of what it made."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from qgis.PyQt.QtGui import QImage

from .conftest import ROOT

MAPS = (
    "scene",
    "scene_plain",
    "later",
    "embeddings",
    "similarity",
    "classes",
    "true_classes",
    "trained",
    "truth",
    "polygons",
    "change",
)


def colours(picture: QImage) -> int:
    """How many colours a coarse grid of the map's pixels has."""
    points = ((x, y) for x in range(20, 880, 20) for y in range(20, 880, 20))
    return len({picture.pixel(x, y) for x, y in points})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_exposes_the_wrong_tags_and_makes_its_page(tmp_path: Path, gair_python: Path) -> None:
    subprocess.run([gair_python, ROOT / "tools" / "package.py"], check=True, capture_output=True)
    command = [gair_python, ROOT / "tools" / "demo.py", "--output", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 of the 3 wrongly tagged ones are the 3 of the lowest percentile" in run.stdout
    assert f"Open {tmp_path / 'index.html'}" in run.stdout
    for name in MAPS:
        assert colours(QImage(str(tmp_path / "world" / "maps" / f"{name}.png"))) > 100, name
    assert len(list((tmp_path / "world" / "maps").glob("photo_*.png"))) == 40
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("data:image/") > 2 * 40 + len(MAPS)
    # What the page calls right is much more than one class or chance would be.
    cover, trained = (float(found) for found in re.findall(r"<b>([\d.]+) %</b>", page)[:2])
    assert cover > 60
    assert trained > 80
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("*.aux.xml"))
