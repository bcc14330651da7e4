"""The choice of a setting by cross-validation, and what it predicts for polygons that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gair_core.finetune.few_shot.features import PixelTable
from gair_core.finetune.few_shot.solver import Float64Array, IntArray, Solution, balanced_weights, solve

Excluded: TypeAlias = frozenset[int]

# Accurate enough to compare settings by; the chosen one is solved to the last digits.
_TOLERANCE = 3e-5
# Standard errors by which the embedding has to be better than the bands alone.
_MARGIN = 0.25


@dataclass(frozen=True)
class Setting:
    """One choice.

    Attributes:
        components: Principal components of z; 0 means that the embedding is not used.
        penalty: Weight of the L2 penalty on the coefficients of the bands.
        embedding_factor: What the penalty of the components is multiplied by; 1 where there are none.
    """

    components: int
    penalty: float
    embedding_factor: float = 1.0


@dataclass(frozen=True)
class SettingScore:
    """How a setting did on held-out polygons.

    Attributes:
        setting: The setting.
        score: Mean over classes and their polygons of 1 - Brier / 2, in [0, 1]; 1 is certain and right.
        error: Standard error of the difference to the best setting's score.
    """

    setting: Setting
    score: float
    error: float


@dataclass(frozen=True)
class Choices:
    """What is tried; see `FitOptions`."""

    components: tuple[int, ...]
    penalties: tuple[float, ...]
    embedding_penalties: tuple[float, ...]


@dataclass(frozen=True)
class Classifier:
    """Logits A z + B (x - m) / s + b; see `FewShotFit`."""

    weight: Float64Array
    band_weight: Float64Array
    bias: Float64Array
    band_mean: Float64Array
    band_scale: Float64Array

    def logits(self, table: PixelTable) -> Float64Array:
        """Return the logits of a table's pixels, shape (N, classes)."""
        result = np.empty((len(table), len(self.bias)))
        for start in range(0, len(table), _ROWS):
            rows = slice(start, start + _ROWS)
            bands = (table.bands[rows] - self.band_mean) / self.band_scale
            result[rows] = bands @ self.band_weight.T + self.bias
            result[rows] += table.embedding[rows].astype(np.float64) @ self.weight.T
        return result


# Pixels of a table per step: bounds the copies in double precision.
_ROWS = 8192


class Training:
    """The pixels of one training, in the coordinates that the penalty is meant for.

    Features of the bands have mean 0 and variance 1. Components of z keep their variances relative to one
    another and the first has variance 1: directions in which z hardly varies are mostly noise, and the
    penalty holds them down.

    Args:
        table: The pixels.
        target: Class index of each, shape (N,).
        classes: Number of classes.
        components: The most components that will be asked for.
    """

    def __init__(self, table: PixelTable, target: IntArray, classes: int, components: int) -> None:
        self._classes, self._target = classes, target
        self._weights = balanced_weights(target, classes)
        bands = table.bands.astype(np.float64)
        self._band_mean, self._band_scale = _moments(bands, self._weights)
        embedding = table.embedding.astype(np.float64)
        self._centre = self._weights @ embedding
        self._basis = _principal(embedding - self._centre, self._weights, components)
        self._features = np.concatenate(
            [(bands - self._band_mean) / self._band_scale, (embedding - self._centre) @ self._basis], axis=1
        )
        self._bands_alone: dict[float, Solution] = {}

    def fit(self, setting: Setting, tolerance: float) -> Classifier:
        """Return the classifier of a setting."""
        bands = len(self._band_mean)
        count = min(setting.components, self._basis.shape[1])
        penalty = np.full(bands + count, setting.penalty)
        penalty[bands:] *= setting.embedding_factor
        solution = solve(
            self._features[:, : bands + count],
            self._target,
            self._weights,
            penalty,
            self._classes,
            tolerance=tolerance,
            start=self._start(setting.penalty, count),
        )
        if count == 0:
            self._bands_alone[setting.penalty] = solution
        weight = (self._basis[:, :count] @ solution.coefficients[bands:]).T
        return Classifier(
            weight,
            solution.coefficients[:bands].T,
            solution.intercept - weight @ self._centre,
            self._band_mean,
            self._band_scale,
        )

    def _start(self, penalty: float, count: int) -> Solution | None:
        """Return the bands' solution at this penalty, or, for the bands alone, at the next larger one.

        Never another that happens to be known: what was tried before may depend on polygons that this
        training must not know of.
        """
        if count == 0:
            larger = [known for known in self._bands_alone if known > penalty]
            return self._bands_alone[min(larger)] if larger else None
        known = self._bands_alone.get(penalty)
        if known is None:
            return None
        return replace(known, coefficients=np.pad(known.coefficients, ((0, count), (0, 0))))


def _moments(values: Float64Array, weights: Float64Array) -> tuple[Float64Array, Float64Array]:
    mean = weights @ values
    scale = np.sqrt(weights @ (values - mean) ** 2)
    # A constant feature says nothing; it becomes 0 and not a division by it.
    return mean, np.where(scale > 1e-6 * np.maximum(np.abs(mean), 1.0), scale, 1.0)


def _principal(centred: Float64Array, weights: Float64Array, count: int) -> Float64Array:
    """Return directions of the largest variance, the first scaled to a variance of 1, shape (D, count)."""
    variances, directions = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    count = min(count, len(variances))
    largest = float(variances[-1])
    if largest <= 0:
        return np.zeros((len(variances), count))
    kept: Float64Array = directions[:, ::-1][:, :count] / np.sqrt(largest)
    return kept


@dataclass
class Search:
    """Settings tried on folds; every model is fitted once, however often it is asked for.

    Attributes:
        table: The pixels that models are trained on.
        target: Their classes.
        fold: Their folds, -1 for pixels that stay in every training.
        judged: Pixels that settings are judged by.
        judged_target: Their classes.
        judged_polygon: Numbers of their polygons.
        judged_fold: Their folds.
        classes: Number of classes.
        choices: What is tried.
        tick: Called after every fit; may cancel.
    """

    table: PixelTable
    target: IntArray
    fold: IntArray
    judged: PixelTable
    judged_target: IntArray
    judged_polygon: IntArray
    judged_fold: IntArray
    classes: int
    choices: Choices
    tick: Callable[[], None]
    _trainings: dict[Excluded, Training | None] = field(default_factory=dict)
    _classifiers: dict[tuple[Excluded, Setting], Classifier] = field(default_factory=dict)
    _quality: dict[tuple[Excluded, int, Setting], npt.NDArray[np.float64]] = field(default_factory=dict)

    def classifier(self, excluded: Excluded, setting: Setting) -> Classifier | None:
        """Return the classifier trained without some folds; None where fewer than 2 classes are left."""
        key = excluded, setting
        if key not in self._classifiers:
            training = self._training(excluded)
            if training is None:
                return None
            self._classifiers[key] = training.fit(setting, _TOLERANCE)
            self.tick()
        return self._classifiers[key]

    def choose(self, without: Excluded) -> tuple[Setting | None, list[SettingScore]]:
        """Choose a setting by what lies outside of some folds alone.

        First the penalty of the bands; then, at that penalty, how strongly a medium number of components is
        held down; then whether the bands beside them should be held down more; then how many components. The
        embedding is used if it is better than the bands alone by more than a quarter of the difference's
        standard error: among settings that are equally good by chance the bands alone win.

        Args:
            without: Folds that must not be looked at.

        Returns:
            The setting, None where nothing can be held out, and the scores of all that were tried.
        """
        tried: dict[Setting, Float64Array] = {}
        penalties = sorted(self.choices.penalties, reverse=True)
        bands = self._best([Setting(0, penalty) for penalty in penalties], without, tried)
        if bands is None:
            return None, []
        chosen = bands
        components = sorted(count for count in self.choices.components if count > 0)
        if components and self.table.embedding.shape[1]:
            best = self._best_with_embedding(bands, penalties, components, without=without, tried=tried)
            if best is not None:
                gain, error = self._difference(tried[best], tried[bands])
                chosen = best if gain > _MARGIN * error else bands
        scores = []
        best_known = max(tried, key=lambda one: self._mean(tried[one]))
        for setting, quality in tried.items():
            error = self._difference(quality, tried[best_known])[1]
            scores.append(SettingScore(setting, self._mean(quality), error))
        return chosen, scores

    def _best_with_embedding(
        self,
        bands: Setting,
        penalties: Sequence[float],
        components: Sequence[int],
        *,
        without: Excluded,
        tried: dict[Setting, Float64Array],
    ) -> Setting | None:
        middle = components[len(components) // 2]
        strengths = sorted(self.choices.embedding_penalties, reverse=True)
        light = [Setting(middle, bands.penalty, one / bands.penalty) for one in strengths]
        best = self._best(light, without, tried)
        if best is None:
            return None
        strength = best.penalty * best.embedding_factor
        larger = [penalty for penalty in penalties if penalty > bands.penalty]
        heavier = [Setting(middle, penalty, strength / penalty) for penalty in larger]
        best = self._best([best, *heavier], without, tried) or best
        others = [replace(best, components=count) for count in components if count != middle]
        return self._best([best, *others], without, tried) or best

    def _best(
        self, settings: Sequence[Setting], without: Excluded, tried: dict[Setting, Float64Array]
    ) -> Setting | None:
        """Try settings; the first of equal ones is the best."""
        for setting in settings:
            if setting not in tried:
                tried[setting] = self._held_out_quality(setting, without)
        if not np.isfinite(tried[settings[0]]).any():
            return None
        return max(settings, key=lambda setting: self._mean(tried[setting]))

    def _held_out_quality(self, setting: Setting, without: Excluded) -> Float64Array:
        """Return 1 - Brier / 2 of each judged pixel outside of ``without``; NaN where there is none."""
        quality = np.full(len(self.judged), np.nan)
        for fold in np.unique(self.judged_fold[self.judged_fold >= 0]):
            if int(fold) not in without:
                quality[self.judged_fold == fold] = self._fold_quality(int(fold), setting, without)
        return quality

    def _fold_quality(self, fold: int, setting: Setting, without: Excluded) -> Float64Array:
        excluded = without | {fold}
        key = excluded, fold, setting
        if key not in self._quality:
            here = np.flatnonzero(self.judged_fold == fold)
            classifier = self.classifier(excluded, setting)
            found = np.full(len(here), np.nan)
            if classifier is not None:
                # A class that only the left-out folds have cannot be found, by no setting.
                learnt = np.isin(self.judged_target[here], self.target[~np.isin(self.fold, list(excluded))])
                logits = classifier.logits(self.judged.take(here[learnt]))
                found[learnt] = _quality(logits, self.judged_target[here[learnt]])
            self._quality[key] = found
        return self._quality[key]

    def _training(self, excluded: Excluded) -> Training | None:
        if excluded not in self._trainings:
            inside = np.flatnonzero(~np.isin(self.fold, list(excluded)))
            enough = len(np.unique(self.target[inside])) > 1
            most = max(self.choices.components, default=0)
            self._trainings[excluded] = (
                Training(self.table.take(inside), self.target[inside], self.classes, most) if enough else None
            )
        return self._trainings[excluded]

    def _shares(self, quality: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the mean quality of each polygon that has one, and its share of the mean over classes."""
        there = np.isfinite(quality)
        _, first, member = np.unique(self.judged_polygon[there], return_index=True, return_inverse=True)
        member = member.ravel()
        mean = np.bincount(member, weights=quality[there]) / np.bincount(member)
        return mean, balanced_weights(self.judged_target[there][first], self.classes)

    def _mean(self, quality: Float64Array) -> float:
        mean, share = self._shares(quality)
        return float(share @ mean)

    def _difference(self, one: Float64Array, other: Float64Array) -> tuple[float, float]:
        """Return the mean difference of two settings and its standard error over polygons."""
        difference, share = self._shares(one - other)
        mean = float(share @ difference)
        count = len(difference)
        spread = share**2 @ (difference - mean) ** 2 * count / max(count - 1, 1)
        return mean, float(np.sqrt(spread))


def softmax(logits: Float64Array) -> Float64Array:
    """Return probabilities, shape (N, classes)."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability: Float64Array = raised / raised.sum(axis=1, keepdims=True)
    return probability


def _quality(logits: Float64Array, target: IntArray) -> Float64Array:
    """Return 1 - Brier / 2: a proper score, which one wrong but certain polygon cannot dominate."""
    error = softmax(logits)
    error[np.arange(len(error)), target] -= 1
    quality: Float64Array = 1 - (error**2).sum(axis=1) / 2
    return quality
