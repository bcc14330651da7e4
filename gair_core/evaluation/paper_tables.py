"""The results that the paper prints, as data.

The numbers of ``paper/*.csv`` stand there as in the tables of the paper (arXiv 2503.16683v2, CC BY 4.0).
Figure 5 prints bars; its file holds the numbers that the text gives, and of photos alone those of table 1.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

TITLES: Final[Mapping[str, str]] = {
    "table 1": "Street-view imagery: linear probe, non-linear probe and full fine-tuning",
    "table 2": "Semantic segmentation of scenes: head alone and full fine-tuning",
    "table 3": "Location benchmark: regression and recognition of species",
    "table 4": "Ablation: non-linear probes of photos, heads on the frozen scene encoder",
    "table 5": "Noise on the places of pretraining: non-linear probe",
    "table 6": "Patch size and input size of the scene encoder",
    "figure 5": "Fusion of photo, place and scene: socio-economic indicators",
}
"""Tables and figures of results by name."""

_ABOUT: Final = ("model", "pretraining", "inputs", "printed", "encoder")


@dataclass(frozen=True)
class PaperRow:
    """A row of a table.

    Attributes:
        name: The model.
        pretraining: Name of our configuration of the same model, ``training/configs/<name>.yaml``; empty for
            models of others.
        inputs: Inputs that the table compares, sorted and joined by ``+``, such as ``location+photo``; empty
            where it compares models.
        note: What the table says besides: the encoder, or where a number of figure 5 is printed.
        values: Numbers as printed, by column; a column without a number is left out.
    """

    name: str
    pretraining: str
    inputs: str
    note: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class PaperTable:
    """A table, or a figure.

    Attributes:
        name: ``table 1`` and so on.
        title: What it compares.
        columns: Keys of its columns, see `gair_core.evaluation.columns`.
        rows: Its rows from the top.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True)
class PaperCost:
    """A row of table 7.

    Attributes:
        model: The model.
        setting: What is computed.
        gflops: Operations of one scene, 10^9; the paper leaves open whether a multiply-add counts two.
        latency_ms: Time of one scene, milliseconds, on a machine that the paper does not name.
    """

    model: str
    setting: str
    gflops: float
    latency_ms: float


def paper_table(name: str) -> PaperTable:
    """Return a table of results, one of `TITLES`."""
    rows = _read(name)
    columns = tuple(key for key in rows[0] if key not in _ABOUT)
    return PaperTable(name, TITLES[name], columns, tuple(_row(values, columns) for values in rows))


def paper_costs() -> tuple[PaperCost, ...]:
    """Return table 7."""
    return tuple(
        PaperCost(row["model"], row["setting"], float(row["gflops"]), float(row["latency_ms"]))
        for row in _read("table 7")
    )


def _row(values: Mapping[str, str], columns: tuple[str, ...]) -> PaperRow:
    return PaperRow(
        name=values["model"],
        pretraining=values["pretraining"],
        inputs=values.get("inputs", ""),
        note=values.get("encoder") or values.get("printed") or "",
        values={key: values[key] for key in columns if values[key]},
    )


def _read(name: str) -> list[dict[str, str]]:
    file = resources.files("gair_core.evaluation") / "paper" / f"{name.replace(' ', '_')}.csv"
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))
