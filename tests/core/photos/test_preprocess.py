from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gair_core.config import StreetViewConfig
from gair_core.errors import BadInputError
from gair_core.photos.preprocess import preprocess

OFFICIAL = StreetViewConfig(antialias=False)


def test_statistics_of_the_parity_data(shared):
    golden = np.load(shared / "parity" / "golden_a.npz")
    rng = np.random.RandomState(int(golden["rs_seed"]))
    rng.randint(0, 6000, (2, 10, 181, 246))
    photos = rng.randint(0, 256, (2, 300, 400, 3)).astype(np.uint8)
    batch = torch.stack([preprocess(photo, OFFICIAL) for photo in photos])
    assert batch.shape == (2, 3, 224, 224)
    np.testing.assert_allclose([batch.mean(), batch.std()], golden["sv_input_mean_std"], atol=1e-4)


def test_a_photo_of_the_right_size_is_only_normalised():
    photo = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    expected = (photo.transpose(2, 0, 1) - np.array(OFFICIAL.mean)[:, None, None]) / np.array(OFFICIAL.std)[
        :, None, None
    ]
    np.testing.assert_allclose(preprocess(photo, OFFICIAL), expected, atol=1e-5)


def keys_kernel(x: float, a: float = -0.75) -> float:
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def test_resize_is_cubic_convolution_of_four_neighbours():
    """Every output pixel from 4 x 4 input pixels of Keys' kernel, written out; borders are repeated."""
    config = StreetViewConfig(image_size=16, antialias=False)
    photo = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)

    def weights(size: int) -> np.ndarray:
        matrix = np.zeros((16, size))
        for row in range(16):
            centre = (row + 0.5) * size / 16 - 0.5
            for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                matrix[row, min(max(tap, 0), size - 1)] += keys_kernel(centre - tap)
        return matrix

    normal = (photo - np.array(config.mean)) / np.array(config.std)
    expected = np.einsum("ih,jw,hwc->cij", weights(40), weights(56), normal)
    np.testing.assert_allclose(preprocess(photo, config), expected, atol=1e-4)


def test_antialias_filters_a_checkerboard_away():
    photo = np.indices((448, 448)).sum(axis=0) % 2 * 255
    photo = np.repeat(photo[..., None], 3, axis=2).astype(np.uint8)
    smooth = preprocess(photo, StreetViewConfig(antialias=True))[:, 4:-4, 4:-4]
    expected = (127.5 - torch.tensor(OFFICIAL.mean)) / torch.tensor(OFFICIAL.std)
    torch.testing.assert_close(smooth.mean(dim=(1, 2)), expected, atol=1e-3, rtol=0)
    assert smooth.std(dim=(1, 2)).max() < 0.02


def test_pil_image_and_array_agree_and_are_left_alone():
    photo = np.random.default_rng(2).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    before = photo.copy()
    torch.testing.assert_close(preprocess(Image.fromarray(photo), OFFICIAL), preprocess(photo, OFFICIAL))
    np.testing.assert_array_equal(photo, before)
    photo.flags.writeable = False
    preprocess(photo[::-1], OFFICIAL)


@pytest.mark.parametrize(
    ("photo", "found"),
    [
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((8, 8, 3), np.uint16), "uint16"),
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
        (Image.new("L", (8, 8)), "mode L"),
        (Image.new("RGBA", (8, 8)), "mode RGBA"),
        ("photo.jpg", "str"),
    ],
)
def test_other_shapes_and_types_are_refused(photo, found):
    with pytest.raises(BadInputError, match=found):
        preprocess(photo, OFFICIAL)
