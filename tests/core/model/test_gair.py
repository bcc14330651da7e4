"""The model as a whole: shapes, parts, devices' dtypes and the errors of its public methods."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gair_core.config import (
    GAIRConfig,
    LocationConfig,
    NILIConfig,
    RemoteSensingConfig,
    StreetViewConfig,
)
from gair_core.errors import BadInputError, CheckpointError
from gair_core.model import GAIR
from gair_core.model.location import LocationEncoder, equal_earth
from gair_core.model.remote_sensing import RemoteSensingEncoder, alibi_bias, alibi_slopes


@pytest.fixture(scope="module")
def tiny() -> GAIR:
    torch.manual_seed(0)
    return GAIR(GAIRConfig.preset("tiny")).eval()


def test_tiny_is_small_enough_for_cpus(tiny):
    assert sum(parameter.numel() for parameter in tiny.parameters()) <= 5_500_000


def test_public_names_and_shapes(tiny):
    features = tiny.encode_remote_sensing(torch.rand(2, 10, 96, 64))
    assert features.shape == (2, 192, 12, 8)
    assert tiny.interpolate(features, torch.rand(2, 5, 2), method="nili").shape == (2, 5, 192)
    assert tiny.interpolate_dense(features, (7, 9)).shape == (2, 192, 7, 9)
    assert tiny.localizer.lattice(features).shape == (2, 192, 12, 8)
    assert tiny.encode_street_view(torch.rand(3, 3, 128, 128)).shape == (3, 192)
    assert tiny.encode_location(torch.tensor([[0.0, 0.0]], dtype=torch.float64)).shape == (1, 192)
    assert float(tiny.logit_scale) == pytest.approx(1 / 0.07)


def test_configuration_round_trips_through_json():
    for preset in ("base", "small", "tiny"):
        config = GAIRConfig.preset(preset)
        assert GAIRConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"remote_sensing": {"patch_sise": 8}}, "remote_sensing.patch_sise"),
        ({"remote_sensing": {"patch_size": 0}}, "remote_sensing.patch_size"),
        ({"remote_sensing": {"tile_size": 100}}, "tile_size 100 is no multiple of patch_size 8"),
        ({"remote_sensing": {"bands": ["B2"]}}, "same length"),
        ({"remote_sensing": {"width": 100}}, "width 100 is no multiple of num_heads 16"),
        ({"nili": None}, "localizer nili needs the part nili"),
        ({"embed_dim": 512}, "without a projection"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_impossible_configurations_are_named(values, words):
    with pytest.raises(BadInputError, match=words.replace(".", r"\.")):
        GAIRConfig.parse(values)


def test_alibi_slopes_are_those_of_the_paper():
    np.testing.assert_allclose(alibi_slopes(8), [2**-k for k in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(16), [2 ** (-k / 2) for k in range(1, 17)])
    np.testing.assert_allclose(alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])


def test_alibi_bias_is_the_euclidean_distance_in_patches():
    bias = alibi_bias(3, 5, num_heads=4)
    slopes = alibi_slopes(4)
    for head, i, j in [(0, 0, 14), (3, 7, 2), (1, 4, 4)]:
        distance = math.dist(divmod(i, 5), divmod(j, 5))
        assert float(bias[0, head, i, j]) == pytest.approx(-float(slopes[head]) * distance, rel=1e-6)


def test_attention_sees_distance_not_position():
    """Shifting the content of a scene shifts its features, far from the edges' influence."""
    config = RemoteSensingConfig(width=32, depth=1, num_heads=2, bands=("B2",), mean=(0.0,), std=(1.0,))
    torch.manual_seed(0)
    encoder = RemoteSensingEncoder(config).double().eval()
    image = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    image[..., 24:32, 24:32] = 1
    shifted = torch.roll(image, (8, 8), dims=(2, 3))
    with torch.no_grad():
        one, other = encoder(image), encoder(shifted)
    torch.testing.assert_close(one[..., 3, 3], other[..., 4, 4], atol=2e-2, rtol=0)
    transposed = encoder(image[..., :40].mT.contiguous())
    assert transposed.shape == (1, 32, 5, 8)


def test_the_bias_is_cached_per_shape_and_follows_autocast():
    encoder = RemoteSensingEncoder(RemoteSensingConfig(width=32, depth=2, num_heads=4)).eval()
    encoder(torch.rand(1, 10, 16, 24))
    (key,) = encoder.alibi._cache
    bias = encoder.alibi._cache[key]
    encoder(torch.rand(3, 10, 16, 24))
    assert encoder.alibi._cache[key] is bias
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(torch.rand(1, 10, 16, 24)).isfinite().all()
    for side in range(8, 8 * 12, 8):
        encoder(torch.rand(1, 10, side, 8))
    assert len(encoder.alibi._cache) <= 4
    assert not [name for name in encoder.state_dict() if "alibi" in name]


@pytest.mark.parametrize("pooling", ["avg", "cls", "pooler"])
def test_three_poolings(pooling):
    torch.manual_seed(0)
    photos = StreetViewConfig(image_size=32, patch_size=8, width=32, depth=2, num_heads=2, pooling=pooling)
    model = GAIR(
        GAIRConfig(embed_dim=32, remote_sensing=None, nili=None, location=None, street_view=photos)
    ).eval()
    image = torch.rand(2, 3, 32, 32)
    tokens = model.street_view.vit.forward_features(image)
    expected = {
        "avg": tokens[:, 1:].mean(1),
        "cls": tokens[:, 0],
        "pooler": torch.tanh(model.street_view.pooler(tokens[:, 0])) if pooling == "pooler" else None,
    }[pooling]
    torch.testing.assert_close(model.encode_street_view(image), expected)


@pytest.mark.parametrize(("patch", "tokens"), [(4, 64), (16, 4)])
def test_a_convolutional_stem_makes_the_tokens_of_the_patch_size(patch, tokens):
    torch.manual_seed(0)
    photos = StreetViewConfig(image_size=32, patch_size=patch, stem="conv", width=32, depth=1, num_heads=2)
    config = GAIRConfig(embed_dim=32, remote_sensing=None, nili=None, location=None, street_view=photos)
    model = GAIR(config).eval()
    images = torch.rand(3, 3, 32, 32)
    assert model.street_view.vit.forward_features(images).shape == (3, tokens + 1, 32)
    # No sample depends on the others of its batch: no statistics of batches inside.
    model.train()
    torch.testing.assert_close(model.encode_street_view(images)[:1], model.encode_street_view(images[:1]))
    same = GAIR(GAIRConfig.parse(json.loads(config.model_dump_json()))).eval()
    same.load_state_dict(model.state_dict())
    torch.testing.assert_close(same.encode_street_view(images), model.encode_street_view(images))


def test_a_convolutional_stem_needs_a_power_of_two():
    with pytest.raises(ValidationError, match="2, 4, 8, 16 or 32, found 12"):
        StreetViewConfig(image_size=96, patch_size=12, stem="conv")


def test_projection_applies_only_where_asked():
    photos = StreetViewConfig(image_size=32, width=48, depth=1, num_heads=2, projection=True)
    model = GAIR(GAIRConfig(embed_dim=32, remote_sensing=None, nili=None, location=None, street_view=photos))
    image = torch.rand(2, 3, 32, 32)
    pooled = model.encode_street_view(image, project=False)
    assert pooled.shape == (2, 48)
    torch.testing.assert_close(model.encode_street_view(image), model.street_view_projection(pooled))


def test_equal_earth_agrees_with_proj():
    pyproj = pytest.importorskip("pyproj")
    rng = np.random.default_rng(0)
    lonlat = np.column_stack([rng.uniform(-180, 180, 500), rng.uniform(-90, 90, 500)])
    sphere = pyproj.Proj("+proj=eqearth +R=1")
    expected = np.column_stack(sphere(lonlat[:, 0], lonlat[:, 1])) * 66.50336 / 180
    np.testing.assert_allclose(equal_earth(torch.from_numpy(lonlat)), expected, atol=1e-9)


def test_location_features_ignore_autocast_and_the_models_dtype():
    torch.manual_seed(0)
    encoder = LocationEncoder(LocationConfig(num_frequencies=16, hidden_width=8), 4)
    place = equal_earth(torch.tensor([[139.75, 35.66], [-83.26, 42.48]], dtype=torch.float64))
    capsule = encoder.capsules[2]
    features = capsule.features(place)
    frequencies = capsule.frequencies.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(capsule.features(place), features)
    encoder.bfloat16()
    assert capsule.frequencies.dtype == torch.float32
    assert torch.equal(capsule.frequencies, frequencies)
    assert torch.equal(capsule.features(place), features)
    assert encoder(torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.bfloat16
    phase = 2 * math.pi * (place.numpy() @ frequencies.double().numpy().T)
    np.testing.assert_allclose(features, np.hstack([np.cos(phase), np.sin(phase)]), atol=1e-12)


def test_any_scene_size_and_hidden_layers_work():
    config = GAIRConfig.preset("tiny").model_copy(update={"nili": NILIConfig(hidden=(64,))})
    model = GAIR(config).eval()
    for size in [(8, 8), (8, 200), (104, 56)]:
        features = model.encode_remote_sensing(torch.rand(1, 10, *size))
        assert features.shape[2:] == (size[0] // 8, size[1] // 8)
        assert model.interpolate(features, torch.tensor([[[0.0, 1.0]]])).isfinite().all()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(1, 12, 16, 16), r"10 bands \(B2, .*\), found 12"),
        (torch.rand(10, 16, 16), r"\(B, C, H, W\), found \(10, 16, 16\)"),
        (torch.rand(1, 10, 20, 16), "multiples of the patch size 8, found 20 x 16"),
        (torch.rand(1, 10, 0, 16), "found 0 x 16"),
        (torch.zeros(1, 10, 16, 16, dtype=torch.int16), "floating point, found torch.int16"),
    ],
)
def test_wrong_scenes_are_refused(tiny, images, words):
    with pytest.raises(BadInputError, match=words):
        tiny.encode_remote_sensing(images)


@pytest.mark.parametrize(
    ("photos", "words"),
    [
        (torch.rand(1, 3, 224, 224), r"\(B, 3, 128, 128\), found \(1, 3, 224, 224\)"),
        (torch.rand(1, 4, 128, 128), "found"),
        (torch.zeros(1, 3, 128, 128, dtype=torch.uint8), "floating point"),
    ],
)
def test_wrong_photos_are_refused(tiny, photos, words):
    with pytest.raises(BadInputError, match=words):
        tiny.encode_street_view(photos)


@pytest.mark.parametrize(
    ("uv", "words"),
    [
        ([[[1.0001, 0.5]]], r"u and v in \[0, 1\], found \(1.0001, 0.5\)"),
        ([[[0.5, -0.1]]], "found"),
        ([[[float("nan"), 0.5]]], "found"),
        ([[0.5, 0.5]], "shape"),
    ],
)
def test_queries_outside_are_refused(tiny, uv, words):
    features = torch.rand(1, 192, 4, 4)
    with pytest.raises(BadInputError, match=words):
        tiny.interpolate(features, torch.tensor(uv))


@pytest.mark.parametrize(
    ("lonlat", "words"),
    [
        ([[35.66, 139.75]], "swapped"),
        ([[200.0, 10.0]], "Check the columns and their CRS"),
        ([[500000.0, 4649776.0]], "Check the columns and their CRS"),
        ([[float("nan"), 1.0]], "found longitude nan"),
        ([[1.0, 2.0, 3.0]], "shape"),
    ],
)
def test_impossible_places_are_refused(tiny, lonlat, words):
    with pytest.raises(BadInputError, match=words):
        tiny.encode_location(torch.tensor(lonlat, dtype=torch.float64))


def test_missing_parts_are_named():
    model = GAIR(GAIRConfig(embed_dim=32, remote_sensing=None, nili=None, location=None, street_view=None))
    for call in (
        lambda: model.encode_remote_sensing(torch.rand(1, 10, 8, 8)),
        lambda: model.encode_street_view(torch.rand(1, 3, 224, 224)),
        lambda: model.encode_location(torch.zeros(1, 2)),
    ):
        with pytest.raises(CheckpointError, match=r"no part '(remote_sensing|street_view|location)'"):
            call()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_devices_agree_with_the_cpu(tiny, device):
    if not (torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()):
        pytest.skip(f"this machine has no {device} device")
    images, places = torch.rand(2, 10, 96, 96), torch.tensor([[139.75, 35.66]], dtype=torch.float64)
    expected = tiny.encode_remote_sensing(images), tiny.encode_location(places)
    model = GAIR(tiny.config)
    model.load_state_dict(tiny.state_dict())
    model.to(device).eval()
    found = model.encode_remote_sensing(images.to(device)), model.encode_location(places)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, atol=2e-3, rtol=2e-3)
