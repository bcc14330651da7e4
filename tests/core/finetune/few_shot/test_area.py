"""Accuracy and areas against worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gair_core.finetune.few_shot.area import (
    accuracy_report,
    confusion_matrix,
    estimate_areas,
    sample_units,
)

# Olofsson et al. 2014, tables 8 and 9: deforestation, forest gain, stable forest, stable non-forest; map in
# rows. Areas of the map in pixels of 30 m.
OLOFSSON = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 900.0
HECTARE = 10_000


def test_areas_of_the_papers_example() -> None:
    found = estimate_areas(OLOFSSON, MAPPED)
    assert [round(one.area / 900) for one in found] == pytest.approx(
        [235_086, 129_845, 3_175_221, 6_459_849], 1e-4
    )
    # "21,158 ha ± 6158 ha" of deforestation, and those of the other three.
    hectares = [(round(one.area / HECTARE), round((one.margin or 0) / HECTARE)) for one in found]
    assert hectares == [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]


def test_accuracy_of_the_papers_counts() -> None:
    report = accuracy_report(np.array(OLOFSSON).T, ["a", "b", "c", "d"], "table 8")
    assert report.metrics["overall_accuracy"] == pytest.approx(587 / 640)
    assert report.class_metrics["a"]["precision"] == pytest.approx(66 / 75)
    assert report.class_metrics["c"]["recall"] == pytest.approx(153 / 175)
    assert report.class_metrics["b"]["f1"] == pytest.approx(2 * 55 / (75 + 56))


def test_what_is_not_defined_is_left_out() -> None:
    confusion = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 2, -1, 2]), 4)
    assert confusion.tolist() == [[1, 0, 1, 0], [0] * 4, [0, 0, 1, 0], [0] * 4]
    report = accuracy_report(confusion, ["a", "b", "c", "d"], "")
    assert report.class_metrics["b"] == {}
    assert report.class_metrics["a"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert report.metrics["mean_recall"] == 0.75
    assert accuracy_report(np.zeros((2, 2), np.int64), ["a", "b"], "").metrics == {}


def test_a_polygon_is_one_unit_whatever_its_size() -> None:
    target = np.array([0] * 100 + [1] * 4 + [1])
    predicted = np.array([0] * 75 + [1] * 25 + [1, 1, 1, 0] + [-1])
    polygon = np.array([7] * 100 + [3] * 4 + [9])
    units = sample_units(target, predicted, polygon, 2)
    assert units.ravel().tolist() == pytest.approx([0.75, 0.25, 0.25, 0.75])


def test_too_small_samples_have_no_interval() -> None:
    found = estimate_areas([[3, 0, 0], [0, 0, 0], [1, 0, 4]], [100, 50, 50])
    assert [round(one.area) for one in found] == [110, 50, 40]
    assert found[1].margin is None
    assert found[0].margin is not None
    assert found[0].margin == pytest.approx(1.96 * 200 * np.sqrt(0.25**2 * 0.2 * 0.8 / 4))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="3 classes"):
        estimate_areas(np.eye(2), [1, 2, 3])


@given(
    arrays(np.float64, (4, 4), elements=st.floats(0, 100)),
    arrays(np.float64, 4, elements=st.floats(0, 1e9)),
)
def test_the_estimates_divide_the_whole(units: np.ndarray, mapped: np.ndarray) -> None:
    found = estimate_areas(units, mapped)
    assert sum(one.area for one in found) == pytest.approx(mapped.sum(), rel=1e-9)
    assert all(one.area >= 0 and (one.margin is None or one.margin >= 0) for one in found)


@given(st.integers(1, 50), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_units_are_as_many_as_polygons(pixels: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    polygon = generator.integers(0, 10, pixels)
    target = generator.integers(0, classes, 10)[polygon]
    predicted = generator.integers(0, classes, pixels)
    units = sample_units(target, predicted, polygon, classes)
    assert units.sum() == pytest.approx(len(np.unique(polygon)))
