"""Fit a head's classifier to labelled pixels, and choose how much of the embedding it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gair_core.finetune.few_shot.features import IntArray, PixelTable
from gair_core.heads.base import HeadMetadata
from gair_core.heads.pixel import PixelLinearHead
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.progress import Progress


@dataclass(frozen=True)
class FitOptions:
    """How to fit; the defaults suit everybody.

    Attributes:
        components: Numbers of principal components of z that are tried; 0 leaves the embedding out.
        penalties: Weights of the L2 penalty that are tried.
        embedding_factors: Factors on the penalty of z's components that are tried.
        folds: Parts of the cross-validation.
        pixels_per_polygon: At most so many pixels of one polygon are used.
        pixels_per_class: At most so many pixels of one class are used.
        seed: Of every draw.
    """

    components: tuple[int, ...] = (0, 8, 24, 64)
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    embedding_factors: tuple[float, ...] = (1.0, 10.0)
    folds: int = 5
    pixels_per_polygon: int = 200
    pixels_per_class: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Setting:
    """One choice.

    Attributes:
        components: Principal components of z; 0 means that the embedding is not used.
        penalty: Weight of the L2 penalty on the coefficients of the bands.
        embedding_factor: What the penalty of the components is multiplied by.
    """

    components: int
    penalty: float
    embedding_factor: float


@dataclass(frozen=True)
class SettingScore:
    """How a setting did on held-out polygons.

    Attributes:
        setting: The setting.
        score: Mean over the classes of the share of held-out pixels that were right, in [0, 1].
        error: Standard error of the difference to the best setting's score.
    """

    setting: Setting
    score: float
    error: float


@dataclass(frozen=True)
class FewShotFit:
    """A fitted classifier: logits A z + B (x - m) / s + b.

    Attributes:
        weight: A, float64, shape (classes, D).
        band_weight: B, float64, shape (classes, F).
        bias: b, float64, shape (classes,).
        band_mean: m, DN, float64, shape (F,).
        band_scale: s, DN, float64, shape (F,).
        setting: The chosen setting.
        scores: Of every setting that was tried.
        held_out: Class index of each pixel of the table, predicted by a classifier whose training, choice of
            setting included, saw no pixel of its polygon's fold; -1 where there is no such prediction.
        held_out_probability: Softmax of that class, in [0, 1]; NaN where there is none.
        fold: Fold of each pixel in that prediction; -1 where there is none.
        used: Whether each pixel was drawn for training, shape (N,).
        notes: What the user should know, such as a class with one polygon.
    """

    weight: npt.NDArray[np.float64]
    band_weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    band_mean: npt.NDArray[np.float64]
    band_scale: npt.NDArray[np.float64]
    setting: Setting
    scores: tuple[SettingScore, ...]
    held_out: IntArray
    held_out_probability: npt.NDArray[np.float64]
    fold: IntArray
    used: npt.NDArray[np.bool_]
    notes: tuple[str, ...]

    def logits(self, table: PixelTable) -> npt.NDArray[np.float64]:
        """Return the logits of a table's pixels, shape (N, classes)."""
        raise NotImplementedError


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
        polygon: Number of each pixel's polygon, unique over all scenes, shape (N,).
        classes: Names of the classes, for messages.
        options: How to fit.
        progress: Told the done fraction; may cancel.
        share: Part of the caller's progress that this is.

    Raises:
        BadInputError: Fewer than two classes have valid pixels.
        CancelledError: The user cancelled.
    """
    raise NotImplementedError


def build_head(fitted: FewShotFit, features: PixelFeatures, metadata: HeadMetadata) -> PixelLinearHead:
    """Return the head of a fit; its classes are those of the fit, in their order."""
    raise NotImplementedError
