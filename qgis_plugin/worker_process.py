"""The worker's process and the thread that owns it.

Imported by the first request only: asyncio takes longer to import than the rest of the plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import sys
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Callable, NamedTuple

from . import environment
from .environment import Greeting, GreetingError, Interpreter
from .worker_error import WorkerError

# How long a worker may take to import torch (cold disk, virus scanner) before it counts as no worker at all.
START_SECONDS = 300.0
# How long a task may take to stop by itself; it looks twice a second, but a model may just be loading.
CANCEL_SECONDS = 10.0
# How long the worker may take to end after its input has ended (it promises two seconds), and after a signal.
END_SECONDS = 4.0
SIGNAL_SECONDS = 2.0
# How long streams may stay open after the process has ended: a child of its own may hold them.
DRAIN_SECONDS = 1.0
# All of that together, when somebody waits for a worker to end.
LONGEST_END_SECONDS = CANCEL_SECONDS + END_SECONDS + 2 * SIGNAL_SECONDS + DRAIN_SECONDS

_TAIL_BYTES = 16384
_LAST_WORDS = 20
# subprocess.CREATE_NO_WINDOW, which exists only on Windows.
NO_WINDOW = 0x08000000

# Fields of requests that name what a task writes.
_OUTPUT_FIELDS = ("output", "confidence", "polygons", "photos_output", "report")


class Launch(NamedTuple):
    """What it takes to start a worker.

    Attributes:
        interpreter: The interpreter; None where there is none.
        variables: Environment variables of the process.
        version: Version of gair_core that the plugin was made for.
    """

    interpreter: Interpreter | None
    variables: Mapping[str, str]
    version: str


class WorkerThread:
    """Runs the loop in which a worker lives; its methods are called from other threads, one at a time."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self._loop = new_loop()
        # A daemon, so that QGIS can end without asking; the worker ends with its input.
        self._thread = threading.Thread(target=self._run, name="gair-worker", daemon=True)
        self._thread.start()

    def start(self, call: Call, number: int, launch: Launch) -> Future[dict[str, Any]]:
        """Start to serve a call."""
        return self._submit(self._serve(call, number, launch))

    def ask(self, call: Call) -> None:
        """Ask a call's task to stop; nothing is left to ask after `close`."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call.ask)

    def stop_worker(self) -> None:
        """End the worker and wait for that."""
        if self.worker is not None:
            self._submit(self.worker.stop()).result()
            self.worker = None

    def close(self) -> None:
        """End the worker, then the thread."""
        self.stop_worker()
        # A call that was in progress hears of its end.
        self._submit(_others_done()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _serve(self, call: Call, number: int, launch: Launch) -> dict[str, Any]:
        call.open()
        worker = await self._ready_worker(call, launch)
        try:
            return await worker.run(call, number)
        finally:
            worker.inbox = None
            if worker.ended:
                self.worker = None
                remove_leftovers(call.request)

    async def _ready_worker(self, call: Call, launch: Launch) -> Worker:
        if self.worker is not None and (self.worker.ended or self.worker.launch != launch):
            await self.worker.stop()
            self.worker = None
        if self.worker is None:
            self.worker = await Worker.start(launch, call)
        self.worker.inbox = call.inbox
        return self.worker


class Call:
    """A request on its way.

    Args:
        task: Name of the task.
        request: Its request.
        report: Told the fraction and what happens, on the caller's thread.
        log: Told the level and the message, on the caller's thread.

    Attributes:
        events: What the caller has to call.
        inbox: What the worker has to look at: ("line", bytes), ("end", b""), and ("cancel", b"") from the
            caller.
    """

    def __init__(
        self,
        task: str,
        request: dict[str, Any],
        report: Callable[[float, str], None],
        log: Callable[[str, str], None],
    ) -> None:
        self.task = task
        self.request = request
        self.report = report
        self.log = log
        self.events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.inbox: asyncio.Queue[tuple[str, bytes]] | None = None
        self._asked = False

    def open(self) -> None:
        """Create the inbox, in the loop's thread: queues of asyncio belong to the loop that made them."""
        self.inbox = asyncio.Queue()
        if self._asked:
            self.inbox.put_nowait(("cancel", b""))

    def ask(self) -> None:
        """Ask the task to stop, once; in the loop's thread."""
        if self.inbox is not None and not self._asked:
            self.inbox.put_nowait(("cancel", b""))
        self._asked = True


class Worker(asyncio.SubprocessProtocol):
    """A worker's process; everything here belongs to the loop's thread.

    Args:
        launch: How it was started.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.greeting: Greeting | None = None
        self.inbox: asyncio.Queue[tuple[str, bytes]] | None = None
        self.ended = False
        self.process_id: int | None = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open_streams = {1, 2}
        self._exited = False
        self._partial = bytearray()
        self._tail = bytearray()
        self._transport: asyncio.SubprocessTransport | None = None

    @classmethod
    async def start(cls, launch: Launch, call: Call) -> Worker:
        """Start a process and wait until it is ready.

        Raises:
            WorkerError: The interpreter cannot be started, has no gair_core or another one, or the caller
                cancelled.
        """
        loop = asyncio.get_running_loop()
        python = launch.interpreter.path if launch.interpreter else ""
        window: dict[str, Any] = {"creationflags": NO_WINDOW} if sys.platform == "win32" else {}
        command = environment.worker_command(python)
        try:
            _, worker = await loop.subprocess_exec(
                lambda: cls(launch), *command, env=dict(launch.variables), **window
            )
        except OSError as error:
            raise WorkerError(
                "no_environment", f"{python} cannot be started: {error.strerror or error}", environment.ADVICE
            ) from None
        worker.inbox = call.inbox
        try:
            await worker.greet()
        except BaseException:
            await worker.stop()
            raise
        return worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the process's transport."""
        if isinstance(transport, asyncio.SubprocessTransport):
            self._transport = transport
            self.process_id = transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Put lines together, of any length; keep the end of standard error."""
        if fd == 2:
            self._remember(data)
            return
        first, *others = data.split(b"\n")
        self._partial += first
        for other in others:
            self._post("line", bytes(self._partial))
            self._partial[:] = other

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Note that a stream is at its end."""
        self._open_streams.discard(fd)
        if self._exited and not self._open_streams:
            self._finish()

    def process_exited(self) -> None:
        """Note that the process is gone; what it said last may still be on its way."""
        self._exited = True
        if self._open_streams:
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._finish)
        else:
            self._finish()

    async def greet(self) -> None:
        """Wait until the worker is ready.

        Raises:
            WorkerError: It is not what it should be, or the caller cancelled.
        """
        try:
            kind, line = await asyncio.wait_for(self._next(), START_SECONDS)
        except asyncio.TimeoutError:
            raise self._no_worker(f"said nothing within {START_SECONDS:.0f} s") from None
        if kind == "cancel":
            raise WorkerError("cancelled", "cancelled")
        if kind == "end":
            raise self._no_worker(f"ended at once ({self._exit()})")
        try:
            self.greeting = environment.parse_greeting(line, self.launch.version)
        except GreetingError as error:
            kind = "version" if error.is_version else "no_environment"
            raise WorkerError(kind, error.message, error.hint) from None

    async def run(self, call: Call, number: int) -> dict[str, Any]:
        """Send a request and wait for its last line.

        Raises:
            WorkerError: It failed, was cancelled or the worker died.
        """
        self._send({"id": number, "task": call.task, "request": call.request})
        patience: float | None = None
        while True:
            try:
                kind, line = await asyncio.wait_for(self._next(), patience)
            except asyncio.TimeoutError:
                await self.stop()
                raise WorkerError("cancelled", "cancelled; the worker did not react and was ended") from None
            if kind == "cancel":
                self._send({"id": number, "cancel": True})
                patience = CANCEL_SECONDS
            elif kind == "end":
                raise self._death() if patience is None else WorkerError("cancelled", "cancelled")
            else:
                result = self._understand(line, call, number)
                if result is not None:
                    return result

    async def stop(self) -> None:
        """End the process: close its input, then terminate, then kill; and wait."""
        transport = self._transport
        if transport is None:
            return
        stdin = transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()
        for seconds, then in (
            (END_SECONDS, transport.terminate),
            (SIGNAL_SECONDS, transport.kill),
            (SIGNAL_SECONDS, transport.close),
        ):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._end), seconds)
                break
            with contextlib.suppress(ProcessLookupError):
                then()
        transport.close()
        self._finish()

    def _understand(self, line: bytes, call: Call, number: int) -> dict[str, Any] | None:
        """Pass on a line; the last one's result is returned, its error raised."""
        message = _decode(line)
        if message is None or message.get("id") not in (number, None):
            self._remember(line + b"\n")
        elif "progress" in message:
            fraction, text = float(message["progress"]), str(message.get("message", ""))
            call.events.put(lambda: call.report(fraction, text))
        elif isinstance(message.get("log"), dict):
            log = message["log"]
            level, text = str(log.get("level", "info")), str(log.get("message", ""))
            call.events.put(lambda: call.log(level, text))
        elif isinstance(message.get("error"), dict):
            error = message["error"]
            kind, hint = str(error.get("kind", "internal")), str(error.get("hint", ""))
            raise WorkerError(kind, str(error.get("message", "")), hint)
        elif isinstance(message.get("result"), dict):
            return dict(message["result"])
        return None

    def _send(self, message: Mapping[str, Any]) -> None:
        stdin = self._transport.get_pipe_transport(0) if self._transport else None
        # A pipe that is gone is followed by the end of the process, which is reported.
        if isinstance(stdin, asyncio.WriteTransport) and not stdin.is_closing():
            stdin.write(json.dumps(message, allow_nan=False).encode("ascii") + b"\n")

    async def _next(self) -> tuple[str, bytes]:
        if self.inbox is None:
            raise WorkerError("internal", "nobody listens to the worker")
        if self.ended and self.inbox.empty():
            return ("end", b"")
        return await self.inbox.get()

    def _post(self, kind: str, value: bytes = b"") -> None:
        if self.inbox is not None:
            self.inbox.put_nowait((kind, value))

    def _finish(self) -> None:
        if not self.ended:
            self.ended = True
            self._end.set_result(None)
            self._post("end")

    def _remember(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-_TAIL_BYTES]

    def _last_words(self) -> str:
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-_LAST_WORDS:])

    def _exit(self) -> str:
        code = self._transport.get_returncode() if self._transport else None
        if code is None:
            return "without an exit code"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _no_worker(self, what: str) -> WorkerError:
        python = self.launch.interpreter.path if self.launch.interpreter else ""
        words = self._last_words()
        if "No module named" in words and "gair_core" in words:
            return WorkerError("no_environment", f"the Python {python} has no gair_core", environment.ADVICE)
        said = f":\n{words}" if words else ""
        return WorkerError(
            "no_environment", f"gair_core's worker of {python} {what}{said}", environment.REPAIR
        )

    def _death(self) -> WorkerError:
        words = self._last_words() or "(none)"
        return WorkerError(
            "died",
            f"the worker ended in the middle of its work ({self._exit()}). Its last words:\n{words}",
            "The system may have ended it for lack of memory: choose a smaller extent or batch, and try "
            "again. If that does not help, run 'Check the GAIR environment' (gair:checkenvironment).",
        )


def leftovers(request: Mapping[str, Any]) -> list[Path]:
    """Return the temporary files that a killed worker left beside, or in, the outputs of a request."""
    token = request.get("token")
    if not token:
        return []
    outputs = [Path(value) for value in map(request.get, _OUTPUT_FIELDS) if isinstance(value, str) and value]
    folders = dict.fromkeys(
        place for output in outputs for place in (output.parent, output) if place.is_dir()
    )
    return [path for folder in folders for path in sorted(folder.iterdir()) if f".{token}." in path.name]


def remove_leftovers(request: Mapping[str, Any]) -> None:
    """Remove what a killed worker left; an output that it had just put aside gets its name back."""
    token = request.get("token")
    for path in leftovers(request):
        name, _, rest = path.name.partition(f".{token}.")
        with contextlib.suppress(OSError):
            if rest == "old.part" and not path.with_name(name).exists():
                path.replace(path.with_name(name))
            else:
                path.unlink()


async def _others_done() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=DRAIN_SECONDS)


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a loop that can run processes, whatever policy another plugin has set."""
    if sys.platform == "win32":
        return asyncio.ProactorEventLoop()
    return asyncio.SelectorEventLoop()
