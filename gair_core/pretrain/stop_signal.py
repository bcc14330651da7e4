"""Stopping a run in good order."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist


def ignore_signals(worker: int) -> None:
    """Let the training process alone decide when to stop: signals reach the whole process group.

    Args:
        worker: Number of the process that reads ahead, in which this is called.
    """
    del worker
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class StopSignal:
    """Notes SIGTERM and the first Ctrl-C, so that a run can end its step and save; the second breaks off."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def agreed(self, device: torch.device) -> int:
        """Return the signal that any rank has noted, the same on all of them, or 0."""
        if not (dist.is_available() and dist.is_initialized()):
            return self.signal
        noted = torch.tensor(self.signal, device=device)
        dist.all_reduce(noted, dist.ReduceOp.MAX)
        return int(noted)
