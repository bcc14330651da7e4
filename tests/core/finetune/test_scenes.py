"""What lies between data sets and the trainer: encoders of fewer bands, crops, tiles, metrics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_jaccard_index,
)

from gair_core import checkpoint
from gair_core.errors import BadInputError
from gair_core.finetune.config import FinetuneConfig
from gair_core.finetune.datasets.burn_scars import BurnScars
from gair_core.finetune.datasets.scenes import IGNORED, SceneExample
from gair_core.finetune.datasets.small_farms import SmallFarms
from gair_core.finetune.datasets.south_sudan import SouthSudan
from gair_core.finetune.encoder import adapt_encoder, is_changed
from gair_core.finetune.metrics import ClassificationMeter
from gair_core.finetune.scene_task import SceneExamples, SceneTask, SceneTaskConfig, random_crop
from gair_core.finetune.tiled import tiled_logits
from gair_core.finetune.trainer import finetune
from gair_core.head_checkpoint import load_head, save_head
from gair_core.heads.base import HeadClass, HeadConfig, HeadMetadata
from gair_core.heads.linear import LinearHead
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.sentinel2.bands import BANDS, normalize
from tests.core.finetune.layouts import make_burn_scars, make_small_farms, make_south_sudan, write_tif
from tests.core.finetune.runs import build_model, save_model

CLASSES = tuple(HeadClass(value=n, name=f"class {n}", colour=(n, n, n)) for n in (1, 2, 3))


@pytest.mark.parametrize(("missing", "fill"), [("mean", 0.5), ("zero", 0.0)])
def test_an_encoder_without_bands_is_the_same_function(missing: Any, fill: float, tmp_path: Path) -> None:
    model = build_model()
    data = BurnScars(make_burn_scars(tmp_path))
    adapted = adapt_encoder(model, data, missing=missing)
    config = adapted.config.remote_sensing
    assert config.gsd == 30
    assert config.mean[BANDS.index("B8A")] == pytest.approx(2323.2451)
    assert config.mean[BANDS.index("B8")] == model.config.remote_sensing.mean[BANDS.index("B8")]
    present = [BANDS.index(band) for band in data.bands]
    images = torch.full((2, 10, 16, 24), fill)
    images[:, present] = torch.rand(2, 6, 16, 24)
    seen = images.clone()
    absent = [number for number in range(10) if number not in present]
    # Whatever a scene with all bands holds there, it is not looked at.
    seen[:, absent] = torch.rand(2, 4, 16, 24)
    expected = model.encode_remote_sensing(images)
    torch.testing.assert_close(adapted.encode_remote_sensing(seen), expected, atol=1e-5, rtol=1e-5)
    assert is_changed(model, adapted)


def test_an_encoder_that_fits_stays_what_it_was(tmp_path: Path) -> None:
    model = build_model()
    data = SouthSudan(make_south_sudan(tmp_path))
    assert not is_changed(model, adapt_encoder(model, data, own_statistics=False))
    assert is_changed(model, adapt_encoder(model, data))
    with pytest.raises(BadInputError, match="B8, which the model does not know"):
        few = build_model(remote_sensing={"bands": ["B2"], "mean": [1.0], "std": [1.0]})
        data.bands = ("B2", "B8")
        adapt_encoder(few, data)


def test_examples_are_scaled_by_the_encoder_with_gaps_at_the_mean(tmp_path: Path) -> None:
    data = BurnScars(make_burn_scars(tmp_path))
    encoder = adapt_encoder(build_model(), data).config.remote_sensing
    names = [Path(name).name for name in data.names("train")]
    split = "train" if any("SD00" in name for name in names) else "validation"
    examples = SceneExamples(data, split, encoder, tile=24, flip=True)
    index = next(n for n in range(len(examples)) if "SD00" in examples.name(n))
    whole = examples.example(index, None)
    assert whole["images"].shape == (1, 10, 48, 48)
    present = [BANDS.index(band) for band in data.bands]
    gap = whole["images"][0, present, :8, :8]
    assert (gap - 0.5).abs().max() < 1e-6
    assert (whole["images"][0, BANDS.index("B5")] == 0).all()
    assert (whole["target"][:8, :8] == IGNORED).all()
    raw = torch.from_numpy(data.read(split, index).dn[0])
    mean, std = torch.tensor(data.mean)[:, None, None], torch.tensor(data.std)[:, None, None]
    expected = ((raw - mean + 2 * std) / (4 * std)).clamp(0, 1)[:, 8:, 8:]
    torch.testing.assert_close(whole["images"][0, present, 8:, 8:], expected, atol=1e-5, rtol=1e-5)
    cropped = examples.example(index, np.random.default_rng(3))
    again = examples.example(index, np.random.default_rng(3))
    assert cropped["images"].shape == (1, 10, 24, 24)
    assert cropped["target"].shape == (24, 24)
    assert all(torch.equal(values, again[name]) for name, values in cropped.items())


def test_crops_hold_labels_where_they_can_and_small_images_are_continued() -> None:
    target = np.full((64, 64), IGNORED)
    target[:24, :24] = 1
    dn = np.arange(64 * 64, dtype=np.float32).reshape(1, 1, 64, 64)
    example = SceneExample(dn, np.ones((1, 64, 64), bool), target)
    found = [random_crop(example, 32, np.random.default_rng(seed)) for seed in range(20)]
    assert sum(bool((crop.target == 1).any()) for crop in found) >= 19
    small = random_crop(
        SceneExample(dn[..., :20, :30], np.ones((1, 20, 30), bool), target[:20, :30]),
        32,
        np.random.default_rng(0),
    )
    assert small.dn.shape == (1, 1, 32, 32)
    assert (small.target[:20, :24] == 1).all()
    assert (small.target[20:] == IGNORED).all()


def test_series_of_different_length_make_one_batch(tmp_path: Path) -> None:
    data = SouthSudan(make_south_sudan(tmp_path), 6)
    encoder = adapt_encoder(build_model(), data).config.remote_sensing
    examples = SceneExamples(data, "train", encoder, tile=32, flip=False)
    batch = examples.collate([examples.example(n, np.random.default_rng(n)) for n in (0, 1)])
    assert batch["images"].shape == (2, 6, 10, 32, 32)
    assert batch["days"].shape == (2, 6)
    assert batch["valid"][1, 4:].sum() == 0
    assert batch["valid"][0].all()


@pytest.mark.parametrize("kind", ["series_ltae", "series_linear"])
def test_padding_of_a_series_changes_nothing(kind: str, tmp_path: Path) -> None:
    data = SouthSudan(make_south_sudan(tmp_path), 6)
    task = SceneTask(
        SceneTaskConfig.parse(
            {
                "data": {"kind": "south_sudan", "folder": str(tmp_path)},
                "head": {"kind": kind, "settings": {"decoder": "linear"}},
            }
        ),
        data,
        build_model(),
        frozen=True,
    )
    task.module.eval()
    examples = task.examples("train")
    alone = examples.collate([examples.example(1, None)])
    padded = examples.collate([examples.example(1, None), examples.example(0, None)])
    with torch.no_grad():
        short = task.head.forward_tile(
            task.encoder, list(alone["images"].unbind(1)), alone["days"], alone["valid"]
        )
        long = task.head.forward_tile(
            task.encoder, list(padded["images"].unbind(1)), padded["days"], padded["valid"]
        )
    torch.testing.assert_close(short[0], long[0], atol=1e-5, rtol=1e-4)


def make_linear_head(dim: int) -> LinearHead:
    head = LinearHead(HeadConfig(embed_dim=dim), HeadMetadata(classes=CLASSES))
    torch.nn.init.normal_(head.weight)
    torch.nn.init.normal_(head.bias)
    return head.eval()


@torch.no_grad()
def test_one_tile_is_what_training_sees() -> None:
    model, head = build_model(), make_linear_head(16)
    images = torch.rand(1, 10, 24, 32)
    found = tiled_logits(head, model, images, tile=32, margin=8)
    torch.testing.assert_close(found, head.forward_tile(model, [images])[0], atol=1e-5, rtol=1e-4)


def test_tiles_are_those_of_gair_segment(tmp_path: Path) -> None:
    """What is measured at the end of a run is what `gair segment` does with the head."""
    encoder = save_model(tmp_path)
    model, head = build_model(), make_linear_head(16)
    generator = np.random.default_rng(0)
    dn = np.kron(generator.integers(300, 4000, (10, 8, 9)), np.ones((1, 8, 8))).astype(np.uint16)[:, :61, :70]
    path = write_tif(tmp_path / "scene.tif", dn)
    with rasterio.open(path, "r+") as file:
        file.descriptions = BANDS
    save_head(head, tmp_path / "head.safetensors", checkpoint.load(str(encoder)))
    request = SegmentRequest(
        scene=str(path),
        output=str(tmp_path / "classes.tif"),
        model=str(tmp_path / "head.safetensors"),
        tile_size=32,
        margin=8,
        device="cpu",
    )
    segment(request)
    with rasterio.open(tmp_path / "classes.tif") as file:
        expected = file.read(1)
    config = model.config.remote_sensing
    images = normalize(
        torch.from_numpy(dn.astype(np.float32)), config.mean, config.std, quantize=config.quantize
    )
    with torch.no_grad():
        logits = tiled_logits(head, model, images[None], tile=32, margin=8)
    assert logits.shape == (3, 61, 70)
    # A tie between two classes may fall either way.
    assert (logits.argmax(dim=0).numpy() + 1 == expected).mean() > 0.999


def test_metrics_are_those_of_torchmetrics_over_the_whole_split() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (4, 20, 20), generator=generator)
    predicted = torch.where(torch.rand(target.shape, generator=generator) < 0.7, target, (target + 1) % 3)
    target[:, :3] = IGNORED
    meter = ClassificationMeter(["a", "b", "c", "never"], torch.device("cpu"))
    for one in range(4):
        meter.update(predicted[one], target[one])
    found = meter.results()
    options: dict[str, Any] = {"num_classes": 3, "ignore_index": IGNORED}
    assert found.metrics["mean_iou"] == pytest.approx(
        float(multiclass_jaccard_index(predicted, target, average="macro", **options)), abs=1e-6
    )
    assert found.metrics["mean_f1"] == pytest.approx(
        float(multiclass_f1_score(predicted, target, average="macro", **options)), abs=1e-6
    )
    assert found.metrics["overall_accuracy"] == pytest.approx(
        float(multiclass_accuracy(predicted, target, average="micro", **options)), abs=1e-6
    )
    iou = multiclass_jaccard_index(predicted, target, average="none", **options)
    assert [found.class_metrics[name]["iou"] for name in "abc"] == pytest.approx(iou.tolist(), abs=1e-6)
    assert found.class_metrics["never"] == {"iou": 0, "f1": 0, "precision": 0, "recall": 0, "count": 0}
    assert np.array(found.confusion).sum() == 4 * 17 * 20


def test_burn_scars_from_files_to_a_head_that_segments(tmp_path: Path) -> None:
    """Six bands, 30 m, statistics of its own: the head brings an encoder that knows all of that."""
    folder = make_burn_scars(tmp_path / "data", training=9)
    model = save_model(tmp_path)
    task = {
        "data": {"kind": "burn_scars", "folder": str(folder)},
        "head": {"kind": "upernet", "settings": {"channels": 8}},
        "statistics": "dataset",
        "class_weights": "inverse_frequency",
    }
    outcome = finetune(
        FinetuneConfig.parse(
            {
                "model": str(model),
                "task": {"kind": "scenes", **task},
                "optimizer": {"peak_rate": 1e-2},
                "output": str(tmp_path / "run"),
                "epochs": 40,
                "batch_size": 4,
                "evaluate_every": 20,
                "workers": 0,
                "accelerator": "cpu",
            }
        ),
        show_progress=False,
    )
    assert outcome.test is not None
    # 40 % of the blocks are burnt: chance is 0.35. It came to 0.96.
    assert outcome.test.metrics["mean_iou"] > 0.85
    head, encoder = load_head(tmp_path / "run" / "head.safetensors")
    assert [one.name for one in head.classes] == ["not burnt", "burn scar"]
    assert encoder.config.remote_sensing.gsd == 30
    assert head.metadata.accuracy.data == "HLS Burn Scars, test split"


def test_south_sudan_from_files_to_a_head(tmp_path: Path) -> None:
    folder = make_south_sudan(tmp_path / "data")
    task = {
        "kind": "scenes",
        "data": {"kind": "south_sudan", "folder": str(folder)},
        "head": {"kind": "series_ltae", "settings": {"channels": 8}},
        "tile": 32,
    }
    outcome = finetune(
        FinetuneConfig.parse(
            {
                "model": str(save_model(tmp_path)),
                "mode": "full",
                "task": task,
                "output": str(tmp_path / "run"),
                "epochs": 2,
                "batch_size": 3,
                "workers": 0,
                "accelerator": "cpu",
            }
        ),
        show_progress=False,
    )
    assert outcome.test is not None
    target = SouthSudan(folder).target("test", 0)
    assert np.array(outcome.test.confusion).sum() == (target != IGNORED).sum()
    head, encoder = load_head(tmp_path / "run" / "head.safetensors")
    assert [one.name for one in head.classes] == ["sorghum", "maize", "rice", "groundnut"]
    assert encoder.config.remote_sensing.mean[0] == pytest.approx(2031.1692)


def test_small_farms_of_uneven_size_are_evaluated_whole(tmp_path: Path) -> None:
    folder = make_small_farms(tmp_path / "data", size=(40, 56))
    data = SmallFarms(folder)
    config = SceneTaskConfig.parse(
        {"data": {"kind": "small_farms", "folder": str(folder)}, "head": {"kind": "linear"}}
    )
    task = SceneTask(config, data, build_model(), frozen=True)
    examples = task.examples("test")
    with torch.no_grad():
        batches = (examples.collate([examples.example(n, None)]) for n in range(len(examples)))
        results = task.evaluate(batches)
    # Two images without the one pixel of each that has no data.
    assert np.array(results.confusion).sum() == 2 * (40 * 56 - 1)


def test_training_needs_no_rasterio() -> None:
    code = (
        "import sys\n"
        "for name in ('rasterio', 'pyproj', 'geopandas'): sys.modules[name] = None\n"
        "import gair_core.finetune.trainer, gair_core.finetune.tasks\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
