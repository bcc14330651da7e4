"""Order of the samples: determinism, ranks, resuming, blocks and balance."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from gair_core.errors import BadInputError
from gair_core.pretrain.config import SamplingConfig
from gair_core.pretrain.sampler import BatchSampler
from gair_core.pretrain.store import Samples, Store
from tests.core.pretrain.stores import make_store


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return Store(make_store(tmp_path_factory.mktemp("store") / "store")).samples


def sampler(samples: Samples, **options: object) -> BatchSampler:
    config = SamplingConfig(
        batch_size=options.pop("batch_size", 4),
        city_block=options.pop("city_block", 1),
        balance=options.pop("balance", "none"),
    )
    values = {"seed": 3, "steps": 12, **options}
    return BatchSampler(samples, samples.select(split="train"), config, **values)


def test_a_pass_visits_every_sample_once_and_the_next_pass_in_another_order(samples: Samples) -> None:
    batches = list(sampler(samples))
    first = [draw.sample for batch in batches[:6] for draw in batch]
    second = [draw.sample for batch in batches[6:] for draw in batch]
    assert sorted(first) == samples.select(split="train").tolist() == sorted(second)
    assert first != second
    assert {draw.epoch for draw in batches[0]} == {0}
    assert {draw.epoch for draw in batches[6]} == {1}
    assert [draw.position for draw in batches[7]] == [4, 5, 6, 7]


def test_ranks_share_each_batch_without_overlap(samples: Samples) -> None:
    whole = list(sampler(samples))
    parts = [list(sampler(samples, rank=rank, ranks=2)) for rank in range(2)]
    for batch, left, right in zip(whole, *parts, strict=True):
        assert left + right == batch


def test_resume_in_mid_epoch_continues_with_the_very_next_sample(samples: Samples) -> None:
    whole = list(sampler(samples))
    assert list(sampler(samples, start=5)) == whole[5:]
    assert len(sampler(samples, start=5)) == 7


def test_blocks_hold_one_city(samples: Samples) -> None:
    for block, cities in ((6, 1), (3, 2)):
        for batch in sampler(samples, batch_size=6, city_block=block, steps=8):
            found = [str(samples.city[draw.sample]) for draw in batch]
            assert len(set(found)) <= cities
            assert found[:block] == [found[0]] * block
    drawn = [d.sample for batch in sampler(samples, batch_size=6, city_block=6, steps=4) for d in batch]
    assert sorted(drawn) == samples.select(split="train").tolist()


def test_balance_draws_urban_and_rural_in_equal_numbers(samples: Samples) -> None:
    drawn = [draw.sample for batch in sampler(samples, balance="settlement", steps=6) for draw in batch]
    settlement = samples.settlement[drawn]
    assert (settlement == "urban").sum() == (settlement == "rural").sum() == 12
    # 8 rural samples for 12 draws: none is drawn three times.
    assert np.unique(np.array(drawn)[settlement == "rural"], return_counts=True)[1].max() == 2


def test_impossible_settings_are_named(samples: Samples) -> None:
    with pytest.raises(BadInputError, match="24 samples to draw from, fewer than a batch of 25"):
        sampler(samples, batch_size=25)
    samples.settlement[0] = ""
    with pytest.raises(BadInputError, match="'unknown': 1"):
        sampler(samples, balance="settlement")


def test_a_loader_takes_the_sampler(samples: Samples) -> None:
    class Echo:
        def __getitems__(self, draws: list) -> list:
            return draws

    loader = DataLoader(Echo(), batch_sampler=sampler(samples), collate_fn=list)
    assert list(loader) == list(sampler(samples))
