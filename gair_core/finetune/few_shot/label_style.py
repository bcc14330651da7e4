"""Colours and names of classes from the style that a vector layer has in QGIS, and a palette for the rest."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from defusedxml import ElementTree  # type: ignore[import-untyped]
from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]

Colour = tuple[int, int, int]

_NUMBERS = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)")
# Names of a symbol layer's colour: fills and markers, lines, font markers' and raster fills' own.
_COLOUR_NAMES: Final = ("color", "line_color", "outline_color")

# Paul Tol's "bright" and "muted" schemes (https://personal.sron.nl/~pault, public), which readers with any
# kind of colour vision tell apart; without the greys, which stand for nodata here.
_FIRST_COLOURS: Final[tuple[Colour, ...]] = (
    (68, 119, 170),
    (34, 136, 51),
    (204, 187, 68),
    (238, 102, 119),
    (102, 204, 238),
    (170, 51, 119),
    (153, 153, 51),
    (136, 34, 85),
    (68, 170, 153),
    (51, 34, 136),
    (221, 204, 119),
)
# What land cover is drawn with everywhere, by how its names begin (English, German, French, Spanish): a map
# with yellow forests and red meadows is hard to read. A colour goes to the first class that asks for it.
_USUAL: Final[tuple[tuple[str, Colour], ...]] = (
    (r"water|lake|river|seas?\b|ocean|pond|wasser|gewässer|eaux?\b|lacs?\b|agua", (68, 119, 170)),
    (r"forest|wood|tree|wald|forêt|bois\b|bosque", (34, 136, 51)),
    ("grass|meadow|pasture|wiese|grünland|prairie|pradera", (153, 204, 102)),
    ("crop|agri|arable|farm|field|acker|culture|cultivo", (221, 190, 90)),
    ("urban|built|settle|village|town|city|house|building|siedlung|stadt|dorf|ville", (204, 80, 90)),
    (r"bare\b|soil|sand|rock|boden|fels|sols?\b|suelo", (170, 150, 130)),
    (r"wetland|marsh|swamp|bogs?\b|moor|marais", (122, 135, 198)),
    ("shrub|heath|scrub|busch|strauch|matorral", (150, 120, 60)),
    (r"snow|ice\b|glacier|schnee|eis\b|neige|nieve", (190, 225, 240)),
)
# Steps of red, green and blue among which further colours are looked for.
_STEPS: Final = np.linspace(20, 235, 13).round()
# Lightness in Oklab: darker and brighter colours look alike on a map.
_LIGHTNESS: Final = (0.35, 0.9)


@dataclass(frozen=True)
class LegendEntry:
    """How a style shows one value of a field.

    Attributes:
        label: What the legend calls it; may be empty.
        colour: Red, green and blue, 0 to 255; None where the symbol has none.
    """

    label: str
    colour: Colour | None


@dataclass(frozen=True)
class Legend:
    """How a style shows the values of a field.

    Attributes:
        entries: By value, as text, in the legend's order; empty without a style.
        source: Where the style was found, for people.
    """

    entries: Mapping[str, LegendEntry] = field(default_factory=dict)
    source: str = ""


def find_legend(path: Path, layer: str, field_name: str) -> Legend:
    """Return the legend of a layer: of the ``.qml`` beside its file, else of the GeoPackage's own styles.

    A style that is damaged, or that does not colour the layer by this field's values, counts as none: the
    labels are good without it.

    Args:
        path: The vector file.
        layer: The layer in it.
        field_name: The field that holds the classes.
    """
    for source, text in _styles(path, layer):
        entries = read_categories(text, field_name)
        if entries:
            return Legend(entries, source)
    return Legend()


def _styles(path: Path, layer: str) -> Iterator[tuple[str, str]]:
    beside = path.with_suffix(".qml")
    if beside.is_file():
        yield beside.name, beside.read_text(encoding="utf-8", errors="replace")
    if path.suffix.lower() == ".gpkg" and path.is_file():
        for text in _stored_styles(path, layer):
            yield f"layer_styles of {path.name}", text


def _stored_styles(path: Path, layer: str) -> list[str]:
    """Return the styles that QGIS saved into a GeoPackage for a layer, the default one first."""
    query = "SELECT styleQML FROM layer_styles WHERE f_table_name = ? ORDER BY useAsDefault DESC, id DESC"
    # Immutable: nothing is ever left beside the user's file.
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            return [str(text) for (text,) in database.execute(query, (layer,)) if text]
    except sqlite3.Error:
        return []  # most GeoPackages have no such table


def read_categories(qml: str, field_name: str) -> dict[str, LegendEntry]:
    """Return the categories of a QGIS layer style (``.qml``) by value.

    Args:
        qml: Its text.
        field_name: The field; a style by another field or expression has nothing to say.

    Returns:
        In the legend's order; empty where the style is damaged or of another kind.
    """
    try:
        root = ElementTree.fromstring(qml)
    except (ElementTree.ParseError, DefusedXmlException, ValueError):
        return {}
    renderer = root.find("renderer-v2[@type='categorizedSymbol']")
    if renderer is None or renderer.get("attr", "").strip().strip('"') != field_name:
        return {}
    colours = {
        symbol.get("name", ""): _symbol_colour(symbol) for symbol in renderer.iterfind("symbols/symbol")
    }
    entries = {}
    for category in renderer.iterfind("categories/category"):
        entry = LegendEntry(category.get("label", "").strip(), colours.get(category.get("symbol", "")))
        several = [value.get("value", "") for value in category.iterfind("val")]
        for value in several or [category.get("value", "")]:
            if value.strip():
                # A label of several values is no name of one.
                entries[value.strip()] = LegendEntry("", entry.colour) if len(several) > 1 else entry
    return entries


def _symbol_colour(symbol: Any) -> Colour | None:  # noqa: ANN401 (an element; its class is not safe to import)
    """Return the colour of a symbol's first layer that has one."""
    for symbol_layer in symbol.iterfind("layer"):
        options = {one.get("name"): one.get("value") for one in symbol_layer.iterfind("Option/Option")}
        # Before QGIS 3.26 the same stands in elements of another name as well, before 3.16 only there.
        options = {one.get("k"): one.get("v") for one in symbol_layer.iterfind("prop")} | options
        for name in _COLOUR_NAMES:
            match = _NUMBERS.match(options.get(name) or "")
            if match:
                red, green, blue = (min(int(number), 255) for number in match.groups())
                return red, green, blue
    return None


def usual_colours(names: Sequence[str]) -> dict[str, Colour]:
    """Return the colours that some classes have on most maps, by name; each colour once."""
    found: dict[str, Colour] = {}
    for name in names:
        for beginnings, colour in _USUAL:
            asks = re.search(rf"(?<!\w)(?:{beginnings})", name, re.IGNORECASE)
            if asks and colour not in found.values():
                found[name] = colour
                break
    return found


def distinct_colours(count: int, used: Sequence[Colour] = ()) -> list[Colour]:
    """Return colours that differ from each other and from the ones in use.

    The first ones come from a scheme that readers with any colour vision tell apart; each further one is the
    colour that is farthest from all before it (in Oklab, Ottosson 2020,
    https://bottosson.github.io/posts/oklab).

    Args:
        count: How many are wanted.
        used: Colours that other classes have.

    Returns:
        ``count`` colours, the same ones for the same arguments.
    """
    chosen: list[Colour] = []
    if not used:
        chosen = list(_FIRST_COLOURS[:count])
    candidates = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), axis=-1).reshape(-1, 3)
    if used:
        candidates = np.concatenate([np.array(_FIRST_COLOURS, dtype=np.float64), candidates])
    places = _oklab(candidates)
    bright = (places[:, 0] > _LIGHTNESS[0]) & (places[:, 0] < _LIGHTNESS[1])
    candidates, places = candidates[bright], places[bright]
    distance = np.full(len(candidates), np.inf)
    for colour in (*used, *chosen):
        distance = np.minimum(distance, _distance(places, colour))
    while len(chosen) < count:
        best = int(np.argmax(distance))
        red, green, blue = (int(value) for value in candidates[best])
        chosen.append((red, green, blue))
        distance = np.minimum(distance, _distance(places, chosen[-1]))
    return chosen


def _distance(places: npt.NDArray[np.float64], colour: Colour) -> npt.NDArray[np.float64]:
    difference = places - _oklab(np.array([colour], dtype=np.float64))
    return np.asarray((difference**2).sum(axis=1))


def _oklab(colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return Oklab coordinates (N, 3) of sRGB colours (N, 3), 0 to 255."""
    value = colours / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.asarray(np.cbrt(linear @ to_cones.T) @ to_lab.T)
