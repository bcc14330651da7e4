"""Texts are ready to be translated: the catalogue finds them all, and a translation is shown."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from gair import plugin
from gair.translation import tr
from qgis.core import QgsApplication
from qgis.PyQt.QtCore import QCoreApplication, QTranslator

from .conftest import load_tool

PLUGIN = Path(__file__).resolve().parents[2] / "qgis_plugin"


def shouted(text: str) -> str:
    """A text in capitals, but for the names in braces that are filled in later."""
    return re.sub(r"[^{}]+(?![^{]*})", lambda match: match[0].upper(), text)


@pytest.fixture
def shouting(qgis_app: object, tmp_path: Path) -> Path:
    """A translation of every text into capitals, made as translators make theirs."""
    release = shutil.which("lrelease")
    if release is None:
        pytest.skip("needs Qt's lrelease")
    tool = load_tool("extract_texts")
    places = tool.collect(PLUGIN)
    catalogue = tmp_path / "gair_pt.ts"
    catalogue.write_text(
        tool.document(places, {text: shouted(text) for text in places}, "pt"), encoding="utf-8"
    )
    subprocess.run([release, "-silent", catalogue], check=True)
    return catalogue.with_suffix(".qm")


@pytest.fixture
def _shouted(shouting: Path):
    translator = QTranslator()
    assert translator.load(str(shouting))
    QCoreApplication.installTranslator(translator)
    yield
    QCoreApplication.removeTranslator(translator)


@pytest.mark.usefixtures("_shouted")
def test_translations_reach_titles_groups_and_help(provider):
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("gair:embed")
    assert tr("Embed a scene") == "EMBED A SCENE"
    assert algorithm.displayName() == "EMBED A SCENE"
    assert algorithm.group() == "SCENES"
    assert algorithm.parameterDefinition("COMPONENTS").description() == "COMPONENTS"
    assert algorithm.parameterDefinition("MODEL").help().endswith("REGISTERED NOW: demo, demo-land-cover.")
    assert "COMPUTES THE EMBEDDING" in algorithm.shortHelpString()


@pytest.mark.parametrize(
    ("locale", "shown"), [("pt_BR", "EMBED A SCENE"), ("pt", "EMBED A SCENE"), ("sv", "Embed a scene")]
)
def test_the_plugin_speaks_the_language_of_qgis(shouting, monkeypatch, locale, shown):
    monkeypatch.setattr(plugin, "TRANSLATIONS", shouting.parent)
    monkeypatch.setattr(plugin.QgsApplication, "locale", lambda: locale)
    one = plugin.GairPlugin(None)
    one._install_translation()
    assert tr("Embed a scene") == shown
    one.unload()
    assert tr("Embed a scene") == "Embed a scene"


def test_every_marked_text_is_a_literal_or_a_marked_constant():
    """`tr` of a variable is right only for constants that `translatable` marked."""
    allowed = {"self.TITLE", "self.GROUP[1]", "self.HELP", "word"}
    for module in sorted(PLUGIN.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tr":
                text = node.args[0]
                literal = isinstance(text, ast.Constant) and isinstance(text.value, str)
                assert literal or ast.unparse(text) in allowed, f"{module.name}:{node.lineno}"
