"""The whole world: any number of cities from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from gair_core.errors import BadInputError
from gair_core.world.city import City
from gair_core.world.noise import seed_of, uniform_of
from gair_core.world.projection import to_utm, utm_epsg
from gair_core.world.regions import REGIONS, Region

_FIRST: Final = (
    "Al",
    "Bren",
    "Cor",
    "Dun",
    "El",
    "Far",
    "Gal",
    "Hal",
    "Ist",
    "Kal",
    "Lor",
    "Mar",
    "Nor",
    "Or",
    "Pel",
    "Quin",
    "Ros",
    "San",
    "Tor",
    "Ul",
    "Val",
    "Wes",
    "Yar",
    "Zel",
)
_MIDDLE: Final = ("", "a", "e", "i", "o", "an", "en", "is", "or", "um")
_LAST: Final = (
    "burg",
    "dale",
    "ford",
    "grad",
    "ham",
    "ia",
    "ki",
    "mouth",
    "nov",
    "pur",
    "ra",
    "stad",
    "ton",
    "ville",
)


@dataclass(frozen=True)
class World:
    """A world of cities that exist nowhere else, at real places of the globe.

    The same seed gives the same world, up to rounding between processors. Cities of one region share a
    climate, a palette of materials and a way to lay out streets; regions differ in all of them.

    Attributes:
        seed: Any whole number.
    """

    seed: int = 0

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions, in the order in which cities go round them."""
        order = sorted(range(len(REGIONS)), key=lambda number: seed_of(self.seed, 1, number))
        return tuple(REGIONS[number] for number in order)

    def city(self, index: int, size: int = 512) -> City:
        """Return one of the world's cities; there is no last one.

        Args:
            index: From 0; consecutive cities lie in different regions, and all regions get equally many.
            size: Height and width of its extent in pixels of 10 m; an even number. What stands at a place
                does not depend on it.

        Raises:
            BadInputError: A negative index, or a size that is odd or below 16.
        """
        if index < 0 or size < 16 or size % 2:
            raise BadInputError(
                f"Found city {index} of {size} pixels, wanted an index from 0 and an even size from 16.",
                "A city of 512 pixels covers 5.12 km.",
            )
        region = self.regions[index % len(REGIONS)]
        seed = seed_of(self.seed, 2, index)
        latitude = region.latitude + region.spread * (2 * uniform_of(seed, 3) - 1)
        reach = region.spread / max(0.3, float(np.cos(np.radians(latitude))))
        longitude = region.longitude + reach * (2 * uniform_of(seed, 4) - 1)
        epsg = utm_epsg(longitude, latitude)
        # Centres on whole 20 m pixels, so that the two grids of the instrument fall together.
        easting, northing = np.round(to_utm((longitude, latitude), epsg) / 20) * 20
        return City(
            name=self._name(index),
            region=region,
            index=index,
            seed=seed,
            epsg=epsg,
            easting=float(easting),
            northing=float(northing),
            size=size,
        )

    def _name(self, index: int) -> str:
        """Return a name; the digits of a scrambled index in syllables, so no two cities share one."""
        total = len(_FIRST) * len(_MIDDLE) * len(_LAST)
        turn, place = divmod(index, total)
        # 1009 is prime to the total, so the names go round all combinations.
        number = (place * 1009 + seed_of(self.seed, 5)) % total
        first, rest = divmod(number, len(_MIDDLE) * len(_LAST))
        middle, last = divmod(rest, len(_LAST))
        name = _FIRST[first] + _MIDDLE[middle] + _LAST[last]
        return name if turn == 0 else f"{name} {turn + 1}"
