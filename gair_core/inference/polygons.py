"""Class rasters as polygons: one a connected patch of a class, made strip by strip.

A strip of rows is vectorised at a time. Pieces that reach its lower edge wait for those that continue them;
once no row can continue a patch, its pieces are dissolved and it is written. So the memory is that of the
patches that cross the current row: a few strips, and only where one patch spans the whole scene (a background
class, say) all of that patch's own outline. Pixels that meet at a corner alone are not connected.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import pyproj
import rasterio.features
import shapely
from affine import Affine
from pyogrio.errors import DataSourceError, FeatureError
from rasterio.crs import CRS

from gair_core.geo.footprint import apply_affine, transform_points
from gair_core.geo.grid import Grid
from gair_core.heads.base import NODATA, HeadClass
from gair_core.inference import outputs
from gair_core.inference.vectors import GEOPACKAGE_OPTIONS

Classes = npt.NDArray[Any]
Patch = tuple[int, shapely.Polygon]

# Rows a strip: many enough for few pieces to be dissolved.
_STRIP_ROWS = 256
# Polygons a write: many enough for GDAL to be quick, few beside a strip of tiles.
_BATCH = 20_000
_LONLAT = CRS.from_epsg(4326)
_GEOD = pyproj.Geod(ellps="WGS84")


class Dissolver:
    """Turns rows of classes, from top to bottom, into whole patches in pixel coordinates.

    Args:
        width: Columns.
    """

    def __init__(self, width: int) -> None:
        self._row = 0
        self._number = 0
        self._last = np.full(width, NODATA)
        # Patch at each pixel of the last row, and the patches that may still grow.
        self._owner = np.full(width, -1)
        self._open: dict[int, list[shapely.Polygon]] = {}
        self._values: dict[int, int] = {}

    def add(self, classes: Classes) -> Iterator[Patch]:
        """Add rows of class values (height, width) and yield the value and outline of each complete patch."""
        first = self._number
        at_top, at_bottom = np.full_like(self._owner, -1), np.full_like(self._owner, -1)
        for piece, value in _vectorise(classes, self._row):
            self._open[self._number] = [piece]
            self._values[self._number] = value
            corners = np.asarray(piece.exterior.coords)
            _mark(at_top, corners, self._row, self._number)
            _mark(at_bottom, corners, self._row + len(classes), self._number)
            self._number += 1
        joined = self._join(at_top, classes[0])
        self._owner = np.array([joined.get(patch, patch) for patch in at_bottom.tolist()])
        self._last = classes[-1].astype(self._last.dtype)
        self._row += len(classes)
        growing = set(self._owner.tolist())
        candidates = [*(patch for patch in self._open if patch < first), *range(first, self._number)]
        for patch in candidates:
            if patch in self._open and patch not in growing:
                yield self._values.pop(patch), _dissolve(self._open.pop(patch))

    def finish(self) -> Iterator[Patch]:
        """Yield the patches that reach the last row."""
        for patch in list(self._open):
            yield self._values.pop(patch), _dissolve(self._open.pop(patch))

    def _join(self, at_top: npt.NDArray[Any], row: Classes) -> dict[int, int]:
        """Join pieces across the strips' border; returns where each patch that is no more has gone."""
        gone: dict[int, int] = {}

        def final(patch: int) -> int:
            while patch in gone:
                patch = gone[patch]
            return patch

        touching = (self._last == row) & (row != NODATA)
        pairs = np.unique(np.stack([self._owner[touching], at_top[touching]]), axis=1).T.tolist()
        for above, below in pairs:
            one, other = final(above), final(below)
            if one != other:
                if len(self._open[one]) < len(self._open[other]):
                    one, other = other, one
                self._open[one] += self._open.pop(other)
                del self._values[other]
                gone[other] = one
        return {patch: final(patch) for patch in gone}


def _vectorise(classes: Classes, top: int) -> Iterator[tuple[shapely.Polygon, int]]:
    shapes = rasterio.features.shapes(
        classes, mask=classes != NODATA, connectivity=4, transform=Affine.translation(0, top)
    )
    for shape, value in shapes:
        rings = shape["coordinates"]
        yield shapely.Polygon(rings[0], rings[1:]), int(value)


def _mark(owner: npt.NDArray[Any], corners: npt.NDArray[np.float64], row: int, number: int) -> None:
    """Write a piece's number at the pixels where its outline runs along a row's edge."""
    x, y = corners.T
    (along,) = np.nonzero((y[:-1] == row) & (y[1:] == row))
    for start, stop in np.sort(np.stack([x[along], x[along + 1]], axis=1).astype(int), axis=1):
        owner[start:stop] = number


def _dissolve(pieces: Sequence[shapely.Polygon]) -> shapely.Polygon:
    if len(pieces) == 1:
        return pieces[0]
    # Whole numbers, so that the union is exact; simplifying by 0 drops the corners left on straight lines.
    return shapely.simplify(shapely.union_all(pieces), 0)


@dataclass(frozen=True)
class Table:
    """Where the polygons go.

    Attributes:
        path: The GeoPackage that is written; nobody else may know it yet.
        layer: Name of its layer.
        grid: Grid of the class raster.
        classes: The classes.
    """

    path: Path
    layer: str
    grid: Grid
    classes: Sequence[HeadClass]


class PolygonWriter:
    """Writes the patches of a class raster to a GeoPackage while the raster's rows come in.

    Attributes of a polygon: ``value`` and ``name`` of its class and ``area_m2``, its area on the WGS 84
    ellipsoid, whatever the CRS.

    Args:
        table: Where they go.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._dissolver = Dissolver(table.grid.width)
        self._rows: list[Classes] = []
        self._waiting: list[Patch] = []
        self.count = 0

    def write(self, classes: Classes) -> None:
        """Take in the next rows of class values, (height, width).

        Raises:
            BadInputError: The file cannot be written or the disk is full.
        """
        self._rows.append(classes)
        if sum(map(len, self._rows)) >= _STRIP_ROWS:
            self._vectorise()

    def finish(self) -> None:
        """Write what is left, and the style; without any polygon the layer is empty."""
        if self._rows:
            self._vectorise()
        self._waiting += self._dissolver.finish()
        self._flush(1)
        if self.count == 0:
            self._append(_frame([], self._table), self._table.layer)
        self._append(_style_row(self._table), "layer_styles")

    def _vectorise(self) -> None:
        self._waiting += self._dissolver.add(np.concatenate(self._rows))
        self._rows.clear()
        self._flush(_BATCH)

    def _flush(self, least: int) -> None:
        while len(self._waiting) >= least:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            self._append(_frame(batch, self._table), self._table.layer)
            self.count += len(batch)

    def _append(self, frame: pd.DataFrame, layer: str) -> None:
        try:
            pyogrio.write_dataframe(
                frame,
                self._table.path,
                layer=layer,
                driver="GPKG",
                dataset_options={} if self._table.path.exists() else GEOPACKAGE_OPTIONS,
                append=self._table.path.exists(),
                geometry_type="Polygon" if layer == self._table.layer else None,
            )
        except (DataSourceError, FeatureError, OSError) as error:
            raise outputs.writing_failed(self._table.path, error) from error


def _frame(patches: Sequence[Patch], table: Table) -> geopandas.GeoDataFrame:
    names = {one.value: one.name for one in table.classes}
    values = [value for value, _ in patches]
    outlines = np.array([outline for _, outline in patches], dtype=object)
    placed = shapely.transform(outlines, lambda pixels: apply_affine(table.grid.transform, pixels))
    columns = {
        "value": np.array(values, dtype=np.int32),
        "name": np.array([names[value] for value in values], dtype=object),
        "area_m2": ellipsoidal_areas(placed, table.grid.crs),
    }
    return geopandas.GeoDataFrame(columns, geometry=placed, crs=table.grid.crs)


def ellipsoidal_areas(polygons: npt.NDArray[Any], crs: CRS) -> npt.NDArray[np.float64]:
    """Return the areas of polygons of any CRS on the WGS 84 ellipsoid, square metres."""
    geographic = shapely.transform(polygons, lambda points: transform_points(points, crs, _LONLAT))
    # Holes only count as such when they turn the other way round.
    geographic = shapely.normalize(geographic)
    return np.array([abs(_GEOD.geometry_area_perimeter(one)[0]) for one in geographic], dtype=np.float64)


def _style_row(table: Table) -> pd.DataFrame:
    """Return the row of the table that QGIS keeps styles in; a .qml would clash with the raster's."""
    row = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": table.layer,
        "f_geometry_column": "geom",
        "styleName": table.layer,
        "styleQML": categories_style((one.value, one.name, one.colour) for one in table.classes),
        "styleSLD": "",
        "useAsDefault": True,
        "description": "",
        "owner": "",
        "ui": "",
        "update_time": pd.Timestamp.now(tz="UTC"),
    }
    return pd.DataFrame([row])


def categories_style(classes: Iterable[tuple[int, str, tuple[int, int, int]]]) -> str:
    """Return a QGIS style (``.qml``) that fills the polygons of each class, by the attribute ``value``.

    Args:
        classes: Value, name and colour (0 to 255) of each class, in the legend's order.
    """
    categories, symbols = [], []
    for index, (value, name, colour) in enumerate(classes):
        label = html.escape(name, quote=True)
        categories.append(
            f'      <category symbol="{index}" value="{value}" label="{label}" render="true" type="long"/>'
        )
        options = {"color": "{},{},{},255".format(*colour), "style": "solid", "outline_style": "no"}
        entries = "".join(f'<Option type="QString" name="{k}" value="{v}"/>' for k, v in options.items())
        symbols.append(
            f'      <symbol type="fill" name="{index}" alpha="1" clip_to_extent="1" force_rhr="0">'
            f'<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">{entries}</Option>'
            "</layer></symbol>"
        )
    lines = "\n".join(["    <categories>", *categories, "    </categories>", "    <symbols>", *symbols])
    return f"""<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology">
  <renderer-v2 type="categorizedSymbol" attr="value" symbollevels="0" enableorderby="0" forceraster="0">
{lines}
    </symbols>
  </renderer-v2>
  <blendMode>0</blendMode>
  <layerOpacity>1</layerOpacity>
</qgis>
"""
