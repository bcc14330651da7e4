"""Heads for single photos and places: their inputs, units, files, and who refuses them."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from gair_core import checkpoint
from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.head_checkpoint import POINT_HEAD_KINDS, load_head, load_point_head, save_head
from gair_core.heads import (
    FusionHead,
    GeoPrior,
    HeadClass,
    HeadConfig,
    HeadMetadata,
    HeadTarget,
    LinearHead,
    LinearProbe,
    LocationRegression,
    NonlinearProbe,
    PointHeadConfig,
)
from gair_core.heads.geo_prior import combine
from gair_core.info import InfoRequest, describe
from gair_core.model import GAIR
from gair_core.progress import Progress

CLASSES = (
    HeadClass(value=1, name='a, "b"', colour=(255, 0, 0)),
    HeadClass(value=2, name="ü", colour=(0, 0, 9)),
    HeadClass(value=9, name="c", colour=(0, 9, 9)),
)
TARGETS = (HeadTarget(name="height", unit="m"), HeadTarget(name="share"))
SIZES = GAIRConfig(
    embed_dim=16,
    remote_sensing=RemoteSensingConfig(width=16, depth=1, num_heads=1),
    street_view=StreetViewConfig(image_size=32, width=24, depth=1, num_heads=1, projection=True),
    location=LocationConfig(num_frequencies=8, hidden_width=16, hidden_layers=1),
)


@pytest.fixture(autouse=True)
def _empty_registry(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("GAIR_MODELS", str(tmp_path_factory.mktemp("registry")))


@pytest.fixture
def model(tmp_path) -> GAIR:
    torch.manual_seed(0)
    checkpoint.save(GAIR(SIZES), tmp_path / "encoder.safetensors")
    return checkpoint.load(tmp_path / "encoder.safetensors")


def config(hidden=None, **inputs) -> PointHeadConfig:
    return PointHeadConfig(embed_dim=16, inputs=inputs, hidden=hidden)


def test_inputs_are_joined_in_one_order_whatever_order_they_come_in():
    head = FusionHead(config(location=16, photo=24), HeadMetadata(targets=TARGETS))
    photo, location = torch.zeros(2, 24), torch.ones(2, 16)
    joined = head.join({"location": location, "photo": photo, "image": torch.ones(2, 3)})
    assert torch.equal(joined, torch.cat([photo, location], dim=1))
    assert head.encoder_parts == ("street_view", "location")
    with pytest.raises(BadInputError, match="input location of length 16, found none"):
        head({"photo": photo})
    with pytest.raises(BadInputError, match="photo of length 24, found 5"):
        head({"photo": torch.zeros(2, 5), "location": location})


def test_a_regression_speaks_in_the_units_of_its_training_data():
    torch.manual_seed(1)
    head = FusionHead(config(image=3), HeadMetadata(targets=TARGETS))
    image = torch.randn(500, 3) * torch.tensor([1.0, 1000.0, 1e-3]) + 5
    targets = torch.stack([image[:, 1] * 2 + 300, torch.full((500,), float("nan"))], dim=1)
    head.fit_scales({"image": image}, targets)
    with torch.no_grad():
        for layer in head.layers:
            layer.weight.zero_()
            layer.bias.zero_()
        predicted = head.predict({"image": image})
    # With nothing learned it says the mean; a target without any value is left at 0.
    torch.testing.assert_close(predicted[0], torch.tensor([float(targets[:, 0].mean()), 0.0]))
    scaled = head.scaled(targets)
    assert abs(float(scaled[:, 0].mean())) < 1e-4
    assert abs(float(scaled[:, 0].std()) - 1) < 1e-2
    standardised = (head.join({"image": image}) - head.input_mean) / head.input_spread
    torch.testing.assert_close(standardised.std(dim=0), torch.ones(3), atol=1e-2, rtol=0)


def test_scales_follow_an_encoder_that_moves():
    torch.manual_seed(0)
    head = FusionHead(config(image=2), HeadMetadata(targets=TARGETS))
    head.follows = True
    for step in range(200):
        head({"image": torch.randn(50, 2) * 3 + step})
    # Behind a steady drift of 1 a step by its mean age, about ten steps.
    assert 185 < float(head.input_mean[0]) < 195
    assert 2.5 < float(head.input_spread[0]) < 3.5
    kept = head.input_mean.clone()
    head.eval()
    head({"image": torch.zeros(50, 2)})
    assert torch.equal(head.input_mean, kept)


def test_probabilities_sum_to_one_and_a_hidden_layer_has_sigmoids():
    head = NonlinearProbe(config(hidden=7, photo=24), HeadMetadata(classes=CLASSES))
    photos = torch.randn(4, 24)
    torch.testing.assert_close(head.predict({"photo": photos}).sum(dim=1), torch.ones(4))
    first, activation, second = head.layers
    expected = second(torch.sigmoid(first(photos)))
    torch.testing.assert_close(head({"photo": photos}), expected)
    assert isinstance(activation, torch.nn.Sigmoid)


@pytest.mark.parametrize(
    ("kind", "inputs", "hidden", "metadata", "message"),
    [
        (LinearProbe, {"location": 16}, None, {"classes": CLASSES}, "found location"),
        (LinearProbe, {"photo": 24}, 8, {"classes": CLASSES}, "no hidden layer"),
        (NonlinearProbe, {"photo": 24}, None, {"classes": CLASSES}, "one hidden layer"),
        (GeoPrior, {"location": 16}, None, {"targets": TARGETS}, "needs classes"),
        (LocationRegression, {"location": 16, "image": 4}, None, {"classes": CLASSES}, "needs targets"),
        (LocationRegression, {"location": 16}, None, {"targets": TARGETS}, "found location"),
    ],
)
def test_a_kind_refuses_what_does_not_suit_it(kind, inputs, hidden, metadata, message):
    with pytest.raises(BadInputError, match=message):
        kind(config(hidden, **inputs), HeadMetadata(**metadata))


def test_descriptions_need_classes_or_targets_and_no_name_twice():
    with pytest.raises(ValidationError, match="at least 2 classes, or targets"):
        HeadMetadata()
    with pytest.raises(ValidationError, match="at least 2 classes, or targets"):
        HeadMetadata(classes=CLASSES, targets=TARGETS)
    with pytest.raises(ValidationError, match="two targets have the same name"):
        HeadMetadata(targets=(TARGETS[0], TARGETS[0]))
    with pytest.raises(ValidationError, match="16 dimensions"):
        config(scene=17)


def head_of(kind: str):
    inputs = {
        "geo_prior": {"location": 16},
        "location_regression": {"location": 16, "image": 5},
        "fusion": {"photo": 24, "scene": 16, "location": 16},
    }.get(kind, {"photo": 24})
    metadata = HeadMetadata(targets=TARGETS) if "regression" in kind else HeadMetadata(classes=CLASSES)
    return POINT_HEAD_KINDS[kind](config(8 if kind == "nonlinear_probe" else None, **inputs), metadata)


@pytest.mark.parametrize("kind", POINT_HEAD_KINDS)
def test_every_kind_comes_back_as_it_was_alone_and_with_its_encoder(kind, model, tmp_path):
    torch.manual_seed(2)
    head = head_of(kind)
    head.fit_scales({name: torch.randn(9, length) for name, length in head.config.inputs.items()})
    samples = {name: torch.randn(3, length) for name, length in head.config.inputs.items()}
    for embedded in (False, True):
        path = tmp_path / f"{kind}_{embedded}.safetensors"
        saved = save_head(head, path, model, embed_backbone=embedded)
        loaded, encoder = load_point_head(path)
        assert loaded.metadata == saved
        assert loaded.config == head.config
        assert torch.equal(loaded.predict(samples), head.predict(samples))
        assert set(encoder.parts) == set(head.encoder_parts if embedded else model.parts)
        with pytest.raises(BadInputError, match=r"single photos or places \(kind .*gair predict"):
            load_head(path)
    description = describe(InfoRequest(model=str(path)), Progress()).text()
    assert ("height (m), share" if head.is_regression else "ü") in description


def test_an_encoder_inside_makes_the_same_vectors(model, tmp_path):
    save_head(head_of("fusion"), tmp_path / "fusion.safetensors", model, embed_backbone=True)
    save_head(head_of("linear_probe"), tmp_path / "probe.safetensors", model, embed_backbone=True)
    _, encoder = load_point_head(tmp_path / "fusion.safetensors")
    _, photos_only = load_point_head(tmp_path / "probe.safetensors")
    photos, places = torch.randn(2, 3, 32, 32), torch.tensor([[9.18, 48.78], [-0.1, 51.5]]).double()
    with torch.no_grad():
        expected = model.encode_street_view(photos, project=False)
        assert torch.equal(encoder.encode_street_view(photos, project=False), expected)
        assert torch.equal(photos_only.encode_street_view(photos, project=False), expected)
        assert torch.equal(encoder.encode_location(places), model.encode_location(places))


def test_heads_for_maps_are_refused_and_parts_that_are_missing_named(model, tmp_path):
    save_head(
        LinearHead(HeadConfig(embed_dim=16), HeadMetadata(classes=CLASSES)),
        tmp_path / "map.safetensors",
        model,
    )
    with pytest.raises(BadInputError, match="head for maps"):
        load_point_head(tmp_path / "map.safetensors")
    with pytest.raises(CheckpointError, match="without a head"):
        load_point_head("demo")
    blind = GAIR(SIZES.model_copy(update={"street_view": None}))
    with pytest.raises(BadInputError, match="part 'street_view' makes"):
        head_of("linear_probe").check_fits(blind)
    with pytest.raises(BadInputError, match="photo of 99 dimensions, the model's has 24"):
        LinearProbe(config(photo=99), HeadMetadata(classes=CLASSES)).check_fits(model)


def test_the_prior_joins_the_image_by_their_product():
    image = torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.0, 0.0, 0.0]])
    prior = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]])
    joined = combine(image, prior, torch.tensor([True, False, True]))
    torch.testing.assert_close(joined[0, :2], torch.tensor([0.06, 0.32]).double() / 0.38)
    torch.testing.assert_close(joined[1, :2], torch.tensor([0.6, 0.4]).double())
    torch.testing.assert_close(joined[2], prior[2].double())
    # Products of thousands of small numbers in float32 would all be 0.
    many = torch.full((1, 8000), 1e-30)
    many[0, 17] = 2e-30
    assert int(combine(many * 1e20, torch.full((1, 8000), 1e-11)).argmax()) == 17
