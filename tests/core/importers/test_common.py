"""Foreign files: what is read, what is refused and what the report says."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from gair_core.errors import CheckpointError
from gair_core.importers.common import ImportReport, TensorMapping, read_foreign, state_dict


class Malicious:
    """Creates a file where it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, new_format):
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    torch.save(
        {"model": {"a": torch.zeros(3)}, "x": Malicious(proof)},
        path,
        _use_new_zipfile_serialization=new_format,
    )
    with pytest.raises(CheckpointError, match=r"would run code .*refused.*posix\.mkdir|nt\.mkdir"):
        read_foreign(path)
    assert not proof.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_that_runs_code_is_refused(tmp_path):
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Malicious(proof)))
    with pytest.raises(CheckpointError, match="was refused"):
        read_foreign(path)
    assert not proof.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=r"refused.*state_dict alone"):
        read_foreign(tmp_path / "module.pth")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_training_checkpoint_is_unwrapped(tmp_path, new_format):
    weights = OrderedDict({"module.a": torch.ones(3), "module.b.c": torch.zeros(2, 2)})
    stored = {
        "model": weights,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        "args": argparse.Namespace(lr=1e-4),
        "epoch": 3,
    }
    path = tmp_path / "training.pth"
    torch.save(stored, path, _use_new_zipfile_serialization=new_format)
    tensors, others = state_dict(read_foreign(path), path)
    assert set(tensors) == {"a", "b.c"}
    assert torch.equal(tensors["a"], torch.ones(3))
    assert others == {"optimizer": "2 entries", "args": "Namespace", "epoch": "int"}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {f"_orig_mod.module.{k}": v for k, v in w.items()},
    ],
)
def test_every_wrapping_gives_the_same_names(wrap, tmp_path):
    tensors, _ = state_dict(wrap({"a.weight": torch.ones(1), "module_b": torch.ones(1)}), tmp_path)
    assert set(tensors) == {"a.weight", "module_b"}


def test_one_of_several_models_is_found_by_key(tmp_path):
    loaded = {"first": {"a": torch.ones(1)}, "second": {"module.b": torch.ones(1)}}
    assert set(state_dict(loaded, tmp_path, "second")[0]) == {"b"}
    assert set(state_dict({"model": loaded}, tmp_path, "first")[0]) == {"a"}
    with pytest.raises(CheckpointError, match="entry 'third', found: first, second"):
        state_dict(loaded, tmp_path, "third")


@pytest.mark.parametrize("loaded", [{}, {"epoch": 3}, [1, 2], torch.zeros(3), {"model": {"epoch": 3}}])
def test_a_file_without_tensors_is_refused(loaded, tmp_path):
    with pytest.raises(CheckpointError, match="should hold tensors by name"):
        state_dict(loaded, tmp_path)


def test_names_that_collide_once_unwrapped_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"twice.*: a"):
        state_dict({"a": torch.ones(1), "module.a": torch.zeros(1)}, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, incomplete, no PyTorch checkpoint"),
        (b"hello world", "damaged, incomplete, no PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "web page"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_foreign(tmp_path / "x.pth")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path, share):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="damaged, incomplete"):
        read_foreign(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file .*x\.pth"):
        read_foreign(tmp_path / "x.pth")


def test_safetensors_are_read_too(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    assert torch.equal(read_foreign(tmp_path / "x.safetensors")["a"], torch.ones(2))
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="no readable safetensors"):
        read_foreign(tmp_path / "x.safetensors")


@pytest.fixture
def mapping() -> TensorMapping:
    tensors = {
        "q": torch.ones(2, 3),
        "k": torch.full((2, 3), 2.0),
        "half": torch.ones(4, dtype=torch.float16),
        "teacher.a": torch.zeros(1),
        "stray": torch.zeros(2),
    }
    return TensorMapping(tensors, {"optimizer": "2 entries"})


def test_tensors_are_combined_renamed_and_made_float32(mapping, tmp_path):
    mapping.add("qk", "q", "k", combine=lambda q, k: torch.cat([q, k]))
    mapping.add("turned", "q", combine=torch.t)
    mapping.add("half", "half")
    made = mapping.collect({"qk": (4, 3), "turned": (3, 2), "half": (4,)}, tmp_path)
    assert torch.equal(made["qk"], torch.tensor([[1.0] * 3] * 2 + [[2.0] * 3] * 2))
    assert made["turned"].is_contiguous()
    assert made["half"].dtype == torch.float32


def test_the_report_accounts_for_every_entry(mapping):
    mapping.add("x", "q")
    mapping.add("y", "q", "half", combine=lambda q, _: q)
    mapping.ignore("teacher", "a teacher network")
    report = mapping.report("official", "file.pth", ["a note"])
    assert {record.name: record.target for record in report.of("used")} == {"q": "x, y", "half": "y"}
    assert report.ignored == {
        "a teacher network": ["teacher.a"],
        "unknown to this importer": ["k", "stray"],
        "not weights of the model (2 entries)": ["optimizer"],
    }
    text = report.text()
    assert "file.pth: 2 tensors used, 4 entries ignored" in text
    assert "- a note" in text
    assert "ignored, unknown to this importer: k, stray" in text
    assert ImportReport.model_validate(json.loads(report.model_dump_json())) == report


def test_every_problem_is_listed_at_once(mapping, tmp_path):
    mapping.add("a", "absent")
    mapping.add("b", "q")
    mapping.add("c", "q", "half", combine=lambda *values: torch.cat(values))
    mapping.add("surplus", "k")
    with pytest.raises(CheckpointError) as caught:
        mapping.collect({"a": (1,), "b": (5, 5), "c": (1,), "d": (1,)}, tmp_path / "f.pth")
    text = str(caught.value)
    assert "missing absent" in text
    assert "q of shape [(2, 3)], wanted [5, 5] for b" in text
    assert "q, half" in text
    assert "missing a source of d" in text
    assert "surplus has no place in this configuration" in text


def test_sizes_are_read_from_tensors(mapping):
    assert mapping.shape("q") == (2, 3)
    with pytest.raises(CheckpointError, match="lacks the tensor nothing"):
        mapping.shape("nothing")
    series = TensorMapping({f"layers.{index}.w": torch.zeros(1) for index in (0, 1, 2, 4)})
    assert series.count("layers.{}.w") == 3
