from __future__ import annotations

import io

import numpy as np
import pytest
import rasterio
from PIL import Image

from gair_core.errors import BadInputError
from gair_core.photos.reading import open_photo

# A picture whose four corners, and so every turn and mirror image, differ.
PICTURE = np.kron(
    np.array(
        [[[250, 10, 10], [10, 250, 10], [10, 10, 250]], [[240, 240, 20], [20, 20, 20], [240, 240, 240]]]
    ),
    np.ones((16, 16, 1)),
).astype(np.uint8)

# How a stored picture looks when its meaning is "upright = PICTURE": the inverse of each orientation, from
# the standard's own words (where the 0th row and the 0th column of the stored picture are).
STORED = {
    1: lambda a: a,  # row 0 at the top, column 0 at the left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda a: a[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(tmp_path, suffix, orientation):
    path = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](PICTURE)))
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    stored.save(path, exif=exif, **options)
    photo = open_photo(path)
    assert photo.mode == "RGB"
    assert photo.size == (48, 32)
    np.testing.assert_allclose(np.asarray(photo, int), PICTURE, atol=6 if suffix == "jpg" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_means_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PICTURE).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(open_photo(tmp_path / "photo.png"), PICTURE)


def test_damaged_tags_do_not_hide_sound_pixels(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "photo.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    np.testing.assert_array_equal(open_photo(tmp_path / "photo.png"), PICTURE)


def test_greyscale_palette_and_bilevel(tmp_path):
    grey = PICTURE[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(open_photo(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))
    Image.fromarray(PICTURE).quantize(8, dither=Image.Dither.NONE).save(tmp_path / "palette.png")
    np.testing.assert_allclose(np.asarray(open_photo(tmp_path / "palette.png"), int), PICTURE, atol=2)
    bilevel = grey > 128
    Image.fromarray(bilevel).save(tmp_path / "bilevel.tif")
    np.testing.assert_array_equal(np.asarray(open_photo(tmp_path / "bilevel.tif"))[..., 1], bilevel * 255)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path, suffix):
    options = {"quality": 95} if suffix == "jpg" else {}
    Image.fromarray(PICTURE).convert("CMYK").save(tmp_path / f"photo.{suffix}", **options)
    photo = np.asarray(open_photo(tmp_path / f"photo.{suffix}"), int)
    centres = np.s_[8::16, 8::16]
    np.testing.assert_allclose(photo[centres], PICTURE[centres], atol=4)


def test_transparent_pixels_are_white(tmp_path):
    alpha = np.zeros(PICTURE.shape[:2], np.uint8)
    alpha[:, 16:] = 255
    Image.fromarray(np.dstack([PICTURE, alpha])).save(tmp_path / "alpha.png")
    photo = np.asarray(open_photo(tmp_path / "alpha.png"))
    assert (photo[:, :16] == 255).all()
    np.testing.assert_array_equal(photo[:, 16:], PICTURE[:, 16:])
    image = Image.fromarray(PICTURE).quantize(8, dither=Image.Dither.NONE)
    image.save(tmp_path / "palette.png", transparency=image.getpixel((0, 0)))
    assert (np.asarray(open_photo(tmp_path / "palette.png"))[:16, :16] == 255).all()


@pytest.mark.parametrize("factor", [257, 256])
@pytest.mark.parametrize("kind", ["grey.png", "grey.tif", "rgb.png", "rgb.tif", "deflate.tif"])
def test_16_bit_values_are_scaled_not_clipped(tmp_path, kind, factor):
    path = tmp_path / kind
    bands = PICTURE.transpose(2, 0, 1).astype(np.uint16) * factor
    bands = bands[:1] if kind.startswith("grey") else bands
    # GDAL writes what Pillow cannot: 16-bit colour.
    profile = (
        {"driver": "PNG"}
        if kind.endswith("png")
        else {"driver": "GTiff", "interleave": "pixel", "photometric": "RGB"}
    )
    if kind == "grey.tif":
        del profile["photometric"]
    profile |= {"compress": "deflate"} if kind.startswith("deflate") else {}
    with rasterio.open(path, "w", width=48, height=32, count=len(bands), dtype="uint16", **profile) as file:
        file.write(bands)
    expected = PICTURE[..., :1].repeat(3, 2) if kind.startswith("grey") else PICTURE
    np.testing.assert_array_equal(open_photo(path), expected)


def test_16_bit_white_is_zero(tmp_path):
    profile = {"driver": "GTiff", "photometric": "MINISWHITE", "dtype": "uint16"}
    with rasterio.open(tmp_path / "g.tif", "w", width=48, height=32, count=1, **profile) as file:
        file.write(PICTURE[..., :1].transpose(2, 0, 1).astype(np.uint16) * 257)
    np.testing.assert_array_equal(np.asarray(open_photo(tmp_path / "g.tif"))[..., 0], 255 - PICTURE[..., 0])


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_kinds_without_a_defined_picture_are_refused(tmp_path, dtype):
    values = np.linspace(-1, 1e6, 48 * 32).reshape(1, 32, 48).astype(dtype)
    with rasterio.open(
        tmp_path / "p.tif", "w", driver="GTiff", width=48, height=32, count=1, dtype=dtype
    ) as file:
        file.write(values)
    with pytest.raises(BadInputError, match=r"p\.tif.*8-bit"):
        open_photo(tmp_path / "p.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_files_cut_off_anywhere_are_refused_by_name(tmp_path, suffix):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    path = tmp_path / f"Straße 7.{suffix}"
    for part in (0.0, 0.001, 0.01, 0.1, 0.5, 0.9):
        path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * part)])
        with pytest.raises(BadInputError, match=r"Straße 7\."):
            open_photo(path)


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_random_damage_is_read_or_refused(tmp_path, suffix):
    rng = np.random.default_rng(1)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURE).save(buffer, suffix, exif=exif)
    for _ in range(150):
        content = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        hits = rng.integers(0, min(len(content), 400), 4)
        content[hits] = rng.integers(0, 256, 4)
        (tmp_path / "photo").write_bytes(content.tobytes())
        try:
            assert open_photo(tmp_path / "photo").mode == "RGB"
        except BadInputError as error:
            assert "photo" in error.message


def test_missing_foreign_and_folder(tmp_path):
    with pytest.raises(BadInputError, match=r"nowhere\.jpg does not exist"):
        open_photo(tmp_path / "nowhere.jpg")
    (tmp_path / "notes.jpg").write_text("not a photo")
    with pytest.raises(BadInputError, match=r"notes\.jpg is not a photo"):
        open_photo(tmp_path / "notes.jpg")
    with pytest.raises(BadInputError, match="folder"):
        open_photo(tmp_path)


def test_real_photos(shared):
    sizes = {path.stem: open_photo(path).size for path in (shared / "data/photos_exif").glob("*/*.jpg")}
    assert len(sizes) == 13
    assert sizes["HMD_Nokia_8.3_5G"] == (4608, 1976)
    assert sizes["DSCN0010"] == (640, 480)
