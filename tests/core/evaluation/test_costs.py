from __future__ import annotations

import csv
import io
import itertools
import json
import runpy
import sys
from pathlib import Path

import pytest

from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError
from gair_core.evaluation.costs import TITLES, costs_as_csv, costs_as_text, costs_as_values, read_costs

_BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A measurement by the benchmark itself."""
    path = tmp_path_factory.mktemp("costs") / "table_7.json"
    arguments = ["--presets", "tiny", "--batch-sizes", "1", "2", "--rounds", "1", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(_BENCHMARKS))
        patch.setattr(sys, "argv", ["table_7.py", *arguments, "--threads", "1", "--json", str(path)])
        runpy.run_path(str(_BENCHMARKS / "table_7.py"), run_name="__main__")
    return path


def test_operations_are_those_of_the_architecture(measured):
    """Products counted by hand, a multiply-add twice."""
    costs = read_costs(measured)
    assert len(costs.costs) == 2 * len(TITLES)
    config = GAIRConfig.preset("tiny")
    scenes, dim = config.remote_sensing, config.embed_dim
    side = scenes.tile_size // scenes.patch_size
    patches, width = side**2, scenes.width
    block = patches * width**2 * (4 + 2 * scenes.mlp_ratio) + 2 * patches**2 * width
    scene = 2 * (scenes.depth * block + patches * scenes.patch_size**2 * len(scenes.bands) * width) / 1e9
    places = config.location
    widths = [2 * places.num_frequencies, *[places.hidden_width] * places.hidden_layers, dim]
    location = sum(2 * a * b for a, b in itertools.pairwise(widths)) * len(places.sigmas) / 1e9
    for batch_size in (1, 2):
        found = {part: costs.of("tiny", part, batch_size) for part in TITLES}
        gflops = {part: cost.gflops for part, cost in found.items()}
        assert gflops["scene"] == pytest.approx(scene, rel=0.001)
        assert gflops["location"] == pytest.approx(location, rel=0.001)
        # One place: its 4 x 4 neighbourhood is blended to 3 x 3, W_f applied once, W_c to two numbers.
        once = 2 * (16 * 9 * width + (9 * width + 2) * dim) / 1e9
        assert gflops["scene_nili"] - scene == pytest.approx(once, rel=0.001)
        assert gflops["scene_nili_dense"] - scene == pytest.approx(
            2 * 9 * width * dim * patches / 1e9, rel=0.2
        )
        parts = gflops["scene_nili"] + gflops["photo"] + gflops["location"]
        assert gflops["joint"] == pytest.approx(parts, rel=1e-6)
        assert all(cost.latency_ms > 0 for cost in found.values())


def test_measured_costs_stand_beside_the_paper(measured):
    costs = read_costs(measured)
    lines = costs_as_text(costs).splitlines()
    assert any("GAIR, multimodal inputs" in line and "23.12" in line and "16.01" in line for line in lines)
    [scene, _] = [line for line in lines if line.strip().startswith("scene encoder  ")]
    assert scene.endswith("1.0000 of GFLOP, 1.000 of time")
    rows = list(csv.DictReader(io.StringIO(costs_as_csv(costs))))
    assert [row["source"] for row in rows] == ["paper"] * 3 + ["ours"] * 2 * len(TITLES)
    assert costs_as_values(costs)["measured"] == json.loads(measured.read_text("utf-8"))


def test_nothing_measured_says_how():
    assert costs_as_text(None).endswith("Not run: python benchmarks/table_7.py --json table_7.json")
    assert costs_as_values(None)["measured"] is None


@pytest.mark.parametrize("text", ["", "[]", '{"costs": 1}'])
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError):
        read_costs(path)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_costs(tmp_path / "none.json")
