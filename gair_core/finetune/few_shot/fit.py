"""Fit a head's classifier to labelled pixels, and find how much of the embedding it should use.

Everything is held out by whole polygons, or by blocks of neighbouring ones (`blocks`). With K folds, models
are trained without one fold and without every pair of folds. The models without f and g weigh the settings
for fold f by what they predict on g, for every g but f (`search`); the mean of the models without f alone, so
weighted, then predicts f. So no prediction that is reported comes from a model, or from weights of settings,
that have seen its polygon's fold: nested cross-validation, in which every pair of folds serves two outer
folds. The settings of the final classifier are weighed by the models without one fold, on that fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from gair_core.errors import BadInputError
from gair_core.finetune.few_shot.blocks import Folds, assign_folds
from gair_core.finetune.few_shot.features import PixelTable
from gair_core.finetune.few_shot.sampling import draw_pixels
from gair_core.finetune.few_shot.search import (
    Choices,
    Classifier,
    Search,
    Setting,
    SettingScore,
    Training,
    softmax,
)
from gair_core.finetune.few_shot.solver import IntArray
from gair_core.heads.base import HeadMetadata
from gair_core.heads.pixel import PixelLinearConfig, PixelLinearHead
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.progress import Progress

__all__ = ["FewShotFit", "FitOptions", "Setting", "SettingScore", "build_head", "fit"]

# Of the members of a mean, which the last digits of one do not change.
_TOLERANCE = 1e-5

# Where nothing can be held out, nothing can say that the embedding helps.
_DEFAULT = SettingScore(Setting(0, 1e-3), score=np.nan, error=np.nan, weight=1.0)


@dataclass(frozen=True)
class FitOptions:
    """How to fit; the defaults suit everybody.

    Attributes:
        components: Numbers of principal components of z that are tried; 0 leaves the embedding out and is
            always tried.
        penalties: Weights of the L2 penalty that are tried.
        embedding_penalties: Penalties of z's components that are tried.
        folds: Parts of the cross-validation, at least 3.
        pixels_per_polygon: At most so many pixels of one polygon are used.
        pixels_per_class: At most so many pixels of one class are used.
        pixels: At most about so many pixels are used by the final classifier.
        search_pixels: At most about so many are used by the classifiers of the cross-validation.
        seed: Of every draw.
    """

    components: tuple[int, ...] = (0, 4, 16, 64)
    penalties: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    embedding_penalties: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5)
    folds: int = 5
    pixels_per_polygon: int = 200
    pixels_per_class: int = 2000
    pixels: int = 20_000
    search_pixels: int = 1500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 3:
            raise BadInputError(f"The cross-validation needs at least 3 folds, found {self.folds}.")
        if not self.penalties or min(self.penalties) <= 0 or min(self.embedding_penalties, default=1.0) <= 0:
            raise BadInputError("Penalties must be positive numbers.")


@dataclass(frozen=True)
class FewShotFit:
    """A fitted classifier.

    Attributes:
        classifier: Its coefficients.
        scores: Of every setting that was tried, and its weight in the classifier; empty where nothing could
            be held out.
        held_out: Class index of each pixel of the table, predicted by a classifier whose training, weights
            of settings included, saw no pixel of its polygon's fold; -1 where there is no such prediction.
            That classifier saw fewer polygons and pixels than the final one.
        held_out_probability: Softmax of that class, in [0, 1]; NaN where there is none.
        fold: Fold of each pixel in that prediction; -1 for classes with one polygon and pixels without data.
        folds: Number of folds; 0 where nothing could be held out.
        blocks: Number of spatial blocks that the folds are made of; None where they are of single polygons.
        used: Whether each pixel was drawn for training, shape (N,).
        notes: What the user should know, such as a class with one polygon.
    """

    classifier: Classifier
    scores: tuple[SettingScore, ...]
    held_out: IntArray
    held_out_probability: npt.NDArray[np.float64]
    fold: IntArray
    folds: int
    blocks: int | None
    used: npt.NDArray[np.bool_]
    notes: tuple[str, ...]

    @property
    def components(self) -> int:
        """The most principal components of z in any setting that counts."""
        return _most(self.scores)

    @property
    def embedding_share(self) -> float:
        """Weight of the settings that use the embedding, in [0, 1]."""
        return sum(one.weight for one in self.scores if one.setting.components)


def fit(
    table: PixelTable,
    target: IntArray,
    polygon: IntArray,
    classes: Sequence[str],
    *,
    options: FitOptions | None = None,
    progress: Progress | None = None,
    share: tuple[float, float] = (0.0, 1.0),
) -> FewShotFit:
    """Fit a classifier.

    Args:
        table: The labelled pixels; those that are not valid are left out.
        target: Class index of each pixel, 0 to classes - 1, shape (N,).
        polygon: Number of each pixel's polygon, unique over all scenes, shape (N,); a polygon has one class.
        classes: Names of the classes, for messages.
        options: How to fit.
        progress: Told the done fraction; may cancel.
        share: Part of the caller's progress that this is.

    Raises:
        BadInputError: Fewer than two classes have valid pixels.
        CancelledError: The user cancelled.
    """
    options = options or FitOptions()
    valid = np.flatnonzero(table.valid)
    _check_classes(target[valid], classes)
    part = table if len(valid) == len(table) else table.take(valid)
    job = _Job(part, target[valid], polygon[valid], len(classes), options, progress or Progress(), share)
    folds = assign_folds(job.polygon, job.target, job.table.lonlat, options.folds, options.seed)
    search = job.search(folds)
    scores = search.weigh(frozenset())
    held_out, probability = job.held_out(search, folds)
    used = job.draw(options.pixels, options.pixels_per_polygon, 0)
    classifier = _final(Training(job.table.take(used), job.target[used], len(classes), _most(scores)), scores)
    job.progress.report(share[1], "fitted")
    return FewShotFit(
        classifier=classifier,
        scores=tuple(scores),
        held_out=_spread(held_out, valid, len(table), -1),
        held_out_probability=_spread(probability, valid, len(table), np.nan),
        fold=_spread(folds.fold, valid, len(table), -1),
        folds=folds.count if scores else 0,
        blocks=folds.blocks,
        used=_spread(np.isin(np.arange(len(valid)), used), valid, len(table), False),
        notes=_notes(target[valid], classes, folds, is_tested=bool(scores)),
    )


def _most(scores: Sequence[SettingScore]) -> int:
    return max((one.setting.components for one in scores if one.weight > 0), default=0)


def _final(training: Training, scores: Sequence[SettingScore]) -> Classifier:
    counting = [one for one in scores if one.weight > 0] or [_DEFAULT]
    members = [training.fit(one.setting, _TOLERANCE) for one in counting]
    return Classifier.mean(members, [one.weight for one in counting])


@dataclass(frozen=True)
class _Job:
    """The valid pixels of a fit and what is to be done with them."""

    table: PixelTable
    target: IntArray
    polygon: IntArray
    classes: int
    options: FitOptions
    progress: Progress
    share: tuple[float, float]

    def draw(self, total: int, per_polygon: int, purpose: int) -> IntArray:
        """Return a balanced draw; the same seed and purpose draw the same pixels."""
        return draw_pixels(
            self.polygon,
            self.target,
            per_polygon=per_polygon,
            per_class=self.options.pixels_per_class,
            total=total,
            rng=np.random.default_rng([self.options.seed, purpose]),
        )

    def search(self, folds: Folds) -> Search:
        options = self.options
        trained = self.draw(options.search_pixels, options.pixels_per_polygon, 1)
        # Polygons count alike, whatever their size, so that some pixels of each will do.
        judged = self.draw(options.pixels, _JUDGED_PIXELS, 2)
        return Search(
            table=self.table.take(trained),
            target=self.target[trained],
            fold=folds.fold[trained],
            judged=self.table.take(judged),
            judged_target=self.target[judged],
            judged_polygon=self.polygon[judged],
            judged_fold=folds.fold[judged],
            classes=self.classes,
            choices=Choices(options.components, options.penalties, options.embedding_penalties),
            tick=_Ticker(self, folds),
        )

    def held_out(self, search: Search, folds: Folds) -> tuple[IntArray, npt.NDArray[np.float64]]:
        """Return the class of each pixel by the model that knows nothing of its fold, and its probability."""
        found = np.full(len(self.table), -1)
        probability = np.full(len(self.table), np.nan)
        for fold in range(folds.count):
            here = np.flatnonzero(folds.fold == fold)
            without = frozenset({fold})
            scores = search.weigh(without) or [_DEFAULT]
            classifier = search.mean_classifier(without, scores)
            if classifier is None:
                continue
            chances = softmax(classifier.logits(self.table.take(here)))
            found[here] = chances.argmax(axis=1)
            probability[here] = chances.max(axis=1)
        return found, probability


# Pixels of a polygon that settings are judged by.
_JUDGED_PIXELS = 50


class _Ticker:
    """Reports the fits that are done, of about as many as there will be."""

    def __init__(self, job: _Job, folds: Folds) -> None:
        options = job.options
        tried = 2 * len(options.penalties) + 2 * len(options.embedding_penalties) + len(options.components)
        self._expected = tried * (folds.count + 1) * folds.count // 2 + 1
        self._job, self._done = job, 0

    def __call__(self) -> None:
        self._done += 1
        begin, end = self._job.share
        self._job.progress.raise_if_cancelled()
        done = min(self._done / self._expected, 0.99)
        self._job.progress.report(begin + (end - begin) * done, "choosing by held-out polygons")


def _check_classes(target: IntArray, classes: Sequence[str]) -> None:
    there = np.unique(target)
    if len(there) < 2:
        found = f"only {classes[there[0]]!r}" if len(there) else "none"
        raise BadInputError(
            f"Of the classes, {found} has labelled pixels with data in the scene; two are needed.",
            "Check that the labels lie in the scene, and draw polygons of at least two classes.",
        )


def _notes(target: IntArray, classes: Sequence[str], folds: Folds, *, is_tested: bool) -> tuple[str, ...]:
    notes = []
    missing = sorted(set(range(len(classes))) - set(np.unique(target).tolist()))
    if missing:
        notes.append(f"No pixel with data: {_listed(missing, classes)}; the map will not have it.")
    if folds.singles:
        notes.append(
            f"One polygon alone: {_listed(folds.singles, classes)}; it is used for training, and how well "
            "the class is found cannot be told."
        )
    if not is_tested:
        notes.append("Too few polygons to hold any out: nothing was chosen by them and nothing was tested.")
    return tuple(notes)


def _listed(numbers: Sequence[int], classes: Sequence[str]) -> str:
    return ", ".join(repr(classes[number]) for number in numbers)


_Scalar = TypeVar("_Scalar", bound=np.generic)


def _spread(
    values: npt.NDArray[_Scalar], where: IntArray, length: int, default: float
) -> npt.NDArray[_Scalar]:
    """Put values at some places of an array of a default."""
    result = np.full(length, default, dtype=values.dtype)
    result[where] = values
    return result


def build_head(fitted: FewShotFit, features: PixelFeatures, metadata: HeadMetadata) -> PixelLinearHead:
    """Return the head of a fit.

    Args:
        fitted: The fit.
        features: What its table was collected with.
        metadata: Its description; its classes are those of the fit, in their order.
    """
    classifier = fitted.classifier
    config = PixelLinearConfig(embed_dim=classifier.weight.shape[1], pixels=features)
    head = PixelLinearHead(config, metadata)
    state = {
        "weight": classifier.weight,
        "band_weight": classifier.band_weight,
        "bias": classifier.bias,
        "band_mean": classifier.band_mean,
        "band_scale": classifier.band_scale,
    }
    head.load_state_dict({name: torch.from_numpy(values).float() for name, values in state.items()})
    return head.eval()
