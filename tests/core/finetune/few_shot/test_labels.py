"""Labels as users have them: fields, geometries, and what is said about those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box

from gair_core.errors import BadInputError
from gair_core.finetune.few_shot.labels import LabelLayer, read_labels

SQUARE = box(0, 0, 10, 10)


def write(path: Path, geometry: list[Any], classes: list[Any], *, crs: str | None = "EPSG:32632") -> Path:
    gpd.GeoDataFrame({"class": classes}, geometry=geometry, crs=crs).to_file(path, engine="pyogrio")
    return path


def names(layer: LabelLayer) -> list[str]:
    return [one.name for one in layer.classes]


def test_real_polygons(shared: Path) -> None:
    layer = read_labels(shared / "data" / "germany_polygons" / "training_polygons.gpkg", "class")
    assert names(layer) == ["agriculture", "bare ground", "forest", "grass", "village", "water"]
    assert layer.counts().tolist() == [4, 3, 4, 4, 5, 2]
    assert [one.value for one in layer.classes] == [1, 2, 3, 4, 5, 6]
    assert len({one.colour for one in layer.classes}) == 6
    assert layer.warnings == ()


def test_names_with_commas_quotes_and_other_alphabets(tmp_path: Path) -> None:
    wild = ["Wald, dicht", 'the "old" one', "it's", "Gewässer", "森林", "лес", "<b>&amp;</b>"]
    path = write(tmp_path / "labels.gpkg", [SQUARE] * len(wild), wild)
    layer = read_labels(path, "class")
    assert set(names(layer)) == set(wild)
    assert layer.target.tolist() == [names(layer).index(name) for name in wild]


def test_numbers_stay_the_values(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.gpkg", [SQUARE] * 3, [41, 7, 300])
    layer = read_labels(path, "class")
    assert [(one.value, one.name) for one in layer.classes] == [(7, "7"), (41, "41"), (300, "300")]


def test_numbers_that_no_raster_holds_become_names(tmp_path: Path) -> None:
    layer = read_labels(write(tmp_path / "labels.gpkg", [SQUARE] * 2, [0, -3]), "class")
    assert [(one.value, one.name) for one in layer.classes] == [(1, "-3"), (2, "0")]


def test_whole_numbers_with_nulls_come_as_floats(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.gpkg", [SQUARE] * 3, [1.0, None, 2.0])
    layer = read_labels(path, "class")
    assert names(layer) == ["1", "2"]
    assert "1 feature of 3 have no class" in layer.warnings[0]


def test_measurements_are_no_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.gpkg", [SQUARE] * 2, [0.25, 0.5])
    with pytest.raises(BadInputError, match=r"measurements such as 0\.25"):
        read_labels(path, "class")


def test_nulls_and_blanks_are_dropped_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.gpkg", [SQUARE] * 5, ["a", None, "  ", "b ", ""])
    layer = read_labels(path, "class")
    assert names(layer) == ["a", "b"]
    assert layer.warnings == (
        "labels.gpkg: 3 features of 5 have no class and are left out; the first is feature 2.",
    )


def test_200_classes_have_200_colours(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.gpkg", [SQUARE] * 200, [f"class {i}" for i in range(200)])
    layer = read_labels(path, "class")
    assert len(layer.classes) == 200
    assert len({one.colour for one in layer.classes}) == 200


def test_a_field_of_identifiers_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.gpkg", [SQUARE] * 1001, list(range(1001)))
    with pytest.raises(BadInputError, match="1001 different values"):
        read_labels(path, "class")


def test_one_class_only(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.gpkg", [SQUARE] * 3, ["forest", "forest", None])
    with pytest.raises(BadInputError, match="same class 'forest'") as caught:
        read_labels(path, "class")
    assert "1 feature of 3 have no class" in caught.value.message
    assert "not forest" in caught.value.hint


def test_no_class_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.gpkg", [SQUARE] * 2, ["", None])
    with pytest.raises(BadInputError, match="No polygon or point"):
        read_labels(path, "class")


def test_a_missing_field_lists_the_others(shared: Path) -> None:
    with pytest.raises(BadInputError, match="no field 'klass'; it has class"):
        read_labels(shared / "data" / "germany_polygons" / "training_polygons.gpkg", "klass")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="do not exist"):
        read_labels(tmp_path / "no.gpkg", "class")


def test_something_else_than_a_vector_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.gpkg"
    path.write_bytes(b"no GeoPackage")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_labels(path, "class")


def test_layers_must_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "labels.gpkg"
    for layer in ("one", "two"):
        frame = gpd.GeoDataFrame({"class": ["a", "b"]}, geometry=[SQUARE, SQUARE], crs="EPSG:32632")
        frame.to_file(path, layer=layer, engine="pyogrio")
    with pytest.raises(BadInputError, match="2 layers: one, two"):
        read_labels(path, "class")
    with pytest.raises(BadInputError, match="no layer 'three'"):
        read_labels(path, "class", layer="three")
    assert len(read_labels(path, "class", layer="two").target) == 2


def test_no_crs(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no coordinate reference system"):
        read_labels(write(tmp_path / "labels.gpkg", [SQUARE] * 2, ["a", "b"], crs=None), "class")


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_geometries_are_repaired_or_dropped_and_said(tmp_path: Path) -> None:
    bow_tie = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    spike = Polygon([(0, 0), (10, 0), (0, 0)])
    geometry = [SQUARE, bow_tie, spike, LineString([(0, 0), (1, 1)]), None, Polygon(), Point(3, 3)]
    path = write(tmp_path / "labels.gpkg", geometry, ["a", "b", "b", "b", "b", "b", "a"])
    layer = read_labels(path, "class")
    assert layer.counts().tolist() == [2, 2]  # the bow tie's halves are polygons of their own
    said = " ".join(layer.warnings)
    assert "2 features of 7 have no geometry and are left out; the first is feature 5" in said
    assert "2 features of 7 with invalid polygons" in said
    assert "2 features of 7 are lines or have no area and are left out; the first is feature 3" in said
    assert shapely.is_valid(layer.shapes.to_numpy()).all()


def test_parts_count_on_their_own(tmp_path: Path) -> None:
    ring = Polygon(SQUARE.exterior.coords, [box(2, 2, 4, 4).exterior.coords])
    parts = MultiPolygon([ring, box(20, 0, 30, 10)])
    path = write(tmp_path / "labels.gpkg", [parts, MultiPoint([(1, 1), (2, 2), (3, 3)])], ["a", "b"])
    layer = read_labels(path, "class")
    assert layer.target.tolist() == [0, 0, 1, 1, 1]
    assert layer.shapes.iloc[0].area == 96


def test_heights_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.gpkg", [shapely.force_3d(SQUARE, 5.0), SQUARE], ["a", "b"])
    assert not shapely.has_z(read_labels(path, "class").shapes.to_numpy()).any()


def test_points_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("lon,lat,class\n8.0,50.5,a\n8.1,50.6,b\n,,b\n", encoding="utf-8")
    layer = read_labels(path, "class")
    assert layer.counts().tolist() == [1, 1]
    assert np.allclose(layer.shapes.iloc[1].coords[0], (8.1, 50.6))
