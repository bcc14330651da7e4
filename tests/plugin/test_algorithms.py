"""What all algorithms share, in the places where QGIS runs them: a task's thread, and a model."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gair.worker_client import shared_client
from osgeo import gdal
from qgis import processing
from qgis.core import (
    QgsApplication,
    QgsProcessingAlgRunnerTask,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingModelAlgorithm,
    QgsProcessingModelChildAlgorithm,
    QgsProcessingModelChildParameterSource,
    QgsProcessingModelOutput,
    QgsProcessingModelParameter,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProject,
)
from qgis.PyQt.QtCore import QCoreApplication

from .made_scenes import made_scene, virtual_layer

pytestmark = pytest.mark.usefixtures("provider", "gair_python")
BANDS = ",".join(f"{name}=1" for name in ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"))


def pixels(path: object) -> np.ndarray:
    return gdal.Open(str(path)).ReadAsArray()


def wait_until(done: Callable[[], bool]) -> None:
    """Handle events, by which tasks end, until something is done; two minutes are too long."""
    deadline = time.monotonic() + 120
    while not done() and time.monotonic() < deadline:
        QCoreApplication.processEvents()
        time.sleep(0.01)


def run_in_background(name: str, parameters: dict[str, object]) -> tuple[bool, dict[str, object], str]:
    """Run an algorithm as the toolbox does; returns success, results and the log."""
    algorithm = QgsApplication.processingRegistry().createAlgorithmById(name)
    context, feedback = QgsProcessingContext(), QgsProcessingFeedback(False)
    context.setProject(QgsProject.instance())
    task = QgsProcessingAlgRunnerTask(algorithm, parameters, context, feedback)
    finished: list[tuple[bool, dict[str, object]]] = []
    task.executed.connect(lambda successful, results: finished.append((successful, results)))
    QgsApplication.taskManager().addTask(task)
    wait_until(lambda: bool(finished))
    return (*finished[0], feedback.textLog())


def test_layers_that_are_no_files_work_in_a_tasks_thread(tmp_path):
    made_scene(tmp_path / "scene.tif")
    parameters = {"BANDS": BANDS, "OFFSET": 0, "INPUT": virtual_layer(tmp_path / "scene.tif")}
    here = processing.run("gair:embed", {**parameters, "OUTPUT": "TEMPORARY_OUTPUT"})
    output = str(tmp_path / "out.tif")
    successful, results, log = run_in_background("gair:embed", {**parameters, "OUTPUT": output})
    assert successful, log
    assert results["OUTPUT"] == output
    np.testing.assert_array_equal(pixels(output), pixels(here["OUTPUT"]))


def test_a_failure_in_a_tasks_thread_says_why(tmp_path):
    made_scene(tmp_path / "scene.tif", crs="")
    parameters = {"INPUT": str(tmp_path / "scene.tif"), "OUTPUT": str(tmp_path / "out.tif")}
    successful, _, log = run_in_background("gair:segment", parameters)
    assert not successful
    assert "has no CRS" in log
    assert not (tmp_path / "out.tif").exists()


def test_two_algorithms_started_at_once_take_turns(tmp_path):
    made_scene(tmp_path / "scene.tif")
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    finished, tasks = [], []
    for name in ("embed", "segment"):
        parameters = {"INPUT": str(tmp_path / "scene.tif"), "OUTPUT": str(tmp_path / f"{name}.tif")}
        algorithm = QgsApplication.processingRegistry().createAlgorithmById(f"gair:{name}")
        feedback = QgsProcessingFeedback(False)
        task = QgsProcessingAlgRunnerTask(algorithm, parameters, context, feedback)
        task.executed.connect(lambda successful, results: finished.append((successful, results)))
        tasks.append((task, feedback))
    for task, _ in tasks:
        QgsApplication.taskManager().addTask(task)
    wait_until(lambda: len(finished) == len(tasks))
    assert all(successful for successful, _ in finished), [feedback.textLog() for _, feedback in tasks]
    assert pixels(tmp_path / "embed.tif").shape == (16, 100, 120)
    assert pixels(tmp_path / "segment.tif").shape == (100, 120)


def test_a_killed_worker_fails_the_run_with_its_last_words_and_the_next_one_works(tmp_path):
    class Killer(QgsProcessingFeedback):
        """Kills the worker when the first tile is done."""

        def setProgressText(self, text: str) -> None:
            if "tile" in text:
                os.kill(shared_client().process_id, signal.SIGKILL)

    made_scene(tmp_path / "scene.tif")
    parameters = {"INPUT": str(tmp_path / "scene.tif"), "OUTPUT": str(tmp_path / "out.tif")}
    with pytest.raises(QgsProcessingException, match=r"signal 9\)\. Its last words:"):
        processing.run("gair:embed", {**parameters, "TILE_SIZE": 96}, feedback=Killer(False))
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
    processing.run("gair:embed", parameters)
    assert (tmp_path / "out.tif").is_file()


def test_without_an_environment_a_run_fails_before_it_reads_anything(tmp_path, monkeypatch):
    made_scene(tmp_path / "scene.tif")
    monkeypatch.delenv("GAIR_PYTHON")
    feedback = QgsProcessingFeedback(False)
    parameters = {"INPUT": virtual_layer(tmp_path / "scene.tif"), "OUTPUT": "TEMPORARY_OUTPUT"}
    with pytest.raises(QgsProcessingException, match="gair:createenvironment"):
        processing.run("gair:embed", parameters, feedback=feedback)
    assert "Copying" not in feedback.textLog()


def test_a_model_passes_its_inputs_on(tmp_path):
    made_scene(tmp_path / "scene.tif")
    model = QgsProcessingModelAlgorithm("m", "m")
    model.addModelParameter(QgsProcessingParameterRasterLayer("SCENE"), QgsProcessingModelParameter("SCENE"))
    model.addModelParameter(QgsProcessingParameterString("HEAD"), QgsProcessingModelParameter("HEAD"))
    child = QgsProcessingModelChildAlgorithm("gair:segment")
    child.setChildId("segment")
    source = QgsProcessingModelChildParameterSource
    child.addParameterSources("INPUT", [source.fromModelParameter("SCENE")])
    child.addParameterSources("MODEL", [source.fromModelParameter("HEAD")])
    output = QgsProcessingModelOutput("classes", "classes")
    output.setChildId("segment")
    output.setChildOutputName("OUTPUT")
    child.setModelOutputs({"classes": output})
    model.addChildAlgorithm(child)
    context, feedback = QgsProcessingContext(), QgsProcessingFeedback(False)
    name = next(one.name() for one in model.destinationParameterDefinitions())
    parameters = {"SCENE": str(tmp_path / "scene.tif"), "HEAD": "demo", name: str(tmp_path / "out.tif")}
    results, successful = model.run(parameters, context, feedback)
    assert successful, feedback.textLog()
    alone = processing.run("gair:segment", {"INPUT": parameters["SCENE"], "OUTPUT": "TEMPORARY_OUTPUT"})
    np.testing.assert_array_equal(pixels(results[name]), pixels(alone["OUTPUT"]))


def test_ten_scenes_start_the_worker_once(tmp_path):
    processes = set()
    for number in range(10):
        scene = tmp_path / f"scene {number}.tif"
        made_scene(scene, width=40 + number, height=30)
        output = processing.run("gair:embed", {"INPUT": str(scene), "OUTPUT": "TEMPORARY_OUTPUT"})["OUTPUT"]
        assert pixels(output).shape == (16, 30, 40 + number)
        processes.add(shared_client().process_id)
    assert len(processes) == 1
    assert None not in processes


def test_a_countdown_fills_the_log_no_more_than_needed(tmp_path):
    from gair.algorithms.base import _Monitor

    class Feedback(QgsProcessingFeedback):
        def __init__(self) -> None:
            super().__init__(False)
            self.texts: list[str] = []

        def setProgressText(self, text: str) -> None:
            self.texts.append(text)

    feedback = Feedback()
    monitor = _Monitor(feedback)
    for tile in range(1, 101):
        monitor.report(tile / 100, f"tile {tile} of 100, {100 - tile} s left")
    monitor.report(1.0, "writing")
    assert feedback.texts == ["tile 1 of 100, 99 s left", "writing"]
    assert feedback.progress() == 100


def test_the_working_folder_is_not_where_relative_paths_are_looked_for(tmp_path, monkeypatch):
    made_scene(tmp_path / "scene.tif")
    monkeypatch.chdir(tmp_path)
    output = processing.run("gair:embed", {"INPUT": "scene.tif", "OUTPUT": "out.tif"})["OUTPUT"]
    assert Path(output).resolve() == tmp_path / "out.tif"
    assert pixels(tmp_path / "out.tif").shape == (16, 100, 120)
