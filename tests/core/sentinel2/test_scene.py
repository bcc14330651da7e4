import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from gair_core.errors import BadInputError
from gair_core.geo.grid import Grid, Window
from gair_core.sentinel2 import raster
from gair_core.sentinel2.bands import ALL_BANDS, BANDS, MEAN
from gair_core.sentinel2.raster import public_name
from gair_core.sentinel2.scene import Scene
from tests.core.sentinel2.makers import (
    NORTH_UP,
    SURFACE,
    fine,
    stored_bands,
    values,
    write,
    write_band_files,
    write_safe,
    write_stac,
)

COMMON_NAMES = [
    "coastal",
    "blue",
    "green",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "nir",
    "nir08",
    "nir09",
    "swir16",
    "swir22",
]
TEN_OF_TWELVE = [SURFACE.index(name) for name in BANDS]


def read_all(scene):
    return scene.read(scene.grid.full_window)


def expected_from(bands):
    return np.stack([fine(bands, name) for name in BANDS]).astype(np.float32)


# --- stacks: names and orders -----------------------------------------------------------------------------


def test_named_stack_in_any_order(tmp_path):
    data = values()
    order = np.random.default_rng(1).permutation(12)
    path = write(tmp_path / "eine Szene ü.tif", data[order], [SURFACE[band] for band in order])
    with Scene.open(path) as scene:
        dn, valid = read_all(scene)
        assert scene.band_names == BANDS
        assert scene.warnings == ()
        assert scene.native == scene.grid == Grid("EPSG:32633", NORTH_UP, 60, 48)
    np.testing.assert_array_equal(dn, data[TEN_OF_TWELVE])
    assert dn.dtype == np.float32
    assert valid.all()
    json.dumps(scene.provenance)


@pytest.mark.parametrize("names", [None, ["stackstac-afa7268de174fbd3bcc5609aaf5f0522"] * 12])
def test_unnamed_twelve_bands(tmp_path, names):
    data = values()
    with Scene.open(write(tmp_path / "a.tif", data, names)) as scene:
        np.testing.assert_array_equal(read_all(scene)[0], data[TEN_OF_TWELVE])
        assert scene.provenance["band_order"]


def test_unnamed_ten_bands_are_taken_with_a_warning(tmp_path):
    data = values(10)
    with Scene.open(write(tmp_path / "a.tif", data)) as scene:
        np.testing.assert_array_equal(read_all(scene)[0], data)
        assert "ten bands without names" in scene.warnings[0]


def test_unnamed_thirteen_bands_by_b10(tmp_path):
    for position, order in ((9, (*SURFACE[:8], "B9", "B10", "B11", "B12", "B8A")), (10, ALL_BANDS)):
        data = values(13)
        data[position] = 10
        with Scene.open(write(tmp_path / "a.tif", data)) as scene:
            np.testing.assert_array_equal(read_all(scene)[0], data[[order.index(name) for name in BANDS]])
            assert scene.provenance["level"] == "L1C"
            assert any("top-of-atmosphere" in warning for warning in scene.warnings)
    with pytest.raises(BadInputError, match="unknown where B8A stands"):
        Scene.open(write(tmp_path / "b.tif", values(13)))


def test_b10_is_seen_through_the_offset(tmp_path):
    data = values(low=1100, high=5000)
    data[9] = 1010
    with pytest.raises(BadInputError, match="looks like B10"):
        Scene.open(write(tmp_path / "a.tif", data))


@pytest.mark.parametrize(
    ("count", "message"),
    [(3, "3 bands"), (1, "one band"), (11, "11 bands"), (70, "70 bands"), (14, "14 bands")],
)
def test_too_few_or_ambiguous_bands_are_refused(tmp_path, count, message):
    with pytest.raises(BadInputError, match=message) as caught:
        Scene.open(write(tmp_path / "a.tif", values(count, 8, 8)))
    assert "B2=..,B3=.." in caught.value.hint


def test_named_but_incomplete(tmp_path):
    data, names = values(4), ["B2", "B3", "B4", "B8"]
    path = write(tmp_path / "a.tif", data, names)
    with pytest.raises(BadInputError, match="lacks B5, B6, B7, B8A, B11, B12; found B2, B3, B4, B8"):
        Scene.open(path)
    for missing, fill in (("mean", MEAN[3]), ("zero", 0)):
        with Scene.open(path, missing=missing) as scene:
            dn, _ = read_all(scene)
            assert scene.missing_bands == ("B5", "B6", "B7", "B8A", "B11", "B12")
            assert "missing and filled" in scene.warnings[0]
        np.testing.assert_array_equal(dn[6], data[3])
        np.testing.assert_allclose(dn[3], fill)


def test_repeated_names_are_a_series(tmp_path):
    path = write(tmp_path / "a.tif", values(24), [*SURFACE, *SURFACE])
    with pytest.raises(BadInputError, match="more than once"):
        Scene.open(path)
    with Scene.open(path, bands={name: SURFACE.index(name) + 13 for name in BANDS}) as scene:
        np.testing.assert_array_equal(read_all(scene)[0], values(24)[12:][TEN_OF_TWELVE])


def test_a_band_stands_for_another(tmp_path):
    names = [name for name in SURFACE if name != "B8A"]
    data = values(11)
    for path, mapping in (
        (write(tmp_path / "named.tif", data, names), {"B8A": "B08"}),
        (write(tmp_path / "numbered.tif", data, names), {"B8A": "8"}),
        (write(tmp_path / "unnamed.tif", data), {"B8A": 8}),
        (
            write(tmp_path / "full.tif", data),
            {name: names.index(name if name != "B8A" else "B8") + 1 for name in BANDS},
        ),
    ):
        with Scene.open(path, bands=mapping) as scene:
            dn, _ = read_all(scene)
            assert scene.provenance["stand_ins"] == {"B8A": "B8"}
            assert any("B8 stands for B8A" in warning for warning in scene.provenance["warnings"])
        np.testing.assert_array_equal(dn[7], dn[6])
        np.testing.assert_array_equal(dn[8], data[names.index("B11")])


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"B8A": 0}, "bands 1 to 12"),
        ({"B8A": 13}, "bands 1 to 12"),
        ({"B99": 1}, "not the name"),
        ({"B2": "B10"}, "no band B10"),
    ],
)
def test_impossible_mappings(tmp_path, mapping, message):
    with pytest.raises(BadInputError, match=message):
        Scene.open(write(tmp_path / "a.tif", values(), SURFACE), bands=mapping)


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        values(12, 9, 9, high=255, dtype="uint8"),
        values(12, 9, 9, low=0, high=255),
        values(3, 9, 9, low=0, high=255, dtype="uint8"),
    ],
)
def test_display_images_are_refused(tmp_path, data):
    with pytest.raises(BadInputError, match="8-bit display image"):
        Scene.open(write(tmp_path / "a.tif", data))


@pytest.mark.parametrize("kind", ["tags", "scale"])
def test_tagged_offset_is_applied_only_where_the_pixels_agree(tmp_path, kind):
    for low, applied in ((1005, True), (900, False)):
        data = values(low=low, high=6000)
        path = write(
            tmp_path / "a.tif", data, SURFACE, tags={"BOA_ADD_OFFSET_B2": "-1000"} if kind == "tags" else None
        )
        if kind == "scale":
            with rasterio.open(path, "r+") as dataset:
                dataset.scales, dataset.offsets = [1e-4] * 12, [-0.1] * 12
        with Scene.open(path) as scene:
            assert scene.provenance["offset"] == (-1000 if applied else 0)
            assert ("already harmonised" in scene.provenance["offset_reason"]) is not applied
            assert not scene.warnings
            np.testing.assert_array_equal(read_all(scene)[0], data[TEN_OF_TWELVE] - (1000 if applied else 0))


def test_untagged_bright_scene_warns_and_the_option_rules(tmp_path):
    path = write(tmp_path / "a.tif", values(low=1200), SURFACE)
    with Scene.open(path) as scene:
        assert "`offset`" in scene.warnings[0]
        assert scene.provenance["offset"] == 0
    for offset in (-1000, 0.0):
        with Scene.open(path, offset=offset) as scene:
            assert not scene.warnings
            assert scene.provenance["offset"] == offset
    with pytest.raises(BadInputError, match="from -10000 to 0"):
        Scene.open(path, offset=1000)


def test_the_offset_is_never_decided_by_window(tmp_path):
    data = values(low=2000)
    data[:, :4, :4] = 200  # under 0.1 % would need more than 16 dark pixels of 2,880
    path = write(tmp_path / "a.tif", data, SURFACE, tags={"BOA_ADD_OFFSET": "-1000"})
    with Scene.open(path) as scene:
        bright, _ = scene.read(Window(20, 20, 8, 8))
    np.testing.assert_array_equal(bright, data[TEN_OF_TWELVE, 20:28, 20:28])


def test_contradicting_tags(tmp_path):
    path = write(
        tmp_path / "a.tif", values(), SURFACE, tags={"BOA_ADD_OFFSET_B2": "-1000", "BOA_ADD_OFFSET_B3": "0"}
    )
    with pytest.raises(BadInputError, match="one for all bands"):
        Scene.open(path)


def test_reflectance_is_scaled_and_a_hidden_tenth_is_reported(tmp_path):
    data = values(low=1100)
    path = write(tmp_path / "a.tif", (data / 10000).astype("float32"), SURFACE)
    with Scene.open(path) as scene:
        assert "0.1" in scene.warnings[0]
        np.testing.assert_allclose(read_all(scene)[0], data[TEN_OF_TWELVE], atol=0.01)
    with Scene.open(path, offset=-1000) as scene:
        np.testing.assert_allclose(read_all(scene)[0], data[TEN_OF_TWELVE] - 1000.0, atol=0.01)


# --- nodata and masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "declared", "option", "dtype"),
    [
        (0, None, None, "uint16"),
        (65535, None, None, "uint16"),
        (0, 65535, None, "uint16"),
        (65535, 65535, None, "uint16"),
        (-9999, -9999, None, "int16"),
        (123, None, 123, "uint16"),
        (-9999, -9999, None, "float32"),
        (np.nan, None, None, "float32"),
    ],
)
def test_only_pixels_without_any_band_are_nodata(tmp_path, value, declared, option, dtype):
    data = values(low=200, dtype=dtype)
    data[:, 3, 4] = value
    data[5, 6, 7] = 0  # one dark band
    with Scene.open(write(tmp_path / "a.tif", data, SURFACE, nodata=declared), nodata=option) as scene:
        dn, valid = read_all(scene)
    expected = np.ones((48, 60), dtype=bool)
    expected[3, 4] = False
    np.testing.assert_array_equal(valid, expected)
    assert (dn[:, 3, 4] == 0).all()
    assert dn[BANDS.index("B6"), 6, 7] == 0


def test_nan_in_one_band_leaves_nothing_to_use(tmp_path):
    data = values(dtype="float32")
    data[3, 2, 1] = np.nan
    data[8, 2, 2] = np.inf
    with Scene.open(write(tmp_path / "a.tif", data, SURFACE)) as scene:
        dn, valid = read_all(scene)
    assert np.isfinite(dn).all()
    assert np.argwhere(~valid).tolist() == [[2, 1], [2, 2]]


@pytest.mark.parametrize("value", [0, 65535])
@pytest.mark.parametrize("names", [SURFACE, None])
def test_all_nodata_is_refused(tmp_path, value, names):
    with pytest.raises(BadInputError, match="nothing but nodata"):
        Scene.open(write(tmp_path / "a.tif", np.full((12, 8, 8), value, dtype="uint16"), names))


def test_mask_file_mask_band_and_own_mask(tmp_path):
    mask = np.zeros((1, 24, 30), dtype="uint8")
    mask[0, 2, 3] = 1
    coarse = write(tmp_path / "cloud.tif", mask, transform=NORTH_UP * Affine.scale(2))
    expected = np.ones((48, 60), dtype=bool)
    expected[4:6, 6:8] = False
    path = write(tmp_path / "a.tif", values(), SURFACE)
    with Scene.open(path, mask=coarse) as scene:
        np.testing.assert_array_equal(read_all(scene)[1], expected)
    band = np.where(expected, 0, 1).astype("uint16")[None]
    path = write(tmp_path / "b.tif", np.concatenate([values(), band]), [*SURFACE, "cloud"])
    for name in ("cloud", "13"):
        with Scene.open(path, mask=name) as scene:
            np.testing.assert_array_equal(read_all(scene)[1], expected)
    path = write(tmp_path / "c.tif", values(), SURFACE)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(expected)
    with Scene.open(path) as scene:
        np.testing.assert_array_equal(read_all(scene)[1], expected)
    with pytest.raises(BadInputError, match="does not exist"):
        Scene.open(path, mask=tmp_path / "none.tif")


def test_scene_classification_with_a_choice_of_classes(tmp_path):
    classes = np.full((1, 24, 30), 4, dtype="uint8")
    classes[0, 0, 0], classes[0, 1, 1], classes[0, 2, 2] = 9, 6, 3
    scl = write(tmp_path / "scl.tif", classes, transform=NORTH_UP * Affine.scale(2))
    path = write(tmp_path / "a.tif", values(), SURFACE)
    for chosen, left_out in ((None, (9, 3)), ({6}, (6,)), (set(), ())):
        with Scene.open(path, scl=scl, scl_classes=chosen) as scene:
            valid = read_all(scene)[1]
        np.testing.assert_array_equal(valid, ~np.isin(np.kron(classes[0], np.ones((2, 2))), left_out))
    band = np.kron(classes, np.ones((1, 2, 2))).astype("uint16")
    stacked = write(tmp_path / "b.tif", np.concatenate([values(), band]), [*SURFACE, "SCL"])
    with Scene.open(stacked, scl_classes=[9]) as scene:
        np.testing.assert_array_equal(read_all(scene)[1], band[0] != 9)
    with pytest.raises(BadInputError, match="no class"):
        Scene.open(path, scl=scl, scl_classes={12})
    with pytest.raises(BadInputError, match="no scene classification"):
        Scene.open(path, scl_classes={9})


# --- products of many files -------------------------------------------------------------------------------


def test_band_files_equal_a_replicated_stack(tmp_path):
    bands = stored_bands(SURFACE)
    folder = write_band_files(tmp_path / "S2A patch", bands, "patch_17_{band}.tif")
    (folder / "labels.json").write_text("{}")
    write(folder / "cloud_mask.tif", np.zeros((1, 48, 60), dtype="uint8"))
    sources = [folder, tmp_path, [folder / "cloud_mask.tif", *sorted(folder.glob("*_B*.tif"))]]
    for source in sources:
        with Scene.open(source) as scene:
            np.testing.assert_array_equal(read_all(scene)[0], expected_from(bands))
            for row, col, height, width in ((0, 0, 1, 1), (5, 7, 13, 11), (47, 59, 1, 1)):
                part, _ = scene.read(Window(row, col, height, width))
                whole = expected_from(bands)[:, row : row + height, col : col + width]
                np.testing.assert_array_equal(part, whole)


def test_band_files_that_do_not_fit(tmp_path):
    bands = stored_bands(SURFACE)
    folder = write_band_files(tmp_path / "a", bands)
    write(folder / "B05.tif", bands["B5"][None, :-1], transform=NORTH_UP * Affine.scale(2))
    with pytest.raises(BadInputError, match="no coarser version"):
        Scene.open(folder)
    write(folder / "B05.tif", bands["B5"][None], transform=NORTH_UP * Affine.scale(2), crs="EPSG:32634")
    with pytest.raises(BadInputError, match="no coarser version"):
        Scene.open(folder)
    (folder / "B05.tif").unlink()
    with pytest.raises(BadInputError, match="lacks B5"):
        Scene.open(folder)
    with Scene.open(folder, bands={"B5": 6}) as scene:
        assert scene.provenance["stand_ins"] == {"B5": "B6"}


def test_folders_with_several_products_or_none(tmp_path):
    for name in ("one", "two"):
        write_band_files(tmp_path / "both" / name, stored_bands(SURFACE))
    with pytest.raises(BadInputError, match="holds one, two; wanted one"):
        Scene.open(tmp_path / "both")
    mixed = write_band_files(tmp_path / "mixed", stored_bands(SURFACE), "x_{band}.tif")
    write_band_files(mixed, stored_bands(SURFACE), "y_{band}.tif")
    with pytest.raises(BadInputError, match="mixes the products x_, y_"):
        Scene.open(mixed)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="nothing of the kind"):
        Scene.open(tmp_path / "empty")
    with pytest.raises(BadInputError, match="does not exist"):
        Scene.open(tmp_path / "absent.tif")


def zipped(safe):
    archive = safe.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(safe.rglob("*")):
            opened.write(file, file.relative_to(safe.parent).as_posix())
    return archive


def test_safe_folder_and_zip(tmp_path):
    classes = np.full((24, 30), 4, dtype="uint8")
    classes[0, 0] = 9
    bands = stored_bands(SURFACE, offset=1000)
    safe = write_safe(tmp_path, bands, scl=classes)
    archive = zipped(safe)
    for source in (
        safe,
        archive,
        safe / "MTD_MSIL2A.xml",
        f"/vsizip/{archive}",
        f"/vsizip/{archive}/{safe.name}",
    ):
        with Scene.open(source, scl_classes={9}) as scene:
            dn, valid = read_all(scene)
            assert scene.provenance["offset"] == -1000
            assert scene.provenance["level"] == "L2A"
            assert scene.native == Grid("EPSG:32633", NORTH_UP, 60, 48)
        assert np.argwhere(~valid).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
        np.testing.assert_array_equal(dn[:, valid], expected_from(bands)[:, valid] - 1000)


def test_safe_of_an_early_baseline_has_no_offset_and_no_warning(tmp_path):
    bands = stored_bands(SURFACE, offset=1000)
    with Scene.open(write_safe(tmp_path, bands, offset=None, baseline="02.14")) as scene:
        assert scene.provenance["offset"] == 0
        assert scene.warnings == ()


def test_damaged_safe_products(tmp_path):
    safe = write_safe(tmp_path, stored_bands(SURFACE))
    archive = zipped(safe)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(BadInputError, match="zip archive"):
        Scene.open(broken)
    metadata = (safe / "MTD_MSIL2A.xml").read_text()
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aa">]><x>&a;</x>'
    for text, message in (
        (metadata[:200], "is damaged"),
        (bomb, "is damaged"),
        (metadata.replace(">10000<", ">1000<"), "wanted 10000"),
    ):
        (safe / "MTD_MSIL2A.xml").write_text(text)
        with pytest.raises(BadInputError, match=message):
            Scene.open(safe)
    for file in (safe / "GRANULE").rglob("*.jp2"):
        file.unlink()
    with pytest.raises(BadInputError, match="0 tiles"):
        Scene.open(safe)


@pytest.mark.parametrize("key", ["eo:bands", "bands"])
def test_stac_item(tmp_path, key):
    bands = stored_bands(SURFACE, offset=1000)
    classes = np.full((24, 30), 4, dtype="uint8")
    classes[0, 0] = 3
    raster = {"scale": 0.0001, "offset": -0.1}
    with Scene.open(
        write_stac(tmp_path / "a", bands, key=key, raster=raster, scl=classes), scl_classes=[3]
    ) as scene:
        dn, valid = read_all(scene)
        assert scene.provenance["offset"] == -1000
        assert scene.provenance["level"] == "L2A"
    assert (~valid).sum() == 4
    np.testing.assert_array_equal(dn[:, valid], expected_from(bands)[:, valid] - 1000)
    with Scene.open(
        write_stac(tmp_path / "b", bands, key=key, properties={"s2:processing_baseline": "05.10"})
    ) as scene:
        assert scene.provenance["offset"] == -1000


def test_stac_item_with_common_names_and_signed_links(tmp_path):
    bands = stored_bands(SURFACE)
    path = write_stac(tmp_path, bands)
    item = json.loads(path.read_text())
    keys = dict(zip(item["assets"], COMMON_NAMES, strict=False))
    assets = {keys[name]: asset for name, asset in item["assets"].items() if name in keys}
    for name, asset in assets.items():
        asset["eo:bands"] = [{"name": name, "common_name": name.rstrip("123")}]
        asset["raster:bands"] = "nonsense"
    # The same band again, coarser and named in the way of another archive, must not win.
    assets["B02_60m"] = {"href": "none.tif", "gsd": 60, "bands": [{"name": "B02"}]}
    assets["blue"]["gsd"] = 10
    assets["green"]["href"] = f"file://{tmp_path}/data/B03.tif"
    path.write_text(json.dumps({**item, "assets": assets}))
    with Scene.open(path) as scene:
        np.testing.assert_array_equal(read_all(scene)[0], expected_from(bands))
    assert public_name("https://user:word@host/a/B02.tif?sig=abc") == "https://host/a/B02.tif"
    assert public_name("/vsicurl/https://host/B02.tif?sig=abc") == "/vsicurl/https://host/B02.tif"
    assert public_name("what?.tif") == "what?.tif"


def test_bad_stac_items(tmp_path):
    path = tmp_path / "item.json"
    for text, message in (
        ("{", "no readable JSON"),
        ("{}", "no STAC item"),
        ('{"assets": {"a": {"href": "x"}}}', "names a Sentinel-2 band"),
    ):
        path.write_text(text)
        with pytest.raises(BadInputError, match=message):
            Scene.open(path)


def test_vsi_path(tmp_path):
    path = write(tmp_path / "a.tif", values(), SURFACE)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "inner/a.tif")
    for source in (f"/vsizip/{tmp_path}/a.zip/inner/a.tif", tmp_path / "a.zip", f"file://{path}"):
        with Scene.open(source) as scene:
            np.testing.assert_array_equal(read_all(scene)[0], values()[TEN_OF_TWELVE])


# --- files that cannot be used ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def files_on_disk(source, **options):
    with Scene.open(source, **options) as scene:
        return {Path(path).resolve() for path in scene.files if not path.startswith("/vsi")}


def test_every_file_that_is_read_is_told(tmp_path):
    bands = stored_bands(SURFACE)
    classes = np.full((24, 30), 4, dtype="uint8")
    item = write_stac(tmp_path / "stac", bands, scl=classes)
    data = {path.resolve() for path in (tmp_path / "stac/data").iterdir()}
    # The assets that are not read, such as B1 and the SCL, belong to the product, too.
    assert files_on_disk(item) == {item.resolve(), *data}
    folder = write_band_files(tmp_path / "bands", bands)
    assert files_on_disk(folder) == {folder.resolve(), *(path.resolve() for path in folder.iterdir())}
    assert files_on_disk(sorted(folder.iterdir())) == {path.resolve() for path in folder.iterdir()}
    safe = write_safe(tmp_path, bands)
    assert safe.resolve() in files_on_disk(safe)
    assert {path.resolve() for path in safe.rglob("*_B08_10m.jp2")} < files_on_disk(safe / "MTD_MSIL2A.xml")
    with Scene.open(zipped(safe)) as scene:
        assert str(safe.with_suffix(".zip")) in scene.files
        assert any(path.startswith("/vsizip/") for path in scene.files)


def test_the_files_of_masks_and_of_nested_vrts_are_told(tmp_path):
    stack = write(tmp_path / "stack.tif", values(10), BANDS)
    mask = write(tmp_path / "mask.tif", np.zeros((1, 48, 60), dtype="uint8"))
    scl = write(tmp_path / "scl.tif", np.full((1, 48, 60), 4, dtype="uint8"))
    assert files_on_disk(stack, mask=mask, scl=scl) == {stack, mask, scl}
    rasterio.shutil.copy(stack, tmp_path / "inner.vrt", driver="VRT")
    text = (tmp_path / "inner.vrt").read_text()
    (tmp_path / "outer.vrt").write_text(text.replace("stack.tif", "inner.vrt"))
    assert files_on_disk(tmp_path / "outer.vrt") == {stack, tmp_path / "inner.vrt", tmp_path / "outer.vrt"}


def test_no_crs(tmp_path):
    with pytest.raises(BadInputError, match="no coordinate reference system"):
        Scene.open(write(tmp_path / "a.tif", values(), SURFACE, crs=None))


def test_truncated_and_foreign_files(tmp_path):
    path = write(tmp_path / "a.tif", values(12, 256, 256), compress="deflate")
    content = path.read_bytes()
    for size, message in (
        (len(content) // 2, "cannot be read to its end"),
        (50, "cannot be opened"),
        (0, "cannot be opened"),
    ):
        path.write_bytes(content[:size])
        with pytest.raises(BadInputError, match=message):
            Scene.open(path)
    text = tmp_path / "notes.txt"
    text.write_text("no raster")
    with pytest.raises(BadInputError, match="cannot be opened as a raster"):
        Scene.open(text)


def test_truncated_jpeg2000(tmp_path):
    safe = write_safe(tmp_path, stored_bands(SURFACE))
    (band,) = (safe / "GRANULE").rglob("*_B04_10m.jp2")
    band.write_bytes(band.read_bytes()[:2000])
    with pytest.raises(BadInputError, match="damaged"):
        Scene.open(safe)


def test_a_scene_is_read_by_another_thread(tmp_path):
    path = write(tmp_path / "a.tif", values(), SURFACE)
    with Scene.open(path) as scene, ThreadPoolExecutor(1) as pool:
        dn, _ = pool.submit(scene.read, Window(1, 2, 30, 40)).result()
    np.testing.assert_array_equal(dn, values()[TEN_OF_TWELVE, 1:31, 2:42])


def test_windows_outside_are_refused(tmp_path):
    with Scene.open(write(tmp_path / "a.tif", values(), SURFACE)) as scene:
        for window in (Window(-1, 0, 2, 2), Window(0, 59, 2, 2), Window(0, 0, 0, 2)):
            with pytest.raises(BadInputError, match="is not a part"):
                scene.read(window)


# --- grids, resampling and windows ------------------------------------------------------------------------

GRIDS = {
    "metres": ("EPSG:32633", NORTH_UP),
    "degrees": ("EPSG:4326", Affine(8.98e-5, 0, 13, 0, -8.98e-5, 60)),
    "mercator": ("EPSG:3857", Affine(15, 0, 1500000, 0, -15, 6600000)),
    "rotated": ("EPSG:32633", NORTH_UP * Affine.rotation(20)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids_keep_their_extent(tmp_path, name):
    crs, transform = GRIDS[name]
    with Scene.open(
        write(tmp_path / "a.tif", values(), SURFACE, crs=crs, transform=transform), gsd=20
    ) as scene:
        assert scene.native == Grid(crs, transform, 60, 48)
        assert scene.grid == scene.native.resampled(20)
        assert scene.grid.bounds == pytest.approx(scene.native.bounds)
        assert scene.grid.footprint.pixel_size_metres() == pytest.approx((20, 20), rel=0.05)
        dn, valid = read_all(scene)
    assert dn.shape == (10, scene.grid.height, scene.grid.width)
    assert valid.all()


def test_halving_is_the_mean_of_four(tmp_path):
    with Scene.open(write(tmp_path / "a.tif", values(), SURFACE), gsd=20) as scene:
        dn, _ = read_all(scene)
    blocks = values()[TEN_OF_TWELVE].astype(np.float64).reshape(10, 24, 2, 30, 2)
    np.testing.assert_allclose(dn, blocks.mean(axis=(2, 4)), rtol=1e-6)


def test_area_means_ignore_invalid_pixels(tmp_path):
    data = values(dtype="float32")
    data[:, 0, 0] = np.nan
    data[:, 2:4, 0:2] = np.nan
    with Scene.open(write(tmp_path / "a.tif", data, SURFACE), gsd=20) as scene:
        dn, valid = read_all(scene)
    assert np.argwhere(~valid).tolist() == [[1, 0]]
    three = (data[1, 0, 1] + data[1, 1, 0] + data[1, 1, 1]) / 3
    assert dn[0, 0, 0] == pytest.approx(three, rel=1e-6)


def test_upsampling_is_bilinear(tmp_path):
    ramp = np.broadcast_to(np.arange(60) * 20 + 500, (12, 48, 60)).astype("uint16")
    with Scene.open(write(tmp_path / "a.tif", ramp, SURFACE), gsd=5) as scene:
        dn, _ = read_all(scene)
    assert dn.shape == (10, 96, 120)
    np.testing.assert_allclose(dn[0, 10, 1:-1], 500 + 20 * ((np.arange(1, 119) + 0.5) / 2 - 0.5))
    np.testing.assert_allclose(dn[0, 10, [0, -1]], [500, 500 + 20 * 59])


@pytest.fixture(scope="module")
def odd_scene(tmp_path_factory):
    data = values(12, 83, 101, dtype="float32")
    data[:, np.random.default_rng(2).random((83, 101)) < 0.2] = np.nan
    return write(
        tmp_path_factory.mktemp("odd") / "a.tif", data, SURFACE, tiled=True, blockxsize=32, blockysize=32
    )


@settings(max_examples=80, deadline=None)
@given(data=st.data(), gsd=st.sampled_from([None, 20.0, 13.7, 27.3, 6.1, 300.0]))
def test_a_window_is_bit_identical_to_the_whole(odd_scene, data, gsd):
    with Scene.open(odd_scene, gsd=gsd) as scene:
        height, width = scene.grid.height, scene.grid.width
        row = data.draw(st.integers(0, height - 1))
        col = data.draw(st.integers(0, width - 1))
        window = Window(
            row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col))
        )
        whole, whole_valid = read_all(scene)
        part, part_valid = scene.read(window)
    place = (slice(row, window.row_stop), slice(col, window.col_stop))
    np.testing.assert_array_equal(part, whole[(slice(None), *place)])
    np.testing.assert_array_equal(part_valid, whole_valid[place])


def test_a_large_scene_is_never_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "large.tif"
    options = {"tiled": True, "compress": "deflate", "zlevel": 1, "sparse_ok": True}
    with rasterio.open(path, "w", driver="GTiff", width=6000, height=6000, count=12, dtype="uint16",
                       crs="EPSG:32633", transform=NORTH_UP, **options) as dataset:  # fmt: skip
        dataset.descriptions = SURFACE
        block = values(12, 256, 256)
        for row in range(0, 6000, 768):
            dataset.write(block[:, : min(256, 6000 - row)], window=((row, min(row + 256, 6000)), (0, 256)))
    read = []
    original = raster._read

    def counted(*args, **kwargs):
        result = original(*args, **kwargs)
        read.append(result.size)
        return result

    monkeypatch.setattr(raster, "_read", counted)
    with Scene.open(path) as scene:
        assert sum(read) <= 10 * 512 * 512
        read.clear()
        scene.read(Window(0, 0, 96, 96))
        assert sum(read) == 10 * 96 * 96


# --- real products ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def data_folder(shared) -> Path:
    return shared / "data"


@pytest.mark.parametrize("name", ["detroit", "sacramento", "tokyo"])
def test_gair_pairs_are_already_harmonised(data_folder, name):
    path = data_folder / f"gair_pairs/queries/{name}_rs.tif"
    with Scene.open(path, gsd=None) as scene, rasterio.open(path) as dataset:
        dn, valid = read_all(scene)
        np.testing.assert_array_equal(dn, dataset.read()[TEN_OF_TWELVE])
        reason = scene.provenance["offset_reason"]
        assert ("already harmonised" in reason) is (name != "sacramento")
        assert scene.warnings == ()
    assert valid.all()  # Tokyo's zeros stand in single bands: dark, not missing


def test_laos_bands_equal_laos_scene(data_folder):
    stack = next((data_folder / "laos_scene").glob("*.tif"))
    with Scene.open(stack) as one, Scene.open(data_folder / "laos_bands") as many:
        assert one.grid == many.grid
        np.testing.assert_array_equal(read_all(one)[0], read_all(many)[0])
        assert "cloud_mask.tif" not in str(many.provenance["bands"])
    (folder,) = (data_folder / "laos_bands").iterdir()
    with Scene.open(folder, mask=folder / "cloud_mask.tif") as scene:
        assert read_all(scene)[1].all()


def test_toulouse_needs_an_explicit_mapping(data_folder):
    path = data_folder / "toulouse_series/2018_3A_Theia_Bouconne.tif"
    with pytest.raises(BadInputError, match="70 bands"):
        Scene.open(path)
    order = ("B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")
    for date in (0, 6):
        with Scene.open(path, bands={name: 10 * date + order.index(name) + 1 for name in BANDS}) as scene:
            dn, _ = read_all(scene)
            assert scene.provenance["stand_ins"] == {}
            if date == 0:
                medians = [162, 450, 184, 823, 2884, 3524, 3611, 3826, 1682, 706]
                np.testing.assert_allclose(np.median(dn, axis=(1, 2)), medians, atol=1)
    one_date = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    with rasterio.open(path) as dataset:
        first = dataset.read([number + 1 for number in one_date])
    with rasterio.MemoryFile() as memory:
        write(memory.name, first)
        with pytest.raises(BadInputError, match="B8 may stand before"):
            Scene.open(memory.name)


def test_cloudy_scene_and_germany_warn_of_their_offset(data_folder):
    cloudy = next((data_folder / "cloudy_scene").glob("*.tif"))
    for path, lowest in ((cloudy, 732), (data_folder / "germany_polygons/sen2.tif", 5)):
        with Scene.open(path) as scene:
            assert "`offset`" in scene.warnings[0]
        with Scene.open(path, offset=-1000, gsd=None) as scene:
            assert not scene.warnings
            assert read_all(scene)[0].min() == pytest.approx(lowest, abs=0.01)


def test_tiny_scene_lacks_b8a(data_folder):
    folder = data_folder / "tiny_scene"
    toa = folder / "S2A1C_20190723_022_Barbellino_TOA_10.tif"
    boa = folder / "S2A2A_20190723_022_Barbellino_BOA_10.tif"
    with pytest.raises(BadInputError, match="B8A seems to be missing"):
        Scene.open(toa)
    with pytest.raises(BadInputError, match="11 bands"):
        Scene.open(boa)
    for path, eleventh, level in ((toa, 11, "L1C"), (boa, 10, "L2A")):
        with Scene.open(path, bands={"B8A": 8}) as scene, rasterio.open(path) as dataset:
            dn, valid = read_all(scene)
            assert (scene.grid.width, scene.grid.height) == (24, 42)
            np.testing.assert_array_equal(dn[7], dataset.read(8))
            np.testing.assert_array_equal(dn[8], dataset.read(eleventh))
            assert scene.provenance["level"] == level
            assert scene.provenance["stand_ins"] == {"B8A": "B8"}
        assert valid.all()


def test_single_bands(data_folder):
    for folder in sorted((data_folder / "single_bands").iterdir()):
        with Scene.open(folder) as scene:
            dn, valid = read_all(scene)
            assert scene.warnings == ()
        assert dn.shape == (10, 120, 120)
        assert valid.all()
        with rasterio.open(folder / f"{folder.name}_B8A.tif") as dataset:
            np.testing.assert_array_equal(dn[7], np.kron(dataset.read(1), np.ones((2, 2))))
    with pytest.raises(BadInputError, match="wanted one Sentinel-2 product"):
        Scene.open(data_folder / "single_bands")


@pytest.mark.parametrize(
    ("number", "offset"),
    [(74721, True), (57755, True), (75123, True), (25630, False), (502692, False), (511198, False)],
)
def test_world_patches(data_folder, number, offset):
    path = data_folder / f"world_patches/patch_{number}.tif"
    with Scene.open(path) as scene, rasterio.open(path) as dataset:
        assert any("`offset`" in warning for warning in scene.warnings) is offset
        np.testing.assert_array_equal(read_all(scene)[0], dataset.read()[TEN_OF_TWELVE])


def test_bitemporal_pair_has_pixels_of_unequal_sides(data_folder):
    before, after = sorted((data_folder / "bitemporal_pair").glob("*.tif"))
    with Scene.open(before) as first, Scene.open(after) as second:
        assert first.grid == second.grid
        assert first.grid.footprint.pixel_size_metres() == pytest.approx((10, 10), rel=0.03)


@pytest.mark.parametrize("name", ["AnnualCrop_1", "Pasture_300", "SeaLake_3000"])
def test_eurosat_has_b8a_last(data_folder, name):
    path = data_folder / f"eurosat_order/{name}.tif"
    with Scene.open(path) as scene, rasterio.open(path) as dataset:
        dn, _ = read_all(scene)
        np.testing.assert_array_equal(dn, dataset.read([2, 3, 4, 5, 6, 7, 8, 13, 11, 12]))
        assert scene.provenance["level"] == "L1C"
        assert any("top-of-atmosphere" in warning for warning in scene.warnings)
