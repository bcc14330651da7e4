import numpy as np
import pytest
import torch

from gair_core.errors import BadInputError
from gair_core.sentinel2.bands import (
    ALL_BANDS,
    BANDS,
    MEAN,
    STD,
    canonical_name,
    normalize,
    recognise_name,
    resize,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("B02", "B2"),
        ("b2", "B2"),
        ("B8A", "B8A"),
        ("b8a", "B8A"),
        ("B08", "B8"),
        ("Band 11", "B11"),
        ("B10", "B10"),
        ("B4, central wavelength 665 nm", "B4"),
        ("S2A_MSIL2A_20170613T101031_87_48_B05", "B5"),
        ("T33UVP_20220706T085611_B8A_20m", "B8A"),
        ("swir16", "B11"),
        ("NIR", "B8"),
    ],
)
def test_names(text, name):
    assert canonical_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B13",
        "B0",
        "B1A",
        "stackstac-b1a7268de174fbd3",
        "cloud_mask",
        "SCL",
        "B02 and B03",
        "8",
        "rededge",
        "BOA",
    ],
)
def test_what_is_no_name(text):
    assert recognise_name(text) is None
    with pytest.raises(BadInputError, match="not the name of a Sentinel-2 band"):
        canonical_name(text)


def test_bands_are_sentinel_bands_in_order():
    assert len(BANDS) == len(MEAN) == len(STD) == 10
    assert [name for name in ALL_BANDS if name in BANDS] == list(BANDS)


def literal_normalisation(dn, quantize):
    out = np.empty(dn.shape, dtype=np.float32)
    for band in range(10):
        low, high = MEAN[band] - 2 * STD[band], MEAN[band] + 2 * STD[band]
        grey = np.clip((dn[band].astype(np.float64) - low) / (high - low), 0, 1) * 255
        out[band] = (grey.astype(np.uint8) if quantize else grey) / 255
    return out


@pytest.mark.parametrize("quantize", [True, False])
def test_normalisation_agrees_with_the_literal_formula(quantize):
    dn = np.random.default_rng(0).integers(0, 9000, (10, 31, 17)).astype(np.float32)
    ours = normalize(torch.from_numpy(dn), MEAN, STD, quantize)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), literal_normalisation(dn, quantize), atol=1e-7)


def test_normalisation_of_the_mean_and_the_limits():
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    dn = torch.stack([mean, mean - 2 * std - 1, mean + 2 * std + 1], -1)[:, None]
    plain = normalize(dn, quantize=False)[:, 0]
    torch.testing.assert_close(plain, torch.tensor([0.5, 0.0, 1.0]).expand(10, 3), atol=1e-6, rtol=0)
    assert normalize(dn[None], quantize=True)[0, 3, 0, 0] == torch.tensor(127 / 255)
    with pytest.raises(ValueError, match="wanted"):
        normalize(torch.zeros(3, 4, 4))


def test_resize_is_bicubic_with_a_minus_three_quarters():
    images = torch.rand(2, 10, 6, 6)
    assert resize(images, (6, 6)) is images
    small = resize(images[0], (3, 3))
    assert small.shape == (10, 3, 3)
    # Half-way between two samples the cubic kernel with a = -0.75 has these weights.
    weights = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375])
    expected = torch.einsum("cij,i,j->c", images[0, :, 1:5, 1:5], weights, weights)
    torch.testing.assert_close(small[:, 1, 1], expected)
