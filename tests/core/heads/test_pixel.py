"""The pixel head: its features to the last bit for any extent, its file, and the maps that it makes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from gair_core import checkpoint
from gair_core.errors import CheckpointError
from gair_core.geo.grid import Window
from gair_core.head_checkpoint import load_head, save_head
from gair_core.heads import HeadClass, HeadMetadata
from gair_core.heads.pixel import PixelLinearConfig, PixelLinearHead
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.inference import lattice, pixel_bands
from gair_core.inference.pixel_bands import PixelBands, feature_grid, features_at, read_features
from gair_core.inference.request import Estimate
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.sentinel2.bands import BANDS
from gair_core.sentinel2.scene import Scene
from tests.core.inference import brightness, scenes

CLASSES = tuple(
    HeadClass(value=value, name=name, colour=(value, 0, 0))
    for value, name in ((2, "one"), (5, "two"), (9, "c"))
)


def random_head(features: PixelFeatures, embed_dim: int = 16, seed: int = 0) -> PixelLinearHead:
    generator = torch.Generator().manual_seed(seed)
    head = PixelLinearHead(
        PixelLinearConfig(embed_dim=embed_dim, pixels=features), HeadMetadata(title="pixels", classes=CLASSES)
    )
    with torch.no_grad():
        for tensor in head.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        head.weight.mul_(0.2)
        head.band_mean.fill_(1800)
        head.band_scale.fill_(400)
    return head.eval()


@pytest.fixture(scope="module")
def head_file(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("heads")
    model = brightness.save_model(folder / "encoder.safetensors")
    save_head(random_head(PixelFeatures()), folder / "pixels.safetensors", model)
    return str(folder / "pixels.safetensors")


def with_gaps(height: int, width: int, seed: int = 0) -> np.ndarray:
    dn = scenes.textured(height, width, seed)
    rng = np.random.default_rng(seed)
    dn[:, rng.random((height, width)) < 0.2] = 0
    dn[:, 20:31, 10:24] = 0
    return dn


def naive(dn: np.ndarray, valid: np.ndarray, windows: tuple[int, ...]) -> np.ndarray:
    """The definition, pixel by pixel."""
    _, height, width = dn.shape
    result = np.zeros((len(dn) * (1 + len(windows)), height, width))
    for y in range(height):
        for x in range(width):
            parts = [dn[:, y, x]]
            for side in windows:
                half = side // 2
                box = np.s_[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
                good = valid[box]
                values = dn[(slice(None), *box)][:, good]
                parts.append(values.mean(axis=1) if good.any() else np.zeros(len(dn)))
            result[:, y, x] = np.concatenate(parts)
    return result


def test_features_are_bands_and_means_of_what_is_valid_and_inside(tmp_path):
    dn = with_gaps(40, 33)
    features = PixelFeatures(windows=(3, 7))
    with Scene.open(scenes.write(tmp_path / "scene.tif", dn, nodata=0)) as scene:
        found, valid = read_features(scene, scene.native, np.arange(40), np.arange(33), features)
    np.testing.assert_array_equal(valid, dn.any(axis=0))
    assert found.shape == (features.count, 40, 33)
    np.testing.assert_allclose(found, naive(dn.astype(float), valid, (3, 7)), rtol=1e-6)


@pytest.mark.parametrize("place", scenes.PLACES)
@pytest.mark.parametrize("resolution", [None, 4.0, 25.0])
def test_a_part_equals_the_whole_to_the_last_bit(place, resolution, tmp_path, monkeypatch):
    features = PixelFeatures()
    with Scene.open(scenes.write(tmp_path / "scene.tif", with_gaps(50, 61), place, nodata=0)) as scene:
        output = scene.native if resolution is None else scene.native.resampled(resolution)
        whole = PixelBands.of(scene, features, output, output.full_window).strip(0, output.height)
        window = Window(output.height // 3, output.width // 4, output.height // 2, output.width // 2)
        monkeypatch.setattr(pixel_bands, "_STEP", 1)
        part = PixelBands.of(scene, features, output, window)
        strips = [part.strip(row, min(3, window.height - row)) for row in range(0, window.height, 3)]
    rows, columns = slice(window.row, window.row_stop), slice(window.col, window.col_stop)
    found = torch.cat([strip.values for strip in strips], dim=1)
    np.testing.assert_array_equal(found.numpy(), whole.values[:, rows, columns].numpy())
    valid = np.concatenate([strip.valid for strip in strips])
    np.testing.assert_array_equal(valid, whole.valid[rows, columns])


def test_single_pixels_have_the_features_of_the_raster(tmp_path, monkeypatch):
    features = PixelFeatures()
    monkeypatch.setattr(pixel_bands, "_BLOCK", 16)
    rng = np.random.default_rng(0)
    row, column = rng.integers(0, 50, 200), rng.integers(0, 61, 200)
    with Scene.open(scenes.write(tmp_path / "scene.tif", with_gaps(50, 61), nodata=0)) as scene:
        whole = PixelBands.of(scene, features, scene.native, scene.native.full_window).strip(0, 50)
        found, valid = features_at(scene, scene.native, row, column, features)
    np.testing.assert_array_equal(found, whole.values[:, row, column].numpy().T)
    np.testing.assert_array_equal(valid, whole.valid[row, column])


def test_a_scene_of_other_pixels_is_brought_to_those_of_the_training(tmp_path):
    with Scene.open(scenes.write(tmp_path / "scene.tif", scenes.textured(48, 48))) as scene:
        assert feature_grid(scene, PixelFeatures(gsd=10)) == scene.native
        assert feature_grid(scene, PixelFeatures(gsd=8)) == scene.native
        coarse = feature_grid(scene, PixelFeatures(gsd=20))
        assert (coarse.width, coarse.height) == (24, 24)
        found, _ = read_features(scene, coarse, np.arange(24), np.arange(24), PixelFeatures(gsd=20))
        dn, _ = scene.read_native(scene.native.full_window)
    np.testing.assert_allclose(found[:10], dn.reshape(10, 24, 2, 24, 2).mean(axis=(2, 4)), rtol=1e-5)


@pytest.mark.parametrize("windows", [(2,), (1,), (5, 3), (3, 3)])
def test_impossible_windows_are_refused(windows):
    with pytest.raises(ValueError, match="odd"):
        PixelFeatures(windows=windows)


def test_no_windows_are_the_bands_alone():
    features = PixelFeatures(windows=())
    assert (features.count, features.margin) == (len(BANDS), 0)


def test_a_head_comes_back_from_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("GAIR_MODELS", str(tmp_path))
    model = brightness.save_model(tmp_path / "encoder.safetensors")
    head = random_head(PixelFeatures(windows=(3, 5, 9), gsd=12.5))
    save_head(head, tmp_path / "pixels.safetensors", model)
    found, _ = load_head(tmp_path / "pixels.safetensors")
    assert isinstance(found, PixelLinearHead)
    assert found.pixel_features == head.pixel_features
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_file_with_impossible_windows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GAIR_MODELS", str(tmp_path))
    model = brightness.save_model(tmp_path / "encoder.safetensors")
    original = checkpoint.write_tensors

    def write(path, tensors, kind, entry, **options):
        broken = {**entry, "config": {**entry["config"], "pixels": {"windows": [4], "gsd": 10.0}}}
        return original(path, tensors, kind, broken, **options)

    monkeypatch.setattr(checkpoint, "write_tensors", write)
    save_head(random_head(PixelFeatures()), tmp_path / "pixels.safetensors", model)
    with pytest.raises(CheckpointError, match="odd"):
        load_head(tmp_path / "pixels.safetensors")


# --- segmenting -----------------------------------------------------------------------------------------


def run(scene, output, head_file, **options) -> tuple[np.ndarray, np.ndarray]:
    percent = output.with_name(f"{output.stem}_percent.tif")
    request = {"scene": str(scene), "output": str(output), "model": head_file, "confidence": str(percent)}
    segment(SegmentRequest(**request, **options))
    with rasterio.open(output) as classes, rasterio.open(percent) as confidence:
        return classes.read(1), confidence.read(1)


def test_the_map_is_the_classifier_at_every_pixel(tmp_path, head_file):
    dn = with_gaps(48, 56)
    scene = scenes.write(tmp_path / "scene.tif", dn, nodata=0)
    classes, percent = run(scene, tmp_path / "a.tif", head_file, polygons=str(tmp_path / "a.gpkg"))
    valid = dn.any(axis=0)
    np.testing.assert_array_equal(classes != 0, valid)
    np.testing.assert_array_equal(percent == 255, ~valid)
    assert set(np.unique(classes[valid])) == {2, 5, 9}
    head, model = load_head(head_file)
    x = torch.from_numpy(naive(dn.astype(float), valid, (3, 5)).astype(np.float32))
    assert isinstance(head, PixelLinearHead)
    with torch.no_grad():
        alone = head.logits([torch.zeros(3, 48, 56), x])
        # What the embedding adds is a linear head, which has tests of its own.
        without = random_head(PixelFeatures())
        without.weight.zero_()
    save_head(without, tmp_path / "bands.safetensors", model)
    (tmp_path / "encoder.safetensors").write_bytes(checkpoint_of(head_file))
    bands_only, _ = run(scene, tmp_path / "b.tif", str(tmp_path / "bands.safetensors"))
    expected = np.array([2, 5, 9])[alone.argmax(dim=0).numpy()]
    top = alone.topk(2, dim=0).values
    clear = valid & ((top[0] - top[1]) > 1e-3).numpy()
    np.testing.assert_array_equal(bands_only[clear], expected[clear])
    assert (classes[valid] != bands_only[valid]).any()


def checkpoint_of(head_file: str) -> bytes:
    return Path(head_file).with_name("encoder.safetensors").read_bytes()


@pytest.mark.parametrize("resolution", [None, 25.0, "lattice"])
def test_a_map_does_not_depend_on_the_extent_or_the_strips(resolution, tmp_path, head_file, monkeypatch):
    scene = scenes.write(tmp_path / "scene.tif", with_gaps(136, 120), nodata=0)
    options = {"resolution": resolution, "tile_size": 64, "margin": 8}
    classes, percent = run(scene, tmp_path / "whole.tif", head_file, **options)
    with rasterio.open(tmp_path / "whole.tif") as dataset:
        transform = dataset.transform
    monkeypatch.setattr(pixel_bands, "_STEP", 700)
    monkeypatch.setattr(lattice.PixelSampler, "_STEP", 500)
    part, part_percent = run(
        scene, tmp_path / "part.tif", head_file, extent=(450310.0, 5498900.0, 450980.0, 5499610.0), **options
    )
    with rasterio.open(tmp_path / "part.tif") as dataset:
        left, top = ~transform * (dataset.transform.c, dataset.transform.f)
    rows, columns = (
        slice(round(start), round(start) + size) for start, size in zip((top, left), part.shape, strict=True)
    )
    np.testing.assert_array_equal(part, classes[rows, columns])
    np.testing.assert_array_equal(part_percent, percent[rows, columns])


def test_a_coarser_map_has_the_classes_at_the_centres_of_its_pixels(tmp_path, head_file):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(60, 90))
    fine, _ = run(scene, tmp_path / "fine.tif", head_file)
    coarse, _ = run(scene, tmp_path / "coarse.tif", head_file, resolution=30)
    np.testing.assert_array_equal(coarse, fine[1::3, 1::3])


def test_a_dry_run_reads_no_features_and_writes_nothing(tmp_path, head_file):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(60, 90))
    found = segment(
        SegmentRequest(scene=str(scene), output=str(tmp_path / "a.tif"), model=head_file, dry_run=True)
    )
    assert isinstance(found, Estimate)
    assert not (tmp_path / "a.tif").exists()


def test_the_kind_in_the_file_is_its_name(head_file):
    entry = checkpoint.read_entry(Path(head_file))
    assert entry["head_kind"] == "pixel_linear"
    assert json.dumps(entry["config"])
