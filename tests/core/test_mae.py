"""The masked autoencoder: what the encoder may see, what is reconstructed, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.model import GAIR
from gair_core.model.mae import (
    MAEConfig,
    MaskedAutoencoder,
    PhotoToken,
    encode_visible,
    patch_pixels,
    place_embedding,
    random_masking,
)
from gair_core.model.remote_sensing import RemoteSensingEncoder, alibi_bias

BANDS, PATCH, WIDTH = 3, 4, 32
SCENES = RemoteSensingConfig(
    bands=("B2", "B3", "B4"),
    mean=(1.0,) * BANDS,
    std=(1.0,) * BANDS,
    tile_size=16,
    patch_size=PATCH,
    width=WIDTH,
    depth=2,
    num_heads=4,
)
PHOTOS = StreetViewConfig(image_size=32, patch_size=8, width=24, depth=1, num_heads=2, projection=True)
CONFIG = GAIRConfig(
    embed_dim=WIDTH, remote_sensing=SCENES, street_view=PHOTOS, location=None, nili=None, localizer="bilinear"
)


def build(**options: float) -> MaskedAutoencoder:
    torch.manual_seed(0)
    sizes = {"decoder_width": 32, "decoder_heads": 4, "photo_target_size": 4}
    return MaskedAutoencoder(GAIR(CONFIG), MAEConfig(**(sizes | options)))


def batch(count: int = 4, height: int = 16, width: int = 24) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "images": torch.rand(count, BANDS, height, width, generator=generator),
        "photos": torch.randn(count, 3, 32, 32, generator=generator),
        "uv": torch.rand(count, 2, generator=generator),
    }


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Masking


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 150), st.floats(0.01, 0.99), st.integers(0, 99))
def test_masking_ratio(count: int, patches: int, ratio: float, seed: int) -> None:
    seen, masked = random_masking(count, patches, ratio, seeded(seed))
    wanted = min(max(round(ratio * patches), 1), patches - 1)
    assert masked.sum(dim=1).tolist() == [wanted] * count
    for row, mask in zip(seen.tolist(), masked.tolist(), strict=True):
        assert row == [index for index, hidden in enumerate(mask) if not hidden]


def test_masking_of_the_paper() -> None:
    seen, masked = random_masking(256, 144, 0.75, seeded())
    assert seen.shape == (256, 36)
    # Each patch is masked in 192 of 256 images on average, with a deviation of 7.
    assert (masked.sum(dim=0) - 192).abs().max() < 35
    assert len({tuple(row) for row in seen.tolist()}) == 256


def test_masking_is_deterministic() -> None:
    first, again, other = (random_masking(3, 24, 0.75, seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_impossible_masking_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least 2 patches, found 1"):
        random_masking(1, 1, 0.75)
    with pytest.raises(BadInputError, match="between 0 and 1, found 1"):
        random_masking(1, 9, 1.0)


# The encoder


def encoder() -> RemoteSensingEncoder:
    torch.manual_seed(0)
    return RemoteSensingEncoder(SCENES).eval()


@torch.no_grad()
def test_all_patches_seen_is_the_plain_encoder() -> None:
    images = batch()["images"]
    everything = torch.arange(24).expand(4, -1)
    expected = encoder()(images).flatten(2).mT
    torch.testing.assert_close(encode_visible(encoder(), images, everything), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_visible_patches_are_encoded_as_if_the_others_were_hidden_from_attention() -> None:
    model, images = encoder().double(), batch()["images"].double()
    seen, masked = random_masking(4, 24, 0.75, seeded())
    # The oracle keeps all tokens and forbids everyone to look at a masked one.
    bias = alibi_bias(4, 6, SCENES.num_heads).double() + torch.zeros(4, 1, 1, 1, dtype=torch.float64)
    bias = bias.masked_fill(masked[:, None, None, :], -torch.inf)
    tokens = model.patch_embed(images)
    for block in model.blocks:
        tokens = block(tokens, attn_mask=bias)
    expected = torch.stack([row[index] for row, index in zip(model.norm(tokens), seen, strict=True)])
    torch.testing.assert_close(encode_visible(model, images, seen), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_masked_pixels_do_not_reach_the_encoder() -> None:
    images = batch()["images"]
    seen, masked = random_masking(4, 24, 0.75, seeded())
    hidden = masked.reshape(4, 1, 4, 6).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    changed = torch.where(hidden, 0.123, images)
    assert not torch.equal(changed, images)
    assert torch.equal(encode_visible(encoder(), changed, seen), encode_visible(encoder(), images, seen))


# Targets and places


def test_patch_pixels_by_loops() -> None:
    images = batch(count=2)["images"]
    values = patch_pixels(images, PATCH)
    assert values.shape == (2, 24, BANDS * PATCH * PATCH)
    for row in range(4):
        for column in range(6):
            block = images[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            assert torch.equal(values[:, row * 6 + column], block.reshape(2, -1))


def test_place_embedding_by_loops() -> None:
    places = torch.tensor([[0.0, 0.0], [2.5, -0.5], [11.0, 7.25]], dtype=torch.float64)
    for embedding, place in zip(place_embedding(places, 16), places.tolist(), strict=True):
        expected: list[float] = []
        for value in place:
            phases = [value / 10_000 ** (step / 4) for step in range(4)]
            expected += [math.sin(phase) for phase in phases] + [math.cos(phase) for phase in phases]
        assert embedding.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_photo_on_a_patch_centre_has_the_distances_of_that_patch() -> None:
    decoder = build().decoder
    seen = torch.arange(24)[None]
    _, lattice = decoder._scene_tokens(torch.zeros(1, 24, WIDTH), seen, (4, 6))
    # Row 2, column 4 of 4 x 6 patches.
    uv, flag = torch.tensor([[4.5 / 6, 2.5 / 4]]), torch.tensor([True])
    _, place = decoder._photo_token(PhotoToken(torch.zeros(1, WIDTH), uv, flag, flag), (4, 6))
    bias = decoder._bias(torch.cat([lattice, place[:, None]], dim=1), flag)
    torch.testing.assert_close(bias[..., :-1, :-1], alibi_bias(4, 6, 4))
    torch.testing.assert_close(bias[..., -1, :-1], bias[..., 2 * 6 + 4, :-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(bias[..., :-1, -1], bias[..., :-1, 2 * 6 + 4], atol=1e-5, rtol=0)


# The objective


@pytest.mark.parametrize("normalize", [False, True])
def test_errors_by_loops(normalize: bool) -> None:
    model = build(normalize_targets=normalize, photo_weight=0.3).eval()
    inputs = batch()
    has_photo = torch.tensor([True, True, False, True])
    with torch.no_grad():
        terms = model(**inputs, has_photo=has_photo, generator=seeded())
        generator = seeded()
        seen, masked = random_masking(4, 24, 0.75, generator)
        hidden = torch.rand(4, generator=generator) < 0.5
        token = PhotoToken(model.model.encode_street_view(inputs["photos"]), inputs["uv"], hidden, has_photo)
        tokens = encode_visible(model.model.remote_sensing, inputs["images"], seen)
        predicted = model.decoder(tokens, seen, (4, 6), token)

    def error(prediction: Tensor, target: Tensor) -> float:
        target = target.double()
        if normalize:
            target = (target - target.mean()) / math.sqrt(float(target.var()) + 1e-6)
        return float((prediction.double() - target).square().mean())

    pixels = patch_pixels(inputs["images"], PATCH)
    scene = [
        error(predicted.patches[i, n], pixels[i, n]) for i in range(4) for n in range(24) if masked[i, n]
    ]
    assert len(scene) == 4 * 18
    # The photo is shrunk by area: 8 x 8 pixels to one.
    shrunk = inputs["photos"].reshape(4, 3, 4, 8, 4, 8).mean(dim=(3, 5)).flatten(1)
    counted = [i for i in range(4) if hidden[i] and has_photo[i]]
    assert 0 < len(counted) < 3, "the seed must give a masked and a seen photo"
    photo = [error(predicted.photo[i], shrunk[i]) for i in counted]
    assert terms.scene.item() == pytest.approx(sum(scene) / len(scene), rel=1e-5)
    assert terms.photo.item() == pytest.approx(sum(photo) / len(photo), rel=1e-5)
    assert terms.total.item() == pytest.approx(terms.scene.item() + 0.3 * terms.photo.item(), rel=1e-6)


def test_the_generator_decides_everything() -> None:
    model, inputs = build().eval(), batch()
    first, again, other = (model(**inputs, generator=seeded(seed)) for seed in (1, 1, 2))
    assert [term.item() for term in first] == [term.item() for term in again]
    assert first.scene.item() != other.scene.item()


def gradients(model: MaskedAutoencoder, term: str, part: str, inputs: dict[str, Tensor]) -> dict[str, float]:
    model.zero_grad()
    getattr(model(**inputs, generator=seeded()), term).backward()
    return {
        name: 0.0 if weight.grad is None else weight.grad.abs().max().item()
        for name, weight in model.get_submodule(part).named_parameters()
        if weight.requires_grad
    }


def test_gradient_reaches_every_weight() -> None:
    model = build()
    without = [
        name
        for part in ("model.remote_sensing", "model.street_view", "model.street_view_projection", "decoder")
        for name, size in gradients(model, "total", part, batch()).items()
        if not size
    ]
    assert without == []


def test_a_seen_photo_trains_g_through_the_scene() -> None:
    model = build(photo_mask_ratio=0)
    assert max(gradients(model, "scene", "model.street_view", batch()).values()) > 0
    assert model(**batch(), generator=seeded()).photo.item() == 0


def test_a_masked_photo_trains_f_and_never_g() -> None:
    model = build(photo_mask_ratio=1)
    assert min(gradients(model, "photo", "model.remote_sensing", batch()).values()) > 0
    assert max(gradients(model, "total", "model.street_view", batch()).values()) == 0


@torch.no_grad()
def test_the_place_of_a_photo_matters() -> None:
    model, inputs = build().eval(), batch()
    terms = model(**inputs, generator=seeded())
    mirrored = model(**(inputs | {"uv": 1 - inputs["uv"]}), generator=seeded())
    assert mirrored.photo.item() != terms.photo.item()
    assert mirrored.scene.item() != terms.scene.item()


@torch.no_grad()
def test_absent_photos_change_nothing() -> None:
    model, inputs = build().eval(), batch()
    has_photo = torch.tensor([False, True, True, False])
    terms = model(**inputs, has_photo=has_photo, generator=seeded())
    inputs["photos"][~has_photo] = 5.0
    inputs["uv"][~has_photo] = 0.5
    changed = model(**inputs, has_photo=has_photo, generator=seeded())
    assert [term.item() for term in changed] == pytest.approx([term.item() for term in terms], rel=1e-6)
    absent = model(**inputs, has_photo=torch.zeros(4, dtype=torch.bool), generator=seeded())
    alone = model(inputs["images"], generator=seeded())
    assert absent.scene.item() == pytest.approx(alone.scene.item(), rel=1e-6)
    assert absent.photo.item() == alone.photo.item() == 0
    assert alone.total.item() == alone.scene.item()


def test_a_constant_scene_keeps_everything_finite() -> None:
    model, inputs = build(), batch()
    inputs["images"] = torch.full_like(inputs["images"], 0.5)
    terms = model(**inputs, generator=seeded())
    terms.total.backward()
    assert terms.total.isfinite()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_errors_are_computed_outside_autocast() -> None:
    model, inputs = build(), batch()
    plain = model(**inputs, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = model(**inputs, generator=seeded())
    assert lowered.total.dtype == torch.float32
    assert lowered.total.item() == pytest.approx(plain.total.item(), rel=0.05)
    lowered.total.backward()
    wide = build().double()(**{name: values.double() for name, values in inputs.items()}, generator=seeded())
    assert wide.total.dtype == torch.float64
    assert wide.total.item() == pytest.approx(plain.total.item(), rel=1e-4)


def test_it_overfits_one_small_batch() -> None:
    model, inputs = build(decoder_width=64, decoder_depth=2), batch(height=16, width=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    history = []
    for _ in range(250):
        # The same masks at every step.
        terms = model(**inputs, generator=seeded())
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        history.append(terms)
    assert history[0].scene.item() > 0.8
    assert history[-1].scene.item() < 0.05 * history[0].scene.item()
    assert history[-1].photo.item() < 0.05 * history[0].photo.item()


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(4, 2, 16, 24)}, r"\(B, 3, H, W\).*found \(4, 2, 16, 24\)"),
        ({"images": torch.rand(4, BANDS, 16, 22)}, r"multiples of 4, found \(4, 3, 16, 22\)"),
        ({"images": torch.rand(BANDS, 16, 24)}, r"found \(3, 16, 24\)"),
        ({"photos": torch.rand(4, 3, 30, 30)}, r"\(B, 3, 32, 32\)"),
        ({"photos": torch.rand(3, 3, 32, 32)}, "found 3 photos"),
        ({"photos": None}, "photos and uv belong together"),
        ({"uv": None}, "photos and uv belong together"),
        ({"uv": torch.rand(4, 1, 2)}, r"uv \(4, 1, 2\)"),
        ({"uv": torch.full((4, 2), 1.01)}, "inside their scene"),
        ({"uv": torch.full((4, 2), math.nan)}, "inside their scene"),
        ({"has_photo": torch.ones(4)}, r"bool of the shape \(4,\), found torch.float32"),
        ({"photos": None, "uv": None, "has_photo": torch.ones(4) > 0}, "has_photo came without photos"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        build()(**(batch() | change))


def test_parts_that_are_missing_are_named() -> None:
    places = GAIRConfig(
        embed_dim=8, remote_sensing=None, street_view=None, nili=None, location=LocationConfig(hidden_width=8)
    )
    with pytest.raises(CheckpointError, match="'remote_sensing'; this model holds location"):
        MaskedAutoencoder(GAIR(places))
    scenes = MaskedAutoencoder(GAIR(CONFIG.model_copy(update={"street_view": None})))
    assert scenes(batch()["images"]).total.isfinite()
    with pytest.raises(CheckpointError, match="no part 'street_view'"):
        scenes(**batch())


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(BadInputError, match="mask_ratio"):
        MAEConfig.parse({"mask_ratio": 1.0})
    with pytest.raises(BadInputError, match="decoder_width 36 is no multiple of decoder_heads 8"):
        MAEConfig.parse({"decoder_width": 36})
    with pytest.raises(BadInputError, match="ratio"):
        MAEConfig.parse({"ratio": 0.5})
    assert MAEConfig.parse({}) == MAEConfig()
