"""INCL, SECL, the memory bank and their sum against loops written from Eq. 2, 3 and 4."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gair_core.config import LocationConfig
from gair_core.errors import BadInputError
from gair_core.losses import ContrastiveLoss, CoordinateMemoryBank, gather, great_circle_km, incl, secl_term
from gair_core.model.location import LocationEncoder

DIM = 5


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b)))


def incl_loops(z: Tensor, g: Tensor, temperature: float) -> float:
    """Eq. 2, term by term."""
    z, g = z.detach().double().numpy(), g.detach().double().numpy()
    total = 0.0
    for i in range(len(z)):
        positive = math.exp(cosine(z[i], g[i]) / temperature)
        total += math.log(positive / sum(math.exp(cosine(z[i], g[j]) / temperature) for j in range(len(z))))
        total += math.log(positive / sum(math.exp(cosine(g[i], z[j]) / temperature) for j in range(len(z))))
    return -total / (2 * len(z))


def secl_loops(image: Tensor, e: Tensor, bank: Tensor, kept: np.ndarray, temperature: float) -> float:
    """One logarithm of Eq. 3 over [positive | bank], the mean over its rows."""
    image, e, bank = (values.detach().double().numpy() for values in (image, e, bank))
    total = 0.0
    for i in range(len(image)):
        positive = math.exp(cosine(e[i], image[i]) / temperature)
        negatives = [
            math.exp(cosine(bank[j], image[i]) / temperature) for j in range(len(bank)) if kept[i, j]
        ]
        total += math.log(positive / (positive + sum(negatives)))
    return -total / len(image)


def arc_km(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Distance by the angle between unit vectors, unlike the haversine formula."""

    def vector(lon: float, lat: float) -> np.ndarray:
        lon, lat = math.radians(lon), math.radians(lat)
        return np.array([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])

    a, b = vector(*first), vector(*second)
    return 6371.0088 * math.atan2(float(np.linalg.norm(np.cross(a, b))), float(a @ b))


def embeddings(count: int, seed: int, dim: int = DIM) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64)


def places(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return (2 * unit - 1) * torch.tensor([180.0, 90.0], dtype=torch.float64)


class Encoder(nn.Module):
    """A smooth float64 location encoder with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, DIM, dtype=torch.float64)

    def forward(self, lonlat: Tensor) -> Tensor:
        return self.linear(torch.deg2rad(lonlat)).sin()


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(7)
    return Encoder()


# INCL


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_incl_is_equation_2(count: int, temperature: float) -> None:
    z, g = embeddings(count, 1), embeddings(count, 2)
    assert incl(z, g, 1 / temperature).item() == pytest.approx(incl_loops(z, g, temperature), abs=1e-12)


def test_incl_of_orthogonal_pairs_has_a_closed_form() -> None:
    z = torch.eye(4, dtype=torch.float64)
    assert incl(z, 3 * z, 1 / 0.07).item() == pytest.approx(math.log(1 + 3 * math.exp(-1 / 0.07)), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 1000))
def test_losses_do_not_depend_on_the_order_of_the_batch(order: list[int], seed: int) -> None:
    z, g, e, bank = (embeddings(6, seed + k) for k in range(4))
    excluded = torch.rand(6, 6, generator=torch.Generator().manual_seed(seed)) < 0.3
    assert incl(z[order], g[order], 10.0).item() == pytest.approx(incl(z, g, 10.0).item(), abs=1e-12)
    shuffled = secl_term(z[order], e[order], bank, excluded[order], 10.0)
    assert shuffled.item() == pytest.approx(secl_term(z, e, bank, excluded, 10.0).item(), abs=1e-12)
    reordered = secl_term(z, e, bank[order], excluded[:, order], 10.0)
    assert reordered.item() == pytest.approx(secl_term(z, e, bank, excluded, 10.0).item(), abs=1e-12)


def test_incl_is_symmetric_and_blind_to_length() -> None:
    z, g = embeddings(5, 1), embeddings(5, 2)
    assert incl(g, z, 14.0).item() == pytest.approx(incl(z, g, 14.0).item(), abs=1e-12)
    assert incl(100 * z, 0.01 * g, 14.0).item() == pytest.approx(incl(z, g, 14.0).item(), abs=1e-12)


def test_incl_gradient_is_that_of_finite_differences() -> None:
    z, g = embeddings(4, 1).requires_grad_(), embeddings(4, 2).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(incl, (z, g, scale))


def test_a_lower_temperature_sharpens() -> None:
    z = torch.eye(3, dtype=torch.float64)
    g = z + 0.3
    values = [incl(z, g, 1 / temperature).item() for temperature in (1.0, 0.3, 0.07)]
    assert values[0] > values[1] > values[2] > 0


def test_incl_of_no_pair_is_zero_with_finite_gradient() -> None:
    z = embeddings(0, 1).requires_grad_()
    value = incl(z, embeddings(0, 2), 10.0)
    value.backward()
    assert value.item() == 0
    assert z.grad.shape == (0, DIM)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_do_not_reach_the_losses(dtype: torch.dtype) -> None:
    z, g, e = (embeddings(32, seed, 64).to(dtype) for seed in (1, 2, 3))
    excluded = torch.zeros(32, 32, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = [incl(z, g, 1 / 0.07), secl_term(z, e, g, excluded, 1 / 0.07)]
    expected = [incl_loops(z, g, 0.07), secl_loops(z, e, g, ~excluded.numpy(), 0.07)]
    for value, wanted in zip(values, expected, strict=True):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(wanted, rel=2e-6)


def test_float64_stays_float64() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = incl(embeddings(5, 1), embeddings(5, 2), torch.tensor(10.0))
    assert value.dtype == torch.float64
    expected = incl_loops(embeddings(5, 1), embeddings(5, 2), 0.1)
    assert value.item() == pytest.approx(expected, abs=1e-12)


# SECL


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_secl_term_is_equation_3_with_the_positive_in_the_denominator(temperature: float) -> None:
    z, e, bank = embeddings(6, 1), embeddings(6, 2), embeddings(9, 3)
    excluded = torch.rand(6, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    value = secl_term(z, e, bank, excluded, 1 / temperature)
    expected = secl_loops(z, e, bank, ~excluded.numpy(), temperature)
    assert value.item() == pytest.approx(expected, abs=1e-12)
    assert value.item() > 0


def test_secl_gradient_is_that_of_finite_differences_in_every_argument() -> None:
    z, e, bank = (embeddings(count, seed).requires_grad_() for count, seed in ((3, 1), (3, 2), (4, 3)))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    excluded = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) < 0.4
    assert excluded.any()
    assert torch.autograd.gradcheck(
        lambda z, e, bank, scale: secl_term(z, e, bank, excluded, scale), (z, e, bank, scale)
    )


def test_an_empty_bank_gives_zero_and_finite_gradients(encoder: Encoder) -> None:
    loss = ContrastiveLoss(bank_capacity=8)
    scale = torch.tensor(14.0, dtype=torch.float64, requires_grad=True)
    lonlat = places(4, 0)
    z, g, e = embeddings(4, 1).requires_grad_(), embeddings(4, 2).requires_grad_(), encoder(lonlat)
    terms = loss(scale, scene=z, photo=g, location=e, lonlat=lonlat, encode_location=encoder)
    assert terms.secl.item() == terms.secl_scene.item() == terms.secl_photo.item() == 0
    assert terms.total.item() == terms.incl.item()
    terms.secl.backward()
    for values in (z, g, scale, encoder.linear.weight):
        assert values.grad.isfinite().all()
        assert values.grad.abs().max() < 1e-12


def test_excluded_entries_get_no_gradient() -> None:
    bank = embeddings(3, 3).requires_grad_()
    excluded = torch.tensor([[False, True, False], [False, True, True]])
    secl_term(embeddings(2, 1), embeddings(2, 2), bank, excluded, 5.0).backward()
    assert (bank.grad[1] == 0).all()
    assert (bank.grad[[0, 2]] != 0).any(dim=1).all()


# Distances and the memory bank


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((179.99, 10.0), (-179.99, 10.0), None),
        ((180.0, 0.0), (-180.0, 0.0), 0.0),
        ((0.0, 90.0), (137.0, 90.0), 0.0),
        ((20.0, 89.99), (-160.0, 89.99), 2 * math.radians(0.01) * 6371.0088),
        ((0.0, 0.0), (180.0, 0.0), math.pi * 6371.0088),
        ((-70.0, -33.0), (110.0, 33.0), math.pi * 6371.0088),
        ((10.0, 50.0), (10.0, 50.00001), math.radians(1e-5) * 6371.0088),
        ((-73.98, 40.75), (2.35, 48.86), None),
    ],
)
def test_great_circle(first: tuple[float, float], second: tuple[float, float], expected: float) -> None:
    a, b = (torch.tensor([place], dtype=torch.float64) for place in (first, second))
    distance = great_circle_km(a, b)
    assert distance.dtype == torch.float64
    wanted = arc_km(first, second) if expected is None else expected
    # The square root of a rounding error near the antipode and at 0.
    assert distance.item() == pytest.approx(wanted, rel=1e-7, abs=1e-9)


def test_great_circle_agrees_with_proj_on_the_sphere() -> None:
    a, b = places(50, 1), places(50, 2)
    sphere = pyproj.Geod(a=6371008.8, b=6371008.8)
    expected = sphere.inv(*a.T.numpy(), *b.T.numpy())[2] / 1000
    np.testing.assert_allclose(great_circle_km(a, b).diagonal().numpy(), expected, rtol=1e-9)


# Points 1 km and 3 km from the anchor: 0.008993 degrees of latitude are 1 km.
NEAR, FAR = 0.008993, 3 * 0.008993


@pytest.mark.parametrize(
    ("anchor", "entries", "excluded"),
    [
        pytest.param((12.0, 0.0), [(12.0, NEAR), (12.0 + FAR, 0.0), (12.0, 0.0)], [1, 0, 1], id="equator"),
        pytest.param((12.0, 60.0), [(12.0 + NEAR * 2, 60.0), (12.0 + FAR * 2, 60.0)], [1, 0], id="60 north"),
        pytest.param(
            (180.0, 0.0),
            [(-180.0 + NEAR, 0.0), (-180.0 + FAR, 0.0), (180.0 - NEAR, 0.0)],
            [1, 0, 1],
            id="antimeridian",
        ),
        pytest.param(
            (0.0, 90.0),
            [(77.0, 90.0 - NEAR), (-120.0, 90.0 - FAR), (180.0, 90.0)],
            [1, 0, 1],
            id="north pole",
        ),
        pytest.param(
            (10.0, -90.0 + NEAR / 2),
            [(-170.0, -90.0 + NEAR / 2), (-170.0, -90.0 + FAR)],
            [1, 0],
            id="across the south pole",
        ),
    ],
)
def test_false_negatives_are_masked_on_the_sphere(
    anchor: tuple[float, float], entries: list[tuple[float, float]], excluded: list[int]
) -> None:
    lonlat = torch.tensor([anchor], dtype=torch.float64)
    bank = CoordinateMemoryBank(len(entries) + 1, false_negative_km=2.0)
    bank.update(torch.tensor(entries, dtype=torch.float64))
    assert bank.excluded(lonlat).int().tolist() == [[*excluded, 1]], "the last entry is not yet valid"
    switched_off = CoordinateMemoryBank(len(entries) + 1, false_negative_km=0)
    switched_off.update(torch.tensor(entries, dtype=torch.float64))
    assert switched_off.excluded(lonlat).int().tolist() == [[0] * len(entries) + [1]]


def test_the_positive_is_never_masked(encoder: Encoder) -> None:
    lonlat = places(1, 0).expand(3, 2).contiguous()
    loss = ContrastiveLoss(bank_capacity=4, false_negative_km=2)
    loss.bank.update(torch.cat([lonlat, -lonlat[:1]]))
    z, e = embeddings(3, 1), embeddings(3, 2)
    terms = loss(2.0, scene=z, location=e, lonlat=lonlat, encode_location=encoder)
    kept = np.array([[False, False, False, True]] * 3)
    expected = secl_loops(z, e, encoder(loss.bank.coordinates), kept, 0.5)
    assert terms.secl_scene.item() == pytest.approx(expected, abs=1e-12)
    assert terms.secl_scene.item() > 0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(0, 20), max_size=6))
def test_the_bank_is_a_ring(capacity: int, batches: list[int]) -> None:
    bank = CoordinateMemoryBank(capacity)
    slots: list[list[float] | None] = [None] * capacity
    written = 0
    for number, size in enumerate(batches):
        lonlat = places(size, number)
        bank.update(lonlat)
        for place in lonlat.tolist():
            slots[written % capacity] = place
            written += 1
    assert bank.valid.tolist() == [slot is not None for slot in slots]
    assert bank.coordinates.tolist() == [slot or [0.0, 0.0] for slot in slots]
    assert int(bank.pointer) == written % capacity


def test_the_bank_travels_in_the_state_dict() -> None:
    loss = ContrastiveLoss(bank_capacity=5)
    loss.bank.update(places(7, 3))
    other = ContrastiveLoss(bank_capacity=5)
    other.load_state_dict(loss.state_dict())
    for name in ("coordinates", "valid", "pointer"):
        assert torch.equal(getattr(other.bank, name), getattr(loss.bank, name))
    assert set(loss.state_dict()) == {"bank.coordinates", "bank.valid", "bank.pointer"}


def test_no_cast_rounds_the_bank() -> None:
    loss = ContrastiveLoss(bank_capacity=3)
    loss.bank.update(places(3, 3))
    exact = loss.bank.coordinates.clone()
    for cast in (
        nn.Module.half,
        nn.Module.bfloat16,
        nn.Module.float,
        lambda module: module.to("cpu", torch.half),
    ):
        cast(loss)
        assert loss.bank.coordinates.dtype == torch.float64
        assert torch.equal(loss.bank.coordinates, exact)
    assert set(loss.state_dict()) == {"bank.coordinates", "bank.valid", "bank.pointer"}


# Their sum


@dataclass
class Batch:
    scene: Tensor
    photo: Tensor
    lonlat: Tensor
    stored: Tensor
    has_photo: Tensor


@pytest.fixture
def batch() -> Batch:
    # Entry 1 of the bank is 1 km from sample 2.
    lonlat, stored = places(6, 1), places(5, 2)
    stored[1] = lonlat[2] + torch.tensor([0.0, 0.008993])
    has_photo = torch.tensor([True, False, True, True, False, True])
    return Batch(embeddings(6, 3), embeddings(6, 4), lonlat, stored, has_photo)


def kept_entries(batch: Batch, capacity: int) -> np.ndarray:
    kept = np.zeros((len(batch.lonlat), capacity), dtype=bool)
    for i, place in enumerate(batch.lonlat.tolist()):
        for j, entry in enumerate(batch.stored.tolist()):
            kept[i, j] = arc_km(place, entry) >= 2
    return kept


def run(loss: ContrastiveLoss, batch: Batch, encoder: nn.Module, names: set[str], **more: Tensor):
    tensors = {"scene": batch.scene, "photo": batch.photo, "location": encoder(batch.lonlat)}
    arguments = {name: tensor for name, tensor in tensors.items() if name in names}
    if "location" in names:
        more |= {"lonlat": batch.lonlat, "encode_location": encoder}
    return loss(1 / 0.3, **arguments, **more)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("masked", [False, True])
def test_total_is_equation_4(batch: Batch, encoder: Encoder, weight: float, masked: bool) -> None:
    loss = ContrastiveLoss(secl_weight=weight, bank_capacity=8)
    loss.bank.update(batch.stored)
    more = {"has_photo": batch.has_photo} if masked else {}
    terms = run(loss, batch, encoder, {"scene", "photo", "location"}, **more)
    rows = batch.has_photo if masked else torch.ones(6, dtype=torch.bool)
    kept, e = kept_entries(batch, 8), encoder(batch.lonlat)
    assert not kept[2, 1]
    bank = encoder(loss.bank.coordinates)
    expected_incl = incl_loops(batch.scene[rows], batch.photo[rows], 0.3)
    expected_scene = secl_loops(batch.scene, e, bank, kept, 0.3)
    expected_photo = secl_loops(batch.photo[rows], e[rows], bank, kept[rows.numpy()], 0.3)
    assert terms.incl.item() == pytest.approx(expected_incl, abs=1e-12)
    assert terms.secl_scene.item() == pytest.approx(expected_scene, abs=1e-12)
    assert terms.secl_photo.item() == pytest.approx(expected_photo, abs=1e-12)
    assert terms.secl.item() == pytest.approx((expected_scene + expected_photo) / 2, abs=1e-12)
    assert terms.total.item() == pytest.approx(
        expected_incl + weight * (expected_scene + expected_photo) / 2, abs=1e-12
    )


def test_two_modalities_keep_their_own_terms(batch: Batch, encoder: Encoder) -> None:
    loss = ContrastiveLoss(bank_capacity=8)
    loss.bank.update(batch.stored)
    three = run(loss, batch, encoder, {"scene", "photo", "location"})
    images = run(loss, batch, encoder, {"scene", "photo"})
    assert images.total.item() == images.incl.item() == three.incl.item()
    assert images.secl.item() == 0
    scene = run(loss, batch, encoder, {"scene", "location"})
    assert scene.secl_scene.item() == three.secl_scene.item()
    assert scene.incl.item() == scene.secl_photo.item() == 0
    assert scene.total.item() == pytest.approx(three.secl_scene.item() / 4)
    photo = run(loss, batch, encoder, {"photo", "location"})
    assert photo.secl_photo.item() == three.secl_photo.item()
    assert photo.incl.item() == photo.secl_scene.item() == 0


def test_no_photo_at_all_is_the_loss_of_scene_and_location(batch: Batch, encoder: Encoder) -> None:
    loss = ContrastiveLoss(bank_capacity=8)
    loss.bank.update(batch.stored)
    none = torch.zeros(6, dtype=torch.bool)
    terms = run(loss, batch, encoder, {"scene", "photo", "location"}, has_photo=none)
    expected = run(loss, batch, encoder, {"scene", "location"})
    assert terms.total.item() == expected.total.item()


def test_rows_without_photo_are_ignored_whatever_they_hold(batch: Batch, encoder: Encoder) -> None:
    loss = ContrastiveLoss(bank_capacity=8)
    loss.bank.update(batch.stored)
    names = {"scene", "photo", "location"}
    clean = run(loss, batch, encoder, names, has_photo=batch.has_photo)
    batch.photo = torch.where(batch.has_photo[:, None], batch.photo, torch.nan).requires_grad_()
    terms = run(loss, batch, encoder, names, has_photo=batch.has_photo)
    assert terms.total.item() == clean.total.item()
    terms.total.backward()
    assert (batch.photo.grad[~batch.has_photo] == 0).all()
    assert (batch.photo.grad[batch.has_photo] != 0).any(dim=1).all()


def test_gradient_reaches_the_location_encoder_through_the_bank_alone(batch: Batch, encoder: Encoder) -> None:
    loss = ContrastiveLoss(bank_capacity=8)
    loss.bank.update(batch.stored)
    fixed = encoder(batch.lonlat).detach()
    terms = loss(3.0, scene=batch.scene, location=fixed, lonlat=batch.lonlat, encode_location=encoder)
    # The step's update comes before the backward pass at the latest: it must not disturb it.
    loss.bank.update(batch.lonlat)
    terms.total.backward()
    assert encoder.linear.weight.grad.abs().max() > 0


def test_with_the_real_location_encoder() -> None:
    torch.manual_seed(0)
    encoder = LocationEncoder(LocationConfig(num_frequencies=8, hidden_width=16, hidden_layers=1), DIM)
    loss = ContrastiveLoss(bank_capacity=8)
    lonlat, stored = places(4, 0), places(6, 1)
    loss.bank.update(stored)
    scene = embeddings(4, 2).float()
    terms = loss(1 / 0.07, scene=scene, location=encoder(lonlat), lonlat=lonlat, encode_location=encoder)
    kept = np.array([[True] * 6 + [False] * 2] * 4)
    expected = secl_loops(scene, encoder(lonlat), encoder(loss.bank.coordinates), kept, 0.07)
    assert terms.secl_scene.item() == pytest.approx(expected, rel=1e-5)
    terms.total.backward()
    assert all(weight.grad.isfinite().all() for weight in encoder.parameters())


# Bad input


def test_bad_shapes_are_refused(batch: Batch, encoder: Encoder) -> None:
    z, g, e = embeddings(4, 1), embeddings(4, 2), embeddings(4, 3)
    excluded = torch.zeros(4, 6, dtype=torch.bool)
    with pytest.raises(BadInputError, match=r"scene \(4, 5\), photo \(3, 5\)"):
        incl(z, g[:3], 1.0)
    with pytest.raises(BadInputError, match=r"\(4, 5\).*\(4, 1, 5\)"):
        incl(z, g[:, None], 1.0)
    with pytest.raises(BadInputError, match="floating point, found torch"):
        incl(z.long(), g.long(), 1.0)
    with pytest.raises(BadInputError, match=r"\(M, 5\), found \(6, 4\)"):
        secl_term(z, e, embeddings(6, 4, 4), excluded, 1.0)
    with pytest.raises(BadInputError, match=r"bool of the shape \(4, 7\)"):
        secl_term(z, e, embeddings(7, 4), excluded, 1.0)
    with pytest.raises(BadInputError, match="found torch"):
        secl_term(z, e, embeddings(6, 4), excluded.to(torch.uint8), 1.0)


def test_bad_combinations_are_refused(batch: Batch, encoder: Encoder) -> None:
    loss = ContrastiveLoss(bank_capacity=8)
    z, g, e = batch.scene, batch.photo, encoder(batch.lonlat)
    with pytest.raises(BadInputError, match="needs two of scene, photo and location, found scene"):
        loss(1.0, scene=z)
    with pytest.raises(BadInputError, match="found none"):
        loss(1.0)
    with pytest.raises(BadInputError, match="without lonlat or encode_location"):
        loss(1.0, scene=z, location=e, lonlat=batch.lonlat)
    with pytest.raises(BadInputError, match=r"lonlat must have the shape \(6, 2\), found \(5, 2\)"):
        loss(1.0, scene=z, location=e, lonlat=batch.lonlat[:5], encode_location=encoder)
    with pytest.raises(BadInputError, match="swapped"):
        wrong = torch.tensor([[10.0, 120.0]], dtype=torch.float64).expand(6, 2)
        loss(1.0, scene=z, location=e, lonlat=wrong, encode_location=encoder)
    with pytest.raises(BadInputError, match=r"encode_location must return the shape \(8, D\)"):
        loss(1.0, scene=z, location=e, lonlat=batch.lonlat, encode_location=lambda _: e)
    with pytest.raises(BadInputError, match="has_photo came without photo"):
        run(loss, batch, encoder, {"scene", "location"}, has_photo=batch.has_photo)
    with pytest.raises(BadInputError, match=r"bool of the shape \(6,\), found torch.float32"):
        loss(1.0, scene=z, photo=g, has_photo=batch.has_photo.float())


def test_bad_options_are_refused() -> None:
    with pytest.raises(BadInputError, match="at least 1 coordinate, found 0"):
        CoordinateMemoryBank(0)
    with pytest.raises(BadInputError, match="at least 0, found -1"):
        CoordinateMemoryBank(4, false_negative_km=-1)
    with pytest.raises(BadInputError, match="secl_weight must be at least 0, found nan"):
        ContrastiveLoss(secl_weight=math.nan)
    with pytest.raises(BadInputError, match=r"shape \(B, 2\)"):
        CoordinateMemoryBank(4).update(torch.zeros(3, dtype=torch.float64))


# Two processes


class Model(nn.Module):
    """All three encoders, a learnable temperature and the loss, float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.scene = nn.Linear(DIM, DIM, dtype=torch.float64)
        self.photo = nn.Linear(DIM, DIM, dtype=torch.float64)
        self.location = Encoder()
        self.log_scale = nn.Parameter(torch.tensor(1.1, dtype=torch.float64))
        self.loss = ContrastiveLoss(bank_capacity=7)

    def forward(self, scene: Tensor, photo: Tensor, lonlat: Tensor, has_photo: Tensor | None) -> Tensor:
        terms = self.loss(
            self.log_scale.exp(),
            scene=self.scene(scene),
            photo=self.photo(photo),
            location=self.location(lonlat),
            lonlat=lonlat,
            encode_location=self.location,
            has_photo=has_photo,
        )
        return torch.stack(terms)


def half(values: Tensor, rank: int | None) -> Tensor:
    """One rank's rows; all of them for a single process."""
    return values if rank is None else values.chunk(2)[rank]


def train(rank: int | None, masked: bool) -> dict[str, Tensor]:
    """Fill the bank past its end, then one loss and its gradient."""
    model = Model()
    bank, lonlat, past = model.loss.bank, places(8, 13), places(8, 15)
    past[6] = lonlat[1]
    for coordinates in (places(2, 16), past):
        bank.update(half(coordinates, rank))
    # Rank 0 holds three photos, rank 1 holds two.
    has_photo = torch.tensor([True, True, False, True, False, True, True, False])
    batch = [half(values, rank) for values in (embeddings(8, 11), embeddings(8, 12), lonlat, has_photo)]
    if not masked:
        batch[-1] = None
    trained = model if rank is None else nn.parallel.DistributedDataParallel(model)
    terms = trained(*batch)
    terms[0].backward()
    gradients = {f"gradient of {name}": weight.grad for name, weight in model.named_parameters()}
    return {**gradients, **model.loss.state_dict(), "terms": terms.detach()}


def embedding_gradients(rank: int | None) -> dict[str, Tensor]:
    z, g = (half(embeddings(8, seed), rank).clone().requires_grad_() for seed in (11, 12))
    terms = ContrastiveLoss()(4.0, scene=z, photo=g)
    terms.total.backward()
    return {"scene": z.grad, "photo": g.grad, "value": terms.total.detach()}


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except BadInputError as error:
        return str(error)
    return "accepted"


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    loss, even, uneven = ContrastiveLoss(bank_capacity=4), embeddings(3, 0), embeddings(3 + rank, rank)
    mask = torch.ones(3, dtype=torch.bool) if rank else None
    other = {"scene": even, "photo": even} if rank else {"scene": even, "location": even}
    if not rank:
        other |= {"lonlat": places(3, 0), "encode_location": Encoder()}
    results = {
        "plain": train(rank, masked=False),
        "masked": train(rank, masked=True),
        "embeddings": embedding_gradients(rank),
        "gathered": gather(torch.full((2, 3), float(rank))),
        "uneven batch": refusal(lambda: loss(1.0, scene=uneven, photo=uneven)),
        "uneven bank": refusal(lambda: loss.bank.update(places(3 + rank, 0))),
        "one mask": refusal(lambda: loss(1.0, scene=even, photo=even, has_photo=mask)),
        "other modalities": refusal(lambda: loss(1.0, **other)),
    }
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("masked", [False, True])
def test_two_process_value_and_gradient_are_those_of_one(two_processes: list[dict], masked: bool) -> None:
    expected = train(None, masked)
    assert int(expected["bank.pointer"]) == 10 - 7
    assert sum(name.startswith("gradient") for name in expected) == 7
    for rank in two_processes:
        result = rank["masked" if masked else "plain"]
        assert result.keys() == expected.keys()
        for name, wanted in expected.items():
            assert result[name].dtype == wanted.dtype
            torch.testing.assert_close(result[name], wanted, rtol=0, atol=1e-10, msg=f"{name} differs")
            assert name.startswith("bank") or wanted.abs().max() > 1e-4


def test_two_process_embedding_gradients_are_twice_those_of_one(two_processes: list[dict]) -> None:
    expected = embedding_gradients(None)
    for number, rank in enumerate(two_processes):
        assert rank["embeddings"]["value"].item() == pytest.approx(expected["value"].item(), abs=1e-10)
        for name in ("scene", "photo"):
            wanted = 2 * half(expected[name], number)
            torch.testing.assert_close(rank["embeddings"][name], wanted, rtol=0, atol=1e-10)


def test_two_process_gather_keeps_rank_order(two_processes: list[dict]) -> None:
    for rank in two_processes:
        assert rank["gathered"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("uneven batch", "All ranks must bring the same batch size, found [3, 4] in rank order."),
        ("uneven bank", "All ranks must bring the same number of coordinates, found [3, 4]"),
        ("one mask", "All ranks must bring the same presence of has_photo, found [0, 1]"),
        ("other modalities", "All ranks must bring the same presence of photo, found [0, 1]"),
    ],
)
def test_two_process_batches_that_differ_are_refused_on_both(
    two_processes: list[dict], case: str, message: str
) -> None:
    for rank in two_processes:
        assert message in rank[case]
        assert "drop_last" in rank[case]
