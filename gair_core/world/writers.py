"""Cities as files: GeoTIFFs, geotagged JPEGs, GeoPackages and a pretraining store."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import secrets
import signal
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date, datetime, time
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Final

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from affine import Affine
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from rasterio.features import shapes
from rasterio.windows import Window as RasterWindow

from gair_core.errors import BadInputError
from gair_core.inference import outputs
from gair_core.inference.vectors import write_vector
from gair_core.pretrain.splits import SplitConfig
from gair_core.pretrain.store import Sample, StoreSummary, StoreWriter, Tile, UnitWriter
from gair_core.progress import Progress
from gair_core.world.city import City, Viewpoints
from gair_core.world.layout import RURAL
from gair_core.world.scene import Window
from gair_core.world.spectra import BANDS
from gair_core.world.surface import COLOURS, LAND_COVER

_JPEG_QUALITY: Final = 92
_BLOCK: Final = 512
_SMALLEST_POLYGON: Final = 8
"""In pixels; smaller patches are too mixed to learn a class from."""


def write_scene(city: City, path: str | Path, when: date, *, clouds: float = 0.0) -> Path:
    """Write a city's ten-band scene of a day as a tiled GeoTIFF, reflectance x 10000, bands named.

    Args:
        city: The city.
        path: The GeoTIFF; replaced only when complete.
        when: The day.
        clouds: Share of the sky that clouds cover, 0-1.

    Raises:
        BadInputError: The file cannot be written.
    """
    tags = {"ACQUISITION_DATE": when.isoformat(), "CITY": city.name, "REGION": city.region.name}

    def draw(window: Window) -> npt.NDArray[np.uint16]:
        return city.scene(when, window, clouds=clouds)

    return _write_raster(city, Path(path), draw, BANDS, tags)


def write_land_cover(city: City, path: str | Path, when: date) -> Path:
    """Write the true land cover of a day as a GeoTIFF with class names and colours.

    Values are the place in `gair_core.world.LAND_COVER` plus one; 0 stands for no data and does not occur.

    Raises:
        BadInputError: The file cannot be written.
    """

    def draw(window: Window) -> npt.NDArray[np.uint8]:
        return city.land_cover(when, window)[None] + np.uint8(1)

    return _write_raster(city, Path(path), draw, ("class",), {"ACQUISITION_DATE": when.isoformat()})


def _write_raster(
    city: City,
    path: Path,
    draw: Callable[[Window], npt.NDArray[np.uint8]] | Callable[[Window], npt.NDArray[np.uint16]],
    names: Sequence[str],
    tags: dict[str, str],
) -> Path:
    """Write a raster block by block, so that a city may be larger than memory; one band is one of classes."""
    classes = len(names) == 1
    profile = {
        "driver": "GTiff",
        "count": len(names),
        "height": city.size,
        "width": city.size,
        "dtype": "uint8" if classes else "uint16",
        "crs": f"EPSG:{city.epsg}",
        "transform": Affine(*city.geotransform),
        "nodata": 0,
        "compress": "deflate",
        "predictor": 2,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
    }
    with (
        outputs.replacing(path, secrets.token_hex(4)) as part,
        rasterio.open(part, "w", **profile) as target,
    ):
        for row, column, height, width in _blocks(city.size):
            values = draw((row, column, height, width))
            target.write(values, window=RasterWindow(column, row, width, height))
        target.descriptions = tuple(names)
        target.update_tags(**tags)
        if classes:
            target.write_colormap(1, {number: (*colour, 255) for number, colour in enumerate(COLOURS, 1)})
            target.update_tags(1, **{f"CLASS_{number}": name for number, name in enumerate(LAND_COVER, 1)})
    return path


def _blocks(size: int) -> Iterator[Window]:
    """Yield windows that cover a square, whole blocks of the file each."""
    for row in range(0, size, _BLOCK):
        for column in range(0, size, _BLOCK):
            yield row, column, min(_BLOCK, size - row), min(_BLOCK, size - column)


def write_photo(
    photo: npt.NDArray[np.uint8], path: Path, position: Sequence[float], heading: float, taken: datetime
) -> None:
    """Write a photo as JPEG whose EXIF tags say where, in which direction and when it was taken.

    Args:
        photo: RGB, (H, W, 3).
        path: The file.
        position: Longitude and latitude in degrees.
        heading: Degrees clockwise from true north.
        taken: Local time.
    """
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model] = "GAIR", "procedural world"
    details = exif.get_ifd(IFD.Exif)
    details[Base.DateTimeOriginal] = taken.strftime("%Y:%m:%d %H:%M:%S")
    longitude, latitude = position
    tags = exif.get_ifd(IFD.GPSInfo)
    tags[GPS.GPSLatitudeRef], tags[GPS.GPSLatitude] = "N" if latitude >= 0 else "S", _sexagesimal(latitude)
    tags[GPS.GPSLongitudeRef] = "E" if longitude >= 0 else "W"
    tags[GPS.GPSLongitude] = _sexagesimal(longitude)
    tags[GPS.GPSImgDirectionRef], tags[GPS.GPSImgDirection] = "T", Fraction(round(heading * 100) % 36000, 100)
    tags[GPS.GPSDateStamp] = taken.strftime("%Y:%m:%d")
    Image.fromarray(photo).save(path, "JPEG", quality=_JPEG_QUALITY, exif=exif)


def _sexagesimal(degrees: float) -> tuple[Fraction, Fraction, Fraction]:
    """Return degrees, minutes and seconds; seconds to 0.00001, which is 0.3 mm."""
    units = round(abs(degrees) * 3600 * 100_000)
    whole, rest = divmod(units, 3600 * 100_000)
    minutes, seconds = divmod(rest, 60 * 100_000)
    return Fraction(whole), Fraction(minutes), Fraction(seconds, 100_000)


def write_photos(
    city: City,
    folder: str | Path,
    views: Viewpoints,
    when: date,
    *,
    size: int = 256,
    tagged: Viewpoints | None = None,
) -> list[Path]:
    """Take photos and write them as geotagged JPEGs ``<city>_000.jpg`` and so on.

    Args:
        city: The city.
        folder: Where to write; made where it does not exist.
        views: Where the photos are taken.
        when: The day; noon is written as the time.
        size: Height and width in pixels.
        tagged: Where their tags say that they were taken; the truth by default.

    Raises:
        BadInputError: A view lies outside of the city.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    said = tagged or views
    moment = datetime.combine(when, time(12))
    for number, (position, heading) in enumerate(zip(*views, strict=True)):
        photo = city.photos([position], [heading], when, size)[0]
        path = folder / f"{city.name.replace(' ', '_')}_{number:03d}.jpg"
        write_photo(photo, path, said.positions[number], float(said.headings[number]), moment)
        written.append(path)
    return written


def write_points(path: str | Path, photos: Sequence[Path], views: Viewpoints) -> Path:
    """Write the places of photos as a GeoPackage with the columns ``photo`` and ``heading``.

    Args:
        path: The GeoPackage.
        photos: The photos; written relative to the GeoPackage's folder where they lie below it.
        views: Where they were taken.

    Raises:
        BadInputError: The file cannot be written.
    """
    path = Path(path)
    base = path.parent.resolve()
    names = [_relative(photo.resolve(), base) for photo in photos]
    table = {"photo": names, "heading": views.headings}
    points = shapely.points(views.positions)
    return write_vector(gpd.GeoDataFrame(table, geometry=points, crs="EPSG:4326"), path, secrets.token_hex(4))


def _relative(path: Path, base: Path) -> str:
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def write_roads(city: City, path: str | Path) -> Path:
    """Write the network of main roads as lines in a GeoPackage, in the city's UTM zone.

    Raises:
        BadInputError: The file cannot be written.
    """
    lines = [shapely.LineString(line) for line in city.main_roads()]
    frame = gpd.GeoDataFrame({"kind": ["main road"] * len(lines)}, geometry=lines, crs=f"EPSG:{city.epsg}")
    return write_vector(frame, Path(path), secrets.token_hex(4))


def write_polygons(
    city: City, path: str | Path, when: date, *, per_class: int = 8, seed: int = 0, reach: float = 150.0
) -> Path:
    """Write training polygons as a person would draw them: some patches of each class, clear of their edges.

    Classes whose patches are all narrower than two pixels, such as roads, may have none.

    Args:
        city: The city.
        path: The GeoPackage; its columns are ``class`` (text) and ``value`` (as in `write_land_cover`).
        when: The day.
        per_class: How many polygons of each class at most.
        seed: Another seed chooses other patches.
        reach: How far a polygon reaches from a point of it at most, metres.

    Raises:
        BadInputError: The file cannot be written.
    """
    cover = city.land_cover(when)
    rng = np.random.default_rng([city.seed, seed])
    found: dict[int, list[shapely.Geometry]] = {number: [] for number in range(len(LAND_COVER))}
    for geometry, value in shapes(cover, transform=Affine(*city.geotransform)):
        # Half a pixel inwards leaves the mixed pixels out.
        inner = shapely.geometry.shape(geometry).buffer(-5)
        largest = max(getattr(inner, "geoms", [inner]), key=lambda part: part.area)
        if largest.area >= _SMALLEST_POLYGON * 100:
            found[int(value)].append(_handy(largest, rng, reach))
    rows = [
        (LAND_COVER[number], number + 1, patches[choice])
        for number, patches in found.items()
        for choice in rng.permutation(len(patches))[:per_class]
    ]
    names, values, geometries = zip(*rows, strict=True) if rows else ((), (), ())
    table = {"class": list(names), "value": list(values)}
    frame = gpd.GeoDataFrame(table, geometry=list(geometries), crs=f"EPSG:{city.epsg}")
    return write_vector(frame, path, secrets.token_hex(4))


def _handy(patch: shapely.Geometry, rng: np.random.Generator, reach: float) -> shapely.Geometry:
    """Cut a large patch down to what one would draw, around a random point of it."""
    west, south, east, north = patch.bounds
    inside = patch.representative_point()
    for _ in range(20):
        point = shapely.Point(rng.uniform(west, east), rng.uniform(south, north))
        if patch.contains(point):
            inside = point
            break
    cut = patch.intersection(inside.buffer(reach, quad_segs=2))
    return max(getattr(cut, "geoms", [cut]), key=lambda part: part.area)


def write_store(
    folder: str | Path,
    cities: Iterable[City],
    dates: Sequence[date],
    progress: Progress,
    *,
    photos: int = 20,
    size: int = 256,
    splits: SplitConfig | None = None,
    held_out: Collection[str] = (),
    processes: int = 1,
) -> StoreSummary:
    """Write cities as a pretraining store; an interrupted one continues with the cities that are missing.

    A city is one tile with all dates and its land cover. Every photo is taken on one of the dates.

    Args:
        folder: The store, see `gair_core.pretrain.store`.
        cities: The cities.
        dates: Days of the scenes.
        progress: Told how many cities are done; cancels between them.
        photos: Photos of each city.
        size: Height and width of a photo in pixels.
        splits: How cities are divided; `gair_core.pretrain.splits.SplitConfig` by default.
        held_out: Names of cities that go to ``test`` whatever the splits say.
        processes: How many cities are written at a time. The store is the same for any number.

    Raises:
        BadInputError: The folder holds something else or the beginning of another store, or there is no date.
        CancelledError: The task was cancelled; finished cities are kept.
    """
    if not dates:
        raise BadInputError("Found no dates for the scenes.", "Give at least one day.")
    listed = list(cities)
    days = [day.isoformat() for day in dates]
    planned = [[city.seed, city.index, city.size, city.name in held_out] for city in listed]
    writer = StoreWriter(
        folder,
        classes=LAND_COVER,
        provenance={"source": "gair_core.world", "dates": days},
        plan=f"{zlib.crc32(json.dumps([planned, days, photos, size]).encode()):08x}",
    )
    finished = writer.finished_units()
    missing = [city for city in listed if unit_name(city) not in finished]
    splits_of = ["test" if city.name in held_out else "" for city in missing]
    write = partial(_write_city, writer.folder, dates=tuple(dates), photos=photos, size=size)
    done = len(listed) - len(missing)
    with _mapping(processes) as run:
        for number, name in enumerate(run(write, missing, splits_of), done + 1):
            progress.report(number / len(listed), f"{name}: city {number} of {len(listed)}")
            progress.raise_if_cancelled()
    return writer.finish(splits)


def _write_city(
    folder: Path, city: City, split: str, *, dates: Sequence[date], photos: int, size: int
) -> str:
    """Write the unit of one city, maybe in a process of its own, and return the city's name."""
    with UnitWriter(folder, unit_name(city)) as unit:
        write_unit(unit, city, dates, photos=photos, size=size, split=split)
    return city.name


@contextlib.contextmanager
def _mapping(processes: int) -> Iterator[Callable[..., Iterator[str]]]:
    """Give a function like `map` that works in so many processes; at the end drop what has not begun."""
    if processes == 1:
        yield map
        return
    # A forked child would inherit locks that other threads hold.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_ignore_interrupts)

    def run(work: Callable[..., str], *arguments: Iterable[object]) -> Iterator[str]:
        # All processes start here, and what they import before their initializer takes seconds.
        with _born_deaf():
            return pool.map(work, *arguments)

    try:
        yield run
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Let the first process alone decide when to stop: Ctrl-C reaches all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _born_deaf() -> Iterator[None]:
    """Let processes that start meanwhile never hear Ctrl-C; it reaches this one as soon as they have started.

    On Windows, which knows no masks of signals, nothing changes.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unit_name(city: City) -> str:
    """Return the name of a city's unit and tile in a store."""
    return f"{city.name.replace(' ', '_')}-{city.index}"


def write_unit(
    unit: UnitWriter, city: City, dates: Sequence[date], *, photos: int = 20, size: int = 256, split: str = ""
) -> None:
    """Write one city into a store; several processes may do so at once, each with a city of its own.

    Args:
        unit: From `StoreWriter.unit`, under the name `unit_name`.
        city: The city.
        dates: Days of the scenes.
        photos: Number of photos.
        size: Height and width of a photo in pixels.
        split: ``train``, ``validation`` or ``test``; empty leaves it to `StoreWriter.finish`.
    """
    # Days of one year one after another, because they share most of the work.
    order = sorted(range(len(dates)), key=lambda number: dates[number])
    scenes = np.empty((len(dates), len(BANDS), city.size, city.size), dtype=np.uint16)
    covers = np.empty((len(dates), city.size, city.size), dtype=np.uint8)
    for number in order:
        scenes[number] = city.scene(dates[number])
        covers[number] = city.land_cover(dates[number])
    name = unit_name(city)
    crs, days = f"EPSG:{city.epsg}", tuple(day.isoformat() for day in dates)
    unit.add_tile(Tile(name, scenes, days, crs, city.geotransform, (10.0, 10.0), covers))
    views = city.photo_positions(photos)
    pixels = city.to_pixel(views.positions)
    rural = _is_rural(city, views.positions)
    for number, (position, heading) in enumerate(zip(*views, strict=True)):
        when = dates[number % len(dates)]
        photo = city.photos([position], [heading], when, size)[0]
        sample = Sample(
            id=f"{name}-{number:05d}",
            tile=name,
            row=float(pixels[number, 0]),
            col=float(pixels[number, 1]),
            lon=float(position[0]),
            lat=float(position[1]),
            city=city.name,
            heading=float(heading),
            taken=when.isoformat(),
            settlement="rural" if rural[number] else "urban",
            split=split,
        )
        unit.add_sample(sample, Image.fromarray(photo))


def _is_rural(city: City, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    local = city.to_local(positions).astype(np.float32)
    kind = city.surface(2023).place(local[:, 0], local[:, 1]).kind
    return np.isin(kind, RURAL)
