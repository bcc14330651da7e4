"""The best places of photos in a scene: against brute force over every patch and pixel."""

from __future__ import annotations

import itertools

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
from gair_core.inference.embed import EmbedRequest, embed
from gair_core.inference.engine import Engine
from gair_core.inference.lattice import LatticeStrip
from gair_core.inference.locate import LocateRequest, locate
from gair_core.inference.peaks import PeakFinder, refine
from gair_core.inference.request import Estimate
from gair_core.model import GAIR
from gair_core.photos.preprocess import preprocess
from gair_core.photos.reading import open_photo
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene
from tests.core.inference import scenes

GEOD = pyproj.Geod(ellps="WGS84")


@pytest.fixture(scope="module")
def demo():
    return checkpoint.load("demo")


@pytest.fixture(scope="module")
def tokyo(shared):
    return shared / "data/gair_pairs/queries/tokyo_rs.tif"


def run(scene, photos, output, **options):
    request = LocateRequest(
        scene=str(scene), photos=str(photos), output=str(output), **({"tile_size": 96} | options)
    )
    return locate(request), geopandas.read_file(output)


def embedding(model, path):
    with torch.no_grad():
        pixels = preprocess(open_photo(path), model.config.street_view)[None]
        return F.normalize(model.encode_street_view(pixels), dim=-1)[0]


def cosines_of_pixels(scene, queries, folder, **options):
    """Cosine of every pixel, by way of the full embeddings: (photos, rows, columns)."""
    output = folder / "all.tif"
    options |= {"components": "all", "dtype": "float32", "tile_size": 96}
    embed(EmbedRequest(scene=str(scene), output=str(output), **options))
    with rasterio.open(output) as dataset:
        z = torch.from_numpy(dataset.read())
    return torch.einsum("kd,dyx->kyx", queries, F.normalize(z, dim=0)).numpy()


def test_scores_are_exact_cosines_at_pixel_centres_of_a_real_scene(demo, tokyo, shared, tmp_path):
    gallery = shared / "data/gair_pairs/gallery"
    result, frame = run(tokyo, gallery, tmp_path / "places.gpkg", radius=300, places=3)
    assert (result.photos, result.skipped, result.places) == (3, 0, len(frame))
    names = sorted(path.name for path in gallery.iterdir())
    oracle = cosines_of_pixels(tokyo, torch.stack([embedding(demo, gallery / n) for n in names]), tmp_path)
    with rasterio.open(tokyo) as dataset:
        for name, cosines in zip(names, oracle, strict=True):
            places = frame[frame["photo"] == name]
            assert places["rank"].tolist() == list(range(1, len(places) + 1))
            assert places["score"].is_monotonic_decreasing
            for score, point in zip(places["score"], places.geometry, strict=True):
                row, column = dataset.index(point.x, point.y)
                assert (point.x, point.y) == pytest.approx(dataset.xy(row, column), abs=1e-9)
                assert score == pytest.approx(cosines[row, column], abs=1e-5)
            for one, other in itertools.combinations(places.geometry, 2):
                assert GEOD.inv(one.x, one.y, other.x, other.y)[2] >= 300


def expected_places(nodes, pixels, reach, radius, places):
    """The definition, literally: best patches of their windows, their best pixels, then by distance."""
    found = []
    for row, column in np.ndindex(nodes.shape):
        window = nodes[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        if nodes[row, column] < window.max():
            continue
        y, x = (
            np.abs((np.arange(n) + 0.5) / 8 - 0.5 - at) < 1
            for n, at in zip(pixels.shape, (row, column), strict=True)
        )
        near = np.where(np.outer(y, x), pixels, -np.inf)
        best = np.unravel_index(near.argmax(), near.shape)
        found.append((near.max(), *map(int, best)))
    kept = []
    for place in sorted(set(found), reverse=True):
        if all(np.hypot(place[1] - k[1], place[2] - k[2]) * 10 >= radius for k in kept):
            kept.append(place)
    return kept[:places]


@pytest.mark.parametrize("radius", [0, 100, 250])
def test_places_follow_their_definition_to_the_pixel(radius, demo, shared, tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(163, 150))
    gallery = shared / "data/gair_pairs/gallery"
    _, frame = run(scene, gallery, tmp_path / "places.gpkg", radius=radius, places=4)
    queries = torch.stack([embedding(demo, path) for path in sorted(gallery.iterdir())])
    pixels = cosines_of_pixels(scene, queries, tmp_path)
    nodes = cosines_of_pixels(scene, queries, tmp_path, resolution="lattice")
    with rasterio.open(scene) as dataset:
        for path, *cosines in zip(sorted(gallery.iterdir()), nodes, pixels, strict=True):
            # On the ground UTM's metres are a few ten thousandths longer or shorter.
            expected = expected_places(*cosines, max(1, radius // 80), radius, 4)
            places = frame[frame["photo"] == path.name].to_crs(dataset.crs)
            found = [dataset.index(point.x, point.y) for point in places.geometry]
            assert found == [place[1:] for place in expected]
            np.testing.assert_allclose(places["score"], [place[0] for place in expected], atol=1e-5)


def made_products(rows, columns, queries, seed=0, dimensions=7):
    generator = torch.Generator().manual_seed(seed)
    lattice = torch.randn(dimensions, rows, columns, generator=generator)
    vectors = F.normalize(torch.randn(queries, dimensions, generator=generator), dim=-1)
    return lattice, vectors


def split(lattice, valid, cuts):
    edges = [0, *cuts, lattice.shape[1]]
    for start, stop in itertools.pairwise(edges):
        yield LatticeStrip(start, lattice[:, start:stop], valid[start * 8 : stop * 8])


@pytest.mark.parametrize("cuts", [[], [1], [12], [3, 4, 5, 20], list(range(1, 31))])
@pytest.mark.parametrize("reach", [(1, 1), (3, 2), (50, 50)])
def test_peaks_agree_with_brute_force_however_the_strips_are_cut(cuts, reach):
    lattice, vectors = made_products(31, 17, 3)
    valid = np.ones((31 * 8, 17 * 8), np.bool_)
    valid[80:130, 20:60] = False
    finder = PeakFinder(vectors, torch.zeros(7, 2), shape=(31, 17), patch=8, reach=reach, keep=6)
    for strip in split(lattice, valid, cuts):
        finder.add(strip)
    cosines = torch.einsum("kd,dyx->kyx", vectors.double(), F.normalize(lattice.double(), dim=0)).numpy()
    enough = valid.reshape(31, 8, 17, 8).mean(axis=(1, 3)) >= 0.5
    cosines[:, ~enough] = -np.inf
    for query in range(3):
        expected = []
        for row, column in np.argwhere(enough):
            window = cosines[
                query,
                max(row - reach[0], 0) : row + reach[0] + 1,
                max(column - reach[1], 0) : column + reach[1] + 1,
            ]
            if cosines[query, row, column] == window.max():
                expected.append((cosines[query, row, column], row, column))
        expected = sorted(expected, reverse=True)[:6]
        found = [(peak.score, peak.row, peak.column) for peak in finder.peaks(query)]
        assert [place[1:] for place in found] == [place[1:] for place in expected]
        np.testing.assert_allclose([p[0] for p in found], [p[0] for p in expected], atol=1e-6)
        lower = (cosines[query][enough] < expected[0][0]).mean() * 100
        assert finder.percentile(query, expected[0][0]) == pytest.approx(lower, abs=100 / enough.sum())


@pytest.mark.parametrize("place", scenes.PLACES)
@pytest.mark.parametrize("pixel", [(0, 0), (57, 33), (119, 90), (70, 4)])
def test_the_embedding_of_a_pixel_is_found_in_that_pixel(place, pixel, demo, tmp_path):
    scene_path = scenes.write(tmp_path / "scene.tif", scenes.textured(120, 91), place)
    embed(
        EmbedRequest(
            scene=str(scene_path), output=str(tmp_path / "all.tif"), components="all", dtype="float32"
        )
    )
    with rasterio.open(tmp_path / "all.tif") as dataset:
        query = F.normalize(torch.from_numpy(dataset.read()[:, pixel[0], pixel[1]]), dim=0)
    engine, rim = Engine(demo, "cpu"), demo.nili.coordinate_weight
    with Scene.open(scene_path, gsd=10.0) as scene:
        plan = engine.plan(scene)
        shape = plan.window.height, plan.window.width
        finder = PeakFinder(query[None], rim, shape=shape, patch=8, reach=(1, 1), keep=10)
        for strip in engine.strips(scene, plan, demo.nili.lattice):
            finder.add(strip)
        options = {"native": scene.native, "model": scene.grid, "patch": 8, "query": query, "rim_weight": rim}
        best = max((refine(peak, **options) for peak in finder.peaks(0)), key=lambda found: found.score)
    assert (best.row, best.column) == pixel
    assert best.score == pytest.approx(1, abs=1e-5)


def test_places_are_never_on_nodata(demo, shared, tmp_path):
    dn = scenes.textured(160, 160)
    dn[:, 30:, :] = 0
    scene = scenes.write(tmp_path / "scene.tif", dn, nodata=0)
    photo = shared / "data/gair_pairs/gallery/tokyo_sv.jpg"
    _, frame = run(scene, photo, tmp_path / "places.gpkg", radius=0, places=50)
    assert len(frame) > 1
    with rasterio.open(scene) as dataset:
        places = frame.to_crs(dataset.crs).geometry
        rows = [dataset.index(point.x, point.y)[0] for point in places]
    assert max(rows) < 30


def test_a_scene_without_data_is_an_error(shared, tmp_path):
    scene = scenes.write(tmp_path / "scene.tif", np.zeros((10, 96, 96), np.uint16), nodata=0)
    photo = shared / "data/gair_pairs/gallery/tokyo_sv.jpg"
    with pytest.raises(BadInputError):
        run(scene, photo, tmp_path / "places.gpkg")
    assert list(tmp_path.iterdir()) == [scene]


def test_coordinates_do_not_guide_and_are_compared(tokyo, shared, tmp_path):
    folder = shared / "data/gair_pairs"
    _, alone = run(tokyo, folder / "gallery", tmp_path / "alone.gpkg")
    _, table = run(tokyo, folder / "photos.csv", tmp_path / "table.gpkg")
    assert alone["score"].tolist() == pytest.approx(table["score"].tolist())
    assert alone["distance_m"].isna().all()
    row = table[table["photo"] == "gallery/tokyo_sv.jpg"].iloc[0]
    expected = GEOD.inv(row.geometry.x, row.geometry.y, 139.75009, 35.657349)[2]
    assert row["distance_m"] == pytest.approx(expected)


def test_panoramas_are_seen_as_views(demo, tokyo, shared, tmp_path):
    """A table says which photos are panoramas; the plain picture of one would score otherwise."""
    folder = shared / "data/photos_csv"
    result, frame = run(tokyo, folder / "photos.csv", tmp_path / "table.gpkg", places=1)
    assert (result.photos, len(frame)) == (25, 25)
    _, plain = run(tokyo, folder / "images", tmp_path / "plain.gpkg", places=1)
    table = frame.assign(name=frame["photo"].str.rsplit("/", n=1).str[-1]).set_index("name")
    differ = (table["score"] - plain.set_index("photo")["score"]).abs() > 1e-9
    assert differ.sum() == 9


def test_unusable_photos_are_skipped_by_name(tokyo, shared, tmp_path):
    folder = tmp_path / "photos ä"
    folder.mkdir()
    whole = (shared / "data/gair_pairs/gallery/tokyo_sv.jpg").read_bytes()
    (folder / "a good.jpg").write_bytes(whole)
    (folder / "broken.jpg").write_bytes(whole[:3000])
    Image.new("RGBA", (30, 20)).save(folder / "transparent.png")
    (folder / "notes.txt").write_text("no photo")
    result, frame = run(tokyo, folder, tmp_path / "places.gpkg", places=1)
    assert frame["photo"].tolist() == ["a good.jpg", "transparent.png"]
    assert (result.photos, result.skipped) == (2, 1)
    assert any("broken.jpg is skipped" in warning for warning in result.warnings)


def test_a_dry_run_writes_nothing(tokyo, shared, tmp_path):
    request = LocateRequest(
        scene=str(tokyo),
        photos=str(shared / "data/gair_pairs/gallery"),
        output=str(tmp_path / "places.gpkg"),
        dry_run=True,
        tile_size=96,
        margin=12,
    )
    estimate = locate(request)
    assert isinstance(estimate, Estimate)
    assert estimate.tiles == 9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photos": "nowhere.csv"}, "does not exist"),
        ({"photos": "empty"}, "holds no photos"),
        ({"photos": "broken.jpg"}, "None of the 1 photos"),
        ({"photos": "missing.jpg"}, "missing.jpg does not exist"),
        ({"photos": "gone.csv"}, "None of the 2 photos"),
        ({"photos": "table.csv"}, "one column with paths of photos; found id, lon, lat"),
        ({"photos": "table.csv", "photo_field": "where"}, "where"),
        ({"output": "out.tif"}, "must end in"),
        ({"model": "places.safetensors"}, "needs a model with the part 'street_view'"),
    ],
)
def test_bad_input_is_refused_in_words_and_leaves_nothing(change, message, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenes.write(tmp_path / "scene.tif", scenes.textured(96, 96))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    (tmp_path / "table.csv").write_text("id,lon,lat\n1,2,3\n")
    (tmp_path / "gone.csv").write_text("photo,lon,lat\ngone.jpg,2,3\n,2,3\n")
    torch.manual_seed(0)
    places = GAIRConfig.preset("tiny").model_copy(update={"street_view": None})
    checkpoint.save(GAIR(places).eval(), tmp_path / "places.safetensors")
    before = sorted(tmp_path.iterdir())
    photo = str(shared / "data/gair_pairs/gallery/tokyo_sv.jpg")
    options = {"scene": "scene.tif", "photos": photo, "output": "out.gpkg"} | change
    with pytest.raises(BadInputError, match=message):
        locate(LocateRequest(**options))
    assert sorted(tmp_path.iterdir()) == before


def test_cancel_leaves_nothing(tokyo, shared, tmp_path):
    class Impatient(Progress):
        def report(self, fraction, *_):
            if fraction > 0.3:
                self.cancel()

    photos, output = str(shared / "data/gair_pairs/gallery"), str(tmp_path / "places.gpkg")
    with pytest.raises(CancelledError):
        locate(LocateRequest(scene=str(tokyo), photos=photos, output=output, tile_size=96), Impatient())
    assert list(tmp_path.iterdir()) == []
