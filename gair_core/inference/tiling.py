"""Where the tiles of a scene lie, and how their overlap is blended.

Tiles are anchored at the scene's own origin and depend on nothing but the scene's size, so that the result of
a part of a scene equals the same pixels of the whole. Everything here counts in patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gair_core.errors import BadInputError


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis of a scene.

    Attributes:
        patches: Patches along the axis; the last one may reach beyond the scene.
        tile: Patches of a tile, at most `patches`.
        starts: First patch of each tile, rising from 0; the last tile is moved back to end with the scene.
    """

    patches: int
    tile: int
    starts: tuple[int, ...]

    @classmethod
    def plan(cls, patches: int, tile: int, margin: int) -> Axis:
        """Lay tiles of ``tile`` patches that share 2 ``margin`` patches with their neighbours.

        Raises:
            BadInputError: The margin leaves no stride.
        """
        stride = tile - 2 * margin
        if stride < 1:
            raise BadInputError(
                f"Tiles of {tile} patches with a margin of {margin} have nothing left in their middle.",
                "Choose a larger tile or a smaller margin.",
            )
        if patches <= tile:
            return cls(patches, patches, (0,))
        last = patches - tile
        return cls(patches, tile, (*range(0, last, stride), last))

    def touching(self, start: int, stop: int) -> range:
        """Return the indices of the tiles that hold any of the patches [start, stop)."""
        inside = [i for i, first in enumerate(self.starts) if first < stop and first + self.tile > start]
        return range(inside[0], inside[-1] + 1)

    def finished(self, index: int) -> int:
        """Return how many leading patches no tile after ``index`` touches."""
        return self.starts[index + 1] if index + 1 < len(self.starts) else self.patches

    def weights(self, index: int) -> npt.NDArray[np.float32]:
        """Return the blending weights of a tile's patches, shape (tile,), in [0, 1].

        Over the overlap with each neighbour a Hann ramp sin^2 rises; towards the scene's own edge there is
        none. The outermost patch has no weight where a neighbour covers it: NILI's 3x3 convolution saw zeros
        beyond it, which only the scene's own edge may have. Two ramps over one overlap sum to 1; where the
        last tile was moved back more than two tiles may meet, so `StripAccumulator` divides the sum out.
        """
        weights = np.ones(self.tile, np.float32)
        first = self.starts[index]
        if index > 0:
            weights *= self._ramp(self.starts[index - 1] + self.tile - first)
        if index + 1 < len(self.starts):
            weights *= self._ramp(first + self.tile - self.starts[index + 1])[::-1]
        return weights

    def _ramp(self, overlap: int) -> npt.NDArray[np.float32]:
        ramp = np.ones(self.tile, np.float32)
        if overlap == 1:
            ramp[0] = 0.5
        elif overlap > 1:
            rise = overlap - 2
            ramp[0] = 0
            ramp[1 : overlap - 1] = np.sin(np.pi / 2 * (np.arange(rise) + 0.5) / max(rise, 1)) ** 2
        return ramp


@dataclass(frozen=True)
class LatticeWindow:
    """A rectangle of patches: rows [row, row_stop), columns [col, col_stop)."""

    row: int
    row_stop: int
    col: int
    col_stop: int

    @property
    def height(self) -> int:
        """Rows of patches."""
        return self.row_stop - self.row

    @property
    def width(self) -> int:
        """Columns of patches."""
        return self.col_stop - self.col


@dataclass(frozen=True)
class TilePlan:
    """All tiles of a scene, and those that a window of its lattice needs.

    Attributes:
        rows: Tiles along the vertical axis.
        columns: Tiles along the horizontal axis.
        window: The patches that are wanted.
    """

    rows: Axis
    columns: Axis
    window: LatticeWindow

    @property
    def tile_rows(self) -> range:
        """Indices of the tile rows that the window needs."""
        return self.rows.touching(self.window.row, self.window.row_stop)

    @property
    def tile_columns(self) -> range:
        """Indices of the tile columns that the window needs."""
        return self.columns.touching(self.window.col, self.window.col_stop)

    @property
    def count(self) -> int:
        """Number of tiles that the window needs."""
        return len(self.tile_rows) * len(self.tile_columns)

    def single_tile(self, row: int, column: int) -> TilePlan:
        """Return the plan of one tile alone, without its neighbours' share."""
        return TilePlan(
            replace(self.rows, starts=(row,)),
            replace(self.columns, starts=(column,)),
            LatticeWindow(row, row + self.rows.tile, column, column + self.columns.tile),
        )

    def hull(self, tile_row: int) -> LatticeWindow:
        """Return the patches of all needed tiles of one tile row."""
        top = self.rows.starts[tile_row]
        columns = self.tile_columns
        left, right = self.columns.starts[columns[0]], self.columns.starts[columns[-1]] + self.columns.tile
        return LatticeWindow(top, top + self.rows.tile, left, right)
