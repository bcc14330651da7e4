"""Destinations: checked before any work, and replaced only by something complete.

Every temporary of an output ``scene.tif`` and the token ``7f3a`` has a name that begins with
``scene.tif.7f3a.`` and lies in the same folder, so that a rename is atomic and whoever started a process that
was killed can remove what it left (`remove_temporaries`).
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gair_core.errors import BadInputError

FreeBytes = Callable[[Path], int]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VIRTUAL_PREFIX = re.compile(r"^(/vsi[a-z0-9]+/)+")

# Destination and token of every output that is being written by this process.
_live: set[tuple[Path, str]] = set()


def free_bytes(folder: Path) -> int:
    """Bytes that the file system of ``folder`` has left for this user."""
    return shutil.disk_usage(folder).free


def temporary_path(output: Path, token: str, kind: str = "") -> Path:
    """The name of a temporary file beside ``output``.

    Args:
        output: The destination.
        token: The request's token, at most 64 letters, digits, ``-`` and ``_``.
        kind: Tells several temporaries of one output apart.

    Raises:
        BadInputError: The token cannot be part of a file name.
    """
    if not _TOKEN.fullmatch(token):
        raise BadInputError(
            f"the token {token!r} cannot be part of a file name",
            "Use at most 64 letters, digits, '-' and '_'.",
        )
    return output.with_name(f"{output.name}.{token}.{kind + '.' if kind else ''}part")


def temporaries(output: Path, token: str) -> list[Path]:
    """The existing temporaries of ``output``, GDAL's own beside them included."""
    prefix = f"{output.name}.{token}."
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in output.parent.iterdir() if path.name.startswith(prefix))
    return []


def remove_temporaries(output: Path, token: str) -> None:
    """Remove every temporary of ``output``; one that another process holds open stays."""
    for path in temporaries(output, token):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_live_temporaries() -> None:
    """Remove the temporaries of every output in the making: the last act of a process that must stop."""
    for output, token in tuple(_live):
        remove_temporaries(output, token)


@contextlib.contextmanager
def live(output: Path, token: str) -> Iterator[None]:
    """While it is open, ``output`` is being written; afterwards no temporary of it is left."""
    temporary_path(output, token)
    _live.add((output, token))
    try:
        yield
    finally:
        _live.discard((output, token))
        remove_temporaries(output, token)


@contextlib.contextmanager
def replacing(output: Path, token: str) -> Iterator[Path]:
    """Give a temporary path to write to and rename it over ``output`` when the block ends well.

    Raises:
        BadInputError: The disk is full or another program holds ``output`` open.
    """
    temporary = temporary_path(output, token)
    with live(output, token), explained(output):
        yield temporary
        replace(temporary, output)


def replace(temporary: Path, output: Path) -> None:
    """Rename a complete file over its destination.

    Raises:
        BadInputError: Another program holds the destination open (Windows), or it cannot be replaced.
    """
    try:
        temporary.replace(output)
    except OSError as error:
        raise BadInputError(
            f"cannot replace {output}: {error.strerror or error}",
            "Close the programs that have the file open (remove the layer from QGIS) or choose another name.",
        ) from error


def write_text(output: Path, text: str, token: str) -> None:
    """Write a small UTF-8 file, complete or not at all."""
    with replacing(output, token) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def explained(output: Path) -> Iterator[None]:
    """Turn the operating system's errors while writing ``output`` into ones that name file and way out."""
    try:
        yield
    except OSError as error:
        raise writing_failed(output, error) from error


def writing_failed(output: Path, error: BaseException, needed_bytes: int = 1 << 20) -> BadInputError:
    """The error for a failed write: says whether the disk is full.

    Args:
        output: The destination.
        error: What the system or GDAL said; GDAL seldom says that the disk is full.
        needed_bytes: With less than this left, the disk counts as full.
    """
    left = 0
    with contextlib.suppress(OSError):
        left = free_bytes(output.parent)
    full = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or left < needed_bytes
    reason = "the disk is full" if full else str(error)
    return BadInputError(
        f"writing {output} failed: {reason} ({readable_bytes(left)} free); nothing was kept",
        "Free some space or choose another folder." if full else "Choose another folder or file name.",
    )


@dataclass(frozen=True)
class Destination:
    """A file that is to be written.

    Attributes:
        path: Its name.
        suffixes: File name endings that fit the content, lower case, with the dot.
        needed_bytes: Disk space that it and its temporaries take at most.
    """

    path: Path
    suffixes: tuple[str, ...]
    needed_bytes: int = 0


def check_destinations(
    destinations: Sequence[Destination],
    *,
    token: str,
    inputs: Sequence[str | Path] = (),
    free: FreeBytes = free_bytes,
) -> None:
    """Refuse destinations that cannot work before any time is spent.

    Args:
        destinations: Every file of one run; those on the same disk must fit on it together.
        token: The request's token.
        inputs: Every file that is read; GDAL's virtual paths are resolved to the archive on disk.
        free: Tells the free bytes of a folder; a hook for tests.

    Raises:
        BadInputError: Wrong ending, a folder, an input, a missing or unwritable folder, too little disk.
    """
    for destination in destinations:
        _check_name(destination)
        _refuse_inputs(destination.path, inputs)
        _probe(destination.path, token)
    disks: dict[int, list[Destination]] = {}
    for destination in destinations:
        disks.setdefault(destination.path.parent.stat().st_dev, []).append(destination)
    for together in disks.values():
        _check_space(together, free)


def _check_name(destination: Destination) -> None:
    output, suffixes = destination.path, destination.suffixes
    if output.suffix.lower() not in suffixes:
        raise BadInputError(
            f"the output {output} ends in {output.suffix or 'nothing'!r}; "
            f"it must end in {' or '.join(suffixes)}",
            f"Name it {output.with_suffix(suffixes[0]).name}.",
        )
    folder = output.parent
    if not folder.is_dir():
        raise BadInputError(
            f"the folder {folder} of the output {output.name} does not exist", "Create it first."
        )
    if output.is_dir():
        raise BadInputError(f"the output {output} is an existing folder", "Give the name of a file.")


def _check_space(destinations: Sequence[Destination], free: FreeBytes) -> None:
    """Compare what the outputs on one disk take together with what it has."""
    folder = destinations[0].path.parent
    needed, available = sum(one.needed_bytes for one in destinations), free(folder)
    if available >= needed:
        return
    if len(destinations) == 1:
        subject = f"{destinations[0].path} needs up to {readable_bytes(needed)} while it is written"
    else:
        listed = ", ".join(f"{one.path.name} ({readable_bytes(one.needed_bytes)})" for one in destinations)
        subject = f"the outputs {listed} need up to {readable_bytes(needed)} together while they are written"
    raise BadInputError(
        f"{subject}, but only {readable_bytes(available)} are free in {folder}",
        "Free some space, choose another disk, a smaller extent or a coarser resolution.",
    )


def _refuse_inputs(output: Path, inputs: Sequence[str | Path]) -> None:
    """Compare by identity of the file, so that links and the spelling of a name hide nothing."""
    if not output.exists():
        return
    for source in inputs:
        on_disk = _file_on_disk(source)
        if on_disk is None:
            continue
        if on_disk.is_dir() and output.resolve().is_relative_to(on_disk.resolve()):
            raise BadInputError(
                f"the output {output} exists and lies in the input folder {source}",
                "Inputs are never overwritten: choose another name or folder for the output.",
            )
        if on_disk.samefile(output):
            raise BadInputError(
                f"the output {output} is the input {source}",
                "Inputs are never overwritten: choose another name for the output.",
            )


def _file_on_disk(source: str | Path) -> Path | None:
    """The file that holds ``source``: itself, or the archive that a virtual path leads into."""
    name = str(source)
    if not name.startswith("/vsi"):
        path = Path(name)
        return path if path.exists() else None
    inside = Path(_VIRTUAL_PREFIX.sub("", name).replace("{", "").replace("}", ""))
    return next((path for path in (inside, *inside.parents) if path.is_file()), None)


def _probe(output: Path, token: str) -> None:
    """Create and remove a temporary: permission bits alone tell little on Windows and on network drives."""
    temporary = temporary_path(output, token)
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise BadInputError(
            f"cannot write into the folder {output.parent}: {error.strerror or error}",
            "Choose a folder that you may write to.",
        ) from error


def readable_bytes(count: int) -> str:
    """A number of bytes for people: ``1.5 GB``."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
