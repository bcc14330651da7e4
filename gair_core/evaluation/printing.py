"""A comparison as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from gair_core.evaluation.columns import measure
from gair_core.evaluation.comparison import Comparison, OurRow, Result

_OURS = "  ours: "


def as_text(comparison: Comparison) -> str:
    """Return the table with ours below the paper's rows of the same variant, and what was not run."""
    table = comparison.table
    lines = [f"{table.name.capitalize()}. {table.title}", ""]
    rows: list[tuple[str, ...]] = [*_heading(table.columns)]
    for row in table.rows:
        name = f"{row.name}, {row.note}" if row.note else row.name
        rows.append((name, *(row.values.get(column, "") for column in table.columns)))
        rows += [_our_row(ours, table.columns) for ours in comparison.ours if ours.beside == row.name]
    rows += [_our_row(ours, table.columns) for ours in comparison.ours if not ours.beside]
    lines += _aligned(rows)
    if comparison.notes:
        lines += ["", "Notes:", *(f"  {note}" for note in comparison.notes)]
    return "\n".join([*lines, *_not_run(comparison)])


def as_csv(comparison: Comparison) -> str:
    """Return one line a result: source, row, column, value, spread (ours) and the runs, joined by ``;``."""
    table, text = comparison.table, io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "row", "beside", "column", "unit", "value", "spread", "runs"))
    for row in table.rows:
        for column, value in row.values.items():
            writer.writerow(("paper", row.name, "", column, measure(column).unit, value, "", ""))
    for ours in comparison.ours:
        for column, result in ours.results.items():
            spread = "" if result.spread is None else result.spread
            runs = ";".join(map(str, result.runs))
            writer.writerow(
                ("ours", ours.name, ours.beside, column, measure(column).unit, result.value, spread, runs)
            )
    return text.getvalue()


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything as JSON values."""
    table = comparison.table
    columns = [
        {
            "key": column,
            "title": measure(column).title,
            "unit": measure(column).unit,
            "higher_is_better": measure(column).higher_is_better,
        }
        for column in table.columns
    ]
    return {
        "table": table.name,
        "title": table.title,
        "columns": columns,
        "paper": [
            {
                "row": row.name,
                "pretraining": row.pretraining,
                "inputs": row.inputs,
                "note": row.note,
                "values": {column: float(value) for column, value in row.values.items()},
            }
            for row in table.rows
        ],
        "ours": [
            {
                "row": ours.name,
                "beside": ours.beside,
                "values": {column: _result(result) for column, result in ours.results.items()},
            }
            for ours in comparison.ours
        ],
        "not_run": [
            {"row": one.row, "column": one.column, "commands": list(one.commands)}
            for one in comparison.missing
        ],
        "notes": list(comparison.notes),
    }


def _result(result: Result) -> dict[str, Any]:
    return {"value": result.value, "spread": result.spread, "runs": [str(folder) for folder in result.runs]}


def _heading(columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return data sets, units and ways of fine-tuning, a line each; a title stands once over its columns."""
    titles = [measure(column).title for column in columns]
    first = [
        title if number == 0 or titles[number - 1] != title else "" for number, title in enumerate(titles)
    ]
    units = [
        f"{measure(column).unit} {'↑' if measure(column).higher_is_better else '↓'}" if title else ""
        for column, title in zip(columns, first, strict=True)
    ]
    ways = [column.partition(" ")[2] for column in columns]
    return [("", *first), ("", *units), *([("", *ways)] if any(ways) else [])]


def _our_row(ours: OurRow, columns: Sequence[str]) -> tuple[str, ...]:
    return (
        f"{_OURS}{ours.name}",
        *(_shown(ours.results[column], column) if column in ours.results else "-" for column in columns),
    )


def _shown(result: Result, column: str) -> str:
    digits = 2 if measure(column).scale != 1 or measure(column).unit == "R2" else 4
    if result.spread is None:
        return f"{result.value:.{digits}f}"
    return f"{result.value:.{digits}f} ±{result.spread:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]


def _not_run(comparison: Comparison) -> list[str]:
    """List what was not run with its commands; one that several need stands once."""
    if not comparison.missing:
        return ["", "Everything was run."]
    said: set[str] = set()
    lines = ["", f"Not run ({len(comparison.missing)}):"]
    row = ""
    for one in comparison.missing:
        if one.row != row:
            row = one.row
            lines.append(f"  {row}")
        if not one.commands:
            lines.append(f"    {one.column}: no file of training/configs/finetune reads its data set")
        for command in one.commands:
            if command not in said:
                what = f"{one.column}: " if command == one.commands[-1] else "first pretrain: "
                lines.append(f"    {what}{command}")
                said.add(command)
    return lines
