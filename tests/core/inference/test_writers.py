from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from gair_core.errors import BadInputError, CancelledError
from gair_core.geo.grid import Grid
from gair_core.inference.writers import RasterWriter
from gair_core.progress import Progress

# The token in the names of temporaries.
MARK = "t"


def grid(width=700, height=600):
    return Grid(CRS.from_epsg(32648), Affine(10, 0, 3e5, 0, -10, 2e6), width, height)


def write(path, array, **options):
    with RasterWriter(
        path, grid(*array.shape[:0:-1]), len(array), array.dtype.name, token=MARK, **options
    ) as writer:
        for row in range(0, array.shape[1], 96):
            writer.write(array[:, row : row + 96], row)


def values(count, dtype, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.standard_normal((count, 600, 700)) * 30).clip(-127, 127).astype(dtype)


@pytest.mark.parametrize(("count", "dtype"), [(16, "int8"), (1, "float32"), (3, "float16")])
def test_pixels_grid_and_statistics(tmp_path, count, dtype):
    nodata = -128 if dtype == "int8" else float("nan")
    array = values(count, dtype)
    array[:, :50, :70] = nodata
    path = tmp_path / "ä ö.tif"
    names = [f"component {number}" for number in range(count)]
    write(path, array, nodata=nodata, band_names=names, tags={"MODEL": "démo"}, style="<qgis/>")
    with rasterio.open(path) as found:
        assert np.array_equal(found.read(), array, equal_nan=dtype != "int8")
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.overviews(1) == [2] if count == 1 else [2, 4]
        assert (found.crs, found.transform) == (grid().crs, grid().transform)
        assert found.descriptions == tuple(names)
        assert found.tags()["MODEL"] == "démo"
        valid = array[0][np.isfinite(array[0]) & (array[0] != -128)].astype("float64")
        tags = {key.removeprefix("STATISTICS_"): float(value) for key, value in found.tags(1).items()}
        wanted = (valid.min(), valid.max(), valid.mean(), valid.std())
        assert np.allclose([tags[k] for k in ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV")], wanted, rtol=1e-6)
        assert tags["VALID_PERCENT"] == pytest.approx(100 * valid.size / array[0].size, rel=1e-3)
    assert path.with_suffix(".qml").read_text() == "<qgis/>"
    assert len(list(tmp_path.iterdir())) == 2


def test_classes_have_colours_and_are_never_averaged(tmp_path):
    array = np.where(np.arange(700) % 3 == 0, 9, 1).astype("uint8") * np.ones((1, 600, 1), "uint8")
    write(tmp_path / "c.tif", array, colour_table={1: (1, 2, 3)}, class_names={1: "été", 9: "b"}, nodata=0)
    with rasterio.open(tmp_path / "c.tif", overview_level=0) as found:
        assert set(np.unique(found.read())) <= {1, 9}
        assert found.colormap(1)[1] == (1, 2, 3, 255)


def test_pixels_that_nobody_wrote_are_nodata(tmp_path):
    with RasterWriter(tmp_path / "o.tif", grid(), 1, "int8", token=MARK, nodata=-128) as writer:
        writer.write(np.ones((1, 10, 20), "int8"), 300, 400)
    with rasterio.open(tmp_path / "o.tif") as found:
        pixels = found.read(1)
    assert (pixels[300:310, 400:420] == 1).all()
    assert (pixels == 1).sum() == 200
    assert (pixels == -128).sum() == pixels.size - 200


def test_an_exception_keeps_the_old_file(tmp_path):
    path = tmp_path / "o.tif"
    write(path, values(1, "int8"))
    before = path.read_bytes()
    with (
        pytest.raises(RuntimeError, match="stop"),
        RasterWriter(path, grid(), 1, "int8", token=MARK) as writer,
    ):
        writer.write(values(1, "int8")[:, :96], 0)
        raise RuntimeError("stop")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_cancel_during_the_conversion(tmp_path, monkeypatch):
    progress = Progress()
    array = values(16, "int8")
    convert = RasterWriter._copy_to_cog

    def cancel_then_convert(self):
        threading.Timer(0.05, progress.cancel).start()
        for _ in range(20):  # one pass over so small a file would be over too soon
            convert(self)

    monkeypatch.setattr(RasterWriter, "_copy_to_cog", cancel_then_convert)
    start = time.monotonic()
    with pytest.raises(CancelledError):
        write(tmp_path / "o.tif", array, progress=progress)
    assert time.monotonic() - start < 2 + 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard"])
def test_an_input_is_never_the_output(tmp_path, link):
    source, output = tmp_path / "in.tif", tmp_path / "out.tif"
    write(source, values(1, "int8"))
    before = source.read_bytes()
    if link == "itself":
        output = source
    elif link == "symbolic":
        output.symlink_to(source)
    else:
        os.link(source, output)
    with pytest.raises(BadInputError, match="is the input"):
        write(output, values(1, "int8"), inputs=[source])
    assert source.read_bytes() == before


def test_bad_destinations(tmp_path):
    array = values(1, "int8")
    with pytest.raises(BadInputError, match=r"must end in \.tif"):
        write(tmp_path / "o.png", array)
    with pytest.raises(BadInputError, match="does not exist"):
        write(tmp_path / "no" / "o.tif", array)
    with pytest.raises(BadInputError, match=r"needs up to 1\.1 MB .* only 1\.0 MB are free"):
        write(tmp_path / "o.tif", array, free=lambda _: 1_000_000)
    with pytest.raises(BadInputError, match="cannot be part of a file name"):
        RasterWriter(tmp_path / "o.tif", grid(), 1, "int8", token="../" + MARK)
    (tmp_path / "d.tif").mkdir()
    with pytest.raises(BadInputError, match="existing folder"):
        write(tmp_path / "d.tif", array)
    assert [path.name for path in tmp_path.iterdir()] == ["d.tif"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc, where nobody can write")
def test_a_folder_that_cannot_be_written(tmp_path):
    from pathlib import Path

    with pytest.raises(BadInputError, match="cannot write into the folder"):
        write(Path("/proc/o.tif"), values(1, "int8"))


@pytest.fixture
def small_disk(tmp_path):
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs Linux and root")
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("this machine does not allow mounting a file system")
    yield folder
    subprocess.run(["/bin/umount", folder], check=True)


def test_a_folder_that_is_read_keeps_its_files(tmp_path):
    write(tmp_path / "B02.tif", values(1, "int8"))
    before = (tmp_path / "B02.tif").read_bytes()
    with pytest.raises(BadInputError, match="lies in the input folder"):
        write(tmp_path / "B02.tif", values(1, "int8"), inputs=[tmp_path])
    assert (tmp_path / "B02.tif").read_bytes() == before
    write(tmp_path / "new.tif", values(1, "int8"), inputs=[tmp_path])


def test_relative_path_to_the_input(tmp_path, monkeypatch):
    write(tmp_path / "in.tif", values(1, "int8"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="is the input"):
        write("in.tif", values(1, "int8"), inputs=[tmp_path / "in.tif"])


def test_layout_of_the_file(tmp_path):
    write(tmp_path / "o.tif", values(1, "float32"), scales=[0.5], offsets=[2], nodata=float("nan"))
    with rasterio.open(tmp_path / "o.tif") as found:
        structure = found.tags(ns="IMAGE_STRUCTURE")
        assert (structure["COMPRESSION"], structure["PREDICTOR"]) == ("DEFLATE", "3")
        assert found.block_shapes == [(512, 512)]
        assert (found.scales, found.offsets) == ((0.5,), (2.0,))
        # A COG holds its coarsest pixels first, and the directories before any of them.
        tags = [found.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=level) for level in (0, None)]
        directories = [found.get_tag_item("IFD_OFFSET", "TIFF", bidx=1, ovr=level) for level in (0, None)]
    assert int(tags[0]) < int(tags[1])
    assert max(map(int, directories)) < int(tags[0])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "float16", "float32"])
def test_windows_in_any_order_without_nodata(tmp_path, dtype):
    array = np.abs(values(2, "float32")).astype(dtype)
    corners = [(row, col) for row in range(0, 600, 200) for col in range(0, 700, 100)]
    np.random.default_rng(1).shuffle(corners)
    with RasterWriter(tmp_path / "o.tif", grid(), 2, dtype, token=MARK) as writer:
        for row, col in corners:
            writer.write(array[:, row : row + 200, col : col + 100], row, col)
    with rasterio.open(tmp_path / "o.tif") as found:
        assert np.array_equal(found.read(), array)


def test_float32_is_rounded_to_half_before_it_counts(tmp_path):
    array = values(1, "float32") / np.float32(3)
    with RasterWriter(tmp_path / "o.tif", grid(), 1, "float16", token=MARK) as writer:
        writer.write(array, 0)
    with rasterio.open(tmp_path / "o.tif") as found:
        assert np.array_equal(found.read(), array.astype("float16"))
        assert float(found.tags(1)["STATISTICS_MAXIMUM"]) == array.astype("float16").max()


def test_nodata_that_the_type_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="float16 cannot hold the nodata value -9999"):
        RasterWriter(tmp_path / "o.tif", grid(), 1, "float16", token=MARK, nodata=-9999)


@pytest.mark.parametrize("damage", ["cut", "lost block"])
def test_a_damaged_result_is_noticed(tmp_path, monkeypatch, damage):
    path = tmp_path / "o.tif"
    write(path, values(1, "int8"), style="<old/>")
    before = path.read_bytes()
    convert = RasterWriter._copy_to_cog

    def convert_badly(self):
        if damage == "cut":
            convert(self)
            os.truncate(self._complete, self._complete.stat().st_size * 2 // 3)
        else:
            with rasterio.open(self._strips, "r+") as strips:
                strips.write(np.zeros((1, 10, 10), "int8"), window=rasterio.windows.Window(0, 0, 10, 10))
            convert(self)

    monkeypatch.setattr(RasterWriter, "_copy_to_cog", convert_badly)
    with pytest.raises(BadInputError, match="nothing was kept"):
        write(path, values(1, "int8"), style="<new/>")
    assert path.read_bytes() == before
    assert path.with_suffix(".qml").read_text() == "<old/>"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("spare", range(2000, 4200, 200))
def test_a_disk_that_fills_anywhere_leaves_all_or_nothing(small_disk, spare):
    filler = small_disk / "filler"
    filler.write_bytes(bytes((6144 - spare) * 1024))
    array, path = values(2, "int8"), small_disk / "o.tif"
    try:
        write(path, array, free=lambda _: 1 << 40)
    except BadInputError as error:
        assert "the disk is full" in error.message
        assert list(small_disk.iterdir()) == [filler]
    else:
        with rasterio.open(path) as found:
            assert np.array_equal(found.read(), array)


@pytest.mark.parametrize("count", [8, 16])
def test_a_disk_that_fills(small_disk, count):
    # Eight bands fit as strips but not as strips and COG; sixteen fill the disk with the strips alone.
    with pytest.raises(BadInputError, match="the disk is full"):
        write(small_disk / "o.tif", values(count, "int8"), free=lambda _: 1 << 40)
    assert not list(small_disk.iterdir())
