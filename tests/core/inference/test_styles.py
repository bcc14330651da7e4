"""Styles are judged by QGIS itself, where the system has it: loaded, drawn and read back as colours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from gair_core.geo.grid import Grid
from gair_core.inference.styles import palette_style, ramp_style, rgb_style
from gair_core.inference.writers import RasterWriter

# The token in the names of temporaries.
MARK = "t"
SYSTEM_PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("render_style.py")
GRID = Grid(CRS.from_epsg(32648), Affine(10, 0, 3e5, 0, -10, 2e6), 300, 200)
ACROSS = np.broadcast_to(np.linspace(0, 1, 300), (200, 300))


@pytest.fixture(scope="module")
def qgis_environment(tmp_path_factory):
    environment = {
        "QT_QPA_PLATFORM": "offscreen",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path_factory.mktemp("home")),
    }
    command = [SYSTEM_PYTHON, "-I", "-c", "import qgis.core"]
    if (
        not Path(SYSTEM_PYTHON).exists()
        or subprocess.run(command, env=environment, capture_output=True, check=False).returncode
    ):
        pytest.skip(f"needs PyQGIS in {SYSTEM_PYTHON}")
    return environment


def draw(folder, environment, array, style, nodata):
    path = folder / "räster 1.tif"
    with RasterWriter(
        path, GRID, len(array), array.dtype.name, token=MARK, nodata=nodata, style=style
    ) as writer:
        writer.write(np.ascontiguousarray(array), 0)
    command = [SYSTEM_PYTHON, "-I", SCRIPT, path, path.with_suffix(".qml"), folder / "picture.png"]
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert found["valid"]
    assert found["loaded"], found["message"]
    return found


def near(found, wanted):
    return np.abs(np.array(found[:3]) - wanted).max() <= 6


def test_palette(tmp_path, qgis_environment):
    classes = [(1, "Wald & <Wiese>", (0, 128, 0)), (2, "été", (255, 200, 0)), (3, '水 "w"', (0, 0, 255))]
    array = (1 + np.minimum((ACROSS * 3).astype("uint8"), 2))[None]
    found = draw(tmp_path, qgis_environment, array, palette_style(classes), 0)
    assert found["renderer"] == "paletted"
    assert found["legend"] == [name for _, name, _ in classes]
    assert [found[place][:3] for place in ("corner", "middle", "end")] == [list(c) for _, _, c in classes]


def test_ramp(tmp_path, qgis_environment):
    array = (ACROSS * 2 - 1).astype("float32")[None]
    found = draw(tmp_path, qgis_environment, array, ramp_style(-1, 1), float("nan"))
    assert found["renderer"] == "singlebandpseudocolor"
    assert near(found["corner"], (3, 2, 12))
    assert near(found["middle"], (182, 56, 120))  # halfway between magma's fifth and sixth colours
    assert near(found["end"], (252, 245, 183))


def test_rgb(tmp_path, qgis_environment):
    # int16, because GDAL before 3.7 (QGIS 3.22 on Debian 12) reads negative int8 values as 128 to 255.
    array = np.stack([ACROSS * 200 - 100, ACROSS * 0, 100 - ACROSS * 200]).astype("int16")
    found = draw(tmp_path, qgis_environment, array, rgb_style((1, 2, 3), ((-100, 100),) * 3), -128)
    assert found["renderer"] == "multibandcolor"
    assert near(found["corner"], (4, 127, 251))
    assert near(found["middle"], (127, 127, 127))
    assert near(found["end"], (251, 127, 4))


def test_control_characters_cannot_break_the_document():
    defusedxml = pytest.importorskip("defusedxml.ElementTree")
    root = defusedxml.fromstring(palette_style([(1, "a\x00\x1b]\"'<&", (1, 2, 3))]))
    assert root.find(".//paletteEntry").attrib == {
        "value": "1",
        "label": "a]\"'<&",
        "color": "#010203",
        "alpha": "255",
    }


def test_empty_ranges_are_refused():
    with pytest.raises(ValueError, match="minimum < maximum"):
        ramp_style(1, 1)
    with pytest.raises(ValueError, match="three ranges"):
        rgb_style(ranges=((0, 1), (0, 1), (2, 2)))
