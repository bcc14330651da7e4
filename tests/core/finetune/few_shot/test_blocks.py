"""Folds: polygons and blocks stay whole, and no class loses its training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gair_core.finetune.few_shot.blocks import assign_folds


@st.composite
def labels(draw):
    classes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=40))
    places = draw(
        st.lists(
            st.tuples(st.floats(-180, 180), st.floats(-80, 80)), min_size=len(classes), max_size=len(classes)
        )
    )
    sizes = draw(st.lists(st.integers(1, 5), min_size=len(classes), max_size=len(classes)))
    polygon = np.repeat(draw(st.permutations(range(len(classes)))), sizes)
    return polygon, np.repeat(classes, sizes), np.repeat(np.array(places), sizes, axis=0)


@settings(max_examples=150, deadline=None)
@given(labels(), st.integers(2, 6), st.integers(0, 3))
def test_a_polygon_is_never_split_and_every_class_is_always_trained(found, count, seed):
    polygon, target, lonlat = found
    folds = assign_folds(polygon, target, lonlat, count, seed)
    assert folds.count <= count
    for number in np.unique(polygon):
        assert len(np.unique(folds.fold[polygon == number])) == 1
    for number in np.unique(target):
        mine = target == number
        if len(np.unique(polygon[mine])) == 1:
            assert (folds.fold[mine] == -1).all()
            assert number in folds.singles
        else:
            assert (folds.fold[mine] >= 0).all()
            assert len(np.unique(folds.fold[mine])) > 1
    if folds.count:
        assert set(np.unique(folds.fold[folds.fold >= 0])) == set(range(folds.count))


def scattered(count, classes, seed=0):
    rng = np.random.default_rng(seed)
    lonlat = np.array([8.0, 50.0]) + rng.random((count, 2)) * [0.1, 0.06]
    return np.arange(count), np.arange(count) % classes, lonlat


def test_neighbours_are_held_out_together_where_there_are_enough_polygons():
    polygon, target, lonlat = scattered(200, 3)
    folds = assign_folds(polygon, target, lonlat, 5)
    assert folds.blocks is not None
    assert folds.blocks < 100
    near = np.hypot(*(lonlat[:, None] - lonlat[None]).transpose(2, 0, 1)) + 9 * np.eye(200)
    together = folds.fold[near.argmin(axis=1)] == folds.fold
    assert together.mean() > 0.5  # by chance a fifth


def test_few_polygons_are_held_out_one_by_one():
    polygon, target, lonlat = scattered(8, 4)
    folds = assign_folds(polygon, target, lonlat, 5)
    assert folds.blocks is None
    assert folds.count == 5


def test_folds_have_about_as_many_polygons_of_each_class():
    polygon, target, lonlat = scattered(150, 3)
    folds = assign_folds(polygon, target, lonlat, 5)
    counts = np.array([np.bincount(target[folds.fold == k], minlength=3) for k in range(5)])
    assert counts.min() >= 5
    assert counts.max() <= 16


def test_the_same_seed_deals_the_same():
    polygon, target, lonlat = scattered(60, 3)
    one, other = (assign_folds(polygon, target, lonlat, 5, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.fold, other.fold)


def test_neighbours_across_the_date_line_are_near():
    polygon, target, lonlat = scattered(200, 3)
    folds = assign_folds(polygon, target, lonlat, 5)
    lonlat[:, 0] = (lonlat[:, 0] - 8.05 + 180 + 180) % 360 - 180
    np.testing.assert_array_equal(assign_folds(polygon, target, lonlat, 5).fold, folds.fold)


def test_a_polygon_of_two_classes_is_a_mistake():
    with pytest.raises(ValueError, match="two classes"):
        assign_folds(np.zeros(2, int), np.array([0, 1]), np.zeros((2, 2)), 5)
