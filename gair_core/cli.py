"""The ``gair`` command: one subcommand a task, with the task's request as its options.

Standard output holds the result alone; progress, the log and errors go to standard error, as text or, with
``--json-progress``, as JSON lines: ``{"progress": 0.37, "message": "..."}``, ``{"log": {...}}`` and
``{"error": {"kind": ..., "message": ..., "hint": ...}}``.

Exit codes: 0 success, 1 the task failed, 2 wrong usage, 130 cancelled with Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import re
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gair_core.errors import BadInputError, CancelledError, GairError
from gair_core.progress import Level, Progress
from gair_core.task import TASK_MODULES, Registered, Request, Result, Task, load_task
from gair_core.version import __version__
from gair_core.worker import describe_error

if TYPE_CHECKING:
    from types import FrameType

    from tqdm import tqdm

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CANCELLED = 130

_REPORT_SECONDS = 0.1

# argparse takes an extent such as -122.5,38,-122,39 for an option.
_NEGATIVE_LIST = re.compile(r"-[\d.][-+\d.,eE]*")

# What pydantic-settings appends to the help of an option that is not given, off or empty.
_NO_DEFAULT = re.compile(r" \(default: (?:None|False|)\)$")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Leaves out the defaults that say nothing, and Python's types where they are no plain words."""

    def _metavar_formatter(
        self, action: argparse.Action, default_metavar: str
    ) -> Callable[[int], tuple[str, ...]]:
        if isinstance(action.metavar, str) and "[" in action.metavar:
            return lambda count: (default_metavar,) * count
        return super()._metavar_formatter(action, default_metavar)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = super()._get_help_string(action)
        return text and _NO_DEFAULT.sub("", text)


class BarProgress(Progress):
    """A bar with the time left on a terminal; elsewhere only the log."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._bar: tqdm[Any] | None = None

    def report(self, fraction: float, message: str = "") -> None:
        """Draw the bar."""
        with self._lock:
            bar = self._bar or self._open()
            bar.set_postfix_str(message, refresh=False)
            bar.update(max(0.0, min(fraction, 1.0) - bar.n))

    def log(self, level: Level, message: str) -> None:
        """Print above the bar."""
        super().log(level, message)
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            print(f"gair: {level}: {message}" if level == "warning" else message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is and go to a new line."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()

    def _open(self) -> tqdm[Any]:
        from tqdm import tqdm

        layout = "{percentage:3.0f}% |{bar:30}| {elapsed} {postfix}"  # the message tells the time left
        # disable=None: no bar where standard error is not a terminal.
        self._bar = tqdm(total=1.0, bar_format=layout, file=sys.stderr, disable=None, dynamic_ncols=True)
        return self._bar


class JsonProgress(Progress):
    """JSON lines on standard error for programs that run the command, at most ten a second."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._next = 0.0

    def report(self, fraction: float, message: str = "") -> None:
        """Print the fraction unless the last one is under a tenth of a second old."""
        with self._lock:
            now = time.monotonic()
            if now >= self._next or fraction >= 1:
                self._next = now + _REPORT_SECONDS
                print_json({"progress": round(fraction, 4), "message": message})

    def log(self, level: Level, message: str) -> None:
        """Print a line of the log."""
        super().log(level, message)
        with self._lock:
            print_json({"log": {"level": level, "message": message}})

    def close(self) -> None:
        """Nothing to tidy up."""


def print_json(message: Mapping[str, Any]) -> None:
    """Print one ASCII JSON line on standard error."""
    print(json.dumps(message), file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None, tasks: Mapping[str, Registered] = TASK_MODULES) -> int:
    """Run the command.

    Args:
        arguments: What follows ``gair``; default is the process's own.
        tasks: The subcommands.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _main_parser(tasks)
    try:
        name = parser.parse_args(words[:1]).task
        if name is None:
            parser.print_help(sys.stderr)
            return EXIT_USAGE
        return _run_command(load_task(name, tasks), words[1:])
    except SystemExit as stop:  # argparse: --help, --version and wrong usage
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    except BrokenPipeError:
        # The reader of our output left, as `head` does; Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _main_parser(tasks: Mapping[str, Registered]) -> argparse.ArgumentParser:
    """The parser of the first word alone; the task's module is imported only for its own options."""
    width = max(map(len, tasks), default=0)
    listing = "\n".join(f"  {name:{width}}  {task.summary}" for name, task in tasks.items())
    parser = argparse.ArgumentParser(
        prog="gair",
        usage="gair [-h] [--version] TASK ...",
        description="GAIR: embeddings of Sentinel-2 scenes, street-level photos and places.",
        epilog=f"tasks:\n{listing}\n\n'gair TASK --help' describes a task's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gair {__version__}")
    parser.add_argument("task", nargs="?", choices=list(tasks), metavar="TASK", help="one of the tasks below")
    return parser


def _run_command(task: Task, words: Sequence[str]) -> int:
    """Parse a task's options, run it and print its result."""
    options, values = _parse(task, words)
    progress = JsonProgress() if options.json_progress else BarProgress()
    try:
        request = task.request.parse(values)
    except BadInputError as error:
        _print_error(error, as_json=options.json_progress, prefix=f"gair {task.name}")
        return EXIT_USAGE
    try:
        with contextlib.closing(progress), _cancelled_by_interrupt(progress):
            result = task.run(request, progress)
    except (CancelledError, KeyboardInterrupt) as stop:
        _print_error(_cancellation(stop), as_json=options.json_progress)
        return EXIT_CANCELLED
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        _print_error(error, as_json=options.json_progress)
        return EXIT_FAILED
    _print_result(result, progress, as_json=options.json)
    # `gair check` finds faults without failing itself.
    return 0 if getattr(result, "ok", True) else EXIT_FAILED


def _cancellation(stop: BaseException) -> CancelledError:
    """What to print; a task that keeps something, as a download does, says so itself."""
    if isinstance(stop, CancelledError) and stop.message != CancelledError().message:
        return stop
    return CancelledError("cancelled; nothing was written")


def _parse(task: Task, words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Split the words into the options that every task has and the fields of the request.

    Returns:
        The common options, and the request's values as pydantic-settings decoded them.
    """
    from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

    request: type[Request] = task.request

    class CommandLine(BaseSettings, request):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(
            cli_avoid_json=True,
            cli_enforce_required=True,
            cli_hide_none_type=True,
            cli_implicit_flags="toggle",
            cli_kebab_case=True,
        )

    parser = argparse.ArgumentParser(
        prog=f"gair {task.name}",
        description=textwrap.dedent(inspect.getdoc(request) or ""),
        formatter_class=_HelpFormatter,
    )
    common = parser.add_argument_group("common options")
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("--json-progress", action="store_true", help="report on standard error as JSON lines")
    common.add_argument("--debug", action="store_true", help="print the traceback of an error")
    source: CliSettingsSource[CommandLine] = CliSettingsSource(CommandLine, root_parser=parser)
    options = parser.parse_args(_join_negative_lists(words))
    return options, _split_lists(request, source(parsed_args=options)())


def _split_lists(request: type[Request], values: dict[str, Any]) -> dict[str, Any]:
    """Split ``1,2,3`` for fields that are tuples; pydantic-settings before 2.16 leaves that to us."""
    tuples = {name for name, info in request.model_fields.items() if "tuple[" in str(info.annotation)}
    return {
        name: value.split(",") if name in tuples and isinstance(value, str) else value
        for name, value in values.items()
    }


def _join_negative_lists(words: Sequence[str]) -> list[str]:
    """Write ``--extent -1,2`` as ``--extent=-1,2``."""
    joined: list[str] = []
    for word in words:
        if joined and re.fullmatch(r"--[a-z][a-z0-9-]*", joined[-1]) and _NEGATIVE_LIST.fullmatch(word):
            joined[-1] = f"{joined[-1]}={word}"
        else:
            joined.append(word)
    return joined


@contextlib.contextmanager
def _cancelled_by_interrupt(progress: Progress) -> Iterator[None]:
    """Let the first Ctrl-C cancel in good order and the second break off at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if progress.cancelled:
            raise KeyboardInterrupt
        progress.cancel()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _print_error(error: BaseException, *, as_json: bool, prefix: str = "gair") -> None:
    """Print what went wrong and the way out; a fault of the software points to ``--debug``."""
    description = describe_error(error)
    if description["kind"] == "internal" and not isinstance(error, GairError):
        description["hint"] = (
            "This is a fault of the software: run again with --debug and report what it prints."
        )
    if as_json:
        print_json({"error": description})
        return
    print(f"{prefix}: error: {description['message']}", file=sys.stderr)
    if description["hint"]:
        print(f"hint: {description['hint']}", file=sys.stderr)


def _print_result(result: Result, progress: Progress, *, as_json: bool) -> None:
    """Print a result on standard output, its warnings only if the log has not shown them."""
    if as_json:
        print(result.model_dump_json(indent=2))
        return
    text = getattr(result, "text", None)
    if callable(text):
        print(text())
        return
    for name, value in json.loads(result.model_dump_json()).items():
        if name == "warnings":
            for warning in value:
                if warning not in progress.warnings:
                    print(f"gair: warning: {warning}", file=sys.stderr)
        elif value is not None:
            print(f"{name.replace('_', ' ')}: {_readable(value)}")


def _readable(value: Any) -> str:  # noqa: ANN401
    """A value on one line, tables and nested objects indented below their name."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict | list) and value:
        return "\n" + textwrap.indent(json.dumps(value, indent=2, ensure_ascii=False), "  ")
    if isinstance(value, dict | list):
        return "none"
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
