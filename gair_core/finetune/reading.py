"""Which example is read when, as a function of the run's seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Dataset

from gair_core.finetune.task import Batch, Examples

if TYPE_CHECKING:
    from gair_core.finetune.config import FinetuneConfig


@dataclass(frozen=True)
class Visit:
    """One reading of an example.

    Attributes:
        index: Which example.
        epoch: In which pass over the examples; None while evaluating, without augmentation.
    """

    index: int
    epoch: int | None


class Visits(Dataset[Batch]):
    """The batches of visits, for a loader; it may be sent to other processes.

    Args:
        examples: The examples.
        seed: Seed of the run.
    """

    def __init__(self, examples: Examples, seed: int) -> None:
        self.examples = examples
        self.seed = seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, visit: Visit) -> Batch:
        """Read one example; the same visit gives the same values."""
        generator = (
            None if visit.epoch is None else np.random.default_rng([self.seed, visit.epoch, visit.index])
        )
        return self.examples.example(visit.index, generator)

    def __getitems__(self, visits: list[Visit]) -> Batch:
        """Read and join a batch."""
        return self.examples.collate([self[visit] for visit in visits])


def batches_from(start: int, steps: int, examples: int, config: FinetuneConfig) -> Iterator[list[Visit]]:
    """Yield the batches of the steps [start, steps).

    Every epoch has its own order; what does not fill a batch at its end is left out, unless the examples are
    fewer than a batch.

    Args:
        start: Steps already made.
        steps: Steps of the run.
        examples: How many there are.
        config: Batch size and seed.
    """
    size = min(config.batch_size, examples)
    per_epoch = examples // size
    order = np.zeros(0, dtype=np.int64)
    ordered = -1
    for step in range(start, steps):
        epoch, place = divmod(step, per_epoch)
        if epoch != ordered:
            order, ordered = np.random.default_rng([config.seed, epoch]).permutation(examples), epoch
        yield [Visit(int(index), epoch) for index in order[place * size : (place + 1) * size]]


def evaluation_batches(examples: int, size: int) -> Iterator[list[Visit]]:
    """Yield all examples in their order."""
    for start in range(0, examples, size):
        yield [Visit(index, None) for index in range(start, min(start + size, examples))]
