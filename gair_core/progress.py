"""How a task tells its caller where it is, and how the caller stops it."""

from __future__ import annotations

import threading
from typing import Literal

from gair_core.errors import CancelledError

Level = Literal["info", "warning"]


class Progress:
    """A silent progress: the base of the command line's and the worker's, and a task's default.

    Subclasses override `report` and `log`. A task calls `report` often (it is cheap) and
    `raise_if_cancelled` at least twice a second; `cancel` may be called from any thread.
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._cancelled = threading.Event()

    def report(self, fraction: float, message: str = "") -> None:
        """Say how much of the task is done.

        Args:
            fraction: Done part in [0, 1]; never decreases within a task.
            message: What happens now, for people ("encoding, 12 s left").
        """

    def log(self, level: Level, message: str) -> None:
        """Tell the user something that outlives the progress bar; warnings are kept in `warnings`."""
        if level == "warning":
            self.warnings.append(message)

    def cancel(self) -> None:
        """Ask the task to stop."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the task to stop."""
        return self._cancelled.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise `CancelledError` when somebody asked the task to stop."""
        if self.cancelled:
            raise CancelledError


class Quiet(Progress):
    """The progress of a part of a task: its reports are dropped, its log and a cancel are the task's.

    Args:
        task: The progress of the task.
    """

    def __init__(self, task: Progress) -> None:
        super().__init__()
        self._task = task

    def log(self, level: Level, message: str) -> None:
        """Hand the message on."""
        self._task.log(level, message)

    def cancel(self) -> None:
        """Cancel the task."""
        self._task.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the task to stop."""
        return self._task.cancelled
