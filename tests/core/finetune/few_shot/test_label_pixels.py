"""Pixels of labels: the same as rasterio's, whatever the pieces, and each with one class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from shapely.geometry import Point, Polygon, box

from gair_core.finetune.few_shot import label_pixels
from gair_core.finetune.few_shot.label_pixels import label_places
from gair_core.finetune.few_shot.labels import LabelLayer, read_labels
from gair_core.geo.grid import Grid
from gair_core.heads.base import HeadClass

GRID = Grid("EPSG:32632", Affine(10, 0, 500_000, 0, -10, 5_600_000), 30, 20)
CLASSES = tuple(HeadClass(value=i + 1, name=f"{i}", colour=(i, i, i)) for i in range(3))


def layer_of(shapes: list[Any], target: list[int], crs: str = "EPSG:32632") -> LabelLayer:
    return LabelLayer(
        "test", gpd.GeoSeries(shapes, crs=crs), np.array(target), CLASSES, (), style="", field="class"
    )


def pixel_box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """A rectangle in pixels of GRID."""
    return box(500_000 + 10 * left, 5_600_000 - 10 * bottom, 500_000 + 10 * right, 5_600_000 - 10 * top)


def burnt(shape: Any, grid: Grid = GRID) -> np.ndarray[Any, Any]:
    return rasterize([shape], out_shape=(grid.height, grid.width), transform=grid.transform).astype(bool)


def classes_of(places: Any, grid: Grid = GRID) -> np.ndarray[Any, Any]:
    image = np.full((grid.height, grid.width), -1)
    image[places.row, places.col] = places.target
    return image


def test_real_polygons_to_the_pixel(shared: Path) -> None:
    folder = shared / "data" / "germany_polygons"
    layer = read_labels(folder / "training_polygons.gpkg", "class")
    with rasterio.open(folder / "sen2.tif") as dataset:
        grid = Grid.from_dataset(dataset)
    places = label_places(layer, grid)
    # The counts that the data's own description gives.
    by_name = dict(zip((one.name for one in layer.classes), places.labelled.tolist(), strict=True))
    assert by_name == {
        "grass": 1037, "village": 769, "agriculture": 652, "forest": 537, "bare ground": 375, "water": 130
    }  # fmt: skip
    for shape, (geometry, target) in enumerate(zip(layer.shapes, layer.target, strict=True)):
        image = np.zeros((grid.height, grid.width), bool)
        chosen = places.polygon == shape
        image[places.row[chosen], places.col[chosen]] = True
        assert np.array_equal(image, burnt(geometry, grid))
        assert (places.target[chosen] == target).all()
    assert not places.outside.any()
    assert places.disputed == 0


@st.composite
def polygons(draw: st.DrawFn) -> Polygon:
    corners = draw(
        st.lists(st.tuples(st.floats(-5, 35), st.floats(-5, 25)), min_size=3, max_size=7, unique=True)
    )
    hull = shapely.convex_hull(shapely.MultiPoint(corners))
    if hull.geom_type != "Polygon":
        hull = shapely.box(*hull.buffer(0.2).bounds)
    return shapely.transform(hull, lambda xy: xy * [10, -10] + [500_000, 5_600_000])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(polygons(), st.integers(0, 2)), min_size=1, max_size=6), st.integers(1, 400))
def test_any_polygons_equal_rasterio(drawn: list[tuple[Polygon, int]], step: int) -> None:
    shapes, target = [shape for shape, _ in drawn], [number for _, number in drawn]
    images = np.stack([burnt(shape) for shape in shapes])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_pixels, "_STEP", step)
        places = label_places(layer_of(shapes, target), GRID)
    claimed = np.stack([images[[t == c for t in target]].any(axis=0) for c in range(3)])
    expected = np.where(claimed.sum(axis=0) == 1, claimed.argmax(axis=0), -1)
    found = classes_of(places)
    # Beyond GDAL's pixels there are only the single ones of polygons without any.
    without = [shape for shape, image in zip(shapes, images, strict=True) if not image.any()]
    differing = int((found != expected).sum())
    assert differing <= len(without)
    if not without:
        assert differing == 0
        assert places.disputed == int((claimed.sum(axis=0) > 1).sum())
    keys = places.row * GRID.width + places.col
    assert len(np.unique(keys)) == len(keys)


def test_two_classes_on_one_place_are_left_out_and_counted() -> None:
    shapes = [pixel_box(0, 0, 10, 10), pixel_box(5, 0, 15, 10), pixel_box(20, 0, 25, 5)]
    places = label_places(layer_of(shapes, [0, 1, 1]), GRID)
    assert places.disputed == 50
    assert places.disputing == {(0, 1)}
    assert places.labelled.tolist() == [50, 75, 0]


def test_one_class_on_one_place_counts_once() -> None:
    places = label_places(layer_of([pixel_box(0, 0, 10, 10), pixel_box(5, 0, 15, 10)], [0, 0]), GRID)
    assert places.disputed == 0
    assert np.bincount(places.polygon).tolist() == [100, 50]


def test_points_and_tiny_polygons_are_a_pixel_each() -> None:
    tiny = pixel_box(3.6, 4.6, 3.9, 4.9)
    point = Point(500_000 + 10 * 7.2, 5_600_000 - 10 * 8.9)
    places = label_places(layer_of([tiny, point], [0, 1]), GRID)
    assert [*zip(places.row, places.col, places.target, places.polygon, strict=True)] == [
        (4, 3, 0, 0),
        (8, 7, 1, 1),
    ]
    assert places.small == 1


def test_points_that_contradict() -> None:
    """Each other, and a polygon of another class; one in a polygon of its own class adds nothing."""
    polygon = pixel_box(0, 0, 5, 5)
    points = [
        pixel_box(c + 0.3, r + 0.3, c + 0.4, r + 0.4).centroid for c, r in [(2, 2), (3, 3), (9, 9), (9, 9)]
    ]
    places = label_places(layer_of([polygon, *points], [0, 1, 0, 1, 2]), GRID)
    assert places.disputed == 2
    assert places.disputing == {(0, 1), (1, 2)}
    assert len(places) == 24
    assert set(places.polygon.tolist()) == {0}


def test_outside_and_partly_outside() -> None:
    shapes = [pixel_box(-10, 0, -5, 5), pixel_box(-5, 0, 5, 5), pixel_box(10, 10, 12, 12), Point(0, 0)]
    places = label_places(layer_of(shapes, [0, 0, 1, 1]), GRID)
    assert places.outside.tolist() == [True, False, False, True]
    assert places.partly.tolist() == [False, True, False, False]


def test_another_crs_is_reprojected() -> None:
    shapes = [pixel_box(2, 2, 8, 8), pixel_box(10.2, 3.3, 25.1, 17.4)]
    own = label_places(layer_of(shapes, [0, 1]), GRID)
    degrees = gpd.GeoSeries(shapes, crs="EPSG:32632").to_crs("EPSG:4326")
    moved = label_places(layer_of(list(degrees), [0, 1], "EPSG:4326"), GRID)
    assert np.array_equal(classes_of(own), classes_of(moved))


def test_a_scene_across_the_date_line() -> None:
    grid = Grid("EPSG:4326", Affine(0.01, 0, 179.9, 0, -0.01, 1), 20, 20)
    layer = layer_of([box(-179.99, 0.85, -179.95, 0.9), box(179.92, 0.85, 179.95, 0.9)], [0, 1], "EPSG:4326")
    image = classes_of(label_places(layer, grid), grid)
    assert (image[10:15, 11:15] == 0).all()
    assert (image[10:15, 2:5] == 1).all()


def test_a_crs_that_is_not_defined_there() -> None:
    layer = layer_of([box(8, 50, 8.1, 50.1), box(-170, -80, -169, -79)], [0, 1], "EPSG:4326")
    assert label_places(layer, GRID).outside.all()


def test_a_turned_grid() -> None:
    transform = Affine.translation(500_000, 5_600_000) * Affine.rotation(30) * Affine.scale(10, -10)
    grid = Grid("EPSG:32632", transform, 30, 20)
    shape = Point(transform * (15, 10)).buffer(60)
    assert np.array_equal(
        classes_of(label_places(layer_of([shape], [0]), grid), grid) == 0, burnt(shape, grid)
    )


def test_thinning_is_even_and_does_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [pixel_box(0, 0, 10, 20), pixel_box(12, 0, 14, 2), pixel_box(20, 0, 30, 20)]
    layer = layer_of(shapes, [0, 0, 1])
    whole = label_places(layer, GRID, per_class=24)
    assert np.bincount(whole.polygon).tolist() == [20, 4, 24]
    assert whole.labelled.tolist() == [204, 200, 0]
    monkeypatch.setattr(label_pixels, "_STEP", 20)
    pieces = label_places(layer, GRID, per_class=24)
    order, other = np.lexsort((whole.col, whole.row)), np.lexsort((pieces.col, pieces.row))
    assert np.array_equal(whole.row[order], pieces.row[other])
    assert np.array_equal(whole.col[order], pieces.col[other])
    different = label_places(layer, GRID, per_class=24, seed=1)
    assert set(zip(different.row, different.col, strict=True)) != set(zip(whole.row, whole.col, strict=True))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 500))
def test_the_quota_is_the_largest_that_fits(sizes: list[int], limit: int) -> None:
    quota = label_pixels._quota(np.array(sizes), limit)

    def kept(most: int) -> int:
        return sum(min(size, most) for size in sizes)

    assert quota == 1 or kept(quota) <= limit
    assert quota >= max(sizes) or kept(quota + 1) > limit
