"""`gair:trainhead` through Processing and the real worker: layers as users have them, colours, the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from qgis import processing
from qgis.core import (
    QgsCategorizedSymbolRenderer,
    QgsFeature,
    QgsFillSymbol,
    QgsGeometry,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsRendererCategory,
    QgsVectorFileWriter,
    QgsVectorLayer,
)

from .made_scenes import LOCATION, made_scene
from .photo_layers import Log
from .process import QgisProcess

pytestmark = pytest.mark.usefixtures("provider", "gair_python")

COLOURS = {"Wald, dicht": "#127d2c", "Gewässer": "#1c4ff0"}


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Dark on the left half, bright on the right one."""
    path = tmp_path / "scene.tif"
    values = made_scene(path)
    values[:, :, values.shape[2] // 2 :] += 3000
    made_scene(path, values=values)
    return path


def rectangle(column: float, row: float, size: float = 12) -> QgsGeometry:
    """A square of the made scene, in pixels."""
    left, top = LOCATION[0] + 10 * column, LOCATION[1] - 10 * row
    return QgsGeometry.fromRect(QgsRectangle(left, top - 10 * size, left + 10 * size, top))


def label_layer(name: str = "my labels") -> QgsVectorLayer:
    """Four polygons a class in memory, coloured by class."""
    layer = QgsVectorLayer("Polygon?crs=EPSG:32632&field=fid:integer&field=class:string(80)", name, "memory")
    features = []
    for number in range(8):
        feature = QgsFeature(layer.fields())
        feature.setAttributes([number // 3, list(COLOURS)[number % 2]])
        feature.setGeometry(rectangle(10 + 70 * (number % 2), 3 + 24 * (number // 2)))
        features.append(feature)
    layer.dataProvider().addFeatures(features)
    categories = [
        QgsRendererCategory(value, QgsFillSymbol.createSimple({"color": colour}), value)
        for value, colour in COLOURS.items()
    ]
    layer.setRenderer(QgsCategorizedSymbolRenderer("class", categories))
    return layer


def train(log: Log | None = None, **parameters: object) -> dict[str, object]:
    values = {"CLASS_FIELD": "class", "REPORT": "TEMPORARY_OUTPUT", **parameters}
    return processing.run("gair:trainhead", values, feedback=log)


def test_a_layer_in_memory_trains_a_model_with_its_colours(scene, tmp_path):
    log, model = Log(), tmp_path / "model.safetensors"
    result = train(log, INPUT=[str(scene)], LABELS=label_layer(), OUTPUT_MODEL=str(model))
    assert result["OUTPUT_MODEL"] == str(model)
    assert (result["ACCURACY"], result["MEAN_F1"], result["CLASS_COUNT"]) == (1.0, 1.0, 2)
    assert any("Overall accuracy on held-out polygons: 100.0 %" in line for line in log.information)
    html = Path(result["REPORT"]).read_text(encoding="utf-8")
    assert "2 classes of my_labels.gpkg" in html
    assert "Wald, dicht" in html
    classes = processing.run(
        "gair:segment",
        {"INPUT": str(scene), "MODEL": str(model), "OUTPUT": str(tmp_path / "classes.tif")},
    )["OUTPUT"]
    style = Path(classes).with_suffix(".qml").read_text(encoding="utf-8")
    for value, (name, colour) in enumerate(COLOURS.items(), start=1):
        assert f'value="{value}" label="{name}" color="{colour}"' in style
    values = gdal.Open(classes).ReadAsArray()
    assert np.mean(values[:, :55] == 1) > 0.95
    assert np.mean(values[:, 65:] == 2) > 0.95


def test_the_style_beside_a_file_counts_without_a_project(scene, tmp_path):
    layer, labels = label_layer(), tmp_path / "labels.geojson"
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "GeoJSON"
    transformation = QgsProject.instance().transformContext()
    QgsVectorFileWriter.writeAsVectorFormatV3(layer, str(labels), transformation, options)
    layer.saveNamedStyle(str(labels.with_suffix(".qml")))
    result = train(INPUT=str(scene), LABELS=str(labels), OUTPUT_MODEL=str(tmp_path / "m.safetensors"))
    html = Path(result["REPORT"]).read_text(encoding="utf-8")
    for colour in COLOURS.values():
        channels = ",".join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))
        assert f"rgb({channels})" in html


def test_only_selected_features_train(scene, tmp_path):
    layer, log = label_layer(), Log()
    QgsProject.instance().addMapLayer(layer)
    try:
        layer.selectByExpression("\"class\" = 'Gewässer'")
        chosen = QgsProcessingFeatureSourceDefinition(layer.id(), selectedFeaturesOnly=True)
        with pytest.raises(QgsProcessingException, match="have the same class 'Gewässer'"):
            train(log, INPUT=str(scene), LABELS=chosen, OUTPUT_MODEL=str(tmp_path / "m.safetensors"))
    finally:
        QgsProject.instance().removeMapLayer(layer.id())
    assert not (tmp_path / "m.safetensors").exists()


def test_several_scenes(scene, tmp_path):
    other = shutil.copy(scene, tmp_path / "other.tif")
    model = tmp_path / "model.safetensors"
    layer = QgsRasterLayer(str(other), "other")
    result = train(
        INPUT=[str(scene), layer], LABELS=label_layer(), OUTPUT_MODEL=str(model), EMBED=True, REPORT=None
    )
    assert model.stat().st_size > 500_000
    assert "REPORT" not in result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CLASS_FIELD": "klass"}, "klass"),
        ({"OUTPUT_MODEL": "/no/such/folder/m.safetensors"}, "does not exist"),
        ({"INPUT": "/no/such/scene.tif"}, "INPUT|scene"),
    ],
)
def test_what_cannot_be_used_is_named(scene, tmp_path, changes, message):
    parameters = {
        "INPUT": str(scene), "LABELS": label_layer(), "OUTPUT_MODEL": str(tmp_path / "m.safetensors")
    }  # fmt: skip
    with pytest.raises(QgsProcessingException, match=message):
        train(**{**parameters, **changes})


def test_labels_elsewhere_are_named_as_in_qgis(scene, tmp_path):
    layer = label_layer("far away")
    layer.dataProvider().changeGeometryValues({n: rectangle(5000, 100 * n) for n in range(1, 9)})
    with pytest.raises(QgsProcessingException, match="None of the 8 polygons"):
        train(INPUT=str(scene), LABELS=layer, OUTPUT_MODEL=str(tmp_path / "m.safetensors"))


def test_the_labels_file_is_not_overwritten(scene, tmp_path):
    path = tmp_path / "labels.geojson"
    processing.run("native:savefeatures", {"INPUT": label_layer(), "OUTPUT": str(path)})
    page = tmp_path / "report.html"
    page.symlink_to(path)
    before = path.read_bytes()
    with pytest.raises(QgsProcessingException, match="is the input"):
        train(
            INPUT=str(scene), LABELS=str(path), OUTPUT_MODEL=str(tmp_path / "m.safetensors"), REPORT=str(page)
        )
    assert path.read_bytes() == before


def test_a_folder_of_bands_passes_the_check_of_values(provider, shared):
    algorithm = provider.algorithm("trainhead")
    folder = shared / "data" / "single_bands" / "S2A_MSIL2A_20170613T101031_87_48"
    values = {"INPUT": [str(folder)], "LABELS": label_layer(), "CLASS_FIELD": "class"}
    values["OUTPUT_MODEL"] = "model.safetensors"
    ok, message = algorithm.create().checkParameterValues(values, QgsProcessingContext())
    assert ok, message


def test_real_polygons_under_qgis_process(shared, tmp_path):
    """Training and segmenting, from files to files."""
    data = shared / "data" / "germany_polygons"
    for name in ("sen2.tif", "training_polygons.gpkg"):
        shutil.copy(data / name, tmp_path)
    profile = tmp_path / "profile"
    profile.mkdir()
    process = QgisProcess(profile)
    model, report = tmp_path / "model.safetensors", tmp_path / "report.html"
    outcome = process.run(
        "gair:trainhead",
        INPUT=tmp_path / "sen2.tif",
        LABELS=tmp_path / "training_polygons.gpkg",
        CLASS_FIELD="class",
        OUTPUT_MODEL=model,
        REPORT=report,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "bare ground" in report.read_text(encoding="utf-8")
    classes = tmp_path / "classes.tif"
    outcome = process.run("gair:segment", INPUT=tmp_path / "sen2.tif", MODEL=model, OUTPUT=classes)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    style = classes.with_suffix(".qml").read_text(encoding="utf-8")
    for name in ("agriculture", "bare ground", "forest", "grass", "village", "water"):
        assert f'label="{name}"' in style
    # What was learnt is on the map: the meadows, and the lake in the quarry.
    values = gdal.Open(str(classes)).ReadAsArray()
    assert 0.3 < np.mean(values == 4) < 0.6
    assert 0.003 < np.mean(values == 6) < 0.02
