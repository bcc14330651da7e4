"""Linear heads commute with NILI; descriptions are checked."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from gair_core import checkpoint
from gair_core.config import GAIRConfig, NILIConfig
from gair_core.errors import BadInputError
from gair_core.heads import Head, HeadClass, HeadConfig, HeadMetadata, LinearChangeHead, LinearHead
from gair_core.model import GAIR

RED, BLUE = ({"value": v, "name": n, "colour": c} for v, n, c in ((1, "a", (255, 0, 0)), (2, "b", (0, 0, 9))))


@pytest.fixture(scope="module")
def demo() -> GAIR:
    return checkpoint.load("demo")


def fill(head: Head) -> Head:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in head.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return head


def features(model: GAIR, seed: int = 0) -> torch.Tensor:
    images = torch.rand(1, 10, 32, 48, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model.encode_remote_sensing(images)


def run(head: Head, model: GAIR, *dates: torch.Tensor) -> torch.Tensor:
    """The head's two steps, with NILI's own resize between them."""
    sampled = []
    for date, values in enumerate(dates):
        lattice = head.lattice(model, values, date)
        sampled.append(model.nili.upsample(lattice, (64, 96), head.rim_weight(model, date))[0])
    return head.logits(sampled)


def test_logits_are_the_matrix_applied_to_the_embedding_of_every_pixel(demo):
    metadata = HeadMetadata(classes=(RED, BLUE))
    head = fill(LinearHead(HeadConfig(embed_dim=demo.config.embed_dim), metadata))
    seen = features(demo)
    with torch.no_grad():
        z = demo.interpolate_dense(seen, (64, 96))[0]
        expected = torch.einsum("kd,dyx->kyx", head.weight, z) + head.bias[:, None, None]
        torch.testing.assert_close(run(head, demo, seen), expected, atol=1e-4, rtol=1e-4)


def test_a_change_head_sees_both_dates_in_their_order(demo):
    metadata = HeadMetadata(classes=(RED, BLUE))
    head = fill(LinearChangeHead(HeadConfig(embed_dim=demo.config.embed_dim), metadata))
    one, other = features(demo, 0), features(demo, 1)
    with torch.no_grad():
        z = torch.cat([demo.interpolate_dense(seen, (64, 96))[0] for seen in (one, other)])
        matrix = torch.cat([head.weight[0], head.weight[1]], dim=1)
        expected = torch.einsum("kd,dyx->kyx", matrix, z) + head.bias[:, None, None]
        torch.testing.assert_close(run(head, demo, one, other), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(run(head, demo, other, one), expected, atol=0.1)


def test_a_head_of_another_dimension_or_a_hidden_layer_is_refused(demo):
    head = LinearHead(HeadConfig(embed_dim=5), HeadMetadata(classes=(RED, BLUE)))
    with pytest.raises(BadInputError, match=f"reads embeddings of 5 dimensions.*{demo.config.embed_dim}"):
        head.check_fits(demo)
    config = GAIRConfig.preset("tiny").model_copy(update={"nili": NILIConfig(hidden=(8,))})
    fitting = LinearHead(HeadConfig(embed_dim=config.embed_dim), HeadMetadata(classes=(RED, BLUE)))
    with pytest.raises(BadInputError, match=r"do not factorise.*hidden layers"):
        fitting.check_fits(GAIR(config))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": (RED,)}, "at least 2"),
        ({"classes": (RED, {**BLUE, "value": 1})}, "same value 1"),
        ({"classes": (RED, {**BLUE, "name": "a"})}, "same name 'a'"),
        ({"classes": (RED, {**BLUE, "value": 0})}, "greater than or equal to 1"),
        ({"classes": (RED, {**BLUE, "value": 65536})}, "less than or equal to 65535"),
        ({"classes": (RED, {**BLUE, "colour": (0, 0, 256)})}, "255"),
        ({"classes": (RED, BLUE), "ignore_value": 2}, "ignored label value 2 is also a class"),
    ],
)
def test_impossible_descriptions_are_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        HeadMetadata.model_validate(change)


def test_classes_are_values_not_positions():
    assert HeadClass(value=65535, name="x", colour=(0, 0, 0)).value == 65535
