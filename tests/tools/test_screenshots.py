"""Tests of tools/screenshots.py: pictures get small and stay readable."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

BACKGROUND, LETTERS, STAR = (239, 239, 239), (20, 20, 20), (227, 26, 28)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    import screenshots

    return screenshots


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A flat window beside a grainy map."""
    pixels = np.full((400, 800, 3), BACKGROUND, np.uint8)
    pixels[100:110, :200] = LETTERS
    pixels[:, 300:] = np.random.default_rng(0).integers(0, 120, (400, 500, 3))
    pixels[300:310, 500:510] = STAR
    path = tmp_path / "full.png"
    Image.fromarray(pixels).save(path)
    return path


def test_the_windows_own_colours_stay_when_the_maps_are_reduced(
    tool: ModuleType, picture: Path, tmp_path: Path
) -> None:
    tool.shrink(picture, tmp_path / "small.png")
    small = np.asarray(Image.open(tmp_path / "small.png").convert("RGB"))
    full = np.asarray(Image.open(picture))
    assert (tmp_path / "small.png").stat().st_size < picture.stat().st_size / 2
    assert np.array_equal(small[:, :300], full[:, :300])
    assert np.array_equal(small[300:310, 500:510], full[300:310, 500:510])
    assert np.abs(small.astype(int) - full).mean() < 12


def test_a_small_picture_keeps_every_colour(tool: ModuleType, tmp_path: Path) -> None:
    colours = np.arange(60 * 60 * 3, dtype=np.uint32).reshape(60, 60, 3) % 251
    Image.fromarray(colours.astype(np.uint8)).save(tmp_path / "full.png")
    tool.shrink(tmp_path / "full.png", tmp_path / "small.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "small.png")), colours)
