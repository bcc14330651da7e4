"""`gair:segment` through Processing and the real worker: classes, confidence, polygons and their styles."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from qgis import processing
from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputLayerDefinition,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtGui import QColor, QImage

from .made_scenes import made_scene

pytestmark = pytest.mark.usefixtures("provider", "gair_python")

#: The demo head's classes: value and colour.
COLOURS = {1: "#419bdf", 2: "#397d49", 3: "#88b053", 4: "#e49635", 5: "#a59b8f", 6: "#c4281b", 7: "#a8ebff"}


@pytest.fixture
def detroit(shared: Path, tmp_path: Path) -> Path:
    """A copy, since QGIS leaves its statistics beside what it opens."""
    return Path(shutil.copy(shared / "data/gair_pairs/queries/detroit_rs.tif", tmp_path))


def segment(**parameters: object) -> dict[str, object]:
    return processing.run("gair:segment", {"OUTPUT": "TEMPORARY_OUTPUT", **parameters})


def pixels(path: object) -> np.ndarray:
    return gdal.Open(str(path)).ReadAsArray()


def test_input_and_output_alone_give_coloured_classes_on_the_scenes_grid(detroit):
    result = segment(INPUT=str(detroit))
    assert set(result) == {"OUTPUT", "CLASS_COUNT", "POLYGON_COUNT"}
    values = pixels(result["OUTPUT"])
    assert values.shape == (181, 246)
    assert values.dtype == np.uint8
    assert result["CLASS_COUNT"] == len(set(np.unique(values)) - {0}) > 1
    layer = QgsRasterLayer(result["OUTPUT"], "classes")
    assert layer.crs() == QgsCoordinateReferenceSystem("EPSG:4326")
    assert layer.extent() == QgsRasterLayer(str(detroit), "scene").extent()
    assert layer.renderer().type() == "paletted"
    legend = {int(one.value): (one.label, one.color.name()) for one in layer.renderer().classes()}
    assert legend[1][0] == "water"
    assert {value: colour for value, (_, colour) in legend.items()} == COLOURS


def test_confidence_is_percent_with_a_ramp(detroit, tmp_path):
    confidence = tmp_path / "sure.tif"
    result = segment(INPUT=str(detroit), CONFIDENCE=str(confidence))
    assert result["CONFIDENCE"] == str(confidence)
    values = pixels(confidence)
    assert values.shape == (181, 246)
    # The best of seven classes has at least a seventh.
    assert values.min() >= 14
    assert values.max() <= 100
    layer = QgsRasterLayer(str(confidence), "confidence")
    assert layer.renderer().type() == "singlebandpseudocolor"
    ramp = layer.renderer().shader().rasterShaderFunction()
    assert (ramp.minimumValue(), ramp.maximumValue()) == (0, 100)


def test_polygons_cover_the_classes_and_have_their_colours(tmp_path):
    made_scene(tmp_path / "scene.tif")
    result = segment(INPUT=str(tmp_path / "scene.tif"), POLYGONS="TEMPORARY_OUTPUT")
    values = pixels(result["OUTPUT"])
    layer = QgsVectorLayer(result["POLYGONS"], "polygons")
    assert layer.featureCount() == result["POLYGON_COUNT"] > 0
    assert layer.crs() == QgsCoordinateReferenceSystem("EPSG:32632")
    areas: dict[int, float] = {}
    for feature in layer.getFeatures():
        areas[feature["value"]] = areas.get(feature["value"], 0) + feature.geometry().area() / 100
    assert areas == {value: np.sum(values == value) for value in np.unique(values) if value}
    renderer = layer.renderer()
    assert renderer.type() == "categorizedSymbol"
    assert renderer.classAttribute() == "value"
    found = {int(one.value()): one.symbol().color().name() for one in renderer.categories()}
    assert found == COLOURS


@pytest.mark.parametrize("suffix", [".geojson", ".csv"])
def test_polygons_in_other_formats(tmp_path, suffix):
    made_scene(tmp_path / "scene.tif")
    polygons, output = tmp_path / f"fields{suffix}", tmp_path / "classes.tif"
    result = segment(INPUT=str(tmp_path / "scene.tif"), POLYGONS=str(polygons), OUTPUT=str(output))
    layer = QgsVectorLayer(str(polygons), "polygons")
    assert layer.featureCount() == result["POLYGON_COUNT"] > 0
    assert {"value", "name", "area_m2"} <= {field.name() for field in layer.fields()}
    assert (tmp_path / "fields.qml").exists()


def test_a_polygons_style_does_not_replace_the_rasters(tmp_path):
    made_scene(tmp_path / "scene.tif")
    segment(
        INPUT=str(tmp_path / "scene.tif"),
        POLYGONS=str(tmp_path / "a.geojson"),
        OUTPUT=str(tmp_path / "a.tif"),
    )
    assert QgsRasterLayer(str(tmp_path / "a.tif"), "a").renderer().type() == "paletted"


def test_pixels_without_data_are_0(tmp_path):
    values = made_scene(tmp_path / "scene.tif")
    values[:, 20:40, 30:60] = 0
    made_scene(tmp_path / "scene.tif", values=values)
    result = segment(
        INPUT=str(tmp_path / "scene.tif"), CONFIDENCE="TEMPORARY_OUTPUT", POLYGONS="TEMPORARY_OUTPUT"
    )
    missing = np.zeros((100, 120), bool)
    missing[20:40, 30:60] = True
    np.testing.assert_array_equal(pixels(result["OUTPUT"]) == 0, missing)
    np.testing.assert_array_equal(pixels(result["CONFIDENCE"]) == 255, missing)


def test_a_large_scene_is_cut_by_an_extent_in_degrees(shared, tmp_path):
    laos = next((shared / "data/laos_scene").glob("*.tif"))
    scene = shutil.copy(laos, tmp_path)
    output = segment(INPUT=scene, EXTENT="103.72,103.73,17.92,17.93 [EPSG:4326]")["OUTPUT"]
    layer, whole = QgsRasterLayer(output, "part"), QgsRasterLayer(scene, "scene")
    assert layer.crs() == whole.crs()
    # A hundredth of a degree and the turn of the grids, at 17.9 degrees north.
    assert 106 <= layer.width() <= 112
    assert 110 <= layer.height() <= 116
    assert whole.extent().contains(layer.extent())
    offset = (layer.extent().xMinimum() - whole.extent().xMinimum()) / whole.rasterUnitsPerPixelX()
    assert offset == pytest.approx(round(offset), abs=1e-6)


def test_layers_to_be_loaded_are_named_after_the_scene_unless_somebody_named_them(detroit, tmp_path):
    context, project = QgsProcessingContext(), QgsProject()
    scene = QgsRasterLayer(str(detroit), "Detroit in May")
    outputs = {name: str(tmp_path / f"{name}.tif") for name in ("OUTPUT", "CONFIDENCE")}
    destinations = {name: QgsProcessingOutputLayerDefinition(path, project) for name, path in outputs.items()}
    destinations["CONFIDENCE"].destinationName = "My confidence"
    processing.run("gair:segment", {"INPUT": scene, **destinations}, context=context)
    names = {path: details.name for path, details in context.layersToLoadOnCompletion().items()}
    assert names == {outputs["OUTPUT"]: "Classes of Detroit in May", outputs["CONFIDENCE"]: "My confidence"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"MODEL": "nothing"}, "'nothing'"),
        ({"OUTPUT": "SAME", "CONFIDENCE": "SAME"}, "overwrite each other"),
    ],
)
def test_failures_raise_and_leave_nothing(detroit, tmp_path, parameters, message):
    output = str(tmp_path / "out.tif")
    given = {name: output if value == "SAME" else value for name, value in parameters.items()}
    with pytest.raises(QgsProcessingException, match=message):
        segment(**{"INPUT": str(detroit), "OUTPUT": output, **given})
    assert not list(tmp_path.glob("out*"))


def test_the_encoder_of_a_head_can_be_named(tmp_path, gair_python):
    made_scene(tmp_path / "scene.tif", width=96, height=96)
    scene, head, encoder = (
        str(tmp_path / name) for name in ("scene.tif", "head.safetensors", "encoder.safetensors")
    )
    code = (
        "import sys, gair_core; from gair_core.head_checkpoint import load_head, save_head\n"
        "head, model = load_head('demo'); gair_core.save(model, sys.argv[2])\n"
        "save_head(head, sys.argv[1], gair_core.load(sys.argv[2]))"
    )
    subprocess.run([str(gair_python), "-c", code, head, encoder], check=True, capture_output=True)
    assert (pixels(segment(INPUT=scene, MODEL=head, BACKBONE=encoder)["OUTPUT"]) > 0).all()
    with pytest.raises(QgsProcessingException, match="nobody knows"):
        segment(INPUT=scene, MODEL=head, BACKBONE="nobody knows")


def test_a_series_is_given_as_further_layers_with_their_dates(tmp_path, gair_python):
    values = made_scene(tmp_path / "spring.tif")
    made_scene(tmp_path / "summer_20200813.tif", values=values[:, ::-1].copy())
    head = str(tmp_path / "head.safetensors")
    code = (
        "import sys\n"
        "import torch\n"
        "from gair_core import load\n"
        "from gair_core.head_checkpoint import save_head\n"
        "from gair_core.heads import HeadMetadata\n"
        "from gair_core.heads.temporal import SeriesLTAEConfig, SeriesLTAEHead\n"
        "torch.manual_seed(0)\n"
        "model = load('demo')\n"
        "width = model.config.remote_sensing.width\n"
        "classes = [{'value': v, 'name': str(v), 'colour': (v, 0, 0)} for v in (1, 2)]\n"
        "config = SeriesLTAEConfig(embed_dim=width, decoder='linear', attention_heads=4)\n"
        "head = SeriesLTAEHead(config, HeadMetadata(classes=classes)).eval()\n"
        "save_head(head, sys.argv[1], model)"
    )
    subprocess.run([str(gair_python), "-c", code, head], check=True, capture_output=True)
    scene, other = str(tmp_path / "spring.tif"), str(tmp_path / "summer_20200813.tif")
    layer = QgsRasterLayer(other, "summer")
    given = segment(INPUT=scene, SERIES=[layer], DATES="2020-04-01, 2020-08-13", MODEL=head)
    assert (pixels(given["OUTPUT"]) > 0).all()
    with pytest.raises(QgsProcessingException, match=r"not known when .*spring\.tif was taken"):
        segment(INPUT=scene, SERIES=[other], MODEL=head)
    with pytest.raises(QgsProcessingException, match="looks at a series of dates; found one date") as info:
        segment(INPUT=scene, MODEL=head)
    assert "SERIES" in str(info.value)
    with pytest.raises(QgsProcessingException, match="looks at one date; found 2 dates"):
        segment(INPUT=scene, SERIES=[other], DATES="2020-04-01,2020-08-13", MODEL="demo")


def test_the_scene_is_never_overwritten(detroit):
    before = detroit.read_bytes()
    with pytest.raises(QgsProcessingException):
        segment(INPUT=str(detroit), OUTPUT=str(detroit))
    assert detroit.read_bytes() == before


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("scene.tif", "is the input. Inputs are never overwritten"),
        ("notes.xyz", "QGIS knows no format for polygons in"),
        ("missing/classes.geojson", "missing of the output classes.geojson does not exist"),
    ],
)
def test_impossible_destinations_of_polygons_are_refused_before_any_work(tmp_path, destination, message):
    made_scene(tmp_path / "scene.tif")
    (tmp_path / "notes.xyz").write_text("not GAIR's")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    outputs = {"OUTPUT": str(tmp_path / "out.tif"), "POLYGONS": str(tmp_path / destination)}
    with pytest.raises(QgsProcessingException, match=message):
        segment(INPUT=str(tmp_path / "scene.tif"), **outputs)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_web_map_is_copied_for_the_extent_and_refused_for_what_it_is(tmp_path):
    tile = QImage(256, 256, QImage.Format.Format_RGB32)
    tile.fill(QColor("green"))
    assert tile.save(str(tmp_path / "tile.png"))
    # The same picture for every tile; its places are in the part of the address that files do not have.
    address = f"file://{tmp_path}/tile.png%3F%7Bz%7D/%7Bx%7D/%7By%7D"
    layer = QgsRasterLayer(f"type=xyz&url={address}&zmin=0&zmax=14", "web map", "wms")
    assert layer.isValid()
    extent = "1200000,1202000,6000000,6002000 [EPSG:3857]"
    with pytest.raises(QgsProcessingException, match=r"^'web map' is an 8-bit display image"):
        segment(INPUT=layer, EXTENT=extent, OUTPUT=str(tmp_path / "out.tif"))
    assert not (tmp_path / "out.tif").exists()


def test_cancelling_in_mid_run_leaves_nothing(shared, tmp_path):
    class Impatient(QgsProcessingFeedback):
        """Cancels when the first tile is done."""

        def setProgressText(self, text: str) -> None:
            if "tile" in text:
                self.cancel()

    scene = shutil.copy(next((shared / "data/laos_scene").glob("*.tif")), tmp_path)
    outputs = {"OUTPUT": str(tmp_path / "out.tif"), "POLYGONS": str(tmp_path / "out.gpkg")}
    with pytest.raises(QgsProcessingException, match="Cancelled"):
        processing.run("gair:segment", {"INPUT": scene, **outputs}, feedback=Impatient(False))
    assert not list(tmp_path.glob("out*"))
