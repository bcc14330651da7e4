"""The self-test passes where everything works and finds what does not."""

from __future__ import annotations

import json
import tempfile

import pytest
import torch

from gair_core import check as module
from gair_core import checkpoint
from gair_core.check import CheckRequest, check, evaluate_directly
from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.geo.footprint import Footprint
from gair_core.model import GAIR
from gair_core.model.nili import NILI
from gair_core.progress import Progress


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def outcomes(result) -> dict[str, str]:
    return {test.name: test.outcome for test in result.tests}


def test_everything_works_and_nothing_is_left(tmp_path):
    result = check(CheckRequest(device="cpu"))
    assert result.ok
    assert set(outcomes(result).values()) == {"pass"}
    assert {"torch", "timm", "numpy", "Python", "GDAL in rasterio", "PROJ in pyproj"} <= set(result.versions)
    assert result.devices[0].name == "cpu"
    assert "demo" in {model.name for model in result.models}
    assert json.loads(result.model_dump_json())["ok"] is True
    assert "everything works" in result.text()
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_shortcut_is_found(monkeypatch):
    right = NILI.upsample
    monkeypatch.setattr(NILI, "upsample", staticmethod(lambda g, size, rim: right(g, size, 2 * rim)))
    result = check(CheckRequest(device="cpu"))
    assert outcomes(result)["from file to file"] == "fail"


def test_a_wrong_identity_is_found(monkeypatch):
    monkeypatch.setattr(NILI, "_blend_neighbourhood", lambda *arguments: arguments[1].new_zeros(1))
    result = check(CheckRequest(device="cpu"))
    assert not result.ok
    assert outcomes(result)["NILI agrees with Eq. 1"] == "fail"
    assert outcomes(result)["scene encoder"] == "pass"


def test_a_broken_library_fails_its_own_test_alone(monkeypatch):
    def broken(*_):
        raise RuntimeError("no database context specified")

    monkeypatch.setattr(Footprint, "uv", broken)
    progress = Progress()
    result = check(CheckRequest(device="cpu"), progress)
    assert not result.ok
    assert outcomes(result)["coordinates"] == "fail"
    assert list(outcomes(result).values()).count("fail") == 1
    assert any("no database context" in warning for warning in progress.warnings)
    assert "fail  coordinates" in result.text()


def test_absent_parts_are_skipped(tmp_path):
    torch.manual_seed(0)
    config = GAIRConfig.preset("tiny").model_copy(
        update={"remote_sensing": None, "nili": None, "street_view": None}
    )
    path = tmp_path / "places.safetensors"
    checkpoint.save(GAIR(config).eval(), path)
    result = check(CheckRequest(model=str(path), device="cpu"))
    assert result.ok
    assert outcomes(result) == dict.fromkeys(module._TESTS, "skip") | {
        "coordinates": "pass",
        "location encoder": "pass",
    }


@pytest.mark.parametrize("hidden", [(), (7,)])
def test_direct_evaluation_agrees_with_the_model_on_the_rim_too(hidden):
    torch.manual_seed(0)
    nili = NILI(5, 4, hidden)
    features = torch.randn(1, 5, 3, 4)
    uv = torch.tensor([[0.01, 0.02], [0.5, 0.4], [0.99, 0.97], [0.02, 0.6], [0.33, 0.99]])
    with torch.no_grad():
        torch.testing.assert_close(
            evaluate_directly(nili, features, uv), nili.interpolate(features, uv[None])[0]
        )


def test_what_cannot_be_tested_is_an_error():
    with pytest.raises(BadInputError, match="no device 'abacus'"):
        check(CheckRequest(device="abacus"))
    with pytest.raises(CheckpointError, match="no registered model 'nowhere'"):
        check(CheckRequest(model="nowhere"))
