"""A web server that serves one file as badly as the real ones do."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server has and how it behaves; tests change it while it runs.

    Attributes:
        content: The file.
        etag: Its ETag, None for none.
        ranges: Whether the server can send a part.
        tells_length: Whether it says how long an answer is.
        statuses: Answered first, one a request, with `headers`.
        break_at: Bytes of the body after which the connection is cut, once.
        silent_at: Bytes of the body after which nothing more comes.
        headers: Additional headers of every answer.
        redirect: Where the path /file leads; the file itself is at /target.
        address: Where the file is, set by `serve`.
        requests: Path and headers of every request.
        sent: Bytes of bodies that were sent.
    """

    content: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    tells_length: bool = True
    statuses: list[int] = field(default_factory=list)
    break_at: int | None = None
    silent_at: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    redirect: str | None = None
    address: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    closing: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve ``site`` at its `address` while the context lasts."""
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}/file"
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.site
        site.requests.append((self.path, dict(self.headers)))
        self.close_connection = True
        if site.statuses:
            return self._head(site.statuses.pop(0), 0)
        if site.redirect is not None and self.path == "/file":
            return self._head(302, 0, Location=site.redirect)
        start = self._start()
        if start is not None and start >= len(site.content):
            return self._head(416, 0, **{"Content-Range": f"bytes */{len(site.content)}"})
        if start is None:
            self._head(200, len(site.content))
        else:
            last = len(site.content) - 1
            self._head(206, last + 1 - start, **{"Content-Range": f"bytes {start}-{last}/{last + 1}"})
        return self._body(site.content[start or 0 :])

    def _start(self) -> int | None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        unchanged = self.headers.get("If-Range") in (None, self.site.etag)
        return int(wanted[1]) if wanted and self.site.ranges and unchanged else None

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        known = {} if self.site.etag is None else {"ETag": self.site.etag}
        if self.site.tells_length:
            known["Content-Length"] = str(length)
        for name, value in {**known, **headers, **self.site.headers}.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def _body(self, body: bytes) -> None:
        site = self.site
        stop = site.break_at if site.break_at is not None else site.silent_at
        part = body if stop is None else body[:stop]
        site.sent += len(part)  # counted first: whoever has all of it may look at once
        self.wfile.write(part)
        self.wfile.flush()
        if site.break_at is not None:
            site.break_at = None
            # What was written arrives before the end of the connection does.
            time.sleep(0.05)
        elif site.silent_at is not None:
            site.closing.wait(20)
