"""Blocking input read in a thread, so that the task can be cancelled while nothing arrives."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from gair_core.progress import Progress

Item = TypeVar("Item")
# A cancel is seen this often, in seconds, however long the server keeps silent.
_POLL = 0.1
# Pieces that may wait: the disk is rarely slower than the network.
_WAITING = 16


@dataclass(frozen=True)
class _End:
    """The last thing in the queue: what ended the items."""

    error: Exception | None


def in_background(items: Generator[Item, None, None], progress: Progress) -> Generator[Item, None, None]:
    """Iterate in another thread; what that raises is raised here.

    When the caller stops early, or somebody cancels, the thread is left to end by itself: it may be waiting
    for the network, until its own timeout.

    Args:
        items: The blocking iterator; it is closed in the thread.
        progress: Asked before each item, and ten times a second while nothing arrives.

    Raises:
        CancelledError: The user cancelled.
    """
    waiting: queue.Queue[Item | _End] = queue.Queue(_WAITING)
    stopped = threading.Event()
    threading.Thread(target=_work, args=(items, waiting, stopped), name="download", daemon=True).start()
    try:
        while True:
            progress.raise_if_cancelled()
            try:
                item = waiting.get(timeout=_POLL)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()


def _work(
    items: Generator[Item, None, None], waiting: queue.Queue[Item | _End], stopped: threading.Event
) -> None:
    error: Exception | None = None
    try:
        with contextlib.closing(items):
            for item in items:
                if not _put(item, waiting, stopped):
                    return
    except Exception as caught:  # whatever it is, the other thread raises it
        error = caught
    _put(_End(error), waiting, stopped)


def _put(item: Item | _End, waiting: queue.Queue[Item | _End], stopped: threading.Event) -> bool:
    """Wait for room; False when nobody takes anything any more."""
    while not stopped.is_set():
        try:
            waiting.put(item, timeout=_POLL)
        except queue.Full:
            continue
        return True
    return False
