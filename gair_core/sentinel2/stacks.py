"""Which band is which in a file that holds a stack of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rasterio.io import DatasetReader

from gair_core.errors import BadInputError
from gair_core.sentinel2.bands import ALL_BANDS, BANDS, recognise_name
from gair_core.sentinel2.raster import Array, sample_stack

_SURFACE = tuple(name for name in ALL_BANDS if name != "B10")
_EUROSAT = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B8A")
_WITHOUT_B8A = tuple(name for name in ALL_BANDS if name != "B8A")

# B10 sees hardly more than cirrus: over land and water alike its median is a few DN.
_B10_MEDIAN = 50

NAMING_HINT = (
    "Name the bands by their numbers in the file, counted from 1: "
    "bands B2=..,B3=..,B4=..,B5=..,B6=..,B7=..,B8=..,B8A=..,B11=..,B12=.. ."
)


def described_names(descriptions: Sequence[str | None], path: str) -> dict[str, int]:
    """Return band numbers (from 1) by name, as far as the descriptions name bands.

    Raises:
        BadInputError: Two bands of the file carry the same name.
    """
    names = [recognise_name(text) for text in descriptions]
    repeated = [name for name, count in Counter(names).items() if name is not None and count > 1]
    if repeated:
        raise BadInputError(
            f"{path} holds {', '.join(repeated)} more than once in its {len(names)} bands, as a series of "
            "several dates does; wanted one date.",
            NAMING_HINT,
        )
    return {name: number for number, name in enumerate(names, start=1) if name is not None}


def unnamed_order(dataset: DatasetReader, stood_in: frozenset[str]) -> tuple[tuple[str, ...], str]:
    """Return the order of the bands of a stack without names, and a remark on how it was found.

    Args:
        dataset: The stack.
        stood_in: Bands that the user says are missing by naming another in their place.

    Raises:
        BadInputError: The order is ambiguous.
    """
    count = dataset.count
    if count == 10:
        return _order_of_ten(dataset), "ten bands without names were taken as " + " ".join(BANDS)
    if count == 11 and "B8A" in stood_in:
        order = tuple(name for name in _WITHOUT_B8A if name != "B10")
        return order, "eleven bands without names were taken as " + " ".join(order)
    if count == 12:
        return _order_of_twelve(dataset, stood_in)
    if count == 13:
        return _order_of_thirteen(dataset)
    raise BadInputError(
        f"{dataset.name} has {_plural(count)} without Sentinel-2 names; only 10, 12 or 13 bands without "
        "names have a usual order.",
        f"If only B8A and B10 are missing, let a band stand for B8A (bands B8A=8). {NAMING_HINT}"
        if count == 11
        else NAMING_HINT,
    )


def _order_of_ten(dataset: DatasetReader) -> tuple[str, ...]:
    median = _medians(dataset)
    # B8 in the fourth place stands far above B5 in the fifth wherever anything grows; B5 never does above B6.
    if median[3] > 1.5 * median[4]:
        raise BadInputError(
            f"{dataset.name} has ten bands without names, and the fourth (median {median[3]:.0f}) is much "
            f"brighter than the fifth (median {median[4]:.0f}): B8 may stand before the red-edge bands.",
            NAMING_HINT,
        )
    return BANDS


def _order_of_twelve(dataset: DatasetReader, stood_in: frozenset[str]) -> tuple[tuple[str, ...], str]:
    tenth = _medians(dataset)[9]
    if tenth >= _B10_MEDIAN:
        return _SURFACE, "twelve bands without names were taken as " + " ".join(_SURFACE)
    if "B8A" in stood_in:
        return _WITHOUT_B8A, "twelve bands without names were taken as " + " ".join(_WITHOUT_B8A)
    raise BadInputError(
        f"{dataset.name} has twelve bands without names, and the tenth has a median of {tenth:.0f}, which "
        f"looks like B10 (under {_B10_MEDIAN}): B8A seems to be missing.",
        f"Let a band stand for it (bands B8A=8), or name all: {NAMING_HINT}",
    )


def _order_of_thirteen(dataset: DatasetReader) -> tuple[tuple[str, ...], str]:
    median = _medians(dataset)
    tenth, eleventh = median[9], median[10]
    if min(tenth, eleventh) >= _B10_MEDIAN or tenth == eleventh:
        raise BadInputError(
            f"{dataset.name} has 13 bands without names, and neither the tenth (median {tenth:.0f}) nor the "
            f"eleventh (median {eleventh:.0f}) alone looks like B10 (under {_B10_MEDIAN}), "
            "so it is unknown where B8A stands.",
            NAMING_HINT,
        )
    if tenth < eleventh:
        return (
            _EUROSAT,
            "13 bands without names were taken as EuroSAT's, with B8A last, since band 10 looks like B10",
        )
    return ALL_BANDS, "13 bands without names were taken as B1 to B12, since band 11 looks like B10"


def _medians(dataset: DatasetReader) -> list[float]:
    """Return each band's median in DN, less 1000 where the whole sample carries that offset."""
    sample = sample_stack(dataset, range(1, dataset.count + 1)).astype(np.float64)
    used = sample[:, _has_data(sample, dataset)]
    if used.shape[1] == 0:
        raise BadInputError(f"{dataset.name} holds nothing but nodata.", "Choose another scene.")
    if np.issubdtype(np.dtype(dataset.dtypes[0]), np.floating) and np.quantile(used, 0.999) <= 2.5:
        used = used * 10000
    floor = 1000 if np.mean(used < 1000) < 0.001 else 0
    return [float(value) - floor for value in np.median(used, axis=1)]


def _has_data(sample: Array, dataset: DatasetReader) -> Array:
    empty = (sample == 0) | (sample == 65535) | ~np.isfinite(sample)
    if dataset.nodata is not None:
        empty |= sample == dataset.nodata
    return np.asarray(np.all(np.isfinite(sample), axis=0) & ~np.all(empty, axis=0))


def _plural(count: int) -> str:
    return "one band" if count == 1 else f"{count} bands"
