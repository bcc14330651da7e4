"""The columns of the paper's tables: which runs belong into one, and which of their metrics it shows.

The key of a column is the data set and, where a table compares several, the way of fine-tuning, such as
``platform nonlinear`` or ``burn_scars frozen``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gair_core.finetune.datasets.global_streetscapes import PERCEPTION
from gair_core.finetune.datasets.socioeconomic import INDICATORS


@dataclass(frozen=True)
class Measure:
    """What a table shows of a data set.

    Attributes:
        title: The data set, for people.
        unit: The metric, for people.
        metric: Dotted name of the value in ``test.json``, below ``metrics`` or ``class_metrics``.
        scale: Factor from our value to the paper's.
        higher_is_better: Its direction.
    """

    title: str
    unit: str
    metric: str
    scale: float = 1.0
    higher_is_better: bool = True

    def value(self, test: Mapping[str, Any]) -> float | None:
        """Return the value of a ``test.json`` on the paper's scale; None where it has none."""
        found: Any = test
        for key in self.metric.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return float(found) * self.scale if isinstance(found, (int, float)) else None


def _rmse(title: str) -> Measure:
    return Measure(title, "RMSE", "metrics.rmse", higher_is_better=False)


def _iou(title: str) -> Measure:
    return Measure(title, "mIoU, %", "metrics.mean_iou", 100.0)


def _r2(title: str) -> Measure:
    return Measure(title, "R2", "metrics.r2")


def _top_1(title: str) -> Measure:
    return Measure(title, "top-1, %", "metrics.top_1", 100.0)


MEASURES: Final[Mapping[str, Measure]] = {
    "socioeconomic": _rmse("socio-economic"),
    "perception": _rmse("perception"),
    # The paper prints 0.0000 for models that never find the rarer class: F1 of that class, not of both.
    "view_direction": Measure("view direction", "F1 of side", "class_metrics.side.f1"),
    "platform": Measure("platform", "mean F1", "metrics.mean_f1"),
    "burn_scars": _iou("burn scars"),
    "small_farms": _iou("cropland"),
    "south_sudan_linear": _iou("crops, linear"),
    "south_sudan_ltae": _iou("crops, L-TAE"),
    "population": _r2("population"),
    "forest_cover": _r2("forest cover"),
    "nightlights": _r2("night lights"),
    "elevation": _r2("elevation"),
    "birdsnap": _top_1("BirdSnap"),
    "nabirds": _top_1("NABirds"),
    "inat2017": _top_1("iNat2017"),
    "inat2018": _top_1("iNat2018"),
}
"""What is shown, by data set."""

NO_PRIOR: Final = Measure("image alone", "top-1, %", "metrics.top_1_image", 100.0)
"""What a geo-prior's test says of the image classifier without it, the row "No prior" of table 3."""

_PROBED: Final = frozenset({"socioeconomic", "perception", "view_direction", "platform"})
_SERIES: Final = {"series_linear": "south_sudan_linear", "series_ltae": "south_sudan_ltae"}


@dataclass(frozen=True)
class Slot:
    """Where a run belongs.

    Attributes:
        column: Key of the column; empty where it is not fine-tuned as in the paper.
        inputs: Its inputs, sorted and joined by ``+``, of tasks that choose them; otherwise empty.
        data: The data set, a key of `MEASURES` or its beginning; empty where the paper does not use it.
        reason: Why there is no column.
    """

    column: str
    inputs: str = ""
    data: str = ""
    reason: str = ""


def measure(column: str) -> Measure:
    """Return what a column shows."""
    return MEASURES[column.split(maxsplit=1)[0]]


def default_inputs(column: str) -> str:
    """Return the inputs of a column of a table that compares models."""
    return "photo" if column.split(maxsplit=1)[0] in _PROBED else ""


def slot(config: Mapping[str, Any]) -> Slot:
    """Return where a run belongs.

    Args:
        config: The values of a fine-tuning run's configuration; those that are absent have their defaults.
    """
    task = config.get("task", {})
    kind = task.get("kind", "scenes")
    data = _data_set(task.get("data", {}))
    full = config.get("mode", "frozen") == "full"
    reason = _part_of(task["data"]) if data else "the paper does not use this data set"
    if reason:
        return Slot("", data=data, reason=reason)
    if kind == "scenes":
        return _scene_slot(data, str(task.get("head", {}).get("kind", "")), full=full)
    if data in _PROBED and kind in ("photo", "fusion"):
        inputs = "+".join(sorted(task.get("inputs", ()))) if kind == "fusion" else "photo"
        probe = "linear" if task.get("hidden") is None else "nonlinear"
        return Slot(f"{data} {'full' if full else probe}", inputs, data)
    if kind not in ("geo_prior", "location_regression"):
        return Slot("", data=data, reason=f"the paper has no task {kind} on {data}")
    if not full:
        return Slot("", data=data, reason="the location encoder is frozen; the paper trains it: mode=full")
    return Slot(data, data=data)


def _scene_slot(data: str, head: str, *, full: bool) -> Slot:
    mode = "full" if full else "frozen"
    if data == "south_sudan":
        if head not in _SERIES:
            return Slot("", data=data, reason=f"the head is {head}; the paper's are {' and '.join(_SERIES)}")
        return Slot(f"{_SERIES[head]} {mode}", data=data)
    if head != "upernet":
        return Slot("", data=data, reason=f"the head is {head}; the paper's is upernet")
    return Slot(f"{data} {mode}", data=data)


def _part_of(data: Mapping[str, Any]) -> str:
    """Return what of a data set is left out by choice; empty for all of it."""
    indicators = data.get("indicators", INDICATORS)
    if set(indicators) != set(INDICATORS):
        return f"{len(indicators)} of the {len(INDICATORS)} indicators"
    share = data.get("subsample", 1)
    return "" if share == 1 else f"a part of the samples, {share}"


def _data_set(data: Mapping[str, Any]) -> str:
    """Return the name of a data set in the tables, empty for another one."""
    kind = data.get("kind", "")
    if kind == "global_streetscapes":
        if data.get("label") in ("platform", "view_direction"):
            return str(data["label"])
        return "perception" if set(data.get("targets", ())) == set(PERCEPTION) else ""
    if kind == "mosaiks":
        return str(data.get("task", ""))
    if kind == "birds":
        return str(data.get("set", ""))
    if kind == "inaturalist":
        return f"inat{data.get('year', '')}"
    return str(kind) if kind in ("socioeconomic", "burn_scars", "small_farms", "south_sudan") else ""
