"""Our results beside those of the paper, and what was not run."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gair_core.evaluation.columns import NO_PRIOR, Slot, default_inputs, measure, slot
from gair_core.evaluation.commands import FinetuneCommands
from gair_core.evaluation.paper_tables import TITLES, PaperRow, PaperTable, paper_table
from gair_core.evaluation.pretraining import Pretraining, Pretrainings
from gair_core.evaluation.runs import FinishedRun, FoundRuns, find_runs

_IMAGE_ALONE = "No prior"


@dataclass(frozen=True)
class Result:
    """A result of ours.

    Attributes:
        value: On the paper's scale; the mean where several runs belong together, such as seeds.
        spread: Their standard deviation; None of a single run.
        runs: Folders of the runs.
    """

    value: float
    spread: float | None
    runs: tuple[Path, ...]


@dataclass(frozen=True)
class OurRow:
    """A row of ours.

    Attributes:
        name: The pretrained model, with its size where that is not the paper's.
        beside: Name of the paper's row of the same variant; empty where there is none.
        results: Results by column.
    """

    name: str
    beside: str
    results: Mapping[str, Result]


@dataclass(frozen=True)
class Missing:
    """A result that was not run.

    Attributes:
        row: Name of the paper's row.
        column: Key of the column.
        commands: What to run, one after the other; the first pretrains the model where there is none. Empty
            where no configuration reads the data set.
    """

    row: str
    column: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """A table with our results.

    Attributes:
        table: The paper's.
        ours: Our rows.
        missing: What was not run, by row.
        notes: Runs that belong into no column of it although they use its data sets, and unfinished ones.
    """

    table: PaperTable
    ours: tuple[OurRow, ...]
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]


def compare(name: str, runs: Sequence[Path], configs: Path) -> Comparison:
    """Compare finished runs with a table of the paper.

    Args:
        name: A key of `TITLES`.
        runs: Folders that hold runs, at any depth.
        configs: Folder of the configurations, ``training/configs``.

    Raises:
        BadInputError: A folder is missing, or a run's files cannot be read.
    """
    table = paper_table(name)
    found = find_runs(runs)
    names = dict.fromkeys(row.pretraining for title in TITLES for row in paper_table(title).rows)
    pretrainings = Pretrainings(configs, (name for name in names if name))
    ours = _our_rows(table, found.finished, pretrainings)
    missing = _missing(table, ours, found, pretrainings, FinetuneCommands(configs / "finetune"))
    return Comparison(table, ours, missing, _notes(table, found))


def _our_rows(
    table: PaperTable, runs: Iterable[FinishedRun], pretrainings: Pretrainings
) -> tuple[OurRow, ...]:
    """Gather the runs by model and inputs."""
    gathered: dict[tuple[str, str], dict[str, list[tuple[float, Path]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in runs:
        place = slot(run.config)
        if place.column not in table.columns:
            continue
        pretraining = pretrainings.of_model(run.model, run.folder)
        beside = _beside(table, place.column, place.inputs, pretraining)
        if beside is None:
            continue
        value = measure(place.column).value(run.test)
        if value is not None:
            gathered[_title(run, pretraining), beside][place.column].append((value, run.folder))
        alone = NO_PRIOR.value(run.test)
        if alone is not None and any(row.name == _IMAGE_ALONE for row in table.rows):
            gathered["image alone", _IMAGE_ALONE][place.column].append((alone, run.folder))
    return tuple(
        OurRow(name, beside, {column: _result(values) for column, values in results.items()})
        for (name, beside), results in gathered.items()
    )


def _beside(table: PaperTable, column: str, inputs: str, pretraining: Pretraining | None) -> str | None:
    """Return the paper's row of a run, empty for none; None when the run is no part of the table."""
    name = "" if pretraining is None else pretraining.name
    if any(row.inputs for row in table.rows):
        return next((row.name for row in table.rows if row.inputs == inputs), "")
    if inputs != default_inputs(column):
        return None
    return next((row.name for row in table.rows if name and row.pretraining == name), "")


def _title(run: FinishedRun, pretraining: Pretraining | None) -> str:
    model = Path(run.model)
    title = str(model.parent / model.stem) if model.suffix else run.model
    title = title.removesuffix("/model")
    return f"{title} ({pretraining.remark})" if pretraining is not None and pretraining.remark else title


def _result(values: Sequence[tuple[float, Path]]) -> Result:
    numbers = [value for value, _ in values]
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Result(statistics.fmean(numbers), spread, tuple(folder for _, folder in values))


def _missing(
    table: PaperTable,
    ours: Sequence[OurRow],
    found: FoundRuns,
    pretrainings: Pretrainings,
    finetuning: FinetuneCommands,
) -> tuple[Missing, ...]:
    models = _models(found, pretrainings)
    missing = []
    for row in table.rows:
        if not row.pretraining:
            continue
        done = {column for our in ours if our.beside == row.name for column in our.results}
        model = models.get(row.pretraining) or pretrainings.default_model(row.pretraining)
        first = () if row.pretraining in models else (_pretrain(row),)
        for column in table.columns:
            if column in done:
                continue
            command = finetuning.command(
                column, row.inputs or default_inputs(column), model=model, output=_output(row, column)
            )
            missing.append(Missing(row.name, column, () if command is None else (*first, command)))
    return tuple(missing)


def _models(found: FoundRuns, pretrainings: Pretrainings) -> dict[str, Path]:
    """Return the models of the paper's size that there are, by the name of their configuration."""
    models: dict[str, Path] = {}
    for folder in found.others:
        path = folder / "model.safetensors"
        pretraining = pretrainings.of_run(folder) if path.is_file() else None
        if pretraining is not None and pretraining.name and not pretraining.remark:
            models.setdefault(pretraining.name, path)
    return models


def _pretrain(row: PaperRow) -> str:
    return f"python training/pretrain.py training/configs/{row.pretraining}.yaml"


def _output(row: PaperRow, column: str) -> Path:
    # The same run may stand in several tables.
    inputs = "" if row.inputs == default_inputs(column) else row.inputs
    parts = [row.pretraining, *inputs.split("+"), *column.split()]
    return Path("runs/finetune") / "_".join(part for part in parts if part)


def _notes(table: PaperTable, found: FoundRuns) -> tuple[str, ...]:
    """Say which runs use the table's data but are no part of it, and which have no results yet."""
    used = {column.split(maxsplit=1)[0] for column in table.columns}
    notes = []
    for run in found.finished:
        place = slot(run.config)
        if place.reason and _is_used(place, used):
            notes.append(f"{run.folder} is left out: {place.reason}.")
        elif place.column in table.columns and measure(place.column).value(run.test) is None:
            notes.append(f"{run.folder} is left out: its test has no {measure(place.column).metric}.")
    notes += [
        f"{run.folder} has no results yet: python training/finetune.py {run.folder / 'config.yaml'} --resume"
        for run in found.unfinished
        if _is_used(slot(run.config), used)
    ]
    return tuple(notes)


def _is_used(place: Slot, data_sets: Iterable[str]) -> bool:
    """Return whether a run's data set is one of a table's; crop types have two names there."""
    return bool(place.data) and any(name.startswith(place.data) for name in data_sets)
