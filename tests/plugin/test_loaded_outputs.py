"""Layers that Processing loads have the styles that lie beside or in their files, and names that tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from qgis.core import (
    QgsMapLayer,
    QgsProcessingContext,
    QgsProcessingOutputLayerDefinition,
    QgsProject,
    QgsRasterLayer,
)

from .made_scenes import made_scene

pytestmark = pytest.mark.usefixtures("provider", "gair_python")


def loaded(algorithm: str, folder: Path, *outputs: str) -> dict[str, QgsMapLayer]:
    """The layers by name after a run whose outputs are opened, as a dialog does it."""
    from processing.core.Processing import Processing
    from processing.gui.Postprocessing import handleAlgorithmResults

    scene = str(folder / "scene.tif")
    made_scene(folder / "scene.tif")
    project = QgsProject()
    project.addMapLayer(QgsRasterLayer(scene, "scene"))
    context = QgsProcessingContext()
    context.setProject(project)
    destinations = {name: QgsProcessingOutputLayerDefinition("TEMPORARY_OUTPUT", project) for name in outputs}
    Processing.runAlgorithm(
        algorithm, {"INPUT": scene, **destinations}, onFinish=handleAlgorithmResults, context=context
    )
    layers = {node.layer().name(): node.layer().clone() for node in project.layerTreeRoot().findLayers()}
    del layers["scene"]
    return layers


def test_classes_load_with_their_names(tmp_path):
    layers = loaded("gair:segment", tmp_path, "OUTPUT", "CONFIDENCE", "POLYGONS")
    assert set(layers) == {"Classes of scene", "Confidence of scene", "Class polygons of scene"}
    classes = layers["Classes of scene"].renderer().classes()
    assert len(classes) == 7, "all 256 entries of the colour table: the style was not used"
    assert classes[0].label == "water"
    assert layers["Confidence of scene"].renderer().type() == "singlebandpseudocolor"
    assert layers["Class polygons of scene"].renderer().type() == "categorizedSymbol"


def test_embeddings_load_with_the_range_of_the_basis(tmp_path):
    (layer,) = loaded("gair:embed", tmp_path, "OUTPUT").values()
    assert layer.name() == "Embedding of scene"
    stretch = layer.renderer().redContrastEnhancement()
    assert stretch.minimumValue() == pytest.approx(-stretch.maximumValue())
