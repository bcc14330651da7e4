"""Run a program to its end, line by line, with cancel; nothing of it outlives a cancel.

Imported by installations only: asyncio takes longer to import than the rest of the plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Callable, NamedTuple

from .worker_process import NO_WINDOW, new_loop

# How long a program may take to end after it was asked to.
_PATIENCE_SECONDS = 3.0
# How long its output may stay open after that: a child of its own may hold it.
_DRAIN_SECONDS = 1.0
_POLL_SECONDS = 0.1


class Finished(NamedTuple):
    """How a program ended.

    Attributes:
        code: Its exit code; negative for a signal.
        cancelled: Whether it was ended because the caller wanted it.
    """

    code: int
    cancelled: bool


def run_command(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    line: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> Finished:
    """Run a program without input and wait for it.

    Args:
        arguments: The program and its arguments.
        variables: Its environment variables.
        line: Told every line of its output and of its errors, on the calling thread.
        cancelled: Asked ten times a second whether to end it and all the programs that it has started.

    Raises:
        OSError: It cannot be started.
    """
    # A thread of its own: the caller's may have a running loop already.
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    stop = threading.Event()
    result: Future[int] = Future()

    def work() -> None:
        loop = new_loop()
        try:
            result.set_result(loop.run_until_complete(_run(arguments, variables, lines.put, stop)))
        except BaseException as error:
            result.set_exception(error)
        finally:
            loop.close()
            lines.put(None)

    thread = threading.Thread(target=work, name="gair-command", daemon=True)
    thread.start()
    try:
        _deliver(lines, line, cancelled, stop)
    finally:
        stop.set()
        thread.join()
    return Finished(result.result(), cancelled=cancelled())


def _deliver(
    lines: queue.SimpleQueue[str | None],
    line: Callable[[str], None],
    cancelled: Callable[[], bool],
    stop: threading.Event,
) -> None:
    while True:
        with contextlib.suppress(queue.Empty):
            text = lines.get(timeout=_POLL_SECONDS)
            if text is None:
                return
            line(text)
        if cancelled():
            stop.set()


async def _run(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    put: Callable[[str], None],
    stop: threading.Event,
) -> int:
    options: dict[str, Any] = (
        {"creationflags": NO_WINDOW} if sys.platform == "win32" else {"start_new_session": True}
    )
    loop = asyncio.get_running_loop()
    transport, program = await loop.subprocess_exec(
        lambda: _Program(put),
        *arguments,
        env=dict(variables),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.STDOUT,
        **options,
    )
    try:
        asked_at: float | None = None
        while not program.ended.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(program.ended.wait(), _POLL_SECONDS)
            if stop.is_set() and not program.ended.is_set():
                late = asked_at is not None and loop.time() > asked_at + _PATIENCE_SECONDS
                if asked_at is None or late:
                    _end(transport, kill=late)
                asked_at = asked_at or loop.time()
        return transport.get_returncode() or 0
    finally:
        transport.close()


def _end(transport: asyncio.SubprocessTransport, *, kill: bool) -> None:
    """End a program with its children: its group, on Windows the job of an environment's launcher."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            transport.terminate()
        else:
            os.killpg(transport.get_pid(), signal.SIGKILL if kill else signal.SIGTERM)


class _Program(asyncio.SubprocessProtocol):
    """Splits a program's output into lines; carriage returns of progress bars end lines, too."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self.ended = asyncio.Event()
        self._put = put
        self._partial = b""
        self._closed = self._exited = False

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Pass on whole lines."""
        *lines, self._partial = (self._partial + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._pass_on(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Note that everything was said."""
        self._closed = True
        if self._exited:
            self._finish()

    def process_exited(self) -> None:
        """Note the end; its last words may still be on their way."""
        self._exited = True
        if self._closed:
            self._finish()
        else:
            asyncio.get_running_loop().call_later(_DRAIN_SECONDS, self._finish)

    def _finish(self) -> None:
        self._pass_on(self._partial)
        self._partial = b""
        self.ended.set()

    def _pass_on(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self._put(text)
