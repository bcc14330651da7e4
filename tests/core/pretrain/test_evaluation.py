"""Figures of evaluation against models and similarities whose answers are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gair_core import checkpoint
from gair_core.config import GAIRConfig
from gair_core.model.gair import GAIR
from gair_core.pretrain.augmentation import normalize_scenes
from gair_core.pretrain.config import EvaluationConfig
from gair_core.pretrain.evaluation import (
    RANKS,
    draw_galleries,
    encode,
    evaluate,
    localize,
    recalls,
    similarity_maps,
)
from gair_core.pretrain.probes import (
    LabelledPlaces,
    labelled_places,
    linear_probe,
    nearest_neighbours,
    probe_land_cover,
)
from gair_core.pretrain.seasons import date_of_season, season
from gair_core.pretrain.store import Store
from tests.core.pretrain.runs import MODEL
from tests.core.pretrain.stores import make_store

ROOT = Path(__file__).resolve().parents[3]
CONFIG = EvaluationConfig(gallery=10, per_city=3, galleries=4, batch_size=8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(make_store(tmp_path_factory.mktemp("store") / "store", per_city=12))


@pytest.fixture(scope="module")
def model() -> GAIR:
    torch.manual_seed(0)
    return GAIR(GAIRConfig.parse(MODEL)).eval()


class PatchColour(nn.Module):
    """A scene encoder whose features are the mean visible colour of each patch."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = config

    def forward(self, images: Tensor) -> Tensor:
        colour = F.avg_pool2d(images[:, [2, 1, 0]], 8)
        return F.pad(colour - 0.35, (0, 0, 0, 0, 0, 13))


class PhotoColour(nn.Module):
    """A photo encoder whose embedding is the colour of the upper half."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = config

    def forward(self, photos: Tensor) -> Tensor:
        mean = torch.tensor(self.config.mean)[:, None, None]
        std = torch.tensor(self.config.std)[:, None, None]
        dn = (photos * std + mean)[:, :, :6].mean(dim=(2, 3)) / 255 * 4100
        lowest = torch.tensor([-56.95, -188.29, -240.45])  # mean - 2 std of B4, B3, B2
        spread = 4 * torch.tensor([783.1424, 720.1862, 706.6250])
        return F.pad((dn - lowest) / spread - 0.35, (0, 13))


@pytest.fixture
def colour_model() -> GAIR:
    values = {**MODEL, "nili": None, "localizer": "bilinear"}
    model = GAIR(GAIRConfig.parse(values)).eval()
    model.remote_sensing = PatchColour(model.config.remote_sensing)
    model.street_view = PhotoColour(model.config.street_view)
    return model


def test_recall_counts_ranks_and_ties_by_half() -> None:
    similarity = torch.tensor([[3.0, 1, 0], [2, 1, 0], [5, 4, 3]])
    # The right ones have rank 0, 1 and 2.
    assert recalls(similarity)[1] == pytest.approx(1 / 3)
    assert recalls(similarity)[5] == 1
    constant = recalls(torch.zeros(100, 100))
    assert constant[1] == constant[5] == constant[10] == 0  # rank 49.5 for all
    random = torch.rand(1000, 1000, generator=torch.Generator().manual_seed(0))
    for k in RANKS:
        assert recalls(random)[k] == pytest.approx(k / 1000, abs=0.01)


def test_seasons_turn_around_at_the_equator() -> None:
    assert [season(f"2021-{month:02d}-10", 50) for month in (1, 4, 7, 10, 12)] == [0, 1, 2, 3, 0]
    assert season("2021-01-10", -30) == 2
    assert season("", 50) == -1


def test_scenes_are_of_the_photos_season(store: Store) -> None:
    tile = store.tile("tile_Aa")  # January and June
    assert date_of_season(tile, "2019-07-30", 45) == 1
    assert date_of_season(tile, "2019-12-30", 45) == 0
    assert date_of_season(tile, "", 45) == 0


def test_galleries_hold_at_most_some_of_a_city_and_every_city(store: Store) -> None:
    rows = np.arange(len(store.samples))
    galleries = draw_galleries(store.samples, rows, CONFIG)
    assert len(galleries) == 4
    for gallery in galleries:
        names, counts = np.unique(store.samples.city[rows[gallery]], return_counts=True)
        assert len(gallery) == len(set(gallery.tolist())) == 10
        assert len(names) == 6
        assert counts.max() <= 3
    assert galleries[0].tolist() != galleries[1].tolist()


def test_galleries_leave_out_a_season_of_few_cities(store: Store) -> None:
    """Photos enough for a gallery, but not with at most three of a city."""
    rows = np.arange(len(store.samples))
    winter = np.isin(store.samples.city, ["Aa", "Bb"])
    samples = replace(store.samples, taken=np.where(winter, "2021-01-15", "2021-06-20"))
    assert int(winter.sum()) > CONFIG.gallery
    galleries = draw_galleries(samples, rows, CONFIG)
    assert [len(gallery) for gallery in galleries] == [10] * 4
    assert not any(winter[gallery].any() for gallery in galleries)


def test_a_model_that_sees_the_ground_in_the_photo_finds_scene_and_place(
    store: Store, colour_model: GAIR
) -> None:
    found = evaluate(colour_model, store, "train", CONFIG, modalities=("scene", "photo"))
    chance = evaluate(
        GAIR(GAIRConfig.parse(MODEL)).eval(), store, "train", CONFIG, modalities=("scene", "photo")
    )
    assert found["photo_to_scene_recall_1"] > 0.4
    assert found["within_city_recall_1"] > found["within_city_chance_1"]
    assert found["place_percentile_median"] > 85
    assert chance["place_percentile_median"] < 75
    assert found["chance_recall_1"] == 0.1
    assert found["gallery"] == 10
    assert found["score"] == (found["photo_to_scene_recall_1"] + found["scene_to_photo_recall_1"]) / 2


def test_distances_from_the_peak_are_metres_from_the_true_place(store: Store, colour_model: GAIR) -> None:
    rows = store.samples.select(split="train")[:8]
    localized = localize(colour_model, store, rows, CONFIG)
    assert (localized.metres >= 0).all()
    assert localized.metres.max() <= 400 * 2**0.5  # the whole tile
    near = localize(colour_model, store, rows, CONFIG.model_copy(update={"scene_size": 8}))
    assert near.metres.max() <= 80 * 2**0.5
    constant = GAIR(GAIRConfig.parse({**MODEL, "nili": None, "localizer": "pool"})).eval()
    flat = localize(constant, store, rows, CONFIG)
    np.testing.assert_allclose(flat.percentile, 50, atol=1e-6)


def test_maps_show_the_whole_tile_with_the_place_where_the_store_has_it(
    store: Store, colour_model: GAIR
) -> None:
    rows = store.samples.select(split="train")[:8]
    found = {one.row: one for one in similarity_maps(colour_model, store, rows, CONFIG)}
    assert sorted(found) == sorted(rows.tolist())
    for row, one in found.items():
        tile = store.tile(str(store.samples.tile[row]))
        np.testing.assert_array_equal(one.scene, store.read_whole(tile, 1))  # June, as the photos
        np.testing.assert_array_equal(one.place, store.samples.position[row])
        assert one.cosine.shape == (40, 40)
    windows = CONFIG.model_copy(update={"scene_size": 12})
    for one in similarity_maps(colour_model, store, rows, windows):
        position = store.samples.position[one.row]
        corner = np.round(position - one.place).astype(int)
        tile = store.tile(str(store.samples.tile[one.row]))
        np.testing.assert_array_equal(one.scene, store.read_scene(tile, 1, *corner, 12))
        # 12 is no multiple of the patches of 8: the map is cut back to the scene.
        assert one.cosine.shape == (12, 12)
        assert (one.place >= 0).all()
        assert (one.place <= 12).all()


def test_maps_are_the_cosine_of_photo_and_embedding(store: Store, model: GAIR) -> None:
    row = store.samples.select(split="train")[:1]
    (one,) = similarity_maps(model, store, row, CONFIG)
    images = normalize_scenes(
        torch.from_numpy(one.scene.astype(np.float32))[None], model.config.remote_sensing
    )
    with torch.no_grad():
        dense = model.interpolate_dense(model.encode_remote_sensing(images), (40, 40))[0]
    photo = encode(model, store, row, CONFIG, ("photo",)).photo[0]
    expected = F.cosine_similarity(dense, photo[:, None, None], dim=0)
    torch.testing.assert_close(one.cosine, expected, atol=1e-5, rtol=0)


def test_location_retrieval_has_recalls_and_kilometres(store: Store, model: GAIR) -> None:
    found = evaluate(model, store, "test", CONFIG)
    for name in ("photo_to_location", "location_to_photo", "scene_to_location", "location_to_scene"):
        assert 0 <= found[f"{name}_recall_1"] <= found[f"{name}_recall_5"] <= 1
    assert found["photo_to_location_median_km"] < 1  # one city


def test_labels_are_those_of_the_pixels(store: Store, model: GAIR, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that returns the first band of a pixel must agree with the class, made of that band."""

    def pixel(images: Tensor, uv: Tensor, method: None) -> Tensor:
        return F.grid_sample(images[:, :1], 2 * uv[:, None] - 1, mode="nearest", align_corners=False)[
            :, 0, 0, :, None
        ]

    monkeypatch.setattr(model, "encode_remote_sensing", lambda images: images)
    monkeypatch.setattr(model, "interpolate", pixel)
    found = labelled_places(model, store, "train", CONFIG, scenes=12, per_scene=8)
    assert found.embeddings.shape == (96, 1)
    # Blocks above 2000 DN are bright; 0 to 99 DN of noise lie on top.
    lowest, spread = 1172.9397 - 2 * 706.6250, 4 * 706.6250
    dn = found.embeddings[:, 0] * spread + lowest
    sure = ((dn < 2000.5) & (dn > 0)) | ((dn > 2099.5) & (dn < 2580))
    assert sure.sum() > 30
    assert torch.equal(found.labels[sure], (dn[sure] > 2050).long())


def test_probes_solve_what_is_separable() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = torch.randn(3, 8, generator=generator) * 4
    values = centres[labels] + torch.randn(300, 8, generator=generator)
    train = LabelledPlaces(values[:200], labels[:200])
    for probe in (nearest_neighbours, linear_probe):
        assert (probe(train, values[200:]) == labels[200:]).float().mean() > 0.95


def test_probes_may_read_the_encoders_features_without_the_localizer(store: Store, model: GAIR) -> None:
    own, read, pooled = (
        labelled_places(model, store, "train", CONFIG, scenes=2, per_scene=4, method=method)
        for method in (None, "bilinear", "pool")
    )
    assert torch.equal(own.labels, read.labels)
    assert not torch.allclose(own.embeddings, read.embeddings)
    torch.testing.assert_close(pooled.embeddings[:4], pooled.embeddings[:1].expand(4, -1))


def test_probes_report_both_and_the_majority(store: Store, model: GAIR) -> None:
    found = probe_land_cover(model, store, "test", CONFIG)
    for name in ("nearest", "linear", "majority"):
        assert 0 <= found[f"land_cover_{name}_accuracy"] <= 1
    assert found["land_cover_majority_mean_recall"] == pytest.approx(0.5)


def test_the_command_prints_the_model_beside_an_untrained_one_and_draws(
    store: Store, model: GAIR, tmp_path: Path
) -> None:
    checkpoint.save(model, tmp_path / "m.safetensors")
    command = [sys.executable, str(ROOT / "training" / "evaluate.py"), "retrieval"]
    command += [str(tmp_path / "m.safetensors"), str(store.folder), "--gallery", "6", "--galleries", "2"]
    command += ["--json", str(tmp_path / "m.json"), "--figures", str(tmp_path / "figures"), "--pictures", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "m.json").read_text())
    assert set(found) == {"model", "untrained"}
    assert "place_percentile_median" in done.stdout
    # Two photos, three panels of 288 pixels: photo, scene and map.
    assert Image.open(tmp_path / "figures" / "figure_7.png").size == (888, 630)
    assert Image.open(tmp_path / "figures" / "figure_8.png").size == (594, 630)


def test_the_star_of_figure_7_stands_on_the_true_place(store: Store, colour_model: GAIR) -> None:
    from gair_core.pretrain.figures import _STAR, figure_7

    rows = store.samples.select(split="test")[:1]
    pixels = np.asarray(figure_7(colour_model, store, rows, CONFIG)).astype(int)
    row, col = store.samples.position[rows[0]]  # in a tile of 40 pixels
    left, top = 6 + 294 + col / 40 * 288, 6 + 18 + row / 40 * 288
    red = (pixels == _STAR).all(axis=2)
    red[:, :300] = False
    red[:, 594:] = False
    assert red[round(top), round(left)]
