"""The command that makes a result of the paper's tables, from the configurations of fine-tuning."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

from gair_core.evaluation.columns import slot
from gair_core.yaml_config import merged, parse_override, read_values

# As training/configs/finetune/photos.yaml says; the paper does not tell the width.
_NONLINEAR: Final = ("task.hidden=512",)
_FULL: Final = ("mode=full",)
_FULL_PHOTOS: Final = ("mode=full", "optimizer.peak_rate=1e-4")

Overrides = tuple[str, ...]


class FinetuneCommands:
    """Finds the file and the overrides for a result.

    Args:
        folder: Folder of the configurations, ``training/configs/finetune``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def command(self, column: str, inputs: str, *, model: Path, output: Path) -> str | None:
        """Return the command whose run belongs into a column; None where no file reads its data set.

        Args:
            column: Key of the column.
            inputs: Inputs of the row, see `Slot`.
            model: The pretrained model.
            output: Folder of the run.
        """
        found = [
            (sum(map(len, overrides)), path.name, overrides)
            for path, values in self._files.items()
            if (overrides := _needed(values, column, inputs)) is not None
        ]
        if not found:
            return None
        _, name, groups = min(found)
        changes = [override for group in groups for override in group]
        changes += [f"model={model}", f"output={output}"]
        # Some shells take brackets for a pattern.
        return shlex.join(["python", "training/finetune.py", f"training/configs/finetune/{name}", *changes])

    @cached_property
    def _files(self) -> dict[Path, dict[str, Any]]:
        return {path: read_values(path) for path in sorted(self._folder.glob("*.yaml"))}


def _needed(values: Mapping[str, Any], column: str, inputs: str) -> tuple[Overrides, ...] | None:
    """Return the fewest overrides that bring a configuration into a column; None when they cannot."""
    kept = list(_possible(values, column, inputs))
    if not _fits(values, kept, column, inputs):
        return None
    for group in list(kept):
        fewer = [other for other in kept if other is not group]
        if _fits(values, fewer, column, inputs):
            kept = fewer
    return tuple(kept)


def _possible(values: Mapping[str, Any], column: str, inputs: str) -> Iterator[Overrides]:
    """Yield what may have to be changed, in groups that belong together."""
    data, _, protocol = column.partition(" ")
    photos = values.get("task", {}).get("kind") in ("photo", "fusion")
    if values.get("task", {}).get("data", {}).get("kind") == "mosaiks":
        yield (f"task.data.task={data}",)
    if data.startswith("south_sudan_"):
        yield (f"task.head.kind=series_{data.removeprefix('south_sudan_')}",)
    if inputs:
        chosen = f"task.inputs=[{inputs.replace('+', ',')}]"
        yield (chosen,) if "scene" in inputs.split("+") else (chosen, "task.scenes=null")
    if protocol == "nonlinear":
        yield _NONLINEAR
    if protocol == "full":
        yield _FULL_PHOTOS if photos else _FULL


def _fits(values: Mapping[str, Any], groups: Sequence[Overrides], column: str, inputs: str) -> bool:
    changed = dict(values)
    for group in groups:
        for override in group:
            changed = merged(changed, _parsed(override))
    found = slot(changed)
    return (found.column, found.inputs) == (column, inputs)


@cache
def _parsed(override: str) -> dict[str, Any]:
    """Return the values of an override; YAML is slow and the same few come again and again."""
    return parse_override(override)
