"""Series heads: dates matter, missing ones do not, and a broken aggregation could not pass."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from gair_core.config import GAIRConfig, RemoteSensingConfig
from gair_core.errors import BadInputError
from gair_core.head_checkpoint import load_head, save_head
from gair_core.heads.base import HeadMetadata
from gair_core.heads.temporal import (
    SeriesHead,
    SeriesLinearConfig,
    SeriesLinearHead,
    SeriesLTAEConfig,
    SeriesLTAEHead,
)
from gair_core.model import GAIR
from gair_core.sentinel2.bands import BANDS, MEAN, STD, normalize
from gair_core.world.world import World

CLASSES = ({"value": 1, "name": "a", "colour": (255, 0, 0)}, {"value": 2, "name": "b", "colour": (0, 0, 9)})
DATES = 4
KINDS = ("linear", "ltae")
DAYS = torch.tensor([[20.0, 110.0, 200.0, 290.0]])


def build_head(kind: str, decoder: str = "linear") -> SeriesHead:
    torch.manual_seed(1)
    sizes = {"embed_dim": 16, "decoder": decoder, "blocks": (0, 1, 1, 1), "channels": 8}
    metadata = HeadMetadata(classes=CLASSES)
    if kind == "linear":
        head = SeriesLinearHead(SeriesLinearConfig(**sizes, dates=DATES), metadata)
        with torch.no_grad():
            head.weight.copy_(torch.tensor([0.1, 0.5, -0.3, 0.4]))
        return head.eval()
    return SeriesLTAEHead(SeriesLTAEConfig(**sizes, attention_heads=4), metadata).eval()


@pytest.fixture(scope="module")
def model() -> GAIR:
    torch.manual_seed(0)
    scenes = RemoteSensingConfig(width=16, depth=2, num_heads=2)
    return GAIR(GAIRConfig(embed_dim=16, remote_sensing=scenes, street_view=None, location=None)).eval()


def features(count: int, seed: int = 0, channels: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, 3, 2, generator=generator) for _ in range(count)]


def merge(head: SeriesHead, series, days=None, valid=None) -> torch.Tensor:
    with torch.no_grad():
        (merged,) = head.merge(series, days, valid)
    return merged


def ones(count: int) -> torch.Tensor:
    return torch.ones(2, count, 3, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_dates_that_only_pad_change_nothing(kind):
    head, days, valid = build_head(kind), DAYS.expand(2, -1), ones(DATES)
    valid[:, 2:] = 0
    short = merge(head, features(DATES)[:2], days[:, :2], ones(2))
    padded = merge(head, features(DATES), days, valid)
    other = [*features(DATES)[:2], *features(2, seed=9)]
    torch.testing.assert_close(padded, short, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(merge(head, other, days, valid), short, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_date_that_is_missing_at_one_patch_is_left_out_there_alone(kind):
    head, days, valid = build_head(kind), DAYS.expand(2, -1), ones(DATES)
    valid[0, 3, 1, 0] = 0.4
    whole, partly = merge(head, features(DATES), days, ones(DATES)), merge(head, features(DATES), days, valid)
    without = merge(head, features(DATES)[:3], days[:, :3], ones(3))
    torch.testing.assert_close(partly[0, :, 1, 0], without[0, :, 1, 0], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(partly[0, :, 1, 0], whole[0, :, 1, 0], atol=1e-3)
    partly[0, :, 1, 0] = whole[0, :, 1, 0]
    torch.testing.assert_close(partly, whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_that_no_date_covers_by_half_takes_what_there_is_and_else_nothing(kind):
    head, days, valid = build_head(kind), DAYS.expand(2, -1), ones(DATES)
    valid[:, :, 0, 0] = torch.tensor([0.3, 0.0, 0.0, 0.0])
    valid[:, :, 2, 1] = 0
    found = merge(head, features(DATES), days, valid)
    alone = merge(head, features(DATES)[:1], days[:, :1], ones(1))
    torch.testing.assert_close(found[:, :, 0, 0], alone[:, :, 0, 0], atol=1e-6, rtol=1e-6)
    assert (found[:, :, 2, 1] == 0).all()


def test_l_tae_knows_when_and_the_linear_one_in_which_order():
    order = [2, 0, 3, 1]
    mixed = [features(DATES)[index] for index in order]
    ltae, linear, days = build_head("ltae"), build_head("linear"), DAYS.expand(2, -1)
    expected = merge(ltae, features(DATES), days)
    torch.testing.assert_close(merge(ltae, mixed, days[:, order]), expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(merge(ltae, mixed, days), expected, atol=1e-3)
    assert not torch.allclose(merge(linear, mixed), merge(linear, features(DATES)), atol=1e-3)
    literal = sum(w * f for w, f in zip((0.1, 0.5, -0.3, 0.4), features(DATES), strict=True))
    torch.testing.assert_close(merge(linear, features(DATES)), literal)


def test_l_tae_is_the_published_formula():
    """Literally, head by head: scaled products of one query with each key, a softmax, groups of values."""
    head, series = build_head("ltae"), torch.stack(features(DATES), dim=1)
    tokens = series[0, :, :, 0, 0]
    layer = head.attention
    with torch.no_grad():
        table = torch.zeros(DATES, 4)
        for date, day in enumerate(DAYS[0]):
            for index in range(4):
                angle = day / 1000 ** (2 * (index // 2) / 4)
                table[date, index] = angle.sin() if index % 2 == 0 else angle.cos()
        dated = layer.norm(tokens) + table.repeat(1, 4)
        keys = layer.key(dated)
        seen = []
        for number in range(4):
            own = keys[:, 4 * number : 4 * number + 4]
            attention = ((own @ layer.query[number]) / 2).softmax(dim=0)
            seen.append(attention @ dated[:, 4 * number : 4 * number + 4])
        expected = layer.mix(torch.cat(seen)[None])[0]
    found = merge(head, features(DATES), DAYS.expand(2, -1))[0, :, 0, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoder", ["linear", "upernet"])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_with_clouds_have_logits_and_gradients(kind, decoder, model, tmp_path):
    head = build_head(kind, decoder)
    head.check_fits(model)
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(2, 10, 40, 24, generator=generator) for _ in range(DATES)]
    valid = torch.rand(2, DATES, 40, 24, generator=generator) > 0.4
    valid[0, :, :8, :8] = False
    days = DAYS.expand(2, -1)
    logits = head.train().forward_tile(model, images, days, valid)
    assert logits.shape == (2, 2, 40, 24)
    logits.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    save_head(head.eval(), tmp_path / "head.safetensors", model, embed_backbone=True)
    loaded, encoder = load_head(tmp_path / "head.safetensors")
    with torch.no_grad():
        expected = head.forward_tile(model, images, days, valid)
        torch.testing.assert_close(loaded.forward_tile(encoder, images, days, valid), expected)


def test_what_cannot_be_is_refused(model):
    with pytest.raises(BadInputError, match="needs the day of the year"):
        merge(build_head("ltae"), features(2))
    with pytest.raises(BadInputError, match="aggregates 4 dates, found 5"):
        merge(build_head("linear"), features(5))
    with pytest.raises(BadInputError, match="looks at a series of dates; found one date"):
        build_head("ltae").check_scenes(1)
    with pytest.raises(BadInputError, match="gives each of 4 dates its own weight; found 3 dates"):
        build_head("linear").check_scenes(3)
    build_head("ltae").check_scenes(9)
    with pytest.raises(ValidationError, match="attention_heads 3 does not divide the width 16"):
        SeriesLTAEConfig(embed_dim=16, attention_heads=3)
    wide = SeriesLTAEHead(
        SeriesLTAEConfig(embed_dim=32, decoder="linear", attention_heads=4), HeadMetadata(classes=CLASSES)
    )
    with pytest.raises(BadInputError, match="features of 32 channels, the model's have 16"):
        wide.check_fits(model)


def seasonal(count: int, seed: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Series of which one date alone, that in summer, tells the class; it may be any of the four."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (count,), generator=generator)
    summer = torch.randint(DATES, (count,), generator=generator)
    days = torch.rand(count, DATES, generator=generator) * 120
    days += 230 * torch.randint(2, (count, DATES), generator=generator)
    signs = 2.0 * torch.randint(2, (count, DATES), generator=generator) - 1
    place = torch.arange(count)
    days[place, summer] = 160 + 40 * torch.rand(count, generator=generator)
    signs[place, summer] = 2.0 * target - 1
    direction = torch.tensor([1.0, -1.0] * 8)
    tokens = signs[..., None] * direction + torch.randn(count, DATES, 16, generator=generator)
    return list(tokens[..., None, None].unbind(1)), days, target


def test_where_the_season_matters_l_tae_beats_the_linear_aggregation(model):
    series, days, target = seasonal(512, 0)
    held_out, held_days, truth = seasonal(512, 1)
    scores = {}
    for kind in KINDS:
        head = build_head(kind).train()
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            (merged,) = head.merge(series, days)
            F.cross_entropy(head.lattice(model, merged)[..., 0, 0], target).backward()
            optimizer.step()
        logits = head.eval().lattice(model, merge(head, held_out, held_days))
        scores[kind] = float((logits[..., 0, 0].argmax(dim=1) == truth).float().mean())
    assert scores["linear"] > 0.55
    assert scores["ltae"] > 0.85
    assert scores["ltae"] > scores["linear"] + 0.1


@pytest.mark.slow
def test_greening_early_or_late_on_the_cloudy_procedural_world():
    """Patches of a city by when in the year they are greenest, from four dates of which clouds hide most."""
    torch.manual_seed(0)
    scenes = RemoteSensingConfig(width=32, depth=1, num_heads=2)
    model = GAIR(GAIRConfig(embed_dim=32, remote_sensing=scenes, street_view=None, location=None)).eval()
    seen, target, days = greening(model)
    known, unknown = slice(0, 25), slice(25, 40)
    generator = torch.Generator().manual_seed(99)
    held_out = cloudy_series(seen[..., unknown], days, 32, generator)
    scores = {}
    for kind in KINDS:
        generator.manual_seed(0)
        head = seasonal_head(kind).train()
        optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
        for _ in range(250):
            optimizer.zero_grad()
            (merged,) = head.merge(*cloudy_series(seen[..., known], days, 8, generator))
            logits = head.lattice(model, merged)
            F.cross_entropy(logits, target[:, known].expand(8, -1, -1)).backward()
            optimizer.step()
        with torch.no_grad():
            (merged,) = head.eval().merge(*held_out)
            found = head.lattice(model, merged).argmax(dim=1)
        scores[kind] = float((found == target[:, unknown]).float().mean())
    assert scores["linear"] > 0.7
    assert scores["ltae"] > scores["linear"] + 0.03


def seasonal_head(kind: str) -> SeriesHead:
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "decoder": "linear", "dropout": 0.0}
    third = {"value": 3, "name": "c", "colour": (0, 0, 0)}
    metadata = HeadMetadata(classes=(*CLASSES, third))
    if kind == "linear":
        return SeriesLinearHead(SeriesLinearConfig(**sizes, dates=DATES), metadata)
    return SeriesLTAEHead(SeriesLTAEConfig(**sizes, attention_heads=8), metadata)


def greening(model: GAIR) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A city of fields on fifteen days: features (15, 32, 40, 40), classes (40, 40) and the days.

    The class is 1 or 2 where the vegetation index of a patch rises and falls, with its peak before or after
    the middle of June, and 0 elsewhere.
    """
    city, days = World(seed=5).city(2, size=320), torch.arange(75, 300, 15)
    drawn = [city.scene(date(2023, 1, 1) + timedelta(int(day) - 1), haze=0.0) for day in days]
    dn = torch.from_numpy(np.stack(drawn).astype(np.float32))
    red, near_infrared = dn[:, BANDS.index("B4")], dn[:, BANDS.index("B8")]
    index = F.avg_pool2d((near_infrared - red) / (near_infrared + red + 1), 8)
    seasonal = index.amax(dim=0) - index.amin(dim=0) > 0.2
    late = days[index.argmax(dim=0)] >= 170
    with torch.no_grad():
        features = model.encode_remote_sensing(normalize(dn, MEAN, STD, quantize=False))
    return features, seasonal.long() * (1 + late.long()), days.float()


def cloudy_series(
    seen: torch.Tensor, days: torch.Tensor, count: int, generator: torch.Generator
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Series of four days drawn from all, in their order; three of five dates are hidden, never all."""
    drawn = [torch.randperm(len(days), generator=generator)[:DATES].sort().values for _ in range(count)]
    chosen = torch.stack(drawn)
    clear = torch.rand(count, DATES, generator=generator) < 0.4
    clear[torch.arange(count), torch.randint(DATES, (count,), generator=generator)] = True
    valid = clear[:, :, None, None].float().expand(-1, -1, *seen.shape[-2:])
    return list(seen[chosen].unbind(1)), days[chosen], valid
