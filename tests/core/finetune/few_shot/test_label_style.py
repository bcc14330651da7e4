"""Colours of classes: from QGIS's styles, else a palette."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from shapely.geometry import box

from gair_core.finetune.few_shot.label_style import (
    distinct_colours,
    find_legend,
    read_categories,
    usual_colours,
)
from gair_core.finetune.few_shot.labels import read_labels

# As QGIS 3.22 writes it, cut to what is read; the second symbol is as of QGIS 3.34, the third before 3.16.
QML = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.4" styleCategories="AllStyleCategories">
 <renderer-v2 type="categorizedSymbol" attr="class" symbollevels="0" forceraster="0">
  <categories>
   <category symbol="2" value="water" label="Wasser" render="true"/>
   <category symbol="0" value="forest, dense" label="" render="true"/>
   <category symbol="1" value="" label="" render="true"><val value="7"/><val value="8"/></category>
   <category symbol="1" value="" label="else" render="true"/>
  </categories>
  <symbols>
   <symbol name="0" type="fill"><layer class="SimpleFill" enabled="1"><Option type="Map">
     <Option name="color" type="QString" value="31,120,180,255"/></Option>
     <prop k="color" v="31,120,180,255"/></layer></symbol>
   <symbol name="1" type="fill"><layer class="SimpleFill"><Option type="Map">
     <Option name="color" type="QString" value="51,160,44,255,rgb:0.2,0.6274510,0.1725490,1"/></Option>
     </layer></symbol>
   <symbol name="2" type="line"><layer class="SimpleLine"><prop k="line_color" v="1,2,3,255"/></layer>
   </symbol>
  </symbols>
 </renderer-v2>
</qgis>"""


def labels(path: Path, classes: list[object]) -> Path:
    frame = gpd.GeoDataFrame({"class": classes}, geometry=[box(0, 0, 9, 9)] * len(classes), crs="EPSG:32632")
    frame.to_file(path, layer="labels", engine="pyogrio")
    return path


def test_categories_of_three_versions_of_qgis() -> None:
    found = read_categories(QML, "class")
    assert {value: entry.colour for value, entry in found.items()} == {
        "water": (1, 2, 3),
        "forest, dense": (31, 120, 180),
        "7": (51, 160, 44),
        "8": (51, 160, 44),
    }
    assert found["water"].label == "Wasser"
    assert found["7"].label == ""


@pytest.mark.parametrize(
    "qml", ["", "<qgis", "<qgis/>", QML.replace("categorizedSymbol", "singleSymbol"), "<!ENTITY x 'y'>"]
)
def test_styles_without_categories(qml: str) -> None:
    assert read_categories(qml, "class") == {}


def test_a_style_by_another_field() -> None:
    assert read_categories(QML, "other") == {}
    assert read_categories(QML.replace('attr="class"', "attr='\"class\"'"), "class")


def test_entities_are_not_expanded() -> None:
    bomb = '<!DOCTYPE q [<!ENTITY a "water">]>' + QML.split("\n", 1)[1].replace('"water"', '"&a;"')
    assert read_categories(bomb, "class") == {}


def test_a_style_beside_the_file(tmp_path: Path) -> None:
    path = labels(tmp_path / "labels.gpkg", ["meadow", "forest, dense", "water"])
    path.with_suffix(".qml").write_text(QML, encoding="utf-8")
    layer = read_labels(path, "class")
    # The legend's order, then what it lacks; a text stays the name.
    assert [one.name for one in layer.classes] == ["water", "forest, dense", "meadow"]
    assert [one.colour for one in layer.classes[:2]] == [(1, 2, 3), (31, 120, 180)]
    assert layer.style == "labels.qml"


def test_a_style_inside_the_geopackage(tmp_path: Path) -> None:
    path = labels(tmp_path / "labels.gpkg", ["water", "meadow"])
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY, f_table_name TEXT, styleQML TEXT, "
            "useAsDefault BOOLEAN)"
        )
        database.execute("INSERT INTO layer_styles VALUES (1, 'other', 'x', 1)")
        database.execute("INSERT INTO layer_styles VALUES (2, 'labels', ?, 1)", (QML,))
        database.commit()
    before = sorted(tmp_path.iterdir())
    layer = read_labels(path, "class")
    assert layer.classes[0].colour == (1, 2, 3)
    assert layer.style == "layer_styles of labels.gpkg"
    assert sorted(tmp_path.iterdir()) == before


def test_labels_name_numbers(tmp_path: Path) -> None:
    path = labels(tmp_path / "labels.gpkg", [3, 11])
    named = QML.replace('value="water"', 'value="11"')
    path.with_suffix(".qml").write_text(named, encoding="utf-8")
    layer = read_labels(path, "class")
    assert [(one.value, one.name) for one in layer.classes] == [(11, "Wasser"), (3, "3")]


def test_a_damaged_style_is_no_obstacle(tmp_path: Path) -> None:
    path = labels(tmp_path / "labels.gpkg", ["a", "b"])
    path.with_suffix(".qml").write_bytes(b"\xff\xfe<qgis")
    assert read_labels(path, "class").style == ""


def test_no_style_at_all(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "polygons.gpkg"
    shutil.copy(shared / "data" / "germany_polygons" / "training_polygons.gpkg", path)
    assert find_legend(path, "training_polygons", "class").entries == {}


@pytest.mark.parametrize("used", [(), ((68, 119, 170), (0, 0, 0), (255, 255, 255))])
def test_palette_colours_are_distinct(used: tuple[tuple[int, int, int], ...]) -> None:
    colours = distinct_colours(200, used)
    assert len(set(colours) | set(used)) == 200 + len(used)
    assert colours == distinct_colours(200, used)
    few = np.array(distinct_colours(12, used) + list(used), dtype=float)
    apart = np.sqrt(((few[:, None] - few[None]) ** 2).sum(axis=-1))
    assert apart[~np.eye(len(few), dtype=bool)].min() > 40


def test_usual_land_cover_has_its_usual_colours(tmp_path: Path) -> None:
    names = ["Water", "dense forest", "Wasser", "Wiese", "deforested", "seasonal", "solar", "village"]
    usual = usual_colours(names)
    assert set(usual) == {"Water", "dense forest", "Wiese", "village"}
    blue, green = usual["Water"], usual["dense forest"]
    assert blue[2] == max(blue)
    assert green[1] == max(green)
    layer = read_labels(labels(tmp_path / "labels.gpkg", names), "class")
    colours = {one.name: one.colour for one in layer.classes}
    assert len(set(colours.values())) == len(names)
    # By name Wasser comes first, and a colour is given once.
    assert colours["Wasser"] == blue
    assert {name: colours[name] for name in ("dense forest", "Wiese", "village")} == {
        name: usual[name] for name in ("dense forest", "Wiese", "village")
    }
