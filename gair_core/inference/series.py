"""Several dates of one place: given as several products, or one after another in one file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pydantic import Field

from gair_core.errors import BadInputError
from gair_core.inference.alignment import AlignedScene, SceneReader
from gair_core.inference.request import SceneRequest
from gair_core.progress import Progress
from gair_core.sentinel2.dates import product_date
from gair_core.sentinel2.raster import open_raster
from gair_core.sentinel2.scene import Scene


class SeriesRequest(SceneRequest):
    """Base of the tasks that turn a scene, or a series of scenes of one place, into a raster."""

    series: tuple[str, ...] | None = Field(
        None, description="the other dates of a series, for heads that look at one; default: none"
    )
    dates: tuple[str, ...] | None = Field(
        None,
        description="days of the scene and the series, as YYYY-MM-DD, in their order; default: as metadata "
        "or names tell",
    )
    bands_per_date: int | None = Field(
        None,
        gt=1,
        description="the scene is one file of all dates, so many bands each; bands says where those of the "
        "first date are",
    )


@dataclass(frozen=True)
class DatedSource:
    """One date before it is opened.

    Attributes:
        source: The product.
        bands: Where its bands are, None as the product tells.
        date: Its day, None where there is one date only.
    """

    source: str
    bands: dict[str, int | str] | None
    date: dt.date | None


@dataclass(frozen=True)
class Series:
    """Opened scenes of one place.

    Attributes:
        scenes: In the order in which they were given; the first one's grid is that of the output.
        dates: Their days; None for one scene alone.
    """

    scenes: tuple[Scene, ...]
    dates: tuple[dt.date, ...] | None

    @property
    def first(self) -> Scene:
        """The scene whose grid the output has."""
        return self.scenes[0]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that any of them is made of."""
        return tuple(name for scene in self.scenes for name in scene.files)

    @property
    def days(self) -> tuple[float, ...] | None:
        """Day of the year of each of `readers`, 1 to 366; None for one scene alone."""
        if self.dates is None:
            return None
        return tuple(float(date.timetuple().tm_yday) for date in sorted(self.dates))

    def readers(self) -> list[SceneReader]:
        """Return the scenes on the first one's grid, from the earliest to the latest."""
        aligned: list[SceneReader] = [
            scene if scene is self.first else AlignedScene(scene, self.first.grid) for scene in self.scenes
        ]
        if self.dates is None:
            return aligned
        order = sorted(range(len(aligned)), key=self.dates.__getitem__)
        return [aligned[number] for number in order]


def find_dates(request: SeriesRequest) -> list[DatedSource]:
    """Return the scenes that a request names, with their days if there are several.

    Raises:
        BadInputError: A file of several dates is not as described, or a day is missing or impossible.
    """
    sources = [(request.scene, request.bands)]
    if request.bands_per_date is not None:
        sources = _stacked(request, request.bands_per_date)
    elif request.series is not None:
        sources += [(source, request.bands) for source in request.series]
    if len(sources) == 1:
        if request.dates is not None:
            raise BadInputError(
                f"{len(request.dates)} dates were given for one scene.",
                "Give the other scenes as the series.",
            )
        return [DatedSource(request.scene, request.bands, None)]
    if request.scl is not None:
        raise BadInputError(
            "One scene classification cannot hold for several dates.",
            "Leave clouds out by each product's own: give scl_classes alone.",
        )
    if request.dates is not None:
        days = _given(request.dates, len(sources))
    elif request.bands_per_date is not None:
        raise BadInputError(
            f"{request.scene} holds {len(sources)} dates, but not when they were.",
            f"Give the {len(sources)} dates in their order: dates 2018-04-29,2018-05-13,... .",
        )
    else:
        days = [_known(source) for source, _ in sources]
    return [DatedSource(source, bands, day) for (source, bands), day in zip(sources, days, strict=True)]


@contextmanager
def open_series(
    request: SeriesRequest, dates: Sequence[DatedSource], gsd: float, progress: Progress
) -> Iterator[Series]:
    """Open scenes for a block, all with the options of the request.

    Args:
        request: The request.
        dates: From `find_dates`.
        gsd: Ground sampling distance of the model, metres.
        progress: Told the warnings.

    Raises:
        BadInputError: One cannot be used, or does not overlap the first.
    """
    with ExitStack() as stack:
        scenes = []
        for one in dates:
            options = request.model_copy(update={"bands": one.bands})
            scenes.append(stack.enter_context(options.open(one.source, gsd, progress)))
            _check_overlap(scenes[0], scenes[-1])
        days = [one.date for one in dates if one.date is not None]
        yield Series(tuple(scenes), tuple(days) if len(days) == len(dates) else None)


def _stacked(request: SeriesRequest, count: int) -> list[tuple[str, dict[str, int | str] | None]]:
    """Return the bands of each date of one file."""
    if request.series is not None:
        raise BadInputError("A file of several dates and further scenes were given.", "Give one of them.")
    first = request.bands or {}
    numbers = {name: int(value) for name, value in first.items() if str(value).isdecimal()}
    if len(numbers) < len(first) or not numbers or not all(1 <= n <= count for n in numbers.values()):
        raise BadInputError(
            f"Of a file with {count} bands a date, `bands` must number those of the first date, from 1 to "
            f"{count}; found {first or 'nothing'}.",
            "Name them all, for example B2=1,B3=2,B4=3,B8=4,B5=5,B6=6,B7=7,B8A=8,B11=9,B12=10.",
        )
    with open_raster(request.scene) as dataset:
        bands = dataset.count
    if bands % count or bands == count:
        raise BadInputError(
            f"{request.scene} has {bands} bands, which are no series of dates with {count} each.",
            "Check how many bands a date has.",
        )
    return [
        (request.scene, {name: number + start for name, number in numbers.items()})
        for start in range(0, bands, count)
    ]


def _given(dates: tuple[str, ...], count: int) -> list[dt.date]:
    if len(dates) != count:
        raise BadInputError(
            f"{len(dates)} dates were given for {count} scenes.",
            "Give one for every scene in their order, the first one included.",
        )
    return [_day(text) for text in dates]


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text.strip())
    except ValueError as error:
        raise BadInputError(f"{text!r} is no date.", "Write it as 2018-04-29.") from error


def _known(source: str) -> dt.date:
    found = product_date(source)
    if found is None:
        raise BadInputError(
            f"It is not known when {source} was taken: neither its metadata nor its name tell one day.",
            "Give the dates of all scenes in their order: dates 2018-04-29,2018-05-13,... .",
        )
    return found


def _check_overlap(first: Scene, other: Scene) -> None:
    try:
        first.native.window(other.native.bounds, other.native.crs)
    except BadInputError as error:
        raise BadInputError(
            f"{other.source} does not overlap {first.source}.",
            "Give dates of one place, and check their CRS.",
        ) from error
