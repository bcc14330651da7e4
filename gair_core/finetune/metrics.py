"""Results of classifications from one confusion matrix over a whole split."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from gair_core.finetune.datasets.scenes import IGNORED
from gair_core.finetune.task import Results


class ClassificationMeter:
    """Counts predictions of a split and says how good they are.

    Args:
        names: Names of the classes.
        device: Where predictions come from.
        ignored: Target that is not counted.
    """

    def __init__(self, names: Sequence[str], device: torch.device, ignored: int = IGNORED) -> None:
        self._names = tuple(names)
        self._counts = MulticlassConfusionMatrix(len(self._names), ignore_index=ignored).to(device)

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Count predictions, class indices of any shape, against targets of the same shape."""
        self._counts.update(predicted, target)

    def results(self) -> Results:
        """Return what `confusion_results` makes of the counts."""
        return confusion_results(self._counts.compute().cpu(), self._names)


def confusion_results(confusion: Tensor, names: Sequence[str]) -> Results:
    """Return the results that follow from a confusion matrix.

    ``mean_iou`` and ``mean_f1`` are means over the classes that occur in the reference or the prediction; a
    class that occurs in neither says nothing. ``mean_accuracy``, the mean recall, is over those of the
    reference.

    Args:
        confusion: Counts, shape (classes, classes), rows reference and columns prediction.
        names: Names of the classes.

    Returns:
        Results between 0 and 1; all of them 0 without any count.
    """
    counts = confusion.double()
    right, reference, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    iou = _ratio(right, reference + predicted - right)
    f1 = _ratio(2 * right, reference + predicted)
    recall, precision = _ratio(right, reference), _ratio(right, predicted)
    occurs = reference + predicted > 0
    metrics = {
        "mean_iou": _mean(iou, occurs),
        "mean_f1": _mean(f1, occurs),
        "overall_accuracy": float(_ratio(right.sum(), counts.sum())),
        "mean_accuracy": _mean(recall, reference > 0),
    }
    columns = {"iou": iou, "f1": f1, "precision": precision, "recall": recall, "count": reference}
    class_metrics = {
        name: {key: float(values[number]) for key, values in columns.items()}
        for number, name in enumerate(names)
    }
    return Results(metrics, class_metrics, tuple(tuple(int(n) for n in row) for row in confusion.tolist()))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=1)


def _mean(values: Tensor, chosen: Tensor) -> float:
    return float(values[chosen].mean()) if bool(chosen.any()) else 0.0
