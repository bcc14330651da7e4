"""The demo's land cover: labels, varied scenes and the fit."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gair_core import checkpoint
from gair_core.errors import BadInputError
from gair_core.finetune.datasets.scenes import IGNORED, SceneExample, make_classes
from gair_core.finetune.datasets.world import WorldData
from gair_core.finetune.world_land_cover import (
    CLASSES,
    FitOptions,
    LabelledPixels,
    Variety,
    chance_iou,
    collect_pixels,
    evaluate_land_cover,
    fit_land_cover,
    merged_target,
)
from gair_core.heads import HeadClass
from gair_core.heads.pixel_features import PixelFeatures, window_features
from gair_core.inference.pixel_bands import read_features
from gair_core.pretrain.splits import SplitConfig
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene
from gair_core.world import LAND_COVER, World
from gair_core.world.writers import write_store
from tests.core.inference import scenes

NUMBER = {one.name: index for index, one in enumerate(CLASSES)}
NONE = Variety(gain=0, band_gain=0, contrast=0, haze=0, offset=0, noise=0, glint=0, shade=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six small cities of a world that no training saw, one of them for test."""
    folder = tmp_path_factory.mktemp("world") / "store"
    cities = [World(seed=3).city(index, 64) for index in range(6)]
    write_store(
        folder,
        cities,
        [date(2023, 1, 15), date(2023, 7, 10)],
        Progress(),
        photos=4,
        size=32,
        splits=SplitConfig(validation=0, test=0),
        held_out={cities[5].name},
    )
    return WorldData(folder, "segmentation")


def labelled(names, green=500):
    """An example of one row of pixels with these land covers."""
    dn = np.full((1, 10, 1, len(names)), green, dtype=np.float32)
    target = np.array([[LAND_COVER.index(name) if name else IGNORED for name in names]])
    return SceneExample(dn, np.ones((1, 1, len(names)), dtype=bool), target)


def test_labels_are_merged_and_roads_left_out():
    data = SimpleNamespace(title="world", classes=make_classes(dict.fromkeys(LAND_COVER, (0, 0, 0))))
    names = [*LAND_COVER, ""]
    found = merged_target(labelled(names), data)[0]
    wanted = [
        "water",
        "trees",
        "crops",
        "grass",
        "bare ground",
        "snow and ice",
        "",
        "built-up",
        "built-up",
        "",
    ]
    assert [NUMBER.get(name, IGNORED) for name in wanted] == found.tolist()


def test_a_frozen_lake_is_ice_and_bright_roofs_are_not():
    data = SimpleNamespace(title="world", classes=make_classes(dict.fromkeys(LAND_COVER, (0, 0, 0))))
    found = merged_target(labelled(["water", "dense built-up"], green=5000), data)[0]
    assert found.tolist() == [NUMBER["snow and ice"], NUMBER["built-up"]]


def test_data_of_another_kind_are_refused():
    classes = (HeadClass(value=1, name="maize", colour=(0, 0, 0)),)
    with pytest.raises(BadInputError, match="fields knows the classes maize, none of the procedural"):
        merged_target(labelled(["water"]), SimpleNamespace(title="fields", classes=classes))


def test_no_variety_changes_nothing_and_variety_keeps_the_ground():
    rng = np.random.default_rng(1)
    dn = rng.uniform(200, 4000, (10, 24, 24)).astype(np.float32)
    fields = np.full(dn.shape[1:], NUMBER["crops"])
    np.testing.assert_allclose(NONE.vary(dn, fields, rng), dn, rtol=1e-6)
    one, again = (Variety().vary(dn, fields, np.random.default_rng(2)) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert one.dtype == np.float32
    assert one.min() >= 1
    assert not np.allclose(one, Variety().vary(dn, fields, np.random.default_rng(3)), rtol=0.02)
    # What differs is the light, not the place: bright stays bright.
    for band in range(10):
        assert np.corrcoef(one[band].ravel(), dn[band].ravel())[0, 1] > 0.99


def test_haze_only_adds_and_most_to_blue():
    dn = np.full((10, 8, 8), 1000, dtype=np.float32)
    hazy = replace(NONE, haze=0.5)
    fields = np.full(dn.shape[1:], NUMBER["crops"])
    added = [hazy.vary(dn, fields, np.random.default_rng(seed))[:, 0, 0] - 1000 for seed in range(30)]
    assert all((one >= 0).all() and (np.diff(one) <= 0).all() for one in added)
    assert 10 <= sum(one[0] > 0 for one in added) <= 28


def test_glint_is_light_of_all_colours_on_water_alone():
    dn = np.full((10, 8, 8), 300, dtype=np.float32)
    water = np.arange(64).reshape(8, 8) % 3 == 0
    labels = np.where(water, NUMBER["water"], NUMBER["grass"])
    shining = replace(NONE, glint=1.0).vary(dn, labels, np.random.default_rng(4)) - dn
    np.testing.assert_allclose(shining[:, ~water], 0, atol=1e-3)
    light = shining[:, water]
    assert (light > 50).all()
    assert light.std(axis=0).max() < 0.1 * light.mean()  # flat over the bands


def test_shade_darkens_towns_alone_and_unevenly():
    dn = np.full((10, 16, 16), 1500, dtype=np.float32)
    town = np.arange(256).reshape(16, 16) % 2 == 0
    labels = np.where(town, NUMBER["built-up"], NUMBER["trees"])
    parts = []
    for seed in range(20):
        shaded = replace(NONE, shade=1.0).vary(dn, labels, np.random.default_rng(seed))
        np.testing.assert_allclose(shaded[:, ~town], 1500, rtol=1e-5)
        np.testing.assert_allclose(shaded[:, town] / shaded[:1, town], 1, rtol=1e-3)  # shade has no colour
        assert np.ptp(shaded[0, town]) > 100
        parts.append(shaded[0, town].mean() / 1500)
    assert min(parts) < 0.5
    assert max(parts) < 1.3


def test_features_of_a_tile_are_those_that_segment_reads_from_a_file(tmp_path):
    dn = scenes.textured(24, 32)
    path = scenes.write(tmp_path / "scene.tif", dn)
    features = PixelFeatures()
    with Scene.open(path, offset=0) as scene:
        wanted, valid = read_features(scene, scene.native, np.arange(24), np.arange(32), features)
    assert valid.all()
    found = window_features(torch.from_numpy(dn.astype(np.float32))[None], features)[0].numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def made_pixels(count=600):
    """Pixels whose class is written in one band and, less clearly, in one dimension of the embedding."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, len(CLASSES), count)
    bands = rng.normal(1000, 50, (count, PixelFeatures().count)).astype(np.float32)
    bands[:, 3] += 1000 * target
    embedding = rng.normal(0, 1, (count, 128)).astype(np.float32)
    embedding[:, 7] += 8 * target
    return LabelledPixels(embedding, bands, target)


@pytest.mark.parametrize("use_bands", [True, False])
def test_the_head_is_the_classifier_that_was_solved(use_bands):
    pixels = made_pixels()
    options = FitOptions(penalty=1e-4, embedding_penalty=1e-4, use_bands=use_bands)
    head = fit_land_cover(checkpoint.load("demo"), pixels, options)
    with torch.inference_mode():
        z = torch.from_numpy(pixels.embedding) @ head.weight.T
        x = torch.from_numpy(pixels.bands).T[:, None]
        logits = head.logits([z.T[:, None].clone(), x])[:, 0]
    assert float((logits.argmax(dim=0).numpy() == pixels.target).mean()) > 0.95
    assert bool(head.band_weight.any()) == use_bands
    assert head.classes == CLASSES


def test_pixels_are_drawn_from_each_class_and_the_same_again(store):
    model = checkpoint.load("demo")
    options = FitOptions(scenes=4, pixels=5, seed=1)
    one, again = (collect_pixels(model, store, "train", options) for _ in range(2))
    np.testing.assert_array_equal(one.embedding, again.embedding)
    assert one.embedding.shape == (len(one.target), model.config.embed_dim)
    assert one.bands.shape == (len(one.target), PixelFeatures().count)
    assert len(np.unique(one.target)) >= 3
    assert np.bincount(one.target).max() <= 4 * 5
    with pytest.raises(BadInputError, match="no scene in the split validation"):
        collect_pixels(model, store, "validation", options)


def test_the_maps_that_are_measured_are_those_of_the_whole_scene(store):
    model = checkpoint.load("demo")
    head = fit_land_cover(model, collect_pixels(model, store, "train", FitOptions()), FitOptions())
    results = evaluate_land_cover(model, head, store, "test")
    counted = sum((merged_target(store.read("test", index), store) != IGNORED).sum() for index in range(2))
    assert sum(metrics["count"] for metrics in results.class_metrics.values()) == counted
    counts = [metrics["count"] for metrics in results.class_metrics.values()]
    assert results.metrics["mean_iou"] > chance_iou(counts) + 0.1


def test_chance_is_that_of_random_maps():
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.3, 0.2])
    truth, guess = (rng.choice(3, 200_000, p=shares) for _ in range(2))
    ious = [((truth == k) & (guess == k)).sum() / ((truth == k) | (guess == k)).sum() for k in range(3)]
    assert chance_iou([500, 300, 0, 200]) == pytest.approx(np.mean(ious), abs=0.005)
