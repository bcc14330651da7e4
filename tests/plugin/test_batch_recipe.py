"""The batch recipe of docs/batch.md is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from qgis.core import QgsRasterLayer

from .conftest import ROOT, STAGE
from .made_scenes import made_scene


def recipe() -> str:
    page = (ROOT / "docs" / "batch.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(# batch\.py\n.*?)```", page, re.DOTALL)
    return code


def run_recipe(folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "batch.py"
    script.write_text(recipe(), encoding="utf-8")
    environment = {
        **os.environ,
        "QGIS_PLUGINPATH": str(STAGE),
        "QGIS_CUSTOM_CONFIG_PATH": str(folder / "profile"),
    }
    command = [sys.executable, script, folder / "scenes", folder / "results"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_recipe_runs_every_scene_and_reports_what_failed(tmp_path: Path, gair_python: Path) -> None:
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for name in ("first", "second"):
        made_scene(scenes / f"{name}.tif", width=40, height=40)
    (scenes / "broken.tif").write_text("no raster")
    run = run_recipe(tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert run.stdout.split("\n")[:2] == ["first.tif done", "second.tif done"]
    assert "broken.tif" in run.stderr
    results = tmp_path / "results"
    assert sorted(path.name for path in results.glob("*.tif")) == ["first_classes.tif", "second_classes.tif"]
    assert QgsRasterLayer(str(results / "first_classes.tif")).width() == 40

    (scenes / "broken.tif").unlink()
    again = run_recipe(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "done" not in again.stdout
