"""The user's guide names what there is: algorithms, parameters, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from qgis.core import QgsApplication

from tests.plugin.conftest import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))


def commands(page: Path) -> list[list[str]]:
    """The runs of GAIR's algorithms in a page's shell blocks, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line[line.index("gair:") :]) for line in lines if "qgis_process run gair:" in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_parameters_that_exist(page, provider):
    for algorithm, *words in commands(page):
        found = QgsApplication.processingRegistry().algorithmById(algorithm)
        assert found is not None, algorithm
        given = {word.split("=")[0] for word in words if "=" in word}
        known = {parameter.name() for parameter in found.parameterDefinitions()}
        assert given <= known, (algorithm, given - known)


def test_every_algorithm_is_in_the_guide(provider):
    text = (ROOT / "docs" / "plugin.md").read_text("utf-8")
    names = {algorithm.displayName() for algorithm in provider.algorithms()}
    assert [name for name in names if name not in text.replace("\n", " ")] == []
