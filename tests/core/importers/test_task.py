"""The command `gair import`: its paths, its options, merging and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

import gair_core
from gair_core.checkpoint import read_entry, stored_tensors
from gair_core.cli import main
from gair_core.errors import BadInputError
from gair_core.importers.task import ImportRequest, import_checkpoint
from gair_core.progress import Progress
from gair_core.task import Registered
from tests.core.importers.test_croma import HEADS, croma_weights, write
from tests.core.test_checkpoint import WIDTH, make, partial

TASKS = {"import": Registered("gair_core.importers.task", "convert foreign weights")}


@pytest.fixture
def croma(tmp_path):
    return write(tmp_path / "croma.pt", croma_weights())


def run(*paths, kind="croma", **options):
    values = {"kind": kind, "paths": [str(path) for path in paths], **options}
    return import_checkpoint(ImportRequest.parse(values), Progress())


def test_croma_on_the_command_line(croma, tmp_path, capsys):
    output, report = tmp_path / "out.safetensors", tmp_path / "report.json"
    words = [
        "import",
        "croma",
        str(croma),
        str(output),
        "--num-heads",
        str(HEADS),
        "--report",
        str(report),
        "--json",
    ]
    assert main(words, TASKS) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["parts"] == ["remote_sensing"]
    assert result["output"] == str(output)
    assert result["tensors_used"] == len(croma_weights())
    model = gair_core.load(output)
    assert model.checkpoint.provenance.importer == "gair import croma"
    assert model.checkpoint.provenance.source == "croma.pt"
    assert model.checkpoint.fingerprint == result["fingerprint"]
    records = json.loads(report.read_text())["records"]
    assert {record["name"] for record in records} == {*croma_weights(), "s1_encoder", "s2_GAP_FFN"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["croma", "only.pt"], "two paths, IN and OUT, found 1"),
        (["geoclip", "a", "b", "c"], "at most 2"),
        (["official", "a", "b", "--num-heads", "3"], "num_heads does not apply to official"),
        (["geoclip", "a", "--no-final-norm"], "final_norm does not apply to geoclip"),
        (["bert", "a", "b"], "bert"),
    ],
)
def test_wrong_usage(words, message, capsys):
    assert main(["import", *words], TASKS) == 2
    assert message in capsys.readouterr().err


def test_title_and_precision(croma, tmp_path):
    output = tmp_path / "out.safetensors"
    result = run(croma, output, num_heads=HEADS, title="mine", precision="float16")
    assert (result.title, read_entry(output)["title"]) == ("mine", "mine")
    assert {tensor.dtype for tensor in stored_tensors(output).values()} == {"F16", "F32"}


def test_into_merges_and_leaves_the_base_alone(tmp_path):
    weights = croma_weights(width=WIDTH)
    base = tmp_path / "base.safetensors"
    gair_core.save(make(), base)
    before = base.read_bytes()
    result = run(write(tmp_path / "c.pt", weights), tmp_path / "out.safetensors", num_heads=2, into=str(base))
    merged = gair_core.load(tmp_path / "out.safetensors")
    assert merged.parts == ("remote_sensing", "nili", "street_view", "location")
    assert merged.config.localizer == "nili"
    assert merged.config.remote_sensing.depth == 2
    assert torch.equal(
        merged.remote_sensing.blocks[1].attn.qkv.weight, weights["transformer.layers.1.0.to_qkv.weight"]
    )
    assert any("NILI was trained with another scene encoder" in warning for warning in result.warnings)
    assert any("remote_sensing replaces the base's" in warning for warning in result.warnings)
    assert base.read_bytes() == before


def test_into_a_model_of_another_dimension_writes_nothing(croma, tmp_path):
    with pytest.raises(BadInputError, match="128 dimensions in the base"):
        run(croma, tmp_path / "out.safetensors", num_heads=HEADS, into="demo")
    assert not (tmp_path / "out.safetensors").exists()


def test_inputs_are_never_overwritten(croma, tmp_path):
    base = tmp_path / "base.safetensors"
    gair_core.save(make(partial("location")), base)
    with pytest.raises(BadInputError, match="is read and would be replaced"):
        run(croma, base, num_heads=HEADS, into=str(base))
    with pytest.raises(BadInputError, match="is read and would be replaced"):
        run(croma, croma, num_heads=HEADS)
    with pytest.raises(BadInputError, match="is read and would be replaced"):
        run(croma, tmp_path / "out.safetensors", num_heads=HEADS, report=str(croma))


def test_a_damaged_file_writes_nothing(tmp_path, capsys):
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    assert main(["import", "croma", str(tmp_path / "bad.pt"), str(tmp_path / "out.safetensors")], TASKS) == 1
    assert "no PyTorch checkpoint" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["bad.pt"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_peak_memory_is_at_most_two_and_a_half_times_the_file(tmp_path):
    path = tmp_path / "croma.pt"
    write(path, croma_weights(width=1024, depth=4, norm=True))
    assert path.stat().st_size > 200e6
    script = textwrap.dedent("""
        import pathlib, re, sys
        import torch
        from gair_core.importers.task import ImportRequest, import_checkpoint
        from gair_core.progress import Progress
        def peak():
            status = pathlib.Path("/proc/self/status").read_text()
            return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024
        before = peak()
        values = {"kind": "croma", "paths": sys.argv[1:], "num_heads": 16}
        import_checkpoint(ImportRequest.parse(values), Progress())
        print(peak() - before)
    """)
    words = [sys.executable, "-c", script, path, tmp_path / "out.safetensors"]
    result = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ})
    assert int(result.stdout) < 2.5 * path.stat().st_size
