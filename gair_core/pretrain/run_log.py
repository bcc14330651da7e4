"""The log of a run: a CSV of the steps, one of the evaluations, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gair_core.errors import BadInputError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Appends lines of numbers; a resumed run first drops the lines after its step.

    Args:
        folder: Folder of the run.
        start: Steps already made.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        self.folder = folder
        self._start = start
        self._columns: dict[str, list[str]] = {}
        self._board = _open_board(folder / "tensorboard", start)
        for name in ("training", "evaluation"):
            self._cut(name)

    def write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """Append a line to ``<name>.csv`` and a point to each curve of TensorBoard.

        Args:
            name: ``training`` or ``evaluation``.
            step: Steps made.
            values: Numbers by name, the same names in each line of a file.

        Raises:
            BadInputError: It cannot be written, as on a full disk; states are as they were.
        """
        path = self.folder / f"{name}.csv"
        try:
            self._append(path, self._columns.setdefault(name, ["step", *values]), {"step": step, **values})
        except OSError as error:
            raise BadInputError(
                f"The log {path} could not be written after step {step}: {error}.",
                "Make room and run again with --resume: the last state that was saved is complete.",
            ) from error
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(f"{name}/{key}", value, step)

    @staticmethod
    def _append(path: Path, columns: list[str], line: Mapping[str, float]) -> None:
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(columns)
            writer.writerow([f"{line[column]:.9g}" if column in line else "" for column in columns])

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()

    def _cut(self, name: str) -> None:
        path = self.folder / f"{name}.csv"
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        if not rows:  # the run was killed while it wrote the first line
            path.unlink()
            return
        kept = [row for row in rows[1:] if row and float(row[0]) <= self._start]
        self._columns[name] = rows[0]
        part = path.with_name(f"{path.name}.part")
        with part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([rows[0], *kept])
        part.replace(path)


class Meter:
    """Averages terms of the loss, measures speed and the time spent waiting for data, counts photos.

    Attributes:
        drawn: Photos asked for since they were last counted.
        unreadable: Those of them that could not be read.

    Args:
        batch_size: Samples of a step over all ranks.
    """

    def __init__(self, batch_size: int) -> None:
        self.drawn = 0
        self.unreadable = 0
        self._batch_size = batch_size
        self._began = time.monotonic()
        self._mark = self._began
        self._waited = 0.0
        self._steps = 0
        self._sums: dict[str, Tensor] = {}

    def start(self) -> None:
        """Note that the loop asks for a batch."""
        self._mark = time.monotonic()

    def loaded(self) -> None:
        """Note that it has come."""
        self._waited += time.monotonic() - self._mark

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that evaluating and saving take."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - began

    def count(self, terms: Mapping[str, Tensor], *, drawn: int = 0, unreadable: int = 0) -> None:
        """Note that a step was made.

        Args:
            terms: The terms of its loss.
            drawn: Photos that its batch asked for.
            unreadable: Those of them that could not be read.
        """
        self._steps += 1
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.unreadable += unreadable
        self.drawn += drawn

    def take(self) -> dict[str, float]:
        """Return the mean terms and the figures since the last time."""
        elapsed = max(time.monotonic() - self._began, 1e-9)
        figures = {name: float(value) / self._steps for name, value in self._sums.items()}
        figures |= {
            "samples_per_second": self._steps * self._batch_size / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._began, self._waited, self._steps = time.monotonic(), 0.0, 0
        self._sums = {}
        return figures


def _open_board(folder: Path, start: int) -> SummaryWriter | None:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    board: Any = SummaryWriter  # its stubs have no types
    opened: SummaryWriter = board(str(folder), purge_step=start + 1 if start else None)
    return opened
