"""The data store: scenes, photos and the table that joins them; built once, read often.

A store is a folder:

- ``store.json``: format version, bands, ground sampling distance, classes, provenance, counts. It is written
  last, so a folder without it is a store whose build has not ended.
- ``samples.parquet``: one row a place, see `Sample`. A row without a photo serves scene and location.
- ``tiles.zarr``: a Zarr v3 group with one group a tile. Its array ``reflectance`` is (time, 10, H, W) uint16,
  harmonised DN; a pixel whose ten bands are all 0 has no valid value at that time. An optional array
  ``land_cover`` is (time, H, W) uint8, 255 where unknown. The attributes hold dates, CRS, affine transform,
  pixel size in metres and the valid fraction of each date.
- ``photos/*.tar``: JPEG files under WebDataset names; a row holds offset and length: one read gets a photo.

It is written in units (a city, say), each complete or absent: an interrupted build continues with the units
that are missing, and several processes may write different units of one store.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gair_core.errors import BadInputError
from gair_core.photos.reading import DAMAGE
from gair_core.pretrain import zarr
from gair_core.pretrain.splits import SPLITS, SplitConfig, assign_splits, spatial_groups
from gair_core.sentinel2.bands import BANDS

FORMAT_VERSION: Final = 1
UNKNOWN_CLASS: Final = 255
"""Value of ``land_cover`` where the class is not known."""

PHOTO_SIDE: Final = 256
"""Short side of a stored photo, pixels."""

# A window of 96 px touches 6 to 9 chunks of this side; smaller ones cost more calls, larger ones more bytes.
_CHUNK: Final = 64
_JPEG_QUALITY: Final = 90
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("lon", pa.float64()),
        ("lat", pa.float64()),
        ("heading", pa.float64()),
        ("taken", pa.string()),
        ("city", pa.string()),
        ("settlement", pa.string()),
        ("split", pa.string()),
        ("tile", pa.string()),
        ("row", pa.float64()),
        ("col", pa.float64()),
        ("photo_shard", pa.string()),
        ("photo_key", pa.string()),
        ("photo_offset", pa.int64()),
        ("photo_size", pa.int64()),
    ]
)

Reflectance = npt.NDArray[np.uint16]
LandCover = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]
Text = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Tile:
    """A piece of ground at one or more dates.

    Attributes:
        name: Its name in the store: letters, digits, ``_``, ``-`` and ``.``, unique.
        reflectance: Harmonised DN, shape (T, 10, H, W), uint16; 0 in all bands where a pixel is not valid.
        dates: Date of each scene, ISO 8601 (``2021-06-23``), T of them.
        crs: Coordinate reference system, WKT or ``EPSG:...``.
        transform: a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f.
        pixel_metres: Width and height of a pixel on the ground, metres.
        land_cover: Class of each pixel, shape (H, W) or (T, H, W), uint8, 255 where unknown; None without.
    """

    name: str
    reflectance: Reflectance
    dates: tuple[str, ...]
    crs: str
    transform: tuple[float, float, float, float, float, float]
    pixel_metres: tuple[float, float]
    land_cover: LandCover | None = None


@dataclass(frozen=True)
class Sample:
    """A place with its tile and, maybe, its photo.

    Attributes:
        id: Unique name.
        tile: Name of the tile that it lies in.
        row: Row in the tile, pixel edges at whole numbers, in [0, H].
        col: Column in the tile, likewise, in [0, W].
        lon: Longitude, degrees.
        lat: Latitude, degrees.
        city: Name of the city; empty where unknown.
        heading: Direction of the photo, degrees clockwise from north; NaN where unknown.
        taken: Date of the photo, ISO 8601; empty where unknown.
        settlement: ``urban``, ``rural`` or empty where unknown.
        split: ``train``, ``validation`` or ``test``; empty leaves it to `StoreWriter.finish`.
    """

    id: str
    tile: str
    row: float
    col: float
    lon: float
    lat: float
    city: str = ""
    heading: float = float("nan")
    taken: str = ""
    settlement: str = ""
    split: str = ""


@dataclass(frozen=True)
class StoreSummary:
    """What a store holds.

    Attributes:
        samples: Number of places.
        photos: Number of photos.
        tiles: Number of tiles.
        splits: Number of places in each split.
    """

    samples: int
    photos: int
    tiles: int
    splits: Mapping[str, int]


def encode_photo(photo: Image.Image, side: int = PHOTO_SIDE) -> bytes:
    """Return a photo as the store keeps it: JPEG, its short side at most ``side`` pixels."""
    scale = side / min(photo.size)
    if scale < 1:
        size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        photo = photo.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    photo.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


class StoreWriter:
    """Writes a store unit by unit.

    ::

        writer = StoreWriter("store", gsd=10.0)
        for city in cities:
            if city.name not in writer.finished_units():
                with writer.unit(city.name) as unit:
                    unit.add_tile(tile)
                    unit.add_sample(sample, photo)
        writer.finish()

    Args:
        folder: The store; it is made, or an unfinished one continued.
        gsd: Ground sampling distance of its tiles, metres.
        classes: Names of the land-cover classes 0, 1, ...; empty without land cover.
        provenance: Where the data come from, JSON-serialisable.
        plan: Identifies what is going to be written; an unfinished store of another plan is not continued.

    Raises:
        BadInputError: The folder holds something else, a finished store, or one of another kind.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        gsd: float = 10.0,
        classes: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
        plan: str = "",
    ) -> None:
        self.folder = Path(folder)
        self.description: dict[str, Any] = {
            "format": "gair-store",
            "format_version": FORMAT_VERSION,
            "bands": list(BANDS),
            "gsd": gsd,
            "classes": list(classes),
            "plan": plan,
        }
        self.provenance = dict(provenance or {})
        if (self.folder / "store.json").exists():
            raise BadInputError(f"{self.folder} holds a finished store.", "Choose another folder.")
        draft = self.folder / "build.json"
        if draft.exists():
            self._check_same(json.loads(draft.read_text("utf-8")))
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise BadInputError(f"{self.folder} is not empty.", "Choose an empty or a new folder.")
        for part in ("tiles.zarr", "photos", "units"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        zarr.write_group(self.folder / "tiles.zarr", {})
        _replace_text(draft, json.dumps(self.description))

    def finished_units(self) -> frozenset[str]:
        """Names of the units that are complete."""
        return frozenset(path.stem for path in (self.folder / "units").glob("*.parquet"))

    def unit(self, name: str) -> UnitWriter:
        """Return a context in which a unit is written; it replaces what was left of an interrupted one."""
        return UnitWriter(self.folder, name)

    def finish(self, splits: SplitConfig | None = None) -> StoreSummary:
        """Join the units, draw the splits that are not given, and declare the store complete.

        Args:
            splits: How cities, or cells where no city is known, are divided.

        Raises:
            BadInputError: There are no samples, ids repeat, or there are too few cities for the splits.
        """
        paths = sorted((self.folder / "units").glob("*.parquet"))
        if not paths:
            raise BadInputError(f"The store {self.folder} has no samples.", "Add at least one unit.")
        table = pa.concat_tables([pq.read_table(path, schema=_SCHEMA) for path in paths])
        _check_unique(table["id"].to_pylist(), self.folder)
        table = _with_splits(table, splits or SplitConfig())
        part = self.folder / "samples.parquet.part"
        pq.write_table(table, part)
        part.replace(self.folder / "samples.parquet")
        summary = _summarise(table)
        counts = {"samples": summary.samples, "photos": summary.photos, "tiles": summary.tiles}
        described = {**self.description, "provenance": self.provenance, "counts": counts}
        _replace_text(self.folder / "store.json", json.dumps(described, indent=1))
        shutil.rmtree(self.folder / "units")
        (self.folder / "build.json").unlink()
        for left in (*self.folder.glob("photos/*.part"), *self.folder.glob("tiles.zarr/*.part")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return summary

    def _check_same(self, found: Mapping[str, Any]) -> None:
        for key, wanted in self.description.items():
            if found.get(key) != wanted:
                raise BadInputError(
                    f"The unfinished store {self.folder} has {key} {found.get(key)!r}, wanted {wanted!r}.",
                    "Continue with the same settings, or choose another folder.",
                )


class UnitWriter:
    """Writes one unit; leaving the context without an error completes it. See `StoreWriter`."""

    def __init__(self, folder: Path, name: str) -> None:
        check_name(name, "unit")
        self.folder = folder
        self.name = name
        self._sizes: dict[str, tuple[int, int]] = {}
        self._rows: list[dict[str, Any]] = []
        self._tar: tarfile.TarFile | None = None

    @property
    def _shard(self) -> Path:
        return self.folder / "photos" / f"{self.name}.tar"

    def __enter__(self) -> UnitWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        part = _part(self._shard)
        if self._tar is not None:
            self._tar.close()
        if kind is not None:
            part.unlink(missing_ok=True)
            return
        if self._tar is not None:
            part.replace(self._shard)
        rows = self.folder / "units" / f"{self.name}.parquet"
        pq.write_table(pa.Table.from_pylist(self._rows, schema=_SCHEMA), _part(rows))
        _part(rows).replace(rows)

    def add_tile(self, tile: Tile) -> None:
        """Write a tile.

        Raises:
            BadInputError: Its name or its shapes are impossible.
        """
        check_tile(tile)
        height, width = tile.reflectance.shape[2:]
        folder = self.folder / "tiles.zarr" / tile.name
        part = _part(folder)
        for old in (part, folder):
            shutil.rmtree(old, ignore_errors=True)
        valid = tile.reflectance.any(axis=1).mean(axis=(1, 2))
        attributes = {
            "dates": list(tile.dates),
            "crs": tile.crs,
            "transform": list(tile.transform),
            "pixel_metres": list(tile.pixel_metres),
            "valid_fraction": [round(float(value), 6) for value in valid],
        }
        zarr.write_group(part, attributes)
        chunk = (1, len(BANDS), min(_CHUNK, height), min(_CHUNK, width))
        zarr.write_array(part / "reflectance", tile.reflectance, chunk, ("time", "band", "y", "x"))
        if tile.land_cover is not None:
            shape = (len(tile.dates), height, width)
            values = np.ascontiguousarray(np.broadcast_to(tile.land_cover, shape))
            zarr.write_array(part / "land_cover", values, (1, *chunk[2:]), ("time", "y", "x"))
        part.replace(folder)
        self._sizes[tile.name] = (height, width)

    def add_sample(self, sample: Sample, photo: Image.Image | bytes | None = None) -> None:
        """Write a place of a tile of this unit, with its photo.

        Args:
            sample: The place.
            photo: An image of any size, or what `encode_photo` made of it; None where there is none.

        Raises:
            BadInputError: The place is impossible, lies outside its tile, or its tile is not in this unit.
        """
        check_sample(sample, self._sizes.get(sample.tile))
        row: dict[str, Any] = {item.name: getattr(sample, item.name) for item in fields(sample)}
        if photo is not None:
            data = photo if isinstance(photo, bytes) else encode_photo(photo)
            key = f"{self.name}-{len(self._rows):06d}.jpg"
            offset = self._append(key, data)
            row |= {
                "photo_shard": self._shard.name,
                "photo_key": key,
                "photo_offset": offset,
                "photo_size": len(data),
            }
        self._rows.append(row)

    def _append(self, key: str, data: bytes) -> int:
        """Append a file to the tar and return the offset of its bytes."""
        if self._tar is None:
            self._tar = tarfile.open(_part(self._shard), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        info = tarfile.TarInfo(key)
        info.size = len(data)
        # USTAR names are short here, so a header is one block.
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(data))
        return offset


def check_name(name: str, what: str) -> None:
    """Check that a name can be that of a file.

    Raises:
        BadInputError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise BadInputError(
            f"{name!r} cannot be the name of a {what}.", "Use up to 100 letters, digits, '_', '-' and '.'."
        )


def check_tile(tile: Tile) -> None:
    """Check the shapes of a tile.

    Raises:
        BadInputError: They do not belong together.
    """
    check_name(tile.name, "tile")
    values = tile.reflectance
    if values.ndim != 4 or values.shape[1] != len(BANDS) or values.dtype != np.uint16 or values.size == 0:
        raise BadInputError(
            f"The tile {tile.name} must be uint16 (T, {len(BANDS)}, H, W), found {values.dtype} "
            f"{values.shape}."
        )
    if len(tile.dates) != len(values):
        raise BadInputError(f"The tile {tile.name} has {len(values)} scenes and {len(tile.dates)} dates.")
    for date in tile.dates:
        day_of_year(date)
    if tile.land_cover is not None:
        allowed = (values.shape[2:], (len(values), *values.shape[2:]))
        if tile.land_cover.shape not in allowed or tile.land_cover.dtype != np.uint8:
            raise BadInputError(
                f"The land cover of tile {tile.name} must be uint8 (H, W) or (T, H, W), found "
                f"{tile.land_cover.dtype} {tile.land_cover.shape}."
            )


def check_sample(sample: Sample, size: tuple[int, int] | None) -> None:
    """Check that a place can be and lies in its tile.

    Args:
        sample: The place.
        size: Height and width of its tile, None when there is no such tile.

    Raises:
        BadInputError: It cannot or does not.
    """
    if size is None:
        raise BadInputError(f"Sample {sample.id}: there is no tile {sample.tile} in this unit.")
    if not (0 <= sample.row <= size[0] and 0 <= sample.col <= size[1]):
        raise BadInputError(
            f"Sample {sample.id} lies at row {sample.row:g}, column {sample.col:g}, outside its tile "
            f"{sample.tile} of {size[0]} x {size[1]} pixels."
        )
    if not (abs(sample.lon) <= 180 and abs(sample.lat) <= 90):
        raise BadInputError(
            f"Sample {sample.id} has the impossible place longitude {sample.lon}, latitude {sample.lat}."
        )
    if sample.split not in ("", *SPLITS):
        raise BadInputError(f"Sample {sample.id} has the split {sample.split!r}, wanted {', '.join(SPLITS)}.")
    if sample.settlement not in ("", "urban", "rural"):
        raise BadInputError(
            f"Sample {sample.id} has the settlement {sample.settlement!r}, wanted urban, rural or nothing."
        )
    if sample.taken:
        day_of_year(sample.taken)


def day_of_year(date: str) -> float:
    """Return the day of the year, 0 to 365, of an ISO date or date and time.

    Raises:
        BadInputError: It is none.
    """
    try:
        day = np.datetime64(date[:10], "D")
        return float((day - day.astype("datetime64[Y]")).astype(int))
    except ValueError:
        raise BadInputError(f"{date!r} is no date, wanted ISO 8601 such as 2021-06-23.") from None


@dataclass(frozen=True)
class TileHeader:
    """What is known of a tile without its pixels.

    Attributes:
        name: Its name.
        dates: Dates, ISO 8601.
        crs: Coordinate reference system.
        transform: See `Tile`.
        pixel_metres: Width and height of a pixel, metres.
        valid_fraction: Fraction of valid pixels of each date.
        reflectance: Shape and chunks of its scenes.
        land_cover: Shape and chunks of its classes, None without.
    """

    name: str
    dates: tuple[str, ...]
    crs: str
    transform: tuple[float, ...]
    pixel_metres: tuple[float, float]
    valid_fraction: tuple[float, ...]
    reflectance: zarr.ArrayHeader
    land_cover: zarr.ArrayHeader | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        height, width = self.reflectance.shape[2:]
        return height, width


@dataclass(frozen=True)
class Samples:
    """The columns of ``samples.parquet``, N rows; see `Sample`.

    Attributes:
        id: Unique names.
        lonlat: Longitude and latitude, degrees, (N, 2).
        position: Row and column in the tile, (N, 2).
        heading: Degrees, NaN where unknown.
        taken: ISO dates, empty where unknown.
        city: City names.
        settlement: ``urban``, ``rural`` or empty.
        split: ``train``, ``validation`` or ``test``.
        tile: Tile names.
        photo_shard: Name of the tar, empty without a photo.
        photo_offset: Byte offset of the photo, -1 without.
        photo_size: Its bytes, 0 without.
    """

    id: Text
    lonlat: Float64Array
    position: Float64Array
    heading: Float64Array
    taken: Text
    city: Text
    settlement: Text
    split: Text
    tile: Text
    photo_shard: Text
    photo_offset: npt.NDArray[np.int64]
    photo_size: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.id)

    @property
    def has_photo(self) -> npt.NDArray[np.bool_]:
        """Whether each row names a photo, (N,)."""
        return np.asarray(self.photo_size > 0)

    def select(self, *, split: str | None = None, with_photo: bool = False) -> npt.NDArray[np.int64]:
        """Return the indices of the rows of a split, ascending.

        Raises:
            BadInputError: There is none; says which splits there are.
        """
        chosen = np.ones(len(self), dtype=bool) if split is None else self.split == split
        if with_photo:
            chosen &= self.has_photo
        if not chosen.any():
            found = ", ".join(f"{name} ({int((self.split == name).sum())})" for name in np.unique(self.split))
            raise BadInputError(
                f"The store has no samples{' with photos' if with_photo else ''} in the split {split!r}; it "
                f"has {found or 'none'}."
            )
        return np.flatnonzero(chosen).astype(np.int64)


@dataclass
class Store:
    """A finished store, for reading; may be sent to other processes.

    Args:
        folder: Its folder.

    Raises:
        BadInputError: There is no finished store, or it is damaged or of a newer version.
    """

    folder: Path
    description: dict[str, Any] = field(init=False)
    samples: Samples = field(init=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.description = _read_description(self.folder)
        self.samples = _read_samples(self.folder)
        expected = self.description.get("counts", {}).get("samples")
        if expected != len(self.samples):
            raise BadInputError(
                f"The store {self.folder} should have {expected} samples, found {len(self.samples)}.",
                "Copy it again, store.json and samples.parquet together.",
            )

    @property
    def gsd(self) -> float:
        """Ground sampling distance of its tiles, metres."""
        return float(self.description["gsd"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the land-cover classes."""
        return tuple(self.description.get("classes", ()))

    def tile(self, name: str) -> TileHeader:
        """Return the header of a tile; the last ones are kept.

        Raises:
            BadInputError: It is missing or damaged.
        """
        return _tile_header(self.folder / "tiles.zarr" / name)

    def read_scene(self, tile: TileHeader, date: int, row: int, col: int, size: int) -> Reflectance:
        """Read a square window of one date, shape (10, size, size), uint16 DN.

        Raises:
            BadInputError: The window leaves the tile, or the tile is damaged.
        """
        _check_window(tile, row, col, size)
        window = (slice(date, date + 1), slice(0, len(BANDS)), slice(row, row + size), slice(col, col + size))
        folder = self.folder / "tiles.zarr" / tile.name / "reflectance"
        values: Reflectance = zarr.read_window(folder, tile.reflectance, window)[0]
        return values

    def read_whole(self, tile: TileHeader, date: int) -> Reflectance:
        """Read all of one date, shape (10, H, W), uint16 DN.

        Raises:
            BadInputError: The tile is damaged.
        """
        height, width = tile.size
        window = (slice(date, date + 1), slice(0, len(BANDS)), slice(0, height), slice(0, width))
        folder = self.folder / "tiles.zarr" / tile.name / "reflectance"
        values: Reflectance = zarr.read_window(folder, tile.reflectance, window)[0]
        return values

    def read_land_cover(self, tile: TileHeader, date: int, row: int, col: int, size: int) -> LandCover:
        """Read the classes of a square window, shape (size, size), uint8; 255 where unknown.

        Raises:
            BadInputError: The tile has no classes, is damaged, or the window leaves it.
        """
        _check_window(tile, row, col, size)
        if tile.land_cover is None:
            raise BadInputError(f"The tile {tile.name} has no land cover.")
        window = (slice(date, date + 1), slice(row, row + size), slice(col, col + size))
        folder = self.folder / "tiles.zarr" / tile.name / "land_cover"
        values: LandCover = zarr.read_window(folder, tile.land_cover, window)[0]
        return values

    def read_whole_land_cover(self, tile: TileHeader, date: int) -> LandCover:
        """Read the classes of all of one date, shape (H, W), uint8; 255 where unknown.

        Raises:
            BadInputError: The tile has no classes or is damaged.
        """
        if tile.land_cover is None:
            raise BadInputError(f"The tile {tile.name} has no land cover.")
        height, width = tile.size
        window = (slice(date, date + 1), slice(0, height), slice(0, width))
        folder = self.folder / "tiles.zarr" / tile.name / "land_cover"
        values: LandCover = zarr.read_window(folder, tile.land_cover, window)[0]
        return values

    def read_photo(self, index: int) -> Image.Image:
        """Read the photo of a sample, RGB.

        Raises:
            BadInputError: The sample has none, or it cannot be read.
        """
        samples = self.samples
        name = str(samples.id[index])
        if not samples.photo_size[index]:
            raise BadInputError(f"Sample {name} has no photo.")
        path = self.folder / "photos" / str(samples.photo_shard[index])
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(int(samples.photo_offset[index]))
                data = file.read(int(samples.photo_size[index]))
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
            return image.convert("RGB")
        except DAMAGE as error:
            raise BadInputError(f"The photo of sample {name} in {path} cannot be read: {error}.") from None


def _check_window(tile: TileHeader, row: int, col: int, size: int) -> None:
    height, width = tile.size
    if not (0 <= row <= height - size and 0 <= col <= width - size):
        raise BadInputError(
            f"A window of {size} pixels at row {row}, column {col} leaves the tile {tile.name} of "
            f"{height} x {width} pixels.",
            "Choose a smaller tile_size, or leave small tiles out of the store.",
        )


# The header of a tile is asked for with each of its samples; 4096 of them take some megabytes.
@lru_cache(maxsize=4096)
def _tile_header(folder: Path) -> TileHeader:
    attributes = zarr.read_attributes(folder)
    land_cover = folder / "land_cover"
    try:
        x, y = (float(value) for value in attributes["pixel_metres"])
        return TileHeader(
            name=folder.name,
            dates=tuple(attributes["dates"]),
            crs=str(attributes["crs"]),
            transform=tuple(float(value) for value in attributes["transform"]),
            pixel_metres=(x, y),
            valid_fraction=tuple(float(value) for value in attributes["valid_fraction"]),
            reflectance=zarr.read_header(folder / "reflectance"),
            land_cover=zarr.read_header(land_cover) if land_cover.is_dir() else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(
            f"The description of the tile {folder} is damaged ({error}).", "Build the store again."
        ) from None


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "store.json"
    if (folder / "build.json").exists() and not path.exists():
        raise BadInputError(
            f"The store {folder} is not finished.", "Run the program that builds it again: it continues."
        )
    try:
        described = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadInputError(
            f"{folder} is no store: it has no store.json.", "Build one with training/build_dataset.py."
        ) from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read: {error}.", "Copy the store again.") from None
    if not isinstance(described, dict) or described.get("format") != "gair-store":
        raise BadInputError(f"{path} does not describe a store.")
    if int(described.get("format_version", 0)) > FORMAT_VERSION:
        raise BadInputError(
            f"{folder} was written by a newer version: format {described['format_version']}, this one reads "
            f"up to {FORMAT_VERSION}.",
            "Update gair_core.",
        )
    if described.get("bands") != list(BANDS):
        raise BadInputError(f"{folder} has the bands {described.get('bands')}, wanted {list(BANDS)}.")
    return described


def _read_samples(folder: Path) -> Samples:
    path = folder / "samples.parquet"
    try:
        table = pq.read_table(path, columns=_SCHEMA.names)
    except (OSError, pa.ArrowException) as error:
        raise BadInputError(f"{path} cannot be read: {error}.", "Copy or build the store again.") from None

    def text(name: str) -> Text:
        return np.array([value or "" for value in table[name].to_pylist()], dtype=np.str_)

    def numbers(name: str) -> Float64Array:
        return np.asarray(table[name].to_numpy(), dtype=np.float64)

    def integers(name: str, absent: int) -> npt.NDArray[np.int64]:
        return np.asarray(table[name].fill_null(absent).to_numpy(), dtype=np.int64)

    return Samples(
        id=text("id"),
        lonlat=np.column_stack([numbers("lon"), numbers("lat")]),
        position=np.column_stack([numbers("row"), numbers("col")]),
        heading=numbers("heading"),
        taken=text("taken"),
        city=text("city"),
        settlement=text("settlement"),
        split=text("split"),
        tile=text("tile"),
        photo_shard=text("photo_shard"),
        photo_offset=integers("photo_offset", -1),
        photo_size=integers("photo_size", 0),
    )


def _with_splits(table: pa.Table, config: SplitConfig) -> pa.Table:
    split = np.array(table["split"].to_pylist(), dtype="<U10")
    open_ones = split == ""
    if open_ones.any():
        city = np.array(table["city"].to_pylist(), dtype=np.str_)[open_ones]
        lonlat = np.column_stack([table["lon"].to_numpy(), table["lat"].to_numpy()])[open_ones]
        split[open_ones] = assign_splits(spatial_groups(city, lonlat, config.cell_degrees), config)
    return table.set_column(table.schema.get_field_index("split"), "split", pa.array(split.tolist()))


def _summarise(table: pa.Table) -> StoreSummary:
    split = np.array(table["split"].to_pylist(), dtype=np.str_)
    return StoreSummary(
        samples=len(table),
        photos=len(table) - table["photo_key"].null_count,
        tiles=len(set(table["tile"].to_pylist())),
        splits={name: int((split == name).sum()) for name in SPLITS},
    )


def _check_unique(ids: list[str], folder: Path) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise BadInputError(
            f"{len(repeated)} ids occur more than once in the store {folder}, among them {repeated[0]!r}.",
            "Make ids unique.",
        )


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _replace_text(path: Path, text: str) -> None:
    _part(path).write_text(text, encoding="utf-8")
    _part(path).replace(path)
