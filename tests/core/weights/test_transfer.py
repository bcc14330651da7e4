"""Transfers that break, change, stall, are refused or cancelled, from a server on this machine."""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path

import pytest

from gair_core.errors import BadInputError, CancelledError, DownloadError
from gair_core.progress import Progress
from gair_core.weights import transfer as module
from gair_core.weights.server import Answer, Patience, Published
from gair_core.weights.transfer import Transfer
from tests.core.weights.conftest import CONTENT
from tests.core.weights.serving import Site, serve

FORTY = len(CONTENT) * 2 // 5
ONCE = Patience(connect=2, read=2, attempts=1, pause=0.01)
THRICE = Patience(connect=2, read=2, attempts=3, pause=0.01)


class Log(Progress):
    """Keeps what it is told; cancels itself once a fraction is reached."""

    def __init__(self, cancel_at: float = 2.0) -> None:
        super().__init__()
        self.reports: list[tuple[float, str]] = []
        self.messages: list[str] = []
        self.cancel_at = cancel_at

    def report(self, fraction, message=""):
        self.reports.append((fraction, message))
        if fraction >= self.cancel_at:
            self.cancel()

    def log(self, level, message):
        super().log(level, message)
        self.messages.append(message)


def make(site: Site, folder: Path, patience=ONCE, *, size=1, exact=False, sha256="") -> Transfer:
    path = folder / "sub" / "file.bin"
    return Transfer(site.address, path, size, exact, sha256, "Fetch it by hand.", patience)


def fetch(transfer: Transfer, progress=None):
    return transfer.fetch(progress or Progress(), (0.0, 0.5))


def ranges(site: Site) -> list[str | None]:
    return [headers.get("Range") for _, headers in site.requests]


def test_whole(site, tmp_path):
    log = Log()
    transfer = make(site, tmp_path, size=len(CONTENT), exact=True)
    fetch(transfer, log)
    assert transfer.part.read_bytes() == CONTENT
    transfer.finish()
    assert [path.name for path in transfer.path.parent.iterdir()] == ["file.bin"]
    fractions = [fraction for fraction, _ in log.reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 0.5
    assert log.reports[-1][1].startswith("1.0 MB of 1.0 MB, ")
    assert log.reports[-1][1].endswith("/s, 0 s left")


def test_a_broken_transfer_asks_for_the_rest_alone(site, tmp_path):
    site.break_at = FORTY
    log = Log()
    transfer = make(site, tmp_path, THRICE)
    fetch(transfer, log)
    assert transfer.part.read_bytes() == CONTENT
    assert ranges(site) == [None, f"bytes={FORTY}-"]
    assert site.requests[1][1]["If-Range"] == '"one"'
    assert site.sent == len(CONTENT)
    assert any("trying again" in message for message in log.messages)


def test_what_arrived_is_kept_for_the_next_run(site, tmp_path):
    site.break_at = FORTY
    with pytest.raises(DownloadError) as caught:
        fetch(make(site, tmp_path))
    assert "409.6 kB have arrived and are kept" in caught.value.message
    assert "Run the same command again" in caught.value.hint
    assert "by hand" in caught.value.hint
    transfer = make(site, tmp_path)
    assert transfer.part.stat().st_size == FORTY
    fetch(transfer)
    assert transfer.part.read_bytes() == CONTENT
    assert site.sent == len(CONTENT)


@pytest.mark.parametrize("how", ["changed", "no ranges", "no validator", "weak", "other address", "no state"])
def test_it_begins_again_where_the_rest_would_not_fit(site, tmp_path, how):
    site.break_at = FORTY
    if how in ("no validator", "weak"):
        site.etag = {"no validator": None, "weak": 'W/"one"'}[how]
    with pytest.raises(DownloadError):
        fetch(make(site, tmp_path))
    if how == "changed":
        site.content, site.etag = CONTENT[::-1], '"two"'
    site.ranges = how != "no ranges"
    transfer = make(site, tmp_path)
    if how == "other address":
        transfer = Transfer(f"{site.address}?v=2", transfer.path, 1, False, "", "", ONCE)
    if how == "no state":
        (transfer.part.with_name("file.bin.part.json")).write_text("{")
    fetch(transfer)
    assert transfer.part.read_bytes() == site.content
    assert site.sent == FORTY + len(CONTENT)


def test_a_date_serves_where_there_is_no_etag(site, tmp_path):
    date = "Sat, 21 Nov 2026 12:00:00 GMT"
    site.etag, site.break_at, site.headers = None, FORTY, {"Last-Modified": date}
    with pytest.raises(DownloadError):
        fetch(make(site, tmp_path))
    site.etag = date  # what the stand-in compares If-Range with
    transfer = make(site, tmp_path)
    fetch(transfer)
    assert site.requests[-1][1]["If-Range"] == date
    assert transfer.part.read_bytes() == CONTENT


def test_all_had_arrived_before(site, tmp_path):
    fetch(make(site, tmp_path))
    transfer = make(site, tmp_path)
    fetch(transfer)
    assert transfer.part.read_bytes() == CONTENT
    assert site.sent == len(CONTENT)


def test_a_file_that_became_shorter_begins_again(site, tmp_path):
    fetch(make(site, tmp_path))
    site.content = CONTENT[:1000]
    transfer = make(site, tmp_path, THRICE)
    fetch(transfer)
    assert transfer.part.read_bytes() == CONTENT[:1000]


def test_another_length_is_refused_before_the_transfer(site, tmp_path):
    for exact, wanted in ((True, "wanted 1024001"), (False, "wanted at least 1024001")):
        transfer = make(site, tmp_path, size=len(CONTENT) + 1, exact=exact)
        with pytest.raises(DownloadError, match=f"has 1024000 bytes, {wanted}: it is another file"):
            fetch(transfer)
        assert list(transfer.path.parent.iterdir()) == []
    assert len(site.requests) == 2


def test_a_page_in_place_of_the_file_is_refused_where_nobody_tells_its_length(site, tmp_path):
    """As a proxy does that asks to sign in: it must not become the first download of unknown weights."""
    site.content, site.tells_length = b"<html>", False
    transfer = make(site, tmp_path, size=1000)
    with pytest.raises(DownloadError, match="has 6 bytes, wanted at least 1000"):
        fetch(transfer)
    assert list(transfer.path.parent.iterdir()) == []


def test_another_published_checksum_is_refused_before_the_transfer(site, tmp_path):
    site.headers = {"X-Linked-ETag": '"' + "a" * 64 + '"'}
    transfer = make(site, tmp_path, sha256="b" * 64)
    with pytest.raises(DownloadError, match=f"publishes the SHA-256 {'a' * 64}.*wanted {'b' * 64}"):
        fetch(transfer)
    assert list(transfer.path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "is not there"), (410, "is not there"), (401, "sign in"), (403, "sign in"), (418, "answers 418")],
)
def test_refusals_are_final(site, tmp_path, status, message):
    site.statuses = [status]
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(make(site, tmp_path, THRICE))
    assert "by hand" in caught.value.hint
    assert len(site.requests) == 1


def test_passing_faults_are_waited_for(site, tmp_path):
    site.statuses = [503, 429]
    transfer = make(site, tmp_path, THRICE)
    fetch(transfer)
    assert transfer.part.read_bytes() == CONTENT
    assert len(site.requests) == 3


def test_faults_that_do_not_pass_end(site, tmp_path):
    site.statuses = [500, 502, 503, 504]
    with pytest.raises(DownloadError, match=r"answers 503 .*\(3 attempts\)"):
        fetch(make(site, tmp_path, THRICE))
    assert len(site.requests) == 3


def test_the_server_may_ask_for_patience_but_not_for_ever(site, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(module, "_wait", lambda seconds, _: waited.append(seconds))
    site.statuses, site.headers = [429, 503, 503], {"Retry-After": "7"}
    fetch(make(site, tmp_path, Patience(attempts=4, pause=3, longest_pause=10)))
    assert waited == [7, 7, 10]


def test_attempts_count_from_the_last_byte(site, tmp_path):
    """A bad line that lets something through each time is not given up."""
    transfer = make(site, tmp_path, Patience(connect=2, read=2, attempts=2, pause=0.01))

    class Breaking(Progress):
        def log(self, *_):
            site.break_at = 200_000 if len(site.requests) < 4 else None

    site.break_at = 200_000
    fetch(transfer, Breaking())
    assert transfer.part.read_bytes() == CONTENT
    assert len(site.requests) == 5


def test_a_silent_server(site, tmp_path):
    site.silent_at = 1000
    with pytest.raises(DownloadError, match="fell silent") as caught:
        fetch(make(site, tmp_path, Patience(connect=2, read=0.3, attempts=1)))
    assert "1.0 kB have arrived and are kept" in caught.value.message


def test_nobody_there(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    address = f"http://127.0.0.1:{port}/f"
    transfer = Transfer(address, tmp_path / "f", 1, False, "", "Fetch it by hand.", THRICE)
    with pytest.raises(DownloadError, match=r"could not be fetched.*3 attempts") as caught:
        fetch(transfer)
    assert "HTTPS_PROXY" in caught.value.hint
    assert "by hand" in caught.value.hint


def test_a_proxy_is_used_and_one_of_no_use_is_named(site, tmp_path, monkeypatch):
    with serve(Site(b"from the proxy")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address.removesuffix("/file"))
        transfer = make(site, tmp_path)
        fetch(transfer)
        assert transfer.part.read_bytes() == b"from the proxy"
        assert proxy.requests[0][0] == site.address
    monkeypatch.setenv("HTTP_PROXY", "gopher://127.0.0.1:1")
    with pytest.raises(DownloadError, match="proxy"):
        fetch(make(site, tmp_path / "other"))


def test_a_redirect_is_followed_and_only_the_first_host_is_believed(site, tmp_path):
    with serve(Site(CONTENT, headers={"X-Linked-ETag": "b" * 64})) as other:
        target = other.address.replace("127.0.0.1", "localhost").replace("/file", "/target")
        site.redirect = target
        site.headers = {"X-Linked-ETag": '"' + "a" * 64 + '"', "X-Repo-Commit": "abc"}
        other.break_at = FORTY
        transfer = make(site, tmp_path, THRICE)
        published = fetch(transfer)
        assert (published.sha256, published.revision) == ("a" * 64, "abc")
        assert transfer.part.read_bytes() == CONTENT
        assert other.sent == len(CONTENT)
        assert ranges(other) == [None, f"bytes={FORTY}-"]


@pytest.mark.parametrize("target", ["http://example.invalid/file", "ftp://127.0.0.1/file"])
def test_a_redirect_to_an_open_line_is_refused(site, tmp_path, target):
    site.redirect = target
    with pytest.raises(DownloadError, match="not encrypted"):
        fetch(make(site, tmp_path))


def test_a_redirect_in_circles_ends(site, tmp_path):
    site.redirect = site.address
    with pytest.raises(DownloadError, match="in circles"):
        fetch(make(site, tmp_path, THRICE))


def test_a_small_disk_is_found_before_anything_is_written(site, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda _: 64_500_000)
    transfer = make(site, tmp_path)
    with pytest.raises(BadInputError, match=r"has 64.5 MB left, wanted 65.0 MB") as caught:
        fetch(transfer)
    assert "GAIR_CACHE" in caught.value.hint
    assert not transfer.part.exists()


def test_a_disk_that_fills_up(site, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    transfer = make(site, tmp_path)
    transfer.path.parent.mkdir()
    transfer.part.symlink_to("/dev/full")
    head = Answer(200, "OK", len(CONTENT), 0, "", 0.0, Published())
    with pytest.raises(DownloadError, match="is full") as caught:
        transfer._receive(iter([CONTENT]), head, module._Meter(Progress(), (0.0, 1.0)))
    assert "run the same command again" in caught.value.hint


def test_other_faults_of_the_disk_stay_what_they_are(site, tmp_path):
    transfer = make(site, tmp_path)
    transfer.path.parent.mkdir()
    transfer.part.mkdir()
    with pytest.raises(OSError, match="directory") as caught:
        fetch(transfer)
    assert caught.value.errno in (errno.EISDIR, errno.EPERM, errno.EACCES)


def test_a_cancel_is_quick_and_keeps_what_arrived(site, tmp_path):
    site.silent_at = FORTY
    transfer = make(site, tmp_path, Patience(read=20, attempts=3))
    start = time.monotonic()
    with pytest.raises(CancelledError):
        fetch(transfer, Log(cancel_at=0.15))
    assert time.monotonic() - start < 3
    arrived = transfer.part.stat().st_size
    assert 0 < arrived <= FORTY
    site.silent_at = None
    fetch(make(site, tmp_path))
    assert transfer.part.read_bytes() == CONTENT
    assert ranges(site)[-1] == f"bytes={arrived}-"


def test_a_cancel_while_waiting_for_the_next_attempt(site, tmp_path):
    site.statuses = [503] * 3

    class Impatient(Progress):
        def log(self, *_):
            self.cancel()

    start = time.monotonic()
    with pytest.raises(CancelledError):
        fetch(make(site, tmp_path, Patience(attempts=3, pause=30)), Impatient())
    assert time.monotonic() - start < 3
