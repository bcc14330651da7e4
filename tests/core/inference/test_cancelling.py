"""A cancel takes effect within a batch, costs nothing, and leaves the model as it was."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from gair_core import checkpoint
from gair_core.errors import CancelledError
from gair_core.inference.cancelling import cancelled_between_blocks
from gair_core.inference.embed import EmbedRequest, embed, fit_scene_basis
from gair_core.inference.engine import Engine
from gair_core.progress import Progress, Quiet
from gair_core.sentinel2.scene import Scene
from tests.core.inference import scenes


@pytest.fixture
def model():
    return checkpoint.load("demo")


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


class Spy(nn.Module):
    """Stands for a block's MLP and counts its calls; cancels in the first one."""

    def __init__(self, inner: nn.Module, progress: Progress, calls: list[int], index: int) -> None:
        super().__init__()
        self.inner, self.progress, self.calls, self.index = inner, progress, calls, index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(self.index)
        if len(self.calls) == 1:
            self.progress.cancel()
        return self.inner(x)


def test_a_cancel_during_a_batch_ends_it_before_the_next_block(model, tmp_path):
    scene_path = scenes.write(tmp_path / "scene.tif", scenes.textured(96, 96))
    progress, calls = Progress(), []
    for index, block in enumerate(model.remote_sensing.blocks):
        block.mlp = Spy(block.mlp, progress, calls, index)
    assert len(model.remote_sensing.blocks) > 1
    engine = Engine(model, "cpu", tile_size=96)
    with Scene.open(scene_path) as scene, pytest.raises(CancelledError):
        list(engine.strips(scene, engine.plan(scene), model.localizer.lattice, progress))
    assert calls == [0]
    assert hooks_of(model) == 0


def test_a_cancel_reaches_the_fitting_of_a_basis(model, tmp_path):
    scene_path = scenes.write(tmp_path / "scene.tif", scenes.textured(200, 200))
    progress, calls = Progress(), []
    block = model.remote_sensing.blocks[0]
    block.mlp = Spy(block.mlp, progress, calls, 0)
    with Scene.open(scene_path) as scene, pytest.raises(CancelledError):
        fit_scene_basis(Engine(model, "cpu", tile_size=96), scene, 3, progress)
    assert calls == [0]


def test_hooks_are_there_for_one_batch_alone_and_change_no_value(model):
    images = torch.rand(2, 10, 96, 96)
    with torch.inference_mode():
        expected = model.encode_remote_sensing(images)
        with cancelled_between_blocks(model, Progress()):
            assert hooks_of(model) == len(model.remote_sensing.blocks) + len(model.street_view.vit.blocks)
            found = model.encode_remote_sensing(images)
    assert torch.equal(found, expected)
    assert hooks_of(model) == 0


def test_photos_stop_between_blocks_too(model):
    progress = Progress()
    progress.cancel()
    size = model.config.street_view.image_size
    with cancelled_between_blocks(model, progress), pytest.raises(CancelledError):
        model.encode_street_view(torch.rand(1, 3, size, size))


def test_a_compiled_encoder_is_compiled_once_and_gives_the_same(model):
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    images = torch.rand(1, 10, 96, 96)
    with torch.inference_mode():
        expected = model.encode_remote_sensing(images)
        fast = torch.compile(model.remote_sensing, backend=backend)
        for _ in range(3):
            with cancelled_between_blocks(model, Progress()):
                found = fast(images)
    torch.testing.assert_close(found, expected)
    once = len(compiled)
    with torch.inference_mode(), cancelled_between_blocks(model, Progress()):
        fast(images)
    assert len(compiled) == once


def test_asking_takes_no_time_worth_mentioning(model):
    progress, start = Progress(), time.perf_counter()
    for _ in range(20):
        with cancelled_between_blocks(model, progress):
            pass
    # A batch of the smallest model takes some 20 ms, of the base model a second.
    assert (time.perf_counter() - start) / 20 < 0.005


def test_a_quiet_part_hands_on_its_log_and_a_cancel():
    task = Progress()
    part = Quiet(task)
    part.report(0.5)
    part.log("warning", "look")
    assert task.warnings == ["look"]
    assert not part.cancelled
    part.cancel()
    assert task.cancelled
    assert part.cancelled


def test_a_cancel_within_a_batch_leaves_nothing_on_disk(tmp_path, monkeypatch):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(200, 200))
    progress = Progress()
    encode = Engine._encode

    def cancelling(self, *arguments):
        progress.cancel()
        return encode(self, *arguments)

    monkeypatch.setattr(Engine, "_encode", cancelling)
    with pytest.raises(CancelledError):
        embed(EmbedRequest(scene=str(scene), output=str(tmp_path / "out.tif"), tile_size=96), progress)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
