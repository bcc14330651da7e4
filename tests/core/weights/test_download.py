"""`gair download`: licence, checksum, import and registration, from a server on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import json
import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import gair_core
from gair_core.cli import main
from gair_core.errors import BadInputError, CancelledError, CheckpointError, DownloadError
from gair_core.importers.geoclip import import_geoclip, package_weights
from gair_core.importers.official import import_official
from gair_core.metadata import CheckpointMetadata
from gair_core.model import GAIR
from gair_core.progress import Progress
from gair_core.task import Registered
from gair_core.weights import cache, task, transfer
from gair_core.weights.sources import find_source
from gair_core.weights.task import DownloadRequest, download
from tests.core.importers.test_official import weights as official_weights
from tests.core.test_checkpoint import partial
from tests.core.weights.serving import Site, serve
from tests.core.weights.test_transfer import Log

TASKS = {"download": Registered("gair_core.weights.task", "fetch weights")}
MEMBER = "geoclip/model/weights/location_encoder_weights.pth"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def location_weights() -> bytes:
    """GeoCLIP's location encoder with few frequencies and narrow layers."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index in range(3):
        capsule = f"LocEnc{index}.capsule"
        shapes = {f"{capsule}.0.b": (4, 2), f"LocEnc{index}.head.0.weight": (5, 6)}
        shapes |= {f"{capsule}.{n}.weight": (6, 8 if n == 1 else 6) for n in (1, 3, 5)}
        shapes |= {f"{capsule}.{n}.bias": (6,) for n in (1, 3, 5)} | {f"LocEnc{index}.head.0.bias": (5,)}
        tensors |= {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def wheel() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("geoclip/__init__.py", "raise SystemExit")
        archive.writestr(MEMBER, location_weights())
    return file.getvalue()


@pytest.fixture
def wheel_site():
    with serve(Site(wheel())) as site:
        yield site


def stand_in(monkeypatch, site, name="geoclip", **changes):
    """Let the source ``name`` be what ``site`` serves."""
    source = dataclasses.replace(find_source(name), address=site.address, **changes)
    monkeypatch.setattr(task, "find_source", lambda _: source)
    monkeypatch.setattr(cache, "Patience", lambda: transfer.Patience(attempts=2, pause=0.01, read=3))
    return source


@pytest.fixture
def pinned(monkeypatch, wheel_site):
    content = wheel_site.content
    return stand_in(
        monkeypatch,
        wheel_site,
        size=len(content),
        sha256=sha256(content),
        member_sha256=sha256(location_weights()),
    )


@pytest.fixture
def unknown(monkeypatch, wheel_site):
    """A source like the authors' GAIR: neither size nor checksum is known."""
    return stand_in(
        monkeypatch, wheel_site, size=1, size_is_exact=False, sha256="", member=MEMBER, member_sha256=""
    )


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def run(progress=None, **values):
    request = DownloadRequest.parse({"name": "geoclip", "accept_licence": True, **values})
    return download(request, progress or Progress())


def files(folder):
    """Return what lies there, apart from the empty files that locks are made of."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(str(path.relative_to(folder)) for path in found)


def assert_is_the_import(model: GAIR, tmp_path):
    (tmp_path / "direct.pth").write_bytes(location_weights())
    wanted, _ = import_geoclip(tmp_path / "direct.pth")
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_two_steps_download_and_use(pinned, wheel_site, tmp_path):
    log = Log()
    result = run(log)
    assert (result.name, result.authority, result.sha256) == ("geoclip", "this package", pinned.sha256)
    model = gair_core.load("geoclip")
    assert_is_the_import(model, tmp_path)
    assert model.checkpoint.provenance.source == f"{pinned.address}, SHA-256 {pinned.sha256}"
    assert model.checkpoint.provenance.licence == "MIT"
    assert "use it: --model geoclip" in result.text()
    assert "licence: MIT" in log.messages[0]
    fractions = [fraction for fraction, _ in log.reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert files(tmp_path / "user") == ["models/geoclip.safetensors"]


def test_the_second_time_nothing_is_fetched(pinned, wheel_site):
    run()
    run()
    assert len(wheel_site.requests) == 1


def test_a_file_in_the_cache_that_was_damaged_is_fetched_again(pinned, wheel_site, tmp_path):
    path = run().file
    path.write_bytes(b"x" + path.read_bytes()[1:])
    result = run()
    assert any("damaged or replaced" in warning for warning in result.warnings)
    assert sha256(path.read_bytes()) == pinned.sha256
    assert len(wheel_site.requests) == 2


def test_a_broken_transfer_goes_on(pinned, wheel_site, tmp_path):
    wheel_site.break_at = len(wheel_site.content) * 2 // 5
    run()
    assert_is_the_import(gair_core.load("geoclip"), tmp_path)
    assert wheel_site.sent == len(wheel_site.content)


def test_of_two_at_once_one_fetches_and_the_other_waits(pinned, wheel_site, tmp_path, monkeypatch):
    """The first falls silent on the way; the second must touch nothing until that one has ended."""
    monkeypatch.setattr(cache, "Patience", transfer.Patience)
    wheel_site.silent_at = 3000
    first, second = Log(), Log()
    with ThreadPoolExecutor(2) as pool:
        fetching = pool.submit(run, first, output=str(tmp_path / "first.safetensors"))
        wait_until(lambda: any(message.startswith("3.0 kB of") for _, message in first.reports))
        waiting = pool.submit(run, second, output=str(tmp_path / "second.safetensors"))
        wait_until(lambda: any("waiting for it" in message for message in second.messages))
        assert len(wheel_site.requests) == 1
        wheel_site.silent_at = None
        first.cancel()
        with pytest.raises(CancelledError):
            fetching.result(10)
        assert waiting.result(10).sha256 == pinned.sha256
    assert [headers.get("Range") for _, headers in wheel_site.requests] == [None, "bytes=3000-"]
    assert_is_the_import(gair_core.load(tmp_path / "second.safetensors"), tmp_path)


def test_who_has_waited_takes_what_the_other_one_fetched(pinned, wheel_site):
    path = run().file
    content = path.read_bytes()
    path.unlink()
    log = Log()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(path.with_name(f"{path.name}.lock")):
            waiting = pool.submit(run, log)
            wait_until(lambda: any("waiting for it" in message for message in log.messages))
            path.write_bytes(content)
        assert waiting.result(10).sha256 == pinned.sha256
    assert len(wheel_site.requests) == 1


def test_a_cache_that_cannot_be_written(pinned, wheel_site, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(BadInputError, match="cannot be written") as caught:
        run()
    assert "GAIR_CACHE" in caught.value.hint
    assert wheel_site.requests == []


def test_nothing_happens_without_the_licence(pinned, wheel_site, tmp_path, capsys):
    assert main(["download", "geoclip"], TASKS) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "licence: MIT" in err
    assert "was not accepted" in err
    assert "--accept-licence" in err
    assert wheel_site.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_and_where(pinned, wheel_site, tmp_path, capsys):
    assert main(["download", "geoclip", "--dry-run"], TASKS) == 0
    out = capsys.readouterr().out
    for text in (pinned.address, pinned.sha256, "MIT", str(tmp_path / "cache"), str(tmp_path / "user")):
        assert text in out
    assert wheel_site.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_checksum_is_never_imported(monkeypatch, wheel_site, tmp_path):
    stand_in(monkeypatch, wheel_site, size=len(wheel_site.content), sha256="0" * 64)
    with pytest.raises(DownloadError, match=r"wanted 0{64}") as caught:
        run()
    assert sha256(wheel_site.content) in caught.value.message
    assert "--file PATH" in caught.value.hint
    assert files(tmp_path) == []


def test_a_checksum_that_the_server_publishes_is_compared_and_kept(unknown, wheel_site, tmp_path):
    digest = sha256(wheel_site.content)
    wheel_site.headers = {"X-Linked-ETag": f'"{digest}"', "X-Repo-Commit": "c0ffee"}
    result = run()
    assert (result.authority, result.sha256) == ("the server", digest)
    assert result.warnings == ()
    assert gair_core.load("geoclip").checkpoint.provenance.source.startswith(f"{unknown.address} at c0ffee")
    record = result.file.with_name(f"{result.file.name}.sha256").read_text()
    assert "# revision c0ffee\n" in record
    assert f"{digest}  {result.file.name}\n" in record
    again = run()
    assert again.authority == "the first download"
    assert len(wheel_site.requests) == 1
    assert gair_core.load("geoclip").checkpoint.provenance.source.startswith(f"{unknown.address} at c0ffee")


def test_a_damaged_transfer_is_found_by_the_published_checksum(unknown, wheel_site, tmp_path):
    wheel_site.headers = {"X-Linked-ETag": '"' + "1" * 64 + '"'}
    with pytest.raises(DownloadError, match=r"wanted 1{64} \(says the server\)"):
        run()
    assert files(tmp_path) == []


def test_other_weights_at_the_same_address_are_refused_until_they_are_trusted(unknown, wheel_site):
    result = run()
    assert any("publishes no checksum" in warning for warning in result.warnings)
    result.file.unlink()
    wheel_site.content, wheel_site.etag = wheel_site.content + b"more", '"two"'
    new = sha256(wheel_site.content)
    with pytest.raises(DownloadError, match="says the first download") as caught:
        run()
    assert f"--sha256 {new}" in caught.value.hint
    assert run(sha256=new).authority == "you"


def test_a_given_checksum_is_for_what_has_none(pinned, unknown, wheel_site, monkeypatch):
    with pytest.raises(DownloadError, match=r"wanted 2{64} \(says you\)"):
        run(sha256="2" * 64)
    # As PowerShell's Get-FileHash prints it.
    assert run(sha256=sha256(wheel_site.content).upper()).authority == "you"
    monkeypatch.setattr(task, "find_source", lambda _: pinned)
    with pytest.raises(BadInputError, match="fixed in this package"):
        run(sha256="2" * 64)
    assert run(sha256=pinned.sha256).authority == "this package"
    assert main(["download", "geoclip", "--sha256", "abc"], TASKS) == 2


def test_offline_from_the_archive_or_the_weights_within(pinned, wheel_site, tmp_path):
    archive, inner, wrong = tmp_path / "a.whl", tmp_path / "b.pth", tmp_path / "c.pth"
    archive.write_bytes(wheel_site.content)
    inner.write_bytes(location_weights())
    wrong.write_bytes(location_weights()[:-1])
    for path in (archive, inner):
        output = tmp_path / f"{path.stem}.safetensors"
        result = run(file=str(path), output=str(output))
        assert result.name == ""
        assert_is_the_import(gair_core.load(output), tmp_path)
    with pytest.raises(BadInputError, match="wanted") as caught:
        run(file=str(wrong))
    assert sha256(wrong.read_bytes()) in caught.value.message
    with pytest.raises(BadInputError, match="There is no file"):
        run(file=str(tmp_path / "nowhere"))
    assert wheel_site.requests == []
    assert not (tmp_path / "user/models/geoclip.safetensors").exists()


def test_a_file_that_the_system_does_not_give(pinned):
    path = Path("/proc/self/mem")
    if not path.is_file():
        pytest.skip("needs a file that cannot be read even by root")
    with pytest.raises(BadInputError, match="mem cannot be read"):
        run(file=str(path))


def test_offline_without_a_checksum_says_so(unknown, wheel_site, tmp_path):
    path = tmp_path / "a.whl"
    path.write_bytes(wheel_site.content)
    result = run(file=str(path))
    assert any("Nothing is known to compare" in warning for warning in result.warnings)
    assert "compared with nothing" in result.text()
    assert run(file=str(path), sha256=sha256(wheel_site.content)).authority == "you"


def test_what_is_no_checkpoint_is_not_registered(monkeypatch, site, tmp_path):
    stand_in(monkeypatch, site, member="", size_is_exact=False, sha256="", size=1)
    with pytest.raises(CheckpointError) as caught:
        run()
    assert not (tmp_path / "user/models/geoclip.safetensors").exists()
    # Else every further run would take it from the cache, or refuse whatever is not like it.
    assert f"Remove the folder {tmp_path / 'cache/weights/geoclip'}" in caught.value.hint


def test_a_model_of_the_user_is_not_replaced(pinned, wheel_site, tmp_path):
    mine = tmp_path / "user/models/geoclip.safetensors"
    mine.parent.mkdir(parents=True)
    gair_core.save(GAIR(partial("location")), mine, metadata=CheckpointMetadata(title="mine"))
    before = mine.read_bytes()
    with pytest.raises(BadInputError, match="another model of yours"):
        run()
    assert mine.read_bytes() == before


def test_outputs_that_cannot_be_are_refused_before_the_transfer(pinned, wheel_site, tmp_path):
    (tmp_path / "wheel.safetensors").write_bytes(wheel_site.content)
    for options, message in (
        ({"output": "absent/out.safetensors"}, "does not exist"),
        ({"output": "out.pth"}, r"must end in \.safetensors"),
        ({"output": "wheel.safetensors", "file": str(tmp_path / "wheel.safetensors")}, "is the input"),
    ):
        for dry_run in (True, False):
            with pytest.raises(BadInputError, match=message):
                run(**{**options, "output": str(tmp_path / options["output"])}, dry_run=dry_run)
    assert (tmp_path / "wheel.safetensors").read_bytes() == wheel_site.content
    assert wheel_site.requests == []


def test_a_models_folder_that_cannot_be_made(pinned, wheel_site, tmp_path):
    (tmp_path / "user").touch()
    with pytest.raises(BadInputError, match=r"models folder .* cannot be made") as caught:
        run()
    assert "--output" in caught.value.hint
    assert wheel_site.requests == []


def test_a_model_that_hides_the_new_one_is_named(pinned, tmp_path, monkeypatch):
    first = tmp_path / "first/geoclip.safetensors"
    first.parent.mkdir()
    gair_core.save(GAIR(partial("location")), first)
    monkeypatch.setenv("GAIR_MODELS", str(first.parent))
    assert any(f"{first} comes before" in warning for warning in run().warnings)


def test_no_room_for_the_model(pinned, wheel_site, monkeypatch):
    monkeypatch.setattr(transfer, "free_bytes", lambda _: 1000)
    with pytest.raises(BadInputError, match=r"has 1.0 kB left, wanted 64"):
        run()
    assert wheel_site.requests == []


def test_a_cancel_keeps_the_part_and_says_so(pinned, wheel_site, monkeypatch, capsys):
    class Stopped(Progress):
        def report(self, *_):
            self.cancel()

    wheel_site.silent_at = 3000
    with pytest.raises(CancelledError, match="what has arrived is kept"):
        run(Stopped())
    part = cache.cached_path(pinned).with_name(f"{pinned.file_name}.part")
    assert part.stat().st_size == 3000

    def cancelled(*_):
        raise CancelledError("cancelled; what has arrived is kept")

    monkeypatch.setattr(task, "obtain", cancelled)
    assert main(["download", "geoclip", "--accept-licence"], TASKS) == 130
    assert "what has arrived is kept" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gair", "geoclip", "croma"])
def test_the_list_of_sources(name):
    source = find_source(name)
    assert source.address.startswith("https://")
    assert re.fullmatch(r"[0-9a-f]{64}|", source.sha256)
    assert bool(source.sha256) == source.size_is_exact
    assert bool(source.member) == bool(source.member_sha256)
    assert re.search(r"\.(pth|pt|whl)$", source.file_name)
    assert source.licence in source.notice()
    assert source.size > 30e6
    if "huggingface" in source.address and source.sha256:
        assert re.search(r"/resolve/[0-9a-f]{40}/", source.address), "a checksum without a fixed revision"


@pytest.mark.skipif(
    importlib.util.find_spec("geoclip") is None, reason="the optional package geoclip is not installed"
)
def test_the_checksum_of_geoclip_is_that_of_the_package():
    assert sha256(package_weights().read_bytes()) == find_source("geoclip").member_sha256


@pytest.mark.slow
def test_the_authors_checkpoint_from_end_to_end(shared, tmp_path, monkeypatch, capsys):
    """Named and shaped as the real one, with values that anybody can draw; broken off on the way."""
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": official_weights(shared), "epoch": 3}, path)
    content = path.read_bytes()
    least = find_source("gair").size
    assert least <= len(content) < 1.01 * least
    with serve(Site(content, break_at=len(content) * 2 // 5)) as site:
        site.headers = {"X-Linked-ETag": f'"{sha256(content)}"'}
        stand_in(monkeypatch, site, "gair")
        assert main(["download", "gair", "--accept-licence", "--json"], TASKS) == 0
        assert site.sent == len(content)
    result = json.loads(capsys.readouterr().out)
    assert result["imported"]["parts"] == ["remote_sensing", "nili", "street_view", "location"]
    model, wanted = gair_core.load("gair"), import_official(path)[0]
    assert model.config == wanted.config
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert "CC BY-NC" in model.checkpoint.provenance.licence
