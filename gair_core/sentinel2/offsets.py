"""From stored numbers to harmonised DN (reflectance x 10000, no offset).

ESA's products of processing baseline 04.00 and later carry 1000 on top. Some archives take it off and keep
the tag, others divide by 10000 and keep the offset, so a tag alone proves nothing: the pixels must agree. The
decision is taken once, from a sample of the whole scene, and never from a window.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gair_core.errors import BadInputError
from gair_core.sentinel2.raster import Array

_OFFSET_TAG = re.compile(r"(BOA|RADIO)_ADD_OFFSET")
_PRODUCT_NAME = re.compile(r"MSI(?:L1C|L2A)_\d{8}T\d{5,6}_N(\d{2})(\d{2})_")
_FIRST_OFFSET_BASELINE = (4, 0)
_LAST_KNOWN_BASELINE = 9  # N9999 and the like are reprocessings that say nothing about the offset
_THRESHOLD = 1000
_MOST_BELOW = 0.001

# Bright clouds and snow exceed a reflectance of 1, but not 2.5; DN of a scene exceed 2.5 everywhere.
_LARGEST_REFLECTANCE = 2.5
_LARGEST_8_BIT = 255


@dataclass(frozen=True)
class Radiometry:
    """How stored numbers become DN: ``stored * scale + offset``.

    Attributes:
        scale: 1 for DN, 10000 for reflectances.
        offset: DN added, -1000 or 0 for ESA's products.
        reason: Why this offset, for the log.
        warning: What the user should check, or an empty string.
    """

    scale: float
    offset: float
    reason: str
    warning: str = ""


def tagged_offset(tags: Mapping[str, str]) -> float | None:
    """Return the offset that tags such as ``BOA_ADD_OFFSET_B1=-1000`` announce, or None.

    Raises:
        BadInputError: The tags differ among the bands or are no numbers.
    """
    found = {text for name, text in tags.items() if _OFFSET_TAG.search(name)}
    return common_offset(found)


def common_offset(found: set[str]) -> float | None:
    """Return the one value in a set of texts, None where it is empty.

    Raises:
        BadInputError: There are several, or one is no number.
    """
    try:
        values = {float(text) for text in found}
    except ValueError:
        values = set()
    if found and len(values) != 1:
        raise BadInputError(
            f"The product announces the offsets {', '.join(sorted(found))}; wanted one for all bands.",
            "Give the option `offset`, for example -1000 or 0.",
        )
    return values.pop() if values else None


def offset_from_product_name(text: str) -> float | None:
    """Return -1000 where a product's name announces baseline 04.00 or later, 0 for earlier, else None."""
    match = _PRODUCT_NAME.search(text)
    if match is None:
        return None
    return offset_from_baseline(f"{match[1]}.{match[2]}")


def offset_from_baseline(text: str) -> float | None:
    """Return the offset of a processing baseline such as ``05.11``, None where it is no known baseline."""
    match = re.fullmatch(r"(\d{2})\.(\d{2})", text.strip())
    if match is None or int(match[1]) > _LAST_KNOWN_BASELINE:
        return None
    return -1000.0 if (int(match[1]), int(match[2])) >= _FIRST_OFFSET_BASELINE else 0.0


def decide(
    sample: Array, *, floating: bool, tagged: float | None, option: float | Literal["auto"], source: str
) -> Radiometry:
    """Decide how stored numbers become DN.

    Args:
        sample: Stored numbers of a sample of the whole scene without nodata, of any shape.
        floating: Whether the file stores floating-point numbers.
        tagged: The offset in DN that tags or metadata announce, or None.
        option: The user's offset in DN, or "auto".
        source: The scene's name for messages.

    Raises:
        BadInputError: The values are those of a display image, or the option is no possible offset.
    """
    largest = float(np.quantile(sample, 0.999))
    scale = 10000.0 if floating and largest <= _LARGEST_REFLECTANCE else 1.0
    if scale == 1 and np.max(sample) <= _LARGEST_8_BIT:
        raise display_image(source, f"no value above {float(np.max(sample)):.0f}")
    if option != "auto":
        _check_option(option)
        return Radiometry(scale, option, f"{option:g} was given by the user")
    below = float(np.mean(sample * scale < _THRESHOLD))
    share = f"{100 * below:.2f} % of a sample lies below {_THRESHOLD}"
    if tagged:
        if below < _MOST_BELOW:
            return Radiometry(scale, tagged, f"the tagged offset {tagged:g} was applied: {share}")
        return Radiometry(scale, 0.0, f"already harmonised: {tagged:g} is tagged, but {share}")
    if tagged is not None:
        return Radiometry(scale, 0.0, "the product announces an offset of 0")
    if below < _MOST_BELOW:
        return Radiometry(scale, 0.0, f"no offset is tagged, but only {share}", _suspicion(source, scale))
    return Radiometry(scale, 0.0, f"no offset is tagged, and {share}")


def display_image(source: str, found: str) -> BadInputError:
    """Return the error for a picture that was stretched for the screen."""
    return BadInputError(
        f"{source} is an 8-bit display image ({found}); wanted surface reflectance as DN up to 10000 or as "
        "numbers from 0 to 1. Stretching for display cannot be undone.",
        "Use the original Sentinel-2 product.",
    )


def _suspicion(source: str, scale: float) -> str:
    shown = f"{_THRESHOLD / scale:g}"
    return (
        f"{source}: almost no value lies below {shown}, as if ESA's offset of {shown} were still in them. "
        "If so, give the option `offset` as -1000 (0 confirms that there is none)."
    )


def _check_option(option: Any) -> None:  # noqa: ANN401
    if isinstance(option, bool) or not isinstance(option, (int, float)) or not -10000 <= option <= 0:
        raise BadInputError(
            f"The option `offset` is {option!r}; wanted DN to add, from -10000 to 0, or auto.",
            "Give -1000 to take ESA's offset off, 0 for none.",
        )
