"""Checkpoints: round trips, parts, precision, strictness, and every way in which a file can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gair_core
from gair_core.basis import fit_basis
from gair_core.checkpoint import (
    build,
    fingerprint_of,
    merge,
    read_entry,
    read_tensors,
    stored_tensors,
    write_tensors,
)
from gair_core.config import GAIRConfig, LocationConfig, NILIConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.model import GAIR

WIDTH = 32
REQUEST = "7f3a"
SCENES = RemoteSensingConfig(width=WIDTH, depth=1, num_heads=2, tile_size=32)
PHOTOS = StreetViewConfig(width=16, depth=1, num_heads=2, image_size=32, projection=True, pooling="pooler")
PLACES = LocationConfig(num_frequencies=8, hidden_width=16, hidden_layers=1)
CONFIG = GAIRConfig(
    embed_dim=WIDTH, remote_sensing=SCENES, street_view=PHOTOS, location=PLACES, learnable_temperature=True
)
METADATA = CheckpointMetadata(
    title="a small one",
    provenance=Provenance(source="here", licence="MIT", training_data="none", metrics={"top1": 0.25}),
)


def partial(*parts: str, embed_dim: int = WIDTH) -> GAIRConfig:
    wanted = {"remote_sensing": SCENES, "street_view": PHOTOS, "location": PLACES, "nili": NILIConfig()}
    values = {name: value if name in parts else None for name, value in wanted.items()}
    return GAIRConfig(embed_dim=embed_dim, localizer="nili" if "nili" in parts else "bilinear", **values)


def make(config: GAIRConfig = CONFIG, seed: int = 0, components: int = 0) -> GAIR:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GAIR(config)
        if components:
            model.basis = fit_basis(torch.randn(50, config.embed_dim), components)
    return model


@pytest.fixture
def saved(tmp_path) -> Path:
    gair_core.save(make(), tmp_path / "model.safetensors", metadata=METADATA)
    return tmp_path / "model.safetensors"


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **entry: object) -> None:
    """Write the file again with other tensors or another description, as a faulty program would."""
    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()["gair"])
    stored = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(stored if tensors is None else tensors, path, {"gair": json.dumps({**description, **entry})})


def equal(first: GAIR, second: GAIR) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_round_trip_keeps_everything(tmp_path):
    model = make(components=4)
    model.log_temperature.data.fill_(-1.5)
    written = gair_core.save(model, tmp_path / "model.safetensors", metadata=METADATA)
    loaded = gair_core.load(str(tmp_path / "model.safetensors"))
    assert equal(model, loaded)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert loaded.checkpoint == written
    assert (written.title, written.name, written.provenance.metrics) == (
        "a small one",
        "model",
        {"top1": 0.25},
    )
    assert loaded.log_temperature.requires_grad
    assert all(parameter.device.type == "cpu" for parameter in loaded.parameters())
    scenes = torch.rand(1, 10, 32, 48)
    with torch.inference_mode():
        assert torch.equal(model.eval().encode_remote_sensing(scenes), loaded.encode_remote_sensing(scenes))


def test_a_fixed_temperature_stays_fixed(tmp_path):
    gair_core.save(make(partial("location")), tmp_path / "m.safetensors")
    assert not gair_core.load(tmp_path / "m.safetensors").log_temperature.requires_grad


@pytest.mark.parametrize(
    "parts", [("remote_sensing",), ("remote_sensing", "nili"), ("street_view",), ("location",)]
)
def test_parts_alone(tmp_path, parts):
    gair_core.save(make(partial(*parts)), tmp_path / "part.safetensors")
    loaded = gair_core.load(tmp_path / "part.safetensors")
    assert set(loaded.parts) == set(parts)
    assert read_entry(tmp_path / "part.safetensors")["parts"] == list(loaded.parts)
    missing = {"street_view", "location"} - set(parts)
    if "location" in missing:
        with pytest.raises(CheckpointError, match="no part 'location'"):
            loaded.encode_location(torch.zeros(1, 2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_weights_but_neither_frequencies_nor_temperature_nor_basis(tmp_path, dtype):
    model = make(components=4)
    path = tmp_path / "half.safetensors"
    gair_core.save(model, path, dtype=dtype)
    loaded = gair_core.load(path)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    for name, tensor in model.state_dict().items():
        kept = name.endswith(("frequencies", "log_temperature")) or name.startswith("basis.")
        wanted = tensor if kept else tensor.to(dtype).float()
        assert torch.equal(loaded.state_dict()[name], wanted), name
    names = {stored.dtype for stored in stored_tensors(path).values()}
    assert names == {"F32", "F16" if dtype == torch.float16 else "BF16"}


def test_the_fingerprint_is_a_sha256_of_names_dtypes_shapes_and_bytes(saved):
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(saved).items()):
        digest.update(f"{name} torch.float32 {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    assert read_entry(saved)["fingerprint"] == digest.hexdigest()


def test_the_fingerprint_sees_every_weight_but_not_the_basis():
    model = make(components=4)
    before = fingerprint_of(model.state_dict())
    model.basis.mean.add_(1)
    assert fingerprint_of(model.state_dict()) == before
    model.location.capsules[0].frequencies[0, 0] += 1
    assert fingerprint_of(model.state_dict()) != before


def test_saving_again_keeps_title_and_provenance(saved, tmp_path):
    gair_core.save(gair_core.load(saved), tmp_path / "again.safetensors")
    again = gair_core.load(tmp_path / "again.safetensors").checkpoint
    assert (again.title, again.provenance) == (METADATA.title, METADATA.provenance)
    assert again.fingerprint == gair_core.load(saved).checkpoint.fingerprint


def test_training_a_loaded_model_does_not_change_the_file(saved):
    before = saved.read_bytes()
    model = gair_core.load(saved)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert saved.read_bytes() == before


def test_loading_leaves_the_random_state_alone(saved):
    before = torch.get_rng_state()
    gair_core.load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_can_be_saved_over_the_file_it_was_loaded_from(saved):
    model = gair_core.load(saved)
    with torch.no_grad():
        model.log_temperature.fill_(-1)
    gair_core.save(model, saved)
    assert equal(gair_core.load(saved), model)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BadInputError, match="No space left"):
        gair_core.save(make(seed=1), saved)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_the_temporary_name_carries_the_token(saved, monkeypatch):
    seen = []
    real = os.fsync

    def spy(descriptor):
        seen.extend(file.name for file in saved.parent.iterdir())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    gair_core.save(make(), saved, token=REQUEST)
    assert f"model.safetensors.{REQUEST}.part" in seen


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pth", r"must be named \*\.safetensors, found model\.pth"),
        ("no/model.safetensors", "no folder"),
    ],
)
def test_impossible_destinations(tmp_path, name, message):
    with pytest.raises(BadInputError, match=message):
        gair_core.save(make(), tmp_path / name)


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file .*nowhere\.safetensors"):
        gair_core.load(tmp_path / "nowhere.safetensors")


def test_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        gair_core.load(tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_a_pickle_is_sent_to_the_importer(tmp_path, suffix):
    path = tmp_path / f"official{suffix}"
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="gair import"):
        gair_core.load(path)


def test_a_pickle_under_our_name(tmp_path):
    path = tmp_path / "official.safetensors"
    torch.save({"model": {"a": torch.zeros(100)}}, path)
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        gair_core.load(path)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_file(saved, size):
    content = saved.read_bytes()
    saved.write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=r"truncated|no readable safetensors"):
        gair_core.load(saved)


def test_a_file_with_a_tail(saved):
    saved.write_bytes(saved.read_bytes() + b"tail")
    with pytest.raises(CheckpointError, match=r"truncated|no readable safetensors"):
        gair_core.load(saved)


def test_a_foreign_safetensors_file(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "bert.safetensors")
    with pytest.raises(CheckpointError, match=r"another program.*gair import"):
        gair_core.load(tmp_path / "bert.safetensors")


def test_a_file_of_a_newer_version(saved):
    rewrite(saved, format_version=2, config={"from": "the future"})
    with pytest.raises(CheckpointError, match=r"newer version.*format 2.*Update"):
        gair_core.load(saved)


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"format_version": "1"}'])
def test_an_unreadable_description(tmp_path, text):
    save_file({"a": torch.zeros(3)}, tmp_path / "m.safetensors", {"gair": text})
    with pytest.raises(CheckpointError, match="unreadable metadata"):
        gair_core.load(tmp_path / "m.safetensors")


def test_an_impossible_configuration_names_the_value(saved):
    config = read_entry(saved)["config"]
    rewrite(saved, config={**config, "embed_dim": -3})
    with pytest.raises(CheckpointError, match=r"embed_dim.*-3"):
        gair_core.load(saved)


def test_an_incomplete_description(saved):
    with safe_open(saved, "pt") as file:
        entry = json.loads(file.metadata()["gair"])
    del entry["basis_components"]
    save_file(load_file(saved), saved.with_name("b.safetensors"), {"gair": json.dumps(entry)})
    with pytest.raises(CheckpointError, match="lacks 'basis_components'"):
        gair_core.load(saved.with_name("b.safetensors"))


def test_every_wrong_tensor_is_listed_in_one_error(saved):
    tensors = {name: tensor.clone() for name, tensor in load_file(saved).items()}
    del tensors["nili.layers.0.bias"]
    tensors["stray"] = torch.zeros(2)
    tensors["remote_sensing.norm.weight"] = torch.zeros(7)
    tensors["remote_sensing.norm.bias"] = torch.zeros(WIDTH, dtype=torch.int64)
    rewrite(saved, tensors)
    with pytest.raises(CheckpointError) as caught:
        gair_core.load(saved)
    text = str(caught.value)
    assert "missing: nili.layers.0.bias" in text
    assert "unexpected: stray" in text
    assert "remote_sensing.norm.weight [7]" in text
    assert f"wanted [{WIDTH}]" in text
    assert "remote_sensing.norm.bias [32] torch.int64" in text


def test_a_head_uses_the_same_format_but_is_no_model(tmp_path):
    path = tmp_path / "head.safetensors"
    entry = {"title": "roads", "backbone": {"name": "demo", "sha256": "x"}}
    fingerprint = write_tensors(path, {"weight": torch.ones(3)}, "head", entry)
    found, tensors = read_tensors(path, "head")
    assert found == {**entry, "format_version": 1, "kind": "head", "fingerprint": fingerprint}
    assert torch.equal(tensors["weight"], torch.ones(3))
    with pytest.raises(CheckpointError, match="holds a head, wanted a model"):
        gair_core.load(path)
    with pytest.raises(CheckpointError, match="holds a model, wanted a head"):
        gair_core.save(make(), tmp_path / "m.safetensors")
        read_tensors(tmp_path / "m.safetensors", "head")


def test_views_and_non_contiguous_tensors_can_be_stored(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    write_tensors(tmp_path / "v.safetensors", {"a": base.T, "b": base[0], "c": base[:, :2]}, "head", {})
    _, tensors = read_tensors(tmp_path / "v.safetensors", "head")
    assert torch.equal(tensors["a"], base.T)
    assert torch.equal(tensors["b"], base[0])
    assert torch.equal(tensors["c"], base[:, :2])


def test_merge_takes_the_parts_of_both(tmp_path):
    scenes, places = make(partial("remote_sensing"), 1), make(partial("location"), 2)
    for model, title in ((scenes, "scenes"), (places, "places")):
        gair_core.save(model, tmp_path / "x.safetensors")
        model.checkpoint = CheckpointMetadata(title=title, provenance=Provenance(licence="MIT"))
    merged = merge(scenes, places)
    assert merged.parts == ("remote_sensing", "location")
    assert merged.config.localizer == "bilinear"
    assert merged.checkpoint.title == "scenes + places"
    assert merged.checkpoint.provenance.licence == "MIT"
    images, lonlat = torch.rand(1, 10, 16, 16), torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(merged.encode_remote_sensing(images), scenes.eval().encode_remote_sensing(images))
        assert torch.equal(merged.encode_location(lonlat), places.encode_location(lonlat))
    gair_core.save(merged, tmp_path / "merged.safetensors")
    assert equal(gair_core.load(tmp_path / "merged.safetensors"), merged)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_others_may_read_a_checkpoint_as_any_other_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        gair_core.save(GAIR(partial("location")), tmp_path / "places.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "places.safetensors").stat().st_mode & 0o777 == 0o640


def test_merge_replaces_a_part_with_its_projection_and_keeps_the_rest():
    base, photos = make(components=4), make(partial("street_view"), 3)
    merged = merge(base, photos)
    assert torch.equal(merged.street_view_projection.weight, photos.street_view_projection.weight)
    assert torch.equal(merged.nili.layers[0].weight, base.nili.layers[0].weight)
    assert torch.equal(merged.basis.components, base.basis.components)
    assert merged.config.localizer == "nili"
    assert torch.equal(merged.log_temperature, base.log_temperature)


def test_merge_drops_a_basis_that_describes_other_embeddings():
    merged = merge(make(components=4), make(partial("remote_sensing"), 3))
    assert merged.basis is None
    assert not any(name.startswith("basis.") for name in merged.state_dict())


def test_merge_brings_the_localizer_with_the_scene_encoder():
    assert (
        merge(make(partial("location")), make(partial("remote_sensing", "nili"))).config.localizer == "nili"
    )


def test_merge_refuses_another_embedding_space():
    with pytest.raises(BadInputError, match=r"32 dimensions in the base .*64 in the part"):
        merge(make(), make(partial("location", embed_dim=64)))


def test_building_takes_neither_memory_nor_values():
    model = build(GAIRConfig.preset("base"), 16)
    on_disk = {name for name, tensor in model.state_dict().items() if tensor.device.type != "meta"}
    assert on_disk <= {"log_temperature"}


def test_importing_the_package_needs_no_torch():
    script = "import sys, gair_core; print(gair_core.__version__, 'torch' in sys.modules, dir(gair_core))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{gair_core.__version__} False")
    assert "'load'" in result.stdout
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gair_core.nothing  # noqa: B018


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_loading_holds_the_weights_once(tmp_path):
    path = tmp_path / "big.safetensors"
    config = GAIRConfig(
        embed_dim=1024,
        remote_sensing=RemoteSensingConfig(width=1024, depth=4),
        street_view=None,
        location=None,
    )
    gair_core.save(make(config), path)
    script = textwrap.dedent("""
        import sys, re, pathlib
        import torch, gair_core
        from gair_core.checkpoint import load
        def peak():
            status = pathlib.Path("/proc/self/status").read_text()
            return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024
        before = peak()
        model = load(sys.argv[1])
        total = sum(float(tensor.sum()) for tensor in model.state_dict().values())
        print(peak() - before)
    """)
    result = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert int(result.stdout) < 1.3 * path.stat().st_size


def test_the_header_is_what_the_format_says(saved):
    """Read the file as its published layout says, without the library."""
    content = saved.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"]["gair"])["config"]["remote_sensing"]["bands"][0] == "B2"
