"""Heads without a map on photos and points: the vectors that they read, rows that lack one, and the table."""

from __future__ import annotations

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from PIL import Image
from scipy import sparse

from gair_core import checkpoint
from gair_core.cli import main
from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import BadInputError
from gair_core.geo.footprint import Footprint
from gair_core.head_checkpoint import save_head
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
    PointHeadConfig,
)
from gair_core.heads.geo_prior import combine
from gair_core.inference.predict import PredictRequest, predict
from gair_core.inference.request import Estimate
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.model import GAIR
from gair_core.photos.preprocess import preprocess
from gair_core.photos.reading import open_photo
from gair_core.progress import Progress
from gair_core.sentinel2.bands import MEAN, STD, normalize
from tests.core.inference import scenes

CLASSES = (
    HeadClass(value=2, name='town, "old"', colour=(255, 0, 0)),
    HeadClass(value=5, name="Wälder", colour=(0, 255, 0)),
    HeadClass(value=9, name="water", colour=(0, 0, 255)),
)
TARGETS = (HeadTarget(name="height", unit="m"), HeadTarget(name="share"))


@pytest.fixture(autouse=True)
def _empty_registry(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("GAIR_MODELS", str(tmp_path_factory.mktemp("registry")))


@pytest.fixture
def model(tmp_path) -> GAIR:
    torch.manual_seed(0)
    sizes = GAIRConfig(
        embed_dim=16,
        remote_sensing=RemoteSensingConfig(width=16, depth=1, num_heads=1),
        street_view=StreetViewConfig(image_size=32, width=24, depth=1, num_heads=1, projection=True),
        location=LocationConfig(num_frequencies=8, hidden_width=16, hidden_layers=1),
    )
    checkpoint.save(GAIR(sizes), tmp_path / "encoder.safetensors")
    return checkpoint.load(tmp_path / "encoder.safetensors")


@pytest.fixture
def world(tmp_path):
    """A scene of one tile and eight photos in it, the last two outside and without a position."""
    dn = scenes.textured(64, 48)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    uv = np.random.default_rng(1).uniform(0.05, 0.95, (8, 2))
    uv[6] = [1.4, 0.5]
    with rasterio.open(scene) as dataset:
        lonlat = Footprint.from_dataset(dataset).lonlat(uv)
    generator = np.random.default_rng(2)
    for number in range(8):
        pixels = generator.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    table = pd.DataFrame({"photo": [f"{number}.png" for number in range(8)], "note": list("abcdefgh")})
    table["lon"], table["lat"] = lonlat[:, 0], lonlat[:, 1]
    table.loc[7, "lon"] = np.nan
    table.to_csv(tmp_path / "photos.csv", index=False)
    return scene, dn, uv, table


def head(kind, model, path, metadata=None, hidden=None, **inputs):
    torch.manual_seed(5)
    made = kind(
        PointHeadConfig(embed_dim=16, inputs=inputs, hidden=hidden), metadata or HeadMetadata(classes=CLASSES)
    )
    with torch.no_grad():
        for layer in made.layers:
            if hasattr(layer, "weight"):
                layer.weight.mul_(20)
    save_head(made, path, model)
    return made


def run(folder, points="photos.csv", output="out.parquet", **options):
    request = PredictRequest(
        points=str(folder / points), output=str(folder / output), device="cpu", **options
    )
    progress = Progress()
    result = predict(request, progress)
    return result, geopandas.read_parquet(folder / output)


def photo_vectors(model, folder, numbers):
    images = [preprocess(open_photo(folder / f"{one}.png"), model.config.street_view) for one in numbers]
    with torch.no_grad():
        return model.encode_street_view(torch.stack(images), project=False)


def test_fusion_reads_photo_scene_and_place_of_the_same_row(model, world, tmp_path):
    scene, dn, uv, table = world
    made = head(FusionHead, model, tmp_path / "fusion.safetensors", hidden=9, photo=24, scene=16, location=16)
    (tmp_path / "2.png").write_bytes(b"no photo")
    result, frame = run(
        tmp_path,
        model=str(tmp_path / "fusion.safetensors"),
        scene=str(scene),
        tile_size=96,
        probabilities=True,
    )
    kept = [0, 1, 3, 4, 5]
    images = normalize(torch.from_numpy(dn.astype(np.float32)), MEAN, STD, quantize=False)[None]
    with torch.no_grad():
        z = model.interpolate(model.encode_remote_sensing(images), torch.from_numpy(uv[kept])[None].float())[
            0
        ]
        e = model.encode_location(torch.from_numpy(table[["lon", "lat"]].to_numpy()[kept]))
        photo = photo_vectors(model, tmp_path, kept)
        expected = made.predict({"photo": photo, "scene": z, "location": e}).numpy()
    assert frame["note"].tolist() == [table["note"][one] for one in kept]
    found = frame[[f"probability_{one.name}" for one in CLASSES]].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    best = expected.argmax(axis=1)
    assert frame["predicted_class"].tolist() == [CLASSES[one].name for one in best]
    assert frame["predicted_value"].tolist() == [CLASSES[one].value for one in best]
    np.testing.assert_allclose(frame["confidence"], expected.max(axis=1), atol=1e-4)
    assert (result.points, result.left_out) == (5, 3)
    assert sum(result.classes.values()) == 5
    said = " ".join(result.warnings)
    assert "without a position: 7.png" in said
    assert "outside the scene: 6.png" in said
    assert "2.png is skipped" in said
    dry = predict(
        PredictRequest(
            points=str(tmp_path / "photos.csv"),
            output=str(tmp_path / "dry.csv"),
            model=str(tmp_path / "fusion.safetensors"),
            scene=str(scene),
            tile_size=96,
            dry_run=True,
        )
    )
    assert isinstance(dry, Estimate)
    assert dry.tiles == 1
    assert dry.seconds > 0
    assert not (tmp_path / "dry.csv").exists()


def test_a_probe_needs_photos_alone_and_a_regression_writes_units(model, world, tmp_path):
    head(LinearProbe, model, tmp_path / "probe.safetensors", HeadMetadata(targets=TARGETS), photo=24)
    result, frame = run(tmp_path, model=str(tmp_path / "probe.safetensors"))
    assert len(frame) == 8
    assert result.classes == {}
    assert result.means["height"] == pytest.approx(frame["predicted_height"].mean())
    assert "predicted_share" in frame
    # Its own output is no obstacle: the columns are replaced, and it says so.
    frame.drop(columns="geometry").to_csv(tmp_path / "again.csv", index=False)
    result, again = run(tmp_path, "again.csv", "second.parquet", model=str(tmp_path / "probe.safetensors"))
    assert any("predicted_height, predicted_share are replaced" in one for one in result.warnings)
    np.testing.assert_allclose(again["predicted_height"], frame["predicted_height"])


def test_a_geo_prior_joins_what_a_probe_wrote_or_a_file_holds(model, world, tmp_path):
    _, _, _, table = world
    head(LinearProbe, model, tmp_path / "probe.safetensors", photo=24)
    prior = head(GeoPrior, model, tmp_path / "prior.safetensors", location=16)
    run(tmp_path, output="image.parquet", model=str(tmp_path / "probe.safetensors"), probabilities=True)
    names = [f"probability_{one.name}" for one in CLASSES]
    image = geopandas.read_parquet(tmp_path / "image.parquet")
    image.drop(columns="geometry").to_csv(tmp_path / "image.csv", index=False)
    seen = torch.tensor(image[names].to_numpy())
    places = table[["lon", "lat"]].to_numpy()
    with torch.no_grad():
        expected = prior.predict({"location": model.encode_location(torch.from_numpy(np.nan_to_num(places)))})
    joined = combine(seen, expected, torch.from_numpy(~np.isnan(places).any(axis=1))).numpy()
    options = {"model": str(tmp_path / "prior.safetensors"), "probabilities": True}
    # A row without a place is judged by its image alone.
    _, frame = run(tmp_path, "image.csv", image_probabilities="columns", **options)
    np.testing.assert_allclose(frame[names], joined, atol=1e-5)
    np.testing.assert_allclose(frame[names].iloc[7], seen[7] / seen[7].sum(), atol=1e-5)
    sparse.save_npz(tmp_path / "image.npz", sparse.csr_matrix(seen.numpy()))
    np.save(tmp_path / "image.npy", seen.numpy())
    for name in ("image.npz", "image.npy"):
        _, frame = run(tmp_path, image_probabilities=str(tmp_path / name), **options)
        np.testing.assert_allclose(frame[names], joined, atol=1e-5)
    # Without an image only the place speaks, and a row needs one.
    result, frame = run(tmp_path, **options)
    np.testing.assert_allclose(frame[names], expected[:7], atol=1e-5)
    assert result.left_out == 1
    np.save(tmp_path / "image.npy", seen.numpy()[:7])
    for given, message in (
        (str(tmp_path / "image.npy"), r"shape \(7, 3\); \(8, 3\) is needed"),
        ("columns", "lacks the columns probability_town"),
        (str(tmp_path / "none.npy"), "cannot be read"),
    ):
        with pytest.raises(BadInputError, match=message):
            run(tmp_path, image_probabilities=given, **options)


def test_given_features_follow_their_rows(model, world, tmp_path):
    made = head(
        LocationRegression,
        model,
        tmp_path / "r.safetensors",
        HeadMetadata(targets=TARGETS),
        location=16,
        image=4,
    )
    features = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    result, frame = run(
        tmp_path, model=str(tmp_path / "r.safetensors"), image_features=str(tmp_path / "features.npy")
    )
    places = torch.from_numpy(world[3][["lon", "lat"]].to_numpy()[:7])
    with torch.no_grad():
        expected = made.predict(
            {"location": model.encode_location(places), "image": torch.from_numpy(features[:7])}
        )
    np.testing.assert_allclose(frame[["predicted_height", "predicted_share"]], expected, atol=1e-4)
    assert result.left_out == 1


def test_what_does_not_fit_is_refused(model, world, tmp_path):
    scene = str(world[0])
    head(FusionHead, model, tmp_path / "fusion.safetensors", scene=16, image=4)
    head(LinearProbe, model, tmp_path / "probe.safetensors", photo=24)
    save_head(
        LinearHead(HeadConfig(embed_dim=16), HeadMetadata(classes=CLASSES)),
        tmp_path / "map.safetensors",
        model,
    )
    fusion, probe = str(tmp_path / "fusion.safetensors"), str(tmp_path / "probe.safetensors")
    for options, message in (
        ({"model": fusion}, "needs --scene"),
        ({"model": fusion, "scene": scene}, "needs --image-features"),
        ({"model": probe, "scene": scene}, "no use for --scene"),
        ({"model": probe, "image_probabilities": "columns"}, "are for a geo-prior"),
        ({"model": str(tmp_path / "map.safetensors")}, "head for maps"),
    ):
        with pytest.raises(BadInputError, match=message):
            run(tmp_path, **options)
    with pytest.raises(BadInputError, match=r"the output .* is the input"):
        run(tmp_path, output="photos.csv", model=probe)
    with pytest.raises(BadInputError, match="gair predict"):
        segment(SegmentRequest(scene=scene, output=str(tmp_path / "map.tif"), model=probe))
    assert not (tmp_path / "out.parquet").exists()


def test_the_command_line_writes_a_table(model, world, tmp_path, capsys):
    head(LinearProbe, model, tmp_path / "probe.safetensors", photo=24)
    arguments = ["predict", str(tmp_path / "photos.csv"), str(tmp_path / "out.csv")]
    assert main([*arguments, "--model", str(tmp_path / "probe.safetensors"), "--device", "cpu"]) == 0
    written = pd.read_csv(tmp_path / "out.csv")
    assert len(written) == 8
    assert set(written["predicted_class"]) <= {one.name for one in CLASSES}
    assert "out.csv" in capsys.readouterr().out
    assert main(arguments) == 2
