"""The provider lists every algorithm with names, help and icons, and loads at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from gair.plugin import GairPlugin
from gair.provider import ICON
from qgis.core import QgsApplication, QgsProcessingParameterDefinition
from qgis.PyQt.QtGui import QIcon

from tests.plugin.conftest import STAGE

# Names of the parameters that scripts rely on.
PARAMETERS = {
    "segment": {"INPUT", "MODEL", "BANDS", "EXTENT", "OUTPUT", "CONFIDENCE", "POLYGONS"},
    "embed": {"INPUT", "MODEL", "BANDS", "EXTENT", "RESOLUTION", "COMPONENTS", "DTYPE", "OUTPUT"},
    "detectchange": {"BEFORE", "AFTER", "MODEL", "OUTPUT"},
    "importcheckpoint": {"FILE", "KIND", "OUTPUT", "HTML"},
}


def test_provider_names_itself_and_shows_its_icon(provider):
    assert (provider.id(), provider.name()) == ("gair", "GAIR")
    assert QIcon(str(ICON)).pixmap(24, 24).toImage().pixelColor(12, 9).alpha() == 255


@pytest.mark.parametrize("name", PARAMETERS)
def test_algorithms_have_their_ids_and_parameters(provider, name):
    algorithm = QgsApplication.processingRegistry().createAlgorithmById(f"gair:{name}")
    assert PARAMETERS[name] <= {parameter.name() for parameter in algorithm.parameterDefinitions()}


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


@pytest.mark.parametrize("name", ["segment", "embed"])
def test_input_and_output_alone_are_enough(provider, name):
    optional = QgsProcessingParameterDefinition.Flag.FlagOptional
    algorithm = provider.algorithm(name)
    needed = {
        parameter.name()
        for parameter in algorithm.parameterDefinitions()
        if not parameter.flags() & optional and parameter.defaultValue() is None
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


def test_importing_the_plugin_is_quick_and_loads_nothing_heavy():
    code = f"""
import sys, time
sys.path.insert(0, {str(STAGE)!r})
import qgis.core, qgis.PyQt.QtGui
before = set(sys.modules)
start = time.perf_counter()
import gair
import gair.plugin
seconds = time.perf_counter() - start
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(seconds)
heavy = {{"numpy", "torch", "rasterio", "osgeo", "asyncio", "processing", "gair_core", "pydantic"}}
print(*sorted(new & heavy))
"""
    lines = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    # The promise is 50 ms on an idle machine; tests may share it.
    assert float(lines[0]) < 0.5
    assert lines[1:] == [""]
