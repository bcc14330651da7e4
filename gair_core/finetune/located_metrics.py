"""Results of heads for single photos and places over a whole split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import mean_squared_error, r2_score
from torchmetrics.functional.classification import multiclass_confusion_matrix

from gair_core.finetune.metrics import confusion_results
from gair_core.finetune.task import Results

# Beyond this a confusion matrix is no longer read, and that of 8,000 classes would fill the memory.
_MOST_CLASSES = 256
RANKED = 5
"""Classes of a sample that are kept."""


def classification_results(ranked: Tensor, target: Tensor, names: Sequence[str]) -> Results:
    """Return how well classes were predicted.

    Args:
        ranked: The likeliest classes of each sample, the best first, (N, at most `RANKED`).
        target: Class indices, (N,).
        names: Names of the classes.

    Returns:
        ``top_1``, ``top_5`` and ``mean_f1`` (over classes that occur), and up to 256 classes those of
        `confusion_results` besides.
    """
    classes, predicted = len(names), ranked[:, 0]
    metrics = {
        f"top_{k}": float((ranked[:, :k] == target[:, None]).any(dim=1).double().mean()) for k in (1, RANKED)
    }
    if classes <= _MOST_CLASSES:
        known = confusion_results(multiclass_confusion_matrix(predicted, target, classes), names)
        return Results({**metrics, **known.metrics}, known.class_metrics, known.confusion)
    right = torch.bincount(target[predicted == target], minlength=classes).double()
    occurring = torch.bincount(target, minlength=classes) + torch.bincount(predicted, minlength=classes)
    f1 = 2 * right / occurring.clamp(min=1)
    return Results({**metrics, "mean_f1": float(f1[occurring > 0].mean())})


def regression_results(predicted: Tensor, target: Tensor, names: Sequence[str], spread: Tensor) -> Results:
    """Return how well quantities were predicted.

    Args:
        predicted: In their units, (N, targets).
        target: Likewise, NaN where unknown.
        names: Names of the quantities.
        spread: Standard deviation of each in training, (targets,).

    Returns:
        ``rmse`` and ``r2``, means over the quantities; ``relative_rmse``, the mean of each one's error in
        units of its spread; and, of several quantities, each one's own as ``rmse_<name>`` and ``r2_<name>``.
        A quantity that is known nowhere is left out, its R2 too where it does not vary.
    """
    each: dict[str, dict[str, float]] = {}
    relative = []
    for column, name in enumerate(names):
        known = torch.isfinite(target[:, column])
        if not bool(known.any()):
            continue
        found, wanted = predicted[known, column].double(), target[known, column].double()
        rmse = float(mean_squared_error(found, wanted, squared=False))
        each[name] = {"rmse": rmse}
        relative.append(rmse / float(spread[column]))
        if len(wanted) > 1 and float(wanted.max()) > float(wanted.min()):
            each[name]["r2"] = float(r2_score(found, wanted))
    metrics = {"relative_rmse": float(np.mean(relative)) if relative else 0.0}
    for key in ("rmse", "r2"):
        values = [found[key] for found in each.values() if key in found]
        if values:
            metrics[key] = float(np.mean(values))
    if len(names) > 1:
        metrics |= {f"{key}_{name}": value for name, found in each.items() for key, value in found.items()}
    return Results(metrics)
