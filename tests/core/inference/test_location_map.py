"""Cosines of a photo with places: at the right places in any CRS, and nothing where there is no Earth."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import rasterio
import torch
import torch.nn.functional as F

from gair_core import checkpoint
from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError, CancelledError
from gair_core.inference import location_map as module
from gair_core.inference.location_map import LocationMapRequest, location_map, mesh, mesh_lonlat
from gair_core.inference.request import Estimate
from gair_core.model import GAIR
from gair_core.photos.panoramas import views
from gair_core.photos.preprocess import preprocess
from gair_core.photos.reading import open_photo
from gair_core.progress import Progress


@pytest.fixture(scope="module")
def photo(shared):
    return str(shared / "data/gair_pairs/gallery/tokyo_sv.jpg")


@pytest.fixture(scope="module")
def cosine(photo):
    """The cosine at a place, by the model's public methods."""
    model = checkpoint.load("demo")
    with torch.no_grad():
        g = model.encode_street_view(preprocess(open_photo(photo), model.config.street_view)[None])

    def at(lon, lat) -> float:
        with torch.no_grad():
            e = model.encode_location(torch.tensor([[lon, lat]], dtype=torch.float64))
        return float(F.cosine_similarity(g, e))

    return at


def run(photo, output, extent, **options):
    return location_map(LocationMapRequest(photo=photo, output=str(output), extent=extent, **options))


@pytest.mark.parametrize(
    "place",
    [
        ((-180, -90, 180, 90), "EPSG:4326", 6.0),
        ((139.5, 35.4, 140.0, 35.8), "EPSG:4326", 0.01),
        ((380_000, 3_940_000, 400_000, 3_960_000), "EPSG:32654", 500.0),
        ((15_500_000, 4_200_000, 15_600_000, 4_300_000), "EPSG:3857", 2500.0),
        ((-3e6, -3e6, 3e6, 3e6), "EPSG:3995", 100_000.0),
    ],
)
def test_pixels_are_cosines_at_their_centres(place, photo, cosine, tmp_path):
    extent, crs, resolution = place
    result = run(photo, tmp_path / "map.tif", extent, extent_crs=crs, resolution=resolution)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        values = dataset.read(1)
        assert dataset.crs == rasterio.crs.CRS.from_user_input(crs)
        assert dataset.bounds == pytest.approx(extent)
        assert dataset.res == pytest.approx((resolution, resolution))
        assert dataset.dtypes == ("float32",)
        to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        for row, column in ((0, 0), (3, 11), (values.shape[0] - 1, values.shape[1] - 1)):
            expected = cosine(*to_lonlat.transform(*dataset.xy(row, column)))
            assert values[row, column] == pytest.approx(expected, abs=1e-5)
        best = dataset.xy(*np.unravel_index(values.argmax(), values.shape))
    assert (result.best_longitude, result.best_latitude) == pytest.approx(to_lonlat.transform(*best))
    assert (result.minimum, result.maximum) == pytest.approx((values.min(), values.max()))
    assert (tmp_path / "map.qml").exists()


def test_an_extent_may_cross_the_date_line(photo, cosine, tmp_path):
    run(photo, tmp_path / "map.tif", (176, -20, -176, -14), resolution=0.5)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.bounds == pytest.approx((176, -20, 184, -14))
        values = dataset.read(1)
    assert values[0, 0] == pytest.approx(cosine(176.25, -14.25), abs=1e-5)
    assert values[-1, -1] == pytest.approx(cosine(-176.25, -19.75), abs=1e-5)


def test_places_are_exact_at_extreme_latitudes(shared):
    """Pixels of real patches up to 74 degrees north, through their own UTM zones, to a centimetre."""
    for name, zone in (("patch_25630", 32622), ("patch_75123", 32719)):
        (path,) = (shared / "data/world_patches").rglob(f"{name}.tif")
        with rasterio.open(path) as dataset:
            assert dataset.crs.to_epsg() == zone
            grid = mesh(tuple(dataset.bounds), f"EPSG:{zone}", dataset.res[0])
            assert grid.width == dataset.width
            places = mesh_lonlat(grid, 128, 1)
            x, y = dataset.xy(128, 77)
        back = pyproj.Transformer.from_crs("EPSG:4326", zone, always_xy=True).transform(*places[77])
        assert back == pytest.approx((x, y), abs=0.01)


def test_outside_the_outline_of_the_world_there_is_nothing(photo, tmp_path):
    run(
        photo, tmp_path / "map.tif", (-17.1e6, -8.7e6, 17.1e6, 8.7e6), extent_crs="ESRI:54030", resolution=3e5
    )
    with rasterio.open(tmp_path / "map.tif") as dataset:
        values = dataset.read(1)
    assert np.isnan(values[[0, 0, -1, -1], [0, -1, 0, -1]]).all()
    assert np.isfinite(values[values.shape[0] // 2, 1:-1]).all()
    assert 0.7 < np.isfinite(values).mean() < 0.95


def test_batches_do_not_change_the_result(photo, tmp_path, monkeypatch):
    extent, options = (0, 40, 10, 50), {"resolution": 0.5}
    run(photo, tmp_path / "one.tif", extent, **options)
    monkeypatch.setitem(module._POINTS, "cpu", 7)
    run(photo, tmp_path / "many.tif", extent, **options)
    with rasterio.open(tmp_path / "one.tif") as one, rasterio.open(tmp_path / "many.tif") as many:
        np.testing.assert_allclose(one.read(), many.read(), atol=1e-6)


def test_a_dry_run_writes_nothing(photo, tmp_path):
    estimate = run(photo, tmp_path / "map.tif", (0, 40, 10, 50), resolution=0.1, dry_run=True)
    assert isinstance(estimate, Estimate)
    assert estimate.tiles == -(-100 * 100 // 2048)
    assert estimate.bytes == 100 * 100 * 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extent": (10, 40, 10, 50)}, "empty or turned around"),
        ({"extent": (0, 50, 10, 40)}, "empty or turned around"),
        ({"extent": (500_000, 40, 600_000, 50)}, "leaves the Earth"),
        ({"extent": (-180, -91, 180, 90)}, "leaves the Earth"),
        ({"extent": (10, 40, 400, 50)}, "390 degrees wide"),
        ({"resolution": 1e-5}, "too fine"),
        ({"extent_crs": "EPSG:999999"}, "not a coordinate reference system"),
        ({"extent": (3e7, 3e7, 3.1e7, 3.1e7), "extent_crs": "ESRI:54030"}, "lies on Earth"),
        ({"photo": "missing.jpg"}, "does not exist"),
        ({"device": "abacus"}, "no device"),
    ],
)
def test_bad_input_is_refused_in_words_and_leaves_nothing(change, message, photo, tmp_path):
    options = {"photo": photo, "extent": (0, 40, 10, 50)} | change
    with pytest.raises(BadInputError, match=message):
        location_map(LocationMapRequest(output=str(tmp_path / "map.tif"), **options))
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_location_encoder_is_named(photo, tmp_path):
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    checkpoint.save(GAIR(GAIRConfig.preset("tiny").model_copy(update={"location": None})).eval(), path)
    with pytest.raises(BadInputError, match="needs a model with the part 'location'"):
        run(photo, tmp_path / "map.tif", (0, 40, 10, 50), model=str(path))
    assert list(tmp_path.iterdir()) == [path]


def test_cancel_leaves_nothing(photo, tmp_path):
    class Impatient(Progress):
        def report(self, *_):
            self.cancel()

    with pytest.raises(CancelledError):
        location_map(
            LocationMapRequest(photo=photo, output=str(tmp_path / "map.tif"), extent=(-180, -90, 180, 90)),
            Impatient(),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_panorama_is_seen_through_its_front_view(shared, tmp_path):
    (source,) = (shared / "data/photos_csv/images").glob("ac9263d9*")
    picture = open_photo(source).resize((1600, 800))
    tag = '<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'{tag} GPano:ProjectionType="equirectangular"/></rdf:RDF></x:xmpmeta>'
    )
    picture.save(tmp_path / "panorama.jpg", xmp=xmp.encode())
    _, front = next(views(open_photo(tmp_path / "panorama.jpg")))
    front.save(tmp_path / "front.png")
    seen = [
        run(str(tmp_path / name), tmp_path / f"{name}.tif", (0, 40, 10, 50), resolution=1).maximum
        for name in ("panorama.jpg", "front.png")
    ]
    assert seen[0] == pytest.approx(seen[1], abs=1e-6)
