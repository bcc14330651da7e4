"""Seasons: of a date at a latitude, and which date of a tile shows the season of a photo."""

from __future__ import annotations

from gair_core.pretrain.store import TileHeader, day_of_year


def season(date: str, latitude: float) -> int:
    """Return the season of a date: 0 winter, 1 spring, 2 summer, 3 autumn; -1 where it is unknown."""
    if not date:
        return -1
    month = int(date[5:7])
    return (month % 12 // 3 + (2 if latitude < 0 else 0)) % 4


def date_of_season(tile: TileHeader, taken: str, latitude: float) -> int:
    """Return the tile's valid date nearest in season to a photo's; the first where that is unknown."""
    usable = [number for number, fraction in enumerate(tile.valid_fraction) if fraction > 0] or [0]
    if not taken:
        return usable[0]
    wanted = day_of_year(taken)

    def apart(number: int) -> tuple[bool, float]:
        gap = abs(day_of_year(tile.dates[number]) - wanted)
        other = season(tile.dates[number], latitude) != season(taken, latitude)
        return other, min(gap, 365.25 - gap)

    return min(usable, key=apart)
