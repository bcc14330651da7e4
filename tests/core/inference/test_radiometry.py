"""Scenes that reflect otherwise than the training are found; other land cover is no reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gair_core.heads.base import HeadClass, HeadConfig, HeadMetadata
from gair_core.heads.linear import LinearHead
from gair_core.heads.pixel import PixelLinearConfig, PixelLinearHead
from gair_core.inference.radiometry import RadiometryCheck, differing_scenes

METADATA = HeadMetadata(
    classes=tuple(HeadClass(value=number, name=f"{number}", colour=(0, 0, 0)) for number in (1, 2))
)
# Means of grass and forest as Sentinel-2 sees them, DN; training had as much of either.
GRASS = np.array([350, 600, 500, 1000, 2800, 3300, 3500, 3600, 2200, 1200])
FOREST = np.array([200, 350, 220, 600, 2000, 2500, 2600, 2800, 1200, 550])


def samples(mean: np.ndarray, count: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.15, (count, 10))
    return np.concatenate([mean * (1 + noise), np.zeros((count, 20))], axis=1)


@pytest.fixture
def head() -> PixelLinearHead:
    both = np.concatenate([samples(GRASS, 500, 0), samples(FOREST, 500, 1)])[:, :10]
    head = PixelLinearHead(PixelLinearConfig(embed_dim=4), METADATA)
    head.band_mean[:10] = torch.from_numpy(both.mean(axis=0))
    head.band_scale[:10] = torch.from_numpy(both.std(axis=0))
    return head


def warning(head: PixelLinearHead, values: np.ndarray) -> str | None:
    check = RadiometryCheck(head)
    pixels = values.T.reshape(30, 10, -1)
    for half in np.split(pixels, 2, axis=1):
        check.add(half, np.ones(half.shape[1:], np.bool_))
    return check.warning()


@pytest.mark.parametrize("mean", [GRASS, FOREST])
def test_other_land_cover_is_no_reason(head: PixelLinearHead, mean: np.ndarray) -> None:
    assert warning(head, samples(mean, 200, 2)) is None


@pytest.mark.parametrize("offset", [1000, -3000])
def test_an_offset_is(head: PixelLinearHead, offset: int) -> None:
    values = samples((GRASS + FOREST) / 2, 200, 3)
    values[:, :10] += offset
    found = warning(head, values)
    assert found is not None
    assert "--offset" in found


def test_another_scale_is(head: PixelLinearHead) -> None:
    assert warning(head, samples(GRASS, 200, 4) * 3) is not None


def test_pixels_without_data_do_not_count(head: PixelLinearHead) -> None:
    check = RadiometryCheck(head)
    check.add(np.full((30, 5, 5), 9000.0), np.zeros((5, 5), np.bool_))
    assert check.warning() is None


def test_heads_that_do_not_know_their_training() -> None:
    check = RadiometryCheck(LinearHead(HeadConfig(embed_dim=4), METADATA))
    check.add(np.full((10, 5, 5), 9000.0), np.ones((5, 5), np.bool_))
    assert check.warning() is None


def test_scenes_are_compared_within_classes() -> None:
    """One scene has grass alone, another forest too: that is no difference; an offset is."""
    bands = np.concatenate([samples(GRASS, 50, 5), samples(GRASS, 20, 6), samples(FOREST, 80, 7)])
    target = np.repeat([0, 0, 1], [50, 20, 80])
    origin = np.repeat([0, 1, 1], [50, 20, 80])
    assert differing_scenes(bands, target, origin) == []
    bands[origin == 1, :10] += 1000
    assert differing_scenes(bands, target, origin) == [1]


def test_the_odd_one_of_three_scenes() -> None:
    bands = np.concatenate([samples(GRASS, 40, seed) for seed in (8, 9, 10)])
    origin = np.repeat([0, 1, 2], 40)
    bands[origin == 2, :10] += 1000
    assert differing_scenes(bands, np.zeros(120, np.int64), origin) == [2]


def test_scenes_without_a_common_class_say_nothing() -> None:
    bands = np.concatenate([samples(GRASS, 40, 1), samples(FOREST, 40, 2) + 3000])
    which = np.repeat([0, 1], 40)
    assert differing_scenes(bands, which, which) == []
