"""Tests of tools/demo_scene.py: gair_core takes its scene and its photos for real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gair_core.photos.tables import read_photos
from gair_core.sentinel2.bands import BANDS
from gair_core.sentinel2.scene import Scene


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
    import demo_scene

    return demo_scene


def test_the_scene_has_the_spectra_of_what_the_photos_show(tool: ModuleType, tmp_path: Path) -> None:
    path, folder = tool.write(tmp_path)
    photos = read_photos(str(folder))
    assert len(photos) == len(tool.PHOTOS)
    with Scene.open(str(path)) as scene:
        assert tuple(scene.band_names) == BANDS
        assert not scene.warnings
        whole = scene.grid.window(scene.grid.bounds, scene.grid.crs)
        pixels, valid = scene.read(whole)
        assert valid.all()
        uv = scene.grid.footprint.uv(np.asarray(photos.lonlat))
    columns, rows = (uv * tool.SIZE).astype(int).T
    for path, row, column in zip(photos.paths, rows, columns, strict=True):
        wanted = np.array(tool.SPECTRA[tool.PHOTOS[Path(path).stem].surface], float)
        # Brightness varies, the colours do not.
        found = pixels[:, row, column].astype(float)
        assert found / found.sum() == pytest.approx(wanted / wanted.sum(), abs=0.002)


def test_the_same_seed_makes_the_same_scene(tool: ModuleType, tmp_path: Path) -> None:
    first, _ = tool.write(tmp_path / "first")
    second, _ = tool.write(tmp_path / "second")
    with Scene.open(str(first)) as one, Scene.open(str(second)) as other:
        window = one.grid.window(one.grid.bounds, one.grid.crs)
        assert np.array_equal(one.read(window)[0], other.read(window)[0])
