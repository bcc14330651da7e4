"""The client of gair_core's worker: one process a QGIS session, whoever asks.

Processing runs algorithms in several threads. One dedicated thread owns the process and both of its streams
(`worker_process`); callers wait in their own thread, where their callbacks run, and take turns.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from . import environment
from .environment import Greeting, GreetingError
from .worker_error import WorkerError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .worker_process import Call, Launch, WorkerThread

__all__ = ["WorkerClient", "WorkerError", "close_shared_client", "configured_launch", "shared_client"]

_POLL_SECONDS = 0.1
_TASKS_WITH_TOKEN = frozenset(
    ("embed", "segment", "change", "similarity", "sample", "locate", "location-map", "import")
)


def configured_launch() -> Launch:
    """Return how to start the worker by today's variables and settings."""
    # Imported here, so that the rest works, and is tested, without QGIS.
    from qgis.core import QgsApplication

    from . import settings
    from .worker_process import Launch

    variables = environment.worker_environment(os.environ, sys.platform, QgsApplication.prefixPath())
    carried = environment.carried_version(str(Path(__file__).parent))
    return Launch(settings.chosen_interpreter(), variables, carried)


class WorkerClient:
    """Runs tasks in a worker process that is started by the first one and kept for the next.

    Every method may be called from any thread.

    Args:
        launch: Says how to start the worker; asked before every request, so that a changed setting counts.
    """

    def __init__(self, launch: Callable[[], Launch] = configured_launch) -> None:
        self._launch = launch
        self._turn = threading.Lock()
        self._owner: int | None = None
        self._closed = threading.Event()
        self._thread: WorkerThread | None = None
        self._number = 0

    @property
    def greeting(self) -> Greeting | None:
        """What the running worker said of itself; None while there is none."""
        worker = self._thread.worker if self._thread else None
        return worker.greeting if worker is not None and not worker.ended else None

    @property
    def process_id(self) -> int | None:
        """Id of the running worker's process; None while there is none."""
        worker = self._thread.worker if self._thread else None
        return worker.process_id if worker is not None and not worker.ended else None

    def run(
        self,
        task: str,
        request: Mapping[str, Any],
        *,
        report: Callable[[float, str], None] | None = None,
        log: Callable[[str, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Run a task to its end; another caller's task in progress is waited for.

        The callbacks run on the calling thread.

        Args:
            task: Name of a task of gair_core.
            request: Its request, JSON-serialisable. A token is added where the task takes one.
            report: Told the fraction of the task that is done, in [0, 1], and what happens now.
            log: Told the level (info or warning) and the message of every line of the task's log.
            cancelled: Asked ten times a second whether to stop.

        Returns:
            The task's result.

        Raises:
            WorkerError: The task failed, was cancelled, or there is no worker to run it.
        """
        from .worker_process import Call

        values = dict(request)
        if task in _TASKS_WITH_TOKEN:
            values.setdefault("token", uuid.uuid4().hex[:12])
        call = Call(task, values, report or _ignore, log or _ignore)
        cancelled = cancelled or _never
        with self._my_turn(cancelled):
            self._number += 1
            launch = self._checked_launch()
            thread = self._started_thread()
            return self._follow(thread, call, thread.start(call, self._number, launch), cancelled)

    def require_interpreter(self) -> None:
        """Refuse at once, without waiting or starting anything, where no worker could be started.

        Raises:
            WorkerError: As `run` raises it.
        """
        self._checked_launch()

    def release(self, cancelled: Callable[[], bool] | None = None) -> None:
        """End the worker once it is idle, so that its files can be removed; the next request starts one.

        Raises:
            WorkerError: The caller cancelled, or the client is closed.
        """
        with self._my_turn(cancelled or _never):
            if self._thread is not None:
                self._thread.stop_worker()

    def close(self) -> None:
        """Cancel a running task, end the process and wait for that; every later request is refused."""
        self._closed.set()
        if self._thread is None and not self._turn.locked():
            return
        from .worker_process import LONGEST_END_SECONDS

        # A task of this very thread, closed by a callback, can never yield: its process ends all the same.
        is_own = self._owner == threading.get_ident()
        has_turn = self._turn.acquire(timeout=0 if is_own else LONGEST_END_SECONDS)
        try:
            if self._thread is not None:
                self._thread.close()
                self._thread = None
        finally:
            if has_turn:
                self._turn.release()

    @contextlib.contextmanager
    def _my_turn(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        if self._owner == threading.get_ident():
            # A window that handles events meanwhile may start another algorithm: waiting would never end.
            raise WorkerError("busy", "another task runs in this thread", "Start it again after that one.")
        while not self._turn.acquire(timeout=_POLL_SECONDS):
            self._refuse_when(cancelled())
        self._owner = threading.get_ident()
        try:
            self._refuse_when(cancelled())
            yield
        finally:
            self._owner = None
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
            message = "there is no Python environment with gair_core yet"
            raise WorkerError("no_environment", message, environment.ADVICE)
        if not Path(interpreter.path).is_file():
            message = f"{interpreter.origin} names the Python {interpreter.path}, which does not exist"
            raise WorkerError("no_environment", message, environment.ADVICE)
        return launch

    def _started_thread(self) -> WorkerThread:
        from .worker_process import WorkerThread

        if self._thread is None:
            self._thread = WorkerThread()
        return self._thread

    def _follow(
        self, thread: WorkerThread, call: Call, work: Future[dict[str, Any]], cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Deliver a call's events on this thread until its work is done."""
        work.add_done_callback(lambda _: call.events.put(_ignore))
        try:
            while not (work.done() and call.events.empty()):
                with contextlib.suppress(queue.Empty):
                    call.events.get(timeout=_POLL_SECONDS)()
                if cancelled() or self._closed.is_set():
                    thread.ask(call)
        except BaseException:
            # A callback failed: nobody waits for the result any more.
            thread.ask(call)
            with contextlib.suppress(WorkerError):
                work.result()
            raise
        if work.exception() is not None:
            self._refuse_when(cancelled=False)
        return work.result()


def _ignore(*_: object) -> None:
    """Take no notice."""


def _never() -> bool:
    return False


_shared: WorkerClient | None = None
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
    global _shared
    with _shared_lock:
        client, _shared = _shared, None
    if client is not None:
        atexit.unregister(close_shared_client)
        client.close()
