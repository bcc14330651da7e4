"""Open any Sentinel-2 product as one scene of ten bands on one grid, and read windows of it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from rasterio.enums import MaskFlags
from rasterio.io import DatasetReader

from gair_core.errors import BadInputError
from gair_core.geo.footprint import apply_affine
from gair_core.geo.grid import Grid, Window
from gair_core.sentinel2.bands import BANDS, MEAN
from gair_core.sentinel2.offsets import Radiometry, decide, display_image
from gair_core.sentinel2.product import BandFile, Product, list_bands
from gair_core.sentinel2.products import find_product
from gair_core.sentinel2.raster import (
    Array,
    can_be_decimated,
    files_of,
    is_local,
    open_raster,
    public_name,
    read_decimated,
    read_mask,
    read_window,
    sample_shape,
    sample_windows,
)
from gair_core.sentinel2.resampling import axis_taps, resample

Values = npt.NDArray[np.float32]
Validity = npt.NDArray[np.bool_]
Missing = Literal["error", "mean", "zero"]

DEFAULT_SCL_CLASSES: Final = frozenset({0, 1, 3, 8, 9, 10})
"""No data, saturated, cloud shadow, clouds of medium and high probability, thin cirrus."""


class Scene:
    """Ten named bands on one grid, as harmonised DN with a validity mask.

    Use `Scene.open`. A scene is read by one thread at a time; closing it twice is harmless.

    A pixel is valid unless

    * ALL of its bands are nodata: the declared value or the option's, and without the option also 0 and
      65535. One band that is 0 is a dark pixel whose value was clipped, not missing ground;
    * any of its bands is NaN or infinite, since there is no value to use;
    * the file's own mask, the option ``mask`` or a chosen class of the scene classification excludes it.

    Attributes:
        native: The finest grid of the product's bands; 20 m and 60 m bands are replicated on it.
        grid: ``native`` resampled to the wanted ground sampling distance.
        band_names: `BANDS`.
        missing_bands: Bands that the product lacks and that were filled by the option ``missing``.
        source: What was opened, for messages.
        files: Every file and folder that the scene is made of, as GDAL opens them: what was opened, the
            bands, masks and classification, the sources of a VRT. None of them may be an output.
        warnings: What the user should know.
        provenance: Where every number comes from, JSON-serialisable.
    """

    band_names: Final = BANDS

    def __init__(
        self,
        product: Product,
        *,
        opened: Sequence[str],
        offset: float | Literal["auto"],
        nodata: float | None,
        mask: BandFile | None,
        scl: BandFile | None,
        scl_classes: frozenset[int],
        gsd: float | None,
        missing: Missing,
    ) -> None:
        self.source = product.name
        self._lock = threading.Lock()
        self._datasets: dict[str, DatasetReader] = {}
        self._nodata = nodata
        self._missing = missing
        self._scl_classes = scl_classes
        try:
            self._files = _needed_bands(product, missing)
            self.missing_bands = tuple(name for name in BANDS if name not in self._files)
            self._open_all(self._files.values(), mask, scl)
            self.native = self._finest_grid()
            self._factors = {path: self._factor(path) for path in self._datasets}
            self._mask, self._scl = mask, scl
            self.files = self._all_files(product, opened)
            self._own_masks = tuple(dict.fromkeys(self._file_masks()))
            self._radiometry = self._decide_radiometry(product, offset)
            self.grid = self.native if gsd is None else self.native.resampled(gsd)
        except BaseException:
            self.close()
            raise
        self.warnings = _warnings(product, self.missing_bands, missing, self._radiometry)
        self.provenance = self._provenance(product, gsd)

    @classmethod
    def open(
        cls,
        source: str | Path | Sequence[str | Path],
        *,
        bands: Mapping[str, str | int] | None = None,
        offset: float | Literal["auto"] = "auto",
        nodata: float | None = None,
        mask: str | Path | None = None,
        scl: str | Path | None = None,
        scl_classes: Collection[int] | None = None,
        gsd: float | None = 10.0,
        missing: Missing = "error",
    ) -> Scene:
        """Open a Sentinel-2 product.

        Args:
            source: A stack in one file, a folder or list of files with one band each, a SAFE folder or zip,
                a STAC item, or a path that GDAL understands, such as /vsicurl/....
            bands: Where bands are that the product does not name: band to band number in a stack, counted
                from 1, or to another band's name. Two bands may share one: ``{"B8A": 8}`` lets B8 stand for
                B8A, with a warning. In a product of several files a number means the band of that number.
            offset: DN to add to every value: -1000 takes ESA's offset off, 0 leaves the values alone, "auto"
                decides by the product's tags and a sample of the whole scene.
            nodata: Stored value that means nodata, in place of the declared one, 0 and 65535.
            mask: A raster whose nonzero pixels are left out, or the number or name of a stack's own band.
            scl: A scene classification (SCL); by default the product's own, when ``scl_classes`` asks for it.
            scl_classes: Classes (0 to 11) to leave out; `DEFAULT_SCL_CLASSES` when only ``scl`` is given.
            gsd: Ground sampling distance of `grid` in metres; None keeps the native grid.
            missing: What to do about absent bands: refuse the scene, or fill them with the mean of the
                training data (DN) or with 0.

        Raises:
            BadInputError: The product cannot be used; the message says what was found and the way out.
        """
        if missing not in ("error", "mean", "zero"):
            raise BadInputError(f"`missing` is {missing!r}; wanted error, mean or zero.")
        product = find_product(source, bands)
        classes = _classes(scl_classes, asked=scl is not None)
        return cls(
            product,
            opened=[str(source)] if isinstance(source, (str, Path)) else [str(path) for path in source],
            offset=offset,
            nodata=nodata,
            mask=_mask_file(product, mask),
            scl=_scl_file(product, scl, classes),
            scl_classes=classes,
            gsd=gsd,
            missing=missing,
        )

    def read(self, window: Window) -> tuple[Values, Validity]:
        """Read a window of `grid`.

        The values are means over each pixel's area where the grid is coarser than `native`, bilinear where
        it is finer, of valid pixels only. They do not depend on the window, to the last bit.

        Args:
            window: Rows and columns of `grid`.

        Returns:
            DN of shape (10, height, width), float32, about 0 to 10000, 0 where not valid; and a boolean mask
            (height, width), true where at least half of the pixel's weight is valid.

        Raises:
            BadInputError: The window leaves the grid, or a file is damaged.
        """
        return self.read_on(self.grid, window)

    def read_on(self, grid: Grid, window: Window) -> tuple[Values, Validity]:
        """Read a window of another grid over the same extent, such as one of `Grid.resampled`; see `read`.

        Args:
            grid: The grid; same extent and directions as `native`.
            window: Rows and columns of ``grid``.
        """
        if grid == self.native:
            return self.read_native(window)
        _check_window(window, grid)
        rows = axis_taps(self.native.height, grid.height, window.row, window.height)
        cols = axis_taps(self.native.width, grid.width, window.col, window.width)
        values, valid = self.read_native(
            Window(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
        )
        return resample(values, valid, rows, cols)

    def read_native(self, window: Window) -> tuple[Values, Validity]:
        """Read a window of `native`; see `read`."""
        _check_window(window, self.native)
        stored = self._read_stored(window)
        valid = self._has_data(stored) & self._unmasked(window)
        dn = np.empty((len(BANDS), window.height, window.width), dtype=np.float32)
        for position, name in enumerate(BANDS):
            if name in stored:
                dn[position] = self._to_dn(stored[name])
            else:
                dn[position] = MEAN[position] if self._missing == "mean" else 0.0
        dn[:, ~valid] = 0.0
        return dn, valid

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            for dataset in self._datasets.values():
                dataset.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- opening ------------------------------------------------------------------------------------------

    def _open_all(self, files: Collection[BandFile], *masks: BandFile | None) -> None:
        for file in (*files, *(mask for mask in masks if mask is not None)):
            if file.path not in self._datasets:
                self._datasets[file.path] = open_raster(file.path)
        for file in files:
            dtype = self._datasets[file.path].dtypes[file.number - 1]
            if dtype in ("uint8", "int8"):
                raise display_image(self.source, f"its numbers are {dtype}")
            if dtype.startswith("complex"):
                raise BadInputError(f"{self.source} holds complex numbers; wanted reflectance.")

    def _all_files(self, product: Product, opened: Sequence[str]) -> tuple[str, ...]:
        """Return every file of the product, also of bands that are not read."""
        files = [*opened, *(file.path for file in product.bands.values())]
        files += [product.scl.path] if product.scl is not None else []
        for path, dataset in self._datasets.items():
            # Listing what lies beside a remote file asks the server for names that nobody can write to.
            files += files_of(dataset) if is_local(path) else [path]
        return tuple(dict.fromkeys(files))

    def _finest_grid(self) -> Grid:
        paths = {file.path for file in self._files.values()}
        return min(
            (Grid.from_dataset(self._datasets[path]) for path in sorted(paths)),
            key=lambda grid: abs(grid.transform.determinant),
        )

    def _factor(self, path: str) -> int:
        """Return how many native pixels make one pixel of a file, along each axis.

        Raises:
            BadInputError: The file does not cover the same ground at an integer factor.
        """
        grid = Grid.from_dataset(self._datasets[path])
        native = self.native
        area = abs(float(grid.transform.determinant) / float(native.transform.determinant))
        factor = max(1, round(float(area**0.5)))
        corners = np.array([[0, 0], [grid.width, 0], [0, grid.height]], dtype=np.float64)
        found = apply_affine(~native.transform, apply_affine(grid.transform, corners))
        # A coarse band may end up to a pixel later, where the fine size is no multiple of the factor.
        expected_size = (-(-native.width // factor), -(-native.height // factor))
        aligned = np.allclose(found, corners * factor, atol=0.05)
        if grid.crs != native.crs or (grid.width, grid.height) != expected_size or not aligned:
            raise BadInputError(
                f"{path} ({grid.width} x {grid.height} pixels, {grid.crs}) is no coarser version, by an "
                f"integer factor, of the finest band ({native.width} x {native.height}, {native.crs}).",
                "Bring the bands to one extent and CRS first, for example with gdalwarp.",
            )
        return factor

    def _file_masks(self) -> list[str]:
        """Return the files that carry a mask or alpha band of their own."""
        return [
            file.path
            for file in self._files.values()
            if any(MaskFlags.per_dataset in flags for flags in self._datasets[file.path].mask_flag_enums)
        ]

    def _decide_radiometry(self, product: Product, offset: float | Literal["auto"]) -> Radiometry:
        stored = self._sample()
        valid = self._has_data(stored)
        if not valid.any():
            raise BadInputError(
                f"{self.source} holds nothing but nodata in a sample of the whole scene.",
                "Choose another scene, or give the option `nodata`.",
            )
        values = np.stack([band[valid] for band in stored.values()]).astype(np.float64)
        floating = any(np.issubdtype(band.dtype, np.floating) for band in stored.values())
        return decide(
            values,
            floating=floating,
            tagged=product.offset,
            option=offset,
            source=self.source,
        )

    def _sample(self) -> dict[str, Array]:
        """Return stored values of all bands at the same places all over the scene, whatever its size."""
        height, width = self.native.height, self.native.width
        if all(can_be_decimated(self._datasets[file.path]) for file in self._files.values()):
            shape = sample_shape(height, width)
            return {
                name: read_decimated(self._datasets[file.path], [file.number], shape)[0].ravel()
                for name, file in self._files.items()
            }
        parts = [self._read_stored(window) for window in sample_windows(height, width)]
        return {name: np.concatenate([part[name].ravel() for part in parts]) for name in self._files}

    # --- reading ------------------------------------------------------------------------------------------

    def _read_stored(self, window: Window) -> dict[str, Array]:
        """Return the stored numbers of each band on the native grid, each file read once."""
        by_path: dict[str, list[str]] = {}
        for name, file in self._files.items():
            by_path.setdefault(file.path, []).append(name)
        stored: dict[str, Array] = {}
        for path, names in by_path.items():
            numbers = sorted({self._files[name].number for name in names})
            read = self._read_file(path, numbers, window)
            stored |= {name: read[numbers.index(self._files[name].number)] for name in names}
        return stored

    def _read_file(self, path: str, numbers: Sequence[int], window: Window) -> Array:
        factor = self._factors[path]
        if factor == 1:
            with self._lock:
                return read_window(self._datasets[path], numbers, window)
        coarse = _coarsen(window, factor)
        with self._lock:
            read = read_window(self._datasets[path], numbers, coarse)
        return _replicate(read, coarse, window, factor)

    def _has_data(self, stored: Mapping[str, Array]) -> Validity:
        """Return where not all bands are nodata and none is NaN."""
        empty: Validity | None = None
        finite: Validity | None = None
        for name, values in stored.items():
            if np.issubdtype(values.dtype, np.floating):
                whole = np.isfinite(values)
                finite = whole if finite is None else finite & whole
            if empty is None or empty.any():
                nothing = self._is_nodata(values, self._files[name])
                empty = nothing if empty is None else empty & nothing
        if empty is None:
            raise BadInputError(f"{self.source} has no bands.")
        return ~empty if finite is None else ~empty & finite

    def _is_nodata(self, values: Array, file: BandFile) -> Validity:
        if self._nodata is not None:
            return np.asarray(values == self._nodata)
        nothing = np.asarray((values == 0) | (values == 65535))
        declared = self._datasets[file.path].nodatavals[file.number - 1]
        return nothing if declared is None else nothing | np.asarray(values == declared)

    def _unmasked(self, window: Window) -> Validity:
        valid = np.ones((window.height, window.width), dtype=np.bool_)
        for path in self._own_masks:
            factor = self._factors[path]
            coarse = _coarsen(window, factor)
            with self._lock:
                own = read_mask(self._datasets[path], coarse)
            valid &= _replicate(own[None], coarse, window, factor)[0]
        if self._mask is not None:
            valid &= self._read_file(self._mask.path, [self._mask.number], window)[0] == 0
        if self._scl is not None:
            classes = self._read_file(self._scl.path, [self._scl.number], window)[0]
            valid &= ~np.isin(classes, sorted(self._scl_classes))
        return valid

    def _to_dn(self, stored: Array) -> Values:
        radiometry = self._radiometry
        with np.errstate(invalid="ignore", over="ignore"):
            dn = stored.astype(np.float64) * radiometry.scale + radiometry.offset
            # Negative reflectance is an artefact of the correction; harmonised archives clip it too.
            return np.nan_to_num(np.maximum(dn, 0), nan=0.0, posinf=0.0).astype(np.float32)

    # --- provenance ---------------------------------------------------------------------------------------

    def _provenance(self, product: Product, gsd: float | None) -> dict[str, Any]:
        return {
            "source": public_name(product.name),
            "product": product.kind,
            "level": product.level,
            "bands": {name: _describe(file) for name, file in self._files.items()},
            "band_order": product.order or None,
            "stand_ins": {name: other for name, other in product.stand_ins.items() if name in BANDS},
            "missing": {"bands": list(self.missing_bands), "filled_with": self._missing}
            if self.missing_bands
            else None,
            "scale": self._radiometry.scale,
            "offset": self._radiometry.offset,
            "offset_reason": self._radiometry.reason,
            "nodata": self._nodata,
            "mask": None if self._mask is None else _describe(self._mask),
            "scl": None
            if self._scl is None
            else {"file": _describe(self._scl), "left_out": sorted(self._scl_classes)},
            "gsd": gsd,
            "warnings": list(self.warnings),
        }


def _describe(file: BandFile) -> str:
    return f"{Path(public_name(file.path)).name}#{file.number}"


def _needed_bands(product: Product, missing: Missing) -> dict[str, BandFile]:
    found = {name: product.bands[name] for name in BANDS if name in product.bands}
    absent = [name for name in BANDS if name not in found]
    if not found or (absent and missing == "error"):
        raise BadInputError(
            f"{product.name} lacks {', '.join(absent)}; found {list_bands(product.bands) or 'no band'}.",
            "Let another band stand for it (bands B8A=8 takes B8), or fill it with the option `missing`.",
        )
    return found


def _warnings(
    product: Product, absent: Sequence[str], missing: Missing, radiometry: Radiometry
) -> tuple[str, ...]:
    found = list(product.warnings)
    found += [
        f"{product.name}: {other} stands for {name}; results are less reliable."
        for name, other in product.stand_ins.items()
        if name in BANDS
    ]
    if absent:
        found.append(f"{product.name}: {', '.join(absent)} missing and filled ({missing}).")
    if product.level == "L1C":
        found.append(
            f"{product.name} is top-of-atmosphere reflectance (L1C); the model was trained on surface "
            "reflectance (L2A), so expect weaker results."
        )
    if radiometry.warning:
        found.append(radiometry.warning)
    return tuple(found)


def _classes(scl_classes: Collection[int] | None, *, asked: bool) -> frozenset[int]:
    if scl_classes is None:
        return DEFAULT_SCL_CLASSES if asked else frozenset()
    wrong = [value for value in scl_classes if value not in range(12)]
    if wrong:
        raise BadInputError(f"{wrong[0]!r} is no class of the scene classification.", "Classes are 0 to 11.")
    return frozenset(int(value) for value in scl_classes)


def _scl_file(product: Product, scl: str | Path | None, classes: frozenset[int]) -> BandFile | None:
    if scl is not None:
        return BandFile(str(scl))
    if classes and product.scl is None:
        raise BadInputError(
            f"{product.name} has no scene classification (SCL) to leave classes out by.",
            "Give its file with the option `scl`.",
        )
    return product.scl if classes else None


def _mask_file(product: Product, mask: str | Path | None) -> BandFile | None:
    """Return where the mask is: a file, or a band of the stack by number or description."""
    if mask is None:
        return None
    if product.kind != "stack":
        return BandFile(str(mask))
    with open_raster(product.name) as dataset:
        descriptions = dataset.descriptions
    text = str(mask)
    if text.isdecimal():
        number = int(text)
        if not 1 <= number <= len(descriptions):
            raise BadInputError(
                f"The mask is band {number}, but {product.name} has {len(descriptions)}.",
                "Count bands from 1.",
            )
        return BandFile(product.name, number)
    if text in descriptions:
        return BandFile(product.name, descriptions.index(text) + 1)
    return BandFile(text)


def _check_window(window: Window, grid: Grid) -> None:
    inside = window.row >= 0 and window.col >= 0
    inside &= window.row_stop <= grid.height and window.col_stop <= grid.width
    if not inside or window.height < 1 or window.width < 1:
        raise BadInputError(f"{window} is not a part of {grid.height} rows and {grid.width} columns.")


def _coarsen(window: Window, factor: int) -> Window:
    row, col = window.row // factor, window.col // factor
    height = -(-window.row_stop // factor) - row
    return Window(row, col, height, -(-window.col_stop // factor) - col)


def _replicate(values: Array, coarse: Window, window: Window, factor: int) -> Array:
    """Repeat coarse pixels on the native grid and cut to the window."""
    if factor == 1:
        return values
    top, left = window.row - coarse.row * factor, window.col - coarse.col * factor
    fine = values.repeat(factor, axis=-2).repeat(factor, axis=-1)
    return fine[..., top : top + window.height, left : left + window.width]
