"""Cosines of query vectors with every embedding of a scene, without the embeddings.

For H = one Linear, z(q) = sum_k w_k G_k + W_c d (`gair_core.model.nili`), where the w_k are the bilinear
weights of the four lattice vectors around q and d is non-zero only in the outer half-patch rim. So for a
query t of length 1

    cos(t, z) = (sum_k w_k (t.G_k) + t.W_c d) / |z|
    |z|^2 = w' M w + 2 d' sum_k w_k (W_c' G_k) + d' W_c' W_c d        M: products of the four vectors

and everything in it is a channel of the lattice, at 1/64 of the pixels: six that all queries share and one
more for each query. w' M w separates: the squared length after blending along y, and the product with the
right neighbour after it, are all that the blend along x needs; and the two diagonals of a cell have the same
weight, so that their sum is enough.

Where the four vectors nearly cancel, w' M w is a small difference of large numbers. Products are therefore
formed in float64, which resolves |z| down to where float32 embeddings have no direction any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gair_core.geo.grid import Grid, Window
from gair_core.inference.lattice import LatticeStrip, PixelSampler, PixelStrip
from gair_core.inference.tiling import LatticeWindow
from gair_core.model.nili import locate

# A vector shorter than sqrt(2e-13), some float32 roundings, of its neighbours has no direction.
_FLOOR = 1e-13


class Channel(IntEnum):
    """The channels that all queries share; the queries' own follow them.

    G is the lattice vector at a patch. Beyond the last row and column neighbours are clamped.
    """

    SELF = 0
    """G.G"""
    RIGHT = 1
    """G.G(right)"""
    BELOW = 2
    """G.G(below)"""
    DIAGONALS = 3
    """G.G(below right) + G(right).G(below)"""
    RIM_X = 4
    """G.W_c, column x"""
    RIM_Y = 5
    """G.W_c, column y"""


def lattice_products(
    strips: Iterator[LatticeStrip], queries: Tensor, rim_weight: Tensor, patch: int
) -> Iterator[LatticeStrip]:
    """Turn strips of lattice vectors into strips of their inner products.

    Args:
        strips: Consecutive strips of a lattice G, values (D, rows, columns).
        queries: The vectors t, shape (K, D).
        rim_weight: W_c, shape (D, 2).
        patch: Pixels of a patch, for the validity of rows that are held back.

    Yields:
        The same rows with values (6 + K, rows, columns), float64: `Channel`, then t.G of each query.
    """
    linear = torch.cat([rim_weight.mT, queries]).detach().cpu().double()
    return products_by_row(
        ((strip,) for strip in strips),
        lambda row, below: torch.cat([neighbour_products(row[0], row[0], below[0]), linear @ row[0]]),
        patch,
    )


def products_by_row(
    strips: Iterator[tuple[LatticeStrip, ...]], products: Callable[[Tensor, Tensor], Tensor], patch: int
) -> Iterator[LatticeStrip]:
    """Turn strips of lattice vectors into strips of products of each row with the one below it.

    A row needs the one below it, so the last row of each strip comes with the next one.

    Args:
        strips: Consecutive strips of one or more (S) lattices, values (D, rows, columns), with the same rows.
        products: Turns a row (S, D, columns) and the one below it, float64, into channels (C, columns).
        patch: Pixels of a patch, for the validity of rows that are held back.

    Yields:
        The same rows with values (C, rows, columns), valid where all lattices are.
    """
    held: Tensor | None = None
    valid: npt.NDArray[np.bool_] | None = None
    first = 0
    for together in strips:
        both = np.logical_and.reduce([strip.valid for strip in together])
        if valid is None:
            valid, first = both, together[0].row
        else:
            valid = np.concatenate([valid, both])
        finished = []
        # Row by row: the whole strip in float64 would double its memory.
        for rows in zip(*(strip.values.unbind(1) for strip in together), strict=True):
            current = torch.stack([row.double() for row in rows])
            if held is not None:
                finished.append(products(held, current))
            held = current
        if finished:
            pixels = len(finished) * patch
            yield LatticeStrip(first, torch.stack(finished, 1), valid[:pixels])
            valid, first = valid[pixels:], first + len(finished)
    if held is not None and valid is not None:
        yield LatticeStrip(first, products(held, held)[:, None], valid)


def neighbour_products(row: Tensor, other: Tensor, other_below: Tensor) -> Tensor:
    """Return the first four of `Channel` of a row of vectors with those of another lattice, or of its own.

    Args:
        row: A row of a lattice, shape (D, columns).
        other: The same row of the other lattice, which gives the neighbours, (D, columns).
        other_below: The row below that one.

    Returns:
        Shape (4, columns).
    """
    right, other_right, other_below_right = (
        torch.cat([vectors[:, 1:], vectors[:, -1:]], dim=1) for vectors in (row, other, other_below)
    )
    return torch.stack(
        [
            (row * other).sum(0),
            (row * other_right).sum(0),
            (row * other_below).sum(0),
            (row * other_below_right).sum(0) + (right * other_below).sum(0),
        ]
    )


def crop_columns(strip: LatticeStrip, first: int, window: LatticeWindow, patch: int) -> LatticeStrip:
    """Return the columns of a window of the lattice out of strips that begin at column ``first``."""
    left, right = window.col - first, window.col_stop - first
    return LatticeStrip(
        strip.row, strip.values[..., left:right], strip.valid[:, left * patch : right * patch]
    )


class ProductSampler(PixelSampler):
    """Base of what is computed at each pixel from the products of a lattice.

    Args:
        output: The whole scene's output grid; same origin and directions as ``model``.
        model: The scene's grid at the model's ground sampling distance.
        patch: Pixels of a patch.
        window: Pixels of the output that are wanted.
        rim_weight: W_c, shape (D, 2).
        queries: The vectors t, shape (K, D), that have channels of their own.
    """

    def __init__(
        self, output: Grid, model: Grid, patch: int, window: Window, *, rim_weight: Tensor, queries: Tensor
    ) -> None:
        wide = rim_weight.detach().cpu().double()
        super().__init__(output, model, patch, window, queries.detach().cpu().double() @ wide)
        self._constants = wide.mT @ wide

    def _under(self, valid: npt.NDArray[np.bool_], top: int, rows: slice) -> npt.NDArray[np.bool_]:
        """Return the validity of the pixels of some rows."""
        rows_under = self._rows.pixel[rows] - top * self._cell
        columns_under = self._columns.pixel - self.lattice_window.col * self._cell
        under: npt.NDArray[np.bool_] = valid[np.ix_(rows_under, columns_under)]
        return under

    def _products(self, values: Tensor, top: int, rows: slice) -> tuple[Tensor, Tensor]:
        """Return z.z at the pixels of some rows, given the channels of `Channel`, and its resolution.

        Both have the shape (rows, columns); the resolution is positive, and below it the product is only
        what rounding left.
        """
        r, c, left = self._rows, self._columns, self.lattice_window.col
        lower, upper = (torch.from_numpy(index[rows] - top) for index in (r.lower, r.upper))
        fy = torch.from_numpy(r.fraction[rows]).double()[:, None]
        # Along y: products of the blended vectors with themselves, and with their right neighbours.
        length = (
            (1 - fy) ** 2 * values[Channel.SELF, lower]
            + fy**2 * values[Channel.SELF, upper]
            + 2 * fy * (1 - fy) * values[Channel.BELOW, lower]
        )
        product = (
            (1 - fy) ** 2 * values[Channel.RIGHT, lower]
            + fy**2 * values[Channel.RIGHT, upper]
            + fy * (1 - fy) * values[Channel.DIAGONALS, lower]
        )
        # Along x.
        before, behind = (torch.from_numpy(index - left) for index in (c.lower, c.upper))
        fx = torch.from_numpy(c.fraction).double()
        first, second = length[:, before], length[:, behind]
        resolution = (first + second).mul_(_FLOOR).clamp_(min=torch.finfo(torch.float64).tiny)
        squared = first.mul_((1 - fx) ** 2).add_(second.mul_(fx**2))
        squared.addcmul_(product[:, before], 2 * fx * (1 - fx))
        self._add_rim_length(squared, values, top, rows)
        return squared, resolution

    def _squared_length(self, values: Tensor, top: int, rows: slice) -> Tensor:
        """Return |z|^2 at the pixels of some rows, shape (rows, columns), bounded away from 0."""
        return torch.maximum(*self._products(values, top, rows))

    def _add_rim_length(self, squared: Tensor, values: Tensor, top: int, rows: slice) -> None:
        """Add 2 d'(W_c' G)(q) + d' W_c' W_c d where the offset d is not 0."""
        dx, dy = self._columns.rim.astype(np.float64), self._rows.rim[rows].astype(np.float64)
        (x,), (y,) = np.nonzero(dx), np.nonzero(dy)
        every_row, every_column = np.arange(len(dy)), np.arange(len(dx))
        along_x, along_y = torch.from_numpy(dx[x]), torch.from_numpy(dy[y])[:, None]
        if len(x):
            local = self._at(values[Channel.RIM_X], top, rows, every_row, x)
            squared[:, x] += 2 * along_x * local + along_x**2 * self._constants[0, 0]
        if len(y):
            local = self._at(values[Channel.RIM_Y], top, rows, y, every_column)
            squared[y] += 2 * along_y * local + along_y**2 * self._constants[1, 1]
        if len(x) and len(y):
            squared[np.ix_(y, x)] += 2 * along_x * along_y * self._constants[0, 1]

    def _at(
        self,
        channels: Tensor,
        top: int,
        rows: slice,
        y: npt.NDArray[np.int64],
        x: npt.NDArray[np.int64],
    ) -> Tensor:
        """Interpolate channels (..., rows, columns) at rows ``y`` of ``rows`` and columns ``x``."""
        r, c, left = self._rows, self._columns, self.lattice_window.col
        fy = torch.from_numpy(r.fraction[rows][y]).double()[:, None]
        fx = torch.from_numpy(c.fraction[x]).double()
        lower, upper = (torch.from_numpy(index[rows][y] - top) for index in (r.lower, r.upper))
        blended = torch.lerp(channels[..., lower, :], channels[..., upper, :], fy)
        before, behind = (torch.from_numpy(index[x] - left) for index in (c.lower, c.upper))
        return torch.lerp(blended[..., before], blended[..., behind], fx)


class CosineSampler(ProductSampler):
    """Cosines of queries with the embedding at each pixel, from strips of `lattice_products`.

    Its queries are of length 1; the mean of several gives the mean of their cosines.
    """

    def _render(self, values: Tensor, valid: npt.NDArray[np.bool_], top: int, rows: slice) -> PixelStrip:
        every_row, every_column = np.arange(rows.stop - rows.start), np.arange(len(self._columns.lower))
        dots = self._at(values[len(Channel) :], top, rows, every_row, every_column)
        self._add_rim(dots, rows)
        cosines = dots.div_(self._squared_length(values, top, rows).sqrt_()).clamp_(-1, 1).float()
        return PixelStrip(rows.start, cosines, self._under(valid, top, rows))


class ProductStore:
    """Keeps the products of a lattice under several windows, one a query, that overlap and end in any order.

    The shared channels are kept once for the rectangle around all windows, 48 bytes a patch, and the
    channel of each query in its window, 8 bytes a patch.

    Args:
        windows: One for each query, in the queries' order.
        patch: Pixels of a patch.
    """

    def __init__(self, windows: Sequence[LatticeWindow], patch: int) -> None:
        self._windows = windows
        self._patch = patch
        self.hull = hull_of(windows)
        self._shared = torch.zeros(len(Channel), self.hull.height, self.hull.width, dtype=torch.float64)
        self._own = [torch.zeros(window.height, window.width, dtype=torch.float64) for window in windows]
        self._valid = np.zeros((self.hull.height * patch, self.hull.width * patch), np.bool_)

    def add(self, strip: LatticeStrip) -> None:
        """Keep what lies in the windows, of a strip of products cropped to the columns of `hull`."""
        start, stop = (
            max(strip.row, self.hull.row),
            min(strip.row + strip.values.shape[1], self.hull.row_stop),
        )
        if start >= stop:
            return
        local = slice(start - strip.row, stop - strip.row)
        self._shared[:, start - self.hull.row : stop - self.hull.row] = strip.values[: len(Channel), local]
        valid = strip.valid[local.start * self._patch : local.stop * self._patch]
        top = (start - self.hull.row) * self._patch
        self._valid[top : top + len(valid), : valid.shape[1]] = valid
        for index, (window, own) in enumerate(zip(self._windows, self._own, strict=True)):
            first, last = max(start, window.row), min(stop, window.row_stop)
            if first < last:
                columns = slice(window.col - self.hull.col, window.col_stop - self.hull.col)
                values = strip.values[len(Channel) + index, first - strip.row : last - strip.row, columns]
                own[first - window.row : last - window.row] = values

    def strip(self, index: int) -> LatticeStrip:
        """Return all rows of a query's window: the shared channels and its own."""
        window, hull, patch = self._windows[index], self.hull, self._patch
        rows = slice(window.row - hull.row, window.row_stop - hull.row)
        columns = slice(window.col - hull.col, window.col_stop - hull.col)
        values = torch.cat([self._shared[:, rows, columns], self._own[index][None]])
        valid = self._valid[
            rows.start * patch : rows.stop * patch, columns.start * patch : columns.stop * patch
        ]
        return LatticeStrip(window.row, values, valid)


def hull_of(windows: Sequence[LatticeWindow]) -> LatticeWindow:
    """Return the rectangle around some windows."""
    return LatticeWindow(
        min(window.row for window in windows),
        max(window.row_stop for window in windows),
        min(window.col for window in windows),
        max(window.col_stop for window in windows),
    )


@dataclass(frozen=True)
class QueryScores:
    """How queries with a place of their own fare in a scene, N entries each.

    Attributes:
        own: Cosine with the embedding at the query's own place; NaN where the scene has no data there.
        percentile: Share of the scene's patches whose cosine is lower than `own`, 0 to 100, or NaN.
        best: Cosine with the best patch.
        best_row: Row of the best patch in the scene's lattice.
        best_column: Its column.
    """

    own: npt.NDArray[np.float64]
    percentile: npt.NDArray[np.float64]
    best: npt.NDArray[np.float64]
    best_row: npt.NDArray[np.int64]
    best_column: npt.NDArray[np.int64]


class CosineHistograms:
    """Distributions of cosines in 32,768 bins over [-1, 1], 128 KB each whatever their number.

    Args:
        count: Number N of distributions.
    """

    BINS = 32768

    def __init__(self, count: int) -> None:
        self._counts = np.zeros((count, self.BINS), np.int32)

    def add(self, cosines: Tensor) -> None:
        """Take in as many cosines of each, shape (N, n)."""
        if cosines.shape[1] == 0:
            return
        bins = cosines.add(1).mul_(self.BINS / 2).clamp_(0, self.BINS - 1).int().numpy()
        for counts, row in zip(self._counts, bins, strict=True):
            # One distribution at a time: its bins stay in the processor's cache.
            low, high = row.min(), row.max() + 1
            counts[low:high] += np.bincount(row - low, minlength=high - low).astype(np.int32)

    def share_below(self, number: int, cosine: float) -> float:
        """Return the share of a distribution below a cosine, 0 to 1, interpolated within its bin."""
        counts = self._counts[number]
        position = min(max((cosine + 1) * (self.BINS / 2), 0.0), float(self.BINS))
        index = min(int(position), self.BINS - 1)
        below = float(counts[:index].sum()) + (position - index) * float(counts[index])
        return below / max(int(counts.sum()), 1)


class SceneScores:
    """Compares queries with all patch centres of a scene, strip by strip.

    The distribution of each query's cosines is kept as a histogram: percentiles are exact up to the patches
    whose cosine is within 0.00006 of the query's own, among which they are interpolated.

    Args:
        queries: Vectors of length 1, shape (N, D).
        uv: The queries' places in the lattice's rectangle, shape (N, 2), in [0, 1], v down.
        shape: Rows and columns of the scene's lattice.
        rim_weight: W_c, shape (D, 2).
        patch: Pixels of a patch.
    """

    # Values per step, vectors and cosines: bounds memory at some 16 MB.
    _STEP = 4 * 2**20

    def __init__(
        self,
        queries: Tensor,
        uv: npt.NDArray[np.float64],
        shape: tuple[int, int],
        rim_weight: Tensor,
        patch: int,
    ) -> None:
        rows, columns = shape
        self._queries = queries.detach().float().cpu()
        self._rim_weight = rim_weight.detach().float().cpu()
        self._shape = shape
        self._patch = patch
        cell = locate(torch.from_numpy(uv), rows, columns)
        self._rim = cell.rim
        self._weights = _corner_weights(cell.fraction)
        x, y = cell.corner.unbind(-1)
        right, below = (x + 1).clamp(max=columns - 1), (y + 1).clamp(max=rows - 1)
        self._corner_rows = torch.stack([y, y, below, below], -1)
        self._corner_columns = torch.stack([x, right, x, right], -1)
        # The far edges of the scene belong to its last pixels.
        self._pixel = np.minimum(
            uv * np.array([columns, rows]) * patch, np.array([columns, rows]) * patch - 1
        )
        self._has_data = np.zeros(len(uv), np.bool_)
        self._corners = torch.zeros(*self._corner_rows.shape, self._queries.shape[1])
        count = len(self._queries)
        self._histograms = CosineHistograms(count)
        self._best = torch.full((count,), -torch.inf)
        self._best_index = torch.zeros(count, dtype=torch.int64)
        self.patches = 0

    def add(self, strip: LatticeStrip) -> None:
        """Take in rows of the scene's whole lattice, values (D, rows, columns)."""
        self._keep_corners(strip)
        self._look_up_validity(strip)
        (inside,) = np.nonzero(strip.patch_validity(self._patch).ravel())
        self.patches += len(inside)
        vectors = strip.values.flatten(1)
        indices = torch.from_numpy(inside)
        for part in indices.split(max(1, self._STEP // sum(self._queries.shape))):
            chosen = vectors[:, part]
            length = torch.linalg.vector_norm(chosen, dim=0).clamp_(min=1e-12)
            self._compare((self._queries @ chosen).div_(length), part + strip.row * self._shape[1])

    def result(self) -> QueryScores:
        """Return the scores after the last strip."""
        local = torch.einsum("nk,nkd->nd", self._weights, self._corners.double())
        local += self._rim @ self._rim_weight.double().mT
        own = torch.nn.functional.cosine_similarity(self._queries.double(), local, dim=-1).numpy()
        own = np.where(self._has_data, own, np.nan)
        rows, columns = np.divmod(self._best_index.numpy(), self._shape[1])
        best = self._best.double().numpy()
        return QueryScores(own, self._percentile(own), best, rows, columns)

    def _keep_corners(self, strip: LatticeStrip) -> None:
        """Copy the lattice vectors around the queries' places."""
        row = self._corner_rows - strip.row
        here = (row >= 0) & (row < strip.values.shape[1])
        self._corners[here] = strip.values[:, row[here], self._corner_columns[here]].mT

    def _look_up_validity(self, strip: LatticeStrip) -> None:
        column, row = self._pixel.astype(np.int64).T
        local = row - strip.row * self._patch
        here = (local >= 0) & (local < strip.valid.shape[0]) & (column < strip.valid.shape[1])
        self._has_data[here] = strip.valid[local[here], column[here]]

    def _compare(self, cosines: Tensor, indices: Tensor) -> None:
        """Take in cosines (N, n) with the patches of these indices."""
        highest, place = cosines.max(dim=1)
        better = highest > self._best
        self._best = torch.where(better, highest, self._best)
        self._best_index = torch.where(better, indices[place], self._best_index)
        self._histograms.add(cosines)

    def _percentile(self, own: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        shares = [
            self._histograms.share_below(query, cosine) if np.isfinite(cosine) else np.nan
            for query, cosine in enumerate(own.tolist())
        ]
        return 100 * np.array(shares)


def _corner_weights(fraction: Tensor) -> Tensor:
    """Return the bilinear weights (N, 4) of upper left, upper right, lower left and lower right."""
    fx, fy = fraction.unbind(-1)
    return torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], -1)
