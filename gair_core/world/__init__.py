"""A procedural world: scenes, photos and labels that belong together, of any extent, from one seed.

    from datetime import date
    from gair_core.world import World

    city = World(seed=1).city(3)                                  # a name, a region, a UTM zone, an extent
    dn = city.scene(date(2023, 7, 1))                             # uint16 (10, 512, 512), reflectance x 10000
    truth = city.land_cover(date(2023, 7, 1))                     # uint8 (512, 512): LAND_COVER
    positions, headings = city.photo_positions(40)                # longitudes, latitudes; degrees
    photos = city.photos(positions, headings, date(2023, 7, 1))   # uint8 (40, 256, 256, 3)

It needs numpy alone; `gair_core.world.writers` writes files and needs rasterio, geopandas and Pillow.
"""

from gair_core.world.city import City, Viewpoints
from gair_core.world.regions import REGIONS, Region
from gair_core.world.spectra import BANDS
from gair_core.world.surface import LAND_COVER
from gair_core.world.world import World

__all__ = ["BANDS", "LAND_COVER", "REGIONS", "City", "Region", "Viewpoints", "World"]
