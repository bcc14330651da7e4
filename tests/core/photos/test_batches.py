from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from gair_core.config import StreetViewConfig
from gair_core.errors import BadInputError, CancelledError
from gair_core.photos.batches import PhotoBatcher
from gair_core.photos.panoramas import perspective_view
from gair_core.photos.preprocess import preprocess
from gair_core.photos.reading import open_photo
from gair_core.photos.tables import read_photos
from gair_core.progress import Progress

CONFIG = StreetViewConfig(image_size=32)


@pytest.fixture
def table(tmp_path):
    """A table of five small photos, each of its own grey, the third cut off."""
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 40, (30, 40, 3), dtype=np.uint8) + np.uint8(40 * number)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    content = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "photos.csv").write_text("photo\n" + "".join(f"{number}.png\n" for number in range(5)))
    return read_photos(tmp_path / "photos.csv")


def collect(batcher: PhotoBatcher):
    batches = list(batcher)
    return np.concatenate([batch.rows for batch in batches]), torch.cat([batch.images for batch in batches])


@pytest.mark.parametrize("workers", [1, 3])
def test_order_batches_and_skipping(table, workers):
    progress = Progress()
    batches = list(PhotoBatcher(table, CONFIG, batch_size=3, workers=workers, progress=progress))
    assert [batch.rows.tolist() for batch in batches] == [[0, 1, 3], [4]]
    assert [tuple(batch.images.shape) for batch in batches] == [(3, 3, 32, 32), (1, 3, 32, 32)]
    for batch in batches:
        for row, image in zip(batch.rows, batch.images, strict=True):
            torch.testing.assert_close(image, preprocess(open_photo(table.paths[row]), CONFIG))
    assert len(progress.warnings) == 1
    assert "2.png" in progress.warnings[0]


def test_none_left(table):
    with pytest.raises(BadInputError, match="None of the 1 photos"):
        list(PhotoBatcher(table.take([2]), CONFIG))


def test_cancel_and_early_stop_leave_no_threads(table):
    progress = Progress()
    iterator = iter(PhotoBatcher(table, CONFIG, batch_size=1, progress=progress))
    next(iterator)
    progress.cancel()
    with pytest.raises(CancelledError):
        next(iterator)
    stopped = iter(PhotoBatcher(table, CONFIG, batch_size=1))
    next(stopped)
    stopped.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("photos")]


def test_a_damaged_photo_far_down_does_not_stop_the_rest(table):
    many = table.take([0, 2] * 40)
    progress = Progress()
    rows, _ = collect(PhotoBatcher(many, CONFIG, progress=progress))
    np.testing.assert_array_equal(rows, np.arange(0, 80, 2))
    assert len(progress.warnings) == 21


def test_real_panoramas_become_front_views(shared):
    photos = read_photos(shared / "data/photos_csv/photos.csv").take([0, 1])
    rows, images = collect(PhotoBatcher(photos, CONFIG))
    np.testing.assert_array_equal(rows, [0, 1])
    panorama = open_photo(photos.paths[1])
    torch.testing.assert_close(images[1], preprocess(perspective_view(panorama), CONFIG))
    _, flat = collect(PhotoBatcher(photos, CONFIG, panoramas="never"))
    torch.testing.assert_close(flat[1], preprocess(panorama, CONFIG))
    torch.testing.assert_close(flat[0], images[0])


def test_several_views_share_a_row(shared):
    photos = read_photos(shared / "data/photos_csv/photos.csv").take([1, 0])
    batches = list(PhotoBatcher(photos, CONFIG, panorama_views=4, batch_size=3))
    assert [batch.rows.tolist() for batch in batches] == [[0, 0, 0], [0, 1]]
    right = perspective_view(open_photo(photos.paths[0]), 90)
    torch.testing.assert_close(batches[0].images[1], preprocess(right, CONFIG))


def test_panoramas_known_by_their_tags_or_by_the_user(tmp_path):
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<r:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'
        b' GPano:ProjectionType="equirectangular"/></r:RDF></x:xmpmeta>'
    )
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tagged.jpg", xmp=xmp)
    Image.fromarray(pixels).save(tmp_path / "plain.jpg")
    (tmp_path / "photos.csv").write_text("photo\ntagged.jpg\nplain.jpg\n")
    photos = read_photos(tmp_path / "photos.csv")
    _, auto = collect(PhotoBatcher(photos, CONFIG))
    _, always = collect(PhotoBatcher(photos, CONFIG, panoramas="always"))
    _, never = collect(PhotoBatcher(photos, CONFIG, panoramas="never"))
    torch.testing.assert_close(auto[0], always[0])
    torch.testing.assert_close(auto[1], never[1])
    assert not torch.allclose(auto[0], auto[1])
    torch.testing.assert_close(always[0], always[1])


def test_a_photo_that_should_be_a_panorama_but_is_not_full(table):
    progress = Progress()
    with pytest.raises(BadInputError):
        list(PhotoBatcher(table.take([0]), CONFIG, panoramas="always", progress=progress))
    assert "40 x 30" in progress.warnings[0]


@pytest.mark.parametrize("name", ["batch_size", "panorama_views", "workers"])
def test_impossible_numbers(table, name):
    with pytest.raises(BadInputError, match=f"{name} is 0"):
        PhotoBatcher(table, CONFIG, **{name: 0})
