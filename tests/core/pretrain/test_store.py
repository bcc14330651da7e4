"""The store: Zarr against the zarr library, units, reading, damage, and the check."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gair_core.errors import BadInputError
from gair_core.pretrain import zarr as own
from gair_core.pretrain.splits import SplitConfig, assign_splits, near_pairs, spatial_groups
from gair_core.pretrain.store import Sample, Store, StoreWriter, encode_photo
from gair_core.pretrain.store_check import StoreCheckRequest, check_store
from gair_core.progress import Progress
from tests.core.pretrain.stores import make_photo, make_store, make_tile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store")


@pytest.mark.parametrize("shape", [(2, 10, 70, 33), (1, 10, 64, 64)])
def test_the_zarr_library_reads_what_we_write(tmp_path: Path, shape: tuple[int, ...]) -> None:
    zarr = pytest.importorskip("zarr")
    values = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    values[0] = 0
    own.write_array(tmp_path / "a", values, (1, 10, 16, 16), ("time", "band", "y", "x"))
    array = zarr.open_array(tmp_path / "a", mode="r")
    np.testing.assert_array_equal(array[:], values)
    window = (slice(shape[0] - 1, shape[0]), slice(0, 10), slice(3, 31), slice(17, 33))
    found = own.read_window(tmp_path / "a", own.read_header(tmp_path / "a"), window)
    np.testing.assert_array_equal(found, values[window])


def test_we_read_what_the_zarr_library_writes(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec

    values = np.random.default_rng(0).integers(0, 255, (5, 30)).astype(np.uint8)
    codec = ShardingCodec(chunk_shape=(2, 8), codecs=[BytesCodec(), ZstdCodec()], index_codecs=[BytesCodec()])
    array = zarr.create_array(
        tmp_path / "a", shape=values.shape, dtype="uint8", chunks=(6, 32), serializer=codec, compressors=None
    )
    array[:] = values
    header = own.read_header(tmp_path / "a")
    np.testing.assert_array_equal(
        own.read_window(tmp_path / "a", header, (slice(1, 5), slice(7, 30))), values[1:5, 7:30]
    )


def test_a_store_gives_back_what_was_written(folder: Path) -> None:
    store = Store(folder)
    tile = make_tile("tile_Bb", 1)
    header = store.tile("tile_Bb")
    assert header.size == (40, 40)
    assert header.dates == tile.dates
    assert header.transform == tile.transform
    assert header.valid_fraction == (1.0, 1.0)
    np.testing.assert_array_equal(store.read_scene(header, 1, 3, 8, 32), tile.reflectance[1, :, 3:35, 8:40])
    np.testing.assert_array_equal(store.read_land_cover(header, 1, 3, 8, 32), tile.land_cover[1, 3:35, 8:40])
    index = int(np.flatnonzero(store.samples.id == "Bb2")[0])
    row, col = store.samples.position[index]
    photo = np.asarray(store.read_photo(index), dtype=float)
    assert np.abs(photo - np.asarray(make_photo(tile, row, col), dtype=float)).mean() < 2
    assert store.samples.position.dtype == np.float64


def test_photos_are_readable_as_a_tar(folder: Path) -> None:
    with tarfile.open(folder / "photos" / "Aa.tar") as archive:
        names = archive.getnames()
        data = archive.extractfile(names[1]).read()
    store = Store(folder)
    index = int(np.flatnonzero(store.samples.id == "Aa1")[0])
    assert store.samples.photo_size[index] == len(data)
    assert names[1] == "Aa-000001.jpg"


def test_photos_are_shrunk_to_a_short_side_of_256() -> None:
    from PIL import Image

    image = Image.open(__import__("io").BytesIO(encode_photo(Image.new("RGBA", (1024, 512)))))
    assert image.size == (512, 256)
    assert image.mode == "RGB"


def test_an_interrupted_build_continues(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    with writer.unit("one") as unit:
        unit.add_tile(make_tile("a", 0))
        unit.add_sample(Sample("1", "a", 1, 1, 0, 0, city="x"))
    with pytest.raises(KeyboardInterrupt), writer.unit("two") as unit:
        unit.add_tile(make_tile("b", 1))
        unit.add_sample(Sample("2", "b", 1, 1, 5, 0, city="y"), make_photo(make_tile("b", 1), 1, 1))
        raise KeyboardInterrupt
    with pytest.raises(BadInputError, match="not finished"):
        Store(tmp_path / "s")
    again = StoreWriter(tmp_path / "s")
    assert again.finished_units() == {"one"}
    with again.unit("two") as unit:
        unit.add_tile(make_tile("b", 1))
        unit.add_sample(Sample("2", "b", 1, 1, 5, 0, city="y"), make_photo(make_tile("b", 1), 1, 1))
    summary = again.finish(SplitConfig(validation=0.5, test=0))
    assert summary.splits == {"train": 1, "validation": 1, "test": 0}
    assert summary.photos == 1
    assert not list((tmp_path / "s").rglob("*.part"))
    with pytest.raises(BadInputError, match="finished store"):
        StoreWriter(tmp_path / "s")


def test_splits_that_are_given_stay_and_the_others_are_drawn(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    with writer.unit("u") as unit:
        unit.add_tile(make_tile("a", 0))
        for number, city in enumerate("abcdefgh"):
            split = "test" if city == "c" else ""
            unit.add_sample(Sample(str(number), "a", 1, 1, 0, 0, city=city, split=split))
    summary = writer.finish(SplitConfig(validation=0.3, test=0))
    assert summary.splits == {"train": 5, "validation": 2, "test": 1}
    samples = Store(tmp_path / "s").samples
    assert samples.split[samples.city == "c"].tolist() == ["test"]


def test_impossible_input_is_named(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    with writer.unit("u") as unit:
        unit.add_tile(make_tile("a", 0))
        with pytest.raises(BadInputError, match="row 41, column 1, outside its tile"):
            unit.add_sample(Sample("1", "a", 41, 1, 0, 0))
        with pytest.raises(BadInputError, match="no tile b"):
            unit.add_sample(Sample("1", "b", 1, 1, 0, 0))
        with pytest.raises(BadInputError, match="no date"):
            unit.add_sample(Sample("1", "a", 1, 1, 0, 0, taken="yesterday"))
    with pytest.raises(BadInputError, match="cannot be the name"):
        writer.unit("../x")
    with pytest.raises(BadInputError, match=r"gsd 10\.0, wanted 20\.0"):
        StoreWriter(tmp_path / "s", gsd=20.0)


def test_cities_are_never_divided_and_splits_are_drawn_by_seed() -> None:
    groups = np.repeat([f"city{i}" for i in range(20)], 5)
    split = assign_splits(groups, SplitConfig(validation=0.2, test=0.1))
    for city in np.unique(groups):
        assert len(set(split[groups == city])) == 1
    assert {name: int((split == name).sum()) for name in np.unique(split)} == {
        "train": 70,
        "validation": 20,
        "test": 10,
    }
    np.testing.assert_array_equal(split, assign_splits(groups, SplitConfig(validation=0.2, test=0.1)))
    assert (split != assign_splits(groups, SplitConfig(validation=0.2, test=0.1, seed=1))).any()
    with pytest.raises(BadInputError, match="2 cities"):
        assign_splits(np.array(["a", "b"]), SplitConfig())


def test_places_without_a_city_are_grouped_by_cell() -> None:
    lonlat = np.array([[0.01, 0.01], [0.02, 0.02], [10.0, 60.0]])
    groups = spatial_groups(np.array(["", "", "Oslo"]), lonlat, 0.25)
    assert groups[0] == groups[1] != groups[2]
    assert groups[2] == "Oslo"


def test_near_pairs_of_different_splits_equal_a_brute_force_search() -> None:
    generator = np.random.default_rng(0)
    lonlat = np.array([179.99, 60.0]) + generator.uniform(0, 0.4, (60, 2))
    lonlat[:, 0] = (lonlat[:, 0] + 180) % 360 - 180
    split = generator.choice(["train", "test"], 60)
    found = near_pairs(lonlat, split, 2.0)
    lon, lat = np.radians(lonlat).T
    cosine = np.sin(lat)[:, None] * np.sin(lat) + np.cos(lat)[:, None] * np.cos(lat) * np.cos(
        lon[:, None] - lon
    )
    distance = 6371.0088 * np.arccos(np.clip(cosine, -1, 1))
    distance[split[:, None] == split] = np.inf
    assert found[0][2] == pytest.approx(distance.min(), rel=1e-3)
    assert not near_pairs(lonlat, split, distance.min() * 0.99)


def test_the_check_finds_nothing_in_a_sound_store(folder: Path) -> None:
    result = check_store(StoreCheckRequest(store=folder), Progress())
    assert result.ok, result.text()
    assert (result.samples, result.photos, result.tiles, result.dates, result.cities) == (36, 36, 6, 12, 6)


def test_the_check_finds_every_kind_of_fault(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = make_store(tmp_path / "s")
    (folder / "photos" / "Aa.tar").unlink()
    photo = folder / "photos" / "Bb.tar"
    photo.write_bytes(photo.read_bytes()[:2000])
    shard = next((folder / "tiles.zarr" / "tile_Cc" / "reflectance").rglob("c/0/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:-100])
    header = folder / "tiles.zarr" / "tile_Dd" / "zarr.json"
    described = json.loads(header.read_text())
    described["attributes"]["valid_fraction"] = [0.0, 0.0]
    header.write_text(json.dumps(described))
    table = pq.read_table(folder / "samples.parquet")
    rows = table.to_pylist()
    rows[0]["id"] = rows[1]["id"]
    rows[2]["row"] = 77.0
    rows[-1] |= {"lon": rows[3]["lon"], "lat": rows[3]["lat"]}
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), folder / "samples.parquet")
    result = check_store(StoreCheckRequest(store=folder), Progress())
    assert not result.ok
    assert {fault.kind for fault in result.faults} == {
        "duplicate ids",
        "unreadable tiles",
        "tiles without valid dates",
        "valid fractions that are wrong",
        "places outside their tile",
        "missing photo shards",
        "missing photos",
        "split leaks under 1 km",
    }
    assert "Aa1 (2 times)" in result.text()


def test_a_store_cut_short_is_refused(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "s")
    samples = folder / "samples.parquet"
    samples.write_bytes(samples.read_bytes()[:-500])
    with pytest.raises(BadInputError, match=r"samples\.parquet cannot be read"):
        Store(folder)
    with pytest.raises(BadInputError, match="is no store"):
        Store(tmp_path)
