"""Socio-economic indicators of Los Angeles and Boston (Fan et al. 2023): four photos at each place.

    <city>GSV/<panoid>/<panoid>_{0,90,180,270}.jpg
    <city>GSV/<panoid>/meta_data.json               lon, lat, year, month
    <city>GSV/<panoid>/eco_data_normalized.json     ten indicators, standardised
    <table>.csv                                     panoid,path

``path`` is the folder ``<city>GSV`` of the place; tables made on another machine are understood by its name.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PureWindowsPath
from typing import Any, Final, Literal

import numpy as np
from pydantic import Field

from gair_core.config import Config
from gair_core.errors import BadInputError
from gair_core.finetune.datasets.located import (
    INTRA_CITY,
    LocatedData,
    Samples,
    Shares,
    by_split,
    clean_lonlat,
    number_or_nan,
    read_json,
    split_within,
)
from gair_core.heads.base import HeadTarget

INDICATORS: Final = (
    "popden_cbg",
    "bachelor_p",
    "health",
    "poc_cbg",
    "mhincome_c",
    "stationdis",
    "walkbike_p",
    "over65_per",
    "violent",
    "sky",
)
"""Population density, degrees, health, people of colour, income, distance to a station, walking and cycling,
people over 65, crime, visible sky."""

HEADINGS: Final = (0, 90, 180, 270)

_SUFFIX = "GSV"


class SocioEconomicConfig(Config):
    """Which indicators of which places.

    Attributes:
        folder: Folder that holds ``<city>GSV``.
        tables: CSV tables of ``panoid,path`` in it or elsewhere; without them all places of all cities.
        indicators: Which indicators are predicted.
        split: Parts of train, validation and test within each city.
        seed: Seed of the split.
    """

    kind: Literal["socioeconomic"] = "socioeconomic"
    folder: Path
    tables: tuple[Path, ...] = ()
    indicators: tuple[str, ...] = Field(INDICATORS, min_length=1)
    split: Shares = INTRA_CITY
    seed: int = Field(0, ge=0)

    def read(self) -> LocatedData:
        """Read the places; one without any photo, position or indicator is left out and counted.

        Raises:
            BadInputError: Folder or table are missing, or no place has an indicator of such a name.
        """
        return _read(self)


def _read(config: SocioEconomicConfig) -> LocatedData:
    left_out: Counter[str] = Counter()
    folders = _listed(config) if config.tables else _all_places(config.folder)
    rows: list[dict[str, Any]] = []
    for folder in folders:
        found = _place(folder, config.indicators, left_out)
        if found is not None:
            rows.append(found)
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise BadInputError(
            f"No place of {config.folder} can be used ({reasons or 'none is listed'}).",
            "Places are folders <city>GSV/<panoid> with photos, meta_data.json and eco_data_normalized.json.",
        )
    values = np.array([row["values"] for row in rows], dtype=np.float64)
    unknown = [
        name for name, column in zip(config.indicators, values.T, strict=True) if np.isnan(column).all()
    ]
    if unknown:
        raise BadInputError(
            f"No place has the indicators {', '.join(unknown)}.", f"They are {', '.join(INDICATORS)}."
        )
    ids = np.array([row["id"] for row in rows])
    samples = Samples(
        ids=ids,
        lonlat=clean_lonlat([row["lonlat"] for row in rows]),
        labels=values,
        photos=tuple(row["photos"] for row in rows),
        panorama=np.zeros(len(rows), dtype=bool),
    )
    name = "socio-economic indicators"
    splits = split_within(ids, [row["city"] for row in rows], config.split, config.seed)
    return LocatedData(
        name=name,
        splits=by_split(samples, splits, name),
        targets=tuple(HeadTarget(name=one) for one in config.indicators),
        left_out=left_out,
    )


def _place(folder: Path, indicators: tuple[str, ...], left_out: Counter[str]) -> dict[str, Any] | None:
    """Return what is known of a place, None when it cannot be used."""
    photos = tuple(
        path for heading in HEADINGS if (path := folder / f"{folder.name}_{heading}.jpg").is_file()
    )
    if not photos:
        left_out["without a photo"] += 1
        return None
    described = [folder / "meta_data.json", folder / "eco_data_normalized.json"]
    if not all(path.is_file() for path in described):
        left_out["without a description"] += 1
        return None
    place, values = (read_json(path) for path in described)
    if not isinstance(place, dict) or not isinstance(values, dict):
        left_out["without a description"] += 1
        return None
    numbers = [number_or_nan(values.get(name)) for name in indicators]
    lonlat = clean_lonlat([number_or_nan(place.get(name)) for name in ("lon", "lat")])[0]
    if np.isnan(numbers).all():
        left_out["without an indicator"] += 1
        return None
    if np.isnan(lonlat).any():
        left_out["without a position"] += 1
        return None
    city = folder.parent.name.removesuffix(_SUFFIX)
    return {
        "id": f"{city}_{folder.name}",
        "city": city,
        "lonlat": lonlat,
        "values": numbers,
        "photos": photos,
    }


def _all_places(folder: Path) -> list[Path]:
    cities = sorted(folder.glob(f"*{_SUFFIX}"))
    if not cities:
        raise BadInputError(f"{folder} holds no folder <city>{_SUFFIX}.", "Check the folder of the data set.")
    return [place for city in cities for place in sorted(city.iterdir()) if place.is_dir()]


def _listed(config: SocioEconomicConfig) -> list[Path]:
    """Return the folders of the places that the tables list, each once."""
    import pandas as pd

    places: dict[Path, None] = {}
    for name in config.tables:
        path = name if name.is_absolute() or name.is_file() else config.folder / name
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise BadInputError(f"The table {path} cannot be read: {error}.") from None
        missing = {"panoid", "path"} - set(table.columns)
        if missing:
            raise BadInputError(
                f"The table {path} has no column {' and '.join(sorted(missing))}; "
                f"it has {', '.join(table.columns)}."
            )
        places |= {
            _city_folder(city, config.folder) / panoid: None
            for panoid, city in zip(table["panoid"], table["path"], strict=True)
            if panoid
        }
    return list(places)


def _city_folder(path: str, folder: Path) -> Path:
    """Return the city's folder: as the table says, or by its name where the table is from elsewhere."""
    stated = Path(path)
    if stated.is_absolute() and stated.is_dir():
        return stated
    # Windows' reading takes both slashes for separators.
    return folder / PureWindowsPath(path.rstrip("/\\")).name
