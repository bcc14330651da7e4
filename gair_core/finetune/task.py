"""The contract of fine-tuning: what a task tells the trainer, which knows nothing of scenes or photos.

A task is data by split, a module with what is trained, a loss, results and a way to be saved:

    class Colours(TaskConfig):                      # its section of the YAML file
        kind: Literal["colours"] = "colours"

        def build(self, model, *, frozen, seed):
            return ColoursTask(self, model, frozen=frozen)

and `gair_core.finetune.tasks` lists its configuration under its ``kind``. The trainer draws the order of the
examples and the random numbers of their augmentation from the run's seed and the step alone, so that a run
that was interrupted goes on exactly as if it had not been; a task must take its random numbers from nowhere
else (torch's own generator is seeded anew for every step).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from gair_core.config import Config
from gair_core.heads.base import AccuracyReport
from gair_core.metadata import Provenance
from gair_core.model.gair import GAIR

Split = Literal["train", "validation", "test"]
Batch = dict[str, Tensor]
"""Tensors by name, each with the batch as its first dimension."""

Terms = dict[str, Tensor]
"""Terms of a loss by name, scalars; ``loss`` is what is minimised."""


class Examples(ABC):
    """The examples of one split.

    They are read by several processes at once, which receive pickled copies: open files when an example is
    read, not before.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def example(self, index: int, generator: np.random.Generator | None) -> Batch:
        """Return one example, without a batch dimension.

        Args:
            index: Which one, from 0.
            generator: Source of all random numbers of augmentation; None while evaluating, when every visit
                must be the same and nothing may be cut off.

        Raises:
            BadInputError: It cannot be read; the file is named.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of an example, for messages: its file or id."""

    def collate(self, examples: Sequence[Batch]) -> Batch:
        """Join examples into a batch; by default they are stacked, so they must have equal shapes."""
        joined: Batch = default_collate(list(examples))
        return joined


@dataclass(frozen=True)
class Results:
    """How well a task did on a split.

    Attributes:
        metrics: Overall results by name, such as ``mean_iou``; numbers, none of them NaN.
        class_metrics: Results by class name, then by metric.
        confusion: Counts, rows reference and columns prediction; may be empty.
        records: Columns of one value an example, such as ``lon``, ``lat``, ``target`` and ``prediction``,
            from which others compute figures (a geo-bias score); written as CSV after the test. May be empty.
    """

    metrics: dict[str, float]
    class_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    records: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def report(self, data: str) -> AccuracyReport:
        """Return them as a head keeps them.

        Args:
            data: The data and how they were held out, for people.
        """
        return AccuracyReport(
            data=data, metrics=self.metrics, class_metrics=self.class_metrics, confusion=self.confusion
        )


@dataclass(frozen=True)
class Watched:
    """The metric that decides which state of a run is the best.

    Attributes:
        name: Its key in `Results.metrics`.
        higher_is_better: Its direction.
    """

    name: str
    higher_is_better: bool = True

    def improves(self, new: float, best: float | None) -> bool:
        """Return whether a new value is better than the best one so far, None before the first."""
        if best is None:
            return True
        return new > best if self.higher_is_better else new < best


class FinetuneTask(ABC):
    """What is trained, on what, and how it is judged.

    Attributes:
        module: Everything that is trained, and nothing else: its state dict is what a run saves and restores.
            The head alone when the encoder is frozen; a `torch.nn.ModuleDict` of encoder and head, say, when
            it is not. The trainer moves it to the device and switches it between training and evaluation.
        encoder_parameters: Names of its parameters that belong to a pretrained encoder; they learn at
            ``optimizer.initialized_factor`` of the rate.
        watched: The metric on the validation split that decides.
        evaluation_batch: Examples that are evaluated at once; None for as many as a step has. 1 where they
            have different sizes.
        data_name: The data set, for people; it goes into the provenance of what is saved.
    """

    module: nn.Module
    encoder_parameters: frozenset[str] = frozenset()
    watched: Watched
    evaluation_batch: int | None = None
    data_name: str

    @abstractmethod
    def examples(self, split: Split) -> Examples:
        """Return the examples of a split; called once a split before the first step.

        Raises:
            BadInputError: The data are missing or not as they should be; file and folder are named.
        """

    def prepare(self, device: torch.device) -> None:  # noqa: B027
        """Move what is not in `module` to the device; called once, before `examples`.

        A task whose encoder is frozen and whose examples do not vary may encode them all here or in
        `examples`, so that an epoch costs the head alone.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Terms:
        """Return the loss of a batch on the device.

        It runs under autocast, `module` is in training mode. Losses must be computed in float32.
        """

    @abstractmethod
    def evaluate(self, batches: Iterable[Batch]) -> Results:
        """Return the results over a whole split.

        It runs under autocast and without gradient, `module` is in evaluation mode; the batches are those of
        the split's examples in their order, on the device. The metrics must be those of the whole split (a
        mean over batches is not).
        """

    @abstractmethod
    def save(self, path: Path, accuracy: AccuracyReport | None, provenance: Provenance) -> None:
        """Save the head, with the encoder inside when it was trained or changed.

        Args:
            path: The checkpoint, for `gair_core.head_checkpoint.save_head`.
            accuracy: How it did on the test split; None where that was not asked for.
            provenance: Where it comes from.
        """


class TaskConfig(Config, ABC):
    """A task's section of the configuration; `gair_core.finetune.tasks` lists those that there are.

    Derive from it and add ``kind: Literal["..."] = "..."``.

    Attributes:
        movable: Dotted names of its values that say where files lie; they may differ when a run is continued.
    """

    movable: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def build(self, model: GAIR, *, frozen: bool, seed: int) -> FinetuneTask:
        """Return the task.

        Args:
            model: The pretrained model, on the CPU; the task may change it.
            frozen: Whether its encoders stay as they are.
            seed: Seed of the run; torch's generator was seeded with it, so that new weights follow from it.

        Raises:
            BadInputError: The model lacks a part that the task needs, or the data are not there.
        """
