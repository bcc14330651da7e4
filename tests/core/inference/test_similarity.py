"""Similarity of photos with whole scenes against the dense embeddings and brute force, in all modes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import torch
import torch.nn.functional as F
from PIL import Image

from gair_core import checkpoint
from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError, CancelledError
from gair_core.inference.request import Estimate
from gair_core.inference.similarity import SimilarityRequest, SimilarityResult, similarity
from gair_core.model import GAIR
from gair_core.photos.panoramas import views
from gair_core.photos.preprocess import preprocess
from gair_core.photos.reading import open_photo
from gair_core.progress import Progress
from gair_core.sentinel2.bands import MEAN, STD, normalize
from tests.core.inference import scenes
from tests.reference import nili_at

TRANSFORM = scenes.PLACES["utm"][1]
GEOD = pyproj.Geod(ellps="WGS84")


def run(scene, photos, output, progress: Progress | None = None, **options) -> SimilarityResult:
    request = SimilarityRequest(scene=str(scene), photos=str(photos), output=str(output), **options)
    result = similarity(request, progress)
    assert isinstance(result, SimilarityResult)
    return result


def read(path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def lonlat(row: float, column: float) -> tuple[float, float]:
    to_degrees = pyproj.Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    return to_degrees.transform(*(TRANSFORM @ (column, row)))


def write_photos(folder: Path, places: list[tuple[float, float]], kinds: list[object] | None = None) -> Path:
    """Write a table of photos of noise at (row, column) of the UTM scene."""
    rng = np.random.default_rng(5)
    with (folder / "photos.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["photo", "lon", "lat", "kind"])
        for index, place in enumerate(places):
            coarse = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((80, 60)).save(folder / f"{index}.png")
            table.writerow([f"{index}.png", *lonlat(*place), kinds[index] if kinds else ""])
    return folder / "photos.csv"


def embedded(model: GAIR, paths) -> torch.Tensor:
    pixels = torch.stack([preprocess(open_photo(path), model.config.street_view) for path in paths])
    with torch.no_grad():
        return F.normalize(model.encode_street_view(pixels), dim=-1)


def features_of(model: GAIR, dn: np.ndarray) -> torch.Tensor:
    images = normalize(torch.from_numpy(dn.astype(np.float32)), MEAN, STD, quantize=False)[None]
    with torch.no_grad():
        return model.encode_remote_sensing(images)


def dense_cosines(model: GAIR, dn: np.ndarray, photos: torch.Tensor) -> np.ndarray:
    """Cosines (N, h, w) of the model's own dense NILI over a scene that is one tile."""
    with torch.no_grad():
        z = model.interpolate_dense(features_of(model, dn), dn.shape[1:])[0]
        return F.cosine_similarity(photos[:, :, None, None], z[None], dim=1).numpy()


@pytest.fixture(scope="module", params=["demo", "random"])
def model(request, tmp_path_factory) -> tuple[str, GAIR]:
    if request.param == "demo":
        return "demo", checkpoint.load("demo")
    torch.manual_seed(11)
    model = GAIR(GAIRConfig.preset("tiny").model_copy(update={"location": None})).eval()
    with torch.no_grad():  # a rim that matters
        model.nili.coordinate_weight.normal_(0, 0.5)
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    checkpoint.save(model, path)
    return str(path), model


PLACES = [(10.25, 20.75), (63.9, 47.9), (0.1, 0.1), (33.3, 2.2)]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Path, np.ndarray]:
    """A scene of one tile with four photos: scene, table, reflectances."""
    folder = tmp_path_factory.mktemp("small scène")
    dn = scenes.textured(64, 48)
    return (
        scenes.write(folder / "scene.tif", dn),
        write_photos(folder, PLACES, ["b", "a", "b", ""]),
        dn,
    )


def photo_files(table: Path) -> list[Path]:
    return sorted(table.parent.glob("?.png"))


def test_the_mean_of_the_cosines_of_dense_nili_rim_included(model, small, tmp_path):
    name, gair = model
    scene, table, dn = small
    result = run(scene, table, tmp_path / "out.tif", model=name)
    expected = dense_cosines(gair, dn, embedded(gair, photo_files(table))).mean(0)
    found = read(tmp_path / "out.tif")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[None], atol=1e-5)
    assert (result.photos, result.rasters, result.bands) == (4, 1, ("mean cosine",))
    assert result.minimum == pytest.approx(expected.min(), abs=1e-5)
    assert result.maximum == pytest.approx(expected.max(), abs=1e-5)
    with rasterio.open(tmp_path / "out.tif") as one, rasterio.open(scene) as other:
        assert (one.crs, one.transform, one.shape) == (other.crs, other.transform, other.shape)
        assert np.isnan(one.nodata)
        assert one.tags()["GAIR_TASK"] == "similarity"
        assert one.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert 'type="singlebandpseudocolor"' in (tmp_path / "out.qml").read_text()


def test_a_band_for_each_value_of_an_attribute(model, small, tmp_path):
    name, gair = model
    scene, table, dn = small
    progress = Progress()
    result = run(scene, table, tmp_path / "out.tif", progress, model=name, mode="group", group_field="kind")
    each = dense_cosines(gair, dn, embedded(gair, photo_files(table)))
    expected = np.stack([each[1], (each[0] + each[2]) / 2])
    np.testing.assert_allclose(read(tmp_path / "out.tif"), expected, atol=1e-5)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.descriptions == ("a", "b")
    assert result.bands == ("a", "b")
    # The one without a value is in no band, but it is scored.
    assert any("3.png" in warning and "kind" in warning for warning in progress.warnings)
    assert len(geopandas.read_file(tmp_path / "out_photos.gpkg")) == 4


def test_a_raster_for_each_photo_in_a_window_around_it(model, small, tmp_path):
    name, gair = model
    scene, table, dn = small
    result = run(scene, table, tmp_path / "per photo", model=name, mode="photo", radius=100)
    assert result.rasters == 4
    assert sorted(path.name for path in (tmp_path / "per photo").iterdir()) == sorted(
        f"{index}.{ending}" for index in range(4) for ending in ("qml", "tif")
    )
    each = dense_cosines(gair, dn, embedded(gair, photo_files(table)))
    for index, (row, column) in enumerate(PLACES):
        top, left = max(0, int(row - 10)), max(0, int(column - 10))
        with rasterio.open(tmp_path / "per photo" / f"{index}.tif") as dataset:
            # The footprint's metres differ from UTM's by its scale: a pixel more at most.
            found = dataset.read(1)
            column_offset, row_offset = ~TRANSFORM @ (dataset.transform.c, dataset.transform.f)
        assert abs(row_offset - top) <= 1
        assert abs(column_offset - left) <= 1
        top, left = round(row_offset), round(column_offset)
        assert found.shape[0] in range(min(64, int(row) + 10) - top, min(64, int(row) + 12) - top + 1)
        expected = each[index, top : top + found.shape[0], left : left + found.shape[1]]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_full_extent_for_each_photo(model, small, tmp_path):
    name, gair = model
    scene, table, dn = small
    (tmp_path / "existing").mkdir()
    run(scene, table, tmp_path / "existing", model=name, mode="photo", radius="full", scores=False)
    each = dense_cosines(gair, dn, embedded(gair, photo_files(table)))
    for index in range(4):
        np.testing.assert_allclose(
            read(tmp_path / "existing" / f"{index}.tif")[0], each[index], atol=1e-5, err_msg=str(index)
        )
    assert not (tmp_path / "existing_photos.gpkg").exists()


def test_scores_are_those_of_the_literal_equation_and_percentiles_those_of_all_patches(
    model, small, tmp_path
):
    name, gair = model
    scene, table, dn = small
    run(scene, table, tmp_path / "out.tif", model=name)
    found = geopandas.read_file(tmp_path / "out_photos.gpkg").sort_values("photo")
    photos = embedded(gair, photo_files(table))
    features = features_of(gair, dn)
    uv = torch.tensor([[[column / 48, row / 64] for row, column in PLACES]], dtype=torch.float64)
    with torch.no_grad():
        z = nili_at(features, uv, gair.nili.layers[0])[0]
        lattice = gair.localizer.lattice(features)[0]
    own = F.cosine_similarity(photos, z, dim=-1).numpy()
    np.testing.assert_allclose(found.similarity, own, atol=1e-5)
    cosines = F.cosine_similarity(photos[:, :, None], lattice.flatten(1)[None], dim=1).numpy()
    lower = 100 * (cosines < own[:, None]).mean(1)
    np.testing.assert_allclose(found.percentile, lower, atol=100 / cosines.shape[1])
    np.testing.assert_allclose(found.best_similarity, cosines.max(1), atol=1e-5)
    rows, columns = np.divmod(cosines.argmax(1), 6)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        x, y = TRANSFORM @ (8 * column + 4, 8 * row + 4)
        lon, lat = lonlat(8 * row + 4, 8 * column + 4)
        line = found.iloc[i]
        assert (line.best_x, line.best_y) == pytest.approx((x, y), abs=1e-6)
        assert (line.best_lon, line.best_lat) == pytest.approx((lon, lat), abs=1e-9)
        metres = GEOD.inv(*lonlat(*PLACES[i]), lon, lat)[2]
        assert line.best_distance_m == pytest.approx(metres, abs=0.01)
    assert found.geometry.iloc[0].coords[0] == pytest.approx(lonlat(*PLACES[0]), abs=1e-9)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("large")
    dn = scenes.textured(330, 290)
    dn[:, 100:140, 200:230] = 0
    table = write_photos(folder, [(20, 30), (320, 280), (120.5, 215.5), (200, 100)], ["x", "y", "y", "x"])
    return scenes.write(folder / "scene.tif", dn, nodata=0), table


@pytest.mark.parametrize("options", [{}, {"mode": "group", "group_field": "kind"}])
@pytest.mark.parametrize("scored", [True, False])
def test_a_part_equals_the_same_pixels_of_the_whole(options, scored, large, tmp_path):
    scene, table = large
    options = {**options, "tile_size": 96}
    run(scene, table, tmp_path / "whole.tif", **options)
    whole = read(tmp_path / "whole.tif")
    scores = geopandas.read_file(tmp_path / "whole_photos.gpkg")
    for row, col, height, width in [(0, 0, 50, 40), (101, 77, 90, 131), (329, 289, 1, 1), (160, 0, 170, 290)]:
        left, top = TRANSFORM @ (col, row)
        right, bottom = TRANSFORM @ (col + width, row + height)
        part = tmp_path / "part.tif"
        run(scene, table, part, extent=(left, bottom, right, top), scores=scored, **options)
        np.testing.assert_allclose(read(part), whole[:, row : row + height, col : col + width], atol=1e-5)
        assert (tmp_path / "part_photos.gpkg").exists() == scored
        if scored:  # percentiles are those of the whole scene
            again = geopandas.read_file(tmp_path / "part_photos.gpkg")
            assert again.drop(columns="geometry").equals(scores.drop(columns="geometry"))


def test_where_the_scene_has_no_data_there_is_neither_a_cosine_nor_a_score(large, tmp_path):
    scene, table = large
    run(scene, table, tmp_path / "out.tif")
    missing = np.isnan(read(tmp_path / "out.tif")[0])
    expected = np.zeros((330, 290), bool)
    expected[100:140, 200:230] = True
    np.testing.assert_array_equal(missing, expected)
    found = geopandas.read_file(tmp_path / "out_photos.gpkg").sort_values("photo")
    assert found.similarity.isna().tolist() == [False, False, True, False]
    assert found.percentile.isna().tolist() == [False, False, True, False]
    assert found.best_similarity.notna().all()


def test_windows_of_photos_equal_their_part_of_the_whole(large, tmp_path):
    scene, table = large
    run(scene, table, tmp_path / "full", mode="photo", radius="full", tile_size=96)
    run(scene, table, tmp_path / "near", mode="photo", radius=400, tile_size=96, scores=False)
    for index in range(4):
        with rasterio.open(tmp_path / "near" / f"{index}.tif") as dataset:
            near, transform = dataset.read(1), dataset.transform
        column, row = (round(x) for x in ~TRANSFORM @ (transform.c, transform.f))
        full = read(tmp_path / "full" / f"{index}.tif")[0]
        np.testing.assert_allclose(
            near, full[row : row + near.shape[0], column : column + near.shape[1]], atol=1e-5
        )


@pytest.mark.parametrize("resolution", [5.0, 30.0, "lattice"])
def test_other_resolutions_evaluate_the_same_surface(resolution, small, tmp_path):
    scene, table, dn = small
    gair = checkpoint.load("demo")
    run(scene, table, tmp_path / "out.tif", resolution=resolution, scores=False)
    found = read(tmp_path / "out.tif")[0]
    with torch.no_grad():
        z = gair.interpolate_dense(features_of(gair, dn), found.shape)[0]
    photos = embedded(gair, photo_files(table))
    expected = F.cosine_similarity(photos[:, :, None, None], z[None], dim=1).mean(0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("city", ["detroit", "sacramento", "tokyo"])
def test_real_pairs(city, shared, tmp_path):
    pairs = shared / "data/gair_pairs"
    progress = Progress()
    result = run(pairs / f"queries/{city}_rs.tif", pairs / "photos.csv", tmp_path / "out.tif", progress)
    assert result.photos == 1
    others = {"detroit", "sacramento", "tokyo"} - {city}
    assert all(any(other in warning for warning in progress.warnings) for other in others)
    (line,) = geopandas.read_file(tmp_path / "out_photos.gpkg").itertuples()
    assert city in line.photo
    # Around its own place the raster says what the score says; Tokyo's photo is on the last row.
    row, column = {"detroit": (67, 201), "sacramento": (138, 143), "tokyo": (198, 44)}[city]
    raster = read(tmp_path / "out.tif")[0]
    around = raster[max(row - 1, 0) : row + 2, column - 1 : column + 2]
    assert around.min() - 1e-3 <= line.similarity <= around.max() + 1e-3
    assert line.similarity == pytest.approx(raster[row, column], abs=0.02)
    assert 0 <= line.percentile <= 100
    assert line.best_similarity >= line.similarity - 0.02


def test_photos_that_cannot_be_used_are_named_and_left_out(small, tmp_path):
    scene, _, dn = small
    table = write_photos(tmp_path, [*PLACES[:3], (500, 500), (30, 30), (40, 40)])
    (tmp_path / "4.png").unlink()
    (tmp_path / "5.png").write_bytes(b"no photo at all")
    progress = Progress()
    result = run(scene, table, tmp_path / "out.tif", progress)
    assert result.photos == 3
    assert list(result.warnings) == progress.warnings
    for name in ("3.png", "4.png", "5.png"):
        assert sum(name in warning for warning in progress.warnings) == 1, progress.warnings
    gair = checkpoint.load("demo")
    photos = embedded(gair, [tmp_path / f"{index}.png" for index in range(3)])
    np.testing.assert_allclose(
        read(tmp_path / "out.tif")[0], dense_cosines(gair, dn, photos).mean(0), atol=1e-5
    )


def left_over(folder: Path, table: Path) -> list[Path]:
    known = {table, *photo_files(table), table.parent / "scene.tif"}
    return [path for path in folder.rglob("*") if path not in known]


@pytest.mark.parametrize("mode", ["mean", "photo"])
def test_without_a_photo_left_nothing_is_written(mode, small, tmp_path):
    scene, *_ = small
    table = write_photos(tmp_path, [(500, 500), (10, 10)])
    (tmp_path / "1.png").write_bytes(b"no photo at all")
    with pytest.raises(BadInputError, match=r"(?i)photo"):
        run(scene, table, tmp_path / ("out" if mode == "photo" else "out.tif"), mode=mode)
    assert left_over(tmp_path, table) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "group"}, "group_field"),
        ({"group_field": "kind"}, "group_field"),
        ({"scores": False, "photos_output": "x.gpkg"}, "photos_output"),
    ],
)
def test_options_that_contradict_each_other(options, words):
    with pytest.raises(BadInputError, match=words):
        SimilarityRequest.parse({"scene": "a", "photos": "b", "output": "c.tif", **options})


@pytest.mark.parametrize(
    ("options", "output", "words"),
    [
        ({"mode": "group", "group_field": "nothing"}, "out.tif", "no attribute 'nothing'.*kind"),
        ({"mode": "photo"}, "out.tif", "folder"),
        ({"mode": "photo"}, "missing/out", "missing"),
        ({}, "out.png", "tif"),
        ({"photos_output": "scores.xlsx"}, "out.tif", "gpkg"),
        ({"extent": (0, 0, 1, 1)}, "out.tif", "does not meet"),
    ],
)
def test_bad_requests_leave_nothing(options, output, words, tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 48))
    table = write_photos(tmp_path, PLACES, ["a", "b", "a", "b"])
    with pytest.raises(BadInputError, match=words):
        run(scene, table, tmp_path / output, **options)
    assert left_over(tmp_path, table) == []


def test_inputs_are_never_outputs(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 48))
    table = write_photos(tmp_path, PLACES)
    before = scene.read_bytes()
    with pytest.raises(BadInputError, match="is the input"):
        run(scene, table, scene)
    with pytest.raises(BadInputError, match="is the input"):
        run(scene, table, tmp_path / "out.tif", photos_output=str(table))
    assert scene.read_bytes() == before
    assert left_over(tmp_path, table) == []
    # A photo whose raster would get the photo's own name.
    Image.open(tmp_path / "0.png").save(tmp_path / "own.tif")
    table.write_text(table.read_text().replace("0.png", "own.tif"))
    photo = (tmp_path / "own.tif").read_bytes()
    with pytest.raises(BadInputError, match="is the input"):
        run(scene, table, tmp_path, mode="photo")
    assert (tmp_path / "own.tif").read_bytes() == photo


class CancelsLate(Progress):
    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction, self.fractions = fraction, []

    def report(self, fraction, message=""):
        assert message or fraction == 0
        self.fractions.append(fraction)
        if fraction >= self.fraction:
            self.cancel()


@pytest.mark.parametrize(
    ("mode", "fraction"), [("mean", 0.01), ("mean", 0.5), ("photo", 0.5), ("photo", 0.95)]
)
def test_a_cancel_leaves_nothing(mode, fraction, large, tmp_path):
    scene, table = large
    with pytest.raises(CancelledError):
        run(
            scene,
            table,
            tmp_path / ("out" if mode == "photo" else "out.tif"),
            CancelsLate(fraction),
            mode=mode,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["mean", "photo"])
def test_progress_rises_to_1(mode, large, tmp_path):
    progress = CancelsLate(2)
    run(*large, tmp_path / ("out" if mode == "photo" else "out.tif"), progress, mode=mode, radius=300)
    assert progress.fractions == sorted(progress.fractions)
    assert progress.fractions[-1] == 1
    assert len(progress.fractions) > 5


def test_a_dry_run_counts_tiles_and_bytes(large, tmp_path):
    scene, table = large
    options = {"scene": str(scene), "photos": str(table), "tile_size": 96, "margin": 12, "dry_run": True}
    whole = similarity(SimilarityRequest(**options, output=str(tmp_path / "out.tif")))
    assert isinstance(whole, Estimate)
    assert (whole.tiles, whole.bytes) == (5 * 5, 330 * 290 * 4)
    assert whole.seconds > 0
    near = similarity(
        SimilarityRequest(
            **options, output=str(tmp_path / "out"), mode="photo", radius=95, scores=False, extent=None
        )
    )
    assert near.bytes < whole.bytes
    assert list(tmp_path.iterdir()) == []


def test_the_photos_own_attributes_are_kept_in_any_format(small, tmp_path):
    scene, table, _ = small
    run(scene, table, tmp_path / "out.tif", photos_output=str(tmp_path / "scores.csv"), resolution="lattice")
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["b", "a", "b", ""]
    assert {"similarity", "percentile", "best_lon", "best_distance_m", "lon", "lat"} <= rows[0].keys()


def test_two_photos_of_one_name_get_two_rasters(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 48))
    table = write_photos(tmp_path, PLACES[:2])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    shutil.move(tmp_path / "0.png", tmp_path / "a/same.png")
    shutil.move(tmp_path / "1.png", tmp_path / "b/Same.png")
    table.write_text(table.read_text().replace("0.png", "a/same.png").replace("1.png", "b/Same.png"))
    run(scene, table, tmp_path / "out", mode="photo")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["Same_2.tif", "same.tif"]


def around(monkeypatch, folder: Path, lon: float, lat: float, zone: str) -> Path:
    """Write a scene of 96 x 96 pixels with a place in its middle."""
    x, y = pyproj.Transformer.from_crs("EPSG:4326", zone, always_xy=True).transform(lon, lat)
    corner = rasterio.transform.from_origin(round(x - 480, -1), round(y + 480, -1), 10, 10)
    monkeypatch.setitem(scenes.PLACES, "here", (zone, corner))
    return scenes.write(folder / "scene.tif", scenes.textured(96, 96), "here")


def test_a_folder_of_photos_with_positions_in_their_tags(shared, tmp_path, monkeypatch):
    # Three photos within 18 m of each other: neighbouring pixels, each with its own score.
    scene = around(monkeypatch, tmp_path, 13.4004, 52.5190, "EPSG:32633")
    result = run(scene, shared / "data/photos_exif", tmp_path / "out.tif")
    assert result.photos == 3
    assert len(result.warnings) == 10
    assert all("outside the scene" in warning for warning in result.warnings)
    found = geopandas.read_file(tmp_path / "out_photos.gpkg")
    assert found.photo.tolist() == [f"berlin/0{number}.jpg" for number in (1, 2, 3)]
    assert found.altitude.tolist() == [27, 30, 39]
    raster = read(tmp_path / "out.tif")[0]
    with rasterio.open(tmp_path / "out.tif") as dataset:
        places = found.to_crs(dataset.crs).geometry
        pixels = [dataset.index(place.x, place.y) for place in places]
    assert len(set(pixels)) >= 2
    # The raster is the mean over the photos, of which each score has its own share.
    assert found.similarity.mean() == pytest.approx(np.mean([raster[pixel] for pixel in pixels]), abs=0.01)


def test_panoramas_and_identifiers_of_sixteen_digits(shared, tmp_path, monkeypatch):
    with (shared / "data/photos_csv/photos.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first = next(row for row in rows if row["projection_type"] == "spherical")
    scene = around(monkeypatch, tmp_path, float(first["lon"]), float(first["lat"]), "EPSG:32632")
    result = run(scene, shared / "data/photos_csv/photos.csv", tmp_path / "out.tif", resolution="lattice")
    found = geopandas.read_file(tmp_path / "out_photos.gpkg").set_index("uuid")
    assert first["uuid"] in found.index
    assert len(found) == result.photos < len(rows)
    originals = {row["uuid"]: row["orig_id"] for row in rows}
    assert all(str(line.orig_id) == originals[uuid] for uuid, line in found.iterrows())
    # The panorama is compared as what a camera would have seen along its heading.
    gair = checkpoint.load("demo")
    image = open_photo(shared / "data/photos_csv" / first["photo"])
    _, view = next(views(image))
    with torch.no_grad():
        photo = F.normalize(gair.encode_street_view(preprocess(view, gair.config.street_view)[None]), dim=-1)
        z = gair.localizer.lattice(features_of(gair, scenes.textured(96, 96)))[0]
    best = F.cosine_similarity(photo[0][:, None], z.flatten(1), dim=0).max()
    assert found.best_similarity[first["uuid"]] == pytest.approx(float(best), abs=1e-5)


def test_groups_of_numbers_are_in_their_order(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 48))
    table = write_photos(tmp_path, PLACES, [10, 9, 10, 100])
    result = run(scene, table, tmp_path / "out.tif", mode="group", group_field="kind", scores=False)
    assert result.bands == ("9", "10", "100")


def test_nulls_do_not_turn_groups_of_integers_into_decimals(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 48))
    table = write_photos(tmp_path, PLACES, [10, 9, None, 100])
    result = run(scene, table, tmp_path / "out.tif", mode="group", group_field="kind", scores=False)
    assert result.bands == ("9", "10", "100")


def test_a_group_whose_photos_are_all_damaged_has_no_band(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 48))
    table = write_photos(tmp_path, PLACES, ["a", "b", "b", "c"])
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    result = run(scene, table, tmp_path / "out.tif", mode="group", group_field="kind")
    assert result.bands == ("b", "c")
    assert read(tmp_path / "out.tif").shape == (2, 64, 48)
    assert any("0.png" in warning for warning in result.warnings)


def test_groups_without_a_readable_photo_are_refused(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 48))
    table = write_photos(tmp_path, PLACES, ["a", "", "", ""])
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    with pytest.raises(BadInputError, match="No photo that can be read has the attribute 'kind'"):
        run(scene, table, tmp_path / "out.tif", mode="group", group_field="kind")
    assert left_over(tmp_path, table) == []


def test_a_model_with_plain_bilinear_embeddings(tmp_path):
    torch.manual_seed(2)
    changes = {"location": None, "nili": None, "localizer": "bilinear"}
    gair = GAIR(GAIRConfig.preset("tiny").model_copy(update=changes)).eval()
    checkpoint.save(gair, tmp_path / "bilinear.safetensors")
    dn = scenes.textured(64, 48)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    table = write_photos(tmp_path, PLACES)
    run(scene, table, tmp_path / "out.tif", model=str(tmp_path / "bilinear.safetensors"))
    # In a scene it is continued to the edge, as NILI is without its rim term.
    z = F.interpolate(features_of(gair, dn), size=(64, 48), mode="bilinear")[0]
    photos = embedded(gair, photo_files(table))
    expected = F.cosine_similarity(photos[:, :, None, None], z[None], dim=1).mean(0)
    np.testing.assert_allclose(read(tmp_path / "out.tif")[0], expected, atol=1e-5)


def test_an_extent_without_data_is_refused(large, tmp_path):
    scene, table = large
    left, top = TRANSFORM @ (205, 105)
    extent = (left, top - 200, left + 100, top)
    for mode, output in [("mean", "out.tif"), ("photo", "out")]:
        with pytest.raises(BadInputError, match="no data in the extent"):
            run(
                scene,
                table,
                tmp_path / output,
                mode=mode,
                radius="full" if mode == "photo" else 1,
                extent=extent,
            )
        assert list(tmp_path.iterdir()) == []


def test_photos_whose_window_misses_the_extent_are_named(large, tmp_path):
    scene, table = large
    left, top = TRANSFORM @ (0, 0)
    options = {"mode": "photo", "radius": 300.0, "scores": False}
    result = run(scene, table, tmp_path / "out", extent=(left, top - 500, left + 500, top), **options)
    assert result.bands == ("0.png",)
    assert sum("does not meet the extent" in warning for warning in result.warnings) == 3
    with pytest.raises(BadInputError, match="window meets the extent"):
        run(scene, table, tmp_path / "out", extent=(left + 1500, top - 100, left + 1600, top), **options)


def test_a_model_without_a_photo_encoder_is_refused_before_any_work(tmp_path):
    config = GAIRConfig.preset("tiny").model_copy(update={"location": None, "street_view": None})
    checkpoint.save(GAIR(config).eval(), tmp_path / "scenes only.safetensors")
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 48))
    with pytest.raises(BadInputError, match="street_view"):
        run(scene, "nothing", tmp_path / "out.tif", model=str(tmp_path / "scenes only.safetensors"))


def test_photos_with_swapped_coordinates_are_told_so(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(64, 48))
    table = write_photos(tmp_path, PLACES)
    table.write_text(table.read_text().replace("lon,lat", "lat,lon"))
    with pytest.raises(BadInputError, match=r"(?i)swap"):
        run(scene, table, tmp_path / "out.tif")
    assert left_over(tmp_path, table) == []
