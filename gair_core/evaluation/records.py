"""The geo-bias score of a fine-tuning run, from its test's ``test_records.csv``."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gair_core.errors import BadInputError
from gair_core.evaluation.geo_bias import RADIUS_KM, GeoBias, geo_bias
from gair_core.evaluation.runs import RECORDS, read_run

_CLASSES: Final = "top_1"
_TARGET, _PREDICTION = "target", "prediction"

Column = npt.NDArray[np.float64]


def run_geo_bias(
    folder: Path,
    *,
    radius_km: float = RADIUS_KM,
    tolerance: float | None = None,
    most: int | None = None,
    seed: int = 0,
) -> dict[str, GeoBias]:
    """Return the geo-bias score of a run.

    A class fails when it is not the predicted one. A quantity fails when its error exceeds the tolerance.

    Args:
        folder: Folder of the run.
        radius_km: As in `geo_bias`.
        tolerance: Largest error of a quantity that is no failure, in its unit; None for the median of the
            errors, so that half of the samples fail whatever the model.
        most: As in `geo_bias`.
        seed: As in `geo_bias`.

    Returns:
        The score by target; a single target has the empty name.

    Raises:
        BadInputError: The run has no records of samples with places, or nothing can be judged from them.
    """
    classes = _CLASSES in read_run(folder).test["metrics"]
    columns = read_records(folder / RECORDS)
    lonlat = np.column_stack([columns["lon"], columns["lat"]])
    found = {}
    for name, column in columns.items():
        if name.partition("_")[0] != _TARGET:
            continue
        suffix = name.removeprefix(_TARGET)
        error = np.abs(columns[_PREDICTION + suffix] - column)
        known = np.isfinite(error)
        error, places = error[known], lonlat[known]
        limit = tolerance if tolerance is not None else float(np.median(error)) if len(error) else 0.0
        failed = error > (0.5 if classes else limit)
        target = suffix.removeprefix("_")
        try:
            found[target] = geo_bias(places, failed, radius_km=radius_km, most=most, seed=seed)
        except BadInputError as problem:
            where = f"{folder}, {target}" if target else str(folder)
            raise BadInputError(f"{where}: {problem.message}", problem.hint) from None
    return found


def geo_bias_as_text(found: Mapping[str, Mapping[str, GeoBias]]) -> str:
    """Return scores as a table, by run and target."""
    names = ("score", "expected", "excess", "failures", "samples", "alone")
    lines = [f"{'marked SSI, nats':44}{''.join(f'{name:>10}' for name in names)}"]
    for run, scores in found.items():
        for target, bias in scores.items():
            name = f"{run}, {target}" if target else run
            numbers = "".join(f"{value:10.3f}" for value in (bias.score, bias.expected, bias.excess))
            lines.append(f"{name:44}{numbers}{bias.failures:10}{bias.samples:10}{bias.alone:10}")
    return "\n".join(lines)


def geo_bias_as_values(found: Mapping[str, Mapping[str, GeoBias]]) -> dict[str, Any]:
    """Return scores as JSON values, by run and target."""
    return {
        run: {target: {**dataclasses.asdict(bias), "excess": bias.excess} for target, bias in scores.items()}
        for run, scores in found.items()
    }


def read_records(path: Path) -> dict[str, Column]:
    """Read the columns of a table of test records; an empty cell is NaN.

    Raises:
        BadInputError: It is missing, lacks a column or holds what is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except FileNotFoundError:
        raise BadInputError(
            f"There is no {path}.", "Only tasks on photos and places write records; test one of those."
        ) from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read: {error}.") from None
    predictions = {name.replace(_TARGET, _PREDICTION, 1) for name in header if name.startswith(_TARGET)}
    missing = sorted({"lon", "lat", *(predictions or {_TARGET})} - set(header))
    if missing:
        raise BadInputError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header)}.")
    try:
        values = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows], np.float64)
    except ValueError as error:
        raise BadInputError(f"{path} holds a value that is no number: {error}.") from None
    return dict(zip(header, values.reshape(-1, len(header)).T, strict=True))
