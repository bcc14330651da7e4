"""How well a classifier did on polygons that it had not seen, and what area each class covers.

The areas are those of the stratified estimator of Olofsson et al. 2014, "Good practices for estimating area
and assessing accuracy of land change" (doi:10.1016/j.rse.2014.02.015): the map's classes are the strata, and
what was mapped wrongly on held-out labels corrects the areas that the map shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gair_core.heads.base import AccuracyReport

IntArray = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

_Z95 = 1.96  # of the normal distribution, as the paper rounds it


@dataclass(frozen=True)
class AreaEstimate:
    """The area of one class.

    Attributes:
        mapped: Area that the map shows, square metres.
        area: Estimated area, square metres.
        margin: Half the width of its 95 % interval, square metres; None where the sample is too small.
        units: Sample units that were mapped as the class, such as polygons.
    """

    mapped: float
    area: float
    margin: float | None
    units: float

    @property
    def low(self) -> float:
        """Lower end of the interval; an area is not negative."""
        return max(self.area - (self.margin or 0), 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.area + (self.margin or 0)


def confusion_matrix(target: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """Return counts of pixels, rows reference and columns prediction, (classes, classes).

    Args:
        target: Class index of each pixel, shape (N,).
        predicted: What was predicted, shape (N,); pixels with -1 are left out.
        classes: Number of classes.
    """
    known = predicted >= 0
    pairs = target[known] * classes + predicted[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def accuracy_report(confusion: IntArray, names: Sequence[str], data: str) -> AccuracyReport:
    """Return the usual measures of a confusion matrix.

    Recall is the producer's accuracy, precision the user's. A measure that is not defined is left out: the
    recall of a class that nobody predicted for want of held-out polygons, the precision of one that was never
    found. The macro-averaged F1 is over the classes with a recall.

    Args:
        confusion: Counts, rows reference and columns prediction, (classes, classes).
        names: The classes' names, in the same order.
        data: The data and how they were held out, for people.
    """
    right, reference, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    by_class: dict[str, dict[str, float]] = {}
    for number, name in enumerate(names):
        measures = {}
        if predicted[number]:
            measures["precision"] = float(right[number] / predicted[number])
        if reference[number]:
            measures["recall"] = float(right[number] / reference[number])
            measures["f1"] = float(2 * right[number] / (reference[number] + predicted[number]))
        by_class[name] = measures
    overall: dict[str, float] = {}
    if confusion.any():
        measured = [measures for measures in by_class.values() if "recall" in measures]
        overall["overall_accuracy"] = float(right.sum() / confusion.sum())
        overall["macro_f1"] = float(np.mean([measures["f1"] for measures in measured]))
        overall["mean_recall"] = float(np.mean([measures["recall"] for measures in measured]))
    return AccuracyReport(
        data=data,
        metrics=overall,
        class_metrics=by_class,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def sample_units(target: IntArray, predicted: IntArray, polygon: IntArray, classes: int) -> Float64Array:
    """Return how many polygons were mapped as what: rows map, columns reference, (classes, classes).

    Pixels of one polygon are alike, so that counting each of them would feign a large sample. A polygon
    counts as one unit, divided between the classes that its pixels were mapped as; a point is a unit as well.

    Args:
        target: Class index of each pixel, shape (N,).
        predicted: What was predicted without having seen its polygon, shape (N,); -1 is left out.
        polygon: Number of its polygon, shape (N,).
        classes: Number of classes.
    """
    known = predicted >= 0
    _, member, size = np.unique(polygon[known], return_inverse=True, return_counts=True)
    units = np.zeros((classes, classes))
    np.add.at(units, (predicted[known], target[known]), 1 / size[member.ravel()])
    return units


def estimate_areas(units: npt.ArrayLike, mapped: npt.ArrayLike) -> list[AreaEstimate]:
    """Return the areas of classes with their 95 % intervals.

    Olofsson et al. 2014, with W_i the map's proportion of class i and n_ik the units that were mapped as i
    and are k: p_k = sum_i W_i n_ik / n_i (Eq. 9), S(p_k) = sqrt(sum_i W_i^2 (n_ik / n_i)(1 - n_ik / n_i) /
    (n_i - 1)) (Eq. 10), and the area A p_k with the interval 1.96 A S(p_k) to each side (Eq. 11).

    Of a class that the map shows and no unit was mapped as, nothing is known: the map is taken at its word
    and there is no interval; nor is there one where a single unit, or less, decides on a class's share.

    Args:
        units: Sample counts, rows map and columns reference, (classes, classes); fractions are possible.
        mapped: Area of each class in the map, square metres, shape (classes,).

    Returns:
        One estimate a class, in their order.

    Raises:
        ValueError: The shapes differ.
    """
    n, area = np.asarray(units, dtype=np.float64), np.asarray(mapped, dtype=np.float64)
    if n.shape != (len(area), len(area)):
        raise ValueError(f"{n.shape} sample counts for {len(area)} classes")
    total = float(area.sum())
    proportion = area / total if total else area
    size = n.sum(axis=1)
    share = np.where(size[:, None] > 0, n / np.where(size > 0, size, 1)[:, None], np.eye(len(area)))
    enough = size > 1
    spread = share * (1 - share) / np.where(enough, size - 1, 1)[:, None]
    variance = (proportion[:, None] ** 2 * np.where(enough[:, None], spread, 0)).sum(axis=0)
    guessed = ((proportion > 0) & ~enough)[:, None] & (share > 0)
    estimated = total * (proportion[:, None] * share).sum(axis=0)
    margin = _Z95 * total * np.sqrt(variance)
    return [
        AreaEstimate(
            mapped=float(area[number]),
            area=float(estimated[number]),
            margin=None if guessed[:, number].any() else float(margin[number]),
            units=float(size[number]),
        )
        for number in range(len(area))
    ]
