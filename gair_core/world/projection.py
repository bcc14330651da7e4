"""Universal Transverse Mercator by formula, so that the world needs no projection library.

Krüger's series in the third flattening n, to its sixth power, on the ellipsoid WGS 84 (Karney, "Transverse
Mercator with an accuracy of a few nanometers", J. Geodesy 85, 2011, equations 7-21, 35 and 36). Within a zone
it is good to far less than a millimetre.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_SEMI_MAJOR: Final = 6378137.0
_FLATTENING: Final = 1 / 298.257223563
_SCALE: Final = 0.9996
_FALSE_EASTING: Final = 500_000.0
_FALSE_NORTHING_SOUTH: Final = 10_000_000.0

_n: Final = _FLATTENING / (2 - _FLATTENING)
_ECCENTRICITY: Final = float(np.sqrt(_FLATTENING * (2 - _FLATTENING)))
_RADIUS: Final = _SEMI_MAJOR / (1 + _n) * (1 + _n**2 / 4 + _n**4 / 64 + _n**6 / 256)

_ALPHA: Final = (
    _n / 2 - 2 * _n**2 / 3 + 5 * _n**3 / 16 + 41 * _n**4 / 180 - 127 * _n**5 / 288 + 7891 * _n**6 / 37800,
    13 * _n**2 / 48 - 3 * _n**3 / 5 + 557 * _n**4 / 1440 + 281 * _n**5 / 630 - 1983433 * _n**6 / 1935360,
    61 * _n**3 / 240 - 103 * _n**4 / 140 + 15061 * _n**5 / 26880 + 167603 * _n**6 / 181440,
    49561 * _n**4 / 161280 - 179 * _n**5 / 168 + 6601661 * _n**6 / 7257600,
    34729 * _n**5 / 80640 - 3418889 * _n**6 / 1995840,
    212378941 * _n**6 / 319334400,
)
_BETA: Final = (
    _n / 2 - 2 * _n**2 / 3 + 37 * _n**3 / 96 - _n**4 / 360 - 81 * _n**5 / 512 + 96199 * _n**6 / 604800,
    _n**2 / 48 + _n**3 / 15 - 437 * _n**4 / 1440 + 46 * _n**5 / 105 - 1118711 * _n**6 / 3870720,
    17 * _n**3 / 480 - 37 * _n**4 / 840 - 209 * _n**5 / 4480 + 5569 * _n**6 / 90720,
    4397 * _n**4 / 161280 - 11 * _n**5 / 504 - 830251 * _n**6 / 7257600,
    4583 * _n**5 / 161280 - 108847 * _n**6 / 3991680,
    20648693 * _n**6 / 638668800,
)


def utm_epsg(longitude: float, latitude: float) -> int:
    """Return the EPSG code of a place's UTM zone (WGS 84), by the plain 6-degree rule.

    Args:
        longitude: Degrees east in [-180, 180].
        latitude: Degrees north.
    """
    zone = int((longitude + 180) // 6) % 60 + 1
    return (32600 if latitude >= 0 else 32700) + zone


def _central_meridian(epsg: int) -> float:
    return (epsg % 100) * 6 - 183.0


def _false_northing(epsg: int) -> float:
    return _FALSE_NORTHING_SOUTH if epsg // 100 == 327 else 0.0


def _conformal(tangent: Doubles) -> Doubles:
    """Return the tangent of the conformal latitude for that of the geographic one (equations 7-9)."""
    sigma = np.sinh(
        _ECCENTRICITY * np.arctanh(_ECCENTRICITY * tangent / np.sqrt(1 + tangent**2), dtype=np.float64)
    )
    return np.asarray(tangent * np.sqrt(1 + sigma**2) - sigma * np.sqrt(1 + tangent**2), dtype=np.float64)


def to_utm(lonlat: npt.ArrayLike, epsg: int) -> Doubles:
    """Project longitudes and latitudes to a UTM zone.

    Args:
        lonlat: Degrees (WGS 84), longitude first, of shape (..., 2).
        epsg: 32601-32660 or 32701-32760.

    Returns:
        Easting and northing in metres, float64 of shape (..., 2).
    """
    degrees = np.asarray(lonlat, dtype=np.float64)
    longitude = np.radians((degrees[..., 0] - _central_meridian(epsg) + 180) % 360 - 180)
    tangent = _conformal(np.tan(np.radians(degrees[..., 1])))
    xi = np.arctan2(tangent, np.cos(longitude))
    eta = np.arcsinh(np.sin(longitude) / np.hypot(tangent, np.cos(longitude)))
    easting, northing = eta.copy(), xi.copy()
    for order, coefficient in enumerate(_ALPHA, start=1):
        northing += coefficient * np.sin(2 * order * xi) * np.cosh(2 * order * eta)
        easting += coefficient * np.cos(2 * order * xi) * np.sinh(2 * order * eta)
    metres = np.stack([easting, northing], axis=-1) * (_SCALE * _RADIUS)
    return np.asarray(metres + np.array([_FALSE_EASTING, _false_northing(epsg)]), dtype=np.float64)


def from_utm(metres: npt.ArrayLike, epsg: int) -> Doubles:
    """Return the longitudes and latitudes of points in a UTM zone.

    Args:
        metres: Easting and northing, of shape (..., 2).
        epsg: 32601-32660 or 32701-32760.

    Returns:
        Degrees (WGS 84), longitude first, float64 of shape (..., 2); longitudes in [-180, 180).
    """
    plane = np.asarray(metres, dtype=np.float64)
    eta0 = (plane[..., 0] - _FALSE_EASTING) / (_SCALE * _RADIUS)
    xi0 = (plane[..., 1] - _false_northing(epsg)) / (_SCALE * _RADIUS)
    xi, eta = xi0.copy(), eta0.copy()
    for order, coefficient in enumerate(_BETA, start=1):
        xi -= coefficient * np.sin(2 * order * xi0) * np.cosh(2 * order * eta0)
        eta -= coefficient * np.cos(2 * order * xi0) * np.sinh(2 * order * eta0)
    conformal = np.sin(xi) / np.hypot(np.sinh(eta), np.cos(xi))
    # Newton's iteration of equations 19-21; it gains more than twice the digits at every step.
    tangent = conformal.copy()
    for _ in range(4):
        back = _conformal(tangent)
        slope = (1 - _ECCENTRICITY**2) / (1 + (1 - _ECCENTRICITY**2) * tangent**2)
        step = (conformal - back) / np.sqrt(1 + back**2)
        tangent += step / slope / np.sqrt(1 + tangent**2)
    longitude = np.degrees(np.arctan2(np.sinh(eta), np.cos(xi))) + _central_meridian(epsg)
    wrapped = (longitude + 180) % 360 - 180
    return np.stack([wrapped, np.degrees(np.arctan(tangent))], axis=-1)
