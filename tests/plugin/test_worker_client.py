"""Tests of the worker's client and process: the real worker, and stand-ins that misbehave."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gair import environment, worker_client, worker_process
from gair.worker_client import WorkerClient, WorkerError
from gair.worker_process import Launch

from .conftest import STAGE

TOKEN = "7f3a7f3a"
GREETING = '{"ready": true, "gair_core": "0.1.0", "protocol": 1, "torch": "2", "devices": ["cpu"]}'


def launch_of(python: Path | str, version: str = "0.1.0") -> Launch:
    variables = environment.worker_environment(os.environ, sys.platform, "")
    return Launch(environment.Interpreter(str(python), "the test"), variables, version)


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def client(gair_python: Path) -> Iterator[WorkerClient]:
    """A client of the real worker, which takes seconds to start: tests share it, and some of them end it."""
    client = WorkerClient(lambda: launch_of(gair_python))
    yield client
    client.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene that keeps the encoder busy for long enough to interrupt it."""
    from osgeo import gdal, osr

    path = tmp_path_factory.mktemp("scene") / "scene ä.tif"
    dataset = gdal.GetDriverByName("GTiff").Create(
        str(path), 3000, 3000, 10, gdal.GDT_UInt16, ["SPARSE_OK=YES"]
    )
    dataset.SetGeoTransform((500_000, 10, 0, 5_500_000, 0, -10))
    crs = osr.SpatialReference()
    crs.ImportFromEPSG(32632)
    dataset.SetProjection(crs.ExportToWkt())
    for number, name in enumerate(("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"), 1):
        dataset.GetRasterBand(number).SetDescription(name)
        dataset.GetRasterBand(number).Fill(1000 + number)
    return path


def embed_request(scene: Path, output: Path) -> dict[str, object]:
    return {"scene": str(scene), "output": str(output), "offset": 0.0, "token": TOKEN}


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], Path]:
    """Makes an interpreter that runs a program of the test's, whatever it is asked to run."""

    def make(program: str) -> Path:
        script = tmp_path / "program.py"
        script.write_text("import json, os, signal, sys, time\n" + textwrap.dedent(program))
        python = tmp_path / "bin" / "python"
        python.parent.mkdir(exist_ok=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -u "{script}"\n')
        python.chmod(0o755)
        return python

    return make


@contextlib.contextmanager
def client_of(python: Path) -> Iterator[WorkerClient]:
    client = WorkerClient(lambda: launch_of(python))
    try:
        yield client
    finally:
        client.close()


# The real worker.


def test_one_worker_serves_all_requests(client: WorkerClient) -> None:
    assert client.greeting is None
    first = client.run("models", {})
    process = client.process_id
    assert first["models"][0]["name"] == "demo"
    assert client.greeting["protocol"] == 1
    start = time.monotonic()
    assert client.run("models", {}) == first
    assert time.monotonic() - start < 0.5
    assert client.process_id == process


def test_progress_arrives_on_the_calling_thread(client: WorkerClient) -> None:
    threads, fractions = set(), []

    def report(fraction: float, message: str) -> None:
        threads.add(threading.current_thread())
        fractions.append(fraction)

    assert client.run("check", {"device": "cpu"}, report=report)["ok"]
    assert threads == {threading.current_thread()}
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_errors_keep_kind_message_and_hint_and_the_worker(client: WorkerClient, tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        client.run("embed", embed_request(tmp_path / "none.tif", tmp_path / "out.tif"))
    assert caught.value.kind == "bad_input"
    assert "none.tif" in caught.value.message
    process = client.process_id
    with pytest.raises(WorkerError, match="no task 'nonsense'") as caught:
        client.run("nonsense", {})
    assert caught.value.kind == "unknown_task"
    assert client.process_id == process


def test_two_callers_at_once_take_turns(client: WorkerClient) -> None:
    results = []

    def call() -> None:
        results.append(client.run("check", {"device": "cpu"})["ok"])

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True, True]


def test_a_worker_killed_in_mid_run_is_an_error_with_its_last_words(
    client: WorkerClient, scene: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out ä.tif"
    killed: list[int] = []

    def kill(fraction: float, message: str) -> None:
        if 0 < fraction < 1 and not killed:
            killed.append(client.process_id)
            os.kill(client.process_id, signal.SIGKILL)

    with pytest.raises(WorkerError, match=r"signal 9\)\. Its last words") as caught:
        client.run("embed", embed_request(scene, output), report=kill)
    assert killed
    assert caught.value.kind == "died"
    assert "memory" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    assert client.run("models", {})["models"]
    assert client.process_id != killed[0]


def test_cancel_in_mid_run_leaves_no_file_and_the_worker(
    client: WorkerClient, scene: Path, tmp_path: Path
) -> None:
    seen: list[float] = []
    with pytest.raises(WorkerError) as caught:
        client.run(
            "embed",
            embed_request(scene, tmp_path / "out.tif"),
            report=lambda fraction, _: seen.append(fraction),
            cancelled=lambda: any(0 < fraction < 1 for fraction in seen),
        )
    assert caught.value.kind == "cancelled"
    assert list(tmp_path.iterdir()) == []
    process = client.process_id
    assert client.run("models", {})["models"]
    assert client.process_id == process


def test_a_callback_that_fails_cancels_the_task(client: WorkerClient, scene: Path, tmp_path: Path) -> None:
    def fail(fraction: float, message: str) -> None:
        raise RuntimeError("the dialog is gone")

    with pytest.raises(RuntimeError, match="the dialog is gone"):
        client.run("embed", embed_request(scene, tmp_path / "out.tif"), report=fail)
    assert list(tmp_path.iterdir()) == []
    assert client.run("models", {})["models"]


def test_a_worker_that_died_while_idle_is_replaced(client: WorkerClient) -> None:
    client.run("models", {})
    os.kill(client.process_id, signal.SIGKILL)
    wait_until(lambda: client.process_id is None)
    assert client.run("models", {})["models"]


def test_closing_during_a_run_ends_both(gair_python: Path, scene: Path, tmp_path: Path) -> None:
    client = WorkerClient(lambda: launch_of(gair_python))
    errors: list[WorkerError] = []
    running = threading.Event()

    def call() -> None:
        try:
            client.run(
                "embed",
                embed_request(scene, tmp_path / "out.tif"),
                report=lambda *_: running.set(),
            )
        except WorkerError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert running.wait(60)
    process = client.process_id
    client.close()
    thread.join(10)
    assert [error.kind for error in errors] == ["cancelled"]
    assert not is_alive(process)
    assert list(tmp_path.iterdir()) == []
    assert client.greeting is None
    with pytest.raises(WorkerError, match="switched off"):
        client.run("models", {})


def test_the_worker_ends_when_its_owner_is_killed(gair_python: Path) -> None:
    program = f"""
        import os, sys, time
        sys.path.insert(0, {str(STAGE)!r})
        from gair import environment
        from gair.worker_client import WorkerClient
        from gair.worker_process import Launch
        launch = Launch(environment.Interpreter({str(gair_python)!r}, "test"), dict(os.environ), "0.1.0")
        client = WorkerClient(lambda: launch)
        client.run("models", {{}})
        print(client.process_id, flush=True)
        time.sleep(600)
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    worker = int(owner.stdout.readline())
    assert is_alive(worker)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not is_alive(worker), 30)


# What may be wrong with an interpreter.


def refused(client: WorkerClient) -> WorkerError:
    start = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        client.run("models", {})
    assert time.monotonic() - start < 10
    assert client.process_id is None
    return caught.value


def test_without_an_interpreter_every_request_fails_at_once_with_advice() -> None:
    error = refused(WorkerClient(lambda: Launch(None, {}, "0.1.0")))
    assert error.kind == "no_environment"
    assert "gair:createenvironment" in error.hint
    assert "GAIR_PYTHON" in error.hint


def test_a_missing_interpreter_is_named_with_its_origin(tmp_path: Path) -> None:
    with client_of(tmp_path / "gone") as client:
        error = refused(client)
    assert error.kind == "no_environment"
    assert error.message == f"the test names the Python {tmp_path / 'gone'}, which does not exist"


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    with client_of(tmp_path / "text") as client:
        error = refused(client)
    assert error.kind == "no_environment"
    assert "Permission denied" in error.message


def test_an_interpreter_without_gair_core() -> None:
    with client_of(Path("/usr/bin/python3")) as client:
        error = refused(client)
    assert error.kind == "no_environment"
    assert error.message == "the Python /usr/bin/python3 has no gair_core"
    assert "gair:createenvironment" in error.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("0.1.0", "0.9.0"), "the environment has gair_core 0.9.0, this plugin needs 0.1.0"),
        (('"protocol": 1', '"protocol": 7'), "protocol 7, this plugin speaks 1"),
    ],
)
def test_another_version_or_protocol(
    stand_in: Callable[[str], Path], change: tuple[str, str], words: str
) -> None:
    python = stand_in(f"print({GREETING.replace(*change)!r}); sys.stdin.read()")
    with client_of(python) as client:
        error = refused(client)
    assert error.kind == "version"
    assert words in error.message
    assert "gair:createenvironment" in error.hint


def test_a_broken_torch_is_told(stand_in: Callable[[str], Path]) -> None:
    with client_of(
        stand_in("""print('{"id": null, "error": {"kind": "internal", "message": "no torch"}}')""")
    ) as client:
        error = refused(client)
    assert (error.kind, error.message) == ("no_environment", "gair_core cannot start: no torch")
    assert "repairs" in error.hint


def test_a_worker_that_ends_before_it_is_ready(stand_in: Callable[[str], Path]) -> None:
    with client_of(stand_in("sys.exit('the disk is full')")) as client:
        error = refused(client)
    assert error.kind == "no_environment"
    assert "ended at once (exit code 1)" in error.message
    assert "the disk is full" in error.message


def test_a_program_that_says_nothing_is_given_up(
    stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "START_SECONDS", 0.5)
    with client_of(stand_in("sys.stdin.read()")) as client:
        error = refused(client)
    assert "said nothing" in error.message


def test_cancel_while_the_worker_starts(stand_in: Callable[[str], Path]) -> None:
    with client_of(stand_in("sys.stdin.read()")) as client, pytest.raises(WorkerError) as caught:
        client.run("models", {}, cancelled=lambda: True)
    assert caught.value.kind == "cancelled"


# What may be wrong with a worker.

ANSWER = f"""
    print({GREETING!r})
    def answer(**values):
        print(json.dumps({{"id": request["id"], **values}}))
    request = json.loads(sys.stdin.readline())
"""


def test_lines_of_any_length_noise_and_foreign_answers(stand_in: Callable[[str], Path]) -> None:
    python = stand_in(
        ANSWER
        + """
    sys.stderr.write("x" * 1_000_000)
    print("a library prints to the wrong place")
    print('{"id": 99, "result": {"of": "another request"}}')
    answer(log={"level": "warning", "message": "ä" * 100_000})
    answer(progress=0.5, message="half")
    answer(result={"request": request, "long": "b" * 5_000_000})
    sys.stdin.read()
    """
    )
    logs, reports = [], []
    with client_of(python) as client:
        result = client.run(
            "embed",
            {"output": "o", "text": "c" * 300_000},
            log=lambda level, message: logs.append((level, message)),
            report=lambda fraction, message: reports.append((fraction, message)),
        )
    assert result["long"] == "b" * 5_000_000
    assert result["request"]["task"] == "embed"
    assert result["request"]["request"]["text"] == "c" * 300_000
    assert result["request"]["request"]["token"].isalnum()
    assert logs == [("warning", "ä" * 100_000)]
    assert reports == [(0.5, "half")]


def test_tasks_that_write_nothing_get_no_token(stand_in: Callable[[str], Path]) -> None:
    with client_of(stand_in(ANSWER + "    answer(result=request)\n    sys.stdin.read()")) as client:
        assert client.run("info", {"model": "demo"})["request"] == {"model": "demo"}


def test_a_worker_that_dies_of_itself_shows_the_end_of_what_it_said(stand_in: Callable[[str], Path]) -> None:
    python = stand_in(ANSWER + "    sys.stderr.write('line\\n' * 50 + 'Killed by a driver\\n'); os._exit(3)")
    with client_of(python) as client, pytest.raises(WorkerError) as caught:
        client.run("models", {})
    assert caught.value.kind == "died"
    assert "(exit code 3)" in caught.value.message
    assert caught.value.message.endswith("line\nKilled by a driver")
    assert caught.value.message.count("\n") == 20


def test_a_worker_that_ignores_everything_is_killed_and_its_files_removed(
    stand_in: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "CANCEL_SECONDS", 0.3)
    monkeypatch.setattr(worker_process, "END_SECONDS", 0.3)
    monkeypatch.setattr(worker_process, "SIGNAL_SECONDS", 0.3)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    others = [outputs / "out.tif.other.part", outputs / "out.tif"]
    for path in [*others, outputs / f"out.tif.{TOKEN}.part", outputs / f"out.tif.{TOKEN}.strips.part"]:
        path.write_text(path.name)
    python = stand_in(
        ANSWER
        + """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answer(progress=0.5, message="")
    while True:
        time.sleep(1)
    """
    )
    seen: list[float] = []
    processes: list[int] = []

    def report(fraction: float, message: str) -> None:
        seen.append(fraction)
        processes.append(client.process_id)

    with client_of(python) as client, pytest.raises(WorkerError) as caught:
        client.run(
            "embed",
            {"output": str(outputs / "out.tif"), "token": TOKEN},
            report=report,
            cancelled=lambda: bool(seen),
        )
    assert caught.value.kind == "cancelled"
    assert not is_alive(processes[0])
    assert sorted(outputs.iterdir()) == sorted(others)


def test_leftovers_are_found_beside_and_inside_outputs_and_old_files_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "photos ä"
    folder.mkdir()
    removed = [
        folder / f"a.tif.{TOKEN}.part",
        tmp_path / f"b.gpkg.{TOKEN}.staged.gpkg",
        tmp_path / f"c.tif.{TOKEN}.old.part",
    ]
    kept = [tmp_path / "b.gpkg", tmp_path / "c.tif", tmp_path / f"{TOKEN}.tif"]
    for path in [*removed, *kept, tmp_path / f"d.tif.{TOKEN}.old.part"]:
        path.write_text(path.name)
    request = {"output": str(folder), "photos_output": str(tmp_path / "b.gpkg"), "token": TOKEN}
    worker_process.remove_leftovers(request)
    restored = tmp_path / "d.tif"
    assert restored.read_text() == f"d.tif.{TOKEN}.old.part"
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([*kept, restored])
    worker_process.remove_leftovers({"output": str(kept[0])})
    assert kept[0].exists()


def test_cancel_while_waiting_for_another_caller(stand_in: Callable[[str], Path]) -> None:
    def call() -> None:
        with pytest.raises(WorkerError):
            client.run("models", {})

    with client_of(stand_in(ANSWER + "    sys.stdin.read()")) as client:
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: client.process_id)
        start = time.monotonic()
        with pytest.raises(WorkerError) as caught:
            client.run("models", {}, cancelled=lambda: time.monotonic() > start + 0.3)
        assert caught.value.kind == "cancelled"
        os.kill(client.process_id, signal.SIGKILL)
        thread.join(10)
        assert not thread.is_alive()


def test_release_ends_the_worker_and_the_next_request_starts_one(stand_in: Callable[[str], Path]) -> None:
    python = stand_in(ANSWER + "    answer(result={'process': os.getpid()})\n    sys.stdin.read()")
    with client_of(python) as client:
        client.release()
        first = client.run("models", {})["process"]
        client.release()
        assert not is_alive(first)
        assert client.run("models", {})["process"] != first


def test_a_callback_may_close_the_client(stand_in: Callable[[str], Path]) -> None:
    python = stand_in(ANSWER + "    answer(progress=0.5, message='')\n    sys.stdin.read()")
    start = time.monotonic()
    client = WorkerClient(lambda: launch_of(python))
    with pytest.raises(WorkerError, match="switched off"):
        client.run("models", {}, report=lambda fraction, message: client.close())
    assert time.monotonic() - start < 10
    assert client.process_id is None


def test_a_callback_cannot_start_another_task(stand_in: Callable[[str], Path]) -> None:
    python = stand_in(
        ANSWER + "    answer(progress=0.5, message='')\n    answer(result={})\n    sys.stdin.read()"
    )
    kinds: list[str] = []

    def report(fraction: float, message: str) -> None:
        with pytest.raises(WorkerError) as caught:
            client.run("models", {})
        kinds.append(caught.value.kind)

    with client_of(python) as client:
        assert client.run("models", {}, report=report) == {}
    assert kinds == ["busy"]


def test_another_interpreter_counts_at_once(stand_in: Callable[[str], Path], tmp_path: Path) -> None:
    python = stand_in(ANSWER + "    answer(result={'python': os.getpid()})\n    sys.stdin.read()")
    other = tmp_path / "other"
    other.write_bytes(python.read_bytes())
    other.chmod(0o755)
    current = [python]
    client = WorkerClient(lambda: launch_of(current[0]))
    first = client.run("models", {})["python"]
    current[0] = other
    second = client.run("models", {})["python"]
    assert first != second
    assert not is_alive(first)
    client.close()
    assert not is_alive(second)


# The session's client.


def test_the_shared_client_is_one_until_it_is_closed() -> None:
    client = worker_client.shared_client()
    assert worker_client.shared_client() is client
    worker_client.close_shared_client()
    worker_client.close_shared_client()
    assert worker_client.shared_client() is not client
    worker_client.close_shared_client()


def test_importing_the_client_imports_neither_asyncio_nor_anything_heavy() -> None:
    program = f"""
        import sys
        sys.path.insert(0, {str(STAGE)!r})
        import gair.worker_client, gair.environment
        print([name for name in ("asyncio", "numpy", "torch", "subprocess") if name in sys.modules])
    """
    command = [sys.executable, "-S", "-c", textwrap.dedent(program)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
