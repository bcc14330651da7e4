"""Whole scenes through the engine: equal to the model's own dense NILI, to the pixel, whatever the extent."""

from __future__ import annotations

import json
import math

import numpy as np
import pyproj
import pytest
import rasterio
import torch

from gair_core import checkpoint
from gair_core.config import GAIRConfig, NILIConfig, RemoteSensingConfig
from gair_core.errors import BadInputError, CancelledError, CheckpointError, OutOfMemoryError
from gair_core.inference import embed as module
from gair_core.inference.embed import EmbedRequest, embed
from gair_core.inference.engine import MARGIN, Engine, readable_seconds, select_device
from gair_core.inference.models import load_model
from gair_core.inference.request import Estimate
from gair_core.inference.tiling import Axis
from gair_core.model import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.bands import MEAN, STD, normalize
from gair_core.sentinel2.scene import Scene
from tests.core.inference import scenes


def run(scene, output, **options) -> np.ndarray:
    embed(EmbedRequest(scene=str(scene), output=str(output), **options))
    with rasterio.open(output) as dataset:
        return dataset.read()


def dense_embedding(model: GAIR, dn: np.ndarray) -> np.ndarray:
    """The model's own dense NILI over a scene that is one tile."""
    images = normalize(torch.from_numpy(dn.astype(np.float32)), MEAN, STD, quantize=False)[None]
    with torch.no_grad():
        features = model.encode_remote_sensing(images)
        return model.interpolate_dense(features, dn.shape[1:])[0].numpy()


@pytest.fixture(scope="module")
def demo() -> GAIR:
    return checkpoint.load("demo")


def test_one_tile_equals_the_models_dense_nili_rim_included(demo, tmp_path):
    dn = scenes.textured(64, 48)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    found = run(scene, tmp_path / "all.tif", components="all", dtype="float32")
    np.testing.assert_allclose(found, dense_embedding(demo, dn), atol=1e-5)


def test_components_are_the_basis_applied_to_the_embedding(demo, tmp_path):
    dn = scenes.textured(64, 48)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    full = torch.from_numpy(dense_embedding(demo, dn)).permute(1, 2, 0)
    expected = demo.basis.project(full).permute(2, 0, 1).numpy()
    found = run(scene, tmp_path / "float.tif", components=5, dtype="float32")
    np.testing.assert_allclose(found, expected[:5], rtol=1e-6, atol=1e-5)
    codes = run(scene, tmp_path / "int8.tif", components=5)
    assert codes.dtype == np.int8
    step = demo.basis.scale[:5, None, None].numpy()
    assert np.abs(codes * step - np.clip(expected[:5], -127 * step, 127 * step)).max() <= 0.5001 * step.max()
    with rasterio.open(tmp_path / "int8.tif") as dataset:
        assert dataset.nodata == -128
        np.testing.assert_allclose(dataset.scales, demo.basis.scale[:5], rtol=1e-6)
        tags = dataset.tags()
        assert dataset.descriptions[0] == "component 1"
        assert dataset.overviews(1) == [] or dataset.overviews(1)[0] == 2
    basis = np.array(json.loads(tags["GAIR_BASIS"]))
    np.testing.assert_allclose(basis, demo.basis.components[:5], atol=1e-6)
    assert tags["GAIR_MODEL_FINGERPRINT"] == demo.checkpoint.fingerprint
    assert (tmp_path / "int8.qml").exists()


@pytest.mark.parametrize("place", scenes.PLACES)
@pytest.mark.parametrize("size", [(203, 150), (96, 96)])
def test_grids_coincide_with_the_input(place, size, tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(*size), place)
    run(scene, tmp_path / "out.tif", components=3)
    with rasterio.open(scene) as one, rasterio.open(tmp_path / "out.tif") as other:
        assert one.crs == other.crs
        assert one.shape == other.shape
        assert one.transform.almost_equals(other.transform, 1e-12)


@pytest.fixture(scope="module")
def pointwise(tmp_path_factory):
    """A model whose H copies the patch itself, so that an object's embedding stands where the object is."""
    torch.manual_seed(0)
    scene_config = RemoteSensingConfig(width=16, depth=1, num_heads=1)
    model = GAIR(GAIRConfig(embed_dim=16, remote_sensing=scene_config, street_view=None, location=None))
    with torch.no_grad():
        model.nili.layers[0].weight.zero_()
        model.nili.layers[0].weight[:, 4:-2:9] = torch.eye(16)
    path = tmp_path_factory.mktemp("model") / "pointwise.safetensors"
    checkpoint.save(model.eval(), path)
    return str(path)


@pytest.mark.parametrize("place", scenes.PLACES)
@pytest.mark.parametrize("patch", [(1, 1), (3, 11), (14, 5)])
def test_a_bright_object_is_found_to_the_pixel(place, patch, pointwise, tmp_path):
    dark = np.full((10, 160, 136), 1500, np.uint16)
    scenes.write(tmp_path / "dark.tif", dark, place)
    with Scene.open(tmp_path / "dark.tif") as scene:
        # The object fills one patch of the model's grid, wherever that grid's resolution puts it.
        row, column = (8 * index for index in patch)
        between = ~scene.native.transform @ scene.grid.transform
        left, top = between @ (column, row)
        right, bottom = between @ (column + 8, row + 8)
        x, y = scene.grid.transform @ (column + 4, row + 4)
        size = math.hypot(between.a, between.e)
    bright = dark.copy()
    bright[:, round(top) : round(bottom), round(left) : round(right)] = 6000
    scenes.write(tmp_path / "bright.tif", bright, place)
    options = {"model": pointwise, "components": "all", "dtype": "float32", "tile_size": 96}
    before = run(tmp_path / "dark.tif", tmp_path / "before.tif", **options)
    after = run(tmp_path / "bright.tif", tmp_path / "after.tif", **options)
    change = np.linalg.norm(after - before, axis=0)
    # The centre of a patch lies between pixels: take the middle of all that are about as changed.
    rows, columns = np.nonzero(change > 0.97 * change.max())
    with rasterio.open(tmp_path / "after.tif") as dataset:
        found = dataset.transform @ (columns.mean() + 0.5, rows.mean() + 0.5)
        to_pixels = ~dataset.transform
        distance = np.subtract(to_pixels @ found, to_pixels @ (x, y))
        to_lonlat = pyproj.Transformer.from_crs(dataset.crs, "EPSG:4326", always_xy=True)
    assert np.abs(distance).max() <= 1.0 * size
    _, _, metres = pyproj.Geod(ellps="WGS84").inv(*to_lonlat.transform(*found), *to_lonlat.transform(x, y))
    assert metres <= 15


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_part_equals_the_same_pixels_of_the_whole(dtype, tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(330, 290))
    options = {"dtype": dtype, "tile_size": 96, "margin": 12, "components": 6}
    whole = run(scene, tmp_path / "whole.tif", **options)
    transform = scenes.PLACES["utm"][1]
    for row, col, height, width in [(0, 0, 50, 40), (101, 77, 90, 131), (329, 289, 1, 1), (160, 0, 170, 290)]:
        left, top = transform @ (col, row)
        right, bottom = transform @ (col + width, row + height)
        part = run(scene, tmp_path / "part.tif", extent=(left, bottom, right, top), **options)
        expected = whole[:, row : row + height, col : col + width]
        np.testing.assert_array_equal(part, expected)


def test_the_basis_of_a_scene_does_not_depend_on_the_extent(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(250, 250))
    whole = run(scene, tmp_path / "whole.tif", basis="scene", components=4)
    left, top = scenes.PLACES["utm"][1] @ (100, 120)
    part = run(
        scene, tmp_path / "part.tif", basis="scene", components=4, extent=(left, top - 500, left + 600, top)
    )
    np.testing.assert_array_equal(part, whole[:, 120:170, 100:160])


def seam(lattice: np.ndarray, borders: list[int]) -> float:
    """Mean absolute step across the columns where tiles begin or end, over that elsewhere."""
    step = np.abs(np.diff(lattice.astype(float), axis=2)).mean(axis=(0, 1))
    at = np.zeros(len(step), bool)
    at[[border - 1 for border in borders if 0 < border <= len(step)]] = True
    return step[at].mean() / step[~at].mean()


def test_blending_leaves_no_seams_and_without_overlap_there_are(shared, tmp_path):
    scene = shared / "data/laos_scene/majortom_199U_1099R_20200223_12b_10m.tif"

    def lattice(margin: int) -> tuple[np.ndarray, Axis]:
        with Scene.open(scene) as opened:
            axis = Engine(load_model("demo"), "cpu", margin=margin).plan(opened).columns
        output = tmp_path / f"{margin}.tif"
        values = run(scene, output, margin=margin, resolution="lattice", dtype="float32")
        # The scene's own edge is a rim of another kind: look between it.
        return values[:, 2:-2, 2:-2], axis

    blended, axis = lattice(MARGIN)
    starts = [start - 2 for start in axis.starts[1:]]
    ends = [start + axis.tile - 2 for start in axis.starts[:-1]]
    overlaps = {column for start, end in zip(starts, ends, strict=True) for column in range(start, end + 1)}
    for borders in (starts, ends, sorted(overlaps)):
        assert seam(blended, borders) <= 1.1
    bare, axis = lattice(0)
    assert seam(bare, [start - 2 for start in axis.starts[1:]]) > 1.1


def test_nodata_stays_nodata_and_its_value_does_not_matter(tmp_path):
    dn = scenes.textured(120, 110)
    dn[:, 30:70, 20:60] = 0
    found = run(scenes.write(tmp_path / "zero.tif", dn, nodata=0), tmp_path / "a.tif", dtype="float32")
    hole = np.isnan(found).all(axis=0)
    assert (np.isnan(found).any(axis=0) == hole).all()
    assert hole[30:70, 20:60].all()
    assert not hole[:30].any()
    dn[:, 30:70, 20:60] = 65535
    other = run(scenes.write(tmp_path / "high.tif", dn, nodata=65535), tmp_path / "b.tif", dtype="float32")
    np.testing.assert_array_equal(found, other)


@pytest.mark.parametrize("size", [(3, 5), (8, 8), (42, 24), (193, 9)])
def test_scenes_smaller_than_a_tile_work(size, tmp_path):
    found = run(
        scenes.write(tmp_path / "small.tif", scenes.textured(*size)), tmp_path / "out.tif", dtype="float32"
    )
    assert found.shape == (16, *size)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("resolution", [5.0, 30.0, "lattice"])
def test_resolutions(resolution, demo, tmp_path):
    dn = scenes.textured(96, 60)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    found = run(scene, tmp_path / "out.tif", resolution=resolution, components="all", dtype="float32")
    padded = np.pad(dn, ((0, 0), (0, 0), (0, 4)), mode="reflect")
    images = normalize(torch.from_numpy(padded.astype(np.float32)), MEAN, STD, quantize=False)[None]
    with torch.no_grad():
        features = demo.encode_remote_sensing(images)
        pixel = {"lattice": 8.0}.get(resolution, float(resolution) / 10 if resolution != "lattice" else 8)
        size = found.shape[1:]
        v, u = ((np.arange(n) + 0.5) * pixel / whole for n, whole in zip(size, (96, 64), strict=True))
        uv = torch.tensor(np.stack(np.meshgrid(u, v), axis=-1).reshape(1, -1, 2)).float()
        expected = demo.interpolate(features, uv)[0].mT.reshape(-1, *size).numpy()
    assert size == {5.0: (192, 120), 30.0: (32, 20), "lattice": (12, 8)}[resolution]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.transform.a == pytest.approx(10 * pixel)


def test_a_model_of_another_resolution_gets_resampled_pixels(tmp_path):
    config = GAIRConfig(
        embed_dim=16,
        remote_sensing=RemoteSensingConfig(width=16, depth=1, num_heads=1, gsd=20),
        street_view=None,
        location=None,
    )
    torch.manual_seed(0)
    model = GAIR(config).eval()
    checkpoint.save(model, tmp_path / "twenty.safetensors")
    dn = np.repeat(np.repeat(scenes.textured(40, 32), 2, axis=1), 2, axis=2)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    options = {"components": "all", "dtype": "float32", "model": str(tmp_path / "twenty.safetensors")}
    found = run(scene, tmp_path / "out.tif", **options)
    images = normalize(torch.from_numpy(dn[:, ::2, ::2].astype(np.float32)), MEAN, STD, quantize=False)[None]
    with torch.no_grad():
        expected = model.interpolate_dense(model.encode_remote_sensing(images), (80, 64))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_laos_bands_equal_the_stacked_scene(shared, tmp_path):
    folder = next((shared / "data/laos_bands").iterdir())
    stacked = shared / "data/laos_scene/majortom_199U_1099R_20200223_12b_10m.tif"
    extent = (366000, 1980000, 368000, 1982000)
    one = run(folder, tmp_path / "bands.tif", extent=extent)
    other = run(stacked, tmp_path / "stack.tif", extent=extent)
    np.testing.assert_array_equal(one, other)


class Recorder(Progress):
    def __init__(self, cancel_at: float = 2.0) -> None:
        super().__init__()
        self.fractions: list[float] = []
        self.cancel_at = cancel_at

    def report(self, fraction: float, message: str = "") -> None:  # noqa: ARG002
        self.fractions.append(fraction)
        if fraction >= self.cancel_at:
            self.cancel()


def test_progress_rises_to_one_and_cancel_leaves_nothing(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(300, 300))
    folder = tmp_path / "out"
    folder.mkdir()
    recorder = Recorder()
    embed(EmbedRequest(scene=str(scene), output=str(folder / "a.tif"), tile_size=96), recorder)
    assert recorder.fractions == sorted(recorder.fractions)
    assert recorder.fractions[-1] == 1
    with pytest.raises(CancelledError):
        embed(
            EmbedRequest(scene=str(scene), output=str(folder / "b.tif"), tile_size=96),
            Recorder(cancel_at=0.3),
        )
    assert {path.name for path in folder.iterdir()} == {"a.tif", "a.qml"}


def test_a_dry_run_writes_nothing(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(300, 300))
    estimate = embed(
        EmbedRequest(
            scene=str(scene), output=str(tmp_path / "out.tif"), tile_size=96, margin=12, dry_run=True
        )
    )
    assert isinstance(estimate, Estimate)
    assert estimate.tiles == 25
    assert estimate.bytes == 300 * 300 * 16
    assert estimate.seconds > 0
    assert "25 tiles" in estimate.text()
    assert not (tmp_path / "out.tif").exists()


def test_out_of_memory_halves_the_batch(monkeypatch, tmp_path):
    scene_path = scenes.write(tmp_path / "scene.tif", scenes.textured(200, 400))
    engine = Engine(load_model("demo"), "cpu", tile_size=96, batch_size=5)
    with Scene.open(scene_path) as scene:
        plan, lattice = engine.plan(scene), engine.model.localizer.lattice
        expected = torch.cat([strip.values for strip in engine.strips(scene, plan, lattice)], dim=1)
        encode, limit = engine._encode, 2

        def scarce(images, *arguments):
            if len(images) > limit:
                raise torch.OutOfMemoryError("no memory")
            return encode(images, *arguments)

        monkeypatch.setattr(engine, "_encode", scarce)
        found = torch.cat([strip.values for strip in engine.strips(scene, plan, lattice)], dim=1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert engine.batch_size == 2
        limit = 0
        with pytest.raises(OutOfMemoryError, match="too little memory for one tile of 96 pixels"):
            list(engine.strips(scene, plan, lattice))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"components": "all"}, "cannot be written as int8"),
        ({"components": 100}, r"has \d+ components, 100 were asked for"),
        ({"tile_size": 100}, "multiple of 8"),
        ({"tile_size": 32}, "nothing left in their middle"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"extent": (0, 0, 1, 1)}, "does not meet the scene"),
        ({"extent": (5, 5, 5, 9)}, "empty"),
        ({"model": "nonsense"}, "nonsense"),
        ({"basis": "nonsense"}, "nonsense"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(options, words, tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 64))
    (tmp_path / "out").mkdir()
    with pytest.raises((BadInputError, CheckpointError), match=words):
        run(scene, tmp_path / "out" / "out.tif", **options)
    assert not list((tmp_path / "out").iterdir())


def test_the_input_is_never_the_output(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 64))
    before = scene.read_bytes()
    with pytest.raises(BadInputError):
        run(scene, scene)
    assert scene.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"scene.tif"}


def test_a_model_without_scenes_or_basis_says_so(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 64))
    config = GAIRConfig.preset("tiny")
    checkpoint.save(GAIR(config), tmp_path / "bare.safetensors")
    with pytest.raises(BadInputError, match="no PCA basis"):
        run(scene, tmp_path / "out.tif", model=str(tmp_path / "bare.safetensors"))
    blind = GAIR(config.model_copy(update={"remote_sensing": None, "nili": None}))
    checkpoint.save(blind, tmp_path / "blind.safetensors")
    with pytest.raises(CheckpointError, match="no part 'remote_sensing'"):
        run(scene, tmp_path / "out.tif", model=str(tmp_path / "blind.safetensors"))


def test_a_model_without_nili_is_interpolated_and_hidden_layers_are_refused(tmp_path):
    torch.manual_seed(0)
    scene_config = RemoteSensingConfig(width=16, depth=1, num_heads=1)
    config = GAIRConfig(embed_dim=16, remote_sensing=scene_config, street_view=None, location=None)
    dn = scenes.textured(64, 48)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    path = tmp_path / "model.safetensors"
    options = {"model": str(path), "components": "all", "dtype": "float32"}
    plain = GAIR(config.model_copy(update={"nili": None, "localizer": "bilinear"})).eval()
    checkpoint.save(plain, path)
    found = run(scene, tmp_path / "out.tif", **options)
    # In the scene's half-patch rim the engine clamps, where the authors' bilinear localizer fades to 0.
    expected = dense_embedding(plain, dn)
    np.testing.assert_allclose(found[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], atol=1e-5)
    checkpoint.save(GAIR(config.model_copy(update={"nili": NILIConfig(hidden=(8,))})), path)
    with pytest.raises(BadInputError, match="nili with hidden layers"):
        run(scene, tmp_path / "refused.tif", **options)
    assert not (tmp_path / "refused.tif").exists()


def test_paths_with_spaces_and_letters(tmp_path):
    folder = tmp_path / "Straße mit Lücken 東京"
    folder.mkdir()
    scene = scenes.write(folder / "Szene 1.tif", scenes.textured(40, 40))
    assert run(scene, folder / "Ergebnis é.tif").shape == (16, 40, 40)


def test_names_of_devices_and_durations():
    assert select_device("cpu").type == "cpu"
    assert [readable_seconds(s) for s in (4.4, 200, 7500)] == ["4 s", "3 min 20 s", "2 h 05 min"]
    assert module.TASK.name == "embed"
