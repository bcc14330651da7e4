"""The best places of queries in a scene: peaks of their cosine on the lattice, refined to the pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gair_core.geo.grid import Grid, Window
from gair_core.inference.cosine import Channel, CosineHistograms, CosineSampler
from gair_core.inference.lattice import LatticeStrip

# Values per step: bounds memory beyond that of a strip at some 16 MB.
_STEP = 4 * 2**20
# A patch and its neighbours in reading order, and those to the right, below, and both.
_HERE = torch.arange(9)
_RIGHT = torch.tensor([1, 2, 2, 4, 5, 5, 7, 8, 8])
_BELOW = torch.tensor([3, 4, 5, 6, 7, 8, 6, 7, 8])
_BELOW_RIGHT = torch.tensor([4, 5, 5, 7, 8, 8, 7, 8, 8])


@dataclass(frozen=True)
class Peak:
    """A patch that is better than all others around it.

    Attributes:
        score: Cosine at the patch's centre.
        row: Its row in the scene's lattice.
        column: Its column.
        around: The products (`cosine.lattice_products`) of this query at the patch and its neighbours.
        left: First column of ``around``.
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


@dataclass(frozen=True)
class _Candidates:
    """Patches of queries, n entries each: query, cosine, and place in the scene's lattice."""

    query: Tensor
    score: Tensor
    row: Tensor
    column: Tensor

    def __getitem__(self, index: Tensor) -> _Candidates:
        return _Candidates(self.query[index], self.score[index], self.row[index], self.column[index])

    def parts(self, count: int) -> Iterator[_Candidates]:
        """Return them in order, at most so many at a time."""
        for index in torch.arange(len(self.query)).split(max(1, count)):
            yield self[index]


class PeakFinder:
    """Keeps each query's highest peaks while a scene passes by, strip by strip.

    A peak is a patch with data whose cosine no other patch of a window around it exceeds; of equal ones
    within half a window the first may stand for all.

    The highest of a window is also the highest of any block of half the window's size that holds it. So one
    pass over the cosines finds the highest of each block; only for those that can still be kept, few once
    some strips have passed, the window is looked at. Memory is that of a strip and the window's rows.

    Args:
        queries: The vectors t of length 1, shape (K, D).
        rim_weight: W_c, shape (D, 2).
        shape: Rows and columns of the scene's lattice.
        patch: Pixels of a patch.
        reach: Rows and columns of patches to each side of the window, at least 1.
        keep: Peaks to keep of each query.
    """

    def __init__(
        self,
        queries: Tensor,
        rim_weight: Tensor,
        *,
        shape: tuple[int, int],
        patch: int,
        reach: tuple[int, int],
        keep: int,
    ) -> None:
        self._queries = queries.detach().float().cpu()
        self._rim_weight = rim_weight.detach().cpu().double()
        self._shape, self._patch, self._reach, self._keep = shape, patch, reach, keep
        self._peaks: list[list[Peak]] = [[] for _ in queries]
        self._histograms = CosineHistograms(len(queries))
        # Cosines of the window's rows; vectors and validity of the neighbouring rows alone.
        self._cosines = torch.zeros(len(queries), 0, shape[1])
        self._vectors = torch.zeros(queries.shape[1], 0, shape[1])
        self._valid: npt.NDArray[np.bool_] | None = None
        self._cosines_top = self._vectors_top = 0
        self._next = 0

    def add(self, strip: LatticeStrip) -> None:
        """Take in the next rows of the scene's whole lattice, values (D, rows, columns)."""
        self._cosines = torch.cat([self._cosines, self._compare(strip)], dim=1)
        self._vectors = torch.cat([self._vectors, strip.values], dim=1)
        self._valid = strip.valid if self._valid is None else np.concatenate([self._valid, strip.valid])
        known = self._cosines_top + self._cosines.shape[1]
        ready = known if known == self._shape[0] else known - self._reach[0]
        if ready > self._next:
            self._insert(self._find(self._next, ready))
            self._next = ready
            self._forget()

    def peaks(self, query: int) -> list[Peak]:
        """Return a query's peaks after the last strip, the highest first."""
        return self._peaks[query]

    def percentile(self, query: int, score: float) -> float:
        """Return the share of the scene's patches with a lower cosine, 0 to 100."""
        return 100 * self._histograms.share_below(query, score)

    def _compare(self, strip: LatticeStrip) -> Tensor:
        """Return the cosines at a strip's patch centres, (K, rows, columns), -inf where there is no data."""
        valid = strip.patch_validity(self._patch).ravel()
        vectors = strip.values.flatten(1)
        cosines = torch.empty(len(self._queries), vectors.shape[1])
        for part in np.array_split(np.arange(vectors.shape[1]), 1 + cosines.numel() // _STEP):
            here = slice(int(part[0]), int(part[-1]) + 1) if len(part) else slice(0, 0)
            length = torch.linalg.vector_norm(vectors[:, here], dim=0).clamp_(min=1e-12)
            found = (self._queries @ vectors[:, here]).div_(length).clamp_(-1, 1)
            inside = torch.from_numpy(valid[here])
            self._histograms.add(found if inside.all() else found[:, inside])
            cosines[:, here] = found.masked_fill_(~inside, -torch.inf)
        return cosines.view(-1, *strip.values.shape[1:])

    def _find(self, start: int, stop: int) -> _Candidates:
        """Return the peaks of the rows [start, stop) that are higher than the lowest one kept."""
        cosines = self._cosines[:, start - self._cosines_top : stop - self._cosines_top]
        block = tuple(
            min(reach + 1, size) for reach, size in zip(self._reach, cosines.shape[1:], strict=True)
        )
        highest, index = F.max_pool2d(cosines, block, block, ceil_mode=True, return_indices=True)
        threshold = torch.tensor([self._threshold(query) for query in range(len(self._peaks))])
        chosen = highest > threshold[:, None, None]
        query, place = chosen.nonzero()[:, 0], index[chosen]
        row, column = start + place // self._shape[1], place % self._shape[1]
        candidates = _Candidates(query, highest[chosen], row, column)
        return candidates[self._exceeds_window(candidates)]

    def _exceeds_window(self, candidates: _Candidates) -> Tensor:
        """Return which candidates no cosine of the window around them exceeds, (n,)."""
        down, across = self._reach
        last_row = self._cosines_top + self._cosines.shape[1] - 1
        below, right = torch.arange(-down, down + 1), torch.arange(-across, across + 1)
        found = [torch.zeros(0, dtype=torch.bool)]
        for part in candidates.parts(_STEP // (len(below) * len(right))):
            rows = (part.row[:, None] + below).clamp_(self._cosines_top, last_row) - self._cosines_top
            columns = (part.column[:, None] + right).clamp_(0, self._shape[1] - 1)
            window = self._cosines[part.query[:, None, None], rows[:, :, None], columns[:, None]]
            found.append(window.amax((1, 2)) <= part.score)
        return torch.cat(found)

    def _threshold(self, query: int) -> float:
        peaks = self._peaks[query]
        return peaks[-1].score if len(peaks) == self._keep else float("-inf")

    def _insert(self, candidates: _Candidates) -> None:
        """Keep the best of the peaks so far and new ones."""
        # Highest first, and of equal ones the upper left: those that stay need their surroundings.
        order = torch.argsort(candidates.score, descending=True, stable=True)
        order = order[torch.argsort(candidates.query[order], stable=True)]
        counts = torch.bincount(candidates.query, minlength=len(self._peaks))
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        changed = set()
        for part in candidates[order[rank < self._keep]].parts(_STEP // (9 * len(self._vectors))):
            for peak, query in zip(self._described(part), part.query.tolist(), strict=True):
                self._peaks[query].append(peak)
                changed.add(query)
        for query in changed:
            self._peaks[query] = sorted(self._peaks[query], key=lambda peak: -peak.score)[: self._keep]

    def _described(self, candidates: _Candidates) -> Iterator[Peak]:
        """Return candidates with the products and the validity around them."""
        if self._valid is None:
            raise RuntimeError("a peak before the first strip")
        products = self._products(candidates)
        places = zip(
            candidates.score.tolist(), candidates.row.tolist(), candidates.column.tolist(), strict=True
        )
        for number, (score, row, column) in enumerate(places):
            top, left = max(row - 1, 0), max(column - 1, 0)
            stop, right = min(row + 2, self._shape[0]), min(column + 2, self._shape[1])
            values = products[
                number, :, top - row + 1 : stop - row + 1, left - column + 1 : right - column + 1
            ]
            first = (top - self._vectors_top) * self._patch
            rows, columns = (
                slice(first, first + (stop - top) * self._patch),
                slice(left * self._patch, right * self._patch),
            )
            around = LatticeStrip(top, values.clone(), self._valid[rows, columns].copy())
            yield Peak(score, row, column, around, left)

    def _products(self, candidates: _Candidates) -> Tensor:
        """Return the products at candidates and their neighbours, (n, channels, 3, 3), float64.

        Beyond the scene stands its outermost row or column once more; products with what lies beyond the
        neighbours are meaningless.
        """
        offsets = torch.arange(-1, 2)
        rows = (candidates.row[:, None] + offsets).clamp_(0, self._shape[0] - 1) - self._vectors_top
        columns = (candidates.column[:, None] + offsets).clamp_(0, self._shape[1] - 1)
        around = self._vectors[:, rows[:, :, None], columns[:, None]]
        vectors = around.flatten(2).permute(1, 2, 0).double()  # (n, 9, D)
        gram = vectors @ vectors.mT
        here, right, below, below_right = _HERE, _RIGHT, _BELOW, _BELOW_RIGHT
        products = torch.stack(
            [
                gram[:, here, here],
                gram[:, here, right],
                gram[:, here, below],
                gram[:, here, below_right] + gram[:, right, below],
            ],
            dim=1,
        )
        queries = self._queries[candidates.query].double()[:, :, None]
        linear = torch.cat([vectors @ self._rim_weight, vectors @ queries], dim=2).mT
        return torch.cat([products, linear], dim=1).view(-1, len(Channel) + 1, 3, 3)

    def _forget(self) -> None:
        """Drop the rows that no later peak needs."""
        first = max(self._next - self._reach[0], 0)
        self._cosines = self._cosines[:, first - self._cosines_top :].clone()
        self._cosines_top = first
        first = max(self._next - 1, 0)
        self._vectors = self._vectors[:, first - self._vectors_top :].clone()
        if self._valid is not None:
            self._valid = self._valid[(first - self._vectors_top) * self._patch :].copy()
        self._vectors_top = first


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
