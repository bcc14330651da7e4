"""JSON-lines server over the tasks, started as ``python -I -X utf8 -u -m gair_core.worker``.

One JSON object per line, ASCII only, both ways. Standard output belongs to the protocol alone: the worker
keeps a private copy of descriptor 1 and points 1 at 2 before anything heavy is imported, so that a print of
any library, C code included, lands on standard error.

Three threads: the main thread runs one task at a time, a reader takes lines from standard input (so that a
cancel arrives during a run), and, once standard input has ended, a watchdog ends the process if the task does
not yield in time.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn

from gair_core.errors import GairError
from gair_core.progress import Level, Progress
from gair_core.task import TASK_MODULES, Registered, load_task
from gair_core.version import __version__

PROTOCOL = 1

# After standard input has ended, a task has this long to stop by itself; the promise is two seconds.
GRACE_SECONDS = 1.5

_REPORT_SECONDS = 0.1

Identifier = int | str


class ProtocolError(ValueError):
    """A line that is not a request; carries the request's id when that much could be read."""

    def __init__(self, message: str, identifier: Identifier | None = None) -> None:
        super().__init__(message)
        self.identifier = identifier


def describe_error(error: BaseException) -> dict[str, str]:
    """An error as the protocol and ``--json-progress`` send it: kind, message and hint."""
    if isinstance(error, GairError):
        return {"kind": error.kind, "message": error.message, "hint": error.hint}
    if is_out_of_memory(error):
        return {
            "kind": "out_of_memory",
            "message": f"out of memory: {error}" if str(error) else "out of memory",
            "hint": "Close other programs, choose a smaller extent or batch, or another device.",
        }
    return {
        "kind": "internal",
        "message": f"{type(error).__name__}: {error}",
        "hint": "This is a fault of the software: please report it with the log.",
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, CUDA, MPS or torch's CPU allocator ran out of memory; needs no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


class Channel:
    """The worker's side of the protocol's output, shared by all threads.

    Args:
        descriptor: An open file descriptor; a reader that went away is noted in `broken`, not raised.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self.broken = False

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one line, whole."""
        line = memoryview(json.dumps(message, allow_nan=False).encode("ascii") + b"\n")
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                self.broken = True


class WorkerProgress(Progress):
    """Sends a task's progress, at most ten lines a second, and its log.

    Args:
        identifier: The request's id.
        channel: Where the lines go.
    """

    def __init__(self, identifier: Identifier, channel: Channel) -> None:
        super().__init__()
        self._identifier = identifier
        self._channel = channel
        self._lock = threading.Lock()
        self._next = 0.0
        self._fraction = 0.0
        self._finished = False

    def report(self, fraction: float, message: str = "") -> None:
        """Send the fraction unless the last one is under a tenth of a second old; the end always counts."""
        with self._lock:
            now = time.monotonic()
            first_end = fraction >= 1 > self._fraction
            self._fraction = min(max(self._fraction, fraction), 1.0)
            if self._finished or (now < self._next and not first_end):
                return
            self._next = now + _REPORT_SECONDS
            self._send({"progress": round(self._fraction, 4), "message": message})

    def log(self, level: Level, message: str) -> None:
        """Send a line of the log."""
        super().log(level, message)
        with self._lock:
            if not self._finished:
                self._send({"log": {"level": level, "message": message}})

    def finish(self) -> None:
        """Send nothing from now on: the request's last line follows."""
        with self._lock:
            self._finished = True

    def _send(self, content: Mapping[str, Any]) -> None:
        self._channel.send({"id": self._identifier, **content})
        if self._channel.broken:
            self.cancel()


@dataclass(frozen=True)
class Run:
    """A request that was accepted."""

    identifier: Identifier
    task: str
    values: dict[str, Any]
    progress: WorkerProgress


@dataclass
class Worker:
    """Reads requests and answers them.

    Args:
        channel: Where the answers go.
        tasks: The tasks that can be asked for.
    """

    channel: Channel
    tasks: Mapping[str, Registered] = field(default_factory=lambda: TASK_MODULES)

    def __post_init__(self) -> None:
        self._queue: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._current: Run | None = None

    def read(self, stream: BinaryIO) -> None:
        """Take lines until the stream ends, then stop everything: the reader thread's whole work."""
        try:
            for line in iter(stream.readline, b""):
                if line.strip():
                    self._receive(line)
        finally:
            self._end()

    def run(self) -> None:
        """Run accepted requests, one after the other, until the input has ended."""
        while (run := self._queue.get()) is not None:
            last = self._answer(run)
            run.progress.finish()
            # Free before the answer goes out: the client may send its next request at once.
            with self._lock:
                self._current = None
            self.channel.send({"id": run.identifier, **last})
            if self.channel.broken:
                return

    def _receive(self, line: bytes) -> None:
        try:
            self._dispatch(parse_line(line))
        except ProtocolError as error:
            self._refuse(error.identifier, "protocol", str(error))

    def _dispatch(self, message: dict[str, Any]) -> None:
        identifier = message["id"]
        if "cancel" in message:
            with self._lock:
                if self._current is not None and self._current.identifier == identifier:
                    self._current.progress.cancel()
            return
        name = message["task"]
        if name not in self.tasks:
            known = ", ".join(sorted(self.tasks))
            self._refuse(identifier, "unknown_task", f"there is no task {name!r}", f"Known tasks: {known}.")
            return
        run = Run(identifier, name, message["request"], WorkerProgress(identifier, self.channel))
        with self._lock:
            busy = self._current
            if busy is None:
                self._current = run
        if busy is None:
            self._queue.put(run)
        else:
            self._refuse(
                identifier,
                "busy",
                f"request {busy.identifier!r} is running",
                "Send it again after its result.",
            )

    def _refuse(self, identifier: Identifier | None, kind: str, message: str, hint: str = "") -> None:
        self.channel.send({"id": identifier, "error": {"kind": kind, "message": message, "hint": hint}})

    def _answer(self, run: Run) -> dict[str, Any]:
        """Run one task; whatever happens becomes the request's last line."""
        try:
            run.progress.raise_if_cancelled()
            task = load_task(run.task, self.tasks)
            result = task.run(task.request.parse(run.values), run.progress)
            # Through JSON text, so that NaN becomes null as pydantic writes it.
            return {"result": json.loads(result.model_dump_json())}
        except GairError as error:
            return {"error": describe_error(error)}
        except Exception as error:
            traceback.print_exc()
            return {"error": describe_error(error)}

    def _end(self) -> None:
        """The client is gone: cancel, and do not outlive it by more than the grace."""
        with self._lock:
            if self._current is not None:
                self._current.progress.cancel()
        threading.Thread(target=_exit_after_grace, name="gair-watchdog", daemon=True).start()
        self._queue.put(None)


def parse_line(line: bytes) -> dict[str, Any]:
    """Decode and check the shape of one line.

    Returns:
        ``{"id", "cancel": True}`` or ``{"id", "task": str, "request": dict}``.

    Raises:
        ProtocolError: It is neither.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"expected a JSON object, found {type(message).__name__}")
    identifier = message.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, int | str):
        raise ProtocolError(f"id must be an integer or a string, found {identifier!r}")
    if set(message) == {"id", "cancel"} and message["cancel"] is True:
        return message
    if set(message) != {"id", "task", "request"}:
        found = ", ".join(map(str, message))
        raise ProtocolError(
            f"expected id, task and request, or id and cancel: true; found {found}", identifier
        )
    if not isinstance(message["task"], str) or not isinstance(message["request"], dict):
        raise ProtocolError("task must be a string and request an object", identifier)
    return message


def _exit_after_grace() -> None:
    """End the process whatever its other threads do; only code that holds Python's lock could prevent it."""
    time.sleep(GRACE_SECONDS)
    outputs = sys.modules.get("gair_core.inference.outputs")
    if outputs is not None:
        with contextlib.suppress(Exception):
            outputs.remove_live_temporaries()
    os._exit(1)


def claim_standard_output() -> int:
    """Take descriptor 1 for the protocol and let everybody else's descriptor 1 be standard error."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    return private


def devices() -> list[str]:
    """What torch can compute on here, the best first."""
    import torch

    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def greeting() -> dict[str, Any]:
    """The line that says the worker is ready; imports torch."""
    import torch

    return {
        "ready": True,
        "gair_core": __version__,
        "protocol": PROTOCOL,
        "torch": str(torch.__version__),
        "devices": devices(),
    }


def serve(tasks: Mapping[str, Registered] = TASK_MODULES) -> int:
    """Serve standard input and output until the input ends.

    Args:
        tasks: The tasks that can be asked for.

    Returns:
        The process's exit code: 0, or 1 when torch cannot be imported.
    """
    channel = Channel(claim_standard_output())
    worker = Worker(channel, tasks)
    # Reading starts before torch is imported, so that a client that goes away then is noticed too.
    threading.Thread(target=worker.read, args=(sys.stdin.buffer,), name="gair-reader", daemon=True).start()
    try:
        ready = greeting()
    except Exception as error:
        traceback.print_exc()
        channel.send({"id": None, "error": describe_error(error)})
        return 1
    channel.send(ready)
    worker.run()
    return 0


def main(tasks: Mapping[str, Registered] = TASK_MODULES) -> NoReturn:
    """Serve, and end the process at once.

    Taking torch and GDAL down in order can take seconds on a busy machine, and nobody waits for anything.
    """
    code = serve(tasks)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
