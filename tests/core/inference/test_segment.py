"""Class rasters, confidence and polygons: right to the pixel, for any extent, together or not at all."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import torch
from defusedxml import ElementTree
from pyogrio.errors import DataSourceError

from gair_core import checkpoint
from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError, CancelledError
from gair_core.head_checkpoint import save_head
from gair_core.heads import HeadClass, HeadConfig, HeadMetadata, LinearHead
from gair_core.inference import outputs
from gair_core.inference import segment as module
from gair_core.inference.request import Estimate
from gair_core.inference.segment import SegmentRequest, SegmentResult, confidence_percent, segment
from gair_core.model import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.bands import BANDS, MEAN, STD, normalize
from gair_core.sentinel2.scene import Scene
from tests.core.inference import brightness, scenes


def run(scene, output, progress=None, **options) -> np.ndarray:
    segment(SegmentRequest(scene=str(scene), output=str(output), **options), progress)
    with rasterio.open(output) as dataset:
        return dataset.read(1)


@pytest.fixture(scope="module")
def bright_head(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("heads")
    model = brightness.save_model(folder / "encoder.safetensors")
    brightness.save_bright_head(folder / "bright.safetensors", model)
    return str(folder / "bright.safetensors")


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def mixed_head(tmp_path) -> tuple[str, LinearHead]:
    """A head of the demo whose classes are random mixtures of its components: each appears somewhere."""
    model = checkpoint.load("demo")
    classes = tuple(HeadClass(value=n, name=f"mixture {n}", colour=(n, n, n)) for n in range(1, 8))
    head = LinearHead(HeadConfig(embed_dim=model.config.embed_dim), HeadMetadata(classes=classes))
    mixture = torch.randn(7, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        head.weight.copy_(mixture @ (model.basis.components / model.basis.scale[:, None]) / 127)
        head.bias.copy_(-head.weight @ model.basis.mean)
    save_head(head, tmp_path / "mixed.safetensors", model)
    return str(tmp_path / "mixed.safetensors"), head


def test_classes_and_confidence_are_those_of_the_models_own_dense_embedding(tmp_path, out, mixed_head):
    dn = scenes.textured(64, 48)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    path, head = mixed_head
    found = run(scene, out / "a.tif", model=path, confidence=str(out / "b.tif"))
    assert len(np.unique(found)) > 2
    model = checkpoint.load("demo")
    images = normalize(torch.from_numpy(dn.astype(np.float32)), MEAN, STD, quantize=False)[None]
    with torch.no_grad():
        z = model.interpolate_dense(model.encode_remote_sensing(images), (64, 48))[0]
        logits = torch.einsum("kd,dyx->kyx", head.weight, z) + head.bias[:, None, None]
    top = logits.topk(2, dim=0).values
    clear = ((top[0] - top[1]) > 1e-3).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], (logits.argmax(dim=0).numpy() + 1)[clear])
    with rasterio.open(out / "b.tif") as dataset:
        percent = dataset.read(1).astype(float)
        assert dataset.nodata == 255
        assert dataset.descriptions == ("confidence (percent)",)
    expected = 100 * logits.softmax(dim=0).amax(dim=0).numpy()
    assert np.abs(percent - expected).max() <= 0.51


def test_names_colours_style_and_tags(tmp_path, out, bright_head):
    dn = brightness.scene_with_object((64, 64), slice(16, 40), slice(8, 32))
    result = segment(
        SegmentRequest(
            scene=str(scenes.write(tmp_path / "scene.tif", dn)), output=str(out / "a.tif"), model=bright_head
        )
    )
    assert isinstance(result, SegmentResult)
    assert list(result.pixels) == ["dark ground", 'bright & "wide"']
    assert sum(result.pixels.values()) == 64 * 64
    with rasterio.open(out / "a.tif") as dataset:
        assert dataset.dtypes == ("uint8",)
        assert dataset.nodata == 0
        assert dataset.colormap(1)[3] == (10, 20, 30, 255)
        assert dataset.colormap(1)[7] == (250, 240, 10, 255)
        assert json.loads(dataset.tags(1)["CLASS_NAMES"]) == {"3": "dark ground", "7": 'bright & "wide"'}
        found, counts = np.unique(dataset.read(1), return_counts=True)
        tags = dataset.tags()
    assert found.tolist() == [3, 7]
    assert counts.tolist() == list(result.pixels.values())
    assert tags["GAIR_TASK"] == "segment"
    assert tags["GAIR_HEAD"] == "brightness (bright)"
    assert "/" not in tags["GAIR_OPTIONS"]
    entries = ElementTree.fromstring((out / "a.qml").read_text().split("\n", 1)[1]).findall(".//paletteEntry")
    assert [(one.get("value"), one.get("label"), one.get("color")) for one in entries] == [
        ("3", "dark ground", "#0a141e"),
        ("7", 'bright & "wide"', "#faf00a"),
    ]
    assert names(out) == {"a.tif", "a.qml"}


@pytest.mark.parametrize("place", scenes.PLACES)
def test_a_bright_object_is_found_to_the_pixel(place, tmp_path, out, bright_head):
    scenes.write(tmp_path / "dark.tif", np.full((10, 160, 136), brightness.DARK, np.uint16), place)
    with Scene.open(tmp_path / "dark.tif") as scene:
        between = ~scene.native.transform @ scene.grid.transform
    # Whole patches of the model's grid, wherever that puts them on the scene's own.
    left, top = (round(value) for value in between @ (3 * 8, 5 * 8))
    right, bottom = (round(value) for value in between @ (8 * 8, 9 * 8))
    dn = brightness.scene_with_object((160, 136), slice(top, bottom), slice(left, right))
    scene = scenes.write(tmp_path / "scene.tif", dn, place)
    found = run(scene, out / "a.tif", model=bright_head, polygons=str(out / "b.gpkg"), tile_size=96)
    rows, columns = np.nonzero(found == 7)
    edges = np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])
    # In metres the patches coincide with whole pixels; elsewhere the resampled edge may fall on the next one.
    tolerance = 0 if place in ("utm", "rotated") else 1
    assert np.abs(edges - [top, bottom, left, right]).max() <= tolerance
    with rasterio.open(scene) as one, rasterio.open(out / "a.tif") as other:
        assert one.crs == other.crs
        assert one.transform.almost_equals(other.transform, 1e-12)
    frame = geopandas.read_file(out / "b.gpkg", layer="b")
    assert frame["value"].tolist().count(7) == 1
    transform = scenes.PLACES[place][1]
    outline = np.array(frame[frame["value"] == 7].geometry.iloc[0].exterior.coords)
    pixels = np.array([~transform @ tuple(corner) for corner in outline])
    np.testing.assert_allclose(pixels.min(axis=0), edges[[2, 0]], atol=1e-5)
    np.testing.assert_allclose(pixels.max(axis=0), edges[[3, 1]], atol=1e-5)
    burnt = rasterio.features.rasterize(
        zip(frame.geometry, frame["value"], strict=True), found.shape, transform=transform, dtype="uint8"
    )
    np.testing.assert_array_equal(burnt, found)


def test_a_part_equals_the_same_pixels_of_the_whole(tmp_path, out):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(330, 290))
    whole = run(scene, out / "whole.tif", confidence=str(out / "k.tif"), tile_size=96)
    assert len(np.unique(whole)) > 4
    with rasterio.open(out / "k.tif") as dataset:
        whole_percent = dataset.read(1)
    transform = scenes.PLACES["utm"][1]
    for row, col, height, width in [(0, 0, 50, 40), (101, 77, 90, 131), (329, 289, 1, 1)]:
        (left, top), (right, bottom) = transform @ (col, row), transform @ (col + width, row + height)
        options = {"extent": (left, bottom, right, top), "tile_size": 96}
        part = run(scene, out / "part.tif", confidence=str(out / "p.tif"), **options)
        np.testing.assert_array_equal(part, whole[row : row + height, col : col + width])
        with rasterio.open(out / "p.tif") as dataset:
            np.testing.assert_array_equal(
                dataset.read(1), whole_percent[row : row + height, col : col + width]
            )


def test_pixels_without_data_are_no_class(tmp_path, out):
    dn = scenes.textured(120, 110)
    dn[:, 30:70, 20:60] = 0
    scene = scenes.write(tmp_path / "scene.tif", dn, nodata=0)
    found = run(scene, out / "a.tif", confidence=str(out / "b.tif"), polygons=str(out / "a.gpkg"))
    assert (found[30:70, 20:60] == 0).all()
    assert (found == 0).sum() == 1600
    with rasterio.open(out / "b.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1) == 255, found == 0)
    frame = geopandas.read_file(out / "a.gpkg", layer="a")
    assert 0 not in set(frame["value"])
    assert frame["area_m2"].sum() == pytest.approx(100 * (120 * 110 - 1600), rel=2e-3)


def test_more_than_255_classes_need_sixteen_bits(tmp_path, out):
    model = brightness.save_model(tmp_path / "encoder.safetensors")
    classes = tuple(one.model_copy(update={"value": 300 * one.value}) for one in brightness.CLASSES)
    brightness.save_bright_head(tmp_path / "many.safetensors", model, classes)
    dn = brightness.scene_with_object((64, 64), slice(16, 40), slice(8, 32))
    scene = scenes.write(tmp_path / "scene.tif", dn)
    found = run(scene, out / "a.tif", model=str(tmp_path / "many.safetensors"), polygons=str(out / "a.gpkg"))
    assert found.dtype == np.uint16
    assert set(np.unique(found)) == {900, 2100}
    assert set(geopandas.read_file(out / "a.gpkg", layer="a")["value"]) == {900, 2100}


def test_resolution_and_dry_run(tmp_path, out):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(160, 120))
    assert run(scene, out / "a.tif", resolution=20).shape == (80, 60)
    assert run(scene, out / "a.tif", resolution="lattice").shape == (20, 15)
    estimate = segment(
        SegmentRequest(
            scene=str(scene), output=str(out / "b.tif"), confidence=str(out / "c.tif"), dry_run=True
        )
    )
    assert isinstance(estimate, Estimate)
    assert estimate.bytes == 2 * 160 * 120
    assert names(out) == {"a.tif", "a.qml"}


def test_the_confidence_of_known_logits():
    logits = torch.tensor([[[0.0, 2.0, 100.0]], [[0.0, 0.0, 0.0]]])
    found = confidence_percent(logits, np.array([[True, True, True]]))
    np.testing.assert_array_equal(found, [[50, round(100 / (1 + np.exp(-2))), 100]])
    assert confidence_percent(logits, np.array([[False, True, True]]))[0, 0] == 255


# --- real scenes --------------------------------------------------------------------------------------------


def test_germany_in_degrees_with_the_offset_inside_its_reflectance(shared, out):
    scene = shared / "data/germany_polygons/sen2.tif"
    progress = Progress()
    plain = run(scene, out / "plain.tif", progress)
    assert any("offset" in warning for warning in progress.warnings)
    quiet = Progress()
    harmonised = run(scene, out / "a.tif", quiet, offset=-1000, polygons=str(out / "a.gpkg"))
    assert not any("offset" in warning for warning in quiet.warnings)
    assert harmonised.shape == (241, 375)
    assert (harmonised != plain).any()
    frame = geopandas.read_file(out / "a.gpkg", layer="a")
    assert frame.crs.to_epsg() == 4326
    # 2.39 km by 2.41 km in degrees: the ellipsoid's area, not that of a square degree.
    assert frame["area_m2"].sum() == pytest.approx(5.75e6, rel=0.01)


def test_laos_bands_equal_the_stacked_scene(shared, out):
    folder = next((shared / "data/laos_bands").iterdir())
    stacked = shared / "data/laos_scene/majortom_199U_1099R_20200223_12b_10m.tif"
    options = {"extent": (366000, 1980000, 368500, 1982000)}
    one, other = run(folder, out / "a.tif", **options), run(stacked, out / "b.tif", **options)
    np.testing.assert_array_equal(one, other)
    assert len(np.unique(one)) > 3


def test_the_tiny_scene_lacks_a_band_and_takes_a_stand_in(shared, out):
    scene = shared / "data/tiny_scene/S2A2A_20190723_022_Barbellino_BOA_10.tif"
    numbered = {name: index for index, name in enumerate(("B1", *BANDS[:7], "B9", "B11", "B12"), 1)}
    with pytest.raises(BadInputError, match="B8A"):
        run(scene, out / "a.tif", bands={name: numbered[name] for name in BANDS if name != "B8A"})
    assert names(out) == set()
    stand_in = {name: numbered.get(name, 8) for name in BANDS}
    found = run(scene, out / "a.tif", bands=stand_in, polygons=str(out / "a.gpkg"))
    assert found.shape == (42, 24)
    assert (found > 0).all()


def test_clouds_without_ground_are_classified_with_a_warning_about_the_offset(shared, out):
    scene = shared / "data/cloudy_scene/majortom_0U_199R_20220706_12b_10m_crop512.tif"
    progress = Progress()
    options = {"extent": (823000, 5000, 825000, 7000), "extent_crs": "EPSG:32633"}
    found = run(scene, out / "a.tif", progress, **options)
    assert (found > 0).all()
    assert any("offset" in warning for warning in progress.warnings)
    assert (run(scene, out / "b.tif", offset=-1000, **options) != found).any()


def test_one_date_of_a_series_equals_that_date_in_a_stack_of_its_own(shared, tmp_path, out):
    series = shared / "data/toulouse_series/2018_3A_Theia_Bouconne.tif"
    order = ("B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")
    july = {name: 20 + index for index, name in enumerate(order, 1)}
    found = run(series, out / "a.tif", bands=july)
    with rasterio.open(series) as dataset:
        profile = {**dataset.profile, "count": 10, "driver": "GTiff"}
        data = dataset.read([july[name] for name in BANDS])
    with rasterio.open(tmp_path / "july.tif", "w", **profile) as dataset:
        dataset.write(data)
        dataset.descriptions = BANDS
    np.testing.assert_array_equal(found, run(tmp_path / "july.tif", out / "b.tif"))
    april = run(series, out / "a.tif", bands={name: index for index, name in enumerate(order, 1)})
    assert (april != found).any()


# --- failures: nothing is left of any output ----------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    return scenes.write(tmp_path / "scene.tif", scenes.textured(64, 64))


def test_a_model_without_a_head(tmp_path, out, small):
    checkpoint.save(GAIR(GAIRConfig.preset("tiny")), tmp_path / "bare.safetensors")
    with pytest.raises(BadInputError, match=r"bare\.safetensors is a model without a head"):
        run(small, out / "a.tif", model=str(tmp_path / "bare.safetensors"))
    assert names(out) == set()


def test_a_missing_and_another_backbone(tmp_path, out, small):
    model = brightness.save_model(tmp_path / "encoder.safetensors")
    brightness.save_bright_head(tmp_path / "head.safetensors", model)
    head = str(tmp_path / "head.safetensors")
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"'encoder' with the fingerprint .* no such model"):
        run(small, out / "a.tif", model=head)
    with pytest.raises(BadInputError, match="demo is another one"):
        run(small, out / "a.tif", model=head, backbone="demo")
    assert names(out) == set()


def test_a_change_head_is_sent_to_change(tmp_path, out, small):
    model = brightness.save_model(tmp_path / "encoder.safetensors")
    brightness.save_change_head(tmp_path / "head.safetensors", model)
    with pytest.raises(BadInputError, match="looks at 2 dates") as info:
        run(small, out / "a.tif", model=str(tmp_path / "head.safetensors"))
    assert "gair change" in info.value.hint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence": "b.png"}, "must end in .tif"),
        ({"polygons": "b.shp"}, "must end in .gpkg"),
        ({"confidence": "a.tif"}, "overwrite each other"),
        ({"confidence": "a.tiff"}, "each other's style"),
        ({"polygons": "nowhere/b.gpkg"}, "does not exist"),
        ({"confidence": "nowhere/b.tif"}, "does not exist"),
        ({"extent": (0, 0, 1, 1)}, "does not meet the scene"),
    ],
)
def test_impossible_outputs_are_refused_before_any_work(options, words, small, out):
    options = {k: str(out / v) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(BadInputError, match=words):
        run(small, out / "a.tif", **options)
    assert names(out) == set()


@pytest.mark.parametrize("which", ["output", "confidence", "polygons"])
def test_no_output_may_be_an_input(which, tmp_path, out):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 64))
    before = scene.read_bytes()
    chosen = {"output": str(out / "a.tif"), which: str(scene)}
    with pytest.raises(BadInputError):
        segment(SegmentRequest(scene=str(scene), **chosen))
    assert scene.read_bytes() == before
    assert names(out) == set()


ALL = {"a.tif", "a.qml", "a.gpkg", "k.tif", "k.qml"}


def everything(scene, out, progress=None):
    return run(scene, out / "a.tif", progress, confidence=str(out / "k.tif"), polygons=str(out / "a.gpkg"))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("place", ["polygons", "confidence", "rename", "cancel"])
def test_when_one_output_fails_nothing_is_left_of_any(place, old, small, out, monkeypatch):
    before = {name: f"old {name}".encode() for name in ALL} if old else {}
    for name, content in before.items():
        (out / name).write_bytes(content)

    def fail(*_args, **_kwargs):
        raise BadInputError("the disk is full")

    progress, expected = Progress(), BadInputError
    if place == "polygons":
        monkeypatch.setattr(module.PolygonWriter, "finish", fail)
    elif place == "confidence":
        monkeypatch.setattr(module, "confidence_percent", fail)
    elif place == "cancel":
        expected = CancelledError
        monkeypatch.setattr(module.PolygonWriter, "finish", lambda _: progress.cancel())
    else:
        replace = outputs.replace

        def fail_at_the_last(temporary, output):
            if output == out / "a.gpkg":
                fail()
            replace(temporary, output)

        monkeypatch.setattr(outputs, "replace", fail_at_the_last)
    with pytest.raises(expected):
        everything(small, out, progress)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_failed_write_names_the_output_that_was_asked_for(small, out, monkeypatch):
    def fail(*_args, **_kwargs):
        raise DataSourceError("no space left on device")

    monkeypatch.setattr(pyogrio, "write_dataframe", fail)
    with pytest.raises(BadInputError, match=r"out/a\.gpkg failed: .*no space left") as info:
        everything(small, out)
    assert "staged" not in str(info.value)
    assert names(out) == set()


def test_all_outputs_appear_together_over_older_ones(small, out):
    for name in ALL:
        (out / name).write_bytes(b"old")
    (out / "a.tif.aux.xml").write_text("old statistics")
    everything(small, out)
    assert names(out) == ALL
    assert all((out / name).stat().st_size > 100 for name in ALL)
