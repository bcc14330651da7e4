"""Heads of photos and places learn on the procedural world, and together they know more than each part."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from gair_core import checkpoint
from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.finetune.config import FinetuneConfig
from gair_core.finetune.trainer import finetune
from gair_core.inference.predict import PredictRequest, predict
from gair_core.model import GAIR
from tests.core.finetune import world_places

pytestmark = pytest.mark.slow

# Untrained encoders: what they make of their input is a random but rich mixture, from which heads can learn.
SIZES = GAIRConfig(
    embed_dim=64,
    remote_sensing=RemoteSensingConfig(width=64, depth=1, num_heads=2, tile_size=48),
    street_view=StreetViewConfig(
        image_size=48, patch_size=8, width=192, depth=1, num_heads=3, projection=True
    ),
    location=LocationConfig(num_frequencies=32, hidden_width=64, hidden_layers=1),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    world_places.write(folder)
    torch.manual_seed(0)
    checkpoint.save(GAIR(SIZES), folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        # Heads find their frozen encoder among the registered models.
        patch.setenv("GAIR_MODELS", str(folder))
        yield folder


def run(folder, output, task, mode="frozen", **changes):
    values = {
        "model": str(folder / "model.safetensors"),
        "mode": mode,
        "task": task,
        "output": folder / output,
        "epochs": 60,
        "batch_size": 40,
        "optimizer": {"peak_rate": 3e-3, "schedule": "cosine", "weight_decay": 3.0},
        "evaluate_every": 10,
        "workers": 0,
        "accelerator": "cpu",
        **changes,
    }
    return finetune(FinetuneConfig.parse(values), show_progress=False).test.metrics


def table(folder, name="places.csv", **what):
    return {"kind": "table", "table": str(folder / name), "group_field": "city", **what}


def test_probes_of_photos_know_what_surrounds_them(folder):
    classes = run(folder, "classes", {"kind": "photo", "data": table(folder, label="view")})
    task = {"kind": "photo", "hidden": 32, "data": table(folder, targets=["ahead", "green"])}
    shares = run(folder, "shares", task, epochs=150)
    # Half are leafy, half are bare; a mean would have an R2 of 0.
    assert classes["top_1"] > 0.75
    assert shares["r2_green"] > 0.5
    # Land cover 15 to 75 m ahead, half of it behind something.
    assert shares["r2_ahead"] > 0.15


def test_full_fine_tuning_reads_the_photos_anew(folder):
    task = {"kind": "photo", "data": table(folder, targets=["green"])}
    found = run(folder, "full", task, "full", epochs=15, optimizer={"peak_rate": 1e-3, "schedule": "cosine"})
    assert found["r2"] > 0.5


def test_the_prior_beats_image_and_place(folder):
    data = table(folder, label="species")
    run(folder, "image", {"kind": "photo", "data": data})
    options = {"model": str(folder / "image" / "head.safetensors"), "device": "cpu", "probabilities": True}
    predict(PredictRequest(points=str(folder / "places.csv"), output=str(folder / "seen.csv"), **options))
    seen = table(folder, "seen.csv", label="species")
    found = run(folder, "prior", {"kind": "geo_prior", "data": seen}, "full", epochs=30)
    assert found["top_1"] > max(found["top_1_image"], found["top_1_location"]) + 0.05
    options = {"model": str(folder / "prior" / "head.safetensors"), "device": "cpu"}
    request = PredictRequest(
        points=str(folder / "seen.csv"),
        output=str(folder / "joined.csv"),
        image_probabilities="columns",
        **options,
    )
    predict(request)
    joined = pd.read_csv(folder / "joined.csv")
    assert (joined["predicted_class"] == joined["species"]).mean() > 0.6


def test_fusion_beats_each_part_and_is_used_from_the_command(folder):
    data = table(folder, targets=["price"])
    scenes = {"files": [str(path) for path in sorted(folder.glob("*.tif"))]}
    found = {}
    for inputs in (["photo"], ["scene"], ["location"], ["photo", "scene", "location"]):
        task = {"kind": "fusion", "inputs": inputs, "data": data}
        task |= {"scenes": scenes} if "scene" in inputs else {}
        found["_".join(inputs)] = run(folder, "_".join(inputs), task)["r2"]
    together = found.pop("photo_scene_location")
    assert together > 0.6
    assert together > max(found.values()) + 0.1
    result = predict(
        PredictRequest(
            points=str(folder / "places.csv"),
            output=str(folder / "prices.csv"),
            model=str(folder / "photo_scene_location" / "head.safetensors"),
            scene=scenes["files"][0],
            device="cpu",
        )
    )
    # One scene holds one of the two cities.
    assert (result.points, result.left_out) == (world_places.PHOTOS, world_places.PHOTOS)
    prices = pd.read_csv(folder / "prices.csv")
    assert prices["price"].corr(prices["predicted_price"]) > 0.6


def test_fusion_trains_all_its_encoders(folder):
    scenes = {"files": [str(path) for path in sorted(folder.glob("*.tif"))]}
    task = {
        "kind": "fusion",
        "inputs": ["photo", "scene", "location"],
        "data": table(folder, targets=["price"]),
    }
    found = run(
        folder,
        "all",
        {**task, "scenes": scenes},
        "full",
        epochs=10,
        optimizer={"peak_rate": 1e-3, "schedule": "cosine"},
    )
    assert found["r2"] > 0.4
