"""Labelled polygons and points as users have them, and the classes that they tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from gair_core.errors import BadInputError
from gair_core.finetune.few_shot.label_style import (
    Colour,
    Legend,
    distinct_colours,
    find_legend,
    usual_colours,
)
from gair_core.heads.base import LARGEST_VALUE, HeadClass
from gair_core.photos.tables import CSV_SUFFIXES, read_points

IntArray: TypeAlias = npt.NDArray[np.int64]
Shapes: TypeAlias = npt.NDArray[np.object_]
Mask: TypeAlias = npt.NDArray[np.bool_]

MOST_CLASSES: Final = 1000
"""A field with more values than this holds numbers or names of features, not classes."""

_KINDS: Final = (
    "GeoPackage, GeoJSON, Shapefile and whatever else GDAL reads, and CSV tables of points, will do."
)
_LISTED: Final = 20


@dataclass(frozen=True)
class LabelLayer:
    """Labelled polygons and points, each part of a collection on its own.

    Attributes:
        name: What to call the layer in messages.
        shapes: Polygons and points with their CRS, shape (N,); none is empty, all polygons are valid.
        target: Class index of each, int64, shape (N,).
        classes: The classes: values, names and colours.
        warnings: What was dropped, repaired or looks wrong.
        style: Where the colours come from, for people; empty for the palette.
        field: The field that held the classes.
    """

    name: str
    shapes: gpd.GeoSeries
    target: IntArray
    classes: tuple[HeadClass, ...]
    warnings: tuple[str, ...]
    style: str
    field: str

    def counts(self) -> IntArray:
        """Return the number of polygons and points of each class, shape (classes,)."""
        return np.bincount(self.target, minlength=len(self.classes)).astype(np.int64)


def read_labels(path: str | Path, field: str, layer: str | None = None) -> LabelLayer:
    """Read labelled polygons or points.

    Features without class, without geometry or with lines are left out; invalid polygons are repaired. Parts
    of multipolygons and multipoints count on their own, so that a layer that was dissolved by class can be
    cross-validated by polygons too. Whole numbers from 1 to 65535 stay the classes' values in rasters.

    Args:
        path: A vector file in any CRS, or a CSV table of points in longitude and latitude.
        field: The field with the class of each feature: text, or whole numbers.
        layer: Layer of a file with several.

    Raises:
        BadInputError: The file, the layer or the field cannot be used, or there are fewer than two classes.
    """
    source = Path(path).expanduser().absolute()
    if not source.exists():
        raise BadInputError(f"The labels {source} do not exist.", _KINDS)
    name, frame = _read_frame(source, field, layer)
    if frame.crs is None:
        raise BadInputError(
            f"The labels {source.name} have no coordinate reference system, so they could be anywhere.",
            "Assign one, for example with Set layer CRS in QGIS, or add the missing .prj file.",
        )
    keys, numeric = _class_keys(frame[field], field, source.name)
    found = _Reader(source.name)
    shapes, feature = found.parts(frame.geometry.to_numpy(), keys)
    wanted = list(dict.fromkeys(keys[feature]))
    if len(wanted) < 2:
        raise _too_few(wanted, field, source.name, found.warnings)
    if len(wanted) > MOST_CLASSES:
        raise BadInputError(
            f"The field {field!r} of {source.name} has {len(wanted)} different values; at most "
            f"{MOST_CLASSES} classes are possible.",
            "Choose the field that holds the classes, not one that numbers or measures the features.",
        )
    legend = find_legend(source, name, field)
    classes, order = _classes(wanted, numeric, legend)
    return LabelLayer(
        name=source.name,
        shapes=gpd.GeoSeries(shapes, crs=frame.crs),
        target=np.array([order[key] for key in keys[feature]], dtype=np.int64),
        classes=classes,
        warnings=tuple(found.warnings),
        style=legend.source,
        field=field,
    )


def _read_frame(source: Path, field: str, layer: str | None) -> tuple[str, gpd.GeoDataFrame]:
    """Return the layer's name, and its geometries and the field alone.

    Raises:
        BadInputError: It cannot be read, has no such layer or field, or no geometries.
    """
    if source.suffix.lower() in CSV_SUFFIXES:
        frame = read_points(source).frame
        _require_field([str(one) for one in frame.columns if one != frame.geometry.name], field, source)
        return source.stem, frame
    try:
        chosen = _choose_layer(source, layer)
        names = [str(one) for one in pyogrio.read_info(source, layer=chosen)["fields"]]
        _require_field(names, field, source)
        frame = gpd.read_file(source, layer=chosen, engine="pyogrio", columns=[field])
    except (DataSourceError, DataLayerError) as error:
        raise BadInputError(f"The labels {source} cannot be read: {error}.", _KINDS) from None
    if not isinstance(frame, gpd.GeoDataFrame) or frame.empty:
        what = "features" if isinstance(frame, gpd.GeoDataFrame) else "geometries"
        raise BadInputError(f"The layer {chosen} of {source.name} has no {what}.", "Draw polygons or points.")
    return chosen, frame


def _choose_layer(source: Path, layer: str | None) -> str:
    listed = pyogrio.list_layers(source)
    names = [str(name) for name, _ in listed]
    if layer is not None:
        if layer not in names:
            raise BadInputError(f"{source.name} has no layer {layer!r}; it has {', '.join(names)}.")
        return layer
    # A table without geometries, such as QGIS's layer_styles, is no candidate.
    candidates = [str(name) for name, kind in listed if kind is not None] or names
    if len(candidates) != 1:
        raise BadInputError(
            f"{source.name} has {len(candidates)} layers: {', '.join(candidates) or 'none'}.",
            "Name the one with the labels: --layer NAME.",
        )
    return candidates[0]


def _require_field(names: Sequence[str], field: str, source: Path) -> None:
    if field not in names:
        more = " and more" if len(names) > _LISTED else ""
        raise BadInputError(
            f"{source.name} has no field {field!r}; it has {', '.join(names[:_LISTED]) or 'none'}{more}.",
            "Name the field that holds the class of each polygon: --field NAME.",
        )


def _class_keys(values: pd.Series, field: str, source: str) -> tuple[Shapes, bool]:
    """Return the class of each feature as text, None where it has none, and whether all are numbers.

    Raises:
        BadInputError: The field holds measurements.
    """
    keys = np.full(len(values), None, dtype=object)
    known = values.notna().to_numpy()
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        every = values.to_numpy(dtype=np.float64, na_value=np.nan)
        known = known & np.isfinite(every)
        numbers = every[known]
        fractions = numbers[numbers != np.round(numbers)]
        if len(fractions):
            raise BadInputError(
                f"The field {field!r} of {source} holds measurements such as {fractions[0]:g}; wanted names "
                "or whole numbers.",
                "Choose the field that holds the class of each polygon.",
            )
        keys[known] = [str(int(number)) for number in numbers]
        return keys, True
    texts = [str(value).strip() for value in values[known]]
    keys[known] = [text or None for text in texts]
    return keys, False


def _too_few(wanted: Sequence[str], field: str, source: str, warnings: Sequence[str]) -> BadInputError:
    dropped = f" ({' '.join(warnings)})" if warnings else ""
    if not wanted:
        return BadInputError(
            f"No polygon or point of {source} has a class in the field {field!r}{dropped}.",
            "Choose another field, or fill this one.",
        )
    return BadInputError(
        f"All polygons and points of {source} have the same class {wanted[0]!r} in the field {field!r}"
        f"{dropped}; wanted two classes or more.",
        f"Add polygons of what is not {wanted[0]}, for example with the class other.",
    )


class _Reader:
    """Turns features into parts that can label pixels, and keeps what to say about the others.

    Args:
        source: What to call the layer.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.warnings: list[str] = []

    def parts(self, shapes: Shapes, keys: Shapes) -> tuple[Shapes, IntArray]:
        """Return single valid polygons and points, and the index of each one's feature."""
        count = len(shapes)
        feature = np.arange(count)
        named = np.array([key is not None for key in keys], dtype=np.bool_)
        self._say(~named, count, "have no class")
        usable = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes)) & is_finite(shapes)
        self._say(named & ~usable, count, "have no geometry")
        feature = feature[named & usable]
        shapes = shapely.force_2d(shapes[feature])
        broken = ~shapely.is_valid(shapes)
        if broken.any():
            shapes[broken] = shapely.make_valid(shapes[broken])
            self.warnings.append(
                f"{self._source}: {_features(int(broken.sum()))} of {count} with invalid polygons (such as a "
                "border that crosses itself) repaired."
            )
        return self._usable_parts(shapes, feature, count)

    def _usable_parts(self, shapes: Shapes, feature: IntArray, count: int) -> tuple[Shapes, IntArray]:
        before = set(feature.tolist())
        while (shapely.get_type_id(shapes) > shapely.GeometryType.POLYGON).any():
            shapes, index = shapely.get_parts(shapes, return_index=True)
            feature = feature[index]
        kinds = shapely.get_type_id(shapes)
        good = (kinds == shapely.GeometryType.POINT) | (
            (kinds == shapely.GeometryType.POLYGON) & (shapely.area(shapes) > 0)
        )
        good &= ~shapely.is_empty(shapes)
        lost = np.zeros(count, dtype=np.bool_)
        lost[sorted(before - set(feature[good].tolist()))] = True
        self._say(lost, count, "are lines or have no area")
        return shapes[good], feature[good]

    def _say(self, dropped: Mask, count: int, why: str) -> None:
        number = int(dropped.sum())
        if number:
            first = int(np.flatnonzero(dropped)[0]) + 1
            which = f"the first is feature {first}" if number > 1 else f"it is feature {first}"
            self.warnings.append(
                f"{self._source}: {_features(number)} of {count} {why} and are left out; {which}."
            )


def _features(number: int) -> str:
    return f"{number} feature{'' if number == 1 else 's'}"


def is_finite(shapes: Shapes) -> Mask:
    """Return which geometries have finite coordinates only."""
    points, index = shapely.get_coordinates(shapes, return_index=True)
    good = np.ones(len(shapes), dtype=np.bool_)
    good[index[~np.isfinite(points).all(axis=1)]] = False
    return good


def _classes(
    keys: Sequence[str], numeric: bool, legend: Legend
) -> tuple[tuple[HeadClass, ...], dict[str, int]]:
    """Return the classes, and the index of each key: in the legend's order, then by number or name."""
    place = {key: number for number, key in enumerate(legend.entries)}
    ordered = sorted(
        keys, key=lambda key: (place.get(key, len(place)), int(key) if numeric else 0, key.casefold(), key)
    )
    values = list(range(1, len(ordered) + 1))
    if numeric and all(1 <= int(key) <= LARGEST_VALUE for key in ordered):
        values = [int(key) for key in ordered]
    names = _names(ordered, numeric, legend)
    colours = _colours(ordered, names, legend)
    classes = tuple(
        HeadClass(value=value, name=name, colour=colours[key])
        for value, name, key in zip(values, names, ordered, strict=True)
    )
    return classes, {key: number for number, key in enumerate(ordered)}


def _colours(keys: Sequence[str], names: Sequence[str], legend: Legend) -> dict[str, Colour]:
    """Return the colour of each key: the style's, or without a style the usual one, else a distinct one."""
    colours: dict[str, Colour] = {}
    for key in keys:
        entry = legend.entries.get(key)
        if entry is not None and entry.colour is not None:
            colours[key] = entry.colour
    if not legend.entries:
        usual = usual_colours(names)
        colours = {key: usual[name] for key, name in zip(keys, names, strict=True) if name in usual}
    left = [key for key in keys if key not in colours]
    fresh = distinct_colours(len(left), list(colours.values()))
    return colours | dict(zip(left, fresh, strict=True))


def _names(keys: Sequence[str], numeric: bool, legend: Legend) -> list[str]:
    """Return names for people: a number's label in the legend, where the labels tell the classes apart."""
    if not numeric:
        return list(keys)
    labels = [legend.entries[key].label if key in legend.entries else "" for key in keys]
    named = [label or key for label, key in zip(labels, keys, strict=True)]
    return named if len(set(named)) == len(named) else list(keys)
