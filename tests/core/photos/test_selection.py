from __future__ import annotations

import numpy as np
import pytest
import rasterio
from PIL import Image

from gair_core.errors import BadInputError, CancelledError
from gair_core.geo.footprint import Footprint
from gair_core.photos.selection import MAX_WARNINGS, usable
from gair_core.photos.tables import read_photos
from gair_core.progress import Progress

SCENE = Footprint.from_bounds(9.0, 48.0, 10.0, 49.0, crs="EPSG:4326", width=100, height=100)


@pytest.fixture
def table(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "good.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")

    def write(*rows: str):
        (tmp_path / "photos.csv").write_text("\n".join(["photo,lon,lat", *rows]))
        return read_photos(tmp_path / "photos.csv")

    return write


def test_every_reason_is_named_and_the_rest_is_kept(table):
    progress = Progress()
    photos = table(
        "good.jpg,9.5,48.5",
        "absent.jpg,9.5,48.5",
        "broken.jpg,9.5,48.5",
        "good.jpg,,",
        ",9.5,48.5",
        "good.jpg,11.25,48.5",
        "good.jpg,9.25,48.75",
    )
    left = usable(photos, SCENE, progress)
    np.testing.assert_array_equal(left.lonlat, [[9.5, 48.5], [9.25, 48.75]])
    assert len(progress.warnings) == 5
    for warning, parts in zip(
        progress.warnings,
        [
            ("absent.jpg", "does not exist"),
            ("broken.jpg", "not a photo"),
            ("good.jpg", "without coordinates"),
            ("row 5", "names no file"),
            ("good.jpg", "outside the scene (lon 11.250000, lat 48.500000)"),
        ],
        strict=True,
    ):
        for part in parts:
            assert part in warning


def test_positions_may_be_unneeded(table):
    photos = table("good.jpg,,", "good.jpg,9.5,48.5", "good.jpg,11,48")
    assert len(usable(photos, need_position=False)) == 3
    np.testing.assert_array_equal(usable(photos, SCENE, need_position=False).placed, [False, True])
    assert len(usable(photos)) == 2


def test_many_warnings_are_counted(table):
    progress = Progress()
    photos = table("good.jpg,9.5,48.5", *[f"absent{number}.jpg,9.5,48.5" for number in range(50)])
    assert len(usable(photos, SCENE, progress)) == 1
    assert len(progress.warnings) == MAX_WARNINGS + 1
    assert "30 more photos" in progress.warnings[-1]
    assert "50 missing" in progress.warnings[-1]


def test_none_left(table):
    with pytest.raises(BadInputError, match=r"None of the 3 photos.*2 missing, 1 outside the scene"):
        usable(table("a.jpg,9.5,48.5", "b.jpg,9.5,48.5", "good.jpg,1,1"), SCENE)
    with pytest.raises(BadInputError, match="Swap longitude"):
        usable(table("good.jpg,48.5,9.5", "good.jpg,48.6,9.6"), SCENE)


def test_cancel(table):
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        usable(table("good.jpg,9.5,48.5"), SCENE, progress)


def test_each_real_photo_lies_in_its_scene_alone(shared):
    folder = shared / "data/gair_pairs"
    photos = read_photos(folder / "photos.csv")
    for row, name in enumerate(["detroit", "sacramento", "tokyo"]):
        with rasterio.open(folder / f"queries/{name}_rs.tif") as dataset:
            progress = Progress()
            left = usable(photos, Footprint.from_dataset(dataset), progress)
        assert list(left.frame["id"]) == [photos.frame["id"][row]] == [name]
        assert len(progress.warnings) == 2
