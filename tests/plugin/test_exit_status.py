"""The tests' own exit status: what pytest found, whatever QGIS and Python do to each other in the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

# A layer in a cycle, which the interpreter takes apart after QGIS: that crashes QGIS 3.22.
TEST = """
from osgeo import gdal
from qgis.core import QgsRasterLayer, QgsRasterPipe

kept = []


def test_something(qgis_app, tmp_path):
    gdal.GetDriverByName("GTiff").Create(str(tmp_path / "a.tif"), 4, 4, 1).FlushCache()
    layer, pipe = QgsRasterLayer(str(tmp_path / "a.tif"), "a"), QgsRasterPipe()
    pipe.set(layer.dataProvider().clone())
    kept.append([layer, pipe, kept])
    assert {outcome}
"""


@pytest.mark.parametrize(("outcome", "status"), [("True", 0), ("False", 1)])
def test_the_exit_status_is_that_of_the_tests(tmp_path: Path, outcome: str, status: int) -> None:
    module = tmp_path / "test_made_up.py"
    module.write_text(TEST.format(outcome=outcome), encoding="utf-8")
    configuration = ROOT / "tests" / "plugin" / "pytest.ini"
    command = [sys.executable, "-m", "pytest", "-p", "tests.plugin.conftest", "-c", configuration, module]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == status, run.stdout + run.stderr
    assert "1 passed" in run.stdout or status
