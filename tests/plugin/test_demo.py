"""Test of `make demo` as a whole: the built zip, in a profile of its own, pictured by QGIS's renderer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from qgis.PyQt.QtGui import QImage

from .conftest import ROOT


def colours(picture: QImage) -> int:
    """How many colours a coarse grid of the map's pixels has."""
    points = ((x, y) for x in range(50, 950, 30) for y in range(100, 950, 30))
    return len({picture.pixel(x, y) for x, y in points})


@pytest.mark.slow
def test_the_demo_makes_its_pictures(tmp_path: Path, gair_python: Path) -> None:
    subprocess.run([gair_python, ROOT / "tools" / "package.py"], check=True, capture_output=True)
    command = [gair_python, ROOT / "tools" / "demo.py", "--output", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "untrained" in run.stdout
    assert "made up" in run.stdout
    for name in ("classes", "embeddings", "similarity"):
        picture = tmp_path / "generated" / f"{name}.png"
        assert str(picture) in run.stdout
        assert colours(QImage(str(picture))) > 100
    assert not list(tmp_path.rglob("*.part"))
