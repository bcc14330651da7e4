"""What a photo's own tags say: where, when and in which direction, and whether it is a panorama."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from gair_core.photos.reading import DAMAGE, open_image

DirectionReference = Literal["true", "magnetic"]

_DATE: Final = re.compile(r"(\d{4})[:\-/.](\d{2})[:\-/.](\d{2})[ T](\d{2}:\d{2}:\d{2})")
_OFFSET: Final = re.compile(r"[+-]\d{2}:\d{2}")
# EXIF 3 adds 2 and 3 for heights above and below the ellipsoid.
_BELOW: Final = (1, 3)


@dataclass(frozen=True)
class PhotoTags:
    """A photo's tags; None stands for what is absent or cannot be right.

    Attributes:
        longitude: Degrees east (WGS 84), in [-180, 180].
        latitude: Degrees north, in [-90, 90]; None exactly when `longitude` is.
        altitude: Metres, negative below sea level.
        direction: Compass direction of the view (the centre of a panorama), degrees clockwise from north
            in [0, 360), as stored: a magnetic one is not corrected for the declination.
        direction_reference: Which north `direction` means; None where the photo does not say.
        taken: When the photo was taken; without a time zone where the photo does not say one.
        panorama: Whether the photo says (GPano) that it is an equirectangular panorama.
    """

    longitude: float | None = None
    latitude: float | None = None
    altitude: float | None = None
    direction: float | None = None
    direction_reference: DirectionReference | None = None
    taken: datetime | None = None
    panorama: bool = False


def read_tags(path: str | Path) -> PhotoTags:
    """Read the tags of a photo without decoding its pixels.

    A position needs both numbers, in range, with their hemispheres; exactly (0, 0) is what cameras without
    a fix write and counts as none.

    Raises:
        BadInputError: Names the file that is missing or no photo. Damaged tags are no error.
    """
    with open_image(Path(path)) as image:
        return image_tags(image)


def image_tags(image: Image.Image) -> PhotoTags:
    """Return the tags of an image that Pillow has opened and not yet turned upright."""
    try:
        exif = image.getexif()
        gps, details = exif.get_ifd(IFD.GPSInfo), exif.get_ifd(IFD.Exif)
    except DAMAGE:
        gps, details = {}, {}
    panorama = _panorama_tags(image)
    longitude, latitude = _position(gps)
    direction = _direction(gps.get(GPS.GPSImgDirection))
    reference = _direction_reference(gps)
    if direction is None:
        # GPano defines the heading of a panorama's centre against true north.
        direction = _direction(panorama.get("PoseHeadingDegrees"))
        reference = None if direction is None else "true"
    return PhotoTags(
        longitude=longitude,
        latitude=latitude,
        altitude=_altitude(gps),
        direction=direction,
        direction_reference=reference,
        taken=_taken(details),
        panorama=str(panorama.get("ProjectionType", "")).strip().lower() == "equirectangular",
    )


def _position(gps: Mapping[int, Any]) -> tuple[float, float] | tuple[None, None]:
    longitude = _degrees(gps.get(GPS.GPSLongitude), gps.get(GPS.GPSLongitudeRef), "EW", 180.0)
    latitude = _degrees(gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLatitudeRef), "NS", 90.0)
    if longitude is None or latitude is None or longitude == latitude == 0:
        return None, None
    return longitude, latitude


def _degrees(parts: object, reference: object, hemispheres: str, limit: float) -> float | None:
    """Return signed degrees from degrees, minutes and seconds; some writers leave seconds out."""
    hemisphere = _text(reference)[:1].upper()
    if not hemisphere or hemisphere not in hemispheres:
        return None
    numbers = [_number(part) for part in (parts if isinstance(parts, tuple) else (parts,))]
    known = [number for number in numbers if number is not None and number >= 0]
    if len(known) < len(numbers) or not 1 <= len(numbers) <= 3:
        return None
    value = math.fsum(number / 60.0**power for power, number in enumerate(known))
    if value > limit:
        return None
    return value if hemisphere == hemispheres[0] else -value


def _altitude(gps: Mapping[int, Any]) -> float | None:
    value = _number(gps.get(GPS.GPSAltitude))
    if value is None:
        return None
    reference = gps.get(GPS.GPSAltitudeRef, 0)
    if isinstance(reference, bytes):
        reference = reference[0] if reference else 0
    below: bool = reference in _BELOW
    return -value if below else value


def _direction(value: object) -> float | None:
    number = _number(value)
    if number is None or not 0 <= number <= 360:
        return None
    return number % 360


def _direction_reference(gps: Mapping[int, Any]) -> DirectionReference | None:
    names: dict[str, DirectionReference] = {"T": "true", "M": "magnetic"}
    return names.get(_text(gps.get(GPS.GPSImgDirectionRef))[:1].upper())


def _taken(details: Mapping[int, Any]) -> datetime | None:
    pairs = (
        (Base.DateTimeOriginal, Base.OffsetTimeOriginal),
        (Base.DateTimeDigitized, Base.OffsetTimeDigitized),
    )
    for date_tag, offset_tag in pairs:
        date = _DATE.match(_text(details.get(date_tag)))
        if date is None:
            continue
        offset = _text(details.get(offset_tag)).replace("Z", "+00:00")
        zone = offset if _OFFSET.fullmatch(offset) else ""
        year, month, day, time = date.groups()
        try:
            return datetime.fromisoformat(f"{year}-{month}-{day}T{time}{zone}")
        except ValueError:  # Such as 0000:00:00, which a camera with an unset clock writes.
            continue
    return None


def _panorama_tags(image: Image.Image) -> dict[str, Any]:
    """Return the GPano fields of a photo's XMP packet, by their names without a prefix."""
    try:
        return dict(_leaves(image.getxmp()))  # type: ignore[attr-defined,unused-ignore]
    except DAMAGE:
        return {}


def _leaves(tree: object) -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if isinstance(value, dict | list):
                yield from _leaves(value)
            else:
                yield str(key), value
    elif isinstance(tree, list):
        for item in tree:
            yield from _leaves(item)


def _number(value: object) -> float | None:
    """Return a finite float; a fraction such as 0/0 or 5/0 is None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value.strip("\0 \t\r\n") if isinstance(value, str) else ""
