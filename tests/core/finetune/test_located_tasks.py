"""Fine-tuning on photos and places: what is read, encoded, trained and saved, on data made to be easy."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gair_core import checkpoint
from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import BadInputError
from gair_core.finetune.config import FinetuneConfig
from gair_core.finetune.datasets.scene_places import ScenePlacesConfig, scene_embeddings, scene_windows
from gair_core.finetune.located_metrics import classification_results, regression_results
from gair_core.finetune.trainer import finetune
from gair_core.head_checkpoint import load_point_head
from gair_core.inference.predict import PredictRequest, predict
from gair_core.model import GAIR
from tests.core.finetune.datasets import layouts
from tests.core.inference import scenes

SIZES = GAIRConfig(
    embed_dim=16,
    remote_sensing=RemoteSensingConfig(width=16, depth=1, num_heads=2, tile_size=32),
    street_view=StreetViewConfig(image_size=16, patch_size=8, width=16, depth=1, num_heads=2),
    location=LocationConfig(sigmas=(1.0, 16.0), num_frequencies=16, hidden_width=32, hidden_layers=1),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    # Heads find their frozen encoder among the registered models.
    monkeypatch.setenv("GAIR_MODELS", str(tmp_path))
    torch.manual_seed(0)
    checkpoint.save(GAIR(SIZES), tmp_path / "model.safetensors")
    return tmp_path


def write_photos(folder, count=60):
    """Write photos of rising redness, in east and west by turns."""
    red = np.random.default_rng(0).permutation(np.linspace(0, 255, count)).astype(np.uint8)
    for number, value in enumerate(red):
        pixels = np.full((18, 24, 3), 90, np.uint8)
        pixels[..., 0] = value
        Image.fromarray(pixels).save(folder / f"{number}.png")
    east = np.arange(count) % 2
    table = pd.DataFrame(
        {
            "photo": [f"{number}.png" for number in range(count)],
            "lon": np.where(east, 40.0, -70.0) + np.arange(count) / 1000,
            "lat": 10.0,
            "red": red / 255,
            "colour": np.where(red > 127, "red", "blue"),
            "species": [
                f"{'eastern' if e else 'western'} {'robin' if r > 127 else 'jay'}"
                for e, r in zip(east, red, strict=True)
            ],
            "sum": red / 255 + east,
        }
    )
    table.to_csv(folder / "photos.csv", index=False)
    return table


def run(folder, task, mode="frozen", output="run", **changes):
    values = {
        "model": str(folder / "model.safetensors"),
        "mode": mode,
        "task": task,
        "output": folder / output,
        "epochs": 60,
        "batch_size": 32,
        "optimizer": {"peak_rate": 0.02, "schedule": "constant", "weight_decay": 0.0},
        "evaluate_every": 10,
        "workers": 0,
        "accelerator": "cpu",
        **changes,
    }
    return finetune(FinetuneConfig.parse(values), show_progress=False).test


def test_probes_learn_classes_and_quantities_and_predict_them_again(folder):
    table = write_photos(folder)
    (folder / "3.png").write_bytes(b"no photo")
    (folder / "4.png").unlink()
    data = {"kind": "table", "table": str(folder / "photos.csv"), "label": "colour"}
    results = run(folder, {"kind": "photo", "data": data})
    assert results.metrics["top_1"] >= 0.9
    assert set(results.records) == {"lon", "lat", "target", "prediction"}
    head, encoder = load_point_head(folder / "run" / "head.safetensors")
    assert head.kind == "linear_probe"
    assert encoder.checkpoint.name == "model"
    assert "1 without a photo" in head.metadata.provenance.training_data
    assert "1 with a photo that cannot be read" in head.metadata.provenance.training_data
    assert head.metadata.accuracy.metrics["top_1"] == results.metrics["top_1"]
    result = predict(
        PredictRequest(
            points=str(folder / "photos.csv"),
            output=str(folder / "out.csv"),
            model=str(folder / "run" / "head.safetensors"),
            device="cpu",
        )
    )
    assert result.left_out == 2
    found = pd.read_csv(folder / "out.csv")
    assert (found["predicted_class"] == found["colour"]).mean() > 0.95
    regression = {
        "kind": "photo",
        "hidden": 16,
        "data": {**data, "label": None, "targets": ["red"], "units": {"red": "share"}},
    }
    results = run(folder, regression, output="regression")
    assert results.metrics["r2"] > 0.9
    assert results.metrics["rmse"] < 0.1
    head, _ = load_point_head(folder / "regression" / "head.safetensors")
    assert head.kind == "nonlinear_probe"
    assert [(one.name, one.unit) for one in head.metadata.targets] == [("red", "share")]
    assert float(head.output_mean) == pytest.approx(table["red"].mean(), abs=0.1)


def test_full_fine_tuning_changes_the_encoder_and_keeps_it_in_the_file(folder):
    write_photos(folder, 40)
    data = {"kind": "table", "table": str(folder / "photos.csv"), "label": "colour"}
    task = {"kind": "photo", "data": data, "class_weights": "inverse_frequency"}
    results = run(folder, task, "full", epochs=4, optimizer={"peak_rate": 0.005})
    assert results.metrics["top_1"] >= 0.6
    _, encoder = load_point_head(folder / "run" / "head.safetensors")
    before = checkpoint.load(folder / "model.safetensors")
    assert encoder.parts == ("street_view",)
    weights = [one.street_view.vit.blocks[0].attn.qkv.weight for one in (before, encoder)]
    assert not torch.equal(*weights)
    assert "fine-tuned" in encoder.checkpoint.title
    # Nothing but this file is needed any more.
    (folder / "model.safetensors").unlink()
    options = {"model": str(folder / "run" / "head.safetensors"), "device": "cpu"}
    predict(PredictRequest(points=str(folder / "photos.csv"), output=str(folder / "out.csv"), **options))
    found = pd.read_csv(folder / "out.csv")
    assert (found["predicted_class"] == found["colour"]).mean() >= 0.6


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(folder):
    write_photos(folder, 40)
    data = {"kind": "table", "table": str(folder / "photos.csv"), "targets": ["sum"]}
    task = {"kind": "fusion", "inputs": ["photo", "location"], "hidden": 8, "data": data}
    options = {"epochs": 4, "batch_size": 8, "evaluate_every": 2, "optimizer": {"peak_rate": 0.003}}
    whole = run(folder, task, "full", "whole", **options)

    class StopError(Exception):
        pass

    def stop(step, terms):
        if step == 8:
            raise StopError

    values = {
        "model": str(folder / "model.safetensors"),
        "mode": "full",
        "task": task,
        "output": folder / "parts",
        "workers": 0,
        "accelerator": "cpu",
        **options,
    }
    with pytest.raises(StopError):
        finetune(FinetuneConfig.parse(values), show_progress=False, on_step=stop)
    again = finetune(FinetuneConfig.parse(values), show_progress=False, resume=True)
    assert again.test.metrics == pytest.approx(whole.metrics, rel=1e-5)


def test_the_prior_joins_place_and_image_and_beats_both(folder):
    table = write_photos(folder, 120)
    # The image knows the colour only: half of its word goes to east and half to west.
    for name in sorted(set(table["species"])):
        table[f"probability_{name}"] = np.where(
            table["colour"] == ("red" if name.endswith("robin") else "blue"), 0.45, 0.05
        )
    table.to_csv(folder / "photos.csv", index=False)
    data = {"kind": "table", "table": str(folder / "photos.csv"), "label": "species"}
    results = run(
        folder, {"kind": "geo_prior", "data": data}, "full", optimizer={"peak_rate": 0.003}, epochs=20
    )
    metrics = results.metrics
    assert metrics["top_1"] > 0.95
    assert metrics["top_1_image"] < 0.75
    assert metrics["top_1_location"] < 0.75
    head, encoder = load_point_head(folder / "run" / "head.safetensors")
    assert head.kind == "geo_prior"
    assert encoder.parts == ("location",)
    options = {
        "model": str(folder / "run" / "head.safetensors"),
        "image_probabilities": "columns",
        "device": "cpu",
    }
    predict(PredictRequest(points=str(folder / "photos.csv"), output=str(folder / "out.csv"), **options))
    found = pd.read_csv(folder / "out.csv")
    assert (found["predicted_class"] == found["species"]).mean() > 0.95


def test_birds_without_a_place_are_judged_by_their_image(folder):
    layouts.birds(folder / "birds", "nabirds", images=40)
    data = {"kind": "birds", "folder": str(folder / "birds"), "set": "nabirds"}
    results = run(folder, {"kind": "geo_prior", "data": data}, "full", epochs=2, batch_size=8)
    # 39 valid images, two of them without a place; the image alone says that the r-th is of class r.
    assert len(results.records["target"]) == 39
    assert np.isnan(results.records["lon"]).sum() == 2
    expected = np.mean((np.arange(39) % 3) == (np.arange(1, 40) % 3))
    assert results.metrics["top_1_image"] == pytest.approx(expected)
    described = json.loads((folder / "run" / "test.json").read_text("utf-8"))
    assert "training images without place or photographer" in described["data"]


def test_location_aware_regression_and_features_without_any_model(folder):
    rows, generator = 200, np.random.default_rng(0)
    # Away from the step between the two halves of the world, where no sample says on which side it is.
    lon = (generator.uniform(15, 165, rows) * generator.choice([-1, 1], rows)).round(3)
    features = generator.normal(size=(rows, 6)).astype(np.float32)
    table = pd.DataFrame({"lon": lon, "lat": 0.0, "elevation": 300 * (lon > 0) + 100 * features[:, 2] + 1000})
    table["split"] = (["train", "train", "train", "val", "test"] * rows)[:rows]
    table.to_csv(folder / "Y_elevation.csv", index=False)
    np.save(folder / "X_elevation.npy", features)
    data = {"kind": "mosaiks", "folder": str(folder), "task": "elevation"}
    options = {"optimizer": {"peak_rate": 0.01, "weight_decay": 0.1}, "epochs": 60}
    both = run(folder, {"kind": "location_regression", "data": data}, "full", "both", **options)
    image = run(folder, {"kind": "fusion", "inputs": ["image"], "data": data}, "frozen", "image", **options)
    place = run(folder, {"kind": "fusion", "inputs": ["location"], "data": data}, "full", "place", **options)
    assert both.metrics["r2"] > 0.8
    assert both.metrics["r2"] > max(image.metrics["r2"], place.metrics["r2"]) + 0.1
    assert both.metrics["rmse"] == pytest.approx(
        both.metrics["relative_rmse"] * table["elevation"].std(), rel=0.3
    )
    _, encoder = load_point_head(folder / "image" / "head.safetensors")
    assert encoder.parts == ()
    without = {**data, "features": None}
    with pytest.raises(BadInputError, match="no image features"):
        run(folder, {"kind": "location_regression", "data": without}, "full", "none")
    with pytest.raises(BadInputError, match="no photos"):
        run(folder, {"kind": "photo", "data": data}, "frozen", "none")


def test_windows_and_the_engine_see_the_scene_at_the_place(folder):
    dn = scenes.textured(96, 80)
    path = scenes.write(folder / "scene.tif", dn)
    import rasterio

    from gair_core.geo.footprint import Footprint

    uv = np.array([[0.5, 0.5], [0.01, 0.99], [1.2, 0.5], [0.9, 0.1]])
    with rasterio.open(path) as dataset:
        lonlat = Footprint.from_dataset(dataset).lonlat(uv)
    model = checkpoint.load(folder / "model.safetensors")
    ids = np.array(["a", "b", "c", "d"])
    config = ScenePlacesConfig(files=(path,))
    rows, z = scene_embeddings(model, config, ids, lonlat, torch.device("cpu"))
    assert rows.tolist() == [0, 1, 3]
    assert z.shape == (3, 16)
    windows = scene_windows(model, config, ids, lonlat)
    assert windows.rows.tolist() == [0, 1, 3]
    assert windows.dn.shape == (3, 10, 32, 32)
    for one, place in enumerate(windows.rows):
        # The pixel under the place, in the window and in the scene.
        column, row = (uv[place] * [80, 96]).astype(int)
        inside = (windows.uv[one] * 32).astype(int).clip(max=31)
        assert windows.dn[one][:, inside[1], inside[0]].tolist() == dn[:, row, column].tolist()
    (folder / "own").mkdir()
    scenes.write(folder / "own" / "d.tif", dn)
    rows, own = scene_embeddings(
        model, ScenePlacesConfig(folder=folder / "own"), ids, lonlat, torch.device("cpu")
    )
    assert rows.tolist() == [3]
    torch.testing.assert_close(own[0], z[2])
    with pytest.raises(BadInputError, match="None of the places"):
        scene_embeddings(model, config, ids, lonlat + 20, torch.device("cpu"))


def test_configurations_say_what_does_not_belong_together(folder):
    data = {"kind": "table", "table": "photos.csv", "label": "colour"}
    values = {"model": "m", "output": "o"}
    for task, message in (
        ({"kind": "fusion", "inputs": ["scene"], "data": data}, "belong together"),
        ({"kind": "fusion", "inputs": ["photo", "photo"], "data": data}, "differ from each other"),
        ({"kind": "fusion", "inputs": ["sound"], "data": data}, "sound"),
        ({"kind": "photo", "data": {"kind": "nothing"}}, "nothing"),
    ):
        with pytest.raises(BadInputError, match=message):
            FinetuneConfig.parse({**values, "task": task})


def test_results_leave_out_what_is_unknown():
    nan = float("nan")
    predicted = torch.tensor([[1.0, 5.0], [2.0, 6.0], [4.0, 7.0]])
    target = torch.tensor([[1.0, nan], [2.0, nan], [3.0, 9.0]])
    metrics = regression_results(predicted, target, ["a", "b"], torch.tensor([2.0, 1.0])).metrics
    assert metrics["rmse_a"] == pytest.approx((1 / 3) ** 0.5)
    assert metrics["rmse_b"] == pytest.approx(2)
    assert metrics["rmse"] == pytest.approx(((1 / 3) ** 0.5 + 2) / 2)
    assert metrics["relative_rmse"] == pytest.approx(((1 / 3) ** 0.5 / 2 + 2) / 2)
    assert metrics["r2_a"] == pytest.approx(1 - 1 / 2)
    assert "r2_b" not in metrics
    ranked = torch.tensor([[0, 1], [1, 0], [2, 1], [0, 2]])
    few = classification_results(ranked, torch.tensor([0, 0, 2, 2]), ["a", "b", "c"])
    many = classification_results(ranked, torch.tensor([0, 0, 2, 2]), [str(one) for one in range(300)])
    assert few.metrics["top_1"] == many.metrics["top_1"] == 0.5
    assert few.metrics["top_5"] == many.metrics["top_5"] == 1.0
    assert few.metrics["mean_f1"] == pytest.approx(many.metrics["mean_f1"])
    assert few.confusion == ((1, 1, 0), (0, 0, 0), (1, 0, 1))
    assert many.confusion == ()
