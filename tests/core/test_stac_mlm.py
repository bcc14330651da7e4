"""`gair info --stac`: Items that STAC's schema and the extension's own models accept, and that are true."""

from __future__ import annotations

import hashlib
import json
import re

import pystac
import pytest
import torch

import gair_core
from gair_core.cli import main
from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import CheckpointError
from gair_core.head_checkpoint import save_head
from gair_core.heads import (
    AccuracyReport,
    HeadClass,
    HeadConfig,
    HeadMetadata,
    HeadTarget,
    LinearChangeHead,
    LinearHead,
    LocationRegression,
    PixelLinearConfig,
    PixelLinearHead,
    PointHeadConfig,
)
from gair_core.info import InfoRequest, run
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.model import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.bands import BANDS, normalize
from gair_core.stac_mlm import classification_classes, slug

CONFIG = GAIRConfig(
    embed_dim=16,
    remote_sensing=RemoteSensingConfig(width=16, depth=1, num_heads=1),
    street_view=StreetViewConfig(image_size=32, width=16, depth=1, num_heads=1),
    location=LocationConfig(num_frequencies=4, hidden_width=8, hidden_layers=1),
)
METADATA = CheckpointMetadata(
    title="a small one",
    provenance=Provenance(licence="CC-BY-4.0", training_data="made-up scenes", metrics={"recall": 0.5}),
)
CLASSES = (
    HeadClass(value=3, name="water", colour=(0, 0, 255)),
    HeadClass(value=7, name="Laub- & Nadelwald", colour=(10, 90, 0)),
)


@pytest.fixture
def model(tmp_path) -> GAIR:
    torch.manual_seed(0)
    gair_core.save(GAIR(CONFIG), tmp_path / "small model (1).safetensors", metadata=METADATA)
    return gair_core.load(tmp_path / "small model (1).safetensors")


def item_of(path) -> dict:
    item = run(InfoRequest(model=str(path), stac=True), Progress()).item
    assert json.loads(json.dumps(item)) == item
    return item


def check(item: dict) -> None:
    """Validate an Item by STAC's schema, inside pystac, and by the models of the extension's authors."""
    schema = pytest.importorskip("stac_model.schema", reason="stac-model needs Python 3.11")
    core = {**item, "stac_extensions": []}  # the extensions' schemas are on the web alone
    pystac.Item.from_dict(core).validate()
    found = schema.MLModelProperties.model_validate(item["properties"])
    back = json.loads(found.model_dump_json(by_alias=True))
    for name in ("name", "architecture", "framework", "framework_version", "total_parameters"):
        assert back[f"mlm:{name}"] == item["properties"][f"mlm:{name}"]
    assert schema.SCHEMA_URI in item["stac_extensions"]
    known = {f"mlm:{name}" for name in schema.MLModelProperties.model_fields}
    assert {name for name in item["properties"] if name.startswith("mlm:")} <= known
    # Rules of the JSON schema that the models do not have.
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", item["properties"]["mlm:name"])
    assert re.match(r"\d+\.\d+\.\d+", item["properties"]["mlm:framework_version"])
    models = [asset for asset in item["assets"].values() if "mlm:model" in asset["roles"]]
    assert [asset["mlm:artifact_type"] for asset in models] == ["safetensors.torch.save_file"]
    assert sum("mlm:artifact_type" in asset for asset in item["assets"].values()) == 1
    defined = {band["name"] for band in models[0].get("bands", [])}
    for one in item["properties"]["mlm:input"]:
        assert set(one["bands"]) <= defined
        if one["bands"]:
            assert len(one["value_scaling"]) == len(one["bands"])
            channel = one["input"]["dim_order"].index("channel")
            assert one["input"]["shape"][channel] == len(one["bands"])


def test_a_model(model, tmp_path):
    path = tmp_path / "small model (1).safetensors"
    item = item_of(path)
    check(item)
    properties, asset = item["properties"], item["assets"]["model"]
    assert properties["mlm:total_parameters"] == sum(
        value.numel()
        for name, value in model.state_dict().items()
        if not name.endswith((".frequencies", "log_temperature"))
    )
    assert [one["name"] for one in properties["mlm:input"]] == ["scene", "photo", "location"]
    assert [one["name"] for one in properties["mlm:output"]] == [
        "scene_embedding",
        "photo_embedding",
        "location_embedding",
    ]
    assert properties["license"] == "CC-BY-4.0"
    assert properties["mlm:pretrained_source"] == "made-up scenes"
    assert properties["gair:metrics"] == {"recall": 0.5}
    assert item["bbox"] == [-180, -90, 180, 90]
    assert asset["href"] == "./small model (1).safetensors"
    assert asset["file:size"] == path.stat().st_size
    assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert item["id"] == f"small-model-1-{model.checkpoint.fingerprint[:12]}"
    assert str(tmp_path) not in json.dumps(item)


def test_the_scaling_is_that_of_the_pipeline(model, tmp_path):
    (scene, *_) = item_of(tmp_path / "small model (1).safetensors")["properties"]["mlm:input"]
    assert scene["bands"] == list(BANDS)
    dn = torch.randint(200, 4000, (10, 4, 4)).float()
    low, high = (
        torch.tensor([one[key] for one in scene["value_scaling"]])[:, None, None]
        for key in ("minimum", "maximum")
    )
    scaled = ((dn - low) / (high - low)).clamp(0, 1)
    torch.testing.assert_close(scaled, normalize(dn, quantize=False), atol=1e-5, rtol=0)


@pytest.mark.parametrize("embedded", [True, False])
def test_a_head_for_maps(model, tmp_path, embedded):
    report = AccuracyReport(metrics={"mean_iou": 0.61})
    metadata = HeadMetadata(title="land cover", classes=CLASSES, accuracy=report)
    head = LinearHead(HeadConfig(embed_dim=16), metadata)
    save_head(head, tmp_path / "cover.safetensors", model, embed_backbone=embedded)
    item = item_of(tmp_path / "cover.safetensors")
    check(item)
    properties = item["properties"]
    assert properties["mlm:tasks"] == ["semantic-segmentation"]
    assert [one["name"] for one in properties["mlm:input"]] == ["scene"]
    (output,) = properties["mlm:output"]
    assert output["result"] == {
        "shape": [-1, 2, 96, 96],
        "dim_order": ["batch", "class", "height", "width"],
        "data_type": "float32",
    }
    water = output["classification:classes"][0]
    assert (water["value"], water["name"], water["color_hint"]) == (3, "water", "0000FF")
    assert properties["gair:metrics"] == {"mean_iou": 0.61}
    parts = (model.remote_sensing, model.nili)
    encoder = sum(value.numel() for part in parts for value in part.parameters())
    assert encoder < properties["mlm:total_parameters"] <= encoder + 2 * 16 + 2 + 1
    assert ("encoder" in item["assets"]) == (not embedded)
    if not embedded:
        assert item["assets"]["encoder"]["href"] == "./small model (1).safetensors"


def test_two_dates_are_an_axis_of_the_input(model, tmp_path):
    head = LinearChangeHead(HeadConfig(embed_dim=16), HeadMetadata(classes=CLASSES))
    save_head(head, tmp_path / "change.safetensors", model)
    item = item_of(tmp_path / "change.safetensors")
    check(item)
    structure = item["properties"]["mlm:input"][0]["input"]
    assert structure["shape"] == [-1, 2, 10, 96, 96]
    assert structure["dim_order"] == ["batch", "time", "channel", "height", "width"]


def test_pixels_that_a_head_reads_are_an_input_of_their_own(model, tmp_path):
    head = PixelLinearHead(PixelLinearConfig(embed_dim=16), HeadMetadata(classes=CLASSES))
    save_head(head, tmp_path / "pixels.safetensors", model)
    item = item_of(tmp_path / "pixels.safetensors")
    check(item)
    scene, pixels = item["properties"]["mlm:input"]
    assert (scene["name"], pixels["name"]) == ("scene", "pixels")
    assert pixels["input"]["shape"] == [-1, 30, 96, 96]
    assert "3 x 3 and 5 x 5" in pixels["description"]


def test_a_regression_of_places(model, tmp_path):
    metadata = HeadMetadata(targets=(HeadTarget(name="height", unit="m"),))
    config = PointHeadConfig(embed_dim=16, inputs={"location": 16, "image": 5})
    save_head(LocationRegression(config, metadata), tmp_path / "height.safetensors", model)
    item = item_of(tmp_path / "height.safetensors")
    check(item)
    properties = item["properties"]
    assert properties["mlm:tasks"] == ["regression"]
    assert [one["name"] for one in properties["mlm:input"]] == ["location", "image"]
    assert properties["mlm:input"][1]["input"]["shape"] == [-1, 5]
    assert properties["mlm:output"][0]["result"]["shape"] == [-1, 1]
    assert "classification:classes" not in properties["mlm:output"][0]
    assert not any("classification" in name for name in item["stac_extensions"])
    assert "license" not in properties


def test_a_head_whose_encoder_is_nowhere(model, tmp_path, monkeypatch):
    monkeypatch.setenv("GAIR_MODELS", str(tmp_path / "none"))
    head = LinearHead(HeadConfig(embed_dim=16), HeadMetadata(classes=CLASSES))
    save_head(head, tmp_path / "alone.safetensors", model)
    (tmp_path / "small model (1).safetensors").unlink()
    with pytest.raises(CheckpointError, match="was trained on the model 'small model"):
        item_of(tmp_path / "alone.safetensors")


def test_names_of_classes_are_identifiers_and_differ():
    names = ["Laub- & Nadelwald", "水", "a b", "a-b", "-x-"]
    classes = [HeadClass(value=i + 1, name=name, colour=(0, 0, 0)) for i, name in enumerate(names)]
    found = classification_classes(classes)
    assert [one["name"] for one in found] == ["Laub--Nadelwald", "class-2", "class-3", "class-4", "x"]
    assert [one["description"] for one in found] == names
    assert slug("…") == "unnamed"


def test_the_command_prints_the_item_and_nothing_else(model, tmp_path, capsys):
    path = tmp_path / "small model (1).safetensors"
    assert main(["info", str(path), "--stac"]) == 0
    assert json.loads(capsys.readouterr().out) == item_of(path)
