"""The scene encoder behind timm's interface: its own block outputs, described by timm, open to training."""

from __future__ import annotations

import pytest
import torch
from timm.models import FeatureInfo
from torch import nn

import gair_core
from gair_core.config import GAIRConfig, RemoteSensingConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.head_checkpoint import save_head
from gair_core.heads import HeadConfig, HeadMetadata, LinearHead
from gair_core.model import GAIR

WIDTH, DEPTH = 16, 5
CLASSES = ({"value": 1, "name": "a", "colour": (255, 0, 0)}, {"value": 2, "name": "b", "colour": (0, 0, 9)})


@pytest.fixture
def model() -> GAIR:
    torch.manual_seed(0)
    scenes = RemoteSensingConfig(width=WIDTH, depth=DEPTH, num_heads=2, drop_path=0.2)
    return GAIR(GAIRConfig(embed_dim=WIDTH, remote_sensing=scenes, street_view=None, location=None)).eval()


def block_outputs(model: GAIR, images: torch.Tensor) -> list[torch.Tensor]:
    """What each block really puts out, read by hooks, as maps."""
    found = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: found.append(output))
        for block in model.remote_sensing.blocks
    ]
    model.encode_remote_sensing(images)
    for hook in hooks:
        hook.remove()
    size = (images.shape[2] // 8, images.shape[3] // 8)
    return [tokens.mT.reshape(len(images), WIDTH, *size) for tokens in found]


@pytest.mark.parametrize(
    ("out_indices", "blocks"), [(2, [3, 4]), ((0, 2), [0, 2]), ((1, -1), [1, 4]), ([-3], [2]), (5, range(5))]
)
def test_maps_are_the_encoders_own_block_outputs(model, out_indices, blocks):
    images = torch.rand(2, 10, 48, 32)
    extractor = gair_core.create_feature_extractor(model, out_indices)
    expected = block_outputs(model, images)
    expected[-1] = model.encode_remote_sensing(images)
    found = extractor(images)
    assert isinstance(found, list)
    for number, features in zip(blocks, found, strict=True):
        assert features.shape == (2, WIDTH, 6, 4)
        assert torch.equal(features, expected[number])


def test_timm_describes_the_maps(model):
    info = gair_core.create_feature_extractor(model, (1, 3)).feature_info
    assert type(info) is FeatureInfo
    assert info.channels() == [WIDTH, WIDTH]
    assert info.reduction() == [8, 8]
    assert info.out_indices == (1, 3)


def test_the_names_of_the_modules_lead_to_them(model):
    extractor = gair_core.create_feature_extractor(model, (1, -1))
    modules = [extractor.get_submodule(name) for name in extractor.feature_info.module_name()]
    assert modules == [model.remote_sensing.blocks[1], model.remote_sensing.blocks[4]]


def test_blocks_behind_the_last_one_are_left_out_and_the_rest_is_shared(model):
    extractor = gair_core.create_feature_extractor(model, (0, 2))
    shared = {id(parameter) for parameter in model.remote_sensing.parameters()}
    assert all(id(parameter) in shared for parameter in extractor.parameters())
    assert len(extractor.encoder.blocks) == 3
    assert len(model.remote_sensing.blocks) == DEPTH
    assert not extractor.training
    assert not any(parameter.is_meta for parameter in extractor.parameters())


def test_gradients_reach_every_parameter_and_a_decoder_learns(model):
    """As an encoder in somebody else's segmentation model, which asks for channels and reductions."""
    torch.manual_seed(1)
    encoder = gair_core.create_feature_extractor(model, (1, 2)).train()
    laterals = nn.ModuleList(nn.Conv2d(channels, 8, 1) for channels in encoder.feature_info.channels())
    top = nn.Sequential(nn.Upsample(scale_factor=encoder.feature_info.reduction()[-1]), nn.Conv2d(8, 2, 1))
    images = torch.rand(2, 10, 32, 32)
    images[:, :, :16] += 0.5
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[:, :16] = 1
    modules = (encoder, laterals, top)
    optimizer = torch.optim.Adam([p for module in modules for p in module.parameters()], lr=1e-3)
    losses = []
    for _ in range(20):
        maps = encoder(images)
        logits = top(sum(lateral(one) for lateral, one in zip(laterals, maps, strict=True)))
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_files_and_heads(model, tmp_path):
    gair_core.save(model, tmp_path / "model.safetensors")
    saved = gair_core.load(tmp_path / "model.safetensors")
    head = LinearHead(HeadConfig(embed_dim=WIDTH), HeadMetadata(classes=CLASSES))
    save_head(head, tmp_path / "head.safetensors", saved, embed_backbone=True)
    images = torch.rand(1, 10, 16, 16)
    expected = model.encode_remote_sensing(images)
    for source in (model, tmp_path / "model.safetensors", str(tmp_path / "head.safetensors")):
        (found,) = gair_core.create_feature_extractor(source, 1)(images)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("out_indices", [(), 0, 6, (5,), (-6,), (2, 1), (1, 1), (3, -4)])
def test_blocks_that_there_are_not(model, out_indices):
    with pytest.raises(BadInputError, match="has the blocks 0 to 4, asked for out_indices="):
        gair_core.create_feature_extractor(model, out_indices)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 10, 20, 16), "multiples of the patch size 8, found 20 x 16"),
        ((1, 12, 16, 16), "must have 10 bands"),
        ((10, 16, 16), "shape"),
    ],
)
def test_odd_sizes_say_what_is_wanted(model, shape, message):
    with pytest.raises(BadInputError, match=message):
        gair_core.create_feature_extractor(model)(torch.rand(shape))


def test_a_model_without_scenes(tmp_path):
    places = GAIR(GAIRConfig(embed_dim=8, remote_sensing=None, street_view=None, nili=None))
    with pytest.raises(CheckpointError, match="no part 'remote_sensing'"):
        gair_core.create_feature_extractor(places)
