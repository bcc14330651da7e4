"""Heads that see several dates or finer cells: to the pixel, for any extent, whatever the tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from affine import Affine

from gair_core import checkpoint
from gair_core.config import GAIRConfig, RemoteSensingConfig
from gair_core.errors import BadInputError
from gair_core.geo.grid import Grid, Window
from gair_core.head_checkpoint import load_head, save_head
from gair_core.heads import HeadMetadata
from gair_core.heads.temporal import SeriesLinearConfig, SeriesLinearHead, SeriesLTAEConfig, SeriesLTAEHead
from gair_core.heads.upernet import UPerNetChangeConfig, UPerNetChangeHead, UPerNetConfig, UPerNetHead
from gair_core.inference.change import ChangeRequest, change
from gair_core.inference.engine import Engine
from gair_core.inference.lattice import PixelSampler
from gair_core.inference.request import Estimate
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.inference.tiling import LatticeWindow
from gair_core.model import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.bands import MEAN, STD, normalize
from gair_core.sentinel2.scene import Scene
from tests.core.inference import brightness, scenes

CLASSES = tuple({"value": v, "name": f"class {v}", "colour": (v, 0, 0)} for v in (1, 2, 3))
SIZES = {"embed_dim": 16, "blocks": (0, 0, 1, 1), "channels": 8}
TOULOUSE = ("B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Untrained heads of every kind on one encoder."""
    folder = tmp_path_factory.mktemp("heads")
    torch.manual_seed(0)
    scene_part = RemoteSensingConfig(width=16, depth=2, num_heads=2)
    model = GAIR(GAIRConfig(embed_dim=16, remote_sensing=scene_part, street_view=None, location=None)).eval()
    checkpoint.save(model, folder / "encoder.safetensors")
    model = checkpoint.load(folder / "encoder.safetensors")
    metadata = HeadMetadata(classes=CLASSES)
    heads = {
        "upernet": UPerNetHead(UPerNetConfig(**SIZES), metadata),
        "change": UPerNetChangeHead(UPerNetChangeConfig(**SIZES), metadata),
        "linear": SeriesLinearHead(SeriesLinearConfig(**SIZES, dates=2), metadata),
        "ltae": SeriesLTAEHead(SeriesLTAEConfig(**SIZES, attention_heads=4), metadata),
    }
    with torch.no_grad():
        heads["linear"].weight.copy_(torch.tensor([1.5, -0.5]))
    for name, head in heads.items():
        head.eval()
        _spread(head, model)
        save_head(head, folder / f"{name}.safetensors", model)
    return {name: str(folder / f"{name}.safetensors") for name in heads}


def _spread(head, model) -> None:
    """Make an untrained head use all of its classes about equally often."""
    seen = [
        normalize(torch.from_numpy(scenes.textured(64, 64, s).astype(np.float32)), MEAN, STD)[None]
        for s in (0, 1)
    ]
    days = torch.tensor([[30.0, 200.0]])
    with torch.no_grad():
        logits = head.forward_tile(model, seen[: head.scenes or 2], days[:, : head.scenes or 2])
        spread, middle = logits.std(dim=(0, 2, 3)), logits.mean(dim=(0, 2, 3))
        head.classifier.weight /= spread[:, None, None, None]
        head.classifier.bias.copy_((head.classifier.bias - middle) / spread)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def run(scene, output, model, progress=None, **options) -> np.ndarray:
    segment(SegmentRequest(scene=str(scene), output=str(output), model=model, **options), progress)
    with rasterio.open(output) as dataset:
        return dataset.read(1)


def write(path, dn, transform=None, nodata=None):
    scenes.write(path, dn, nodata=nodata)
    if transform is not None:
        with rasterio.open(path, "r+") as dataset:
            dataset.transform = transform
    return path


# --- finer cells --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "tile"), [((61, 45), 192), ((200, 170), 96)])
def test_logits_that_are_a_known_function_of_the_position_come_out_at_every_pixel(shape, tile, tmp_path):
    """A function whose cells hold the mean position of their pixels gives back each pixel's own position."""
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    dn = np.full((10, height, width), 1500, np.uint16)
    dn[0], dn[1] = 1000 + rows, 1000 + columns
    path = scenes.write(tmp_path / "scene.tif", dn)
    engine = Engine(brightness.save_model(tmp_path / "encoder.safetensors"), "cpu", tile_size=tile, margin=16)
    mean, std = (torch.tensor(values)[:2, None, None] for values in (MEAN, STD))

    def positions(images, valid):
        assert valid.shape[:2] == (len(images[0]), 1)
        cells = F.avg_pool2d(images[0][:, :2], 2)
        return F.pixel_unshuffle(cells * 4 * std + mean - 2 * std - 1000, 4)

    with Scene.open(path, offset=0) as scene:
        for window in (Window(0, 0, height, width), Window(19, 27, 30, 11)):
            sampler = PixelSampler(scene.native, scene.grid, 8, window, subdivision=4)
            plan = engine.plan(scene, sampler.lattice_window)
            found = np.full((2, window.height, window.width), np.nan)
            for strip in sampler.sample(engine.tile_strips([scene], plan, positions)):
                found[:, strip.row : strip.row + strip.values.shape[1]] = strip.values.numpy()
                assert strip.valid.all()
            inside = (slice(window.row, window.row_stop), slice(window.col, window.col_stop))
            expected = np.stack([rows[inside], columns[inside]])
            # Half a cell at the scene's edges is continued, and beyond the last pixel the scene is mirrored.
            core = [
                slice(max(0, 1 - start), size - max(0, start + size - whole + 3))
                for start, size, whole in (
                    (window.row, window.height, height),
                    (window.col, window.width, width),
                )
            ]
            np.testing.assert_allclose(found[:, core[0], core[1]], expected[:, core[0], core[1]], atol=0.02)
            assert np.abs(found - expected).max() < 1.1


def test_only_the_patches_of_the_wanted_cells_are_asked_for():
    with pytest.raises(ValueError, match="cannot have 3 cells"):
        PixelSampler(*_grids(), 8, Window(0, 0, 8, 8), subdivision=3)
    sampler = PixelSampler(*_grids(), 8, Window(8, 10, 8, 4), subdivision=4)
    assert sampler.lattice_window == LatticeWindow(0, 3, 1, 2)
    assert PixelSampler(*_grids(), 8, Window(9, 10, 6, 4), subdivision=4).lattice_window.row == 1


def _grids():
    grid = Grid(rasterio.CRS.from_epsg(32632), scenes.PLACES["utm"][1], 64, 64)
    return grid, grid


def test_upernet_of_one_tile_is_its_forward_pass(tmp_path, out, files):
    dn = scenes.textured(64, 48)
    found = run(scenes.write(tmp_path / "scene.tif", dn), out / "a.tif", files["upernet"])
    head, model = load_head(files["upernet"])
    seen = normalize(torch.from_numpy(dn.astype(np.float32)), MEAN, STD, quantize=False)[None]
    with torch.no_grad():
        logits = head.forward_tile(model, [seen])[0]
    top = logits.topk(2, dim=0).values
    clear = ((top[0] - top[1]) > 1e-3).numpy()
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(found[clear], (logits.argmax(dim=0).numpy() + 1)[clear])


@pytest.mark.parametrize("kind", ["upernet", "change", "ltae"])
def test_a_part_equals_the_same_pixels_of_the_whole(kind, tmp_path, out, files):
    one = write(tmp_path / "a_20200604.tif", scenes.textured(150, 130))
    moved = scenes.PLACES["utm"][1] * Affine.translation(0.5, 0.25)
    other = write(tmp_path / "b_20200813.tif", scenes.textured(150, 130, 1), moved)

    def classes(output, **options):
        options = {"tile_size": 64, "margin": 8, **options}
        if kind == "change":
            change(
                ChangeRequest(
                    before=str(one), after=str(other), output=str(output), model=files[kind], **options
                )
            )
            with rasterio.open(output) as dataset:
                return dataset.read(1)
        more = {"series": (str(other),)} if kind == "ltae" else {}
        return run(one, output, files[kind], **more, **options)

    whole = classes(out / "whole.tif")
    assert len(np.unique(whole[whole > 0])) > 1
    transform = scenes.PLACES["utm"][1]
    (left, top), (right, bottom) = transform @ (61, 37), transform @ (109, 121)
    part = classes(out / "part.tif", extent=(left, bottom, right, top))
    np.testing.assert_array_equal(part, whole[37:121, 61:109])


# --- series -------------------------------------------------------------------------------------------------


@pytest.fixture
def dated(tmp_path):
    return [
        write(tmp_path / f"scene_{day}.tif", scenes.textured(80, 72, seed))
        for seed, day in enumerate(("20200604", "20200813", "20201105"))
    ]


def test_a_series_is_ordered_by_its_days_not_by_its_arguments(dated, out, files):
    first, second, third = map(str, dated)
    expected = run(first, out / "a.tif", files["ltae"], series=(second, third))
    np.testing.assert_array_equal(run(first, out / "b.tif", files["ltae"], series=(third, second)), expected)
    np.testing.assert_array_equal(run(third, out / "c.tif", files["ltae"], series=(first, second)), expected)
    other_days = ("2020-01-04", "2020-03-13", "2020-12-05")
    changed = run(first, out / "d.tif", files["ltae"], series=(second, third), dates=other_days)
    assert (changed != expected).any()
    one = run(first, out / "e.tif", files["linear"], series=(second,))
    other = run(second, out / "f.tif", files["linear"], series=(first,))
    np.testing.assert_array_equal(one, other)
    turned = run(second, out / "g.tif", files["linear"], series=(first,), dates=("2020-06-04", "2020-08-13"))
    assert (turned != one).any()
    with rasterio.open(out / "a.tif") as dataset:
        tags = dataset.tags()
    assert json.loads(tags["GAIR_DATES"]) == ["2020-06-04", "2020-08-13", "2020-11-05"]
    named = [Path(one["source"]).name for one in json.loads(tags["GAIR_SERIES"])]
    assert named == [path.name for path in dated[1:]]
    assert "/" not in tags["GAIR_OPTIONS"]


def test_a_date_without_data_is_left_out_where_it_has_none(tmp_path, out, files):
    """The head sees single patches here, so that what it makes of one does not reach another."""
    model = brightness.save_model(tmp_path / "encoder.safetensors")
    torch.manual_seed(0)
    config = SeriesLTAEConfig(embed_dim=16, decoder="linear", attention_heads=4)
    save_head(
        SeriesLTAEHead(config, HeadMetadata(classes=CLASSES)).eval(), tmp_path / "head.safetensors", model
    )
    head = str(tmp_path / "head.safetensors")
    dn = [scenes.textured(64, 64, seed) for seed in range(3)]
    dn[2][:, :, 32:] = 0
    paths = [
        str(write(tmp_path / f"s_{day}.tif", one, nodata=0))
        for one, day in zip(dn, ("20200101", "20200501", "20200901"), strict=True)
    ]
    three = run(paths[0], out / "a.tif", head, series=tuple(paths[1:]), resolution="lattice")
    two = run(paths[0], out / "b.tif", head, series=(paths[1],), resolution="lattice")
    np.testing.assert_array_equal(three[:, 4:], two[:, 4:])
    assert (three[:, :4] != two[:, :4]).any()
    # What no date has is nodata; what the first one lacks, others may have.
    dn[0][:, :16], dn[1][:, :16, 32:] = 0, 0
    write(tmp_path / "s_20200101.tif", dn[0], nodata=0)
    write(tmp_path / "s_20200501.tif", dn[1], nodata=0)
    found = run(paths[0], out / "c.tif", head, series=tuple(paths[1:]))
    expected = np.zeros((64, 64), bool)
    expected[:16, 32:] = True
    np.testing.assert_array_equal(found == 0, expected)


def test_a_dry_run_counts_every_date(dated, out, files):
    request = SegmentRequest(
        scene=str(dated[0]),
        series=(str(dated[1]),),
        output=str(out / "a.tif"),
        model=files["ltae"],
        dry_run=True,
    )
    estimate = segment(request)
    assert isinstance(estimate, Estimate)
    assert estimate.tiles == 2
    assert not list(out.iterdir())


def test_seven_dates_in_one_file(shared, out, files):
    stack = shared / "data/toulouse_series/2018_3A_Theia_Bouconne.tif"
    lines = (shared / "data/toulouse_series/dates.csv").read_text().splitlines()[1:]
    days = tuple(line.split(",")[1] for line in lines)
    bands = {name: number for number, name in enumerate(TOULOUSE, 1)}
    x, y = 356500, 4833500
    with rasterio.open(stack) as dataset:
        x, y = dataset.transform @ (20, 20)
    extent = {"extent": (x, y - 500, x + 600, y)}
    options = {"bands": bands, "bands_per_date": 10, "dates": days, **extent}
    found = run(stack, out / "a.tif", files["ltae"], **options)
    assert found.shape == (50, 60)
    assert (found > 0).all()
    with rasterio.open(out / "a.tif") as dataset:
        assert json.loads(dataset.tags()["GAIR_DATES"]) == list(days)
        assert json.loads(dataset.tags()["GAIR_SERIES"])[5]["bands"]["B8A"].endswith("#68")
    with pytest.raises(BadInputError, match="holds 7 dates, but not when they were"):
        run(stack, out / "b.tif", files["ltae"], **{**options, "dates": None})
    with pytest.raises(BadInputError, match="looks at one date; found 7 dates"):
        run(stack, out / "b.tif", files["upernet"], **options)
    with pytest.raises(BadInputError, match="weight; found 7 dates"):
        run(stack, out / "b.tif", files["linear"], **options)
    with pytest.raises(BadInputError, match="70 bands, which are no series of dates with 12 each"):
        run(stack, out / "b.tif", files["ltae"], **{**options, "bands_per_date": 12})
    with pytest.raises(BadInputError, match=r"must number those of the first date, from 1 to 9; found"):
        run(stack, out / "b.tif", files["ltae"], **{**options, "bands_per_date": 9})
    with pytest.raises(BadInputError, match=r"must number those of the first date, .* found nothing"):
        run(stack, out / "b.tif", files["ltae"], **{**options, "bands": None})


def test_two_real_dates_tell_their_days_by_their_names(shared, out, files):
    folder = shared / "data/bitemporal_pair"
    one, other = (folder / f"ssl4eo_0000200_L2A_{day}.tif" for day in ("20200604", "20200813"))
    found = run(one, out / "a.tif", files["linear"], series=(str(other),), tile_size=96)
    assert found.shape == (264, 264)
    with rasterio.open(out / "a.tif") as dataset:
        assert json.loads(dataset.tags()["GAIR_DATES"]) == ["2020-06-04", "2020-08-13"]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("ltae", {}, "looks at a series of dates; found one date"),
        ("change", {}, "looks at 2 dates; found one date"),
        ("upernet", {"series": True}, "looks at one date; found 2 dates"),
        ("ltae", {"dates": ("2020-01-01",)}, "1 dates were given for one scene"),
        ("ltae", {"series": True, "dates": ("2020-01-01",)}, "1 dates were given for 2 scenes"),
        ("ltae", {"series": True, "dates": ("2020-01-01", "1.2.20")}, "'1.2.20' is no date"),
        ("ltae", {"series": True, "scl": "scl.tif"}, "One scene classification cannot hold"),
        ("ltae", {"series": True, "bands_per_date": 10}, "file of several dates and further scenes"),
        ("ltae", {"series": True, "undated": True}, "not known when .*undated.tif was taken"),
        ("ltae", {"series": True, "elsewhere": True}, "elsewhere_20200101.tif does not overlap"),
    ],
)
def test_bad_series_are_refused_and_leave_nothing(kind, options, words, tmp_path, files):
    options, out = dict(options), tmp_path / "out"
    out.mkdir()
    scene = write(tmp_path / "scene_20200604.tif", scenes.textured(32, 32))
    name, transform = "scene_20200813.tif", None
    if options.pop("undated", False):
        name = "undated.tif"
    if options.pop("elsewhere", False):
        name = "elsewhere_20200101.tif"
        transform = scenes.PLACES["utm"][1] * Affine.translation(500, 0)
    other = write(tmp_path / name, scenes.textured(32, 32), transform)
    if options.get("series"):
        options = {**options, "series": (str(other),)}
    with pytest.raises(BadInputError, match=words):
        run(scene, out / "a.tif", files[kind], Progress(), **options)
    assert not list(out.iterdir())


def test_the_output_is_none_of_the_dates(dated, files):
    content = dated[1].read_bytes()
    with pytest.raises(BadInputError):
        run(dated[0], dated[1], files["ltae"], series=(str(dated[1]),))
    assert dated[1].read_bytes() == content
