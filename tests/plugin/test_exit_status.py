"""The tests' own exit status: what pytest found, whatever QGIS and Python do to each other in the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

# Two layers that the interpreter takes apart after QGIS, one of them in a cycle: that crashes QGIS 3.22.
TEST = """
from qgis.core import QgsRasterLayer, QgsVectorLayer

kept = [QgsVectorLayer("Point", "points", "memory"), QgsRasterLayer("none.tif", "none")]
kept.append(kept)


def test_something(qgis_app):
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
