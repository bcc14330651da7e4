"""A bright object at known coordinates is found to the pixel in every output, in several CRS.

`test_embed`, `test_segment` and `test_locate` look closer at single outputs; here all of them see one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from PIL import Image

from gair_core.config import StreetViewConfig
from gair_core.geo.footprint import Footprint
from gair_core.inference.change import ChangeRequest, change
from gair_core.inference.locate import LocateRequest, locate
from gair_core.inference.location_map import mesh
from gair_core.inference.sample import SampleRequest, sample
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.inference.similarity import SimilarityRequest, similarity
from gair_core.model import GAIR
from gair_core.sentinel2.scene import Scene
from tests.core.inference import brightness, scenes

SHAPE = (160, 136)
# First and last patch of the object, rows and columns, on the model's grid.
PATCHES = ((5, 9), (3, 8))
PHOTOS = StreetViewConfig(image_size=16, patch_size=16, width=16, depth=1, num_heads=1)


@dataclass(frozen=True)
class World:
    """A dark scene, the same with a bright object, and models that see brightness.

    Attributes:
        edges: Top, bottom, left and right of the object in pixels of the scene.
        tolerance: Pixels by which a found edge may differ: whole pixels in metres, where the patches coincide
            with them; elsewhere the resampled edge may fall on the next one.
    """

    folder: Path
    dark: Path
    bright: Path
    edges: tuple[int, int, int, int]
    tolerance: int
    place: str

    @property
    def footprint(self) -> Footprint:
        with rasterio.open(self.bright) as dataset:
            return Footprint.from_dataset(dataset)

    def model(self, name: str) -> str:
        return str(self.folder / f"{name}.safetensors")

    def assert_edges(self, inside: np.ndarray, top: int = 0, left: int = 0) -> None:
        """Compare the object in a raster that begins at a row and column of the scene."""
        rows, columns = np.nonzero(inside)
        found = [rows.min() + top, rows.max() + 1 + top, columns.min() + left, columns.max() + 1 + left]
        assert np.abs(np.subtract(found, self.edges)).max() <= self.tolerance, found

    def assert_grid(self, path: Path, top: int = 0, left: int = 0) -> None:
        with rasterio.open(self.bright) as scene, rasterio.open(path) as output:
            assert output.crs == scene.crs
            shifted = scene.transform @ rasterio.Affine.translation(left, top)
            assert output.transform.almost_equals(shifted, 1e-9)


@pytest.fixture(scope="module", params=scenes.PLACES)
def world(request, tmp_path_factory) -> World:
    folder, place = tmp_path_factory.mktemp("world"), request.param
    model = brightness.save_model(folder / "encoder.safetensors", PHOTOS)
    brightness.save_bright_head(folder / "bright.safetensors", model)
    brightness.save_change_head(folder / "change.safetensors", model)
    nothing = brightness.scene_with_object(SHAPE, slice(0, 0), slice(0, 0))
    dark = scenes.write(folder / "dark.tif", nothing, place)
    with Scene.open(dark) as scene:
        between = ~scene.native.transform @ scene.grid.transform
    (first_row, last_row), (first_column, last_column) = PATCHES
    left, top = (round(value) for value in between @ (8 * first_column, 8 * first_row))
    right, bottom = (round(value) for value in between @ (8 * last_column, 8 * last_row))
    dn = brightness.scene_with_object(SHAPE, slice(top, bottom), slice(left, right))
    bright = scenes.write(folder / "scene.tif", dn, place)
    tolerance = 0 if place in ("utm", "rotated") else 1
    return World(folder, dark, bright, (top, bottom, left, right), tolerance, place)


@pytest.fixture
def query(world, monkeypatch) -> tuple[torch.Tensor, float]:
    """Let every photo look like what is bright; returns the query and its cosine halfway to the dark."""
    model = brightness.checkpoint.load(world.model("encoder"))
    dark, bright = (brightness.embedding(model, dn) for dn in (brightness.DARK, brightness.BRIGHT))
    vector = F.normalize(bright - dark, dim=0)
    monkeypatch.setattr(GAIR, "encode_street_view", lambda _, photos, **__: vector.expand(len(photos), -1))
    return vector, float(F.cosine_similarity(vector, dark + bright, dim=0))


def photos_at(world: World, folder: Path, uv) -> Path:
    lonlat = world.footprint.lonlat(uv)
    for index in range(len(uv)):
        Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(folder / f"{index}.png")
    frame = geopandas.GeoDataFrame(
        {"photo": [f"{index}.png" for index in range(len(uv))]},
        geometry=geopandas.points_from_xy(*lonlat.T),
        crs="EPSG:4326",
    )
    frame.to_file(folder / "photos.gpkg", driver="GPKG")
    return folder / "photos.gpkg"


def middle(world: World) -> list[float]:
    top, bottom, left, right = world.edges
    return [(left + right) / 2 / SHAPE[1], (top + bottom) / 2 / SHAPE[0]]


def read(path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def test_the_confidence_is_least_along_the_outline(world, tmp_path):
    confidence = tmp_path / "confidence.tif"
    segment(
        SegmentRequest(
            scene=str(world.bright),
            output=str(tmp_path / "classes.tif"),
            confidence=str(confidence),
            model=world.model("bright"),
            tile_size=96,
        )
    )
    world.assert_edges(read(tmp_path / "classes.tif") == 7)
    world.assert_grid(tmp_path / "classes.tif")
    world.assert_grid(confidence)
    top, bottom, left, right = world.edges
    percent = read(confidence).astype(float)
    across, down = percent[(top + bottom) // 2], percent[:, (left + right) // 2]
    for line, edges in ((across, (left, right)), (down, (top, bottom))):
        for edge in edges:
            near = slice(edge - 4, edge + 4)
            lowest = np.flatnonzero(line[near] == line[near].min()).mean() + edge - 4 + 0.5
            assert abs(lowest - edge) <= 0.5 + world.tolerance


def test_change_between_two_dates(world, tmp_path):
    names = {"before": str(world.dark), "after": str(world.bright), "output": str(tmp_path / "change.tif")}
    change(ChangeRequest(**names, model=world.model("change"), tile_size=96))
    world.assert_edges(read(tmp_path / "change.tif") == 2)
    world.assert_grid(tmp_path / "change.tif")
    change(ChangeRequest(**names, model=world.model("encoder"), tile_size=96))
    distance = read(tmp_path / "change.tif")
    model = brightness.checkpoint.load(world.model("encoder"))
    dark, bright = (brightness.embedding(model, dn) for dn in (brightness.DARK, brightness.BRIGHT))
    halfway = 1 - float(F.cosine_similarity(dark, dark + bright, dim=0))
    world.assert_edges(distance > halfway)


def test_the_map_of_similarity_and_the_best_match_of_its_photos(world, query, tmp_path):
    photos = photos_at(world, tmp_path, [middle(world), [0.05, 0.05]])
    output = tmp_path / "map.tif"
    options = {"scene": str(world.bright), "photos": str(photos), "model": world.model("encoder")}
    similarity(SimilarityRequest(**options, output=str(output), tile_size=96))
    world.assert_edges(read(output) > query[1])
    world.assert_grid(output)
    scored = geopandas.read_file(tmp_path / "map_photos.gpkg")
    assert scored["similarity"][0] > query[1] > scored["similarity"][1]
    top, bottom, left, right = world.edges
    for row in scored.itertuples():
        column, line = world.footprint.uv([[row.best_lon, row.best_lat]])[0] * (SHAPE[1], SHAPE[0])
        assert left < column < right
        assert top < line < bottom
    assert scored["best_distance_m"][0] < 300 < scored["best_distance_m"][1]


def test_the_window_around_a_photo(world, query, tmp_path):
    photos = photos_at(world, tmp_path, [middle(world)])
    output = tmp_path / "windows"
    options = {"scene": str(world.bright), "photos": str(photos), "model": world.model("encoder")}
    similarity(
        SimilarityRequest(**options, output=str(output), mode="photo", radius=350, scores=False, tile_size=96)
    )
    with rasterio.open(output / "0.tif") as window, rasterio.open(world.bright) as scene:
        left, top = (round(value) for value in ~scene.transform @ window.transform @ (0, 0))
        assert 0 < left < world.edges[2]
        assert 0 < top < world.edges[0]
        assert window.width < scene.width
    world.assert_edges(read(output / "0.tif") > query[1], top, left)
    world.assert_grid(output / "0.tif", top, left)


def test_points_just_inside_and_just_outside(world, query, tmp_path):
    top, bottom, left, right = world.edges
    step = 0.5 + world.tolerance
    row, column = (top + bottom) / 2, (left + right) / 2
    pixels = [
        (edge + sign * side * step, row) for edge, side in ((left, -1), (right, 1)) for sign in (1, -1)
    ] + [(column, edge + sign * side * step) for edge, side in ((top, -1), (bottom, 1)) for sign in (1, -1)]
    points = tmp_path / "points.gpkg"
    lonlat = world.footprint.lonlat(np.array(pixels) / (SHAPE[1], SHAPE[0]))
    frame = geopandas.GeoDataFrame(geometry=geopandas.points_from_xy(*lonlat.T), crs="EPSG:4326")
    frame.to_crs("EPSG:3857").to_file(points, driver="GPKG")
    options = {"scene": str(world.bright), "model": world.model("encoder"), "tile_size": 96}
    sample(SampleRequest(**options, points=str(points), output=str(tmp_path / "out.parquet")))
    table = geopandas.read_parquet(tmp_path / "out.parquet")
    values = F.normalize(torch.from_numpy(np.stack(table["embedding"])), dim=-1)
    inside = (values @ query[0] > query[1]).tolist()
    assert inside == [False, True] * 4


def test_the_best_place_of_a_photo_lies_on_the_object(world, query, tmp_path):
    photos = photos_at(world, tmp_path, [[0.05, 0.05]])
    options = {"scene": str(world.bright), "model": world.model("encoder"), "tile_size": 96}
    request = LocateRequest(**options, photos=str(photos), output=str(tmp_path / "places.gpkg"), places=1)
    locate(request)
    (point,) = geopandas.read_file(tmp_path / "places.gpkg").geometry
    column, row = world.footprint.uv([[point.x, point.y]])[0] * (SHAPE[1], SHAPE[0])
    top, bottom, left, right = world.edges
    assert top < row < bottom
    assert left < column < right
    # Places are centres of the scene's own pixels.
    assert (column % 1, row % 1) == pytest.approx((0.5, 0.5), abs=1e-4)


def test_a_location_map_over_the_scene_has_its_bounds_and_pixels(world):
    if world.place == "rotated":
        pytest.skip("a mesh is north up")
    with rasterio.open(world.bright) as scene:
        grid = mesh(tuple(scene.bounds), scene.crs.to_string(), scene.res[0])
        assert grid.width == scene.width
        assert grid.bounds[:2] == pytest.approx(scene.bounds[:2], abs=scene.res[0])
