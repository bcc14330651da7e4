"""How settings do in cross-validation, and how much each of them counts.

Few polygons make the scores noisy: of settings that are as good as one another by the scores, some are far
worse on the rest of the scene, and nothing tells which. So none is chosen. The classifier is the mean of all
that were tried, weighted by exp(-d / e): d is how far a setting's score is below the best, e the standard
error of that difference over polygons. What is as good within its error counts, what is clearly worse does
not. All settings are linear in the same features, and so is their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gair_core.finetune.few_shot.features import PixelTable
from gair_core.finetune.few_shot.solver import Float64Array, IntArray, Solution, balanced_weights, solve

Excluded: TypeAlias = frozenset[int]

# Accurate enough to compare settings by.
_TOLERANCE = 3e-5
# What weighs less than this part of the best setting is left out.
_LEAST = 0.02


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
        weight: Its part of the mean of settings, in [0, 1]; they sum to 1.
    """

    setting: Setting
    score: float
    error: float
    weight: float


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

    @classmethod
    def mean(cls, members: Sequence[Classifier], weights: Sequence[float]) -> Classifier:
        """Return the classifier whose logits are the weighted mean of those of some of one training."""
        return cls(
            _sum_weighted([one.weight for one in members], weights),
            _sum_weighted([one.band_weight for one in members], weights),
            _sum_weighted([one.bias for one in members], weights),
            members[0].band_mean,
            members[0].band_scale,
        )

    def logits(self, table: PixelTable) -> Float64Array:
        """Return the logits of a table's pixels, shape (N, classes)."""
        result = np.empty((len(table), len(self.bias)))
        for start in range(0, len(table), _ROWS):
            rows = slice(start, start + _ROWS)
            bands = (table.bands[rows] - self.band_mean) / self.band_scale
            result[rows] = bands @ self.band_weight.T + self.bias
            result[rows] += table.embedding[rows].astype(np.float64) @ self.weight.T
        return result


def _sum_weighted(values: Sequence[Float64Array], weights: Sequence[float]) -> Float64Array:
    """Return the sum of arrays of one shape, each times its weight."""
    total = np.zeros_like(values[0])
    for value, weight in zip(values, weights, strict=True):
        total += weight * value
    return total


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

    def mean_classifier(self, excluded: Excluded, scores: Sequence[SettingScore]) -> Classifier | None:
        """Return the mean of settings, trained without some folds; None with fewer than 2 classes."""
        members = [(self.classifier(excluded, one.setting), one.weight) for one in scores if one.weight > 0]
        known = [(member, weight) for member, weight in members if member is not None]
        return Classifier.mean(*zip(*known, strict=True)) if known else None

    def weigh(self, without: Excluded) -> list[SettingScore]:
        """Score settings, and weigh them, by what lies outside of some folds alone.

        First the penalty of the bands alone. Then how strongly a medium number of components is held down,
        beside the bands at that penalty and beside bands that are held down so much that z decides; at the
        best of these the penalties of the bands in between; then how many components.

        Args:
            without: Folds that must not be looked at.

        Returns:
            All that were tried; none where nothing can be held out.
        """
        tried: dict[Setting, Float64Array] = {}
        penalties = sorted(self.choices.penalties, reverse=True)
        bands = self._best([Setting(0, penalty) for penalty in penalties], without, tried)
        if bands is None:
            return []
        components = sorted(count for count in self.choices.components if count > 0)
        if components and self.choices.embedding_penalties and self.table.embedding.shape[1]:
            self._try_embedding(bands, penalties, components, without=without, tried=tried)
        best = max(tried, key=lambda one: self._mean(tried[one]))
        differences = {one: self._difference(tried[best], quality) for one, quality in tried.items()}
        weights = {one: _weight(*difference) for one, difference in differences.items()}
        total = sum(weights.values())
        return [
            SettingScore(one, self._mean(quality), differences[one][1], weights[one] / total)
            for one, quality in tried.items()
        ]

    def _try_embedding(
        self,
        bands: Setting,
        penalties: Sequence[float],
        components: Sequence[int],
        *,
        without: Excluded,
        tried: dict[Setting, Float64Array],
    ) -> None:
        """Try settings with the embedding, given the best without and penalties from the largest on."""
        middle = components[len(components) // 2]
        strengths = sorted(self.choices.embedding_penalties, reverse=True)
        ends = sorted({bands.penalty, penalties[0]})
        first = [Setting(middle, penalty, one / penalty) for penalty in ends for one in strengths]
        best = self._best(first, without, tried)
        if best is None:
            return
        strength = best.penalty * best.embedding_factor
        between = [Setting(middle, one, strength / one) for one in penalties if ends[0] < one < ends[-1]]
        best = self._best([best, *between], without, tried) or best
        self._best(
            [best, *(replace(best, components=count) for count in components if count != middle)],
            without,
            tried,
        )

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


def _weight(gap: float, error: float) -> float:
    """Return what a setting weighs beside the best, which weighs 1, by how far its score is below."""
    if gap <= 0:
        return 1.0
    weight = float(np.exp(-gap / error)) if error > 0 else 0.0
    return weight if weight >= _LEAST else 0.0


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
