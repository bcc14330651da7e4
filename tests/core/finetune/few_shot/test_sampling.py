"""Balanced draws."""

from __future__ import annotations

import numpy as np

from gair_core.finetune.few_shot.sampling import draw_pixels


def draw(sizes, classes, **options):
    polygon = np.repeat(np.arange(len(sizes)), sizes)
    target = np.repeat(classes, sizes)
    settings = {"per_polygon": 50, "per_class": 80, "total": 1000, "rng": np.random.default_rng(0)}
    drawn = draw_pixels(polygon, target, **(settings | options))
    return drawn, np.bincount(polygon[drawn], minlength=len(sizes))


def test_a_class_is_dealt_evenly_and_small_polygons_leave_their_share_to_large_ones():
    drawn, counts = draw([500, 400, 5, 30], [0, 0, 0, 1])
    assert len(np.unique(drawn)) == len(drawn)
    assert counts[2] == 5
    assert counts[:3].sum() == 80
    assert abs(int(counts[0]) - int(counts[1])) <= 1
    assert counts[3] == 30


def test_no_polygon_gives_more_than_its_most():
    assert draw([500, 3], [0, 1])[1].tolist() == [50, 3]


def test_points_are_drawn_like_polygons_of_one_pixel():
    _, counts = draw([1] * 300, [0] * 300)
    assert counts.sum() == 80


def test_every_class_keeps_a_pixel_however_small_the_total():
    _, counts = draw([9, 9, 9, 9], [0, 1, 2, 3], total=2)
    assert counts.tolist() == [1, 1, 1, 1]
