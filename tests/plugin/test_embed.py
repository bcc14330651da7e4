"""`gair:embed` through Processing and the real worker: pixels, grids, types, styles, failures."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gair import settings
from gair.algorithms import embed as embed_module
from gair.algorithms.embed import automatic_dtype
from osgeo import gdal
from qgis import processing
from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsReferencedRectangle,
)

from .made_scenes import LOCATION, made_scene, made_values, virtual_layer

pytestmark = pytest.mark.usefixtures("provider", "gair_python")


class Log(QgsProcessingFeedback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(False)
        self.lines: list[str] = []
        self.fractions: list[float] = []
        self.progressChanged.connect(self.fractions.append)

    def pushInfo(self, text: str) -> None:
        self.lines.append(text)

    def pushWarning(self, text: str) -> None:
        self.lines.append(f"warning: {text}")

    def setProgressText(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def detroit(shared: Path, tmp_path: Path) -> Path:
    """181 x 246 pixels of degrees; a copy, since QGIS leaves its statistics beside what it opens."""
    return Path(shutil.copy(shared / "data/gair_pairs/queries/detroit_rs.tif", tmp_path))


def embed(**parameters: object) -> dict[str, object]:
    return processing.run("gair:embed", {"OUTPUT": "TEMPORARY_OUTPUT", **parameters}, feedback=Log())


def pixels(path: object) -> np.ndarray:
    return gdal.Open(str(path)).ReadAsArray()


def geotransform(path: object) -> tuple[float, ...]:
    return gdal.Open(str(path)).GetGeoTransform()


def test_input_and_output_alone_give_what_the_command_line_gives(detroit, tmp_path, gair_python):
    result = embed(INPUT=str(detroit))
    reference = tmp_path / "reference.tif"
    command = [gair_python, "-m", "gair_core.cli", "embed", detroit, reference, "--dtype", "float16"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    dtype = automatic_dtype(16)
    if dtype == "float16":
        np.testing.assert_array_equal(pixels(result["OUTPUT"]), pixels(reference))
    assert pixels(result["OUTPUT"]).shape == (16, 181, 246)
    assert geotransform(result["OUTPUT"]) == geotransform(detroit)
    assert 0 < result["EXPLAINED_VARIANCE"] <= 1


def test_the_layer_has_the_scenes_crs_and_three_components_as_colours(detroit):
    layer = QgsRasterLayer(embed(INPUT=QgsRasterLayer(str(detroit), "d"))["OUTPUT"], "embedding")
    assert layer.isValid()
    assert layer.crs() == QgsCoordinateReferenceSystem("EPSG:4326")
    renderer = layer.renderer()
    assert renderer.type() == "multibandcolor"
    assert (renderer.redBand(), renderer.greenBand(), renderer.blueBand()) == (1, 2, 3)
    enhancement = renderer.redContrastEnhancement()
    # From the style beside the file, not from QGIS's own statistics.
    assert enhancement.minimumValue() == pytest.approx(-enhancement.maximumValue())


def test_components_type_and_resolution_are_obeyed(detroit):
    output = embed(INPUT=str(detroit), COMPONENTS=3, DTYPE="float32", RESOLUTION=40)["OUTPUT"]
    dataset = gdal.Open(output)
    assert dataset.RasterCount == 3
    assert dataset.GetRasterBand(1).DataType == gdal.GDT_Float32
    assert (dataset.RasterXSize, dataset.RasterYSize) == pytest.approx((246 * 0.74 / 4, 181 / 4), rel=0.03)


def test_all_dimensions_are_written_without_int8(detroit):
    everything = embed(INPUT=str(detroit), COMPONENTS=0, RESOLUTION=80)
    assert gdal.Open(everything["OUTPUT"]).RasterCount > 16
    assert "EXPLAINED_VARIANCE" not in everything
    with pytest.raises(QgsProcessingException, match="cannot be written as int8"):
        embed(INPUT=str(detroit), COMPONENTS=0, DTYPE="int8")


def test_the_basis_is_the_models_or_the_scenes_and_hints_name_parameters(tmp_path):
    made_scene(tmp_path / "scene.tif")
    scene = str(tmp_path / "scene.tif")
    own = pixels(embed(INPUT=scene, COMPONENTS=20, BASIS="scene", DTYPE="float32")["OUTPUT"])
    assert own.shape == (20, 100, 120)
    # Principal components of the scene itself are ordered by what they explain of it.
    spread = own.reshape(20, -1).std(axis=1)
    assert spread[0] > spread[5] > spread[19]
    with pytest.raises(QgsProcessingException, match=r"Ask for at most 16, or use BASIS scene\."):
        embed(INPUT=scene, COMPONENTS=20)


@pytest.mark.parametrize(("reads", "dtype"), [(True, "int8"), (False, "float16")])
def test_automatic_type_is_int8_where_qgis_reads_it(monkeypatch, reads, dtype):
    monkeypatch.setattr(embed_module, "reads_int8", lambda: reads)
    assert automatic_dtype(16) == dtype
    assert automatic_dtype(0) == "float16"


def test_extents_in_any_crs_cut_the_same_pixels(tmp_path):
    made_scene(tmp_path / "scene.tif")
    whole = pixels(embed(INPUT=str(tmp_path / "scene.tif"))["OUTPUT"])
    left, top = LOCATION
    rectangle = QgsRectangle(left + 301, top - 799, left + 799, top - 401)
    utm = QgsCoordinateReferenceSystem("EPSG:32632")
    text = f"{left + 301},{left + 799},{top - 799},{top - 401}"
    for extent in (f"{text} [EPSG:32632]", QgsReferencedRectangle(rectangle, utm)):
        output = embed(INPUT=str(tmp_path / "scene.tif"), EXTENT=extent)["OUTPUT"]
        np.testing.assert_array_equal(pixels(output), whole[:, 40:80, 30:80])
        assert geotransform(output)[0] == left + 300
        assert geotransform(output)[3] == top - 400
    # In Web Mercator the same corners make a slightly larger rectangle.
    mercator = QgsCoordinateReferenceSystem("EPSG:3857")
    outline = QgsCoordinateTransform(utm, mercator, QgsProject.instance()).transformBoundingBox(rectangle)
    extent = QgsReferencedRectangle(outline, mercator)
    output = embed(INPUT=str(tmp_path / "scene.tif"), EXTENT=extent)["OUTPUT"]
    column = round((geotransform(output)[0] - left) / 10)
    row = round((top - geotransform(output)[3]) / 10)
    found = pixels(output)
    assert 40 <= found.shape[1] <= 44
    assert 50 <= found.shape[2] <= 54
    np.testing.assert_array_equal(
        found, whole[:, row : row + found.shape[1], column : column + found.shape[2]]
    )


def test_an_extent_without_a_crs_is_in_the_projects_or_else_in_the_scenes(tmp_path):
    made_scene(tmp_path / "scene.tif")
    left, top = LOCATION
    text = f"{left + 300},{left + 800},{top - 800},{top - 400}"
    project = QgsProject.instance()
    before = project.crs()
    try:
        project.setCrs(QgsCoordinateReferenceSystem())
        assert pixels(embed(INPUT=str(tmp_path / "scene.tif"), EXTENT=text)["OUTPUT"]).shape == (16, 40, 50)
        project.setCrs(QgsCoordinateReferenceSystem("EPSG:4326"))
        with pytest.raises(QgsProcessingException):
            embed(INPUT=str(tmp_path / "scene.tif"), EXTENT=text)
    finally:
        project.setCrs(before)


def test_bands_are_named_by_the_user(tmp_path):
    named, plain = tmp_path / "named.tif", tmp_path / "plain.tif"
    values = made_scene(named)
    # The same scene with its bands in reverse, one of no use before them, and without names.
    made_scene(plain, values=np.concatenate([values[:1], values[::-1]]), names=None)
    order = "-,B12,B11,-,B8A,B8,B7,B6,B5,B4,B3,B2"
    expected = pixels(embed(INPUT=str(named))["OUTPUT"])
    np.testing.assert_array_equal(pixels(embed(INPUT=str(plain), BANDS=order)["OUTPUT"]), expected)
    numbers = "B2=12,B3=11,B4=10,B5=9,B6=8,B7=7,B8=6,B8A=5,B11=3,B12=2"
    np.testing.assert_array_equal(pixels(embed(INPUT=str(plain), BANDS=numbers)["OUTPUT"]), expected)


def test_offset_is_passed_on(tmp_path):
    values = made_scene(tmp_path / "scene.tif")
    made_scene(tmp_path / "shifted.tif", values=values + 1000)
    expected = pixels(embed(INPUT=str(tmp_path / "scene.tif"), OFFSET=0)["OUTPUT"])
    shifted = pixels(embed(INPUT=str(tmp_path / "shifted.tif"), OFFSET=-1000)["OUTPUT"])
    np.testing.assert_array_equal(shifted, expected)


def test_band_folders_are_scenes_by_folder_and_by_any_of_their_files(shared, tmp_path):
    product = next((shared / "data/laos_bands").iterdir())
    folder = tmp_path / product.name
    folder.mkdir()
    for file in product.glob("B*.tif"):
        shutil.copy(file, folder)
    with_extent = {"EXTENT": "366000,366600,1980000,1980400 [EPSG:32648]", "COMPONENTS": 4}
    whole = pixels(embed(INPUT=str(folder), **with_extent)["OUTPUT"])
    assert whole.shape[0] == 4
    single = embed(INPUT=QgsRasterLayer(str(folder / "B11.tif"), "B11"), **with_extent)
    np.testing.assert_array_equal(pixels(single["OUTPUT"]), whole)


def test_a_layer_in_memory_gives_the_files_pixels(tmp_path):
    made_scene(tmp_path / "scene.tif")
    gdal.FileFromMemBuffer("/vsimem/scene.tif", (tmp_path / "scene.tif").read_bytes())
    layer = QgsRasterLayer("/vsimem/scene.tif", "in memory")
    left, top = LOCATION
    parameters = {"EXTENT": f"{left + 300},{left + 800},{top - 800},{top - 400} [EPSG:32632]"}
    expected = pixels(embed(INPUT=str(tmp_path / "scene.tif"), **parameters)["OUTPUT"])
    np.testing.assert_array_equal(pixels(embed(INPUT=layer, **parameters)["OUTPUT"]), expected)
    gdal.Unlink("/vsimem/scene.tif")


def test_a_virtual_layer_works_where_one_band_stands_for_all(tmp_path):
    made_scene(tmp_path / "scene.tif")
    names = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
    parameters = {"BANDS": ",".join(f"{name}=1" for name in names), "OFFSET": 0}
    output = embed(INPUT=virtual_layer(tmp_path / "scene.tif"), **parameters)["OUTPUT"]
    assert pixels(output).shape == (16, 100, 120)
    assert geotransform(output)[0] == LOCATION[0]
    with pytest.raises(QgsProcessingException, match="one band without Sentinel-2 names"):
        embed(INPUT=virtual_layer(tmp_path / "scene.tif"))


def test_nothing_temporary_is_left(tmp_path):
    made_scene(tmp_path / "scene.tif")
    context = QgsProcessingContext()
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("gair:embed")
    folders = []
    original = type(algorithm).temporary_folder
    layer = virtual_layer(tmp_path / "scene.tif")
    parameters = {"INPUT": layer, "MODEL": "demo", "OUTPUT": str(tmp_path / "out.tif")}

    class Watched(type(algorithm)):
        def temporary_folder(self) -> Path:
            folders.append(original(self))
            return folders[-1]

    watched = Watched()
    watched.initAlgorithm()
    with pytest.raises(QgsProcessingException):
        watched.prepareAlgorithm(parameters, context, Log())
        watched.processAlgorithm(parameters, context, Log())
    assert folders
    assert not any(folder.exists() for folder in folders)
    assert not (tmp_path / "out.tif").exists()


def test_progress_and_log_reach_processing(detroit):
    log = Log()
    processing.run("gair:embed", {"INPUT": str(detroit), "OUTPUT": "TEMPORARY_OUTPUT"}, feedback=log)
    assert log.fractions == sorted(log.fractions)
    assert log.fractions[-1] == 100
    assert any("tile 1 of" in line for line in log.lines)


def test_awkward_paths_work(detroit, tmp_path):
    folder = tmp_path / "Île d'été 东京"
    folder.mkdir()
    scene = Path(shutil.copy(detroit, folder / "scène 1.tif"))
    output = folder / "résultat 1.tif"
    assert embed(INPUT=str(scene), RESOLUTION=80, OUTPUT=str(output))["OUTPUT"] == str(output)
    assert QgsRasterLayer(str(output), "x").renderer().type() == "multibandcolor"
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"MODEL": "nothing"}, "no registered model 'nothing'; registered are: demo, demo-land-cover"),
        ({"MODEL": "/missing/model.safetensors"}, "/missing/model.safetensors"),
        ({"BANDS": "B2=1,B3"}, "some have a number and some have none"),
        ({"BANDS": "B77=1"}, "'B77' is not the name of a Sentinel-2 band"),
        ({"BANDS": "B2=40"}, "40"),
        ({"EXTENT": "0,1,0,1 [EPSG:4326]"}, "extent"),
        ({"COMPONENTS": 100_000}, "100000 were asked for"),
        ({"OUTPUT": "/missing/folder/out.tif"}, "/missing/folder"),
    ],
)
def test_failures_raise_with_the_workers_words(detroit, parameters, message):
    with pytest.raises(QgsProcessingException) as caught:
        embed(INPUT=str(detroit), **parameters)
    assert message in str(caught.value)


def test_a_wrong_number_of_bands_raises_with_message_and_hint(shared, tmp_path):
    tiny = next((shared / "data/tiny_scene").glob("*BOA*.tif"))
    copied = shutil.copy(tiny, tmp_path)
    with pytest.raises(QgsProcessingException) as caught:
        embed(INPUT=copied)
    message, _, hint = str(caught.value).partition("\n")
    assert "11 bands without Sentinel-2 names" in message
    assert "B8A=8" in hint
    # The hint helps.
    assert pixels(embed(INPUT=copied, BANDS="B8A=8")["OUTPUT"]).shape == (16, 42, 24)


def test_a_missing_band_is_refused_or_filled(tmp_path):
    names = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12")
    scene = str(tmp_path / "scene.tif")
    made_scene(tmp_path / "scene.tif", values=made_values(64, 48)[: len(names)], names=names)
    with pytest.raises(QgsProcessingException, match="B8A"):
        embed(INPUT=scene)
    result = embed(INPUT=scene, MISSING="mean", RESOLUTION=80)
    assert json.loads(gdal.Open(result["OUTPUT"]).GetMetadata()["GAIR_OPTIONS"])["missing"] == "mean"


def test_clouds_of_the_scene_classification_are_left_out(tmp_path):
    made_scene(tmp_path / "scene.tif", width=96, height=96)
    classes = np.full((1, 96, 96), 4, np.uint16)
    classes[0, 40:60, 30:70] = 9
    made_scene(tmp_path / "clouds.tif", values=classes, names=None)
    scene, clouds = str(tmp_path / "scene.tif"), str(tmp_path / "clouds.tif")
    output = gdal.Open(embed(INPUT=scene, SCL=clouds)["OUTPUT"])
    mask = output.GetRasterBand(1).GetMaskBand()
    np.testing.assert_array_equal(mask.ReadAsArray() == 0, classes[0] == 9)
    output = gdal.Open(embed(INPUT=scene, SCL=clouds, SCL_CLASSES="3, 8")["OUTPUT"])
    mask = output.GetRasterBand(1).GetMaskBand()
    assert mask.ReadAsArray().all()
    for values, message in (
        ({"SCL": clouds, "SCL_CLASSES": "cloud"}, "numbers with commas"),
        ({"SCL_CLASSES": "9"}, "SCL"),
        ({"SCL": str(tmp_path / "none.tif")}, "not a raster file|Could not load"),
    ):
        with pytest.raises(QgsProcessingException, match=message):
            embed(INPUT=scene, **values)


def test_a_layer_without_crs_raises(tmp_path):
    made_scene(tmp_path / "scene.tif", crs="")
    with pytest.raises(QgsProcessingException, match="has no CRS"):
        embed(INPUT=QgsRasterLayer(str(tmp_path / "scene.tif"), "nowhere"))


def test_cancel_raises_and_leaves_nothing(detroit, tmp_path):
    log = Log()
    log.cancel()
    with pytest.raises(QgsProcessingException, match="Cancelled"):
        processing.run(
            "gair:embed", {"INPUT": str(detroit), "OUTPUT": str(tmp_path / "out.tif")}, feedback=log
        )
    assert not list(tmp_path.glob("out*"))


def test_the_model_is_remembered_after_success_only(detroit, tmp_path, gair_python):
    settings.remember_model("embed", "")
    model = tmp_path / "mine.safetensors"
    code = "import gair_core, sys; gair_core.save(gair_core.load('demo'), sys.argv[1])"
    subprocess.run([str(gair_python), "-c", code, str(model)], check=True, capture_output=True)
    with pytest.raises(QgsProcessingException):
        embed(INPUT=str(detroit), MODEL=str(model), COMPONENTS=100_000)
    assert settings.last_model("embed") == ""
    embed(INPUT=str(detroit), RESOLUTION=80)
    assert settings.last_model("embed") == ""
    embed(INPUT=str(detroit), MODEL=str(model), RESOLUTION=80)
    assert settings.last_model("embed") == str(model)
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("gair:embed")
    assert algorithm.parameterDefinition("MODEL").defaultValue() == str(model)
    settings.remember_model("embed", "")


def test_provenance_names_model_and_options(detroit):
    tags = gdal.Open(embed(INPUT=str(detroit), RESOLUTION=80)["OUTPUT"]).GetMetadata()
    assert json.loads(tags["GAIR_OPTIONS"])["resolution"] == 80
    assert tags["GAIR_MODEL"].endswith("(demo)")
