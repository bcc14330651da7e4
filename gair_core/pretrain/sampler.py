"""Which samples form which batch: a pure function of seed, step and rank.

Nothing is remembered, so a run continues in mid-epoch from its step alone, and neither the number of workers
nor that of ranks changes what a global batch holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gair_core.errors import BadInputError
from gair_core.pretrain.config import SamplingConfig
from gair_core.pretrain.store import Samples

Indices = npt.NDArray[np.int64]


class Draw(NamedTuple):
    """One visit of a sample.

    Attributes:
        sample: Row of the sample in the store.
        epoch: Number of the pass over the samples.
        position: Place of the visit in this pass; with the epoch it seeds the visit's random numbers.
    """

    sample: int
    epoch: int
    position: int


class BatchSampler:
    """Yields this rank's part of each global batch, from a step on.

    Of a pass the last samples that do not fill a batch are left out; another order leaves out others.

    Args:
        samples: The store's samples.
        indices: Those to draw from.
        config: Batch size and how to draw.
        seed: Seed of the order.
        steps: Number of the run's steps.
        start: First step, for a resumed run.
        rank: This rank.
        ranks: Number of ranks.

    Raises:
        BadInputError: There are fewer samples than a batch holds, or they lack what balancing needs.
    """

    def __init__(
        self,
        samples: Samples,
        indices: Indices,
        config: SamplingConfig,
        *,
        seed: int,
        steps: int,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if len(indices) < config.batch_size:
            raise BadInputError(
                f"The store has {len(indices)} samples to draw from, fewer than a batch of "
                f"{config.batch_size}.",
                "Lower sampling.batch_size.",
            )
        self.indices = indices
        self.config = config
        self.seed = seed
        self.steps = steps
        self.start = start
        self.rank = rank
        self.ranks = ranks
        self._cities = np.unique(samples.city[indices], return_inverse=True)[1]
        self._classes = _settlements(samples, indices) if config.balance == "settlement" else None
        self._kept: tuple[int, Indices] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of a pass."""
        return len(self.indices) // self.config.batch_size

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.config.batch_size // self.ranks
        for step in range(self.start, self.steps):
            yield self.batch(step)[self.rank * share : (self.rank + 1) * share]

    def batch(self, step: int) -> list[Draw]:
        """Return the global batch of a step."""
        epoch, number = divmod(step, self.batches_per_epoch)
        first = number * self.config.batch_size
        chosen = self._order(epoch)[first : first + self.config.batch_size]
        return [Draw(int(index), epoch, first + offset) for offset, index in enumerate(chosen)]

    def _order(self, epoch: int) -> Indices:
        if self._kept is None or self._kept[0] != epoch:
            generator = np.random.default_rng([self.seed, epoch])
            places = np.arange(len(self.indices))
            if self._classes is not None:
                places = _balanced(self._classes, generator)
            order = _in_blocks(self._cities[places], self.config.city_block, generator)
            self._kept = (epoch, self.indices[places[order]])
        return self._kept[1]


def _settlements(samples: Samples, indices: Indices) -> npt.NDArray[np.str_]:
    settlement = samples.settlement[indices]
    if set(settlement.tolist()) != {"urban", "rural"}:
        counts = {name or "unknown": int((settlement == name).sum()) for name in np.unique(settlement)}
        raise BadInputError(
            f"Balancing needs urban and rural samples and no others, found {counts}.",
            "Build the store with the column settlement, or set sampling.balance to none.",
        )
    return settlement


def _balanced(classes: npt.NDArray[np.str_], generator: np.random.Generator) -> Indices:
    """Return as many places as there are, half of each class; the rarer class repeats, evenly."""
    count = len(classes)
    names = np.unique(classes)
    chosen = []
    for number, name in enumerate(names):
        members = np.flatnonzero(classes == name)
        wanted = (count + number) // len(names)
        passes = [generator.permutation(members) for _ in range(-(-wanted // len(members)))]
        chosen.append(np.concatenate(passes)[:wanted])
    return np.concatenate(chosen).astype(np.int64)


def _in_blocks(cities: npt.NDArray[np.int64], block: int, generator: np.random.Generator) -> Indices:
    """Return an order in which up to ``block`` places of one city stand together, blocks in random order."""
    shuffled = generator.permutation(len(cities))
    if block == 1:
        return shuffled.astype(np.int64)
    by_city = shuffled[np.argsort(cities[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(cities[by_city], prepend=-1))
    within = np.arange(len(by_city)) - np.repeat(starts, np.diff(np.append(starts, len(by_city))))
    block_number = np.cumsum(within % block == 0) - 1
    rank_of_block = generator.permutation(block_number[-1] + 1)
    return by_city[np.argsort(rank_of_block[block_number], kind="stable")].astype(np.int64)
