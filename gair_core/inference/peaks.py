"""The best places of queries in a scene: peaks of their cosine on the lattice, refined to the pixel."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gair_core.geo.grid import Grid, Window
from gair_core.inference.cosine import Channel, CosineSampler, patch_validity
from gair_core.inference.lattice import LatticeStrip

# Resolution of the percentiles: cosines are counted in so many bins over [-1, 1].
_BINS = 32768


@dataclass(frozen=True)
class Peak:
    """A patch that is better than all others around it.

    Attributes:
        score: Cosine at the patch's centre.
        row: Its row in the scene's lattice.
        column: Its column.
        around: The products (`cosine.lattice_products`) of this query at the patch and its neighbours.
    """

    score: float
    row: int
    column: int
    around: LatticeStrip
    left: int


@dataclass(frozen=True)
class Place:
    """A pixel of the scene's own grid.

    Attributes:
        score: Exact cosine at the pixel's centre, in [-1, 1].
        row: Its row.
        column: Its column.
    """

    score: float
    row: int
    column: int


class PeakFinder:
    """Keeps each query's highest peaks while a scene passes by, strip by strip.

    A peak is a patch with data whose cosine no other patch of a window around it exceeds. Memory is that of a
    strip and the window's rows, and of the peaks that are kept.

    Args:
        queries: Number K of queries.
        shape: Rows and columns of the scene's lattice.
        patch: Pixels of a patch.
        reach: Rows and columns of patches to each side of the window, at least 1.
        keep: Peaks to keep of each query.
    """

    def __init__(
        self, queries: int, shape: tuple[int, int], patch: int, reach: tuple[int, int], keep: int
    ) -> None:
        self._shape, self._patch, self._reach, self._keep = shape, patch, reach, keep
        self.peaks: list[list[Peak]] = [[] for _ in range(queries)]
        self._histogram = np.zeros((queries, _BINS), np.int64)
        self._products = torch.zeros(len(Channel) + queries, 0, shape[1], dtype=torch.float64)
        self._cosines = torch.zeros(queries, 0, shape[1])
        self._valid: npt.NDArray[np.bool_] | None = None
        self._top = 0
        self._next = 0

    def add(self, strip: LatticeStrip) -> None:
        """Take in the next rows of the scene's whole lattice, from `cosine.lattice_products`."""
        cosines = self._compare(strip)
        self._products = torch.cat([self._products, strip.values], dim=1)
        self._cosines = torch.cat([self._cosines, cosines], dim=1)
        self._valid = strip.valid if self._valid is None else np.concatenate([self._valid, strip.valid])
        known = self._top + self._cosines.shape[1]
        ready = known if known == self._shape[0] else known - self._reach[0]
        if ready > self._next:
            self._find(self._next, ready)
            self._next = ready
            self._forget(max(ready - self._reach[0], 0))

    def percentile(self, query: int, score: float) -> float:
        """Return the share of the scene's patches with a lower cosine, 0 to 100."""
        histogram = self._histogram[query]
        return float(100 * histogram[: _bins(np.array(score))].sum() / max(histogram.sum(), 1))

    def _compare(self, strip: LatticeStrip) -> Tensor:
        """Return the cosines at the patch centres of a strip, -inf where there is no data."""
        length = strip.values[Channel.SELF].clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        cosines = (strip.values[len(Channel) :] / length).clamp(-1, 1).float()
        valid = patch_validity(strip.valid, (cosines.shape[1], cosines.shape[2]), self._patch)
        for query, values in enumerate(cosines.numpy()):
            self._histogram[query] += np.bincount(_bins(values[valid]), minlength=_BINS)
        return cosines.masked_fill(torch.from_numpy(~valid), -torch.inf)

    def _find(self, start: int, stop: int) -> None:
        """Look for peaks in the rows [start, stop)."""
        rows = slice(start - self._top, stop - self._top)
        down, across = self._reach
        highest = F.max_pool2d(self._cosines, (2 * down + 1, 1), 1, (down, 0))[:, rows]
        highest = F.max_pool2d(highest, (1, 2 * across + 1), 1, (0, across))
        cosines = self._cosines[:, rows]
        threshold = torch.tensor([self._threshold(peaks) for peaks in self.peaks])
        is_peak = (cosines == highest) & (cosines > threshold[:, None, None])
        for query, row, column in is_peak.nonzero().tolist():
            self._insert(query, float(cosines[query, row, column]), start + row, column)

    def _threshold(self, peaks: list[Peak]) -> float:
        return peaks[-1].score if len(peaks) == self._keep else float("-inf")

    def _insert(self, query: int, score: float, row: int, column: int) -> None:
        peaks = self.peaks[query]
        if score <= self._threshold(peaks):
            return
        around, left = self._neighbourhood(query, row, column)
        bisect.insort(peaks, Peak(score, row, column, around, left), key=lambda peak: -peak.score)
        del peaks[self._keep :]

    def _neighbourhood(self, query: int, row: int, column: int) -> tuple[LatticeStrip, int]:
        """Cut out a patch and its neighbours, and return the first column, too."""
        if self._valid is None:
            raise RuntimeError("a peak before the first strip")
        top, left = max(row - 1, 0), max(column - 1, 0)
        rows, columns = slice(top - self._top, row + 2 - self._top), slice(left, column + 2)
        channels = [*Channel, len(Channel) + query]
        pixels = self._valid[
            rows.start * self._patch : rows.stop * self._patch,
            left * self._patch : (column + 2) * self._patch,
        ]
        return LatticeStrip(top, self._products[channels][:, rows, columns].clone(), pixels.copy()), left

    def _forget(self, row: int) -> None:
        rows = row - self._top
        self._products, self._cosines = self._products[:, rows:].clone(), self._cosines[:, rows:].clone()
        self._valid = None if self._valid is None else self._valid[rows * self._patch :].copy()
        self._top = row


def refine(
    peak: Peak, *, native: Grid, model: Grid, patch: int, query: Tensor, rim_weight: Tensor
) -> Place | None:
    """Find the best pixel within one patch's distance of a peak, by exact cosines.

    Args:
        peak: The peak.
        native: The scene's own grid.
        model: The scene's grid at the model's ground sampling distance.
        patch: Pixels of a patch.
        query: The query t of length 1, shape (D,).
        rim_weight: W_c, shape (D, 2).

    Returns:
        The pixel, or None where no pixel there has data.
    """
    between = ~model.transform * native.transform
    rows = _near(between.e, patch, peak.row, native.height)
    columns = _near(between.a, patch, peak.column, native.width)
    window = Window(rows.start, columns.start, len(rows), len(columns))
    if not (len(rows) and len(columns)):
        return None
    sampler = CosineSampler(native, model, patch, window, queries=query[None], rim_weight=rim_weight)
    needed = sampler.lattice_window
    top, left = needed.row - peak.around.row, needed.col - peak.left
    values = peak.around.values[:, top : top + needed.height, left : left + needed.width]
    valid = peak.around.valid[
        top * patch : (top + needed.height) * patch, left * patch : (left + needed.width) * patch
    ]
    best: Place | None = None
    for strip in sampler.sample(iter([LatticeStrip(needed.row, values, valid)])):
        cosines = np.where(strip.valid, strip.values[0].numpy(), -np.inf)
        row, column = np.unravel_index(int(cosines.argmax()), cosines.shape)
        score = float(cosines[row, column])
        if np.isfinite(score) and (best is None or score > best.score):
            best = Place(score, window.row + strip.row + int(row), window.col + int(column))
    return best


def _near(scale: float, patch: int, place: int, count: int) -> range:
    """Return the pixels whose centres lie less than one patch from the centre of a patch."""
    centre = (np.arange(count) + 0.5) * scale / patch - 0.5
    start = int(np.searchsorted(centre, place - 1, "right"))
    return range(start, int(np.searchsorted(centre, place + 1, "left")))


def _bins(cosines: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    return np.asarray(np.clip((cosines + 1) * (_BINS / 2), 0, _BINS - 1), np.int64)
