"""GDAL's block cache, kept small enough for a laptop and large enough for a strip of tiles."""

from __future__ import annotations

import rasterio

# By default it is 5 % of the machine's memory, and whatever one thread has put in it and given back, the
# system's allocator keeps for that thread. A row of 512-pixel blocks of a whole Sentinel-2 tile, ten bands of
# 16 bits, takes 112 MB.
CACHE_BYTES = 256 << 20


def bounded_cache(limit: int = CACHE_BYTES) -> rasterio.Env:
    """Return a context in which GDAL's block cache holds no more than ``limit`` bytes, in all threads."""
    return rasterio.Env(GDAL_CACHEMAX=limit)
