"""Change: exact cosine distances and a change head's classes, on the first date's grid."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.warp import Resampling, calculate_default_transform, reproject

from gair_core import checkpoint
from gair_core.errors import BadInputError, CancelledError
from gair_core.inference.change import ChangeRequest, ChangeResult, change
from gair_core.inference.request import Estimate
from gair_core.progress import Progress
from gair_core.sentinel2.bands import BANDS, MEAN, STD, normalize
from tests.core.inference import brightness, scenes


def run(before, after, output, progress=None, **options) -> np.ndarray:
    change(ChangeRequest(before=str(before), after=str(after), output=str(output), **options), progress)
    with rasterio.open(output) as dataset:
        return dataset.read(1)


def write(path, dn, crs="EPSG:32632", transform=scenes.PLACES["utm"][1], nodata=None):
    profile = {"driver": "GTiff", "count": 10, "height": dn.shape[1], "width": dn.shape[2], "dtype": dn.dtype}
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform, nodata=nodata) as dataset:
        dataset.write(dn)
        dataset.descriptions = BANDS
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def brightness_files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    model = brightness.save_model(folder / "encoder.safetensors")
    brightness.save_change_head(folder / "change.safetensors", model)
    brightness.save_bright_head(folder / "bright.safetensors", model)
    return {name: str(folder / f"{name}.safetensors") for name in ("encoder", "change", "bright")}


def test_the_distance_is_that_of_the_models_own_dense_embeddings_rim_included(tmp_path, out):
    dates = [scenes.textured(64, 48, seed) for seed in (0, 1)]
    paths = [write(tmp_path / f"{index}.tif", dn) for index, dn in enumerate(dates)]
    found = run(*paths, out / "a.tif")
    model = checkpoint.load("demo")
    dense = []
    for dn in dates:
        images = normalize(torch.from_numpy(dn.astype(np.float32)), MEAN, STD, quantize=False)[None]
        with torch.no_grad():
            dense.append(model.interpolate_dense(model.encode_remote_sensing(images), (64, 48))[0])
    expected = 1 - torch.nn.functional.cosine_similarity(*dense, dim=0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.std() > 1e-3


def test_the_same_scene_has_not_changed(tmp_path, out):
    scene = write(tmp_path / "scene.tif", scenes.textured(90, 70))
    assert np.abs(run(scene, scene, out / "a.tif")).max() < 1e-6


def moved(path, dn, crs, out_path, pixel):
    """The same ground on another grid, by GDAL, and larger than the original."""
    with rasterio.open(path) as dataset:
        transform, width, height = calculate_default_transform(
            dataset.crs, crs, dataset.width, dataset.height, *dataset.bounds, resolution=pixel
        )
        data = np.zeros((10, height, width), np.float32)
        reproject(
            dn.astype(np.float32),
            data,
            src_transform=dataset.transform,
            src_crs=dataset.crs,
            dst_transform=transform,
            dst_crs=crs,
            resampling=Resampling.bilinear,
        )
    return write(out_path, data.round().astype(np.uint16), crs, transform, nodata=0)


OTHER_GRIDS = {
    "degrees": ("EPSG:4326", 0.00009),
    "mercator": ("EPSG:3857", 15.4),
    "zone 33": ("EPSG:32633", 10),
}


@pytest.mark.parametrize("name", OTHER_GRIDS)
def test_what_became_bright_is_found_to_the_pixel_whatever_the_second_grid(
    name, tmp_path, out, brightness_files
):
    dark = brightness.scene_with_object((160, 136), slice(0, 0), slice(0, 0))
    bright = brightness.scene_with_object((160, 136), slice(40, 72), slice(24, 64))
    before = write(tmp_path / "before.tif", dark)
    after = moved(before, bright, OTHER_GRIDS[name][0], tmp_path / "after.tif", OTHER_GRIDS[name][1])
    found = run(before, after, out / "a.tif", model=brightness_files["change"], tile_size=96)
    rows, columns = np.nonzero(found == 2)
    edges = np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])
    # Resampled twice, an edge may move by a pixel.
    assert np.abs(edges - [40, 72, 24, 64]).max() <= 1
    with rasterio.open(before) as one, rasterio.open(out / "a.tif") as other:
        assert one.crs == other.crs
        assert other.transform.almost_equals(one.transform, 1e-9) or other.shape < one.shape
        assert other.colormap(1)[2] == (255, 0, 0, 255)
        assert json.loads(other.tags(1)["CLASS_NAMES"]) == {"1": "same", "2": "brighter"}
        assert other.dtypes == ("uint8",)
        assert other.nodata == 0
    distance = run(before, after, out / "b.tif", model=brightness_files["encoder"], tile_size=96)
    inside = np.zeros(distance.shape, bool)
    inside[42:70, 26:62] = True
    assert distance[inside & np.isfinite(distance)].min() > np.nanmax(distance[80:, 80:])


def test_only_the_overlap_is_written_and_edges_stay_aligned(tmp_path, out):
    dn = scenes.textured(120, 100)
    transform = scenes.PLACES["utm"][1]
    before = write(tmp_path / "before.tif", dn)
    shifted = transform * Affine.translation(30, 50)
    after = write(tmp_path / "after.tif", dn[:, 50:, 30:], transform=shifted)
    found = run(before, after, out / "a.tif")
    assert found.shape == (70, 70)
    assert np.isfinite(found).all()
    with rasterio.open(out / "a.tif") as dataset:
        assert dataset.transform.almost_equals(shifted, 1e-9)


def test_a_part_equals_the_same_pixels_of_the_whole(tmp_path, out):
    before = write(tmp_path / "before.tif", scenes.textured(220, 190))
    after = moved(before, scenes.textured(220, 190, 1), "EPSG:32633", tmp_path / "after.tif", 10)
    whole = run(before, after, out / "whole.tif", tile_size=96)
    transform = scenes.PLACES["utm"][1]
    (left, top), (right, bottom) = transform @ (77, 41), transform @ (150, 133)
    part = run(before, after, out / "part.tif", tile_size=96, extent=(left, bottom, right, top))
    np.testing.assert_allclose(part, whole[41:133, 77:150], atol=1e-5)
    assert part.shape == (92, 73)


def test_nodata_on_either_date_is_nodata(tmp_path, out, brightness_files):
    first, second = scenes.textured(96, 96), scenes.textured(96, 96, 1)
    first[:, 10:30, 10:30] = 0
    second[:, 50:60, 40:90] = 0
    before = write(tmp_path / "before.tif", first, nodata=0)
    after = write(tmp_path / "after.tif", second, nodata=0)
    expected = (first[0] == 0) | (second[0] == 0)
    progress = Progress()
    np.testing.assert_array_equal(np.isnan(run(before, after, out / "a.tif", progress)), expected)
    classes = run(before, after, out / "b.tif", model=brightness_files["change"])
    np.testing.assert_array_equal(classes == 0, expected)


def test_a_hole_in_one_date_is_no_change_around_it(tmp_path, out):
    dn = scenes.textured(96, 96)
    with_hole = dn.copy()
    with_hole[:, 30:61, 30:61] = 0
    before = write(tmp_path / "before.tif", dn, nodata=0)
    after = write(tmp_path / "after.tif", with_hole, nodata=0)
    found = run(before, after, out / "a.tif")
    assert np.isnan(found).sum() == 31 * 31
    assert np.nanmax(found) < 1e-6


def test_a_mask_of_the_second_date_alone(tmp_path, out):
    dn = scenes.textured(96, 96)
    scene = write(tmp_path / "scene.tif", dn)
    mask = np.zeros((1, 96, 96), np.uint8)
    mask[:, :20] = 1
    profile = {"driver": "GTiff", "count": 1, "height": 96, "width": 96, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "mask.tif", "w", **profile, crs="EPSG:32632", transform=scenes.PLACES["utm"][1]
    ) as dataset:
        dataset.write(mask)
    found = run(scene, scene, out / "a.tif", after_mask=str(tmp_path / "mask.tif"))
    np.testing.assert_array_equal(np.isnan(found), mask[0] == 1)


def test_two_real_dates(shared, out):
    folder = shared / "data/bitemporal_pair"
    paths = [folder / f"ssl4eo_0000200_L2A_{date}.tif" for date in ("20200604", "20200813")]
    request = ChangeRequest(before=str(paths[0]), after=str(paths[1]), output=str(out / "a.tif"))
    result = change(request)
    assert isinstance(result, ChangeResult)
    assert result.kind == "distance"
    assert result.valid_fraction == 1
    with rasterio.open(out / "a.tif") as dataset:
        found = dataset.read(1)
        assert dataset.shape == (264, 264)
        assert dataset.dtypes == ("float32",)
        assert dataset.tags()["GAIR_TASK"] == "change"
        assert "20200813" in dataset.tags()["GAIR_AFTER"]
    assert result.mean_distance == pytest.approx(found.mean(), rel=1e-4)
    np.testing.assert_allclose(run(paths[1], paths[0], out / "b.tif"), found, atol=1e-6)
    assert {path.name for path in out.iterdir()} == {"a.tif", "a.qml", "b.tif", "b.qml"}


def test_two_dates_of_one_series_by_their_band_numbers(shared, out):
    series = shared / "data/toulouse_series/2018_3A_Theia_Bouconne.tif"
    order = ("B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")
    april, may, november = (
        {name: 10 * date + index for index, name in enumerate(order, 1)} for date in (0, 1, 6)
    )
    same = run(series, series, out / "a.tif", bands=april)
    assert np.abs(same).max() < 1e-6
    spring = run(series, series, out / "b.tif", bands=april, after_bands=may)
    autumn = run(series, series, out / "c.tif", bands=april, after_bands=november)
    assert autumn.mean() > 1.2 * spring.mean() > 0


def test_dry_run(tmp_path, out):
    scene = write(tmp_path / "scene.tif", scenes.textured(200, 200))
    options = {"tile_size": 96, "margin": 12, "dry_run": True}
    request = ChangeRequest(before=str(scene), after=str(scene), output=str(out / "a.tif"), **options)
    estimate = change(request)
    assert isinstance(estimate, Estimate)
    assert estimate.tiles == 2 * 9
    assert estimate.bytes == 4 * 200 * 200
    assert not list(out.iterdir())


class Recorder(Progress):
    def __init__(self, cancel_at: float = 2.0) -> None:
        super().__init__()
        self.fractions: list[float] = []
        self.cancel_at = cancel_at

    def report(self, fraction: float, message: str = "") -> None:
        del message
        self.fractions.append(fraction)
        if fraction >= self.cancel_at:
            self.cancel()


def test_progress_never_falls_and_cancel_leaves_nothing(tmp_path, out):
    scene = write(tmp_path / "scene.tif", scenes.textured(300, 300))
    recorder = Recorder()
    run(scene, scene, tmp_path / "done.tif", recorder, tile_size=96)
    assert recorder.fractions == sorted(recorder.fractions)
    assert recorder.fractions[-1] == 1
    with pytest.raises(CancelledError):
        run(scene, scene, out / "a.tif", Recorder(0.4), tile_size=96)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extent": (0, 0, 1, 1)}, "does not meet the scene"),
        ({"model": "nonsense"}, "nonsense"),
        ({"after": "nowhere.tif"}, "does not exist"),
        ({"output": "a.png"}, "must end in .tif"),
        ({"output": "nowhere/a.tif"}, "does not exist"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(options, words, tmp_path, out):
    scene = write(tmp_path / "scene.tif", scenes.textured(64, 64))
    arguments = {"before": str(scene), "after": str(scene), "output": "a.tif", **options}
    arguments["output"] = str(out / arguments["output"])
    with pytest.raises(BadInputError, match=words):
        change(ChangeRequest(**arguments))
    assert not list(out.iterdir())


def test_scenes_that_do_not_overlap_are_named_with_their_places(shared, tmp_path, out):
    before = shared / "data/bitemporal_pair/ssl4eo_0000200_L2A_20200604.tif"
    after = shared / "data/laos_scene/majortom_199U_1099R_20200223_12b_10m.tif"
    with pytest.raises(BadInputError, match="do not overlap") as info:
        run(before, after, out / "a.tif")
    assert "longitude 73.29" in str(info.value)
    assert "longitude 103.70" in str(info.value)
    one = write(tmp_path / "one.tif", scenes.textured(64, 64))
    beside = scenes.PLACES["utm"][1] * Affine.translation(64, 0)
    other = write(tmp_path / "other.tif", scenes.textured(64, 64), transform=beside)
    with pytest.raises(BadInputError, match="do not overlap"):
        run(one, other, out / "a.tif")
    assert not list(out.iterdir())


def test_an_extent_that_only_one_date_covers_is_refused(tmp_path, out):
    transform = scenes.PLACES["utm"][1]
    before = write(tmp_path / "before.tif", scenes.textured(64, 128))
    after = write(tmp_path / "after.tif", scenes.textured(64, 64))
    (left, top), (right, bottom) = transform @ (80, 0), transform @ (120, 60)
    with pytest.raises(BadInputError, match="does not reach into the extent"):
        run(before, after, out / "a.tif", extent=(left, bottom, right, top))
    assert not list(out.iterdir())


@pytest.mark.parametrize("which", ["before.tif", "after.tif"])
def test_no_input_is_the_output(which, tmp_path):
    for name in ("before.tif", "after.tif"):
        write(tmp_path / name, scenes.textured(64, 64))
    content = (tmp_path / which).read_bytes()
    with pytest.raises(BadInputError):
        run(tmp_path / "before.tif", tmp_path / "after.tif", tmp_path / which)
    assert (tmp_path / which).read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"before.tif", "after.tif"}


def test_a_head_for_one_date_is_sent_to_segment(tmp_path, out, brightness_files):
    scene = write(tmp_path / "scene.tif", scenes.textured(64, 64))
    with pytest.raises(BadInputError, match="kind linear and looks at one date") as info:
        run(scene, scene, out / "a.tif", model=brightness_files["bright"])
    assert "gair segment" in info.value.hint
    assert not list(out.iterdir())
