"""Building a store from photos and scenes as users have them.

Photos are paired with every scene that covers them. Scenes on one pixel grid (the dates of a place, and its
neighbours) form a group; around the photos of each cell of a group's grid a tile is cut, with a margin, so
that a window around any of them finds its surroundings.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from affine import Affine
from pydantic import Field

from gair_core.config import Config, Positive
from gair_core.errors import BadInputError
from gair_core.geo.footprint import apply_affine
from gair_core.geo.grid import Grid, Window
from gair_core.photos import columns
from gair_core.photos.exif import read_tags
from gair_core.photos.panoramas import views
from gair_core.photos.reading import SUFFIXES, open_photo
from gair_core.photos.selection import SkippedPhotos
from gair_core.photos.tables import PhotoTable, read_photos, read_points
from gair_core.pretrain.splits import SplitConfig, spatial_groups
from gair_core.pretrain.store import Sample, StoreSummary, StoreWriter, Tile, encode_photo
from gair_core.progress import Progress
from gair_core.sentinel2.dates import product_date
from gair_core.sentinel2.products import find_product
from gair_core.sentinel2.scene import DEFAULT_SCL_CLASSES, Scene

_DATE: Final = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_:/]?(0[1-9]|1[0-2])[-_:/]?(0[1-9]|[12]\d|3[01])(?=\D|$)")
_TAKEN: Final = ("datetime_local", "taken", "date", "captured_at", "datetime", "timestamp")
_CITY: Final = ("city", "city_ascii")
_SETTLEMENT: Final = ("settlement", "urban_code")
_IDS: Final = ("uuid", "id", "photo_id", "image_id")
# GHSL's degree of urbanisation: 21 suburban, 22 and 23 clusters, 30 centres; 10 to 13 are rural.
_FIRST_URBAN_CODE: Final = 21
_TILES_PER_UNIT: Final = 16
# Clouds are bright from blue to red and, unlike snow, in the short-wave infrared.
_CLOUD_VISIBLE_DN: Final = 2200
_CLOUD_SWIR_DN: Final = 1500

Float64Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class BuildConfig(Config):
    """What a store is built from, and how.

    Attributes:
        photos: A table of photos (CSV, layer) or a folder of photos with GPS tags.
        scenes: Products, each of one date; several dates of a place are several products.
        output: Folder of the store.
        join: CSV tables whose columns are added by ``uuid`` (city, urban_code, ...).
        images: Folder in which the photos of a table without paths lie, named by their uuid.
        dates: Dates of products that do not say theirs, as ``path=2021-06-23``.
        gsd: Ground sampling distance, metres.
        cell: Side of the cells whose photos share a tile, pixels.
        margin: Pixels around the photos of a tile.
        min_size: Smallest side of a tile, pixels.
        min_valid: Valid fraction below which a date of a tile is left out.
        max_cloud: Fraction of pixels as bright as clouds above which it is left out; for products without a
            scene classification, whose clouds are masked.
        per_city: Photos of a city (or cell, where none is known) at most, spread evenly; None takes all.
        panorama_views: Views that a panorama becomes.
        splits: How cities are divided.
        seed: Seed of the sampling.
    """

    photos: Path
    scenes: tuple[Path, ...] = Field(min_length=1)
    output: Path
    join: tuple[Path, ...] = ()
    images: Path | None = None
    dates: tuple[str, ...] = ()
    gsd: float = Field(10.0, gt=0)
    cell: Positive = 256
    margin: Positive = 96
    min_size: Positive = 96
    min_valid: float = Field(0.5, ge=0, le=1)
    max_cloud: float = Field(0.8, ge=0, le=1)
    per_city: Positive | None = None
    panorama_views: Positive = 1
    splits: SplitConfig = SplitConfig()
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Place:
    """A photo that shall go into the store.

    Attributes:
        id: Unique name.
        path: Its file, or None.
        lonlat: Longitude and latitude, degrees.
        heading: Degrees, NaN where unknown.
        city: Name, or empty.
        taken: ISO date, or empty.
        settlement: ``urban``, ``rural`` or empty.
        panorama: Whether it is a panorama.
    """

    id: str
    path: Path | None
    lonlat: tuple[float, float]
    heading: float
    city: str
    taken: str
    settlement: str
    panorama: bool


@dataclass(frozen=True)
class DatedScene:
    """A product with its place and date.

    Attributes:
        path: The product.
        grid: Its pixels.
        date: ISO date.
    """

    path: Path
    grid: Grid
    date: str


@dataclass(frozen=True)
class SceneGroup:
    """Scenes on one pixel grid.

    Attributes:
        grid: The smallest grid that holds all of them.
        scenes: The scenes.
        offsets: First row and column of each scene in this grid.
    """

    grid: Grid
    scenes: tuple[DatedScene, ...]
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PlannedTile:
    """A tile that shall be cut.

    Attributes:
        name: Its name in the store.
        group: Number of its group.
        window: Its pixels in the group's grid.
        places: Numbers of its places.
    """

    name: str
    group: int
    window: Window
    places: tuple[int, ...]


def build_store(config: BuildConfig, progress: Progress) -> StoreSummary:
    """Build a store; an interrupted build of the same things continues where it stopped.

    Args:
        config: What and how.
        progress: Where progress and warnings go.

    Raises:
        BadInputError: Photos or scenes cannot be used, none of them belong together, or the folder holds
            something else.
        CancelledError: The task was cancelled; what was built so far is kept.
    """
    places = read_places(config, progress)
    groups = group_scenes(read_scenes(config, progress))
    pixels, group_of = assign(places, groups, progress)
    tiles = plan_tiles(pixels, group_of, groups, config, progress)
    if not tiles:
        raise BadInputError(
            f"None of the {len(places)} places of {config.photos} lies in one of the {len(config.scenes)} "
            f"scenes.",
            "Check that scenes and photos are of the same place; the warnings name the photos.",
        )
    described = [
        (tile.name, tile.window.row, tile.window.col, [_identity(places[p]) for p in tile.places])
        for tile in tiles
    ]
    options = [config.min_valid, config.max_cloud, config.panorama_views]
    writer = StoreWriter(
        config.output,
        gsd=config.gsd,
        provenance={"photos": config.photos.name, "scenes": [path.name for path in config.scenes]},
        plan=f"{zlib.crc32(json.dumps([described, options]).encode()):08x}",
    )
    done = writer.finished_units()
    skipped = SkippedPhotos(progress)
    builder = _Builder(config, groups, places, pixels, skipped, progress)
    units = list(_units(tiles))
    for number, (name, unit_tiles) in enumerate(units):
        progress.report(number / len(units), f"tiles {number * _TILES_PER_UNIT + 1} of {len(tiles)}")
        if name not in done:
            builder.write(writer, name, unit_tiles)
    skipped.finish()
    summary = writer.finish(config.splits)
    progress.report(1.0, "done")
    return summary


def read_places(config: BuildConfig, progress: Progress) -> list[Place]:
    """Read the photos' table or folder, and thin it out to `per_city`.

    Raises:
        BadInputError: It cannot be read, or no row has a position.
    """
    photos = _read_table(config)
    frame = photos.frame
    city = _column(frame, _CITY)
    taken = [_iso_date(text) for text in _column(frame, _TAKEN)]
    settlement = [_settlement(text) for text in _column(frame, _SETTLEMENT)]
    names = _names(photos)
    skipped = SkippedPhotos(progress)
    places = []
    for row in range(len(photos)):
        if not photos.placed[row]:
            skipped.skip(photos.name(row), "without coordinates")
            continue
        lon, lat = photos.lonlat[row].tolist()
        places.append(
            Place(
                id=names[row],
                path=photos.paths[row],
                lonlat=(lon, lat),
                heading=float(photos.heading[row]),
                city=city[row],
                taken=taken[row],
                settlement=settlement[row],
                panorama=bool(photos.panorama[row]),
            )
        )
    skipped.finish()
    if not places:
        raise BadInputError(f"No photo of {config.photos} has a position.")
    if config.per_city is None:
        return places
    return [places[number] for number in _spread(places, config)]


def read_scenes(config: BuildConfig, progress: Progress) -> list[DatedScene]:
    """Open every product once, for its grid and its date.

    Raises:
        BadInputError: One cannot be opened, or its date is not known.
    """
    given = {}
    for text in config.dates:
        name, equals, date = text.rpartition("=")
        if not equals or not _iso_date(date):
            raise BadInputError(f"{text!r} is no date of a scene.", "Write PATH=2021-06-23.")
        given[Path(name).resolve()] = _iso_date(date)
    scenes = []
    for number, path in enumerate(config.scenes):
        progress.raise_if_cancelled()
        progress.report(0.0, f"scene {number + 1} of {len(config.scenes)}")
        with open_scene(path, config.gsd) as scene:
            for warning in scene.warnings:
                progress.log("warning", f"{path.name}: {warning}")
            date = given.get(path.resolve()) or date_of_product(path)
            scenes.append(DatedScene(path, scene.grid, date))
    return scenes


def open_scene(path: Path, gsd: float) -> Scene:
    """Open a product, its clouds masked where it has a scene classification."""
    has_classes = find_product(path, None).scl is not None
    return Scene.open(path, gsd=gsd, scl_classes=DEFAULT_SCL_CLASSES if has_classes else None)


def date_of_product(path: Path) -> str:
    """Return the date that a product's tags or its name tell, ISO 8601.

    Raises:
        BadInputError: They tell none.
    """
    found = product_date(path)
    if found is None:
        raise BadInputError(
            f"The date of the scene {path} is not known: neither its tags nor its name tell it.",
            f"Give it: --date {path}=YYYY-MM-DD.",
        )
    return found.isoformat()


def group_scenes(scenes: Sequence[DatedScene]) -> list[SceneGroup]:
    """Group scenes by CRS and pixel grid; grids that differ by whole pixels are one."""
    grouped: dict[tuple[Any, ...], list[DatedScene]] = {}
    for scene in scenes:
        grouped.setdefault(_alignment(scene.grid), []).append(scene)
    return [_joined(members) for members in grouped.values()]


def assign(
    places: Sequence[Place], groups: Sequence[SceneGroup], progress: Progress
) -> tuple[Float64Array, Indices]:
    """Find the group of each place, and its (row, col) in the group's grid.

    Returns:
        Rows and columns, (N, 2), NaN where no scene covers a place; and numbers of groups, (N,), -1 there.
        Of several groups the one with most scenes at the place is taken.
    """
    lonlat = np.array([place.lonlat for place in places], dtype=np.float64)
    pixels = np.full((len(places), 2), np.nan)
    chosen = np.full(len(places), -1, dtype=np.int64)
    covered = np.zeros(len(places), dtype=np.int64)
    for number, group in enumerate(groups):
        progress.raise_if_cancelled()
        uv = group.grid.footprint.uv(lonlat)
        found = uv[:, ::-1] * [group.grid.height, group.grid.width]
        scenes_here = np.zeros(len(places), dtype=np.int64)
        for scene, (row, col) in zip(group.scenes, group.offsets, strict=True):
            inside = (found >= [row, col]) & (found < [row + scene.grid.height, col + scene.grid.width])
            scenes_here += inside.all(axis=1)
        better = scenes_here > covered
        pixels[better], chosen[better], covered[better] = found[better], number, scenes_here[better]
    skipped = SkippedPhotos(progress)
    for index in np.flatnonzero(chosen < 0):
        skipped.skip(places[int(index)].id, "outside all scenes")
    skipped.finish()
    return pixels, chosen


def plan_tiles(
    pixels: Float64Array,
    group_of: Indices,
    groups: Sequence[SceneGroup],
    config: BuildConfig,
    progress: Progress,
) -> list[PlannedTile]:
    """Plan a tile around the places of each cell of each group's grid."""
    cells: dict[tuple[int, int, int], list[int]] = {}
    for index in np.flatnonzero(group_of >= 0):
        row, col = (int(value) for value in pixels[index] // config.cell)
        cells.setdefault((int(group_of[index]), row, col), []).append(int(index))
    tiles = []
    for (group, row, col), members in sorted(cells.items()):
        window = _around(pixels[members], groups[group].grid, config.margin)
        if min(window.height, window.width) < config.min_size:
            progress.log(
                "warning",
                f"{len(members)} photos lie in a scene of {window.height} x {window.width} pixels around "
                f"them, smaller than {config.min_size}, and are left out.",
            )
            continue
        tiles.append(PlannedTile(f"g{group:04d}_r{row:05d}_c{col:05d}", group, window, tuple(members)))
    return tiles


def cut_tile(
    tile: PlannedTile, group: SceneGroup, scenes: Sequence[Scene], config: BuildConfig
) -> Tile | None:
    """Read a tile's dates from the group's opened scenes; None where no date is valid enough.

    Scenes of one date are laid side by side, the first valid value counts.
    """
    window = tile.window
    dates = sorted({scene.date for scene in group.scenes})
    kept: list[tuple[str, npt.NDArray[np.uint16]]] = []
    for date in dates:
        mosaic = np.zeros((10, window.height, window.width), dtype=np.uint16)
        for number, described in enumerate(group.scenes):
            if described.date == date:
                _paste(mosaic, scenes[number], group.offsets[number], window)
        valid = mosaic.any(axis=0)
        bright = (mosaic[:3] > _CLOUD_VISIBLE_DN).all(axis=0) & (mosaic[8] > _CLOUD_SWIR_DN)
        if valid.mean() >= max(config.min_valid, 1e-9) and bright.sum() <= config.max_cloud * valid.sum():
            kept.append((date, mosaic))
    if not kept:
        return None
    grid = group.grid.crop(window)
    x, y = grid.footprint.pixel_size_metres()
    a, b, c, d, e, f = (float(value) for value in tuple(grid.transform)[:6])
    return Tile(
        name=tile.name,
        reflectance=np.stack([mosaic for _, mosaic in kept]),
        dates=tuple(date for date, _ in kept),
        crs=grid.crs.to_wkt(),
        transform=(a, b, c, d, e, f),
        pixel_metres=(float(x), float(y)),
    )


@dataclass(frozen=True)
class _Builder:
    """Writes units of planned tiles.

    Attributes:
        config: What and how.
        groups: The groups of scenes.
        places: The places.
        pixels: Their rows and columns in their group's grid, (N, 2).
        skipped: Where photos that are left out are counted.
        progress: Asked between tiles whether to stop.
    """

    config: BuildConfig
    groups: Sequence[SceneGroup]
    places: Sequence[Place]
    pixels: Float64Array
    skipped: SkippedPhotos
    progress: Progress

    def write(self, writer: StoreWriter, name: str, tiles: Sequence[PlannedTile]) -> None:
        """Write a unit of tiles of one group."""
        group = self.groups[tiles[0].group]
        with ExitStack() as stack, writer.unit(name) as unit:
            opened = [stack.enter_context(open_scene(scene.path, self.config.gsd)) for scene in group.scenes]
            for tile in tiles:
                self.progress.raise_if_cancelled()
                cut = cut_tile(tile, group, opened, self.config)
                if cut is not None:
                    unit.add_tile(cut)
                for number in tile.places:
                    if cut is None:
                        self.skipped.skip(self.places[number].id, "without a valid scene")
                        continue
                    for sample, photo in self._views(tile, number):
                        unit.add_sample(sample, photo)

    def _views(self, tile: PlannedTile, number: int) -> Iterator[tuple[Sample, bytes | None]]:
        """Yield a place's photo, the views of its panorama, or the place alone where no photo is named."""
        place = self.places[number]
        sample = self._sample(tile, number)
        if place.path is None:
            yield sample, None
            return
        try:
            photo = open_photo(place.path)
            if not (place.panorama or read_tags(place.path).panorama):
                yield sample, encode_photo(photo)
                return
            rendered = list(views(photo, self.config.panorama_views))
        except BadInputError as error:
            self.skipped.skip(place.id, "unreadable", error.message.rstrip("."))
            return
        for view, (turn, picture) in enumerate(rendered):
            named = sample if len(rendered) == 1 else replace(sample, id=f"{place.id}_view{view}")
            yield replace(named, heading=(place.heading + turn) % 360), encode_photo(picture)

    def _sample(self, tile: PlannedTile, number: int) -> Sample:
        place = self.places[number]
        row, col = (self.pixels[number] - [tile.window.row, tile.window.col]).tolist()
        lon, lat = place.lonlat
        return Sample(
            id=place.id,
            tile=tile.name,
            row=row,
            col=col,
            lon=lon,
            lat=lat,
            city=place.city,
            heading=place.heading,
            taken=place.taken,
            settlement=place.settlement,
        )


def _read_table(config: BuildConfig) -> PhotoTable:
    """Read the photos with the joined columns; a table without paths finds them by uuid."""
    path = config.photos
    is_folder = path.is_dir() and path.suffix.lower() != ".gdb"
    if is_folder or path.suffix.lower() in SUFFIXES:
        return read_photos(path)
    points = read_points(path)
    frame = points.frame
    for table in config.join:
        frame = _join(frame, table)
    attributes = frame.drop(columns=frame.geometry.name)
    paths: tuple[Path | None, ...]
    if config.images is not None:
        paths = _by_uuid(attributes, config.images)
    elif columns.usual_column(map(str, attributes.columns), columns.PHOTOS) is not None:
        found = read_photos(path)
        return replace(found, frame=frame)
    else:
        paths = (None,) * len(frame)
    heading = _column(attributes, columns.HEADINGS)
    projection = _column(attributes, columns.PROJECTIONS)
    return PhotoTable(
        source=path,
        frame=frame,
        lonlat=points.lonlat,
        paths=paths,
        heading=pd.to_numeric(pd.Series(heading), errors="coerce").to_numpy(dtype=np.float64),
        panorama=np.array([text.lower() in ("spherical", "equirectangular") for text in projection]),
    )


def _join(frame: Any, table: Path) -> Any:  # noqa: ANN401
    """Add the columns of a CSV that the frame lacks, by uuid; the order of rows differs between tables."""
    try:
        other = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{table} cannot be read as a table: {error}.") from None
    if "uuid" not in other.columns or "uuid" not in frame.columns:
        raise BadInputError(f"{table} and the photos' table need a column uuid to be joined.")
    added = other[["uuid", *(name for name in other.columns if name not in frame.columns)]]
    return frame.merge(added.drop_duplicates("uuid"), on="uuid", how="left", validate="many_to_one")


def _by_uuid(frame: pd.DataFrame, folder: Path) -> tuple[Path | None, ...]:
    if "uuid" not in frame.columns:
        raise BadInputError("Photos are found by their uuid, and the table has no such column.")
    files = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES}
    return tuple(files.get(str(name)) for name in frame["uuid"])


def _column(frame: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    """Return the first of the wanted columns as text, empty where there is nothing."""
    name = columns.usual_column(map(str, frame.columns), wanted)
    if name is None:
        return [""] * len(frame)
    return ["" if value is None or value != value else str(value).strip() for value in frame[name]]  # noqa: PLR0124


def _identity(place: Place) -> list[str]:
    """Return what makes a place another one when a build is continued; its photo may have moved."""
    return [place.id, place.city, place.taken, place.settlement, place.path.name if place.path else ""]


def _names(photos: PhotoTable) -> list[str]:
    """Return a unique name for each row: its id, else its file, else its number."""
    given = _column(photos.frame, _IDS)
    names = []
    seen: set[str] = set()
    for row, name in enumerate(given):
        text = name or photos.name(row)
        unique = text if text not in seen else f"{text} #{row + 1}"
        seen.add(unique)
        names.append(unique)
    return names


def _settlement(text: str) -> str:
    if text in ("urban", "rural"):
        return text
    try:
        return "urban" if float(text) >= _FIRST_URBAN_CODE else "rural"
    except ValueError:
        return ""


def _iso_date(text: str) -> str:
    found = _DATE.search(text)
    return "-".join(found.groups()) if found else ""


def _spread(places: Sequence[Place], config: BuildConfig) -> list[int]:
    """Choose `per_city` places of each city: round by round one of each small cell, at random within it."""
    generator = np.random.default_rng(config.seed)
    lonlat = np.array([place.lonlat for place in places])
    city = np.array([place.city for place in places], dtype=np.str_)
    groups = spatial_groups(city, lonlat, config.splits.cell_degrees)
    # Cells of about 100 m.
    cells = spatial_groups(np.full(len(places), "", dtype=np.str_), lonlat, 0.001)
    chosen: list[int] = []
    for name in np.unique(groups):
        members = generator.permutation(np.flatnonzero(groups == name))
        rounds = pd.Series(cells[members]).groupby(cells[members]).cumcount().to_numpy()
        chosen += members[np.argsort(rounds, kind="stable")][: config.per_city].tolist()
    return sorted(chosen)


def _alignment(grid: Grid) -> tuple[Any, ...]:
    """Return what grids that differ by whole pixels have in common."""
    a, b, c, d, e, f = tuple(grid.transform)[:6]
    scale = abs(grid.transform.determinant) ** 0.5
    inverse = ~Affine(a, b, 0, d, e, 0)
    col, row = inverse * (c, f)
    # Half a hundredth of a pixel either way; 0.999 and 0.001 are the same.
    phase = tuple(round(100 * (value % 1)) % 100 for value in (col, row))
    return (grid.crs.to_wkt(), *(round(value / scale, 9) for value in (a, b, d, e)), round(scale, 12), phase)


def _joined(scenes: Sequence[DatedScene]) -> SceneGroup:
    first = scenes[0].grid
    offsets = np.array(
        [
            np.round(apply_affine(~first.transform, np.array([[s.grid.transform.c, s.grid.transform.f]]))[0])
            for s in scenes
        ]
    ).astype(int)
    low = offsets.min(axis=0)
    high = (offsets + [[scene.grid.width, scene.grid.height] for scene in scenes]).max(axis=0)
    transform = first.transform * Affine.translation(int(low[0]), int(low[1]))
    grid = Grid(first.crs, transform, int(high[0] - low[0]), int(high[1] - low[1]))
    starts = tuple((int(y), int(x)) for x, y in offsets - low)
    return SceneGroup(grid, tuple(scenes), starts)


def _around(pixels: Float64Array, grid: Grid, margin: int) -> Window:
    low = np.maximum(np.floor(pixels.min(axis=0)) - margin, 0).astype(int)
    high = np.minimum(np.ceil(pixels.max(axis=0)) + margin, [grid.height, grid.width]).astype(int)
    return Window(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def _paste(mosaic: npt.NDArray[np.uint16], scene: Scene, offset: tuple[int, int], window: Window) -> None:
    """Fill the pixels of a window that are still empty with those of a scene."""
    row, col = max(window.row, offset[0]), max(window.col, offset[1])
    row_stop = min(window.row_stop, offset[0] + scene.grid.height)
    col_stop = min(window.col_stop, offset[1] + scene.grid.width)
    if row >= row_stop or col >= col_stop:
        return
    dn, valid = scene.read(Window(row - offset[0], col - offset[1], row_stop - row, col_stop - col))
    values = np.clip(np.rint(dn), 0, 65535).astype(np.uint16)
    # All zeros mean "no value"; a valid pixel as dark as that keeps one DN.
    values[0][valid & ~values.any(axis=0)] = 1
    target = mosaic[:, row - window.row : row_stop - window.row, col - window.col : col_stop - window.col]
    empty = valid & ~target.any(axis=0)
    target[:, empty] = values[:, empty]


def _units(tiles: Sequence[PlannedTile]) -> Iterator[tuple[str, list[PlannedTile]]]:
    """Yield named portions of the tiles, each of one group."""
    for group in sorted({tile.group for tile in tiles}):
        members = iter([tile for tile in tiles if tile.group == group])
        number = 0
        while portion := list(islice(members, _TILES_PER_UNIT)):
            yield f"g{group:04d}-{number:05d}", portion
            number += 1
