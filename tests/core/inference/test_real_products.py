"""What makes the real products special, from the command's request to the raster.

How each is opened is tested in `test_scene`; here its pixels go through the engine and must equal those of a
plain stack of the same ten bands.
"""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from gair_core.errors import BadInputError
from gair_core.inference.embed import EmbedRequest, embed
from gair_core.progress import Progress
from gair_core.sentinel2.bands import BANDS

# The usual twelve bands without B10, and EuroSAT's thirteen: numbers of the model's ten in them, from 1.
TEN_OF_TWELVE = [2, 3, 4, 5, 6, 7, 8, 9, 11, 12]
TEN_OF_EUROSAT = [2, 3, 4, 5, 6, 7, 8, 13, 11, 12]


def run(scene, output, **options) -> tuple[np.ndarray, list[str]]:
    progress = Progress()
    request = EmbedRequest(scene=str(scene), output=str(output), components=4, dtype="float32", **options)
    embed(request, progress)
    with rasterio.open(output) as dataset:
        return dataset.read(), progress.warnings


def plain(path, data, like):
    """Write ten named bands on the grid of another raster, without its tags."""
    with rasterio.open(like) as dataset:
        grid = {name: dataset.profile[name] for name in ("crs", "transform", "width", "height")}
    with rasterio.open(path, "w", driver="GTiff", count=10, dtype=data.dtype, **grid) as dataset:
        dataset.write(data)
        dataset.descriptions = BANDS
    return path


def assert_same_grid(one, other):
    with rasterio.open(one) as first, rasterio.open(other) as second:
        assert (first.crs, first.shape) == (second.crs, second.shape)
        assert first.transform.almost_equals(second.transform, 1e-12)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("city", ["detroit", "tokyo"])
def test_gair_pairs_carry_an_offset_tag_that_must_not_be_applied(city, shared, tmp_path, out):
    scene = shared / f"data/gair_pairs/queries/{city}_rs.tif"
    with rasterio.open(scene) as dataset:
        assert any("ADD_OFFSET" in tag and value == "-1000" for tag, value in dataset.tags().items())
        stack = plain(tmp_path / "plain.tif", dataset.read(TEN_OF_TWELVE), scene)
    found, warnings = run(scene, out / "a.tif")
    expected, _ = run(stack, out / "b.tif")
    np.testing.assert_array_equal(found, expected)
    assert not [warning for warning in warnings if "offset" in warning]
    # Tokyo's zeros in single bands are dark pixels, not holes.
    assert np.isfinite(found).all()
    assert_same_grid(scene, out / "a.tif")


@pytest.mark.parametrize(
    ("name", "eleventh"),
    [("S2A1C_20190723_022_Barbellino_TOA_10", 11), ("S2A2A_20190723_022_Barbellino_BOA_10", 10)],
)
def test_the_tiny_scene_is_refused_until_a_band_stands_in(name, eleventh, shared, tmp_path, out):
    scene = shared / f"data/tiny_scene/{name}.tif"
    with pytest.raises(BadInputError, match=r"B8A|11 bands") as caught:
        run(scene, out / "a.tif")
    assert "B8A=8" in caught.value.hint
    assert list(out.iterdir()) == []
    found, warnings = run(scene, out / "a.tif", bands={"B8A": 8})
    assert found.shape == (4, 42, 24)
    assert any("B8 stands for B8A" in warning for warning in warnings)
    assert any("top-of-atmosphere" in warning for warning in warnings) == ("TOA" in name)
    with rasterio.open(scene) as dataset:
        data = dataset.read([2, 3, 4, 5, 6, 7, 8, 8, eleventh, eleventh + 1])
    expected, _ = run(plain(tmp_path / "plain.tif", data, scene), out / "b.tif")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("patch", ["S2A_MSIL2A_20170613T101031_87_48", "S2B_MSIL2A_20170924T93020_69_24"])
def test_single_bands_equal_their_stack(patch, shared, tmp_path, out):
    folder = shared / "data/single_bands" / patch
    bands = []
    for name in ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"):
        with rasterio.open(folder / f"{patch}_{name}.tif") as dataset:
            factor = 120 // dataset.width
            bands.append(dataset.read(1).repeat(factor, axis=0).repeat(factor, axis=1))
    stack = plain(tmp_path / "plain.tif", np.stack(bands), folder / f"{patch}_B02.tif")
    found, warnings = run(folder, out / "a.tif")
    np.testing.assert_array_equal(found, run(stack, out / "b.tif")[0])
    assert warnings == []


@pytest.mark.parametrize("name", ["AnnualCrop_1", "Pasture_300", "SeaLake_3000"])
def test_eurosat_with_b8a_last_and_pixels_that_are_not_quite_square(name, shared, tmp_path, out):
    scene = shared / f"data/eurosat_order/{name}.tif"
    with rasterio.open(scene) as dataset:
        stack = plain(tmp_path / "plain.tif", dataset.read(TEN_OF_EUROSAT), scene)
    found, warnings = run(scene, out / "a.tif")
    np.testing.assert_array_equal(found, run(stack, out / "b.tif")[0])
    assert any("top-of-atmosphere" in warning for warning in warnings)
    assert_same_grid(scene, out / "a.tif")


@pytest.mark.parametrize(
    ("number", "offset"),
    [(74721, -1000), (57755, -1000), (75123, -1000), (25630, 0), (502692, 0), (511198, 0)],
)
def test_world_patches_once_their_offset_is_known(number, offset, shared, tmp_path, out):
    scene = shared / f"data/world_patches/patch_{number}.tif"
    with rasterio.open(scene) as dataset:
        dn = np.maximum(dataset.read(TEN_OF_TWELVE).astype(np.int32) + offset, 0).astype(np.uint16)
        stack = plain(tmp_path / "plain.tif", dn, scene)
    found, warnings = run(scene, out / "a.tif", offset=offset)
    assert warnings == []
    np.testing.assert_array_equal(found, run(stack, out / "b.tif", offset=0)[0])
    _, warnings = run(scene, out / "a.tif")
    assert bool(warnings) == (offset != 0)


def test_germany_and_the_cloudy_scene_without_their_offset(shared, tmp_path, out):
    germany = shared / "data/germany_polygons/sen2.tif"
    (cloudy,) = (shared / "data/cloudy_scene").glob("*.tif")
    part = {"extent": (823000, 5000, 824000, 6000), "extent_crs": "EPSG:32633"}
    for scene, scale, options in ((germany, 10000, {}), (cloudy, 1, part)):
        with rasterio.open(scene) as dataset:
            data = dataset.read(TEN_OF_TWELVE).astype(np.float64) * scale - 1000
        stack = plain(tmp_path / "plain.tif", np.maximum(data, 0).round().astype(np.uint16), scene)
        found, _ = run(scene, out / "a.tif", offset=-1000, **options)
        expected, _ = run(stack, out / "b.tif", offset=0, **options)
        # Germany's reflectances are float32: its DN differ from whole ones by some thousandths.
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert np.abs(found - run(scene, out / "a.tif", **options)[0]).max() > 0.1
