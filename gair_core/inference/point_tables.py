"""Tables of points that tasks read and write: who lies in a scene, what they are called, who is left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gair_core.errors import BadInputError
from gair_core.geo.footprint import Float64Array
from gair_core.photos.tables import PointTable
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene

if TYPE_CHECKING:
    import geopandas

# Columns that name a point.
_NAMES = ("name", "id", "uuid", "photo")
# A warning names so many points.
_LISTED = 5


def inside_scene(
    table: PointTable, scene: Scene, progress: Progress
) -> tuple[npt.NDArray[np.int64], Float64Array]:
    """Return the rows of the points inside a scene and their (u, v), (N, 2); warnings name the others.

    Raises:
        BadInputError: None is, or longitude and latitude are swapped.
    """
    names = point_names(table)
    warn_of(progress, names[~table.placed], "without a position")
    placed = np.flatnonzero(table.placed)
    footprint = scene.grid.footprint
    footprint.check_not_swapped(table.lonlat[placed])
    uv = footprint.uv(table.lonlat[placed])
    inside = footprint.contains(uv)
    warn_of(progress, names[placed[~inside]], "outside the scene")
    if not inside.any():
        raise none_left(len(table), "lies in the scene")
    return placed[inside], uv[inside]


def without_repeated_places(frame: geopandas.GeoDataFrame, output: Path) -> geopandas.GeoDataFrame:
    """Drop the columns lon and lat if a CSV gets the same numbers under these names from the geometry."""
    if output.suffix.lower() != ".csv":
        return frame
    repeated = [
        name
        for name, values in (("lon", frame.geometry.x), ("lat", frame.geometry.y))
        if name in frame.columns and frame[name].equals(values)
    ]
    return frame.drop(columns=repeated)


def point_names(table: PointTable) -> npt.NDArray[np.object_]:
    """What warnings call the points: an attribute that says so, or their number from 1."""
    for name in table.frame.columns:
        if str(name).lower() in _NAMES:
            return np.asarray(table.frame[name], object)
    return np.arange(1, len(table) + 1).astype(object)


def warn_of(progress: Progress, names: npt.NDArray[np.object_], reason: str) -> None:
    """Name the points that are left out, the first of many."""
    if len(names):
        listed = ", ".join(map(str, names[:_LISTED]))
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        plural = "point is" if len(names) == 1 else "points are"
        progress.log("warning", f"{len(names)} {plural} left out, {reason}: {listed}{more}.")


def none_left(count: int, wanted: str) -> BadInputError:
    """Return the error for a table of which no point can be used."""
    return BadInputError(
        f"None of the {count} points {wanted}.", "Check that scene and points are of the same place."
    )
