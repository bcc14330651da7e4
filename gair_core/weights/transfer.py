"""Fetch a file whole, in as many pieces as it takes.

What has arrived lies beside the destination as ``NAME.part``, and ``NAME.part.json`` says which state of the
file it belongs to. The rest is asked for with ``Range`` and ``If-Range``: a server whose file has changed, or
that knows no ranges, sends all of it, and the transfer begins again.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
from pydantic import BaseModel, ValidationError

from gair_core.errors import BadInputError, DownloadError
from gair_core.inference.engine import readable_seconds
from gair_core.inference.outputs import free_bytes, readable_bytes
from gair_core.progress import Progress
from gair_core.weights.background import in_background
from gair_core.weights.server import Answer, Patience, Published, request_file

# Statuses that pass by themselves: too slow, too early, too many requests, and faults of the server.
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
# Left free on a disk, so that the system goes on.
_SPARE: Final = 64_000_000
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_POLL: Final = 0.1
# The speed is that of the last seconds.
_WINDOW: Final = 5.0


class _BrokenError(Exception):
    """A failure that another attempt may mend."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _State(BaseModel):
    """Which file the bytes in ``.part`` are of."""

    address: str
    validator: str
    sha256: str


@dataclass(frozen=True)
class Transfer:
    """A file to fetch.

    Attributes:
        address: Where it is.
        path: Where it goes; it gets this name only from the caller, who has checked it.
        size: Bytes that it must have.
        size_is_exact: Whether it must have just as many; else at least as many.
        sha256: Checksum that it must have, hexadecimal; empty when nobody knows. The caller compares the
            bytes; here a server that publishes another one is told apart before they are fetched.
        by_hand: The way out for a user without a connection, one sentence.
        patience: How long to wait, and how often to try.
    """

    address: str
    path: Path
    size: int
    size_is_exact: bool
    sha256: str
    by_hand: str
    patience: Patience = field(default_factory=Patience)

    @property
    def part(self) -> Path:
        """What has arrived."""
        return self.path.with_name(f"{self.path.name}.part")

    def fetch(self, progress: Progress, share: tuple[float, float]) -> Published:
        """Fetch what is missing; in the end `part` is the whole file.

        Args:
            progress: Told how much has arrived, how fast and what is left; may cancel.
            share: Part of the task's progress that this is.

        Returns:
            What the server says of the file.

        Raises:
            DownloadError: No connection, a refusal, a length that does not fit; or it broke off too often.
                What has arrived is kept where it is of use, and the message says so.
            BadInputError: The disk is too small.
            CancelledError: The user cancelled; what has arrived is kept.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        meter = _Meter(progress, share)
        failures, pause = 0, self.patience.pause
        while True:
            before = self._arrived()
            try:
                return self._attempt(progress, meter)
            except (_BrokenError, httpx.RequestError) as error:
                if self._arrived() > before:
                    failures, pause = 0, self.patience.pause
                failures += 1
                if failures >= self.patience.attempts:
                    raise self._give_up(error) from None
                seconds = min(max(pause, getattr(error, "retry_after", 0.0)), self.patience.longest_pause)
                progress.log("info", f"{_sentence(error)}; trying again in {readable_seconds(seconds)}")
                _wait(seconds, progress)
                pause *= 2

    def forget(self) -> None:
        """Remove what has arrived."""
        self.part.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the file its name."""
        self.part.replace(self.path)
        self._state_path.unlink(missing_ok=True)

    def _attempt(self, progress: Progress, meter: _Meter) -> Published:
        state = self._state()
        if state is None:
            self.forget()
        have = self._arrived()
        headers = {"Range": f"bytes={have}-", "If-Range": state.validator} if state and have else {}
        body = in_background(request_file(self.address, headers, self.patience), progress)
        with contextlib.closing(body):
            answer = next(body)
            if not isinstance(answer, Answer):
                raise TypeError("the answer comes before its bytes")
            if answer.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return self._all_there(answer, have)
            self._check(answer, state, have)
            if have and not answer.start:
                progress.log("info", "the file has changed, or the server cannot go on: beginning again")
            self._save_state(answer)
            self._receive(body, answer, meter)
        return answer.published

    def _all_there(self, answer: Answer, have: int) -> Published:
        """There is nothing after what we have: it is the whole file, or of no use."""
        if have and answer.length == have:
            return answer.published
        self.forget()
        raise _BrokenError(f"the server has {answer.length} bytes, less than had arrived")

    def _check(self, answer: Answer, state: _State | None, have: int) -> None:
        """Refuse an answer that does not continue, or begin, the file that is wanted."""
        if answer.status in _PASSING:
            raise _BrokenError(
                f"the server answers {answer.status} {answer.reason}".rstrip(), answer.retry_after
            )
        if answer.status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise self._refused(answer)
        if answer.length is not None:
            self._check_length(answer.length)
        published = answer.published.sha256
        if self.sha256 and published and published != self.sha256:
            self.forget()
            raise DownloadError(
                f"The server publishes the SHA-256 {published} for {self.address}, wanted {self.sha256}: it "
                "is another file.",
                self.by_hand,
            )
        if answer.status == httpx.codes.PARTIAL_CONTENT and (
            answer.start != have or (state is not None and state.sha256 != published)
        ):
            self.forget()
            raise _BrokenError("the server went on with another file or at another place")
        require_space(self.path.parent, (answer.length or self.size) - answer.start)

    def _check_length(self, length: int) -> None:
        """Refuse another file, such as the page of a proxy that asks to sign in."""
        if length == self.size or (length > self.size and not self.size_is_exact):
            return
        self.forget()
        least = "" if self.size_is_exact else "at least "
        raise DownloadError(
            f"{self.address} has {length} bytes, wanted {least}{self.size}: it is another file.", self.by_hand
        )

    def _receive(self, body: Generator[Answer | bytes, None, None], answer: Answer, meter: _Meter) -> None:
        length = answer.length or (self.size if self.size_is_exact else None)
        meter.begin(answer.start, length)
        arrived = answer.start
        try:
            with self.part.open("ab" if answer.start else "wb") as file:
                for piece in body:
                    if isinstance(piece, bytes):
                        file.write(piece)
                        arrived += len(piece)
                        meter.report(arrived)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise self._full_disk() from None
        if length is not None and arrived != length:
            raise _BrokenError(f"the transfer ended after {arrived} of {length} bytes")
        self._check_length(arrived)

    def _full_disk(self) -> DownloadError:
        return DownloadError(
            f"The disk of {self.path.parent} is full. {self._kept()}".rstrip(),
            "Make room and run the same command again, or let GAIR_CACHE name a folder on another disk.",
        )

    def _refused(self, answer: Answer) -> DownloadError:
        said = f"{answer.status} {answer.reason}".rstrip()
        if answer.status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            return DownloadError(f"{self.address} is not there ({said}).", self.by_hand)
        if answer.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return DownloadError(
                f"The server gives {self.address} not to everybody ({said}): it may ask to sign in.",
                self.by_hand,
            )
        if answer.status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
            return DownloadError(
                f"The proxy asks for a name and a password ({said}).",
                f"Put both into the address in HTTPS_PROXY, before the host. {self.by_hand}",
            )
        return DownloadError(f"The server of {self.address} answers {said}.", self.by_hand)

    def _give_up(self, error: Exception) -> DownloadError:
        hint = f"Run the same command again to go on. {self.by_hand}"
        if isinstance(error, httpx.ProxyError):
            hint = f"Look at HTTPS_PROXY and NO_PROXY. {hint}"
        elif "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = f"Where a firewall opens connections, SSL_CERT_FILE must name its certificate. {hint}"
        elif isinstance(error, httpx.ConnectError):
            hint = f"Is there a network? Behind a proxy, HTTPS_PROXY must name it. {hint}"
        return DownloadError(
            f"{self.address} could not be fetched: {_sentence(error)} "
            f"({self.patience.attempts} attempts). {self._kept()}".rstrip(),
            hint,
        )

    def _kept(self) -> str:
        arrived = self._arrived() if self._state() else 0
        return f"{readable_bytes(arrived)} have arrived and are kept in {self.part}." if arrived else ""

    def _arrived(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    @property
    def _state_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part.json")

    def _state(self) -> _State | None:
        """What `part` is of; None when it is of no use for this address."""
        try:
            state = _State.model_validate_json(self._state_path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return state if state.address == self.address and state.validator else None

    def _save_state(self, answer: Answer) -> None:
        state = _State(address=self.address, validator=answer.validator, sha256=answer.published.sha256)
        self._state_path.write_text(state.model_dump_json(), encoding="utf-8")


class _Meter:
    """Turns bytes into a fraction, a speed and the time left."""

    def __init__(self, progress: Progress, share: tuple[float, float]) -> None:
        self._progress = progress
        self._begin, self._end = share
        self._furthest = self._begin
        self._length: int | None = None
        self._recent: deque[tuple[float, int]] = deque()

    def begin(self, arrived: int, length: int | None) -> None:
        """Start to measure at a place of the file."""
        self._length = length
        self._recent = deque([(time.monotonic(), arrived)])

    def report(self, arrived: int) -> None:
        """Tell the progress how far it is."""
        now = time.monotonic()
        self._recent.append((now, arrived))
        while len(self._recent) > 2 and now - self._recent[1][0] > _WINDOW:
            self._recent.popleft()
        seconds, count = now - self._recent[0][0], arrived - self._recent[0][1]
        speed = count / seconds if seconds > 0 else 0.0
        text = f"{readable_bytes(arrived)} of {readable_bytes(self._length) if self._length else 'unknown'}"
        if speed:
            text += f", {readable_bytes(round(speed))}/s"
        if self._length:
            # A transfer that begins again does not take the bar back.
            done = self._begin + (self._end - self._begin) * min(arrived / self._length, 1.0)
            self._furthest = max(self._furthest, done)
            if speed:
                text += f", {readable_seconds((self._length - arrived) / speed)} left"
        self._progress.report(self._furthest, text)


def require_space(folder: Path, wanted: int) -> None:
    """Check before anything is written that it will fit.

    Args:
        folder: An existing folder.
        wanted: Bytes.

    Raises:
        BadInputError: The disk is too small.
    """
    found = free_bytes(folder)
    wanted += _SPARE
    if found < wanted:
        raise BadInputError(
            f"The disk of {folder} has {readable_bytes(found)} left, wanted {readable_bytes(wanted)}.",
            "Make room, or let GAIR_CACHE (the download) or --output (the model) name another disk.",
        )


def _wait(seconds: float, progress: Progress) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        progress.raise_if_cancelled()
        time.sleep(min(left, _POLL))


def _sentence(error: Exception) -> str:
    """What happened, in words; some of httpx's errors have none."""
    if isinstance(error, httpx.ConnectTimeout):
        return "the server did not answer in time"
    if isinstance(error, httpx.TimeoutException):
        return "the server fell silent"
    return str(error) or type(error).__name__
