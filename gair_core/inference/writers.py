"""Rasters: strips go into a temporary GeoTIFF, which becomes a Cloud Optimized GeoTIFF when complete."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from gair_core.errors import BadInputError
from gair_core.geo.grid import Grid
from gair_core.inference import outputs
from gair_core.inference.cache import bounded_cache
from gair_core.progress import Progress

RASTER_SUFFIXES = (".tif", ".tiff")

# The uncompressed strips, the finished file with its overviews (a third more, uncompressed in the worst case)
# and GDAL's temporary copy of those overviews lie on the disk at the same time.
DISK_FACTOR = 1 + 4 / 3 + 1 / 3

# While the COG is built GDAL needs a row of blocks. Its thread gets memory of its own from the system's
# allocator, beside what the cache of the strips has left there: more would add to the peak.
_COG_CACHE_BYTES = 64 << 20
# Bytes that are read back at a time: several blocks, which GDAL then decodes in parallel.
_READ_BYTES = 16 << 20

_POLL_SECONDS = 0.1

Colour = tuple[int, int, int]


def expected_bytes(grid: Grid, count: int, dtype: str) -> int:
    """Uncompressed size of a raster in bytes, overviews excluded."""
    return grid.width * grid.height * count * np.dtype(dtype).itemsize


def raster_destination(output: Path, grid: Grid, count: int, dtype: str) -> outputs.Destination:
    """Describe a raster that is to be written, for `outputs.check_destinations`."""
    needed = int(expected_bytes(grid, count, dtype) * DISK_FACTOR)
    return outputs.Destination(output, RASTER_SUFFIXES, needed)


def check_raster_destination(
    output: Path,
    grid: Grid,
    count: int,
    dtype: str,
    *,
    token: str,
    inputs: Sequence[str | Path] = (),
    free: outputs.FreeBytes = outputs.free_bytes,
) -> None:
    """Refuse an impossible destination of a run's only raster; see `outputs.check_destinations`."""
    destination = raster_destination(output, grid, count, dtype)
    outputs.check_destinations([destination], token=token, inputs=inputs, free=free)


def checksum(array: npt.NDArray[Any], nodata: float | None) -> int:
    """Sum of the bit patterns of a raster's valid values, modulo 2^64.

    It depends on neither the order nor the size of the windows, and pixels that nobody wrote (nodata, or 0
    where there is none) add nothing.

    Args:
        array: Values of the raster's type.
        nodata: The value to leave out; NaN and infinities are always left out.
    """
    bits = array.view(f"uint{8 * array.dtype.itemsize}")
    total, left_out = int(bits.sum(dtype=np.uint64)), bits[~_is_valid(array, nodata)]
    return (total - int(left_out.sum(dtype=np.uint64))) % (1 << 64)


def _holds(dtype: np.dtype[Any], nodata: float) -> bool:
    """Whether a floating type has exactly this value; rasterio itself checks the range of integers."""
    return (
        not np.issubdtype(dtype, np.floating)
        or bool(np.isnan(nodata))
        or float(np.array(nodata, dtype)) == nodata
    )


def _is_valid(values: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.bool_]:
    valid = np.ones(values.shape, bool)
    if np.issubdtype(values.dtype, np.floating):
        valid &= np.isfinite(values)
    if nodata is not None:
        valid &= values != nodata
    return valid


class BandStatistics:
    """Running minimum, maximum, mean and standard deviation of each band, nodata excluded.

    Args:
        count: Number of bands.
        nodata: The value to leave out, NaN included; NaN and infinities are always left out.
    """

    def __init__(self, count: int, nodata: float | None) -> None:
        self._nodata = nodata
        self._minimum = np.full(count, np.inf)
        self._maximum = np.full(count, -np.inf)
        self._number = np.zeros(count)
        self._mean = np.zeros(count)
        self._squares = np.zeros(count)

    def add(self, array: npt.NDArray[Any]) -> None:
        """Take in ``array`` (count, h, w), merging moments as Chan, Golub and LeVeque (1979) do."""
        for band, values in enumerate(array):
            valid = values[_is_valid(values, self._nodata)]
            if valid.size == 0:
                continue
            mean = valid.mean(dtype=np.float64)
            squares = float(valid.var(dtype=np.float64)) * valid.size
            total = self._number[band] + valid.size
            shift = mean - self._mean[band]
            self._squares[band] += squares + shift**2 * self._number[band] * valid.size / total
            self._mean[band] += shift * valid.size / total
            self._number[band] = total
            self._minimum[band] = min(self._minimum[band], valid.min())
            self._maximum[band] = max(self._maximum[band], valid.max())

    def tags(self, band: int, pixels: int) -> dict[str, str]:
        """GDAL's STATISTICS_* tags of one band, counted from 0; empty when it holds no valid pixel.

        Args:
            band: The band, from 0.
            pixels: Number of pixels in the raster, for the share of valid ones.
        """
        number = self._number[band]
        if number == 0:
            return {}
        return {
            "STATISTICS_MINIMUM": f"{self._minimum[band]:.9g}",
            "STATISTICS_MAXIMUM": f"{self._maximum[band]:.9g}",
            "STATISTICS_MEAN": f"{self._mean[band]:.9g}",
            "STATISTICS_STDDEV": f"{np.sqrt(self._squares[band] / number):.9g}",
            "STATISTICS_VALID_PERCENT": f"{100 * number / pixels:.4g}",
        }


class RasterWriter:
    """Writes one raster, complete or not at all; a context manager.

    Inside the block `write` streams windows into an uncompressed temporary. A clean exit adds statistics,
    builds the Cloud Optimized GeoTIFF (DEFLATE, predictor, overviews), reads it back, renames it over the
    destination and writes the QGIS style beside it. An exception, a cancel included, leaves the folder as
    it was.

    Args:
        path: Destination, ``.tif`` or ``.tiff``.
        grid: CRS, transform and size.
        count: Number of bands.
        dtype: NumPy's name of the pixel type. ``float16`` is stored as 16-bit floats, which GDAL reads as
            float32.
        token: Part of the temporaries' names: ``<output>.<token>.*``.
        nodata: Value of pixels without data; pixels never written have it too.
        band_names: A description for each band, or none.
        tags: Provenance, kept as metadata of the file.
        colour_table: Colours (0 to 255) by class value, for a single band of ``uint8`` or ``uint16``.
        class_names: Names by class value; they and a colour table make overviews take the most frequent class
            instead of the average.
        style: Text of the ``.qml`` beside the raster (`gair_core.inference.styles`), or None.
        scales: Factor per band that turns stored into physical values.
        offsets: Summand per band that turns stored into physical values.
        inputs: Every file that is read; none of them may be the destination.
        progress: Whose `cancel` also stops the final conversion.
        free: Tells the free bytes of a folder; a hook for tests.

    Raises:
        BadInputError: The destination is an input, cannot be written or lacks space.
        ValueError: Names, scales or colours do not fit the bands, or the type cannot hold ``nodata``.
    """

    def __init__(
        self,
        path: str | Path,
        grid: Grid,
        count: int,
        dtype: str,
        *,
        token: str,
        nodata: float | None = None,
        band_names: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        colour_table: Mapping[int, Colour] | None = None,
        class_names: Mapping[int, str] | None = None,
        style: str | None = None,
        scales: Sequence[float] | None = None,
        offsets: Sequence[float] | None = None,
        inputs: Sequence[str | Path] = (),
        progress: Progress | None = None,
        free: outputs.FreeBytes = outputs.free_bytes,
    ) -> None:
        for name, values in (("band_names", band_names), ("scales", scales), ("offsets", offsets)):
            if values and len(values) != count:
                raise ValueError(f"{name} has {len(values)} entries for {count} bands")
        if nodata is not None and not _holds(np.dtype(dtype), nodata):
            raise ValueError(f"{dtype} cannot hold the nodata value {nodata}")
        self.path = Path(path)
        check_raster_destination(self.path, grid, count, dtype, token=token, inputs=inputs, free=free)
        self.grid = grid
        self.count = count
        self.dtype = np.dtype(dtype)
        self._expected = max(expected_bytes(grid, count, dtype), 1 << 20)
        self._half = self.dtype == np.float16
        self._stored = np.dtype(np.float32) if self._half else self.dtype
        self._nodata = nodata
        self._band_names = tuple(band_names)
        self._tags = dict(tags or {})
        self._colour_table = colour_table
        self._class_names = class_names
        self._style = style
        self._scales = scales
        self._offsets = offsets
        self._progress = progress or Progress()
        self._token = token
        self._strips = outputs.temporary_path(self.path, token, "strips")
        self._complete = outputs.temporary_path(self.path, token)
        self._statistics = BandStatistics(count, nodata)
        self._checksum = 0
        self._abandoned = threading.Event()
        self._stack = ExitStack()

    def __enter__(self) -> RasterWriter:
        with ExitStack() as stack:
            stack.enter_context(outputs.live(self.path, self._token))
            stack.enter_context(bounded_cache())
            self._dataset = self._guarded(self._create)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                self._finish()
            else:
                # What a full disk makes of closing a file that is thrown away is of no interest.
                with suppress(RasterioError, OSError):
                    self._dataset.close()

    def write(self, array: npt.NDArray[Any], row: int, col: int = 0) -> None:
        """Write a window; windows must not overlap.

        Args:
            array: Values (count, h, w) of the raster's type; float32 is rounded where that is float16.
            row: The raster's row of the window's first row.
            col: The raster's column of the window's first column.

        Raises:
            BadInputError: The disk is full or the file cannot be written.
            CancelledError: Somebody cancelled.
            ValueError: Wrong type, wrong number of bands or a window outside the raster.
        """
        self._progress.raise_if_cancelled()
        height, width = array.shape[-2:]
        if array.ndim != 3 or len(array) != self.count or array.dtype not in (self.dtype, self._stored):
            raise ValueError(f"expected ({self.count}, h, w) {self.dtype}, found {array.shape} {array.dtype}")
        if min(row, col) < 0 or row + height > self.grid.height or col + width > self.grid.width:
            raise ValueError(f"window at row {row}, column {col} of {height} x {width} leaves {self.grid}")
        array = array.astype(self.dtype, copy=False)
        self._statistics.add(array)
        self._checksum += checksum(array, self._nodata)
        window = RasterWindow(col, row, width, height)
        self._guarded(lambda: self._dataset.write(array.astype(self._stored, copy=False), window=window))

    def _guarded(self, action: Any) -> Any:  # noqa: ANN401
        """Run something that writes; GDAL's and the system's errors become one that says what to do."""
        try:
            return action()
        except (RasterioError, OSError) as error:
            if isinstance(error, BadInputError):
                raise
            raise outputs.writing_failed(self.path, error, self._expected) from error

    def _create(self) -> Any:  # noqa: ANN401
        block = self._block_size()
        options = {"nbits": 16} if self._half else {}
        dataset = rasterio.open(
            self._strips,
            "w",
            driver="GTiff",
            width=self.grid.width,
            height=self.grid.height,
            count=self.count,
            dtype=self._stored.name,
            crs=self.grid.crs,
            transform=self.grid.transform,
            nodata=self._nodata,
            tiled=True,
            blockxsize=block,
            blockysize=block,
            interleave="band",
            sparse_ok=True,
            bigtiff="IF_SAFER",
            **options,
        )
        dataset.update_tags(**self._tags)
        for band, name in enumerate(self._band_names, 1):
            dataset.set_band_description(band, name)
        if self._scales is not None:
            dataset.scales = tuple(self._scales)
        if self._offsets is not None:
            dataset.offsets = tuple(self._offsets)
        if self._colour_table is not None:
            dataset.write_colormap(1, {value: (*rgb, 255) for value, rgb in self._colour_table.items()})
        if self._class_names is not None:
            dataset.update_tags(1, CLASS_NAMES=json.dumps(dict(self._class_names)))
        return dataset

    def _block_size(self) -> int:
        """Side of a tile in pixels: with hundreds of bands interleaved, 512 pixels would be a gigabyte."""
        bytes_per_pixel = self.count * self._stored.itemsize
        return 512 if bytes_per_pixel <= 4 else 256 if bytes_per_pixel <= 64 else 128

    def _finish(self) -> None:
        pixels = self.grid.width * self.grid.height
        for band in range(self.count):
            self._dataset.update_tags(band + 1, **self._statistics.tags(band, pixels))
        self._guarded(self._dataset.close)
        self._convert()
        self._progress.raise_if_cancelled()
        styled = outputs.temporary_path(self.path, self._token, "qml")
        if self._style is not None:
            self._guarded(lambda: styled.write_text(self._style or "", encoding="utf-8", newline="\n"))
        # The raster goes first: it is the one that another program may hold open.
        outputs.replace(self._complete, self.path)
        if self._style is not None:
            outputs.replace(styled, self.path.with_suffix(".qml"))
        # Statistics and overviews that other programs kept beside an older file of this name are wrong now.
        for ending in (".aux.xml", ".ovr", ".msk"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)

    def _convert(self) -> None:
        """Build the COG in a thread, so that a cancel or Ctrl-C reaches the caller in the meantime."""
        failures: list[Exception] = []

        def convert() -> None:
            try:
                with bounded_cache(_COG_CACHE_BYTES):
                    self._copy_to_cog()
                    self._read_back()
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=convert, name="gair-cog", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                self._progress.raise_if_cancelled()
        except BaseException:
            self._abort(thread)
            raise
        if failures:
            raise outputs.writing_failed(self.path, failures[0], self._expected) from failures[0]

    def _copy_to_cog(self) -> None:
        options: dict[str, Any] = {"nbits": 16} if self._half else {}
        categorical = self._colour_table is not None or self._class_names is not None
        rasterio.shutil.copy(
            self._strips,
            self._complete,
            driver="COG",
            blocksize=self._block_size(),
            compress="DEFLATE",
            predictor="NO" if categorical else "YES",
            level=1 if self.count > 4 else 6,
            overview_resampling="MODE" if categorical else "AVERAGE",
            bigtiff="IF_SAFER",
            num_threads="ALL_CPUS",
            **options,
        )

    def _read_back(self) -> None:
        """Refuse a file that lost something: GDAL reports no error when a full disk stops its last writes.

        Raises:
            RasterioError: A block or overview cannot be read, or the values are not those that were written.
        """
        found = 0
        with rasterio.open(self._complete, num_threads="ALL_CPUS") as dataset:
            levels = len(dataset.overviews(1))
            for block in self._blocks(dataset):
                found += checksum(block.astype(self.dtype, copy=False), self._nodata)
        for level in range(levels):
            with rasterio.open(self._complete, overview_level=level, num_threads="ALL_CPUS") as dataset:
                for _ in self._blocks(dataset):
                    pass
        if (found - self._checksum) % (1 << 64) and not self._abandoned.is_set():
            raise RasterioError("reading it back gives other values than were written")

    def _blocks(self, dataset: Any) -> Iterator[npt.NDArray[Any]]:  # noqa: ANN401
        height, block_width = dataset.block_shapes[0]
        block_bytes = height * block_width * self.count * self._stored.itemsize
        width = block_width * max(1, _READ_BYTES // block_bytes)
        for row in range(0, dataset.height, height):
            for col in range(0, dataset.width, width):
                if self._abandoned.is_set():
                    return
                yield dataset.read(window=RasterWindow(col, row, width, height))

    def _abort(self, thread: threading.Thread) -> None:
        """Stop GDAL, which offers no way to, by emptying the files it reads from: its next read fails."""
        self._abandoned.set()
        while thread.is_alive():
            for path in outputs.temporaries(self.path, self._token):
                if path != self._complete:
                    with suppress(OSError), path.open("r+b") as file:
                        file.truncate(0)
            thread.join(_POLL_SECONDS)
