"""The provider lists every algorithm with names, help and icons, and loads at once."""

from __future__ import annotations

import pytest
from gair.plugin import GairPlugin
from gair.provider import ICON
from qgis.core import QgsApplication, QgsProcessingParameterDefinition
from qgis.PyQt.QtGui import QIcon

OPTIONAL = QgsProcessingParameterDefinition.Flag.FlagOptional
# Names of the parameters that scripts rely on.
PARAMETERS = {
    "segment": "INPUT MODEL BANDS EXTENT OUTPUT CONFIDENCE POLYGONS",
    "embed": "INPUT MODEL BANDS EXTENT RESOLUTION COMPONENTS DTYPE OUTPUT",
    "detectchange": "BEFORE AFTER MODEL BANDS EXTENT OUTPUT",
    "photosimilarity": "INPUT PHOTOS PHOTO_FIELD MODEL MODE GROUP_FIELD RADIUS BANDS EXTENT OUTPUT "
    "OUTPUT_PHOTOS",
    "sampleembeddings": "INPUT POINTS MODEL BANDS OUTPUT",
    "locatephotos": "INPUT FOLDER PHOTOS PHOTO_FIELD MODEL BANDS OUTPUT",
    "locationsimilarity": "PHOTO MODEL EXTENT RESOLUTION OUTPUT",
    "trainhead": "INPUT LABELS CLASS_FIELD MODEL BANDS EXTENT OUTPUT_MODEL REPORT",
    "importcheckpoint": "FILE KIND OUTPUT HTML",
    "createenvironment": "BUILD INDEX_URL TORCH_INDEX_URL COMMANDS_ONLY",
    "checkenvironment": "MODEL DEVICE HTML",
}


def test_provider_names_itself_and_shows_its_icon(provider):
    assert (provider.id(), provider.name()) == ("gair", "GAIR")
    assert QIcon(str(ICON)).pixmap(24, 24).toImage().pixelColor(12, 9).alpha() == 255


def test_algorithms_have_their_ids_and_parameters(provider):
    assert {algorithm.name() for algorithm in provider.algorithms()} == set(PARAMETERS)
    for algorithm in provider.algorithms():
        names = {parameter.name() for parameter in algorithm.parameterDefinitions()}
        assert set(PARAMETERS[algorithm.name()].split()) <= names, algorithm.id()


def test_every_parameter_has_help_and_every_algorithm_group_and_tags(provider):
    for algorithm in provider.algorithms():
        assert algorithm.groupId() in ("scenes", "photos", "models", "environment"), algorithm.id()
        assert algorithm.group()
        assert algorithm.displayName()
        assert "gair" in algorithm.tags()
        assert not algorithm.icon().isNull()
        help_text = algorithm.shortHelpString()
        for parameter in algorithm.parameterDefinitions():
            assert parameter.help(), (algorithm.id(), parameter.name())
            assert parameter.help() in help_text
            may_be_left_out = parameter.flags() & OPTIONAL or parameter.defaultValue() is not None
            if may_be_left_out and not parameter.isDestination():
                assert "Default" in parameter.help(), (algorithm.id(), parameter.name())


@pytest.mark.parametrize("name", ["segment", "embed"])
def test_input_and_output_alone_are_enough(provider, name):
    algorithm = provider.algorithm(name)
    needed = {
        parameter.name()
        for parameter in algorithm.parameterDefinitions()
        if not parameter.flags() & OPTIONAL and parameter.defaultValue() is None
    }
    assert needed == {"INPUT", "OUTPUT"}


def test_expert_parameters_are_advanced(provider):
    advanced = QgsProcessingParameterDefinition.Flag.FlagAdvanced
    for name in ("segment", "embed", "detectchange"):
        algorithm = provider.algorithm(name)
        for parameter in ("DEVICE", "TILE_SIZE", "BATCH_SIZE", "OFFSET"):
            assert algorithm.parameterDefinition(parameter).flags() & advanced
        assert not algorithm.parameterDefinition("MODEL").flags() & advanced


def test_outputs_can_feed_other_steps_of_a_model(provider):
    outputs = {output.name(): output.type() for output in provider.algorithm("segment").outputDefinitions()}
    assert outputs == {
        "OUTPUT": "outputRaster",
        "CONFIDENCE": "outputRaster",
        "POLYGONS": "outputVector",
        "CLASS_COUNT": "outputNumber",
        "POLYGON_COUNT": "outputNumber",
    }


def test_plugin_adds_and_removes_its_provider_without_a_window(qgis_app, qgis_processing):
    registry = QgsApplication.processingRegistry()
    before = [one.id() for one in registry.providers()]
    plugin = GairPlugin(None)
    if "gair" not in before:
        plugin.initProcessing()
        assert registry.providerById("gair") is not None
        plugin.unload()
        assert registry.providerById("gair") is None
    plugin.unload()
