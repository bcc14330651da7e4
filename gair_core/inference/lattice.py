"""From encoded tiles to a blended lattice, and from the lattice to pixels, one strip at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gair_core.geo.grid import Grid, Window
from gair_core.inference.tiling import LatticeWindow, TilePlan


@dataclass(frozen=True)
class LatticeStrip:
    """Finished rows of a scene's blended lattice.

    Attributes:
        row: Index of the first row in the scene's lattice.
        values: Shape (C, rows, columns of the window), float32, on the CPU.
        valid: Whether each pixel of the model's grid under these rows has data, shape (pixels, pixels of the
            window's columns); fewer at the scene's edges.
    """

    row: int
    values: Tensor
    valid: npt.NDArray[np.bool_]

    def patch_validity(self, patch: int, share: float = 0.5) -> npt.NDArray[np.bool_]:
        """Return which patches have data in at least a share of their pixels, (rows, columns).

        Args:
            patch: Pixels of a patch.
            share: The share, in (0, 1], of the pixels that a patch has within the scene.
        """
        rows, columns = self.values.shape[1:]
        enough: npt.NDArray[np.bool_] = patch_shares(self.valid, rows, columns, patch) >= share
        return enough


def patch_shares(
    valid: npt.NDArray[np.bool_], rows: int, columns: int, patch: int
) -> npt.NDArray[np.float64]:
    """Return in which share of the pixels that they have within the scene patches have data.

    Args:
        valid: Whether each pixel under the patches has data, shape (height, width); at a scene's edges fewer
            than the patches cover.
        rows: Rows of patches.
        columns: Columns of patches.
        patch: Pixels of a patch.

    Returns:
        Shape (rows, columns), in [0, 1].
    """
    blocks = (rows, patch, columns, patch)
    beyond = [(0, whole * patch - there) for whole, there in zip((rows, columns), valid.shape, strict=True)]
    there = np.pad(np.ones_like(valid), beyond).reshape(blocks).sum(axis=(1, 3))
    good = np.pad(valid, beyond).reshape(blocks).sum(axis=(1, 3))
    shares: npt.NDArray[np.float64] = good / np.maximum(there, 1)
    return shares


class StripAccumulator:
    """Sums weighted tiles and hands out the rows to which no further tile contributes.

    Memory is that of one strip of tiles, whatever the height of the scene.

    Args:
        plan: The tiles.
        channels: Channels of the lattice.
    """

    def __init__(self, plan: TilePlan, channels: int) -> None:
        self._plan = plan
        first = plan.hull(plan.tile_rows[0])
        self._left = first.col
        self._top = first.row
        self._sum = torch.zeros(channels, plan.rows.tile, first.width)
        self._weight = torch.zeros(plan.rows.tile, first.width)

    def add(self, tile_row: int, tile_column: int, values: Tensor) -> None:
        """Add a tile's lattice, shape (C, tile rows, tile columns), float32 on the CPU."""
        plan = self._plan
        weight = torch.from_numpy(
            np.outer(plan.rows.weights(tile_row), plan.columns.weights(tile_column)).astype(np.float32)
        )
        left = plan.columns.starts[tile_column] - self._left
        columns = slice(left, left + plan.columns.tile)
        self._sum[:, :, columns] += values * weight
        self._weight[:, columns] += weight

    def finish_row(self, tile_row: int) -> tuple[int, Tensor]:
        """Return the rows that are complete after a tile row, and move on to the next one.

        Returns:
            Index of the first row in the scene's lattice, and the blended values inside the plan's window,
            shape (C, rows, columns).
        """
        plan, window = self._plan, self._plan.window
        is_last = tile_row == plan.tile_rows[-1]
        stop = plan.rows.starts[tile_row] + plan.rows.tile if is_last else plan.rows.finished(tile_row)
        start, until = max(self._top, window.row), min(stop, window.row_stop)
        rows = slice(start - self._top, max(start, until) - self._top)
        columns = slice(window.col - self._left, window.col_stop - self._left)
        blended = self._sum[:, rows, columns] / self._weight[rows, columns]
        if not is_last:
            self._shift(stop - self._top)
        return start, blended

    def _shift(self, rows: int) -> None:
        for buffer in (self._sum, self._weight):
            kept = buffer.shape[-2] - rows
            buffer[..., :kept, :] = buffer[..., rows:, :].clone()
            buffer[..., kept:, :] = 0
        self._top += rows


@dataclass(frozen=True)
class Sampling:
    """Where the pixels of an output axis lie between patches.

    Attributes:
        lower: Patch before each pixel's centre, or at it.
        upper: Patch behind it; the same at the last patch.
        fraction: Weight of `upper`, float32 in [0, 1].
        rim: The offset d of Eq. 1 in half patches, float32; 0 between the outermost patch centres.
        pixel: Pixel of the model's grid under the centre.
    """

    lower: npt.NDArray[np.int64]
    upper: npt.NDArray[np.int64]
    fraction: npt.NDArray[np.float32]
    rim: npt.NDArray[np.float32]
    pixel: npt.NDArray[np.int64]

    @classmethod
    def of(cls, scale: float, model: int, patch: int, start: int, count: int) -> Sampling:
        """Place output pixels [start, start + count).

        Args:
            scale: Size of an output pixel in pixels of the model's grid.
            model: Pixels of the scene on the model's grid.
            patch: Pixels of a patch.
            start: First output pixel.
            count: Number of output pixels.
        """
        patches = -(-model // patch)
        centre = (np.arange(start, start + count) + 0.5) * scale
        position = centre / patch - 0.5
        clamped = np.clip(position, 0, patches - 1)
        lower = np.minimum(np.floor(clamped), max(patches - 2, 0)).astype(np.int64)
        return cls(
            lower,
            np.minimum(lower + 1, patches - 1),
            (clamped - lower).astype(np.float32),
            (2 * (position - clamped)).astype(np.float32),
            np.minimum(centre.astype(np.int64), model - 1),
        )


@dataclass(frozen=True)
class PixelStrip:
    """Finished rows of an output raster.

    Attributes:
        row: First row in the output.
        values: Shape (C, rows, columns), float32.
        valid: Whether the input has data there, shape (rows, columns).
    """

    row: int
    values: Tensor
    valid: npt.NDArray[np.bool_]


class PixelSampler:
    """Bilinear interpolation of a scene's lattice at the pixels of an output grid, plus NILI's rim term.

    Args:
        output: The whole scene's output grid; same origin and directions as ``model``.
        model: The scene's grid at the model's ground sampling distance.
        patch: Pixels of a patch.
        window: Pixels of the output that are wanted.
        rim_weight: W_c of the lattice's channels, shape (C, 2), or None where there is no rim term.
        subdivision: Cells along the side of a patch: with f > 1 the lattice's C f^2 channels are those of
            f x f cells, in the order of `torch.nn.functional.pixel_shuffle`, and it is their centres that
            are interpolated between. There is no rim term then.

    Attributes:
        lattice_window: Patches that the pixels need.
    """

    # Output values per step: some five arrays of this size live at a time, 8 MB each.
    _STEP = 2**21

    def __init__(
        self,
        output: Grid,
        model: Grid,
        patch: int,
        window: Window,
        rim_weight: Tensor | None = None,
        *,
        subdivision: int = 1,
    ) -> None:
        if patch % subdivision or (subdivision > 1 and rim_weight is not None):
            raise ValueError(f"patches of {patch} pixels cannot have {subdivision} cells and a rim term")
        cell = patch // subdivision
        # Both grids have the same origin and directions, so one maps to the other by two factors.
        between = ~model.transform * output.transform
        self._rows = Sampling.of(between.e, model.height, cell, window.row, window.height)
        self._columns = Sampling.of(between.a, model.width, cell, window.col, window.width)
        self._cell = cell
        self._subdivision = subdivision
        self._rim_weight = None if rim_weight is None else rim_weight.detach().float().cpu()
        self.lattice_window = LatticeWindow(
            int(self._rows.lower[0]) // subdivision,
            int(self._rows.upper[-1]) // subdivision + 1,
            int(self._columns.lower[0]) // subdivision,
            int(self._columns.upper[-1]) // subdivision + 1,
        )

    def sample(self, strips: Iterator[LatticeStrip]) -> Iterator[PixelStrip]:
        """Turn lattice strips into pixel strips; a pixel is emitted as soon as its patches are there."""
        done = 0
        values: Tensor | None = None
        valid = np.zeros((0, 0), dtype=np.bool_)
        top = 0
        last_row = int(self._rows.upper[-1])
        for strip in strips:
            # From here on everything is counted in cells.
            cells = F.pixel_shuffle(strip.values, self._subdivision)
            if values is None:
                values, valid, top = cells, strip.valid, strip.row * self._subdivision
            else:
                values = torch.cat([values, cells], dim=1)
                valid = np.concatenate([valid, strip.valid])
            available = top + values.shape[1] - 1
            stop = len(self._rows.upper) if available >= last_row else self._ready(available)
            while done < stop:
                count = min(stop - done, max(1, self._STEP // (len(values) * len(self._columns.lower))))
                yield self._render(values, valid, top, slice(done, done + count))
                done += count
            # The row below the last finished pixel is its upper neighbour: keep it.
            following = int(self._rows.lower[done]) if done < len(self._rows.lower) else available
            keep = max(top, min(following, available))
            values, valid = values[:, keep - top :], valid[(keep - top) * self._cell :]
            top = keep

    def _ready(self, available: int) -> int:
        """Return how many output rows have both rows of cells and the pixels that decide their validity."""
        pixel_rows = (available + 1) * self._cell
        return int(
            min(
                np.searchsorted(self._rows.upper, available, "right"),
                np.searchsorted(self._rows.pixel, pixel_rows),
            )
        )

    def _render(self, values: Tensor, valid: npt.NDArray[np.bool_], top: int, rows: slice) -> PixelStrip:
        left = self.lattice_window.col * self._subdivision
        r, c = self._rows, self._columns
        weight = torch.from_numpy(r.fraction[rows])[:, None]
        lower, upper = (torch.from_numpy(index[rows] - top) for index in (r.lower, r.upper))
        blended = torch.lerp(values[:, lower], values[:, upper], weight)
        lower, upper = (torch.from_numpy(index - left) for index in (c.lower, c.upper))
        pixels = torch.lerp(blended[:, :, lower], blended[:, :, upper], torch.from_numpy(c.fraction))
        if self._rim_weight is not None:
            self._add_rim(pixels, rows)
        under = valid[np.ix_(r.pixel[rows] - top * self._cell, c.pixel - left * self._cell)]
        return PixelStrip(rows.start, pixels, under)

    def _add_rim(self, pixels: Tensor, rows: slice) -> None:
        if self._rim_weight is None:
            return
        for offset, weight, transposed in (
            (self._columns.rim, self._rim_weight[:, 0], pixels),
            (self._rows.rim[rows], self._rim_weight[:, 1], pixels.mT),
        ):
            (rim,) = np.nonzero(offset)
            if len(rim):
                index = torch.from_numpy(rim)
                transposed[:, :, index] += weight[:, None, None] * torch.from_numpy(offset[rim])
