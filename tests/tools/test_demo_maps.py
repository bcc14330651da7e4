"""Tests of tools/demo_maps.py: which map belongs to which photo, and that QGIS's Python is there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    import demo_maps

    return demo_maps


def layer(path: Path, photo: str) -> Path:
    transform = from_origin(13.1, 58.7, 0.001, 0.001)
    profile = {"driver": "GTiff", "width": 2, "height": 2, "count": 1, "dtype": "float32"}
    with rasterio.open(path, "w", **profile, crs="EPSG:4326", transform=transform) as target:
        target.write(np.zeros((1, 2, 2), np.float32))
        target.descriptions = (photo,)
    return path


def test_a_photo_is_shown_beside_its_own_layer(tool: ModuleType, tmp_path: Path) -> None:
    from demo_inputs import Inputs
    from demo_scores import PhotoScore

    # gair:photosimilarity numbers the second layer of one stem.
    layers = [
        layer(tmp_path / "a.tif", "a.jpg"),
        layer(tmp_path / "a_2.tif", "a.png"),
        layer(tmp_path / "b.tif", "b.jpg"),
        layer(tmp_path / "b_2.tif", "b.jpg"),
        tmp_path / "a.qml",
    ]
    inputs = Inputs(tmp_path, tmp_path / "index.html", tmp_path / "scene.tif", None, None)
    photos = [Path("one/a.jpg"), Path("one/a.png"), Path("one/b.jpg"), Path("two/b.jpg"), Path("one/c.jpg")]
    scores = [PhotoScore(photo, (13.1, 58.7), (13.1, 58.7), 0.5, 90.0) for photo in photos]
    found = tool.photo_maps(inputs, scores, layers)
    # Of the two called b.jpg nobody knows which layer is whose, and c.jpg has none.
    assert {photo: sketch.layers for photo, sketch in found.items()} == {
        photos[0]: [str(layers[0])],
        photos[1]: [str(layers[1])],
    }
    assert len({sketch.picture for sketch in found.values()}) == 2


def test_a_python_without_qgis_is_told_at_once(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"cannot be run: No such file or directory.*QGIS_PYTHON"):
        tool.check_renderer(str(tmp_path / "python3"))
    with pytest.raises(SystemExit, match=r"cannot import qgis\.core.*QGIS_PYTHON"):
        # Without site-packages, so that it has no QGIS on any machine.
        (tmp_path / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
        (tmp_path / "python3").chmod(0o755)
        tool.check_renderer(str(tmp_path / "python3"))
