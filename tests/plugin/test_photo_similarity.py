"""`gair:photosimilarity` on real scenes and photos, in all modes, from and to layers of any kind."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsPointXY,
    QgsProcessingAlgRunnerTask,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingFeedback,
    QgsProcessingModelAlgorithm,
    QgsProcessingModelChildAlgorithm,
    QgsProcessingModelChildParameterSource,
    QgsProcessingModelOutput,
    QgsProcessingOutputLayerDefinition,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
    QgsWkbTypes,
)
from qgis.PyQt.QtCore import QCoreApplication, QSize, QVariant
from qgis.PyQt.QtGui import QColor

from tests.plugin.photo_layers import (
    PAIRS,
    Log,
    layer_of,
    pairs_layer,
    photo_path,
    point_layer,
    saved,
    scene_path,
    without_fid,
)

SCORES = [
    "similarity",
    "percentile",
    "best_similarity",
    "best_lon",
    "best_lat",
    "best_x",
    "best_y",
    "best_distance_m",
]
LON, LAT, ROW, COLUMN = PAIRS["detroit"]

pytestmark = pytest.mark.usefixtures("provider", "gair_python", "qgis_new_project")


def run(parameters, log=None, **options):
    import processing

    return processing.run("gair:photosimilarity", parameters, feedback=log or Log(), **options)


def in_detroit(shared, fields="photo:string&field=kind:string", crs="EPSG:4326"):
    """Three photos within the scene of Detroit."""
    rows = [
        (LON, LAT, photo_path(shared, "detroit"), "road"),
        (LON - 0.008, LAT - 0.004, photo_path(shared, "tokyo"), "street"),
        (LON - 0.012, LAT + 0.002, photo_path(shared, "sacramento"), "street"),
    ]
    return point_layer(rows, fields, crs)


def value_at(layer, lon, lat, band=1):
    value, known = layer.dataProvider().sample(QgsPointXY(lon, lat), band)
    assert known
    return value


@pytest.mark.parametrize("city", PAIRS)
def test_the_raster_lies_on_the_scene_and_the_photo_has_its_value(shared, tmp_path, city):
    log = Log()
    result = run(
        {
            "INPUT": scene_path(shared, city),
            "PHOTOS": pairs_layer(shared),
            "OUTPUT": str(tmp_path / "similarity.tif"),
            "OUTPUT_PHOTOS": "TEMPORARY_OUTPUT",
        },
        log,
    )
    scene, raster = QgsRasterLayer(scene_path(shared, city)), QgsRasterLayer(result["OUTPUT"])
    assert raster.crs() == scene.crs()
    assert (raster.width(), raster.height()) == (scene.width(), scene.height())
    assert raster.extent() == scene.extent()
    (feature,) = layer_of(result["OUTPUT_PHOTOS"]).getFeatures()
    lon, lat, _, _ = PAIRS[city]
    assert feature["city"] == city
    assert feature.geometry().asPoint() == QgsPointXY(lon, lat)
    # The photo's own score is exact at its place, the raster's pixel is centred up to half a pixel away.
    assert feature["similarity"] == pytest.approx(value_at(raster, lon, lat), abs=0.02)
    assert 0 <= feature["percentile"] <= 100
    assert feature["best_similarity"] >= feature["similarity"]
    assert raster.extent().contains(QgsPointXY(feature["best_x"], feature["best_y"]))
    assert (result["PHOTO_COUNT"], result["OUTPUT_RASTERS"]) == (1, [result["OUTPUT"]])
    # The two photos of other cities are named.
    assert len(log.warnings) == 2
    for other in set(PAIRS) - {city}:
        assert any(
            f"{other}_sv.jpg" in warning and "outside the scene" in warning for warning in log.warnings
        )


def test_fields_types_and_crs_of_the_photos_are_kept(shared, tmp_path):
    rows = [
        (LON, LAT, photo_path(shared), 7, 3.5, 1234567890123456),
        (LON - 0.01, LAT, photo_path(shared), None, None, None),
    ]
    fields = "photo:string&field=number:integer&field=similarity:double&field=orig_id:int8"
    layer = point_layer(rows, fields, "EPSG:3857")
    result = run(
        {
            "INPUT": scene_path(shared),
            "PHOTOS": layer,
            "OUTPUT": "TEMPORARY_OUTPUT",
            "OUTPUT_PHOTOS": "TEMPORARY_OUTPUT",
        }
    )
    photos = layer_of(result["OUTPUT_PHOTOS"])
    assert photos.crs().authid() == "EPSG:3857"
    assert photos.wkbType() == QgsWkbTypes.Type.Point
    # A field of the user's that has a score's name keeps its name and values.
    assert without_fid(photos) == [*layer.fields().names(), "similarity_2", *SCORES[1:]]
    for field in layer.fields():
        assert photos.fields().field(field.name()).type() == field.type()
    assert [photos.fields().field(name).type() for name in SCORES[1:]] == [QVariant.Double] * 7
    for before, after in zip(layer.getFeatures(), photos.getFeatures()):
        assert [after[name] for name in layer.fields().names()] == before.attributes()
        assert after.geometry().equals(before.geometry())


@pytest.mark.parametrize(
    ("suffix", "styled"), [(".gpkg", None), (".geojson", ".qml"), (".csv", None), (".shp", ".qml")]
)
def test_photos_are_written_to_any_format_with_their_style(shared, tmp_path, suffix, styled):
    path = tmp_path / f"Plätze der Fotos{suffix}"
    result = run(
        {
            "INPUT": scene_path(shared),
            "PHOTOS": pairs_layer(shared),
            "OUTPUT": str(tmp_path / "Ähnlich keit.tif"),
            "OUTPUT_PHOTOS": str(path),
        }
    )
    assert Path(result["OUTPUT"]).exists()
    layer = QgsVectorLayer(result["OUTPUT_PHOTOS"], "photos", "ogr")
    (feature,) = layer.getFeatures()
    assert styled is None or path.with_suffix(styled).exists()
    if suffix == ".csv":  # QGIS keeps no geometry in it, so that places are columns
        assert (float(feature["lon"]), float(feature["lat"])) == pytest.approx((LON, LAT), abs=1e-9)
    else:
        assert layer.renderer().symbol().symbolLayer(1).color() == QColor(227, 26, 28)


def test_only_selected_photos_are_compared(shared):
    layer = in_detroit(shared)
    QgsProject.instance().addMapLayer(layer)
    layer.selectByExpression("kind = 'road'")
    parameters = {
        "INPUT": scene_path(shared),
        "PHOTOS": QgsProcessingFeatureSourceDefinition(layer.id(), selectedFeaturesOnly=True),
        "OUTPUT": "TEMPORARY_OUTPUT",
        "OUTPUT_PHOTOS": "TEMPORARY_OUTPUT",
    }
    result = run(parameters)
    assert [feature["kind"] for feature in layer_of(result["OUTPUT_PHOTOS"]).getFeatures()] == ["road"]
    layer.removeSelection()
    with pytest.raises(QgsProcessingException, match="no feature of my photos is selected"):
        run(parameters)


def test_delimited_text_with_paths_relative_to_its_file(shared):
    path = shared / "data" / "gair_pairs" / "photos.csv"
    uri = f"{path.absolute().as_uri()}?delimiter=,&xField=lon&yField=lat&crs=EPSG:4326"
    layer, log = QgsVectorLayer(uri, "photos", "delimitedtext"), Log()
    parameters = {
        "INPUT": scene_path(shared),
        "OUTPUT": "TEMPORARY_OUTPUT",
        "OUTPUT_PHOTOS": "TEMPORARY_OUTPUT",
    }
    result = run({**parameters, "PHOTOS": layer}, log)
    (first,) = layer_of(result["OUTPUT_PHOTOS"]).getFeatures()
    assert (first["id"], first["photo"]) == ("detroit", "gallery/detroit_sv.jpg")
    assert any("in the field photo" in line for line in log.information)
    # The same table by its path, as under qgis_process: no geometries, but columns of longitude and latitude.
    again = layer_of(run({**parameters, "PHOTOS": str(path)})["OUTPUT_PHOTOS"])
    (second,) = again.getFeatures()
    assert again.crs().authid() == "EPSG:4326"
    assert second.geometry().asPoint().distance(QgsPointXY(LON, LAT)) < 1e-9
    assert [second[name] for name in SCORES] == [first[name] for name in SCORES]


def test_a_geopackage_with_paths_relative_to_the_project(shared, tmp_path):
    project = QgsProject.instance()
    (tmp_path / "project" / "pictures").mkdir(parents=True)
    (tmp_path / "project" / "pictures" / "a b.jpg").symlink_to(photo_path(shared))
    project.write(str(tmp_path / "project" / "mine.qgz"))
    layer = saved(point_layer([(LON, LAT, "pictures/a b.jpg")]), tmp_path / "points.gpkg")
    context = QgsProcessingContext()
    context.setProject(project)
    result = run(
        {
            "INPUT": scene_path(shared),
            "PHOTOS": layer,
            "OUTPUT": "TEMPORARY_OUTPUT",
            "OUTPUT_PHOTOS": "TEMPORARY_OUTPUT",
        },
        context=context,
    )
    (feature,) = layer_of(result["OUTPUT_PHOTOS"]).getFeatures()
    assert feature["photo"] == "pictures/a b.jpg"


def test_half_of_the_photos_missing_are_named_and_the_rest_is_used(shared):
    rows = [
        (LON, LAT, photo_path(shared), 1),
        (LON, LAT - 0.001, "/nowhere/gone.jpg", 2),
        (LON - 0.001, LAT, photo_path(shared, "tokyo"), 3),
        (LON, LAT, None, 4),
    ]
    log = Log()
    result = run(
        {
            "INPUT": scene_path(shared),
            "PHOTOS": point_layer(rows, "photo:string&field=number:integer"),
            "OUTPUT": "TEMPORARY_OUTPUT",
            "OUTPUT_PHOTOS": "TEMPORARY_OUTPUT",
        },
        log,
    )
    assert [feature["number"] for feature in layer_of(result["OUTPUT_PHOTOS"]).getFeatures()] == [1, 3]
    assert any("/nowhere/gone.jpg does not exist" in warning for warning in log.warnings)
    assert any("row 4" in warning for warning in log.warnings)


def test_no_photo_left_is_an_error_and_leaves_nothing(shared, tmp_path):
    with pytest.raises(QgsProcessingException, match=r"None of the 1 photos of 'my photos'.*1 missing"):
        run(
            {
                "INPUT": scene_path(shared),
                "PHOTOS": point_layer([(LON, LAT, "/nowhere/gone.jpg")]),
                "OUTPUT": str(tmp_path / "similarity.tif"),
                "OUTPUT_PHOTOS": str(tmp_path / "photos.gpkg"),
            }
        )
    assert list(tmp_path.iterdir()) == []


def test_mode_group_makes_a_band_of_each_value(shared, tmp_path):
    result = run(
        {
            "INPUT": scene_path(shared),
            "PHOTOS": in_detroit(shared),
            "MODE": "group",
            "GROUP_FIELD": "kind",
            "OUTPUT": str(tmp_path / "groups.tif"),
        }
    )
    raster = QgsRasterLayer(result["OUTPUT"])
    assert [raster.bandName(band) for band in (1, 2)] == ["Band 1: road", "Band 2: street"]
    assert "OUTPUT_PHOTOS" not in result
    assert sorted(path.name for path in tmp_path.iterdir()) == ["groups.qml", "groups.tif"]


@pytest.mark.parametrize(
    ("field", "said"),
    [(None, "The mode group needs a group field"), ("colour", "no field colour; they have photo, kind")],
)
def test_mode_group_asks_for_its_field(shared, field, said):
    parameters = {"INPUT": scene_path(shared), "PHOTOS": in_detroit(shared), "MODE": "group"}
    with pytest.raises(QgsProcessingException, match=said):
        run({**parameters, "GROUP_FIELD": field, "OUTPUT": "TEMPORARY_OUTPUT"})


@pytest.mark.parametrize("name", ["near", "near.tif"])
def test_mode_photo_fills_a_folder(shared, tmp_path, name):
    (tmp_path / "near").mkdir()
    older = tmp_path / "near" / "older.tif"
    older.write_bytes(b"not from this run")
    result = run(
        {
            "INPUT": scene_path(shared),
            "PHOTOS": in_detroit(shared),
            "MODE": "photo",
            "RADIUS": 300,
            "OUTPUT": str(tmp_path / name),
        }
    )
    folder = tmp_path / "near"
    assert result["OUTPUT"] == result["OUTPUT_FOLDER"] == str(folder)
    names = ["detroit_sv.tif", "sacramento_sv.tif", "tokyo_sv.tif"]
    assert result["OUTPUT_RASTERS"] == [str(folder / file) for file in names]
    raster, scene = QgsRasterLayer(str(folder / "detroit_sv.tif")), QgsRasterLayer(scene_path(shared))
    assert raster.bandName(1) == "Band 1: detroit_sv.jpg"
    # 300 m to the north and south of the photo, in pixels of 10 m, whole ones.
    assert raster.height() in (60, 61, 62)
    assert raster.extent().contains(QgsPointXY(LON, LAT))
    assert scene.extent().contains(raster.extent())


def test_mode_photo_with_a_radius_of_0_takes_the_whole_extent(shared, tmp_path):
    result = run(
        {
            "INPUT": scene_path(shared),
            "PHOTOS": pairs_layer(shared),
            "MODE": "photo",
            "RADIUS": 0,
            "OUTPUT": "TEMPORARY_OUTPUT",
        }
    )
    (path,) = result["OUTPUT_RASTERS"]
    assert QgsRasterLayer(path).extent() == QgsRasterLayer(scene_path(shared)).extent()


def test_an_extent_in_another_crs_cuts_the_raster_and_not_the_values(shared, tmp_path):
    parameters = {"INPUT": scene_path(shared), "PHOTOS": pairs_layer(shared), "OUTPUT": "TEMPORARY_OUTPUT"}
    whole = QgsRasterLayer(run(parameters)["OUTPUT"])
    # Web mercator metres around the photo.
    x, y = LON * 20037508.342789244 / 180, math.log(math.tan(math.radians(45 + LAT / 2))) * 6378137
    extent = f"{x - 500},{x + 200},{y - 400},{y + 300} [EPSG:3857]"
    part = QgsRasterLayer(run({**parameters, "EXTENT": extent})["OUTPUT"])
    assert part.width() < whole.width() / 2
    assert part.extent().contains(QgsPointXY(LON, LAT))
    centre = part.extent().center()
    assert value_at(part, centre.x(), centre.y()) == pytest.approx(
        value_at(whole, centre.x(), centre.y()), abs=1e-5
    )


def loaded(parameters, photos_path, shared):
    """Run as the toolbox does and load the results into the project above the scene."""
    from processing.gui.Postprocessing import handleAlgorithmResults

    project = QgsProject.instance()
    scene = QgsRasterLayer(scene_path(shared), "scene")
    project.addMapLayer(scene)
    context = QgsProcessingContext()
    context.setProject(project)
    run(
        {
            **parameters,
            "INPUT": scene,
            "OUTPUT": QgsProcessingOutputLayerDefinition(parameters["OUTPUT"], project),
            "OUTPUT_PHOTOS": QgsProcessingOutputLayerDefinition(photos_path, project),
        },
        context=context,
        onFinish=handleAlgorithmResults,
    )
    return [node.layer() for node in project.layerTreeRoot().findLayers()]


@pytest.mark.parametrize("photos", ["TEMPORARY_OUTPUT", "a.gpkg", "z.geojson"])
def test_layers_load_as_figure_7(shared, tmp_path, photos):
    path = photos if photos == "TEMPORARY_OUTPUT" else str(tmp_path / photos)
    parameters = {"PHOTOS": pairs_layer(shared), "OUTPUT": str(tmp_path / "m.tif")}
    layers = loaded(parameters, path, shared)
    assert [layer.name() for layer in layers] == ["Photos with scores", "Similarity", "scene"]
    _, raster, scene = layers
    assert raster.renderer().type() == "singlebandpseudocolor"
    assert raster.renderer().opacity() == pytest.approx(0.65)
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(scene.crs())
    settings.setExtent(QgsRectangle(LON - 0.004, LAT - 0.003, LON + 0.0039, LAT + 0.003))
    settings.setOutputSize(QSize(400, 300))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    transform = settings.mapToPixel().transform(LON, LAT)
    star = image.pixelColor(round(transform.x()), round(transform.y()))
    assert (star.red() > 200) and (star.green() < 60)
    ramp = image.pixelColor(20, 20)
    assert ramp.saturation() > 40, "grey: the style beside the raster was not used"


def test_rasters_of_mode_photo_load_with_names_below_the_stars(shared, tmp_path):
    parameters = {
        "PHOTOS": in_detroit(shared),
        "MODE": "photo",
        "RADIUS": 300,
        "OUTPUT": str(tmp_path / "near"),
    }
    layers = loaded(parameters, "TEMPORARY_OUTPUT", shared)
    names = [layer.name() for layer in layers]
    assert names[0] == "Photos with scores"
    assert names[-1] == "scene"
    assert sorted(names[1:-1]) == [f"Similarity to {city}_sv" for city in sorted(PAIRS)]
    assert {layer.renderer().type() for layer in layers[1:-1]} == {"singlebandpseudocolor"}


def test_it_is_a_step_of_a_model(shared, tmp_path):
    import processing

    model = QgsProcessingModelAlgorithm("similar", "test")
    similar = QgsProcessingModelChildAlgorithm("gair:photosimilarity")
    similar.setChildId("similar")
    for name, value in (("INPUT", scene_path(shared)), ("PHOTOS", pairs_path(shared))):
        similar.addParameterSources(name, [QgsProcessingModelChildParameterSource.fromStaticValue(value)])
    model.addChildAlgorithm(similar)
    buffer = QgsProcessingModelChildAlgorithm("native:buffer")
    buffer.setChildId("buffer")
    source = QgsProcessingModelChildParameterSource
    buffer.addParameterSources("INPUT", [source.fromChildOutput("similar", "OUTPUT_PHOTOS")])
    buffer.addParameterSources("DISTANCE", [source.fromStaticValue(0.001)])
    output = QgsProcessingModelOutput("areas")
    output.setChildId("buffer")
    output.setChildOutputName("OUTPUT")
    buffer.setModelOutputs({"areas": output})
    model.addChildAlgorithm(buffer)
    model.initAlgorithm()
    result = processing.run(model, {"buffer:areas": str(tmp_path / "areas.gpkg")}, feedback=Log())
    layer = QgsVectorLayer(result["buffer:areas"], "areas", "ogr")
    assert "best_distance_m" in layer.fields().names()


def pairs_path(shared):
    return str(shared / "data" / "gair_pairs" / "photos.csv")


@pytest.mark.parametrize(("mode", "made"), [("mean", "similarity.tif"), ("photo", "similarity")])
def test_relative_outputs_start_from_the_current_folder(shared, tmp_path, monkeypatch, mode, made):
    monkeypatch.chdir(tmp_path)
    parameters = {"INPUT": scene_path(shared), "PHOTOS": in_detroit(shared), "MODE": mode}
    result = run({**parameters, "OUTPUT": "similarity.tif"})
    assert result["OUTPUT"] == str(tmp_path / made)
    assert all(Path(raster).is_file() for raster in result["OUTPUT_RASTERS"])
    assert len(result["OUTPUT_RASTERS"]) == (3 if mode == "photo" else 1)


def test_impossible_destinations_of_the_photos_are_refused_before_any_work(shared, tmp_path):
    layer = saved(pairs_layer(shared), tmp_path / "photos.gpkg")
    before = (tmp_path / "photos.gpkg").read_bytes()
    parameters = {"INPUT": scene_path(shared), "PHOTOS": layer, "OUTPUT": str(tmp_path / "similarity.tif")}
    with pytest.raises(QgsProcessingException, match=r"is the input. Inputs are never overwritten"):
        run({**parameters, "OUTPUT_PHOTOS": str(tmp_path / "photos.gpkg")})
    with pytest.raises(QgsProcessingException, match=r"missing of the output a.gpkg does not exist"):
        run({**parameters, "OUTPUT_PHOTOS": str(tmp_path / "missing" / "a.gpkg")})
    assert [path.name for path in tmp_path.iterdir()] == ["photos.gpkg"]
    assert (tmp_path / "photos.gpkg").read_bytes() == before


def test_a_layer_without_crs_raises_with_the_way_out(shared):
    parameters = {"INPUT": scene_path(shared), "OUTPUT": "TEMPORARY_OUTPUT"}
    with pytest.raises(QgsProcessingException, match=r"no coordinate reference system.*Set CRS of Layer"):
        run({**parameters, "PHOTOS": point_layer([(LON, LAT, photo_path(shared))], crs="")})


def test_a_user_defined_crs_is_transformed_by_qgis(shared):
    custom = QgsCoordinateReferenceSystem()
    custom.createFromProj("+proj=laea +lat_0=42.4 +lon_0=-83.2 +datum=WGS84 +units=m")
    import processing

    projected = processing.run(
        "native:reprojectlayer",
        {"INPUT": in_detroit(shared), "TARGET_CRS": custom, "OUTPUT": "TEMPORARY_OUTPUT"},
    )["OUTPUT"]
    parameters = {
        "INPUT": scene_path(shared),
        "OUTPUT": "TEMPORARY_OUTPUT",
        "OUTPUT_PHOTOS": "TEMPORARY_OUTPUT",
    }
    plain = layer_of(run({**parameters, "PHOTOS": in_detroit(shared)})["OUTPUT_PHOTOS"])
    other = layer_of(run({**parameters, "PHOTOS": projected})["OUTPUT_PHOTOS"])
    for one, two in zip(plain.getFeatures(), other.getFeatures()):
        assert one["similarity"] == pytest.approx(two["similarity"], abs=1e-5)


def in_background(parameters, log, meanwhile=lambda: None):
    """Run as the toolbox's dialog does: prepared in this thread, at work in another one."""
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("gair:photosimilarity")
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    finished = []
    task = QgsProcessingAlgRunnerTask(algorithm, parameters, context, log)
    task.executed.connect(lambda *result: finished.append(result))
    QgsApplication.taskManager().addTask(task)
    end = time.monotonic() + 60
    while not finished and time.monotonic() < end:
        meanwhile()
        QCoreApplication.processEvents()
        time.sleep(0.01)
    return finished[0]


def test_it_works_in_a_background_thread(shared, tmp_path):
    layer = in_detroit(shared)
    QgsProject.instance().addMapLayer(layer)
    log = QgsProcessingFeedback(False)
    parameters = {
        "INPUT": scene_path(shared),
        "PHOTOS": layer.id(),
        "OUTPUT": str(tmp_path / "similarity.tif"),
        "OUTPUT_PHOTOS": str(tmp_path / "photos.gpkg"),
    }
    succeeded, results = in_background(parameters, log)
    assert succeeded, log.textLog()
    assert results["PHOTO_COUNT"] == 3
    assert "in the field photo" in log.textLog()
    assert QgsVectorLayer(results["OUTPUT_PHOTOS"], "photos", "ogr").featureCount() == 3


def test_cancel_leaves_nothing(shared, tmp_path):
    log = QgsProcessingFeedback(False)
    parameters = {
        "INPUT": str(shared / "data" / "laos_scene" / "majortom_199U_1099R_20200223_12b_10m.tif"),
        "PHOTOS": point_layer([(103.75, 17.92, photo_path(shared))]),
        "OUTPUT": str(tmp_path / "similarity.tif"),
        "OUTPUT_PHOTOS": str(tmp_path / "photos.gpkg"),
    }
    QgsProject.instance().addMapLayer(parameters["PHOTOS"])

    def cancel_at_work():
        if log.progress() > 5:
            log.cancel()

    succeeded, _ = in_background(parameters, log, cancel_at_work)
    assert log.isCanceled()
    assert not succeeded
    assert list(tmp_path.iterdir()) == []
