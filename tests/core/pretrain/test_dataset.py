"""Windows, dates, photos, noise and augmentation against what was written into the store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.errors import BadInputError
from gair_core.model.gair import GAIR
from gair_core.pretrain.augmentation import jitter_colours, prepare
from gair_core.pretrain.config import AugmentationConfig, SamplingConfig
from gair_core.pretrain.dataset import PretrainDataset, collate, von_mises_fisher
from gair_core.pretrain.sampler import BatchSampler, Draw
from gair_core.pretrain.store import Sample, Store, StoreWriter
from gair_core.sentinel2.bands import normalize
from tests.core.pretrain.stores import make_store, make_tile

MODEL = GAIRConfig(
    embed_dim=16,
    remote_sensing=RemoteSensingConfig(width=16, depth=1, num_heads=2, tile_size=24, patch_size=8),
    street_view=StreetViewConfig(image_size=16, patch_size=8, width=16, depth=1, num_heads=2),
    location=LocationConfig(num_frequencies=8, hidden_width=8, hidden_layers=1),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(make_store(tmp_path_factory.mktemp("store") / "store", without_photo=1))


def loader(store: Store, workers: int, **options: float) -> DataLoader:
    dataset = PretrainDataset(store, MODEL, AugmentationConfig(**options), seed=5)
    batches = BatchSampler(
        store.samples, store.samples.select(split="train"), SamplingConfig(batch_size=6), seed=5, steps=5
    )
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=lambda batch: batch)


def test_windows_contain_their_place_and_show_what_the_tile_holds(store: Store) -> None:
    dataset = PretrainDataset(store, MODEL, AugmentationConfig())
    corners = set()
    dates = set()
    for epoch in range(60):
        draw = Draw(8, epoch, 0)
        batch = dataset.read(draw)
        tile = make_tile("tile_Bb", 1)
        row, col = store.samples.position[8]
        corner = np.round([row - float(batch.uv[0, 1]) * 24, col - float(batch.uv[0, 0]) * 24]).astype(int)
        assert ((batch.uv >= 0) & (batch.uv <= 1)).all()
        window = tile.reflectance[:, :, corner[0] : corner[0] + 24, corner[1] : corner[1] + 24]
        matches = [date for date in range(2) if np.array_equal(batch.scene[0].numpy(), window[date])]
        assert len(matches) == 1
        dates |= set(matches)
        corners.add(tuple(corner))
        assert batch.lonlat[0].tolist() == store.samples.lonlat[8].tolist()
    assert dates == {0, 1}
    assert len(corners) > 20


def test_any_number_of_workers_gives_the_same_batches(store: Store) -> None:
    for alone, helped in zip(loader(store, 0), loader(store, 2), strict=True):
        for name in ("index", "scene", "photo", "has_photo", "uv", "lonlat", "flips", "jitter"):
            assert torch.equal(getattr(alone, name), getattr(helped, name)), name


def test_without_augmentation_every_visit_is_the_same(store: Store) -> None:
    dataset = PretrainDataset(store, MODEL, AugmentationConfig.none())
    first, second = dataset.read(Draw(8, 0, 0)), dataset.read(Draw(8, 7, 3))
    assert torch.equal(first.scene, second.scene)
    assert torch.equal(first.uv, second.uv)
    assert not first.flips.any()
    assert (first.jitter == 1).all()
    inputs = prepare(first, MODEL)
    expected = normalize(first.scene.float(), quantize=False)
    assert torch.equal(inputs.scene, expected)


def test_a_flipped_scene_gives_the_flipped_query(store: Store) -> None:
    """The pixel that the query hits stays the pixel that the query hits."""
    dataset = PretrainDataset(store, MODEL, AugmentationConfig(brightness=0, contrast=0, saturation=0))
    plain = PretrainDataset(store, MODEL, AugmentationConfig.none())
    seen = set()
    for position in range(40):
        batch = dataset.read(Draw(10, 0, position))
        inputs = prepare(batch, MODEL)
        u, v = (min(int(value * 24), 23) for value in inputs.uv[0, 0].tolist())
        row, col = (int(value) for value in store.samples.position[10])
        tile = make_tile("tile_Bb", 1)
        candidates = [
            normalize(torch.from_numpy(tile.reflectance[d].astype(np.float32)), quantize=False)
            for d in (0, 1)
        ]
        hits = [torch.allclose(inputs.scene[0, :, v, u], c[:, row, col]) for c in candidates]
        assert any(hits)
        seen.add(tuple(batch.flips[0, :2].tolist()))
        assert torch.equal(inputs.lonlat, plain.read(Draw(10, 0, 0)).lonlat)
    assert len(seen) == 4


def test_a_flipped_scene_and_query_have_the_same_embedding_under_symmetric_weights(store: Store) -> None:
    torch.manual_seed(0)
    model = GAIR(MODEL).double().eval()
    with torch.no_grad():
        patch = model.remote_sensing.patch_embed.proj.weight
        patch.copy_((patch + patch.flip(2) + patch.flip(3) + patch.flip(2, 3)) / 4)
        kernel = model.nili.layers[0].weight[:, :-2].view(16, 16, 3, 3)
        kernel.copy_((kernel + kernel.flip(2) + kernel.flip(3) + kernel.flip(2, 3)) / 4)
        model.nili.layers[0].weight[:, -2:] = 0
    batch = PretrainDataset(store, MODEL, AugmentationConfig.none()).read(Draw(3, 0, 0))
    found = []
    for flips in ([0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]):
        flipped = type(batch)(**{**vars(batch), "flips": torch.tensor([flips]).bool()})
        inputs = prepare(flipped, MODEL, torch.float64)
        found.append(model.interpolate(model.encode_remote_sensing(inputs.scene), inputs.uv))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-12)


def test_samples_without_photo_serve_scene_and_location(store: Store) -> None:
    dataset = PretrainDataset(store, MODEL, AugmentationConfig())
    batch = collate([dataset.read(Draw(0, 0, 0)), dataset.read(Draw(1, 0, 1))])
    assert batch.has_photo.tolist() == [False, True]
    assert not batch.unreadable.any()
    inputs = prepare(batch, MODEL)
    assert (inputs.photo[0] == 0).all()
    assert inputs.photo[1].abs().sum() > 0


def test_an_unreadable_photo_is_left_out_and_reported(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "s")
    shard = folder / "photos" / "Aa.tar"
    data = bytearray(shard.read_bytes())
    data[600:900] = bytes(300)
    shard.write_bytes(bytes(data))
    batch = PretrainDataset(Store(folder), MODEL, AugmentationConfig()).read(Draw(0, 0, 0))
    assert batch.unreadable.tolist() == [True]
    assert batch.has_photo.tolist() == [False]


def test_without_random_dates_the_photos_season_is_shown(tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "store"))
    augmentation = AugmentationConfig(random_date=False, flip_scene=False)
    dataset = PretrainDataset(store, MODEL, augmentation)
    for visit in range(8):
        batch = dataset.read(Draw(visit, 0, visit))
        tile = store.tile(str(store.samples.tile[visit]))
        june = store.read_whole(tile, 1)
        windows = np.lib.stride_tricks.sliding_window_view(june, batch.scene.shape[2:], axis=(1, 2))
        same = (windows == batch.scene[0].numpy()[:, None, None]).all(axis=(0, 3, 4))
        assert same.any()


def test_cloudy_dates_are_passed_over(tmp_path: Path) -> None:
    tile = make_tile("t", 0, dates=3)
    tile.reflectance[0, :, :, :30] = 0
    tile.reflectance[2] = 0
    writer = StoreWriter(tmp_path / "s")
    with writer.unit("u") as unit:
        unit.add_tile(tile)
        unit.add_sample(Sample("1", "t", 20, 5, 0, 0, split="train"))
    writer.finish()
    dataset = PretrainDataset(Store(tmp_path / "s"), MODEL, AugmentationConfig(random_window=False))
    for position in range(20):
        scene = dataset.read(Draw(0, 0, position)).scene[0].numpy()
        np.testing.assert_array_equal(scene, tile.reflectance[1, :, 8:32, 0:24])


def test_missing_pixels_become_the_mean(store: Store) -> None:
    batch = PretrainDataset(store, MODEL, AugmentationConfig()).read(Draw(1, 0, 0))
    batch.scene[0, :, 4, 6] = 0
    batch = type(batch)(**{**vars(batch), "flips": torch.zeros(1, 3, dtype=torch.bool)})
    assert (prepare(batch, MODEL).scene[0, :, 4, 6] == 0.5).all()


def test_jitter_is_brightness_contrast_saturation_around_grey() -> None:
    colours = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 255
    torch.testing.assert_close(
        jitter_colours(colours, torch.tensor([[1.2, 1, 1], [1, 1, 1]]))[0], 1.2 * colours[0]
    )
    grey = jitter_colours(colours, torch.tensor([[1.0, 1, 0], [1, 0, 1]]))
    expected = (colours[0] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    torch.testing.assert_close(grey[0], expected.expand(3, -1, -1))
    assert grey[1].std() < 1e-4


def test_jitter_touches_visible_bands_alone(store: Store) -> None:
    batch = PretrainDataset(store, MODEL, AugmentationConfig.none()).read(Draw(1, 0, 0))
    jittered = type(batch)(**{**vars(batch), "jitter": torch.full((1, 2, 3), 1.15)})
    before, after = prepare(batch, MODEL), prepare(jittered, MODEL)
    changed = (before.scene != after.scene).flatten(2).any(dim=2)[0].tolist()
    assert changed == [True] * 3 + [False] * 7
    assert not torch.equal(before.photo, after.photo)


@pytest.mark.parametrize(("kappa", "degrees"), [(300.0, 4.15), (1e8, 0.00718)])
def test_noise_moves_places_by_the_expected_distance(kappa: float, degrees: float) -> None:
    generator = np.random.default_rng(0)
    start = np.array([179.9, 60.0])
    moved = np.array([von_mises_fisher(start, kappa, generator) for _ in range(4000)])
    lon, lat = np.radians(moved).T
    lon0, lat0 = np.radians(start)
    half = np.sin((lat - lat0) / 2) ** 2 + np.cos(lat) * np.cos(lat0) * np.sin((lon - lon0) / 2) ** 2
    distance = np.degrees(2 * np.arcsin(np.sqrt(half)))
    # For large kappa the distance is Rayleigh distributed with sigma = 1 / sqrt(kappa).
    assert distance.mean() == pytest.approx(np.degrees(np.sqrt(np.pi / 2 / kappa)), rel=0.03)
    assert distance.mean() == pytest.approx(degrees, rel=0.03)
    assert np.abs(moved[:, 0]).max() <= 180


def test_noise_feeds_the_place_and_redraws_queries_that_leave_the_window(store: Store) -> None:
    dataset = PretrainDataset(store, MODEL, AugmentationConfig(location_kappa=300))
    calm = PretrainDataset(store, MODEL, AugmentationConfig(location_kappa=1e13))
    plain = PretrainDataset(store, MODEL, AugmentationConfig())
    far = [dataset.read(Draw(8, 0, p)) for p in range(200)]
    assert (torch.cat([b.lonlat for b in far]) - torch.tensor(store.samples.lonlat[8])).abs().mean() > 1
    uv = torch.cat([batch.uv for batch in far])
    assert ((uv >= 0) & (uv <= 1)).all()
    assert abs(uv.mean() - 0.5) < 0.05
    assert uv.std() == pytest.approx(12**-0.5, rel=0.1)
    near = calm.read(Draw(8, 0, 0))
    original = plain.read(Draw(8, 0, 0))
    metres = (near.uv - original.uv) * 240
    assert 0 < metres.abs().max() < 20
    moved = (near.lonlat - original.lonlat)[0].numpy() * [np.cos(np.radians(45)) * 111195, -111195]
    np.testing.assert_allclose(metres[0].numpy(), moved, rtol=1e-3)


def test_stores_that_do_not_fit_are_refused(store: Store) -> None:
    with pytest.raises(BadInputError, match="10 m pixels, the model wants"):
        coarse = MODEL.model_copy(
            update={"remote_sensing": MODEL.remote_sensing.model_copy(update={"gsd": 20.0})}
        )
        PretrainDataset(store, coarse, AugmentationConfig())
    big = MODEL.model_copy(
        update={"remote_sensing": MODEL.remote_sensing.model_copy(update={"tile_size": 48})}
    )
    with pytest.raises(BadInputError, match="fewer than the model's tile_size 48"):
        PretrainDataset(store, big, AugmentationConfig()).read(Draw(0, 0, 0))


def test_training_imports_need_no_geospatial_library() -> None:
    blocked = ("rasterio", "osgeo", "pyproj", "zarr", "geopandas", "pyogrio", "shapely", "tensorboard")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "import gair_core.pretrain.trainer, gair_core.pretrain.probes, gair_core.pretrain.figures\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
