"""The client of gair_core's worker: one process a QGIS session, whoever asks.

Processing runs algorithms in several threads. One dedicated thread owns the process and both of its streams (asyncio,
so that nothing blocks when a pipe is full); callers wait in their own thread, where their callbacks run, and take turns.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import queue
import sys
import threading
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from . import environment
from .environment import Greeting, GreetingError, Interpreter

Report = Callable[[float, str], None]
Log = Callable[[str, str], None]
Cancelled = Callable[[], bool]

# How long a worker may take to import torch (cold disk, virus scanner) before it counts as no worker at all.
START_SECONDS = 300.0
# How long a task may take to stop by itself; it looks twice a second, but a model may just be loading.
CANCEL_SECONDS = 10.0
# How long the worker may take to end after its input has ended (it promises two seconds), and after a signal.
END_SECONDS = 4.0
SIGNAL_SECONDS = 2.0
# How long streams may stay open after the process has ended: a child of its own may hold them.
DRAIN_SECONDS = 1.0

_POLL_SECONDS = 0.1
_TAIL_BYTES = 16384
_LAST_WORDS = 20
# subprocess.CREATE_NO_WINDOW, which exists only on Windows.
_CREATE_NO_WINDOW = 0x08000000

_TASKS_WITH_TOKEN = frozenset(
    ("embed", "segment", "change", "similarity", "sample", "locate", "location-map", "import")
)
# Fields of requests that name what a task writes.
_OUTPUT_FIELDS = ("output", "confidence", "polygons", "photos_output", "report")


class WorkerError(Exception):
    """A request that failed.

    Args:
        kind: A kind of the protocol (bad_input, out_of_memory, cancelled, busy, unknown_task, protocol, internal), or
            ``no_environment`` (no usable interpreter), ``version`` (another gair_core), ``died`` (the worker ended).
        message: What was found and what was wanted.
        hint: What the user can do; may be empty.
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class Launch(NamedTuple):
    """What it takes to start a worker.

    Attributes:
        interpreter: The interpreter; None where there is none.
        variables: Environment variables of the process.
        version: Version of gair_core that the plugin was made for.
    """

    interpreter: Optional[Interpreter]
    variables: Mapping[str, str]
    version: str


def configured_launch() -> Launch:
    """Return how to start the worker by today's variables and settings."""
    # QGIS is imported here, so that everything else works and is tested without it.
    from qgis.core import QgsApplication, QgsSettings

    folder = environment.environment_folder(sys.platform, os.environ, str(Path.home()))
    interpreter = environment.choose_interpreter(
        str(QgsSettings().value("gair/python", "") or ""),
        os.environ,
        environment.created_interpreter(folder, sys.platform),
    )
    variables = environment.worker_environment(os.environ, sys.platform, QgsApplication.prefixPath())
    return Launch(interpreter, variables, environment.carried_version(str(Path(__file__).parent)))


class WorkerClient:
    """Runs tasks in a worker process that is started by the first one and kept for the next.

    Every method may be called from any thread.

    Args:
        launch: Says how to start the worker; asked before every request, so that a changed setting counts at once.
    """

    def __init__(self, launch: Callable[[], Launch] = configured_launch) -> None:
        self._launch = launch
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._thread: Optional[threading.Thread] = None
        self._worker: Optional[_Worker] = None
        self._number = 0

    @property
    def greeting(self) -> Optional[Greeting]:
        """What the running worker said of itself; None while there is none."""
        worker = self._worker
        return worker.greeting if worker is not None and not worker.ended else None

    @property
    def process_id(self) -> Optional[int]:
        """Id of the running worker's process; None while there is none."""
        worker = self._worker
        return worker.process_id if worker is not None and not worker.ended else None

    def run(
        self,
        task: str,
        request: Mapping[str, Any],
        *,
        report: Optional[Report] = None,
        log: Optional[Log] = None,
        cancelled: Optional[Cancelled] = None,
    ) -> Dict[str, Any]:
        """Run a task to its end; another caller's task in progress is waited for.

        The callbacks run on the calling thread.

        Args:
            task: Name of a task of gair_core.
            request: Its request, JSON-serialisable. A token is added where the task takes one and it is missing.
            report: Told the fraction of the task that is done, in [0, 1], and what happens now.
            log: Told the level (info or warning) and the message of every line of the task's log.
            cancelled: Asked ten times a second whether to stop.

        Returns:
            The task's result.

        Raises:
            WorkerError: The task failed, was cancelled, or there is no worker to run it.
        """
        values = dict(request)
        if task in _TASKS_WITH_TOKEN:
            values.setdefault("token", uuid.uuid4().hex[:12])
        call = _Call(task, values, report or _ignore, log or _ignore, cancelled or _never)
        with self._my_turn(call.cancelled):
            self._number += 1
            return self._follow(call, self._serve(call, self._number, self._checked_launch()))

    def release(self, cancelled: Optional[Cancelled] = None) -> None:
        """End the worker once it is idle, so that its files can be replaced; the next request starts a new one.

        Raises:
            WorkerError: The caller cancelled, or the client is closed.
        """
        with self._my_turn(cancelled or _never):
            self._stop_worker()

    def close(self) -> None:
        """Cancel a running task, end the process and wait for that; every later request is refused."""
        self._closed.set()
        # A task that was started by this very thread can never yield: then the process ends all the same.
        longest = CANCEL_SECONDS + END_SECONDS + 2 * SIGNAL_SECONDS
        has_turn = self._turn.acquire(timeout=longest)
        try:
            self._stop_worker()
            if self._loop is not None and self._thread is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop = self._thread = None
        finally:
            if has_turn:
                self._turn.release()

    @contextlib.contextmanager
    def _my_turn(self, cancelled: Cancelled) -> Any:
        while not self._turn.acquire(timeout=_POLL_SECONDS):
            self._refuse_when(cancelled())
        try:
            self._refuse_when(cancelled())
            yield
        finally:
            self._turn.release()

    def _refuse_when(self, cancelled: bool) -> None:
        if cancelled:
            raise WorkerError("cancelled", "cancelled")
        if self._closed.is_set():
            raise WorkerError("cancelled", "GAIR was switched off")

    def _checked_launch(self) -> Launch:
        try:
            launch = self._launch()
        except GreetingError as error:
            raise WorkerError("version", error.message, error.hint) from None
        interpreter = launch.interpreter
        if interpreter is None:
            raise WorkerError(
                "no_environment", "there is no Python environment with gair_core yet", environment.ADVICE
            )
        if not Path(interpreter.path).is_file():
            raise WorkerError(
                "no_environment",
                f"{interpreter.origin} names the Python {interpreter.path}, which does not exist",
                environment.ADVICE,
            )
        return launch

    def _started_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = _new_loop()
            # A daemon, so that QGIS can end without asking; the worker ends with its input.
            self._thread = threading.Thread(target=self._loop_forever, name="gair-worker", daemon=True)
            self._thread.start()
        return self._loop

    def _loop_forever(self) -> None:
        if self._loop is not None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_forever()
            self._loop.close()

    def _stop_worker(self) -> None:
        if self._loop is not None and self._worker is not None:
            asyncio.run_coroutine_threadsafe(self._worker.stop(), self._loop).result()
            self._worker = None

    def _follow(self, call: _Call, work: Any) -> Dict[str, Any]:
        """Deliver a call's events on this thread until its work is done."""
        loop = self._started_loop()
        future = asyncio.run_coroutine_threadsafe(work, loop)
        future.add_done_callback(lambda _: call.events.put(_nothing))
        try:
            while not (future.done() and call.events.empty()):
                with contextlib.suppress(queue.Empty):
                    call.events.get(timeout=_POLL_SECONDS)()
                if call.cancelled() or self._closed.is_set():
                    loop.call_soon_threadsafe(call.ask)
        except BaseException:
            # A callback failed: nobody waits for the result any more.
            loop.call_soon_threadsafe(call.ask)
            with contextlib.suppress(WorkerError):
                future.result()
            raise
        return future.result()

    async def _serve(self, call: _Call, number: int, launch: Launch) -> Dict[str, Any]:
        """Run a call; the only coroutine that uses the worker at a time."""
        call.open()
        worker = await self._ready_worker(call, launch)
        try:
            return await worker.run(call, number)
        finally:
            worker.inbox = None
            if worker.ended:
                self._worker = None
                remove_leftovers(call.request)

    async def _ready_worker(self, call: _Call, launch: Launch) -> _Worker:
        worker = self._worker
        if worker is not None and (worker.ended or worker.launch != launch):
            await worker.stop()
            worker = self._worker = None
        if worker is None:
            worker = await _Worker.start(launch)
            worker.inbox = call.inbox
            try:
                await worker.greet()
            except BaseException:
                await worker.stop()
                raise
            self._worker = worker
        worker.inbox = call.inbox
        return worker


class _Call:
    """A request on its way; `open` and `ask` belong to the loop's thread."""

    def __init__(
        self, task: str, request: Dict[str, Any], report: Report, log: Log, cancelled: Cancelled
    ) -> None:
        self.task = task
        self.request = request
        self.report = report
        self.log = log
        self.cancelled = cancelled
        self.events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.inbox: Optional[asyncio.Queue[Tuple[str, Any]]] = None
        self._asked = False

    def open(self) -> None:
        """Create the inbox: queues of asyncio belong to the loop in which they are made."""
        self.inbox = asyncio.Queue()
        if self._asked:
            self.inbox.put_nowait(("cancel", None))

    def ask(self) -> None:
        """Ask the task to stop, once."""
        if self.inbox is not None and not self._asked:
            self.inbox.put_nowait(("cancel", None))
        self._asked = True


class _Worker(asyncio.SubprocessProtocol):
    """A worker's process; everything here belongs to the loop's thread.

    Its inbox gets ("line", bytes) for every line of the output, ("end", None) and, from the caller, ("cancel", None).
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.greeting: Optional[Greeting] = None
        self.inbox: Optional[asyncio.Queue[Tuple[str, Any]]] = None
        self.ended = False
        self.process_id: Optional[int] = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open_streams = {1, 2}
        self._exited = False
        self._partial = bytearray()
        self._tail = bytearray()
        self._transport: Optional[asyncio.SubprocessTransport] = None

    @classmethod
    async def start(cls, launch: Launch) -> _Worker:
        """Start the process.

        Raises:
            WorkerError: The interpreter cannot be started.
        """
        loop = asyncio.get_running_loop()
        python = launch.interpreter.path if launch.interpreter else ""
        window: Dict[str, Any] = {"creationflags": _CREATE_NO_WINDOW} if sys.platform == "win32" else {}
        try:
            _, worker = await loop.subprocess_exec(
                lambda: cls(launch), *environment.worker_command(python), env=dict(launch.variables), **window
            )
        except OSError as error:
            raise WorkerError(
                "no_environment", f"{python} cannot be started: {error.strerror or error}", environment.ADVICE
            ) from None
        return worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.SubprocessTransport):
            self._transport = transport
            self.process_id = transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._remember(data)
            return
        # Lines may be as long as they like, so they are put together here.
        *lines, rest = (bytes(self._partial) + data).split(b"\n") if b"\n" in data else (data,)
        if lines:
            self._partial.clear()
        self._partial += rest
        for line in lines:
            self._post("line", line)

    def pipe_connection_lost(self, fd: int, exc: Optional[Exception]) -> None:
        self._open_streams.discard(fd)
        if self._exited and not self._open_streams:
            self._finish()

    def process_exited(self) -> None:
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
            raise WorkerError("version" if b'"ready"' in line else "no_environment", error.message, error.hint) from None

    async def run(self, call: _Call, number: int) -> Dict[str, Any]:
        """Send a request and wait for its last line.

        Raises:
            WorkerError: It failed, was cancelled or the worker died.
        """
        self._send({"id": number, "task": call.task, "request": call.request})
        patience: Optional[float] = None
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
        """End the process: its input first, then terminate, then kill; and wait."""
        transport = self._transport
        if transport is None:
            return
        stdin = transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()
        for seconds, act in (
            (END_SECONDS, transport.terminate),
            (SIGNAL_SECONDS, transport.kill),
            (SIGNAL_SECONDS, None),
        ):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._end), seconds)
            if self.ended:
                break
            if act is not None:
                with contextlib.suppress(ProcessLookupError):
                    act()
        transport.close()
        self._finish()

    def _understand(self, line: bytes, call: _Call, number: int) -> Optional[Dict[str, Any]]:
        """Pass on a line; the last one's result is returned, its error raised."""
        message = _decode(line)
        if message is None or message.get("id") not in (number, None):
            self._remember(line + b"\n")
            return None
        if "progress" in message:
            fraction, text = float(message["progress"]), str(message.get("message", ""))
            call.events.put(lambda: call.report(fraction, text))
        elif isinstance(message.get("log"), dict):
            level, text = str(message["log"].get("level", "info")), str(message["log"].get("message", ""))
            call.events.put(lambda: call.log(level, text))
        elif isinstance(message.get("error"), dict):
            error = message["error"]
            raise WorkerError(
                str(error.get("kind", "internal")), str(error.get("message", "")), str(error.get("hint", ""))
            )
        elif isinstance(message.get("result"), dict):
            return dict(message["result"])
        return None

    def _send(self, message: Mapping[str, Any]) -> None:
        stdin = self._transport.get_pipe_transport(0) if self._transport else None
        # A pipe that is gone is followed by the end of the process, which is reported.
        if isinstance(stdin, asyncio.WriteTransport) and not stdin.is_closing():
            stdin.write(json.dumps(message, allow_nan=False).encode("ascii") + b"\n")

    async def _next(self) -> Tuple[str, Any]:
        if self.inbox is None:
            raise WorkerError("internal", "nobody listens to the worker")
        if self.ended and self.inbox.empty():
            return ("end", None)
        return await self.inbox.get()

    def _post(self, kind: str, value: Optional[bytes]) -> None:
        if self.inbox is not None:
            self.inbox.put_nowait((kind, value))

    def _finish(self) -> None:
        if not self.ended:
            self.ended = True
            self._end.set_result(None)
            self._post("end", None)

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
        return WorkerError("no_environment", f"gair_core's worker of {python} {what}{said}", environment.REPAIR)

    def _death(self) -> WorkerError:
        words = self._last_words() or "(none)"
        return WorkerError(
            "died",
            f"the worker ended in the middle of its work ({self._exit()}). Its last words:\n{words}",
            "The system may have ended it for lack of memory: choose a smaller extent or batch, and try again. "
            "If that does not help, run 'Check the GAIR environment' (gair:checkenvironment).",
        )


def leftovers(request: Mapping[str, Any]) -> List[Path]:
    """Return the temporary files that a killed worker left beside, or in, the outputs of a request."""
    token = request.get("token")
    if not token:
        return []
    outputs = [Path(value) for value in map(request.get, _OUTPUT_FIELDS) if isinstance(value, str) and value]
    folders = dict.fromkeys(folder for output in outputs for folder in (output.parent, output) if folder.is_dir())
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


def _decode(line: bytes) -> Optional[Dict[str, Any]]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return a loop that can run processes, whatever policy another plugin has set."""
    if sys.platform == "win32":
        return asyncio.ProactorEventLoop()
    return asyncio.SelectorEventLoop()


def _ignore(*_: Any) -> None:
    """Take no notice."""


def _nothing() -> None:
    """Wake the caller."""


def _never() -> bool:
    return False


_shared: Optional[WorkerClient] = None
_shared_lock = threading.Lock()


def shared_client() -> WorkerClient:
    """Return the client of this QGIS session."""
    global _shared  # noqa: PLW0603 - one process a session is the point
    with _shared_lock:
        if _shared is None:
            _shared = WorkerClient()
            atexit.register(close_shared_client)
        return _shared


def close_shared_client() -> None:
    """End the session's worker and wait for it; a later `shared_client` is a new one."""
    global _shared  # noqa: PLW0603
    with _shared_lock:
        client, _shared = _shared, None
    if client is not None:
        atexit.unregister(close_shared_client)
        client.close()
