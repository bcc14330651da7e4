"""Class rasters as polygons: one a connected patch of a class, made strip by strip.

A strip of rows is vectorised at a time. Pieces that reach its lower edge wait for those that continue them;
once no row can continue a patch, its pieces are dissolved and it is written. So the memory is that of the
patches that cross the current row: a few strips, and only where one patch spans the whole scene (a background
class, say) all of that patch's own outline. Pixels that meet at a corner alone are not connected.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio.features
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from shapely.geometry.base import BaseGeometry

from gair_core.geo.footprint import apply_affine, transform_points
from gair_core.geo.grid import Grid, parse_crs
from gair_core.heads.base import NODATA, HeadClass
from gair_core.inference import outputs
from gair_core.inference.styles import categories_style

Classes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_STRIP_ROWS = 256
# Polygons a write: large enough for GDAL to be quick, small beside a strip of tiles.
_BATCH = 20_000
_GEOD = pyproj.Geod(ellps="WGS84")
