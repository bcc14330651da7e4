"""Tests of what importing the plugin costs QGIS's start; benchmarks/plugin.py prints the times."""

from __future__ import annotations

import ast
import subprocess
import sys

from .conftest import ROOT, STAGE

LISTING = """
import sys
import qgis.core, qgis.gui, qgis.PyQt.QtWidgets
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
{imports}
print(*{{name.partition('.')[0] for name in set(sys.modules) - before}})
"""
# What would clash with QGIS's own libraries, or take longer than everything else together.
FORBIDDEN = {"gair_core", "numpy", "rasterio", "torch", "pyproj", "geopandas", "asyncio", "ssl", "subprocess"}


def imported(imports: str) -> set[str]:
    command = [sys.executable, "-c", LISTING.format(imports=imports), str(STAGE)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_plugin_imports_nothing_heavy() -> None:
    assert not imported("import gair; gair.classFactory(None)") & {*FORBIDDEN, "osgeo", "processing"}


def test_the_algorithms_import_nothing_heavy() -> None:
    assert not imported("import gair.algorithms") & {*FORBIDDEN, "osgeo", "processing"}


def test_the_plugin_knows_qgis_and_the_standard_library_only() -> None:
    known = {"__future__", "osgeo", "processing", "qgis"} | set(sys.stdlib_module_names)
    for path in sorted((ROOT / "qgis_plugin").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = {str(node.module).partition(".")[0]}
            else:
                continue
            assert names <= known, path
