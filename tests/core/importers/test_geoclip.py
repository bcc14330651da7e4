"""GeoCLIP's location encoder against the package that it comes from, in float64."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest
import torch
from pyproj import Geod

from gair_core.errors import BadInputError, CheckpointError
from gair_core.importers.geoclip import import_geoclip, package_weights

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("geoclip") is None, reason="the optional package geoclip is not installed"
)


@pytest.fixture(scope="module")
def model():
    return import_geoclip()[0]


@needs_package
def test_agrees_with_the_package_in_float64(model):
    from geoclip import LocationEncoder

    rng = np.random.default_rng(0)
    longitude = rng.uniform(-180, 180, 10_000)
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, 10_000)))
    latitude[:100], latitude[100:200] = 90, -90
    longitude[200:300], longitude[300:400] = 180, -180
    longitude[400:500], longitude[500:600] = 179.99999, -179.99999
    places = torch.from_numpy(np.stack([longitude, latitude], axis=1))
    reference = LocationEncoder().double().eval()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # the package accumulates in the default dtype
    try:
        with torch.inference_mode():
            wanted = reference(places.flip(1))
    finally:
        torch.set_default_dtype(default)
    with torch.inference_mode():
        found = model.encode_location(places)
    assert wanted.dtype == torch.float64
    assert found.shape == (10_000, 512)
    difference = found - wanted
    assert float(difference.abs().max()) < 1e-5
    assert float((difference.norm(dim=1) / wanted.norm(dim=1)).max()) < 2e-4


@needs_package
def test_places_grow_less_similar_with_distance(model):
    rng = np.random.default_rng(1)
    count = 2_000
    longitude, latitude = (
        rng.uniform(-180, 180, count),
        rng.uniform(25, 55, count) * rng.choice([-1, 1], count),
    )
    azimuth = rng.uniform(0, 360, count)

    def embed(lon, lat):
        with torch.inference_mode():
            return model.encode_location(torch.from_numpy(np.stack([lon, lat], axis=1)))

    here = embed(longitude, latitude)
    cosines = []
    for kilometres in (0.5, 2, 10, 100, 1000):
        lon, lat, _ = Geod(ellps="WGS84").fwd(longitude, latitude, azimuth, np.full(count, kilometres * 1000))
        there = embed(lon, lat)
        cosines.append(float(torch.nn.functional.cosine_similarity(here, there).mean()))
    assert cosines[0] < 1
    assert all(near > far for near, far in itertools.pairwise(cosines))


@needs_package
def test_has_a_location_encoder_of_512_dimensions_alone(model):
    assert model.parts == ("location",)
    assert model.config.embed_dim == 512
    with pytest.raises(CheckpointError, match="no part 'remote_sensing'"):
        model.encode_remote_sensing(torch.zeros(1, 10, 8, 8))


@needs_package
def test_reads_the_whole_model_too(model, tmp_path):
    weights = torch.load(package_weights(), weights_only=True)
    whole = {f"location_encoder.{name}": tensor for name, tensor in weights.items()}
    extra = {"logit_scale": torch.tensor(3.0), "image_encoder.mlp.0.weight": torch.zeros(2, 2)}
    torch.save(whole | extra, tmp_path / "geoclip.pth")
    other, report = import_geoclip(tmp_path / "geoclip.pth")
    place = torch.tensor([[11.5, 48.1]], dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(other.encode_location(place), model.encode_location(place))
    assert {record.name for record in report.of("ignored")} == set(extra)


def test_a_file_of_another_kind_is_refused(tmp_path):
    torch.save({"LocEnc0.capsule.0.b": torch.zeros(4, 2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="3 capsules LocEnc0 to LocEnc2, found 1"):
        import_geoclip(tmp_path / "other.pth")


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BadInputError, match=r"pip install 'gair-core\[geoclip\]'"):
        import_geoclip()
