"""UPerNet: right shapes on any lattice, its blocks, its way into a file and back, and that it learns."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from gair_core import checkpoint
from gair_core.config import GAIRConfig, RemoteSensingConfig
from gair_core.errors import BadInputError
from gair_core.head_checkpoint import load_head, save_head
from gair_core.heads.base import Head, HeadMetadata
from gair_core.heads.upernet import (
    UPerNetChangeConfig,
    UPerNetChangeHead,
    UPerNetConfig,
    UPerNetHead,
    default_blocks,
    pool,
)
from gair_core.model import GAIR
from gair_core.sentinel2.bands import MEAN, STD, normalize
from gair_core.world.surface import LAND_COVER
from gair_core.world.world import World

CLASSES = ({"value": 1, "name": "a", "colour": (255, 0, 0)}, {"value": 2, "name": "b", "colour": (0, 0, 9)})
BLOCKS = (0, 1, 2, 3)


def build_model(depth: int = 4, patch: int = 8) -> GAIR:
    torch.manual_seed(0)
    scenes = RemoteSensingConfig(width=16, depth=depth, num_heads=2, patch_size=patch, tile_size=8 * patch)
    return GAIR(GAIRConfig(embed_dim=16, remote_sensing=scenes, street_view=None, location=None)).eval()


@pytest.fixture(scope="module")
def model() -> GAIR:
    return build_model()


def build_head(**changes) -> UPerNetHead:
    torch.manual_seed(1)
    config = UPerNetConfig(**{"embed_dim": 16, "blocks": BLOCKS, "channels": 16, **changes})
    return UPerNetHead(config, HeadMetadata(classes=CLASSES)).eval()


def build_change_head(fusion: str = "difference") -> UPerNetChangeHead:
    torch.manual_seed(1)
    config = UPerNetChangeConfig(embed_dim=16, blocks=BLOCKS, channels=16, fusion=fusion)
    return UPerNetChangeHead(config, HeadMetadata(classes=CLASSES)).eval()


def images(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 10, height, width, generator=torch.Generator().manual_seed(seed))


def test_blocks_of_other_depths_lie_at_the_same_parts():
    assert default_blocks(12) == (3, 5, 7, 11)
    assert default_blocks(24) == (7, 11, 15, 23)
    assert default_blocks(4) == (0, 1, 2, 3)
    assert default_blocks(1) == (0, 0, 0, 0)
    with pytest.raises(ValidationError, match=r"blocks must be 4 numbers .* found \(0, 3, 1, 2\)"):
        UPerNetConfig(embed_dim=16, blocks=(0, 3, 1, 2))


def test_the_last_block_is_what_the_encoder_returns_and_earlier_ones_are_not_normalised(model):
    seen = images(1, 32, 48)
    with torch.no_grad():
        first, again, last = model.encode_remote_sensing_blocks(seen, (0, 0, 3))
        torch.testing.assert_close(last, model.encode_remote_sensing(seen), atol=0, rtol=0)
        assert torch.equal(first, again)
        shallow = build_model(depth=1)
        shallow.remote_sensing.load_state_dict(model.remote_sensing.state_dict(), strict=False)
        shallow.remote_sensing.norm = torch.nn.Identity()
        torch.testing.assert_close(shallow.encode_remote_sensing(seen), first)
    for wrong in ((4,), (2, 1), (-1,), ()):
        with pytest.raises(BadInputError, match="has the blocks 0 to 3"):
            model.encode_remote_sensing_blocks(seen, wrong)


@pytest.mark.parametrize("scale", [1, 2, 3, 6])
def test_pooling_is_the_adaptive_one(scale):
    for shape in ((12, 12), (7, 5), (1, 2)):
        features = torch.rand(2, 3, *shape)
        torch.testing.assert_close(pool(features, scale), torch.nn.AdaptiveAvgPool2d(scale)(features))


@pytest.mark.parametrize("patches", [(1, 1), (1, 4), (5, 3), (4, 6)])
def test_any_lattice_has_four_cells_a_patch(model, patches):
    head = build_head()
    seen = images(2, 8 * patches[0], 8 * patches[1])
    with torch.no_grad():
        lattice = head.tile_lattice(model, [seen])
        assert lattice.shape == (2, 2 * 16, *patches)
        logits = head.forward_tile(model, [seen])
        cells = F.pixel_shuffle(lattice, 4)
    assert logits.shape == (2, 2, *seen.shape[-2:])
    torch.testing.assert_close(
        logits, F.interpolate(cells, size=logits.shape[-2:], mode="bilinear", align_corners=False)
    )


def test_the_change_head_sees_the_difference_or_both_in_order(model):
    one, other = images(1, 32, 32), images(1, 32, 32, 1)
    with torch.no_grad():
        head = build_change_head()
        nothing = head.forward_tile(model, [one, one])
        torch.testing.assert_close(nothing, head.forward_tile(model, [other, other]), atol=1e-5, rtol=1e-5)
        both = build_change_head("concatenation")
        assert not torch.allclose(
            both.forward_tile(model, [one, one]), both.forward_tile(model, [other, other])
        )
        for each in (head, both):
            there, back = each.forward_tile(model, [one, other]), each.forward_tile(model, [other, one])
            assert not torch.allclose(there, back)
        merged = both.merge([head.encode(model, one), head.encode(model, other)])[0].chunk(4, dim=1)
        expected = torch.cat([model.encode_remote_sensing(seen) for seen in (one, other)], dim=1)
        torch.testing.assert_close(merged[3], expected)


def test_a_model_that_does_not_fit_is_refused(model):
    with pytest.raises(BadInputError, match=r"blocks 3, 5, 7, 11 .* has the blocks 0 to 3"):
        build_head(blocks=(3, 5, 7, 11)).check_fits(model)
    with pytest.raises(BadInputError, match="encoder 32 wide; the model's is 16 wide"):
        build_head(embed_dim=32).check_fits(model)
    with pytest.raises(BadInputError, match="4 x 4 cells, the model's have 6 x 6"):
        build_head().check_fits(build_model(patch=6))


@pytest.mark.parametrize("build", [build_head, build_change_head])
def test_a_fine_tuned_head_keeps_its_encoder(build, tmp_path):
    model, head = build_model(), build()
    with torch.no_grad():
        for module in (model.remote_sensing, head):
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor.add_(0.05)
    save_head(head, tmp_path / "head.safetensors", model, embed_backbone=True)
    loaded, encoder = load_head(tmp_path / "head.safetensors")
    assert type(loaded) is type(head)
    assert loaded.config == head.config
    seen = [images(1, 32, 32, seed) for seed in range(head.scenes)]
    with torch.no_grad():
        expected = head.forward_tile(model, seen)
        torch.testing.assert_close(loaded.forward_tile(encoder, seen), expected, atol=1e-6, rtol=1e-6)


def test_a_head_on_a_frozen_encoder_names_it(tmp_path):
    checkpoint.save(build_model(), tmp_path / "encoder.safetensors")
    model, head = checkpoint.load(tmp_path / "encoder.safetensors"), build_head()
    save_head(head, tmp_path / "head.safetensors", model)
    loaded, encoder = load_head(tmp_path / "head.safetensors")
    with torch.no_grad():
        expected = head.forward_tile(model, [images(1, 16, 16)])
        torch.testing.assert_close(loaded.forward_tile(encoder, [images(1, 16, 16)]), expected)


# --- learning -----------------------------------------------------------------------------------------------


def fit(head: Head, model: GAIR, scenes, target: torch.Tensor, *, frozen: bool, steps: int = 100) -> None:
    """Train on all tiles at once; ``scenes`` are tensors (B, 10, H, W).

    Fewer steps would leave the running statistics of the coarsest pooling, which has one value a tile, at
    what they were at first.
    """
    torch.manual_seed(2)
    model.requires_grad_(not frozen)
    learnt = [*head.parameters(), *([] if frozen else model.remote_sensing.parameters())]
    optimizer = torch.optim.AdamW(learnt, lr=1e-2)
    head.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(head.forward_tile(model, scenes), target).backward()
        optimizer.step()
    head.eval()


def intersection_over_union(head: Head, model: GAIR, scenes, target: torch.Tensor) -> float:
    """The mean over the classes."""
    with torch.no_grad():
        found = head.forward_tile(model, scenes).argmax(dim=1)
    scores = []
    for number in range(2):
        one, other = found == number, target == number
        scores.append(float((one & other).sum() / (one | other).sum().clamp(min=1)))
    return sum(scores) / len(scores)


def rectangles(count: int, seed: int) -> torch.Tensor:
    """One a tile, (count, 48, 48): 1 inside."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(count, 48, 48, dtype=torch.long)
    for index in range(count):
        top, left, height, width = torch.randint(6, 24, (4,), generator=generator).tolist()
        target[index, top : top + height, left : left + width] = 1
    return target


def ground(inside: torch.Tensor, seed: int) -> torch.Tensor:
    """Noise, and where the mask is 1 a spectrum that differs in its shape and not in its brightness."""
    noise = torch.randn(len(inside), 10, 48, 48, generator=torch.Generator().manual_seed(seed))
    return 0.5 + 0.1 * noise + torch.tensor([0.2, -0.2] * 5)[:, None, None] * inside[:, None]


@pytest.mark.parametrize("frozen", [True, False])
def test_it_learns_and_a_broken_one_could_not(frozen):
    model, head = build_model(), build_head(dropout=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    target, truth = rectangles(8, 0), rectangles(8, 1)
    held_out = ground(truth, 3)
    fit(head, model, [ground(target, 2)], target, frozen=frozen)
    assert intersection_over_union(head, model, [held_out], truth) > 0.7
    # One date shifted by two cells scores less: the logits are where they belong.
    shifted = intersection_over_union(head, model, [held_out.roll((4, 4), (2, 3))], truth)
    assert shifted < intersection_over_union(head, model, [held_out], truth) - 0.05
    moved = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert bool(moved) is not frozen


@pytest.mark.parametrize("fusion", ["difference", "concatenation"])
def test_change_is_learnt_beside_what_was_there_before(fusion):
    model, head = build_model(), build_change_head(fusion)

    def dates(seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        old, new = rectangles(24, seed), rectangles(24, seed + 1)
        return [ground(old, seed), ground(old | new, seed + 1)], new & (1 - old)

    scenes, target = dates(0)
    held_out, truth = dates(10)
    fit(head, model, scenes, target, frozen=True)
    score = intersection_over_union(head, model, held_out, truth)
    assert score > 0.65
    assert intersection_over_union(head, model, [held_out[1], held_out[1]], truth) < score - 0.15


@pytest.mark.slow
def test_land_cover_of_the_procedural_world_frozen_and_full():
    """Tiles of a city that were held out, against the most frequent class of each."""
    scenes, target = world_tiles()
    held = torch.arange(len(target)) % 3 == 2
    names = [{"value": n + 1, "name": name, "colour": (n, 0, 0)} for n, name in enumerate(LAND_COVER)]
    frequent = float(target[held].flatten().bincount().max() / target[held].numel())
    for frozen in (True, False):
        model = build_model()
        head = UPerNetHead(
            UPerNetConfig(embed_dim=16, blocks=BLOCKS, channels=16), HeadMetadata(classes=tuple(names))
        )
        fit(head, model, [scenes[~held]], target[~held], frozen=frozen)
        with torch.no_grad():
            found = head.forward_tile(model, [scenes[held]]).argmax(dim=1)
        assert float((found == target[held]).float().mean()) > frequent + 0.1


def world_tiles() -> tuple[torch.Tensor, torch.Tensor]:
    """Nine tiles of 64 pixels from a city, normalised, and their land cover."""
    city, when = World(seed=5).city(0, size=192), date(2023, 7, 1)
    scene, cover = (
        torch.from_numpy(values.astype(kind))
        for values, kind in ((city.scene(when), np.float32), (city.land_cover(when), np.int64))
    )
    pixels = normalize(scene, MEAN, STD, quantize=False)
    tiles = pixels.unfold(1, 64, 64).unfold(2, 64, 64).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return tiles, cover.unfold(0, 64, 64).unfold(1, 64, 64).flatten(0, 1)
