"""ONNX files for Deepness: they say what `gair segment` says, of every kind of head that can be exported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import rasterio
import torch
from rasterio.windows import Window

from gair_core import checkpoint
from gair_core.cli import main
from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import BadInputError, CancelledError, CheckpointError
from gair_core.export import task
from gair_core.export.deepness import DeepnessSegmentor, Radiometry
from gair_core.export.task import ExportRequest, export_checkpoint
from gair_core.head_checkpoint import load_head, save_head
from gair_core.heads import (
    GeoPrior,
    HeadClass,
    HeadConfig,
    HeadMetadata,
    LinearChangeHead,
    LinearHead,
    PixelFeatures,
    PixelLinearConfig,
    PixelLinearHead,
    PointHeadConfig,
    SeriesLinearConfig,
    SeriesLinearHead,
    UPerNetConfig,
    UPerNetHead,
)
from gair_core.inference import segment as module
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.model import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.bands import BANDS, canonical_name
from tests.core.export.deepness import Deepness
from tests.core.inference import scenes

SIDE = 96
WIDTH = 16
CLASSES = (
    HeadClass(value=3, name="water", colour=(0, 0, 255)),
    HeadClass(value=7, name='fields & "meadows"', colour=(0, 255, 0)),
    HeadClass(value=300, name="Wald, ö", colour=(0, 90, 0)),
)
METADATA = HeadMetadata(title="a made-up one", classes=CLASSES)


def build_model(quantize: bool = False) -> GAIR:
    torch.manual_seed(0)
    return GAIR(
        GAIRConfig(
            embed_dim=WIDTH,
            remote_sensing=RemoteSensingConfig(width=WIDTH, depth=2, num_heads=2, quantize=quantize),
            street_view=StreetViewConfig(image_size=32, width=WIDTH, depth=1, num_heads=1),
            location=LocationConfig(num_frequencies=4, hidden_width=8, hidden_layers=1),
        )
    ).eval()


def build_head(kind: str) -> torch.nn.Module:
    torch.manual_seed(1)
    head = {
        "linear": lambda: LinearHead(HeadConfig(embed_dim=WIDTH), METADATA),
        "pixel_linear": lambda: PixelLinearHead(PixelLinearConfig(embed_dim=WIDTH), METADATA),
        "upernet": lambda: UPerNetHead(
            UPerNetConfig(embed_dim=WIDTH, blocks=(0, 0, 1, 1), channels=WIDTH), METADATA
        ),
        "change": lambda: LinearChangeHead(HeadConfig(embed_dim=WIDTH), METADATA),
        "series": lambda: SeriesLinearHead(
            SeriesLinearConfig(embed_dim=WIDTH, dates=2, blocks=(0, 0, 1, 1)), METADATA
        ),
        "coarse": lambda: PixelLinearHead(
            PixelLinearConfig(embed_dim=WIDTH, pixels=PixelFeatures(gsd=30)), METADATA
        ),
        "places": lambda: GeoPrior(PointHeadConfig(embed_dim=WIDTH, inputs={"location": WIDTH}), METADATA),
    }[kind]()
    with torch.no_grad():
        for parameter in head.parameters():
            # Classes must win by more than rounding, and more than one.
            parameter.normal_(std=1.0)
        if kind == "upernet":
            _tame(head)
        if kind in ("pixel_linear", "coarse"):
            head.band_mean.fill_(1800)
            head.band_scale.fill_(900)
            head.band_weight.mul_(0.3)
    return head


def _tame(head: UPerNetHead) -> None:
    """Give a random decoder the usual sizes of weights, and classes that win by what it sees."""
    for name, parameter in head.named_parameters():
        if parameter.ndim == 4:
            parameter.mul_(parameter[0].numel() ** -0.5)
        elif name.endswith("weight"):
            parameter.fill_(1)
        else:
            parameter.zero_()
    head.classifier.weight.mul_(8)
    head.classifier.weight.sub_(head.classifier.weight.mean(dim=1, keepdim=True))


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """Heads that contain their encoder, as fully fine-tuned ones do, and one that names it."""
    folder = tmp_path_factory.mktemp("heads")
    for kind in ("linear", "pixel_linear", "upernet", "change", "series", "coarse", "places"):
        model = build_model(quantize=kind == "pixel_linear")
        save_head(build_head(kind), folder / f"{kind}.safetensors", model, embed_backbone=True)
    checkpoint.save(build_model(), folder / "encoder.safetensors")
    encoder = checkpoint.load(folder / "encoder.safetensors")
    save_head(build_head("linear"), folder / "frozen.safetensors", encoder)
    return folder


@pytest.fixture(scope="module")
def exported(heads, tmp_path_factory):
    """Each kind exported once: exporting takes seconds."""
    folder, done = tmp_path_factory.mktemp("exported"), {}

    def export(kind: str, **options):
        key = (kind, *options.items())
        if key not in done:
            output = folder / f"{len(done)}.onnx"
            request = ExportRequest(
                kind="onnx",
                model=str(heads / f"{kind}.safetensors"),
                output=str(output),
                tile_size=SIDE,
                **options,
            )
            done[key] = output, export_checkpoint(request)
        return done[key]

    return export


def run_segment(scene, output, head, **options) -> np.ndarray:
    segment(SegmentRequest(scene=str(scene), output=str(output), model=str(head), **options))
    with rasterio.open(output) as dataset:
        return dataset.read(1)


def segment_with_logits(scene, head, output, monkeypatch, **options):
    """Run `gair segment` and return its classes, the logits behind them and where it has data."""
    strips = []

    def recording(logits, valid, classes):
        strips.append((logits.clone(), valid.copy()))
        return original(logits, valid, classes)

    original = module.class_values
    monkeypatch.setattr(module, "class_values", recording)
    classes = run_segment(scene, output, head, **options)
    logits, valid = (np.concatenate([np.asarray(strip[i]) for strip in strips], axis=1 - i) for i in (0, 1))
    return classes, logits, valid


def assert_same(tile: np.ndarray, onnx_file: Path, classes, logits, valid) -> None:
    """Compare Deepness's answer to stored numbers (bands, side, side) with segment's of the same file."""
    deepness = Deepness(onnx_file)
    layer = tile.transpose(1, 2, 0)
    probabilities = deepness.run_tile(layer)[0].astype(np.float64)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities[0], ~valid)
    wanted = logits - logits.mean(axis=0)
    likely = (probabilities[1:] > 1e-6).all(axis=0) & valid
    assert likely.sum() > 0.5 * valid.sum()
    found = np.log(probabilities[1:, likely])
    np.testing.assert_allclose(found - found.mean(axis=0), wanted[:, likely], atol=1e-4)
    top = np.sort(logits, axis=0)
    clear = (top[-1] - top[-2] > 1e-4) | ~valid
    assert clear.mean() > 0.99
    values = np.array([0, *(one.value for one in CLASSES)])
    np.testing.assert_array_equal(values[deepness.classify(layer)][clear], classes[clear])
    assert len(np.unique(classes[valid])) > 1


@pytest.mark.parametrize("kind", ["pixel_linear", "upernet"])
def test_a_tile_gets_the_logits_and_classes_of_segment(kind, heads, exported, tmp_path, monkeypatch):
    dn = scenes.textured(SIDE, SIDE)
    dn[:, :20, 70:] = 0
    dn[:, 60, 5:9] = 65535
    scene = scenes.write(tmp_path / "scene.tif", dn)
    path, result = exported(kind)
    assert result.largest_difference < 1e-4
    found = segment_with_logits(scene, heads / f"{kind}.safetensors", tmp_path / "a.tif", monkeypatch)
    assert not found[2][:20, 70:].any()
    assert_same(dn, path, *found)


def test_a_real_scene_with_esas_offset(shared, heads, exported, tmp_path, monkeypatch):
    source = shared / "data/world_patches/patch_57755.tif"
    with rasterio.open(source) as dataset:
        window = Window(80, 60, SIDE, SIDE)
        stored = dataset.read([2, 3, 4, 5, 6, 7, 8, 9, 11, 12], window=window)
        profile = {**dataset.profile, "width": SIDE, "height": SIDE, "count": len(BANDS), "tiled": False}
        profile["transform"] = dataset.window_transform(window)
    profile = {key: value for key, value in profile.items() if not key.startswith("block")}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as dataset:
        dataset.write(stored)
        dataset.descriptions = BANDS
    path, _ = exported("linear", offset=-1000.0)
    found = segment_with_logits(
        tmp_path / "scene.tif", heads / "linear.safetensors", tmp_path / "a.tif", monkeypatch, offset=-1000
    )
    assert_same(stored, path, *found)


def test_a_whole_layer_agrees_with_segment_where_tiles_do_not_meet(heads, exported, tmp_path, monkeypatch):
    dn = scenes.textured(144, 192, seed=3)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    path, _ = exported("pixel_linear")
    deepness = Deepness(path)
    found = deepness.map(dn.transpose(1, 2, 0))
    classes, _, _ = segment_with_logits(
        scene,
        heads / "pixel_linear.safetensors",
        tmp_path / "a.tif",
        monkeypatch,
        tile_size=SIDE,
    )
    same = np.array([0, *(one.value for one in CLASSES)])[found] == classes
    # This layer is whole strides of Deepness, whose tiles then are those of segment.
    assert same.mean() > 0.95
    assert same[:24, :24].all()
    assert same[-24:, -24:].all()


def test_deepness_finds_what_it_looks_for(exported):
    path, result = exported("pixel_linear")
    deepness = Deepness(path)
    assert deepness.input.shape == [1, 10, SIDE, SIDE]
    assert deepness.output.shape == [1, 4, SIDE, SIDE]
    assert deepness.input.type == deepness.output.type == "tensor(float)"
    assert deepness.entries["model_type"] == "Segmentor"
    assert deepness.entries["resolution"] == 1000
    assert deepness.entries["tile_size"] == deepness.entries["tiles_size"] == SIDE
    assert deepness.overlap == 48
    assert deepness.class_names() == ["no data", *(one.name for one in CLASSES)] == list(result.channels)
    own = deepness.entries["gair"]
    assert own["bands"] == list(BANDS) == list(result.bands)
    assert [one["value"] for one in own["classes"]] == [3, 7, 300]
    assert own["title"] == "a made-up one"
    text = result.text()
    assert f"layer: {', '.join(BANDS)} in this order, pixels of 10 m" in text
    assert "channels: no data, water, fields" in text


def test_the_file_is_one_that_old_versions_read_and_says_nothing_of_this_machine(exported):
    path, _ = exported("pixel_linear")
    model = onnx.load(path)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    assert model.ir_version == 8
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(checkpoint.__file__).parents[1]).encode() not in content


def rows(tile, head, model, **radiometry):
    with torch.no_grad():
        return DeepnessSegmentor(head, model, SIDE, Radiometry(**radiometry)).eval()(tile)[0]


def test_what_counts_as_no_data(heads):
    head, model = load_head(heads / "linear.safetensors")
    tile = torch.full((1, 10, SIDE, SIDE), 1500 / 255)
    tile[:, :, 0, 0] = 0
    tile[:, 3, 0, 1] = 0
    tile[:, 3, 0, 2] = float("nan")
    tile[:, :, 0, 3] = -9999 / 255
    tile[:, :, 0, 4] = 65535 / 255
    tile[:, ::2, 0, 5], tile[:, 1::2, 0, 5] = 0, 65535 / 255
    found = rows(tile, head, model)
    assert found.isfinite().all()
    assert found[0, 0, :7].tolist() == [1, 0, 1, 1, 1, 1, 0]
    assert torch.equal(found[0, 1:], torch.zeros(SIDE - 1, SIDE))
    everywhere = rows(torch.zeros_like(tile), head, model)
    assert torch.equal(everywhere[0], torch.ones(SIDE, SIDE))


def test_reflectance_and_offset_are_taken_to_dn(heads):
    head, model = load_head(heads / "linear.safetensors")
    dn = torch.from_numpy(scenes.textured(SIDE, SIDE).astype(np.float64))[None].clamp(min=16)
    wanted = rows((dn / 255).float(), head, model)
    for stored, radiometry in (
        (dn / 10000, {"scale": 10000}),
        (dn + 1000, {"offset": -1000}),
        (dn / 10000 + 0.1, {"scale": 10000, "offset": -1000}),
    ):
        assert torch.allclose(rows((stored / 255).float(), head, model, **radiometry), wanted, atol=1e-5)


def request(heads, output, name="linear", **options):
    options = {"tile_size": SIDE, **options}
    return ExportRequest(kind="onnx", model=str(heads / f"{name}.safetensors"), output=str(output), **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("change", {}, "looks at 2 dates; Deepness hands over one layer.*gair change"),
        ("series", {}, "looks at a series of dates.*--series"),
        ("places", {}, "single photos or places.*has no map"),
        ("coarse", {}, "pixels of 30 m beside tiles of 10 m"),
        ("encoder", {}, "model without a head"),
        ("missing", {}, "no file"),
        ("linear", {"tile_size": 72}, "at least 96, found 72"),
        ("linear", {"tile_size": 100}, "multiple of 8 pixels.*found 100"),
    ],
)
def test_what_cannot_be_exported_says_why_and_leaves_nothing(heads, tmp_path, name, options, message):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"older")
    with pytest.raises(BadInputError, match=message):
        export_checkpoint(request(heads, output, name, **options))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.onnx", b"older")]


def test_impossible_outputs(heads, tmp_path):
    with pytest.raises(BadInputError, match=r"must end in \.onnx"):
        export_checkpoint(request(heads, tmp_path / "out.pt"))
    with pytest.raises(BadInputError, match="does not exist"):
        export_checkpoint(request(heads, tmp_path / "nowhere" / "out.onnx"))


def test_without_the_extra_the_error_says_how_to_install_it(heads, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(BadInputError, match=r"onnxscript is not installed.*gair-core\[onnx\]"):
        export_checkpoint(request(heads, tmp_path / "out.onnx"))


def test_a_graph_that_computes_something_else_never_appears(heads, tmp_path, monkeypatch):
    other = tmp_path / "other.onnx"
    monkeypatch.setattr(task.onnx, "to_onnx", lambda *_: b"")
    monkeypatch.setattr(task.onnx, "run_onnx", lambda _, tile: torch.zeros(1, 4, SIDE, SIDE))
    with pytest.raises(CheckpointError, match="differs from the head by"):
        export_checkpoint(request(heads, other))
    assert list(tmp_path.iterdir()) == []


def test_cancelling_leaves_nothing(heads, tmp_path):
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        export_checkpoint(request(heads, tmp_path / "out.onnx"), progress)
    assert list(tmp_path.iterdir()) == []


def test_the_command_and_a_head_that_names_its_encoder(heads, tmp_path, capsys):
    output = tmp_path / "out.onnx"
    head, encoder = heads / "frozen.safetensors", heads / "encoder.safetensors"
    words = ["export", "onnx", str(head), str(output), "--backbone", str(encoder), "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bytes"] == output.stat().st_size
    assert result["tile_size"] == 192
    assert Deepness(output).overlap == 48
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.slow
def test_the_demos_land_cover_of_a_real_scene_in_deepness(shared, tmp_path):
    """Nine tiles of each; they differ only where tiles meet, which Deepness cuts and segment blends."""
    source = shared / "data/laos_scene/majortom_199U_1099R_20200223_12b_10m.tif"
    with rasterio.open(source) as dataset:
        order = [[canonical_name(one) for one in dataset.descriptions].index(name) + 1 for name in BANDS]
        window = Window(200, 300, 480, 480)
        stored = dataset.read(order, window=window)
        profile = {"driver": "GTiff", "count": 10, "height": 480, "width": 480, "dtype": stored.dtype}
        profile |= {"crs": dataset.crs, "transform": dataset.window_transform(window)}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as dataset:
        dataset.write(stored)
        dataset.descriptions = BANDS
    output = tmp_path / "cover.onnx"
    export_checkpoint(ExportRequest(kind="onnx", model="demo-land-cover", output=str(output)))
    found = Deepness(output).map(stored.transpose(1, 2, 0))
    classes = run_segment(tmp_path / "scene.tif", tmp_path / "a.tif", "demo-land-cover", offset=0)
    head, _ = load_head("demo-land-cover")
    same = np.array([0, *(one.value for one in head.classes)])[found] == classes
    print(f"{same.mean():.4f} of the pixels agree, {same[:144, -144:].mean():.4f} within the first tile")
    assert same.mean() > 0.99  # docs/interoperability.md says so
    assert same[:144, -144:].mean() > 0.9999
