"""One answer of a web server: redirects, what it publishes about a file, and its bytes.

httpx does the talking. It is there already (timm brings huggingface_hub, which brings httpx), it obeys the
proxy variables, it tells a silent server from a slow one, and it hands out each redirect before following it.
huggingface_hub itself compares no checksum after a download and knows no other server; pooch cannot resume.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from gair_core.errors import DownloadError
from gair_core.version import __version__

Body = Generator["Answer | bytes", None, None]
_MOST_REDIRECTS: Final = 10
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# Compressed bytes would have neither the length nor the checksum of the file.
_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": f"gair-core/{__version__}"}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_RANGE: Final = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


@dataclass(frozen=True)
class Published:
    """What a server says of a file, as Hugging Face does when it redirects to the bytes.

    Attributes:
        sha256: Checksum of the file, hexadecimal; empty where the server publishes none.
        revision: Revision of the repository that the file is from, or empty.
    """

    sha256: str = ""
    revision: str = ""


@dataclass(frozen=True)
class Answer:
    """The head of an answer.

    Attributes:
        status: HTTP status.
        reason: Its text.
        length: Bytes of the whole file, not of this answer; None when the server does not say.
        start: Byte of the file at which this answer begins.
        validator: What tells this state of the file from another one: a strong ETag, or the date; or empty.
        retry_after: Seconds that the server asks to wait, 0 when it asks for nothing.
        published: What the server says of the file.
    """

    status: int
    reason: str
    length: int | None
    start: int
    validator: str
    retry_after: float
    published: Published


@dataclass(frozen=True)
class Patience:
    """How long to wait, and how often to try.

    Attributes:
        connect: Seconds for a connection.
        read: Seconds without a byte.
        attempts: Failures in a row, nothing having arrived between them, before giving up.
        pause: Seconds before the second attempt; doubled before each further one, at most `longest_pause`.
        longest_pause: Most seconds between two attempts, even where the server asks for more.
    """

    connect: float = 15.0
    read: float = 30.0
    attempts: int = 5
    pause: float = 2.0
    longest_pause: float = 60.0


@dataclass
class _Trail:
    """What the redirects on the way published."""

    host: str
    published: Published = field(default_factory=Published)

    def note(self, response: httpx.Response) -> None:
        """Take what the first host says; a redirect's target has no say about the file's checksum."""
        if response.url.host != self.host:
            return
        checksum = response.headers.get("X-Linked-ETag", "").strip('"').lower()
        self.published = Published(
            sha256=checksum if _SHA256.fullmatch(checksum) else self.published.sha256,
            revision=response.headers.get("X-Repo-Commit", self.published.revision),
        )


def request_file(address: str, headers: Mapping[str, str], patience: Patience) -> Body:
    """Ask for a file: yields the `Answer`, then its bytes in pieces.

    Args:
        address: https, or http on this very machine; so must be every redirect.
        headers: Headers of the request, such as a range.
        patience: Its timeouts.

    Raises:
        DownloadError: A redirect leads to an unsafe address, or the proxy variables are of no use.
        httpx.RequestError: The connection failed or broke.
    """
    timeout = httpx.Timeout(patience.read, connect=patience.connect)
    try:
        client = httpx.Client(timeout=timeout, headers=_HEADERS)
    except (ValueError, ImportError) as error:
        raise DownloadError(
            f"The proxy that the environment names cannot be used: {error}",
            "Look at the variables HTTPS_PROXY, ALL_PROXY and NO_PROXY.",
        ) from None
    with client:
        trail = _Trail(httpx.URL(address).host)
        response = _follow(client, client.build_request("GET", address, headers=dict(headers)), trail)
        try:
            yield _answer(response, trail.published)
            yield from response.iter_raw()
        finally:
            response.close()


def _follow(client: httpx.Client, request: httpx.Request, trail: _Trail) -> httpx.Response:
    for _ in range(_MOST_REDIRECTS):
        _refuse_unsafe(request.url)
        response = client.send(request, stream=True)
        trail.note(response)
        if response.next_request is None:
            return response
        response.close()
        request = response.next_request
    raise DownloadError(f"The server redirects in circles, lastly to {request.url.host}.")


def _refuse_unsafe(url: httpx.URL) -> None:
    if url.scheme != "https" and not (url.scheme == "http" and url.host in _LOCAL):
        raise DownloadError(f"The download leads to {url.scheme}://{url.host}, which is not encrypted.")


def _answer(response: httpx.Response, published: Published) -> Answer:
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    length = response.headers.get("Content-Length", "")
    whole = found[2] if found else length if response.status_code == httpx.codes.OK else ""
    etag = response.headers.get("ETag", "")
    return Answer(
        status=response.status_code,
        reason=response.reason_phrase,
        length=int(whole) if whole.isdecimal() else None,
        start=int(found[1] or 0) if found else 0,
        # A weak ETag promises the same meaning, not the same bytes.
        validator=etag if etag.startswith('"') else response.headers.get("Last-Modified", ""),
        retry_after=_seconds(response.headers.get("Retry-After", "")),
        published=published,
    )


def _seconds(text: str) -> float:
    return float(text) if text.strip().isdecimal() else 0.0
