"""`gair check --retrieval`: a model that knows the pairs, some that do not, and folders laid out wrongly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin

from gair_core import check as check_module
from gair_core.check import CheckRequest, check
from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import BadInputError
from gair_core.geo.footprint import Footprint
from gair_core.model import GAIR
from gair_core.progress import Progress
from gair_core.retrieval import _cut, check_retrieval, judge
from gair_core.sentinel2.bands import BANDS, MEAN, STD
from tests.core.test_checkpoint import partial

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}
WIDTH = 24


class Colourist(GAIR):
    """Embeds scenes and photos by their mean colour: red, green and blue in the first three dimensions."""

    def __init__(self) -> None:
        scenes = RemoteSensingConfig(width=WIDTH, depth=1, num_heads=2, gsd=10.0, tile_size=32)
        photos = StreetViewConfig(image_size=32, width=WIDTH, depth=1, num_heads=2)
        places = LocationConfig(num_frequencies=2, hidden_width=4)
        super().__init__(
            GAIRConfig(
                embed_dim=WIDTH,
                remote_sensing=scenes,
                street_view=photos,
                location=places,
                nili=None,
                localizer="bilinear",
            )
        )

    def encode_remote_sensing(self, images):
        colour = images[:, [2, 1, 0]] - 0.5
        patches = torch.nn.functional.avg_pool2d(colour, self.config.remote_sensing.patch_size)
        return torch.nn.functional.pad(patches, (0, 0, 0, 0, 0, WIDTH - 3))

    def encode_street_view(self, photos, project=True):  # noqa: ARG002
        return torch.nn.functional.pad(photos.mean(dim=(2, 3)), (0, WIDTH - 3))


def write_scene(path, colour, gsd=10.0, size=32):
    """A grey scene with its colour in the quarter to the north-east."""
    dn = np.repeat(np.array(MEAN)[:, None, None], size, axis=1).repeat(size, axis=2)
    half = size // 2
    for band, value in zip((2, 1, 0), colour, strict=True):
        dn[band, :half, half:] += value * STD[band]
    profile = {"driver": "GTiff", "count": 10, "height": size, "width": size, "dtype": "uint16"}
    transform = from_origin(500_000, 5_500_000, gsd, gsd)
    with rasterio.open(path, "w", crs="EPSG:32632", transform=transform, **profile) as dataset:
        dataset.write(dn.astype(np.uint16))
        dataset.descriptions = BANDS
    return Footprint.from_bounds(
        500_000,
        5_500_000 - size * gsd,
        500_000 + size * gsd,
        5_500_000,
        crs="EPSG:32632",
        width=size,
        height=size,
    )


@pytest.fixture
def pairs(tmp_path):
    folder = tmp_path / "pairs"
    (folder / "queries").mkdir(parents=True)
    lines = ["id,photo,scene,lon,lat"]
    for name, colour in COLOURS.items():
        footprint = write_scene(folder / f"queries/{name}.tif", colour)
        lon, lat = footprint.lonlat([[0.75, 0.25]])[0]
        pixels = np.clip(128 + 90 * np.array(colour), 0, 255).astype(np.uint8)
        Image.fromarray(np.broadcast_to(pixels, (40, 60, 3)).copy()).save(folder / f"{name}.png")
        lines.append(f"{name},{name}.png,queries/{name}.tif,{lon},{lat}")
    (folder / "photos.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def colourist(monkeypatch):
    model = Colourist().eval()
    monkeypatch.setattr(check_module, "load_model", lambda *_: model)
    return model


def test_a_model_that_knows_is_right(pairs, colourist):
    result = check_retrieval(pairs, colourist, Progress())
    assert result.ids == ("red", "green", "blue")
    assert np.diag(result.cosines) == pytest.approx([1, 1, 1], abs=0.05)
    assert result.scene_finds_photo == result.photo_finds_scene == 1
    assert result.verdict == "right"
    assert min(result.margins) > 0.5
    # The cosine does not see how strong a colour is: the blend around the coloured quarter ties with it.
    assert min(result.percentiles) > 55


def test_it_looks_at_the_photos_place(pairs, colourist):
    """In the grey quarter to the south-west there is nothing to recognise."""
    table = (pairs / "photos.csv").read_text().splitlines()
    footprint = Footprint.from_bounds(
        500_000, 5_499_680, 500_320, 5_500_000, crs="EPSG:32632", width=32, height=32
    )
    lon, lat = footprint.lonlat([[0.2, 0.8]])[0]
    moved = [table[0], *(f"{','.join(line.split(',')[:3])},{lon},{lat}" for line in table[1:])]
    (pairs / "photos.csv").write_text("\n".join(moved))
    result = check_retrieval(pairs, colourist, Progress())
    assert result.verdict == "wrong"


def test_a_doubtful_scene_is_named(pairs, colourist):
    path = pairs / "queries/red.tif"
    with rasterio.open(path, "r+") as dataset:
        dataset.write(dataset.read() + np.uint16(1000))
    progress = Progress()
    check_retrieval(pairs, colourist, progress)
    assert [warning for warning in progress.warnings if "red.tif" in warning and "offset" in warning]


def test_swapped_photos_are_wrong_and_fail_the_check(pairs, colourist):
    table = (pairs / "photos.csv").read_text()
    swapped = table.replace("red.png", "x.png").replace("green.png", "red.png").replace("x.png", "green.png")
    (pairs / "photos.csv").write_text(swapped)
    result = check(CheckRequest(retrieval=pairs, device="cpu"))
    assert result.retrieval.verdict == "wrong"
    assert result.retrieval.scene_finds_photo == pytest.approx(1 / 3)
    assert not result.ok
    assert "gair download" in result.text()


def test_the_report_in_words(pairs, colourist):
    result = check(CheckRequest(retrieval=pairs, device="cpu"))
    text = result.text()
    assert "scenes that find their photo: 3 of 3 (all of them by luck: 1 in 27)" in text
    assert "verdict: right." in text
    assert "imported right" in text


def test_without_the_option_nothing_is_retrieved():
    assert check(CheckRequest(device="cpu")).retrieval is None


def test_untrained_models_do_not_pass(shared):
    for seed in range(3):
        torch.manual_seed(seed)
        model = GAIR(GAIRConfig.preset("tiny")).eval()
        assert check_retrieval(shared / "data/gair_pairs", model, Progress()).verdict != "right"


def judged(cosines, temperature=0.07):
    count = len(cosines)
    names = tuple(f"pair {index}" for index in range(count))
    return judge(names, torch.tensor(cosines), 1 / temperature, (50.0,) * count)


def test_verdicts():
    assert judged([[0.5, 0.1, 0.1], [0.1, 0.5, 0.1], [0.1, 0.1, 0.5]]).verdict == "right"
    # The right order, but by differences that a random model has as well.
    lucky = judged([[0.5, 0.499, 0.499], [0.499, 0.5, 0.499], [0.499, 0.499, 0.5]])
    assert (lucky.scene_finds_photo, lucky.verdict) == (1, "wrong")
    # Two of three, surely.
    assert judged([[0.5, 0.1, 0.1], [0.1, 0.5, 0.1], [0.1, 0.14, 0.12]]).verdict == "not conclusive"
    # One photo is nearest to every scene.
    assert judged([[0.5, 0.1, 0.1], [0.5, 0.1, 0.1], [0.5, 0.1, 0.1]]).verdict == "wrong"
    assert judged([[math.nan] * 2] * 2).verdict == "wrong"


def test_figures_against_their_definition():
    cosines = np.array([[0.3, 0.2, -0.1], [0.25, 0.2, 0.1], [0.0, 0.4, 0.35]])
    result = judged(cosines.tolist())
    logits = cosines / 0.07
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert result.loss == pytest.approx(-np.log(np.diag(softmax)).mean())
    assert result.guessing == pytest.approx(math.log(3))
    assert result.margins == pytest.approx([0.1, -0.05, -0.05])
    assert result.scene_finds_photo == pytest.approx(1 / 3)
    assert result.photo_finds_scene == pytest.approx(2 / 3)


def test_a_scene_becomes_one_tile_of_the_model():
    def cut(metres, pixel, tile=96, gsd=20.0, uv=(0.5, 0.5)):
        size = round(metres / pixel)
        place = Footprint.from_bounds(
            500_000,
            5_500_000,
            500_000 + metres,
            5_500_000 + metres,
            crs="EPSG:32632",
            width=size,
            height=size,
        )
        window, (rows, columns) = _cut(
            place, np.array(uv), RemoteSensingConfig(tile_size=tile, gsd=gsd, width=16, num_heads=2)
        )
        return (window.row, window.col, window.height, window.width), (rows, columns)

    # As the authors do it: about 2 km, whatever the pixels, to 96 x 96.
    assert cut(2000, 10) == ((0, 0, 200, 200), (96, 96))
    # A finer model sees the surroundings of the place, never beyond the scene.
    assert cut(2000, 10, gsd=10.0) == ((52, 52, 96, 96), (96, 96))
    assert cut(2000, 10, gsd=10.0, uv=(0.99, 0.0)) == ((0, 104, 96, 96), (96, 96))
    # A small scene is not blown up; it becomes fewer patches.
    assert cut(480, 10, gsd=10.0) == ((0, 0, 48, 48), (48, 48))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("scene", "picture"), "lacks the columns scene"),
        (lambda text: "\n".join(text.splitlines()[:2]), "wanted at least two rows"),
        (lambda text: text.replace("red.png", "nowhere.png"), "red"),
        (lambda text: text.replace("queries/red.tif", "queries/nowhere.tif"), "nowhere.tif"),
        (lambda text: text.replace(",9.0", ",10.0", 1), "the photo's place .* is outside the scene"),
    ],
)
def test_folders_laid_out_otherwise(pairs, colourist, change, message):
    path = pairs / "photos.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(BadInputError, match=message):
        check_retrieval(pairs, colourist, Progress())


def test_no_table_and_no_whole_model(pairs, colourist, tmp_path):
    with pytest.raises(BadInputError, match=r"is no folder with a photos\.csv"):
        check_retrieval(tmp_path, colourist, Progress())
    with pytest.raises(BadInputError, match=r"is no folder with a photos\.csv"):
        check_retrieval(pairs / "photos.csv", colourist, Progress())
    with pytest.raises(BadInputError, match="needs a scene encoder and a photo encoder, found location"):
        check_retrieval(pairs, GAIR(partial("location")).eval(), Progress())
