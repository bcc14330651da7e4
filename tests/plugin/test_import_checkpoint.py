"""`gair:importcheckpoint` through Processing and the real worker: checkpoint, report, failures."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from gair.algorithms.import_checkpoint import report_page
from gair.models import registered_models
from gair.worker_client import shared_client
from qgis import processing
from qgis.core import QgsProcessingException

from .conftest import ROOT

pytestmark = pytest.mark.usefixtures("provider")


@pytest.fixture(scope="module")
def croma(gair_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of the shape of CROMA's, with entries that the import leaves out."""
    path = tmp_path_factory.mktemp("foreign") / "petit modèle.pt"
    code = "import sys; from pathlib import Path; from tests.core.importers.test_croma import *; "
    code += "write(Path(sys.argv[1]), croma_weights())"
    subprocess.run([str(gair_python), "-c", code, str(path)], check=True, cwd=ROOT)
    return path


def import_checkpoint(**parameters: object) -> dict[str, object]:
    return processing.run("gair:importcheckpoint", parameters)


def test_croma_becomes_a_registered_model_with_a_report(croma, tmp_path, monkeypatch):
    checkpoint, page = tmp_path / "small.safetensors", tmp_path / "rapport été.html"
    result = import_checkpoint(
        FILE=str(croma),
        KIND="croma",
        NUM_HEADS=4,
        TITLE="Small <b>CROMA</b>",
        OUTPUT=str(checkpoint),
        HTML=str(page),
    )
    assert result == {"OUTPUT": str(checkpoint), "HTML": str(page)}
    information = shared_client().run("info", {"model": str(checkpoint)})
    assert information["title"] == "Small <b>CROMA</b>"
    text = page.read_text(encoding="utf-8")
    assert "Small &lt;b&gt;CROMA&lt;/b&gt;" in text
    assert "petit modèle.pt (croma)" in text
    assert "remote_sensing" in text
    assert "B1 and B9 are folded into the bias at their mean" in text
    assert "s1_encoder" in text
    monkeypatch.setenv("GAIR_MODELS", str(tmp_path))
    assert "small" in registered_models()


def test_output_alone_with_temporary_places(croma):
    result = import_checkpoint(
        FILE=str(croma), KIND="croma", NUM_HEADS=4, OUTPUT="TEMPORARY_OUTPUT", HTML="TEMPORARY_OUTPUT"
    )
    assert result["OUTPUT"].endswith(".safetensors")
    assert Path(result["OUTPUT"]).stat().st_size > 0
    assert result["HTML"].endswith(".html")


def test_precision_halves_the_file(croma, tmp_path):
    sizes = []
    for precision in ("float32", "float16"):
        output = tmp_path / f"{precision}.safetensors"
        import_checkpoint(FILE=str(croma), KIND="croma", NUM_HEADS=4, PRECISION=precision, OUTPUT=str(output))
        sizes.append(output.stat().st_size)
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"KIND": "croma"}, "There is no file to import"),
        ({"KIND": "croma", "FILE": "CROMA"}, "heads"),
        ({"KIND": "official", "FILE": "CROMA"}, ""),
        ({"KIND": "official", "FILE": "/missing/model.pth"}, "/missing/model.pth"),
        ({"KIND": "official", "FILE": "CROMA", "NUM_HEADS": 4}, "num_heads does not apply to official"),
    ],
)
def test_failures_raise_and_leave_nothing(croma, tmp_path, parameters, message):
    given = {name: str(croma) if value == "CROMA" else value for name, value in parameters.items()}
    with pytest.raises(QgsProcessingException) as caught:
        import_checkpoint(**given, OUTPUT=str(tmp_path / "out.safetensors"), HTML=str(tmp_path / "out.html"))
    assert message in str(caught.value)
    assert str(caught.value) != "There were errors executing the algorithm."
    assert not list(tmp_path.iterdir())


def test_the_report_leaves_empty_sections_out():
    result = {
        "title": "T",
        "output": "o.safetensors",
        "tensors_used": 3,
        "fingerprint": "f",
        "parameters": {"location": 1234567},
        "warnings": [],
        "notes": ["one <note>"],
        "ignored": {},
    }
    page = report_page(result, {"kind": "geoclip", "paths": ["o.safetensors"]})
    assert "1,234,567" in page
    assert "one &lt;note&gt;" in page
    assert "Warnings" not in page
    assert "Left out" not in page
    assert "geoclip (geoclip)" in page
