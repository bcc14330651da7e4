"""The engine: a scene of any size in, strips of its blended lattice out."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gair_core.errors import BadInputError, CheckpointError, OutOfMemoryError
from gair_core.geo.grid import Window
from gair_core.inference.alignment import SceneReader
from gair_core.inference.cancelling import cancelled_between_blocks
from gair_core.inference.lattice import LatticeStrip, StripAccumulator, patch_shares
from gair_core.inference.tiling import Axis, LatticeWindow, TilePlan
from gair_core.model.gair import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.bands import normalize

# Chosen by benchmarks/tile_size.py; ALiBi lets a tile be larger than in training. 288 pixels are an eighth
# faster on whole scenes, but cost more memory and more of a small extent. With a margin of 12 the hand-over
# between tiles is steeper than a scene's own steps; with 24 it is not.
TILE_SIZE = 192
MARGIN = 24
# Tokens of one batch. On a CPU the base model takes about a second for it, so that the progress moves.
_TOKENS = {"cpu": 640, "mps": 8192, "cuda": 32768}

Transform = Callable[[Tensor], Tensor]
"""Features of tiles (B, width, rows, columns) to the channels (B, C, rows, columns) that are wanted."""

TileFunction = Callable[[Sequence[Tensor], Tensor], Tensor]
"""Pixels of tiles, normalised, one (B, bands, H, W) a scene, and the share of each patch's pixels with data,
(B, scenes, rows, columns), to the channels (B, C, rows, columns) that are wanted; see `Head.tile_lattice`."""


@dataclass(frozen=True)
class _Strip:
    """The pixels of one row of tiles, scene by scene.

    Attributes:
        dn: DN, gaps filled and edges continued, one (bands, height, width) a scene.
        valid: Which pixels within the scene have data in any of the scenes, shape (height, width).
        patches: Share of each patch's pixels with data, shape (scenes, rows, columns), in [0, 1].
    """

    dn: tuple[npt.NDArray[np.float32], ...]
    valid: npt.NDArray[np.bool_]
    patches: npt.NDArray[np.float32]


class Engine:
    """Encodes scenes tile by tile.

    Args:
        model: The model, with a scene encoder; it is moved to ``device``.
        device: ``cpu``, ``cuda``, ``mps`` or ``auto`` (the fastest there is).
        tile_size: Side of a tile in pixels; a multiple of the model's patch size.
        margin: What two neighbouring tiles share on each side, pixels; rounded up to whole patches. 0
            switches the overlap off.
        batch_size: Tiles of a batch; by default as many as suit the device.

    Raises:
        BadInputError: An impossible tile, margin or batch, or a device that is not there.
        CheckpointError: The model has no scene encoder.
    """

    def __init__(
        self,
        model: GAIR,
        device: str = "auto",
        tile_size: int = TILE_SIZE,
        margin: int = MARGIN,
        batch_size: int | None = None,
    ) -> None:
        if model.config.remote_sensing is None:
            raise CheckpointError(
                "This model cannot encode scenes: it has no part 'remote_sensing'.",
                "Merge a checkpoint that has it: gair import ... --into MODEL.",
            )
        self.config = model.config.remote_sensing
        self.patch = self.config.patch_size
        if tile_size % self.patch or tile_size < self.patch:
            raise BadInputError(
                f"The tile size must be a multiple of {self.patch} pixels, found {tile_size}."
            )
        if margin < 0 or (batch_size is not None and batch_size < 1):
            raise BadInputError(
                f"The margin must not be negative and a batch must hold a tile, found {margin}, {batch_size}."
            )
        self.tile = tile_size // self.patch
        self.margin = -(-margin // self.patch)
        self.device = select_device(device)
        self.batch_size = batch_size or max(1, _TOKENS[self.device.type] // self.tile**2)
        self.model = model.to(self.device).eval()

    def plan(self, scene: SceneReader, window: LatticeWindow | None = None) -> TilePlan:
        """Return the tiles that a window of the scene's lattice needs (the whole lattice by default)."""
        grid = scene.grid
        rows, columns = -(-grid.height // self.patch), -(-grid.width // self.patch)
        return TilePlan(
            Axis.plan(rows, self.tile, self.margin),
            Axis.plan(columns, self.tile, self.margin),
            window or LatticeWindow(0, rows, 0, columns),
        )

    def strips(
        self,
        scene: SceneReader,
        plan: TilePlan,
        transform: Transform,
        progress: Progress | None = None,
        share: tuple[float, float] = (0.0, 1.0),
    ) -> Iterator[LatticeStrip]:
        """Encode the tiles of a plan and yield its lattice from top to bottom.

        Args:
            scene: The scene, opened at the model's ground sampling distance.
            plan: What to encode.
            transform: Turns features into the lattice that is wanted, on the model's device; it must be
                linear for blending to commute with it.
            progress: As in `tile_strips`.
            share: As in `tile_strips`.

        Yields:
            The finished rows after each row of tiles.

        Raises:
            CancelledError: The user cancelled.
            OutOfMemoryError: Not even a batch of one tile fits.
        """
        return self.tile_strips([scene], plan, self._on_features(transform), progress, share)

    def tile_strips(
        self,
        scenes: Sequence[SceneReader],
        plan: TilePlan,
        function: TileFunction,
        progress: Progress | None = None,
        share: tuple[float, float] = (0.0, 1.0),
    ) -> Iterator[LatticeStrip]:
        """Apply a function to the tiles of a plan, with all scenes of a place at once, and blend its results.

        The values of a patch do not depend on the plan's window: tiles, their place in a batch and their
        blending are those of the whole scene. Memory is that of one strip of tiles for each scene.

        Args:
            scenes: The scenes, all on one grid of the model's ground sampling distance.
            plan: What to encode.
            function: What to make of each batch of tiles, on the model's device; patches where a scene has no
                data hold the bands' means.
            progress: Told the done fraction; asked about cancelling before every block of the encoder.
            share: Part of the caller's progress that this is.

        Yields:
            The finished rows after each row of tiles; a pixel is valid where any of the scenes has data.

        Raises:
            CancelledError: The user cancelled.
            OutOfMemoryError: Not even a batch of one tile fits.
        """
        progress = progress or Progress()
        clock = _Clock(progress, plan.count, share)
        accumulator: StripAccumulator | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="gair-reader") as reader:
            pending = reader.submit(self._read, scenes, plan, plan.tile_rows[0])
            for tile_row in plan.tile_rows:
                strip = pending.result()
                progress.raise_if_cancelled()
                if tile_row + 1 in plan.tile_rows:
                    pending = reader.submit(self._read, scenes, plan, tile_row + 1)
                for columns, lattices in self._encode_row(strip, plan, function, progress):
                    for tile_column, lattice in zip(columns, lattices, strict=True):
                        if accumulator is None:
                            accumulator = StripAccumulator(plan, len(lattice))
                        accumulator.add(tile_row, tile_column, lattice)
                    clock.tick(len(columns))
                if accumulator is None:
                    raise RuntimeError("a plan without tiles")
                first, values = accumulator.finish_row(tile_row)
                yield LatticeStrip(first, values, self._valid_under(strip, plan, tile_row, first, values))

    def seconds_per_tile(self, transform: Transform) -> float:
        """Measure how long a tile takes, on one batch of empty tiles after a warm-up."""
        return self.seconds_per_stack(self._on_features(transform), 1)

    def seconds_per_stack(self, function: TileFunction, scenes: int) -> float:
        """Measure how long a tile of several scenes takes, see `seconds_per_tile`."""
        side = self.tile * self.patch
        images = torch.zeros(self.batch_size, scenes, len(self.config.bands), side, side)
        valid = torch.ones(self.batch_size, scenes, self.tile, self.tile)
        for _ in range(2):
            start = time.perf_counter()
            self._encode(images, valid, function)
            seconds = time.perf_counter() - start
        return seconds / self.batch_size

    def _on_features(self, transform: Transform) -> TileFunction:
        return lambda images, _: transform(self.model.encode_remote_sensing(images[0]))

    def _read(self, scenes: Sequence[SceneReader], plan: TilePlan, tile_row: int) -> _Strip:
        """Read, fill and pad the pixels under a row of tiles."""
        hull = plan.hull(tile_row)
        dn, valid = zip(*(self._read_one(scene, plan, tile_row) for scene in scenes), strict=True)
        patches = [patch_shares(one, hull.height, hull.width, self.patch) for one in valid]
        return _Strip(dn, functools.reduce(np.logical_or, valid), np.stack(patches).astype(np.float32))

    def _read_one(
        self, scene: SceneReader, plan: TilePlan, tile_row: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Read one scene's part of a strip."""
        hull, grid, patch = plan.hull(tile_row), scene.grid, self.patch
        top, left = hull.row * patch, hull.col * patch
        height, width = hull.height * patch, hull.width * patch
        window = Window(top, left, min(height, grid.height - top), min(width, grid.width - left))
        dn, valid = scene.read(window)
        mean = np.asarray(self.config.mean, np.float32)[:, None]
        dn[:, ~valid] = mean
        beyond = ((0, 0), (0, height - window.height), (0, width - window.width))
        # Reflection continues the scene to whole patches; a single row or column can only be repeated.
        dn = np.pad(dn, beyond, mode="symmetric" if min(dn.shape[1:]) == 1 else "reflect")
        return dn, valid

    def _encode_row(
        self, strip: _Strip, plan: TilePlan, function: TileFunction, progress: Progress
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Encode a row of tiles in batches; yields tile columns and their lattices (B, C, rows, columns)."""
        wanted = list(plan.tile_columns)
        while wanted:
            progress.raise_if_cancelled()
            # A tile's slot in its batch depends on its place in the scene alone: products of matrices may
            # round a row differently at another place, and int8 results must not depend on the extent.
            size = min(self.batch_size, len(plan.columns.starts))
            group = [column for column in wanted if column // size == wanted[0] // size]
            scenes, rows, columns = len(strip.dn), plan.rows.tile, plan.columns.tile
            bands = len(self.config.bands)
            images = torch.zeros(size, scenes, bands, rows * self.patch, columns * self.patch)
            valid = torch.zeros(size, scenes, rows, columns)
            for column in group:
                images[column % size], valid[column % size] = self._tile(strip, plan, column)
            try:
                with cancelled_between_blocks(self.model, progress):
                    lattices = self._encode(images, valid, function)
            except (torch.OutOfMemoryError, MemoryError) as error:
                self._shrink(error, progress)
                continue
            yield group, lattices[[column % size for column in group]]
            wanted = wanted[len(group) :]

    def _tile(self, strip: _Strip, plan: TilePlan, tile_column: int) -> tuple[Tensor, Tensor]:
        """Cut a tile out: its pixels (scenes, bands, H, W) and its patches' shares (scenes, P_y, P_x)."""
        first = plan.columns.starts[plan.tile_columns[0]]
        left = plan.columns.starts[tile_column] - first
        right = left + plan.columns.tile
        columns = slice(left * self.patch, right * self.patch)
        dn = torch.from_numpy(np.stack([one[..., columns] for one in strip.dn]))
        pixels = normalize(dn, self.config.mean, self.config.std, quantize=self.config.quantize)
        return pixels, torch.from_numpy(strip.patches[..., left:right])

    def _encode(self, images: Tensor, valid: Tensor, function: TileFunction) -> Tensor:
        with torch.inference_mode(), self._precision():
            return function(images.to(self.device).unbind(1), valid.to(self.device)).float().cpu()

    def _precision(self) -> AbstractContextManager[object]:
        if self.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _shrink(self, error: BaseException, progress: Progress) -> None:
        if self.batch_size == 1:
            raise OutOfMemoryError(
                f"The {self.device.type} device has too little memory for one tile of "
                f"{self.tile * self.patch} pixels.",
                "Use a smaller tile or model, or the device cpu.",
            ) from error
        self.batch_size //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        progress.log("info", f"Out of memory: going on with batches of {self.batch_size}.")

    def _valid_under(
        self, strip: _Strip, plan: TilePlan, tile_row: int, first: int, values: Tensor
    ) -> npt.NDArray[np.bool_]:
        """Cut the validity of the pixels under finished lattice rows out of the strip that was read."""
        hull, patch = plan.hull(tile_row), self.patch
        top = (first - hull.row) * patch
        left = (plan.window.col - hull.col) * patch
        return strip.valid[top : top + values.shape[1] * patch, left : left + plan.window.width * patch]


class _Clock:
    """Reports done tiles with the time left."""

    def __init__(self, progress: Progress, tiles: int, share: tuple[float, float]) -> None:
        self._progress, self._tiles, self._share = progress, tiles, share
        self._done = 0
        self._start = time.monotonic()

    def tick(self, tiles: int) -> None:
        self._done += tiles
        left = (time.monotonic() - self._start) / self._done * (self._tiles - self._done)
        begin, end = self._share
        self._progress.report(
            begin + (end - begin) * self._done / self._tiles,
            f"tile {self._done} of {self._tiles}, {readable_seconds(left)} left",
        )


def readable_seconds(seconds: float) -> str:
    """Format a duration for people: "45 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def select_device(name: str) -> torch.device:
    """Return a device by name; ``auto`` is the fastest there is.

    Raises:
        BadInputError: There is no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not there.get(device.type, False):
        found = ", ".join(kind for kind, available in there.items() if available)
        raise BadInputError(f"There is no device {name!r} here; found {found}.", "Use auto or cpu.")
    return device
