"""Runs by the trainer itself, on small copies of the data sets, find their way into the tables."""

from __future__ import annotations

import pytest
import torch

from gair_core import checkpoint
from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import BadInputError
from gair_core.evaluation.comparison import compare
from gair_core.evaluation.records import run_geo_bias
from gair_core.finetune.config import FinetuneConfig
from gair_core.finetune.datasets.socioeconomic import INDICATORS
from gair_core.finetune.trainer import finetune
from gair_core.model import GAIR
from tests.core.evaluation.finished import CONFIGS
from tests.core.finetune.datasets import layouts
from tests.core.finetune.layouts import make_burn_scars

_SIZES = GAIRConfig(
    embed_dim=16,
    remote_sensing=RemoteSensingConfig(width=16, depth=2, num_heads=2, tile_size=24),
    street_view=StreetViewConfig(image_size=16, patch_size=8, width=16, depth=1, num_heads=2),
    location=LocationConfig(sigmas=(1.0, 16.0), num_frequencies=16, hidden_width=32, hidden_layers=1),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one run a table, and what each returned."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    checkpoint.save(GAIR(_SIZES), folder / "model.safetensors")
    layouts.socioeconomic(folder / "socioeconomic", {"boston": 10})
    layouts.inaturalist(folder / "inat2018", 2018, test=12)
    make_burn_scars(folder / "burn_scars")
    upernet = {"kind": "upernet", "settings": {"channels": 8}}
    tasks = {
        "socioeconomic": {"kind": "photo", "hidden": 8},
        "inat2018": {"kind": "geo_prior"},
        "burn_scars": {"kind": "scenes", "head": upernet},
    }
    data = {
        "socioeconomic": {"kind": "socioeconomic"},
        "inat2018": {"kind": "inaturalist", "year": 2018},
        "burn_scars": {"kind": "burn_scars"},
    }
    results = {}
    for name, task in tasks.items():
        config = {
            "model": str(folder / "model.safetensors"),
            "mode": "full" if name == "inat2018" else "frozen",
            "task": {**task, "data": {**data[name], "folder": str(folder / name)}},
            "output": str(folder / "runs" / name),
            "epochs": 2,
            "batch_size": 4,
            "workers": 0,
            "accelerator": "cpu",
        }
        results[name] = finetune(FinetuneConfig.parse(config), show_progress=False).test
    return folder, results


@pytest.mark.parametrize(
    ("table", "column", "expected"),
    [
        ("table 1", "socioeconomic nonlinear", lambda found: found["socioeconomic"].metrics["rmse"]),
        ("table 2", "burn_scars frozen", lambda found: 100 * found["burn_scars"].metrics["mean_iou"]),
        ("table 3", "inat2018", lambda found: 100 * found["inat2018"].metrics["top_1"]),
    ],
)
def test_what_the_trainer_measured_stands_in_the_table(trained, table, column, expected):
    folder, results = trained
    comparison = compare(table, [folder / "runs"], CONFIGS)
    row = next(row for row in comparison.ours if row.name == str(folder))
    assert row.results.keys() == {column}
    assert row.results[column].value == pytest.approx(expected(results))
    assert row.results[column].runs == (folder / "runs" / column.split()[0],)
    assert not comparison.notes


def test_the_geo_bias_score_reads_the_records(trained):
    folder, results = trained
    found = run_geo_bias(folder / "runs" / "socioeconomic")
    assert set(found) == set(INDICATORS)
    assert found["sky"].samples == len(results["socioeconomic"].records["lon"])
    # The made-up image classifier is always right.
    with pytest.raises(BadInputError, match=r"inat2018: 0 of 1. samples"):
        run_geo_bias(folder / "runs" / "inat2018")
