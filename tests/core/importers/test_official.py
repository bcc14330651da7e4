"""The official checkpoint's outputs, reproduced from weights that anybody can regenerate."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from PIL import Image

from gair_core.errors import CheckpointError
from gair_core.geo.footprint import Footprint
from gair_core.importers.official import import_official
from gair_core.model import GAIR
from gair_core.photos.preprocess import preprocess
from gair_core.progress import Progress
from gair_core.retrieval import check_retrieval
from gair_core.sentinel2.bands import BANDS, normalize, resize


def weights(shared: Path) -> dict[str, torch.Tensor]:
    spec = importlib.util.spec_from_file_location("deterministic", shared / "parity/deterministic_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = module.state_dict(shared / "parity/official_manifest.json", "a")
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()}


@pytest.fixture(scope="module")
def official(shared, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("official") / "checkpoint.pth"
    torch.save({"model": weights(shared), "optimizer": {"state": {}}, "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def model(official) -> GAIR:
    return import_official(official)[0]


@pytest.fixture(scope="module")
def golden(shared) -> dict[str, np.ndarray]:
    with np.load(shared / "parity/golden_a.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def inputs(golden) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.RandomState(int(golden["rs_seed"]))
    scenes = rng.randint(0, 6000, (2, 10, 181, 246)).astype(np.uint16)
    photos = rng.randint(0, 256, (2, 300, 400, 3)).astype(np.uint8)
    return torch.from_numpy(scenes.astype(np.float32)), photos


def scene_input(dn: torch.Tensor, model: GAIR) -> torch.Tensor:
    scenes = model.config.remote_sensing
    return resize(normalize(dn, scenes.mean, scenes.std, quantize=scenes.quantize), (96, 96))


def assert_reproduced(found: torch.Tensor, expected: np.ndarray) -> None:
    error = np.linalg.norm(found.double().numpy() - expected) / np.linalg.norm(expected)
    assert error < 1e-4


@torch.no_grad()
def test_random_inputs(model, golden, inputs):
    dn, photos = inputs
    images = scene_input(dn, model)
    np.testing.assert_allclose([images.mean(), images.std()], golden["rs_input_mean_std"], rtol=1e-5)
    features = model.encode_remote_sensing(images)
    tokens = features.flatten(2).transpose(1, 2)
    assert_reproduced(tokens[:, ::12, ::8], golden["rs_tokens"])
    assert_reproduced(tokens.mean(dim=1), golden["rs"])
    uv = torch.from_numpy(golden["uv"])[None]
    for method in ("nili", "bilinear", "bicubic"):
        found = model.interpolate(features[:1], uv, method=method)[0]
        assert_reproduced(found, golden[f"localized_{method}"])

    prepared = torch.stack([preprocess(photo, model.config.street_view) for photo in photos])
    np.testing.assert_allclose([prepared.mean(), prepared.std()], golden["sv_input_mean_std"], rtol=1e-5)
    assert_reproduced(model.encode_street_view(prepared, project=False), golden["sv"])
    assert_reproduced(model.encode_street_view(prepared), golden["sv_projected"])


@torch.no_grad()
def test_locations(model, golden):
    assert_reproduced(model.encode_location(torch.from_numpy(golden["lonlat"])), golden["location"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["detroit", "sacramento", "tokyo"])
def test_real_pairs_from_their_files(model, golden, shared, name):
    folder = shared / "data/gair_pairs"
    row = pd.read_csv(folder / "photos.csv").set_index("id").loc[name]
    with rasterio.open(folder / row.scene) as dataset:
        dn = dataset.read([dataset.descriptions.index(band) + 1 for band in BANDS])
        footprint = Footprint.from_dataset(dataset)
    uv = footprint.uv([[row.lon, row.lat]])
    np.testing.assert_allclose(uv[0], golden[f"{name}_uv"], atol=1e-9)

    features = model.encode_remote_sensing(scene_input(torch.from_numpy(dn.astype(np.float32))[None], model))
    assert_reproduced(features.mean(dim=(2, 3)), golden[f"{name}_rs"])
    localized = model.interpolate(features, torch.from_numpy(uv)[None])[0]
    assert_reproduced(localized, golden[f"{name}_localized"])
    photo = preprocess(Image.open(folder / row.photo).convert("RGB"), model.config.street_view)[None]
    assert_reproduced(model.encode_street_view(photo, project=False), golden[f"{name}_sv"])
    assert_reproduced(model.encode_street_view(photo), golden[f"{name}_sv_projected"])
    place = torch.tensor([[row.lon, row.lat]], dtype=torch.float64)
    assert_reproduced(model.encode_location(place), golden[f"{name}_location"])


def test_retrieval_on_the_real_pairs_compares_what_the_public_code_computes(model, golden, shared):
    found = check_retrieval(shared / "data/gair_pairs", model, Progress())
    scenes, photos = (
        np.stack([golden[f"{name}_{kind}"].ravel() for name in found.ids])
        for kind in ("localized", "sv_projected")
    )
    scenes, photos = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (scenes, photos))
    assert found.ids == ("detroit", "sacramento", "tokyo")
    np.testing.assert_allclose(found.cosines, scenes @ photos.T, atol=2e-4)
    assert found.verdict != "right"  # random weights know nothing


def test_the_report_accounts_for_every_tensor(official, shared):
    report = import_official(official)[1]
    manifest = json.loads((shared / "parity/official_manifest.json").read_text())
    assert {record.name for record in report.records} == {*manifest, "optimizer", "epoch"}
    ignored = {record.name for record in report.of("ignored")}
    assert {"radar_proj.weight", "location_proj.bias", "nerf_fn.norm_out.weight", "optimizer"} <= ignored
    assert "optical_proj.weight" not in ignored
    assert "20 m" in report.text()


def variant(shared: Path, path: Path, change) -> Path:
    tensors = weights(shared)
    change(tensors)
    torch.save(tensors, path)
    return path


def test_final_norm_is_used_where_the_file_has_it(shared, tmp_path, official):
    def add_norm(tensors):
        name = "rs_encoder.s2_encoder.transformer.norm_out"
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.full((768,), 2.0), torch.zeros(768)

    path = variant(shared, tmp_path / "norm.pth", add_norm)
    model, _ = import_official(path)
    features = model.encode_remote_sensing(torch.rand(1, 10, 16, 16))
    torch.testing.assert_close(
        features.std(dim=1, correction=0), torch.full((1, 2, 2), 2.0), rtol=1e-3, atol=0
    )
    assert not import_official(path, final_norm=False)[0].config.remote_sensing.final_norm
    with pytest.raises(CheckpointError, match="norm_out"):
        import_official(official, final_norm=True)


def test_distributed_prefixes_are_removed(shared, tmp_path, model):
    tensors = {f"module.{name}": tensor for name, tensor in weights(shared).items()}
    torch.save({"model": tensors}, tmp_path / "ddp.pth")
    imported, _ = import_official(tmp_path / "ddp.pth")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, imported.state_dict()[name]), name


def test_missing_and_misshapen_tensors_are_listed(shared, tmp_path):
    def damage(tensors):
        del tensors["imnet.bias"]
        tensors["optical_proj.bias"] = torch.zeros(5)

    with pytest.raises(CheckpointError) as error:
        import_official(variant(shared, tmp_path / "damaged.pth", damage))
    assert "missing imnet.bias" in str(error.value)
    assert "optical_proj.bias" in str(error.value)
