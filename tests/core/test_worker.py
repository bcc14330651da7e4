"""The worker, fed and read as a program would."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gair_core.version import __version__

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from gair_core.task import Registered
from gair_core.worker import main
main({{"toy": Registered("tests.core.toy_task", "a toy")}})
"""


class Client:
    """A worker process with its lines."""

    def __init__(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.noise: list[bytes] = []
        self._drain = threading.Thread(target=self._read_noise, daemon=True)
        self._drain.start()
        self.ready = self.read()

    def _read_noise(self) -> None:
        self.noise.extend(self.process.stderr)

    def read(self) -> dict:
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), b"".join(self.noise).decode()
        assert line.isascii()
        return json.loads(line)

    def write(self, message: object) -> None:
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def ask(self, identifier: int, action: str, **values: object) -> None:
        self.write({"id": identifier, "task": "toy", "request": {"action": action, **values}})

    def last(self, identifier: int) -> dict:
        """Read until the request's last line."""
        while True:
            message = self.read()
            if message["id"] == identifier and ("result" in message or "error" in message):
                return message

    def end(self, seconds: float = 10) -> int:
        self.process.stdin.close()
        code = self.process.wait(seconds)
        self._drain.join(5)
        return code


@pytest.fixture
def client() -> Iterator[Client]:
    root = str(Path(__file__).parents[2])
    client = Client(["-X", "utf8", "-u", "-c", SCRIPT.format(root=root)])
    yield client
    client.process.kill()
    client.process.wait()


def test_it_greets_answers_and_leaves(client):
    assert client.ready["ready"] is True
    assert client.ready["gair_core"] == __version__
    assert client.ready["protocol"] == 1
    assert client.ready["devices"][-1] == "cpu"
    for identifier in (1, 2):
        client.ask(identifier, "answer", value=3.5)
        result = client.last(identifier)["result"]
        assert result["answer"] == 3.5
        assert result["text_with_letters"] == "Straße 東京"
    client.ask(3, "nan")
    assert client.last(3)["result"]["answer"] is None
    assert client.end() == 0


def test_no_print_reaches_the_protocol(client):
    client.ask(1, "shout")
    assert "result" in client.last(1)
    assert client.end() == 0
    noise = b"".join(client.noise)
    assert all(words in noise for words in (b"python noise", b"C noise", b"print noise"))


@pytest.mark.parametrize(
    ("action", "kind", "words"),
    [
        ("refuse", "bad_input", "The value is odd."),
        ("exhaust", "out_of_memory", "out of memory"),
        ("break", "internal", "KeyError"),
    ],
)
def test_errors_have_a_kind_and_do_not_end_the_worker(client, action, kind, words):
    client.ask(1, action)
    error = client.last(1)["error"]
    assert error["kind"] == kind
    assert words in error["message"]
    assert error["hint"]
    client.ask(2, "answer")
    assert "result" in client.last(2)


def test_bad_lines_are_refused_one_by_one(client):
    for line, words in [
        (b"{broken", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "JSON object"),
        (b'{"task": "toy", "request": {}}', "id must be"),
        (b'{"id": 1, "request": {}}', "expected id, task and request"),
        (b'{"id": 1, "task": "toy", "request": 5}', "request an object"),
    ]:
        client.write(line)
        error = client.read()["error"]
        assert error["kind"] == "protocol"
        assert words in error["message"]
    client.write({"id": 4, "task": "paint", "request": {}})
    answer = client.last(4)["error"]
    assert answer["kind"] == "unknown_task"
    assert "toy" in answer["hint"]
    client.ask(5, "answer", valeu=1)
    assert "valeu" in client.last(5)["error"]["message"]
    client.ask(6, "answer", value=-1)
    assert "value: Input should be greater than 0 (found -1)" in client.last(6)["error"]["message"]


def test_one_request_at_a_time_and_cancel(client):
    client.ask(1, "wait")
    assert 0 <= client.read()["progress"] < 1
    client.ask(2, "answer")
    assert client.last(2)["error"]["kind"] == "busy"
    client.write({"id": 7, "cancel": True})  # nobody's request: ignored
    start = time.monotonic()
    client.write({"id": 1, "cancel": True})
    assert client.last(1)["error"]["kind"] == "cancelled"
    assert time.monotonic() - start < 2
    client.ask(3, "answer")
    assert "result" in client.last(3)


def test_warnings_are_lines_of_the_log(client):
    client.ask(1, "warn")
    assert client.read() == {"id": 1, "log": {"level": "warning", "message": "mind the gap"}}


@pytest.mark.parametrize("action", ["wait", "stubborn"])
def test_the_end_of_its_input_ends_the_worker_within_two_seconds(client, action):
    client.ask(1, action)
    client.read()
    start = time.monotonic()
    client.end()
    assert time.monotonic() - start < 2.5


def test_a_reader_that_goes_away_cancels(client):
    client.ask(1, "wait")
    client.read()
    client.process.stdout.close()
    client.process.wait(10)


def test_a_killed_worker_leaves_its_last_words_and_no_result(client):
    client.ask(1, "shout")
    client.last(1)
    client.ask(2, "stubborn")
    client.read()
    client.process.send_signal(signal.SIGKILL)
    assert client.process.wait(10) == -signal.SIGKILL
    assert client.process.stdout.read() == b""
    assert b"C noise" in b"".join(client.noise)


def test_the_real_worker_as_the_plugin_starts_it(tmp_path):
    environment = Client(["-I", "-X", "utf8", "-u", "-m", "gair_core.worker"])
    environment.write({"id": 1, "task": "models", "request": {}})
    assert "demo" in json.dumps(environment.last(1)["result"])
    scene = str(tmp_path / "absent.tif")
    environment.write(
        {"id": 2, "task": "embed", "request": {"scene": scene, "output": str(tmp_path / "out.tif")}}
    )
    error = environment.last(2)["error"]
    assert error["kind"] == "bad_input"
    assert "absent.tif" in error["message"]
    assert environment.end() == 0
    assert not list(tmp_path.iterdir())
