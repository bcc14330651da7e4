"""Separable resampling whose result for a window is, to the last bit, a part of the result for the whole.

Every output pixel is a sum over its own few inputs in a fixed order. A matrix product would be shorter,
but its order of summation depends on the matrix's shape, hence on the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_ROUNDING = 1e-9  # of an input pixel: overlaps below it are rounding errors


@dataclass(frozen=True)
class Taps:
    """Which inputs make each output pixel along one axis.

    Attributes:
        start: First input pixel that is needed.
        stop: The input pixel after the last.
        index: Input pixels relative to ``start``, (outputs, taps).
        weight: Their weights, (outputs, taps); each row sums to 1.
    """

    start: int
    stop: int
    index: npt.NDArray[np.intp]
    weight: Float64Array


def axis_taps(inputs: int, outputs: int, start: int, count: int) -> Taps:
    """Return the taps for outputs ``start`` to ``start + count`` of an axis.

    Fewer outputs than inputs take the mean over the area that each covers, more take the bilinear
    interpolation between input centres, clamped at the ends.

    Args:
        inputs: Pixels of the whole input axis.
        outputs: Pixels of the whole output axis, over the same extent.
        start: First output pixel wanted.
        count: Number of output pixels wanted.
    """
    positions = np.arange(start, start + count, dtype=np.float64)
    if outputs < inputs:
        index, weight = _area(positions, inputs, outputs)
    elif outputs > inputs:
        index, weight = _linear(positions, inputs, outputs)
    else:
        index, weight = positions.astype(np.intp)[:, None], np.ones((count, 1))
    first, last = int(index.min()), int(index.max())
    return Taps(first, last + 1, index - first, weight)


def resample(
    values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], rows: Taps, cols: Taps
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Resample bands, each output the weighted mean of its valid inputs.

    Args:
        values: Bands of shape (C, rows.stop - rows.start, cols.stop - cols.start).
        valid: Which pixels are data, of shape (height, width) of ``values``.
        rows: Taps along the first spatial axis.
        cols: Taps along the second.

    Returns:
        float32 values (C, outputs, outputs), 0 where not valid, and where at least half of the weight
        of the inputs is valid.
    """
    share = _apply(_apply(valid.astype(np.float64), cols, axis=-1), rows, axis=-2)
    good = share >= 0.5 - _ROUNDING  # an exact half counts, whichever way it was rounded
    divisor = np.where(good, share, 1.0)
    out = np.empty((len(values), *share.shape), dtype=np.float32)
    for band, band_values in enumerate(values):
        weighted = np.where(valid, band_values, 0.0).astype(np.float64)
        total = _apply(_apply(weighted, cols, axis=-1), rows, axis=-2)
        out[band] = np.where(good, total / divisor, 0.0)
    return out, good


def _area(positions: Float64Array, inputs: int, outputs: int) -> tuple[npt.NDArray[np.intp], Float64Array]:
    scale = inputs / outputs
    left, right = positions * scale, (positions + 1) * scale
    taps = int(np.ceil(scale)) + 1
    index = np.floor(left + _ROUNDING).astype(np.intp)[:, None] + np.arange(taps)
    overlap = np.minimum(right[:, None], index + 1) - np.maximum(left[:, None], index)
    overlap[overlap < _ROUNDING] = 0
    # Taps beyond the input have no overlap; their index only has to be one that exists.
    return np.minimum(index, inputs - 1), overlap / _row_sums(overlap)


def _linear(positions: Float64Array, inputs: int, outputs: int) -> tuple[npt.NDArray[np.intp], Float64Array]:
    centre = np.clip((positions + 0.5) * (inputs / outputs) - 0.5, 0, inputs - 1)
    low = np.minimum(np.floor(centre), max(inputs - 2, 0))
    part = centre - low
    index = np.minimum(low.astype(np.intp)[:, None] + np.arange(2), inputs - 1)
    return index, np.stack([1 - part, part], axis=1)


def _row_sums(weights: Float64Array) -> Float64Array:
    total = np.zeros((len(weights), 1))
    for tap in range(weights.shape[1]):
        total[:, 0] += weights[:, tap]
    return total


def _apply(values: Float64Array, taps: Taps, axis: int) -> Float64Array:
    shape = (-1, 1) if axis == -2 else (1, -1)
    total: Float64Array | None = None
    for tap in range(taps.weight.shape[1]):
        part = np.take(values, taps.index[:, tap], axis=axis) * taps.weight[:, tap].reshape(shape)
        total = part if total is None else total + part
    return values if total is None else total
