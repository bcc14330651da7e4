"""Stores from real photos and scenes: places to the pixel, dates, views, filters, splits and resuming."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform

from gair_core.errors import BadInputError, CancelledError
from gair_core.pretrain.build import BuildConfig, build_store, date_of_product
from gair_core.pretrain.splits import SplitConfig
from gair_core.pretrain.store import Store
from gair_core.pretrain.store_check import StoreCheckRequest, check_store
from gair_core.progress import Progress
from gair_core.sentinel2.bands import BANDS

ROOT = Path(__file__).resolve().parents[3]
NO_SPLIT = SplitConfig(validation=0, test=0)


def write_scene(
    path: Path, epsg: int, centre: tuple[float, float], *, seed: int, cloudy: bool = False, shift: int = 0
) -> Path:
    """A made Sentinel-2 scene of 400 x 300 pixels of 10 m around a place."""
    generator = np.random.default_rng(seed)
    values = generator.integers(300, 2000, (10, 300, 400)).astype(np.uint16)
    if cloudy:
        values += 5000
    (x,), (y,) = transform("EPSG:4326", f"EPSG:{epsg}", [centre[0]], [centre[1]])
    left, top = round(x / 10) * 10 - 2000 + 10 * shift, round(y / 10) * 10 + 1500
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 10, "height": 300, "width": 400, "nodata": 0}
    with rasterio.open(
        path, "w", crs=f"EPSG:{epsg}", transform=from_origin(left, top, 10, 10), **profile
    ) as file:
        file.write(values)
        file.descriptions = BANDS
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    stuttgart, singapore = (9.1727, 48.7706), (103.8145, 1.3128)
    return [
        write_scene(folder / "stuttgart_2023-06-14.tif", 32632, stuttgart, seed=0),
        write_scene(folder / "stuttgart_20230702.tif", 32632, stuttgart, seed=1, shift=7),
        write_scene(folder / "stuttgart_2023-08-01.tif", 32632, stuttgart, seed=2, cloudy=True),
        write_scene(folder / "singapore_2022-02-03.tif", 32648, singapore, seed=3),
    ]


def test_gair_pairs_become_a_store(shared: Path, tmp_path: Path) -> None:
    pairs = shared / "data" / "gair_pairs"
    config = BuildConfig(
        photos=pairs / "photos.csv",
        scenes=tuple(sorted((pairs / "queries").glob("*.tif"))),
        output=tmp_path / "store",
        splits=NO_SPLIT,
    )
    summary = build_store(config, Progress())
    assert (summary.samples, summary.photos, summary.tiles) == (3, 3, 3)
    store = Store(tmp_path / "store")
    assert check_store(StoreCheckRequest(store=store.folder), Progress()).faults[0].kind == "empty splits"
    dates = {"detroit": "2024-08-24", "sacramento": "2021-06-23", "tokyo": "2024-01-17"}
    for index, name in enumerate(store.samples.id):
        tile = store.tile(str(store.samples.tile[index]))
        assert tile.dates == (dates[str(name)],)
        # From the tile's own CRS, here degrees, back to the table's place.
        a, b, c, d, e, f = tile.transform
        row, col = store.samples.position[index]
        np.testing.assert_allclose(
            [a * col + b * row + c, d * col + e * row + f], store.samples.lonlat[index], atol=1e-9
        )
        assert tile.pixel_metres == pytest.approx((10, 10), rel=0.03)
        photo = store.read_photo(index)
        assert min(photo.size) == 256


def test_tables_panoramas_dates_and_clouds(shared: Path, tmp_path: Path, scenes: list[Path]) -> None:
    photos = (shared / "data") / "photos_csv" / "photos.csv"
    progress = Progress()
    config = BuildConfig(
        photos=photos, scenes=tuple(scenes), output=tmp_path / "store", panorama_views=2, splits=NO_SPLIT
    )
    summary = build_store(config, progress)
    store = Store(tmp_path / "store")
    samples = store.samples
    stuttgart = samples.city == "Stuttgart"
    views = np.array(["_view" in name for name in samples.id])
    # 9 panoramas of two views and 10 photos, less what lies outside the made scenes.
    assert views.sum() > 0
    assert views.sum() % 2 == 0
    first = np.flatnonzero(views)[0]
    assert samples.heading[first + 1] == pytest.approx((samples.heading[first] + 180) % 360)
    assert samples.taken[first].startswith("2024-0")
    assert summary.photos == len(samples)
    for name in np.unique(samples.tile[stuttgart]):
        tile = store.tile(str(name))
        assert tile.dates[0] == "2023-06-14"
        assert "2023-08-01" not in tile.dates
    index = int(np.flatnonzero(stuttgart)[0])
    tile = store.tile(str(samples.tile[index]))
    row, col = samples.position[index]
    with rasterio.open(scenes[0]) as source:
        (x,), (y,) = transform(
            "EPSG:4326", source.crs, [samples.lonlat[index, 0]], [samples.lonlat[index, 1]]
        )
        expected = source.read()[:, source.index(x, y)[0], source.index(x, y)[1]]
    np.testing.assert_array_equal(store.read_whole(tile, 0)[:, int(row), int(col)], expected)


def test_scenes_that_are_shifted_by_whole_pixels_share_a_tile(
    shared: Path, tmp_path: Path, scenes: list[Path]
) -> None:
    photos = (shared / "data") / "photos_csv" / "photos.csv"
    config = BuildConfig(photos=photos, scenes=tuple(scenes[:2]), output=tmp_path / "store", splits=NO_SPLIT)
    build_store(config, Progress())
    store = Store(tmp_path / "store")
    dates = {store.tile(str(name)).dates for name in np.unique(store.samples.tile)}
    assert ("2023-06-14", "2023-07-02") in dates
    name = next(n for n in np.unique(store.samples.tile) if len(store.tile(str(n)).dates) == 2)
    tile = store.tile(str(name))
    with rasterio.open(scenes[1]) as source:
        row, col = source.index(tile.transform[2] + 505, tile.transform[5] - 505)
        expected = source.read()[:, row, col]
    np.testing.assert_array_equal(store.read_whole(tile, 1)[:, 50, 50], expected)


def test_an_interrupted_build_continues_and_another_plan_is_refused(
    shared: Path, tmp_path: Path, scenes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = (shared / "data") / "photos_csv" / "photos.csv"
    from gair_core.pretrain import build

    monkeypatch.setattr(build, "_TILES_PER_UNIT", 1)
    values = {"photos": photos, "scenes": tuple(scenes), "splits": NO_SPLIT, "cell": 64}

    class StopHalfway(Progress):
        def report(self, fraction: float, message: str = "") -> None:  # noqa: ARG002
            if fraction > 0:
                self.cancel()

    build_store(BuildConfig(**values, output=tmp_path / "whole"), Progress())
    config = BuildConfig(**values, output=tmp_path / "parts")
    with pytest.raises(CancelledError):
        build_store(config, StopHalfway())
    done = list((tmp_path / "parts" / "units").glob("*.parquet"))
    assert len(done) == 1
    written = done[0].stat().st_mtime_ns
    for change in ({"min_valid": 0.9}, {"panorama_views": 3}):
        with pytest.raises(BadInputError, match="has plan"):
            build_store(BuildConfig(**values, output=tmp_path / "parts", **change), Progress())
    with pytest.raises(CancelledError):
        build_store(config, StopHalfway())
    assert done[0].stat().st_mtime_ns == written
    build_store(config, Progress())
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    assert whole.samples.id.tolist() == parts.samples.id.tolist()
    assert np.array_equal(whole.samples.position, parts.samples.position)


def test_global_streetscapes_tables_are_read_as_they_are(
    shared: Path, tmp_path: Path, scenes: list[Path]
) -> None:
    data = shared / "data"
    tables = data / "tables" / "global_streetscapes"
    images = tmp_path / "1_50"
    images.mkdir()
    for path in sorted((data / "photos_csv" / "images").glob("*.jpg")):
        shutil.copy(path, images / f"{path.stem}.jpeg")
    config = BuildConfig(
        photos=tables / "02_metadata_common_attributes.csv",
        join=(tables / "01_simplemaps.csv", tables / "06_ghsl.csv"),
        images=tmp_path,
        scenes=tuple(scenes),
        output=tmp_path / "store",
        per_city=30,
        splits=SplitConfig(validation=0.5, test=0),
    )
    summary = build_store(config, Progress())
    samples = Store(tmp_path / "store").samples
    assert set(samples.city) <= {"Stuttgart", "Singapore"}
    assert set(samples.settlement) == {"urban"}
    assert summary.samples <= 60
    # Rows without an image file serve scene and location.
    assert summary.photos < summary.samples


def test_what_cannot_be_is_named(shared: Path, tmp_path: Path, scenes: list[Path]) -> None:
    data = shared / "data"
    pairs = data / "gair_pairs" / "photos.csv"
    with pytest.raises(BadInputError, match="None of the 3 places"):
        build_store(BuildConfig(photos=pairs, scenes=(scenes[0],), output=tmp_path / "s"), Progress())
    unnamed = shutil.copy(scenes[0], tmp_path / "scene.tif")
    with pytest.raises(BadInputError, match="date of the scene"):
        date_of_product(Path(unnamed))
    assert (
        date_of_product(Path("S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543")) == "2020-02-23"
    )
    config = BuildConfig(
        photos=pairs, scenes=(Path(unnamed),), dates=(f"{unnamed}=2020-01-05",), output=tmp_path / "s"
    )
    with pytest.raises(BadInputError, match="None of the 3 places"):
        build_store(config, Progress())


def test_the_command_line_builds(shared: Path, tmp_path: Path) -> None:
    data = shared / "data"
    pairs = data / "gair_pairs"
    command = [sys.executable, str(ROOT / "training" / "build_dataset.py"), str(pairs / "photos.csv")]
    command += [*map(str, sorted((pairs / "queries").glob("*.tif"))), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 samples (train 1, validation 1, test 1), 3 photos, 3 tiles")
