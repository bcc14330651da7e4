"""Embeddings at points: exact, from the tiles that the points need alone, with the points' attributes."""

from __future__ import annotations

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from shapely import LineString, Point

from gair_core import checkpoint
from gair_core.errors import BadInputError, CancelledError
from gair_core.geo.footprint import Footprint
from gair_core.inference.embed import EmbedRequest, embed
from gair_core.inference.engine import Engine
from gair_core.inference.points import Places, plan_groups, sample_places
from gair_core.inference.request import Estimate
from gair_core.inference.sample import SampleRequest, sample
from gair_core.progress import Progress
from gair_core.sentinel2.bands import MEAN, STD, normalize
from gair_core.sentinel2.scene import Scene
from tests.core.inference import scenes


@pytest.fixture(scope="module")
def demo():
    return checkpoint.load("demo")


def points_at(path, scene, uv, crs="EPSG:4326"):
    """Write points at places (u, v) of a scene, numbered."""
    with rasterio.open(scene) as dataset:
        lonlat = Footprint.from_dataset(dataset).lonlat(uv)
    frame = geopandas.GeoDataFrame(
        {"number": range(len(uv))}, geometry=geopandas.points_from_xy(*lonlat.T), crs="EPSG:4326"
    )
    frame.to_crs(crs).to_file(path, driver="GPKG")
    return path


def run(scene, points, output, **options):
    result = sample(
        SampleRequest(scene=str(scene), points=str(points), output=str(output), tile_size=96, **options)
    )
    frame = geopandas.read_parquet(output)
    return result, frame, np.stack(frame["embedding"])


def test_one_tile_equals_the_models_own_interpolation(demo, tmp_path):
    dn = scenes.textured(64, 48)
    scene = scenes.write(tmp_path / "scene.tif", dn)
    uv = np.random.default_rng(0).random((200, 2))
    uv[:4] = [[0.001, 0.002], [0.999, 0.003], [0.002, 0.998], [0.9999, 0.9999]]  # the rim
    images = normalize(torch.from_numpy(dn.astype(np.float32)), MEAN, STD, quantize=False)[None]
    with torch.no_grad():
        features = demo.encode_remote_sensing(images)
        expected = demo.interpolate(features, torch.from_numpy(uv)[None].float())[0]
        components = demo.basis.project(expected)
    points = points_at(tmp_path / "points.gpkg", scene, uv)
    _, frame, found = run(scene, points, tmp_path / "all.parquet")
    assert frame["number"].tolist() == list(range(200))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    _, _, found = run(scene, points, tmp_path / "few.parquet", components=5)
    np.testing.assert_allclose(found, components[:, :5], atol=2e-5)


@pytest.mark.parametrize("place", scenes.PLACES)
def test_pixel_centres_equal_the_raster_of_embed(place, tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(203, 150), place)
    embed(
        EmbedRequest(
            scene=str(scene),
            output=str(tmp_path / "embedding.tif"),
            components=6,
            dtype="float32",
            tile_size=96,
        )
    )
    generator = np.random.default_rng(0)
    row, column = generator.integers(0, 203, 150), generator.integers(0, 150, 150)
    row[:4], column[:4] = [0, 0, 202, 202], [0, 149, 0, 149]
    uv = np.column_stack([(column + 0.5) / 150, (row + 0.5) / 203])
    points = points_at(tmp_path / "points.gpkg", scene, uv, "EPSG:3857")
    _, frame, found = run(scene, points, tmp_path / "out.parquet", components=6)
    assert frame["number"].tolist() == list(range(150))
    with rasterio.open(tmp_path / "embedding.tif") as dataset:
        expected = dataset.read()[:, row, column].T
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_photo_on_the_last_row_of_a_real_scene(shared, tmp_path):
    folder = shared / "data/gair_pairs"
    scene = folder / "queries/tokyo_rs.tif"
    result, frame, found = run(scene, folder / "photos.csv", tmp_path / "out.parquet", components=4)
    assert (result.points, result.left_out, result.dimensions) == (1, 2, 4)
    assert "detroit, sacramento" in result.warnings[-1]
    assert frame["photo"].tolist() == ["gallery/tokyo_sv.jpg"]
    pixels = tmp_path / "pixels.gpkg"
    points_at(pixels, scene, [[44.5 / 245, 198.5 / 199]])
    embed(
        EmbedRequest(
            scene=str(scene),
            output=str(tmp_path / "embedding.tif"),
            components=4,
            dtype="float32",
            tile_size=96,
        )
    )
    _, _, centre = run(scene, pixels, tmp_path / "centre.parquet", components=4)
    with rasterio.open(tmp_path / "embedding.tif") as dataset:
        np.testing.assert_allclose(centre[0], dataset.read()[:, 198, 44], atol=2e-5)
    # The photo stands in this pixel, within half a pixel of its centre.
    assert np.abs(found - centre).max() < 0.3


def test_patches_up_to_74_degrees_north_hold_their_place_of_the_index(shared, tmp_path):
    folder = shared / "data/world_patches"
    (index,) = folder.rglob("index.csv")
    for name in ("patch_25630", "patch_75123"):
        (scene,) = folder.rglob(f"{name}.tif")
        result, frame, found = run(scene, index, tmp_path / f"{name}.parquet", components=2)
        assert result.points == 1
        assert name in frame["fn"].iloc[0]
        assert np.isfinite(found).all()


@pytest.mark.parametrize("count", [1, 30, 400])
def test_grouping_changes_no_value(count, demo, shared):
    engine = Engine(demo, "cpu", 96)
    rows = demo.basis.components
    (path,) = (shared / "data/laos_scene").glob("*.tif")
    with Scene.open(path, gsd=10.0) as scene:
        uv = np.random.default_rng(count).random((count, 2)) * [1, 0.25]
        uv[0] = 0.0001
        places = Places.of(uv, (scene.grid.width, scene.grid.height), 8)
        groups = plan_groups(engine, scene, places)
        assert np.array_equal(np.sort(np.concatenate([g.points for g in groups])), np.arange(count))
        options = {
            "transform": lambda f: demo.nili.lattice(f, rows),
            "rim_weight": demo.nili.rim_weight(rows),
        }
        found, valid = sample_places(engine, scene, places, groups, **options)
        assert valid.all()
        one = [type(groups[0])(np.arange(count), engine.plan(scene, places.window(np.arange(count))))]
        expected, _ = sample_places(engine, scene, places, one, **options)
    assert sum(group.plan.count for group in groups) <= one[0].plan.count
    np.testing.assert_array_equal(found, expected)


class _Whole:
    """A scene of a whole Sentinel-2 tile, of which only the size matters."""

    class grid:  # noqa: N801
        height = width = 10980


def test_few_points_in_a_large_scene_need_few_tiles(demo):
    engine = Engine(demo, "cpu")
    for count, most in ((3, 12), (100, 250), (1000, 2000)):
        uv = np.random.default_rng(0).random((count, 2))
        groups = plan_groups(engine, _Whole(), Places.of(uv, (10980, 10980), 8))
        assert sum(group.plan.count for group in groups) <= most
    crowd = np.random.default_rng(0).random((100_000, 2))
    assert len(plan_groups(engine, _Whole(), Places.of(crowd, (10980, 10980), 8))) == 1


def test_points_outside_or_without_data_are_left_out_by_name(tmp_path):
    dn = scenes.textured(96, 96)
    dn[:, :, 48:] = 0
    scene = scenes.write(tmp_path / "scene.tif", dn, nodata=0)
    with rasterio.open(scene) as dataset:
        xy = [dataset.xy(50, 10), dataset.xy(50, 60), dataset.xy(50, 96), dataset.xy(20, 47)]
    frame = geopandas.GeoDataFrame(
        {"name": ["in", "empty", "out", "edge", "nowhere"], "height": [1, 2, 3, 4, 5]},
        geometry=[*(Point(place) for place in xy), None],
        crs="EPSG:32632",
    )
    frame.to_file(tmp_path / "points.gpkg")
    result, kept, _ = run(scene, tmp_path / "points.gpkg", tmp_path / "out.parquet", components=2)
    assert kept["name"].tolist() == ["in", "edge"]
    assert kept["height"].tolist() == [1, 4]
    assert result.points == 2
    text = " ".join(result.warnings)
    assert "without a position: nowhere" in text
    assert "outside the scene: out" in text
    assert "on pixels without data: empty" in text


def test_every_format_holds_the_same(tmp_path):
    scene = scenes.write(tmp_path / "scene ä.tif", scenes.textured(96, 96))
    points = points_at(tmp_path / "points ä.gpkg", scene, [[0.2, 0.3], [0.7, 0.8]], "EPSG:32632")
    _, _, expected = run(scene, points, tmp_path / "out ä.parquet", components=2)
    for suffix in ("gpkg", "geojson", "csv"):
        output = tmp_path / f"out ä.{suffix}"
        options = {"scene": str(scene), "points": str(points), "output": str(output), "tile_size": 96}
        sample(SampleRequest(**options, components=2))
        frame = pd.read_csv(output) if suffix == "csv" else geopandas.read_file(output)
        np.testing.assert_allclose(frame[["embedding_0", "embedding_1"]], expected, rtol=1e-5)
        assert frame["number"].tolist() == [0, 1]


def test_a_csv_goes_in_and_out_with_its_columns(shared, tmp_path):
    folder = shared / "data/gair_pairs"
    options = {"scene": str(folder / "queries/tokyo_rs.tif"), "points": str(folder / "photos.csv")}
    sample(SampleRequest(**options, output=str(tmp_path / "out.csv"), components=1))
    frame = pd.read_csv(tmp_path / "out.csv")
    assert frame.columns[:5].tolist() == ["lon", "lat", "id", "photo", "scene"]
    assert not [name for name in frame.columns if name.endswith("_2")]
    assert (frame["lon"][0], frame["lat"][0]) == (139.75009, 35.657349)


def test_photos_with_exif_positions_are_points(shared, tmp_path):
    """A scene made around the photos of Arezzo; those of Berlin and Helsinki lie outside."""
    dn = scenes.textured(160, 160)
    scene = tmp_path / "arezzo.tif"
    profile = {"driver": "GTiff", "count": 10, "height": 160, "width": 160, "dtype": "uint16"}
    transform = rasterio.transform.from_origin(11.873, 43.474, 0.0001, 0.0001)
    with rasterio.open(scene, "w", **profile, crs="EPSG:4326", transform=transform) as dataset:
        dataset.write(dn)
        dataset.descriptions = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
    result, frame, _ = run(scene, shared / "data/photos_exif", tmp_path / "out.parquet", components=2)
    assert (result.points, result.left_out) == (9, 4)
    assert all("arezzo" in name for name in frame["photo"])
    assert frame.geometry.iloc[0].x == pytest.approx(11.885127, abs=1e-6)
    assert frame["taken"].iloc[0].startswith("2008-10-22T16:28:39")


def test_photos_without_a_scene_around_them_are_an_error(shared, tmp_path):
    options = {
        "scene": str(shared / "data/gair_pairs/queries/tokyo_rs.tif"),
        "points": str(shared / "data/photos_exif"),
        "output": str(tmp_path / "out.csv"),
    }
    with pytest.raises(BadInputError, match="None of the 13 points lies in the scene"):
        sample(SampleRequest(**options))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_the_tiles_and_writes_nothing(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(400, 400))
    points = points_at(tmp_path / "points.gpkg", scene, [[0.01, 0.01], [0.99, 0.99]])
    before = sorted(tmp_path.iterdir())
    options = {"scene": str(scene), "points": str(points), "output": str(tmp_path / "out.csv")}
    estimate = sample(SampleRequest(**options, components=3, tile_size=96, dry_run=True))
    assert isinstance(estimate, Estimate)
    assert (estimate.tiles, estimate.bytes) == (2, 2 * 3 * 4)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"components": 17}, "has 16 components, 17 were asked for"),
        ({"points": "missing.gpkg"}, "missing.gpkg"),
        ({"points": "missing.csv"}, "does not exist"),
        ({"points": "names.csv"}, "no columns for longitude and latitude; it has name, east"),
        ({"points": "swapped.csv"}, "swapped all of them do"),
        ({"points": "range.csv"}, "longitudes lie in"),
        ({"points": "none.csv"}, "has a position"),
        ({"points": "broken.gpkg"}, "cannot be read as a table"),
        ({"points": "lines.gpkg"}, "is a LineString; points are needed"),
        ({"output": "out.tif"}, "must end in"),
        ({"output": "points.gpkg"}, "is the input"),
        ({"output": "nowhere/out.csv"}, "does not exist"),
    ],
)
def test_bad_input_is_refused_in_words_and_leaves_nothing(change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(96, 96))
    points_at(tmp_path / "points.gpkg", scene, [[0.5, 0.5]])
    lon, lat = geopandas.read_file("points.gpkg").geometry.iloc[0].coords[0]
    (tmp_path / "names.csv").write_text("name,east\na,1\n")
    (tmp_path / "swapped.csv").write_text(f"lon,lat\n{lat},{lon}\n")
    (tmp_path / "range.csv").write_text("x,y\n450000,5500000\n")
    (tmp_path / "none.csv").write_text("lon,lat\n,\n")
    (tmp_path / "broken.gpkg").write_bytes(b"SQLite format 3\0" + bytes(50))
    line = geopandas.GeoDataFrame(geometry=[LineString([(lon, lat), (lon + 1, lat)])], crs="EPSG:4326")
    line.to_file(tmp_path / "lines.gpkg")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    options = {"scene": "scene.tif", "points": "points.gpkg", "output": "out.csv"} | change
    with pytest.raises(BadInputError, match=message):
        sample(SampleRequest(**options))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_cancel_leaves_nothing(tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(300, 300))
    points = points_at(tmp_path / "points.gpkg", scene, [[0.1, 0.1], [0.9, 0.9]])
    before = sorted(tmp_path.iterdir())

    class Impatient(Progress):
        def report(self, *_):
            self.cancel()

    with pytest.raises(CancelledError):
        sample(
            SampleRequest(scene=str(scene), points=str(points), output=str(tmp_path / "o.csv")), Impatient()
        )
    assert sorted(tmp_path.iterdir()) == before
