"""The demonstration's page: one HTML file that needs no other."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo_process import Step
from demo_scores import ChangeScores, CoverScores, PhotoScore, PhotoScores
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageOps

_QUALITY = 86


@dataclass(frozen=True)
class Truth:
    """What the demonstration found beside what is true; known of the procedural world alone.

    Attributes:
        segment: Of the map of the model's own head.
        trained: Of the map of the head that was trained from polygons, without the polygons' pixels.
        trained_merged: Of the same map in the classes of the model's own head.
        polygons: How many polygons that head learnt from.
        change: Of the distances between two dates.
        dates: The two dates.
        change_legend: Name and colour of each kind of true change.
    """

    segment: CoverScores
    trained: CoverScores
    trained_merged: CoverScores
    polygons: int
    change: ChangeScores
    dates: tuple[str, str]
    change_legend: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PhotoView:
    """A photo beside its similarity layer.

    Attributes:
        score: What is known of it.
        rank: Its place from the lowest percentile on, from 1.
        photo: The photo as a data URI.
        map: Its similarity layer as a data URI; empty where it has none.
    """

    score: PhotoScore
    rank: int
    photo: str
    map: str


@dataclass(frozen=True)
class Page:
    """What the page says; every text is plain, and escaped when the page is made.

    Attributes:
        name: What the scene is called.
        model: The model that embedded it.
        head: The model that segmented it.
        files: The folder with all files.
        setup: The commands before the first step.
        maps: Maps as data URIs, by name.
        steps: The runs of `qgis_process`, by name.
        seconds: How long everything took.
        scores: The photos; None without any.
        views: The photos that are shown.
        truth: None for a scene of which the truth is unknown.
        report: The report of the training, a page of its own.
        place: Where on Earth the scene lies, in words.
    """

    name: str
    model: str
    head: str
    files: Path
    setup: str
    maps: Mapping[str, str]
    steps: Mapping[str, Step]
    seconds: float
    scores: PhotoScores | None = None
    views: tuple[PhotoView, ...] = ()
    truth: Truth | None = None
    report: str = ""
    place: str = ""


def render_page(page: Page) -> str:
    """Return the page as HTML; all pictures are in it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["metres"] = metres
    return environment.get_template("demo_page.html").render(page=page)


def percent(share: float) -> str:
    """Return a share, 0-1, as a percentage."""
    return f"{100 * share:.1f} %"


def metres(distance: float) -> str:
    """Return a distance for people."""
    return f"{distance / 1000:.1f} km" if distance >= 1000 else f"{distance:.0f} m"


def picture_uri(path: Path, side: int | None = None) -> str:
    """Return a picture as a data URI, smaller where its longer side exceeds ``side`` pixels."""
    with Image.open(path) as source:
        picture = ImageOps.exif_transpose(source).convert("RGB")
    if side is not None and max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    picture.save(packed, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode('ascii')}"
