"""Tests of the algorithms under ``qgis_process``: exit codes, files, and messages that help."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal, osr
from qgis.core import Qgis, QgsVectorLayer

from .process import QgisProcess

BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
SIZE = 64
WEST, NORTH = 500_000, 5_300_000
EPSG = 32632
ALGORITHMS = {
    "checkenvironment",
    "createenvironment",
    "detectchange",
    "embed",
    "importcheckpoint",
    "locatephotos",
    "locationsimilarity",
    "photosimilarity",
    "sampleembeddings",
    "segment",
    "trainhead",
}
JSON_ON_STDIN_SINCE = 32400


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, gair_python: Path) -> QgisProcess:
    return QgisProcess(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 64 x 64 pixels of 10 m: smooth, without a measured surface in it."""
    path = tmp_path_factory.mktemp("scène ü") / "a scene.tif"
    dataset = gdal.GetDriverByName("GTiff").Create(str(path), SIZE, SIZE, len(BANDS), gdal.GDT_UInt16)
    dataset.SetGeoTransform((WEST, 10, 0, NORTH, 0, -10))
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(EPSG)
    dataset.SetProjection(reference.ExportToWkt())
    down, right = np.mgrid[0:SIZE, 0:SIZE]
    for number, name in enumerate(BANDS, start=1):
        band = dataset.GetRasterBand(number)
        band.SetDescription(name)
        band.WriteArray((1500 + 800 * np.sin(down / (3 + number)) * np.cos(right / 9)).astype(np.uint16))
    dataset.FlushCache()
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos on the scene, in a GeoJSON beside them that names them relatively."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(1)
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(EPSG)
    lonlat = osr.SpatialReference()
    lonlat.ImportFromEPSG(4326)
    lonlat.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    to_lonlat = osr.CoordinateTransformation(reference, lonlat)
    driver = gdal.GetDriverByName("JPEG")
    features = []
    for number, (column, row) in enumerate([(10, 20), (50, 40)]):
        pixels = random.integers(0, 255, size=(3, 60, 80), dtype=np.uint8)
        memory = gdal.GetDriverByName("MEM").Create("", 80, 60, 3, gdal.GDT_Byte)
        for band in range(3):
            memory.GetRasterBand(band + 1).WriteArray(pixels[band])
        driver.CreateCopy(str(folder / f"{number}.jpg"), memory)
        lon, lat, _ = to_lonlat.TransformPoint(WEST + 10 * (column + 0.5), NORTH - 10 * (row + 0.5))
        place = {"type": "Point", "coordinates": [lon, lat]}
        features.append({"type": "Feature", "properties": {"photo": f"{number}.jpg"}, "geometry": place})
    table = folder / "photos.geojson"
    table.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return table


def read(path: Path) -> gdal.Dataset:
    dataset = gdal.Open(str(path))
    assert dataset is not None, path
    return dataset


def test_segment_writes_classes_on_the_scenes_grid(process: QgisProcess, scene: Path, tmp_path: Path) -> None:
    output = tmp_path / "classes é.tif"
    run = process.run("gair:segment", INPUT=scene, OUTPUT=output)
    assert run.returncode == 0, run.stdout + run.stderr
    classes = read(output)
    assert classes.GetGeoTransform() == (WEST, 10, 0, NORTH, 0, -10)
    assert (classes.RasterXSize, classes.RasterYSize) == (SIZE, SIZE)
    assert f'"EPSG","{EPSG}"' in classes.GetProjection()
    names = classes.GetRasterBand(1).GetCategoryNames()
    assert names is None or len(names) > int(classes.ReadAsArray().max())
    assert output.with_suffix(".qml").is_file()
    assert not list(tmp_path.glob("*.part"))


def test_embed_reads_every_value_from_text(process: QgisProcess, scene: Path, tmp_path: Path) -> None:
    output = tmp_path / "embeddings.tif"
    extent = f"{WEST + 100},{WEST + 300},{NORTH - 400},{NORTH - 200} [EPSG:{EPSG}]"
    run = process.run("gair:embed", INPUT=scene, EXTENT=extent, COMPONENTS=3, OUTPUT=output)
    assert run.returncode == 0, run.stdout + run.stderr
    embeddings = read(output)
    assert embeddings.RasterCount == 3
    assert (embeddings.RasterXSize, embeddings.RasterYSize) == (20, 20)
    assert embeddings.GetGeoTransform() == (WEST + 100, 10, 0, NORTH - 200, 0, -10)
    assert embeddings.ReadAsArray().std() > 0


def test_photosimilarity_writes_both_outputs(
    process: QgisProcess, scene: Path, photos: Path, tmp_path: Path
) -> None:
    output, scores = tmp_path / "similarity.tif", tmp_path / "scores.gpkg"
    run = process.run("gair:photosimilarity", INPUT=scene, PHOTOS=photos, OUTPUT=output, OUTPUT_PHOTOS=scores)
    assert run.returncode == 0, run.stdout + run.stderr
    cosines = read(output).ReadAsArray()
    assert cosines.shape[-2:] == (SIZE, SIZE)
    assert -1 <= np.nanmin(cosines) < np.nanmax(cosines) <= 1
    layer = QgsVectorLayer(str(scores), "scores")
    assert [-1 <= feature["similarity"] <= 1 for feature in layer.getFeatures()] == [True, True]


def test_every_algorithm_is_listed_and_has_help(process: QgisProcess) -> None:
    listed = process.call("list").stdout
    assert {word.split(":")[1] for word in listed.split() if word.startswith("gair:")} == ALGORITHMS
    shown = process.call("help", "gair:segment")
    assert shown.returncode == 0
    assert "MODEL" in shown.stdout
    assert "EXTENT" in shown.stdout


FAILURES = {
    "a model that does not exist": ({"MODEL": "no_such_model"}, "no_such_model"),
    "a model file that does not exist": (
        {"MODEL": "/nowhere/model.safetensors"},
        "/nowhere/model.safetensors",
    ),
    "bands that the scene does not have": ({"BANDS": "B2=1,B3=77"}, "77"),
    "bands that are no bands": ({"BANDS": "nonsense"}, "nonsense"),
    "an extent beside the scene": ({"EXTENT": f"0,10,0,10 [EPSG:{EPSG}]"}, "extent"),
    "a scene that does not exist": ({"INPUT": "/nowhere/scene.tif"}, "INPUT"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_exits_with_an_error(process: QgisProcess, scene: Path, tmp_path: Path, case: str) -> None:
    changed, wanted = FAILURES[case]
    parameters = {"INPUT": scene, "OUTPUT": tmp_path / "out.tif", **changed}
    run = process.run("gair:embed", **parameters)
    said = run.stdout + run.stderr
    assert run.returncode != 0, said
    assert wanted.lower() in said.lower()
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_no_interpreter_exits_with_the_advice(process: QgisProcess, scene: Path, tmp_path: Path) -> None:
    for python in (tmp_path / "no" / "python", ""):
        environment = {"GAIR_PYTHON": str(python), "XDG_DATA_HOME": str(tmp_path / "data")}
        run = process.run("gair:embed", environment, INPUT=scene, OUTPUT=tmp_path / "out.tif")
        said = run.stdout + run.stderr
        assert run.returncode != 0, said
        assert "gair:createenvironment" in said
        assert "Traceback" not in said
        assert not (tmp_path / "out.tif").exists()


def test_an_interpreter_without_gair_core_exits_with_the_advice(
    process: QgisProcess, scene: Path, tmp_path: Path
) -> None:
    environment = {"GAIR_PYTHON": "/usr/bin/python3"}
    run = process.run("gair:embed", environment, INPUT=scene, OUTPUT=tmp_path / "out.tif")
    said = run.stdout + run.stderr
    assert run.returncode != 0, said
    assert "gair_core" in said
    assert not (tmp_path / "out.tif").exists()


def test_an_output_that_cannot_be_written_exits_with_an_error(
    process: QgisProcess, scene: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    run = process.run("gair:embed", INPUT=scene, OUTPUT=file / "out.tif")
    assert run.returncode != 0, run.stdout + run.stderr
    assert file.read_text() == "in the way"


def test_photos_that_are_all_missing_exit_with_an_error(
    process: QgisProcess, scene: Path, photos: Path, tmp_path: Path
) -> None:
    # The table alone: the photos that it names are not beside it.
    table = tmp_path / "photos.geojson"
    shutil.copy(photos, table)
    output, scores = tmp_path / "similarity.tif", tmp_path / "scores.gpkg"
    run = process.run("gair:photosimilarity", INPUT=scene, PHOTOS=table, OUTPUT=output, OUTPUT_PHOTOS=scores)
    assert run.returncode != 0, run.stdout + run.stderr
    assert list(tmp_path.iterdir()) == [table]


def test_parameters_as_json_on_stdin(process: QgisProcess, scene: Path, tmp_path: Path) -> None:
    version = Qgis.QGIS_VERSION_INT
    if version < JSON_ON_STDIN_SINCE:
        pytest.skip(f"qgis_process reads JSON on stdin since QGIS 3.24, this is {Qgis.QGIS_VERSION}")
    inputs = {"INPUT": str(scene), "COMPONENTS": 3, "OUTPUT": str(tmp_path / "out.tif")}
    run = process.call("run", "gair:embed", "-", stdin=json.dumps({"inputs": inputs}))
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(run.stdout)["results"]["OUTPUT"] == inputs["OUTPUT"]
    assert read(tmp_path / "out.tif").RasterCount == 3
