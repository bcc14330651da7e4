from __future__ import annotations

import pytest

from gair_core.evaluation.columns import MEASURES, measure, slot
from gair_core.finetune.datasets.global_streetscapes import PERCEPTION

_PHOTOS = {"kind": "global_streetscapes", "tables": "t", "photos": "p"}


def _config(mode="frozen", kind="photo", data=None, **task):
    return {"mode": mode, "task": {"kind": kind, "data": data or {}, **task}}


@pytest.mark.parametrize(
    ("config", "column", "inputs"),
    [
        (_config(data={"kind": "socioeconomic"}, hidden=None), "socioeconomic linear", "photo"),
        (_config(data={"kind": "socioeconomic"}, hidden=512), "socioeconomic nonlinear", "photo"),
        (_config("full", data={**_PHOTOS, "targets": list(PERCEPTION)}), "perception full", "photo"),
        (_config(data={**_PHOTOS, "label": "platform"}), "platform linear", "photo"),
        (
            _config(kind="fusion", data={"kind": "socioeconomic"}, inputs=["photo", "location"], hidden=8),
            "socioeconomic nonlinear",
            "location+photo",
        ),
        (
            _config("full", "scenes", {"kind": "burn_scars"}, head={"kind": "upernet"}),
            "burn_scars full",
            "",
        ),
        (
            _config(kind="scenes", data={"kind": "south_sudan"}, head={"kind": "series_ltae"}),
            "south_sudan_ltae frozen",
            "",
        ),
        (_config("full", "location_regression", {"kind": "mosaiks", "task": "elevation"}), "elevation", ""),
        (_config("full", "geo_prior", {"kind": "inaturalist", "year": 2017}), "inat2017", ""),
        (_config("full", "geo_prior", {"kind": "birds", "set": "nabirds"}), "nabirds", ""),
    ],
)
def test_runs_find_their_column(config, column, inputs):
    found = slot(config)
    assert (found.column, found.inputs, found.reason) == (column, inputs, "")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (_config(kind="scenes", data={"kind": "world"}), "does not use this data set"),
        (_config(data={**_PHOTOS, "targets": ["Safe"]}), "does not use this data set"),
        (_config(kind="scenes", data={"kind": "burn_scars"}, head={"kind": "linear"}), "head is linear"),
        (_config(data={"kind": "socioeconomic", "indicators": ["sky"]}), "1 of the 10 indicators"),
        (
            _config(
                "full", "location_regression", {"kind": "mosaiks", "task": "elevation", "subsample": 0.1}
            ),
            "a part of the samples",
        ),
        (_config(kind="geo_prior", data={"kind": "birds", "set": "nabirds"}), "location encoder is frozen"),
        (_config(kind="fusion", data={"kind": "mosaiks", "task": "elevation"}), "no task fusion"),
    ],
)
def test_other_runs_are_told_why(config, reason):
    found = slot(config)
    assert not found.column
    assert reason in found.reason


def test_values_have_the_scale_of_the_paper():
    assert measure("burn_scars full").value({"metrics": {"mean_iou": 0.832}}) == pytest.approx(83.2)
    side = {"class_metrics": {"side": {"f1": 0.5}, "front/back": {"f1": 0.9}}}
    assert MEASURES["view_direction"].value(side) == 0.5
    assert MEASURES["population"].value({"metrics": {}}) is None
