"""Table 7: what the encoders cost, as ``benchmarks/table_7.py`` measured it, beside the paper's rows."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any, Literal

from gair_core.config import Config
from gair_core.errors import BadInputError
from gair_core.evaluation.paper_tables import paper_costs

Part = Literal["scene", "scene_nili", "scene_nili_dense", "photo", "location", "joint"]

TITLES: dict[Part, str] = {
    "scene": "scene encoder",
    "scene_nili": "scene encoder, NILI at one place",
    "scene_nili_dense": "scene encoder, NILI at every pixel",
    "photo": "photo encoder",
    "location": "location encoder",
    "joint": "joint: all three, NILI at one place",
}
"""What is measured, in the order of the table; the paper's rows are the first and, it seems, the second."""


class Cost(Config):
    """What one batch of a part costs.

    Attributes:
        preset: Preset of the model.
        part: What was computed.
        batch_size: Samples at once.
        gflops: Operations of one sample, 10^9; a multiply-add counts two.
        latency_ms: Median time of a whole batch, milliseconds.
    """

    preset: str
    part: Part
    batch_size: int
    gflops: float
    latency_ms: float


class Costs(Config):
    """A measurement.

    Attributes:
        device: The device, in words.
        threads: Threads of the CPU.
        precision: Type of the numbers.
        torch: Version of PyTorch.
        rounds: Rounds whose median was taken.
        costs: What was measured.
    """

    device: str
    threads: int
    precision: str
    torch: str
    rounds: int
    costs: tuple[Cost, ...]

    def of(self, preset: str, part: Part, batch_size: int) -> Cost | None:
        """Return one of them; None when it was not measured."""
        wanted = (preset, part, batch_size)
        found = (cost for cost in self.costs if (cost.preset, cost.part, cost.batch_size) == wanted)
        return next(found, None)


def read_costs(path: Path) -> Costs:
    """Read a measurement.

    Raises:
        BadInputError: It is missing or not of ``benchmarks/table_7.py``.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{path} cannot be read: {error}.", f"Measure it: python benchmarks/table_7.py --json {path}"
        ) from None
    if not isinstance(values, dict):
        raise BadInputError(f"{path} holds no measurement.", "It must come from benchmarks/table_7.py.")
    return Costs.parse(values)


def costs_as_text(costs: Costs | None) -> str:
    """Return the paper's rows and the measured ones with their ratios to the scene encoder."""
    lines = [
        "Table 7. Cost of encoding one sample",
        "",
        _line("", "GFLOP", "ms", "ratios to the scene encoder"),
    ]
    lines += [
        _line(f"{row.model}: {row.setting}", f"{row.gflops:.2f}", f"{row.latency_ms:.2f}", "")
        for row in paper_costs()
    ]
    if costs is None:
        return "\n".join([*lines, "", "Not run: python benchmarks/table_7.py --json table_7.json"])
    lines += ["", f"ours: {costs.device}, {costs.threads} threads, {costs.precision}, torch {costs.torch}"]
    groups = dict.fromkeys((cost.preset, cost.batch_size) for cost in costs.costs)
    for preset, batch_size in groups:
        lines.append(f"  {preset}, batches of {batch_size} (ms a batch)")
        scene = costs.of(preset, "scene", batch_size)
        for part, title in TITLES.items():
            cost = costs.of(preset, part, batch_size)
            if cost is not None:
                lines.append(_measured(title, cost, scene))
    return "\n".join(lines)


def costs_as_values(costs: Costs | None) -> dict[str, Any]:
    """Return the same as JSON values; ``measured`` is null when nothing was."""
    return {
        "table": "table 7",
        "paper": [dataclasses.asdict(row) for row in paper_costs()],
        "measured": None if costs is None else costs.model_dump(mode="json"),
    }


def costs_as_csv(costs: Costs | None) -> str:
    """Return one line a row of the paper or a measurement."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "model", "setting", "batch_size", "gflops", "latency_ms"))
    for row in paper_costs():
        writer.writerow(("paper", row.model, row.setting, "", row.gflops, row.latency_ms))
    for cost in () if costs is None else costs.costs:
        writer.writerow(
            ("ours", cost.preset, TITLES[cost.part], cost.batch_size, cost.gflops, cost.latency_ms)
        )
    return text.getvalue()


def _measured(title: str, cost: Cost, scene: Cost | None) -> str:
    ratios = ""
    if scene is not None:
        ratios = (
            f"{cost.gflops / scene.gflops:.4f} of GFLOP, {cost.latency_ms / scene.latency_ms:.3f} of time"
        )
    return _line(f"    {title}", f"{cost.gflops:.4g}", f"{cost.latency_ms:.2f}", ratios)


def _line(name: str, gflops: str, milliseconds: str, ratios: str) -> str:
    return f"{name:<66}{gflops:>9}{milliseconds:>10}  {ratios}".rstrip()
