"""The folder of downloads, and the proof that what lies there is what it should be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import platformdirs
from filelock import FileLock, Timeout

from gair_core.checksum import sha256_of
from gair_core.errors import BadInputError, DownloadError
from gair_core.progress import Progress
from gair_core.weights.server import Patience, Published
from gair_core.weights.sources import Source, read_checksums
from gair_core.weights.transfer import Transfer

VARIABLE = "GAIR_CACHE"
#: Who says which checksum a file must have.
Authority = Literal["this package", "you", "the first download", "the server", "nobody"]
# The part of the work, after the transfer, that is left for the checksum.
_CHECKSUM_SHARE = 0.05
# Somebody who waits for another process sees a cancel this often, in seconds.
_POLL = 0.2


@dataclass(frozen=True)
class Weights:
    """A file of weights that has been looked at.

    Attributes:
        path: The file.
        sha256: Its checksum, hexadecimal.
        authority: Who says that this is the right one; ``nobody`` when nobody knows.
        revision: Revision of the repository that it was fetched from, empty when unknown.
    """

    path: Path
    sha256: str
    authority: Authority
    revision: str = ""


def cache_folder() -> Path:
    """Return the folder of downloads: ``$GAIR_CACHE`` or the user's cache folder, and ``weights`` in it."""
    named = os.environ.get(VARIABLE)
    base = Path(named).expanduser() if named else platformdirs.user_cache_path("gair", appauthor=False)
    return base / "weights"


def cached_path(source: Source) -> Path:
    """Return where the file of a source lies once it has been downloaded."""
    return cache_folder() / source.name / source.file_name


def by_hand(source: Source) -> str:
    """Return the way out of a failing network."""
    return (
        f"By hand, with a browser or on another machine: fetch {source.address} (its page is {source.page}), "
        f"then give the file: gair download {source.name} --file PATH --accept-licence"
    )


def obtain(source: Source, given: str, progress: Progress, end: float) -> Weights:
    """Return the file of a source, from the cache where it lies there whole, else from its address.

    Of several processes that want the same file one fetches it and the others wait for it.

    Args:
        source: What to fetch.
        given: Checksum that the user gave, hexadecimal, or empty.
        progress: Told how far it is; may cancel.
        end: The part of the task's progress that this is, from 0.

    Raises:
        DownloadError: As `Transfer.fetch`, or the file has another checksum; then it is removed.
        BadInputError: The disk is too small, or the cache cannot be written.
        CancelledError: The user cancelled; what has arrived is kept.
    """
    weights = _from_cache(source, given, progress)
    if weights is not None:
        return weights
    path = cached_path(source)
    with _writing_to(path.parent), _alone(path, progress) as waited:
        weights = _from_cache(source, given, progress) if waited else None
        return weights or _fetch(source, given, progress, end)


def _from_cache(source: Source, given: str, progress: Progress) -> Weights | None:
    """Return the file that lies in the cache; None when there is none, or not the right one."""
    path = cached_path(source)
    wanted, authority = _wanted(source, given)
    if not wanted or not path.is_file():
        return None
    progress.report(0.0, "comparing the checksum of the file in the cache")
    if sha256_of(path, progress) == wanted:
        return Weights(path, wanted, authority, _recorded_revision(path))
    progress.log("warning", f"{path} has been damaged or replaced since; it is fetched again.")
    return None


@contextlib.contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[bool]:
    """Let nobody else fetch this file; gives whether another process had to end before.

    The lock is the system's and ends with the process that holds it, however that ends; its empty file stays.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    waited = False
    while not lock.is_locked:
        progress.raise_if_cancelled()
        try:
            lock.acquire(timeout=_POLL)
        except Timeout:
            if not waited:
                progress.log("info", f"Another process is fetching {path}: waiting for it.")
            waited = True
    try:
        yield waited
    finally:
        lock.release()


@contextlib.contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Make the folder, and name it where the system refuses something there.

    Raises:
        BadInputError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise BadInputError(
            f"The folder of downloads {folder} cannot be written: {error.strerror or error}.",
            f"Let the variable {VARIABLE} name a folder that you may write to.",
        ) from error


def _fetch(source: Source, given: str, progress: Progress, end: float) -> Weights:
    """Fetch the file and compare its checksum, as `obtain` says."""
    path = cached_path(source)
    wanted, authority = _wanted(source, given)
    transfer = Transfer(
        source.address, path, source.size, source.size_is_exact, wanted, by_hand(source), Patience()
    )
    published = transfer.fetch(progress, (0.0, end - _CHECKSUM_SHARE))
    if not wanted and published.sha256:
        wanted, authority = published.sha256, "the server"
    progress.report(end - _CHECKSUM_SHARE, "comparing the checksum")
    found = sha256_of(transfer.part, progress)
    if wanted and found != wanted:
        transfer.forget()
        raise _wrong(source, found, wanted, authority)
    if not wanted:
        progress.log("warning", f"The server publishes no checksum: nobody says that {found} is right.")
    _record(path, found, source, published)
    transfer.finish()
    return Weights(path, found, authority, published.revision)


def look_at(source: Source, path: Path, given: str, progress: Progress) -> Weights:
    """Return a file that the user fetched, after comparing its checksum as `obtain` does.

    Args:
        source: What it should be; of an archive, the archive or the weights within.
        path: The file.
        given: Checksum that the user gave, hexadecimal, or empty.
        progress: May cancel.

    Raises:
        BadInputError: There is no such file, it cannot be read, or it has another checksum.
        CancelledError: The user cancelled.
    """
    if not path.is_file():
        raise BadInputError(f"There is no file {path}.", f"Fetch it from {source.address} first.")
    wanted, authority = _wanted(source, given)
    progress.report(0.0, "comparing the checksum")
    try:
        found = sha256_of(path, progress)
    except OSError as error:
        raise BadInputError(
            f"{path} cannot be read: {error.strerror or error}.",
            "Copy it to a folder of yours and try again.",
        ) from error
    if not wanted:
        progress.log(
            "warning",
            f"Nothing is known to compare {path} with. Its SHA-256 is {found}: look for the same on "
            f"{source.page}.",
        )
    elif found not in (wanted, source.member_sha256):
        raise BadInputError(
            f"{path} has the SHA-256 {found}, wanted {wanted} (says {authority}): it is another file, or not "
            "whole.",
            f"Fetch {source.address} again. Weights that you trust without that: gair import {source.kind}.",
        )
    return Weights(path, found, authority)


def _wanted(source: Source, given: str) -> tuple[str, Authority]:
    """Return the checksum that the file must have, as far as it is known before the server is asked."""
    if source.sha256:
        return source.sha256, "this package"
    if given:
        return given, "you"
    recorded = _recorded(cached_path(source))
    return (recorded, "the first download") if recorded else ("", "nobody")


def _wrong(source: Source, found: str, wanted: str, authority: Authority) -> DownloadError:
    hint = f"Run the command again; the transfer may have been damaged. {by_hand(source)}"
    if authority == "the first download":
        hint = (
            f"New weights at {source.page}? If you trust them, add --sha256 {found}; else keep what you have."
        )
    return DownloadError(
        f"{source.address} came with the SHA-256 {found}, wanted {wanted} (says {authority}). The file was "
        "removed, nothing was imported.",
        hint,
    )


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _record(path: Path, found: str, source: Source, published: Published) -> None:
    """Write what was fetched, so that `sha256sum --check` understands it, and we do next time."""
    today = datetime.now(timezone.utc).date()
    revision = f"# revision {published.revision}\n" if published.revision else ""
    text = f"# {source.address}, fetched {today}\n{revision}{found}  {path.name}\n"
    _record_path(path).write_text(text, encoding="utf-8")


def _recorded(path: Path) -> str:
    """Return the checksum of the first download, or nothing."""
    record = _record_path(path)
    return read_checksums(record).get(path.name, "") if record.is_file() else ""


def _recorded_revision(path: Path) -> str:
    record = _record_path(path)
    lines = record.read_text(encoding="utf-8").splitlines() if record.is_file() else []
    return next((line.split()[2] for line in lines if line.startswith("# revision ")), "")
