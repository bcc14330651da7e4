"""The fit: an embedding helps where it can, hurts nowhere, and what is said of held-out polygons is true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gair_core.errors import BadInputError, CancelledError
from gair_core.finetune.few_shot.features import PixelTable
from gair_core.finetune.few_shot.fit import FitOptions, Setting, build_head, fit
from gair_core.finetune.few_shot.search import Classifier, Training
from gair_core.heads import HeadClass, HeadMetadata
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.progress import Progress

OPTIONS = FitOptions(
    components=(0, 4), penalties=(1e-1, 1e-2), embedding_penalties=(1e-1, 1e-2), folds=4, search_pixels=300
)
NAMES = ["water", "wood", "town"]


def table(
    *, seed=0, polygons=18, classes=3, pixels=12, bands_tell=1.0, embedding_tells=0.0, noise=1.0, width=12
) -> tuple[PixelTable, np.ndarray, np.ndarray]:
    """Pixels whose noise is shared by their polygon, as in real scenes."""
    rng = np.random.default_rng(seed)
    of_polygon = np.arange(polygons) % classes
    polygon = np.repeat(np.arange(polygons), pixels)
    target = of_polygon[polygon]

    def values(size, tells):
        centre = rng.normal(size=(classes, size)) * tells
        own = rng.normal(size=(polygons, size)) * noise
        return centre[target] + own[polygon] + 0.3 * rng.normal(size=(len(polygon), size))

    bands = (2000 + 500 * values(30, bands_tell)).astype(np.float32)
    embedding = values(width, embedding_tells).astype(np.float32)
    lonlat = np.array([10.0, 50.0]) + rng.random((polygons, 2))[polygon] * 0.05
    return PixelTable(embedding, bands, np.ones(len(polygon), bool), lonlat), target, polygon


def accuracy(fitted, pixels, target) -> float:
    return float((fitted.classifier.logits(pixels).argmax(axis=1) == target).mean())


@pytest.mark.parametrize("seed", range(3))
def test_an_embedding_of_noise_does_not_hurt(seed):
    pixels, target, polygon = table(seed=seed, polygons=60, bands_tell=0.6)
    train = polygon < 30
    fits = [
        fit(pixels.take(train), target[train], polygon[train], NAMES, options=options)
        for options in (OPTIONS, replace(OPTIONS, components=(0,)))
    ]
    both, bands = (accuracy(found, pixels.take(~train), target[~train]) for found in fits)
    assert both >= bands - 0.02


def test_an_embedding_that_tells_classes_apart_is_used():
    pixels, target, polygon = table(polygons=60, bands_tell=0.1, embedding_tells=1.5, width=4)
    train = polygon < 30
    found = fit(pixels.take(train), target[train], polygon[train], NAMES, options=OPTIONS)
    alone = fit(
        pixels.take(train), target[train], polygon[train], NAMES, options=replace(OPTIONS, components=(0,))
    )
    assert found.components == 4
    assert found.embedding_share > 0.8
    test = pixels.take(~train)
    assert accuracy(found, test, target[~train]) > accuracy(alone, test, target[~train]) + 0.2
    best = max(found.scores, key=lambda one: one.score)
    assert best.weight == max(one.weight for one in found.scores)
    assert sum(one.weight for one in found.scores) == pytest.approx(1)
    assert Setting(0, 1e-1) in {one.setting for one in found.scores}
    assert alone.embedding_share == alone.components == 0


def test_the_bands_are_not_in_the_way_of_an_embedding_that_tells_all():
    # Few polygons, and bands that tell half the truth: cross-validation cannot see how far z is ahead.
    def kept(seed):
        pixels, target, polygon = table(seed=seed, polygons=90, bands_tell=0.5, embedding_tells=1.5)
        train = polygon < 12
        parts = pixels.take(train), target[train], polygon[train], NAMES
        both = fit(*parts, options=OPTIONS)
        blank = replace(pixels, bands=np.zeros_like(pixels.bands))
        alone = fit(blank.take(train), *parts[1:], options=OPTIONS)
        test = ~train
        return [
            accuracy(both, pixels.take(test), target[test]),
            accuracy(alone, blank.take(test), target[test]),
        ]

    both, alone = np.mean([kept(seed) for seed in range(4)], axis=0)
    assert both >= alone - 0.03


def test_a_setting_weighs_by_how_far_it_is_below_the_best():
    pixels, target, polygon = table(polygons=30, bands_tell=0.6, embedding_tells=0.6)
    found = fit(pixels, target, polygon, NAMES, options=OPTIONS)
    best = max(found.scores, key=lambda one: one.score)
    some = [one for one in found.scores if one.weight > 0 and one.score < best.score]
    assert some
    for one in some:
        expected = best.weight * np.exp((one.score - best.score) / one.error)
        assert one.weight == pytest.approx(expected)


def test_the_mean_of_classifiers_has_the_mean_of_their_logits():
    pixels, target, _ = table(bands_tell=0.7, embedding_tells=0.7)
    training = Training(pixels, target, 3, 4)
    members = [training.fit(setting, 1e-4) for setting in (Setting(0, 1e-1), Setting(4, 1e-2, 0.1))]
    expected = 0.3 * members[0].logits(pixels) + 0.7 * members[1].logits(pixels)
    np.testing.assert_allclose(Classifier.mean(members, [0.3, 0.7]).logits(pixels), expected)


def test_held_out_predictions_know_nothing_of_their_polygon():
    # Every polygon has a signature of its own and a class by chance: whoever has seen it knows its class.
    pixels, _, polygon = table(polygons=40, bands_tell=0, embedding_tells=0, noise=3.0)
    of_polygon = np.random.default_rng(5).permutation(np.arange(40) % 2)
    target = of_polygon[polygon]
    found = fit(pixels, target, polygon, NAMES[:2], options=replace(OPTIONS, penalties=(1e-4, 1e-3)))
    assert accuracy(found, pixels, target) > 0.95
    assert (found.held_out >= 0).all()
    assert 0.25 < (found.held_out == target).mean() < 0.75
    for number in np.unique(polygon):
        assert len(np.unique(found.fold[polygon == number])) == 1


def test_what_a_fold_looks_like_changes_no_other_prediction_in_it():
    pixels, target, polygon = table(polygons=24, bands_tell=0.8, embedding_tells=0.8)
    one = fit(pixels, target, polygon, NAMES, options=OPTIONS)
    spoilt = polygon == polygon[one.fold == 0][0]
    bands = np.where(spoilt[:, None], np.float32(9999), pixels.bands)
    embedding = np.where(spoilt[:, None], np.float32(-50), pixels.embedding)
    other = fit(replace(pixels, bands=bands, embedding=embedding), target, polygon, NAMES, options=OPTIONS)
    np.testing.assert_array_equal(one.fold, other.fold)
    rest = (one.fold == 0) & ~spoilt
    assert rest.any()
    np.testing.assert_array_equal(one.held_out_probability[rest], other.held_out_probability[rest])
    elsewhere = one.fold > 0
    assert (one.held_out_probability[elsewhere] != other.held_out_probability[elsewhere]).any()


def test_the_same_seed_gives_the_same_fit():
    pixels, target, polygon = table(bands_tell=0.7, embedding_tells=0.7)
    one, other = (fit(pixels, target, polygon, NAMES, options=OPTIONS) for _ in range(2))
    np.testing.assert_array_equal(one.classifier.weight, other.classifier.weight)
    np.testing.assert_array_equal(one.held_out_probability, other.held_out_probability)
    assert one.scores == other.scores


def test_a_class_with_one_polygon_is_trained_and_named():
    pixels, target, polygon = table()
    kept = (target != 2) | (polygon == polygon[target == 2][0])
    found = fit(pixels.take(kept), target[kept], polygon[kept], NAMES, options=OPTIONS)
    single = target[kept] == 2
    assert (found.held_out[single] == -1).all()
    assert np.isnan(found.held_out_probability[single]).all()
    assert found.used[single].any()
    assert (found.held_out[~single] >= 0).all()
    assert any("'town'" in note for note in found.notes)
    assert accuracy(found, pixels.take(kept).take(single), np.full(single.sum(), 2)) > 0.9


def test_one_polygon_a_class_still_makes_a_head():
    pixels, target, polygon = table(polygons=3, bands_tell=2.0)
    found = fit(pixels, target, polygon, NAMES, options=OPTIONS)
    assert found.components == 0
    assert found.folds == 0
    assert found.scores == ()
    assert (found.held_out == -1).all()
    assert any("hold" in note for note in found.notes)
    assert accuracy(found, pixels, target) == 1


def test_two_polygons_a_class_are_held_out():
    pixels, target, polygon = table(polygons=4, classes=2, bands_tell=2.0)
    found = fit(pixels, target, polygon, NAMES[:2], options=OPTIONS)
    assert (found.held_out >= 0).all()


def test_pixels_without_data_are_left_out():
    pixels, target, polygon = table()
    valid = np.random.default_rng(0).random(len(target)) < 0.7
    broken = replace(
        pixels, valid=valid, bands=np.where(valid[:, None], pixels.bands, np.nan).astype(np.float32)
    )
    found = fit(broken, target, polygon, NAMES, options=OPTIONS)
    assert np.isfinite(found.classifier.bias).all()
    assert (found.held_out[~valid] == -1).all()
    assert not found.used[~valid].any()


def test_a_band_that_is_the_same_everywhere_is_harmless():
    pixels, target, polygon = table()
    bands = pixels.bands.copy()
    bands[:, 5] = 1234.0
    found = fit(replace(pixels, bands=bands), target, polygon, NAMES, options=OPTIONS)
    assert np.isfinite(found.classifier.band_weight).all()
    np.testing.assert_allclose(found.classifier.band_weight[:, 5], 0, atol=1e-9)


def test_one_class_is_refused_by_name():
    pixels, target, polygon = table()
    with pytest.raises(BadInputError, match="only 'water'"):
        fit(pixels, np.zeros_like(target), polygon, NAMES, options=OPTIONS)


def test_a_class_without_pixels_is_said():
    pixels, target, polygon = table(classes=2)
    found = fit(pixels, target, polygon, NAMES, options=OPTIONS)
    assert any("'town'" in note for note in found.notes)
    assert (found.classifier.logits(pixels).argmax(axis=1) < 2).all()


def test_a_fit_can_be_cancelled():
    class Impatient(Progress):
        def report(self, *_) -> None:
            self.cancel()

    pixels, target, polygon = table()
    with pytest.raises(CancelledError):
        fit(pixels, target, polygon, NAMES, options=OPTIONS, progress=Impatient())


def test_impossible_options_are_refused():
    with pytest.raises(BadInputError, match="3 folds"):
        FitOptions(folds=2)
    with pytest.raises(BadInputError, match="positive"):
        FitOptions(penalties=(0.0,))


def test_the_head_is_the_classifier():
    pixels, target, polygon = table(bands_tell=0.5, embedding_tells=1.0)
    found = fit(pixels, target, polygon, NAMES, options=OPTIONS)
    classes = tuple(HeadClass(value=k + 1, name=name, colour=(k, 0, 0)) for k, name in enumerate(NAMES))
    head = build_head(found, PixelFeatures(), HeadMetadata(classes=classes))
    with torch.no_grad():
        z = torch.from_numpy(pixels.embedding).T[:, None]
        sampled = torch.einsum("kd,dyx->kyx", head.weight, z)
        logits = head.logits([sampled, torch.from_numpy(pixels.bands).T[:, None]])[:, 0].T
    np.testing.assert_allclose(logits.numpy(), found.classifier.logits(pixels), rtol=1e-3, atol=1e-3)
