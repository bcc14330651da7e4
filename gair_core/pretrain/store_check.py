"""The task ``store-check``: count what a store holds and find its faults."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from gair_core.errors import BadInputError
from gair_core.pretrain.splits import near_pairs
from gair_core.pretrain.store import Store, TileHeader
from gair_core.progress import Progress
from gair_core.task import Request, Result, Task

_EXAMPLES: Final = 5


class StoreCheckRequest(Request):
    """Count what a pretraining store holds and find its faults: damage, places outside tiles, leaks."""

    store: CliPositionalArg[Path] = Field(description="folder of the store")
    leak_km: float = Field(
        1.0, gt=0, description="photos of different splits nearer than this are a leak, kilometres"
    )
    decode: bool = Field(True, description="also decode every photo and every pixel")


class Fault(BaseModel):
    """A kind of fault.

    Attributes:
        kind: What is wrong.
        count: How often.
        examples: The first few.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    count: int
    examples: tuple[str, ...]


class StoreCheckResult(Result):
    """What a store holds.

    Attributes:
        ok: Whether it has no faults.
        samples: Number of places.
        photos: Number of photos.
        tiles: Number of tiles that samples name.
        dates: Number of scenes in these tiles.
        cities: Number of cities.
        splits: Number of places in each split.
        faults: What is wrong.
    """

    ok: bool
    samples: int
    photos: int
    tiles: int
    dates: int
    cities: int
    splits: dict[str, int]
    faults: tuple[Fault, ...]

    def text(self) -> str:
        """Return the report for people."""
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        counts = f"{self.samples} samples ({splits}) of {self.cities} cities, {self.photos} photos"
        lines = [f"{counts}, {self.tiles} tiles with {self.dates} scenes"]
        for fault in self.faults:
            more = " ..." if fault.count > len(fault.examples) else ""
            lines.append(f"FAULT {fault.kind}: {fault.count} ({'; '.join(fault.examples)}{more})")
        return "\n".join([*lines, "no faults" if self.ok else f"{len(self.faults)} kinds of faults"])


class _Faults:
    """Collects faults by kind, a few examples each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        self._counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    def list(self) -> tuple[Fault, ...]:
        return tuple(
            Fault(kind=kind, count=count, examples=tuple(self._examples[kind]))
            for kind, count in self._counts.items()
        )


def check_store(request: StoreCheckRequest, progress: Progress) -> StoreCheckResult:
    """Check a store; faults are listed, not raised.

    Raises:
        BadInputError: It cannot be opened at all.
        CancelledError: The task was cancelled.
    """
    store = Store(request.store)
    faults = _Faults()
    _check_ids(store, faults)
    headers = _check_tiles(store, faults, progress, decode=request.decode)
    _check_places(store, headers, faults)
    _check_photos(store, faults, progress, decode=request.decode)
    _check_splits(store, faults, request.leak_km)
    samples, listed = store.samples, faults.list()
    return StoreCheckResult(
        ok=not listed,
        samples=len(samples),
        photos=int(samples.has_photo.sum()),
        tiles=len(np.unique(samples.tile)),
        dates=sum(len(header.dates) for header in headers.values()),
        cities=len(np.unique(samples.city[samples.city != ""])),
        splits=dict(Counter(samples.split.tolist())),
        faults=listed,
    )


def _check_ids(store: Store, faults: _Faults) -> None:
    for name, count in Counter(store.samples.id.tolist()).items():
        if count > 1:
            faults.add("duplicate ids", f"{name} ({count} times)")


def _check_tiles(store: Store, faults: _Faults, progress: Progress, *, decode: bool) -> dict[str, TileHeader]:
    headers: dict[str, TileHeader] = {}
    names = np.unique(store.samples.tile).tolist()
    for number, name in enumerate(names):
        progress.raise_if_cancelled()
        progress.report(0.5 * number / len(names), f"tile {number + 1} of {len(names)}")
        try:
            headers[name] = header = store.tile(name)
            if not any(header.valid_fraction):
                faults.add("tiles without valid dates", name)
            if decode:
                _decode(store, header, faults)
        except BadInputError as error:
            faults.add("unreadable tiles", f"{name}: {error.message}")
    return headers


def _decode(store: Store, header: TileHeader, faults: _Faults) -> None:
    for date, claimed in enumerate(header.valid_fraction):
        found = float(store.read_whole(header, date).any(axis=0).mean())
        if abs(found - claimed) > 1e-5:
            faults.add(
                "valid fractions that are wrong",
                f"{header.name} {header.dates[date]}: {found:g}, not {claimed:g}",
            )


def _check_places(store: Store, headers: dict[str, TileHeader], faults: _Faults) -> None:
    samples = store.samples
    for index in range(len(samples)):
        header = headers.get(str(samples.tile[index]))
        if header is None:
            continue
        row, col = samples.position[index]
        if not (0 <= row <= header.size[0] and 0 <= col <= header.size[1]):
            faults.add("places outside their tile", f"{samples.id[index]} at ({row:g}, {col:g})")
    lonlat = samples.lonlat
    for wrong in np.flatnonzero(~(np.abs(lonlat) <= [180, 90]).all(axis=1)):
        faults.add("impossible places", f"{samples.id[wrong]} at {lonlat[wrong].tolist()}")


def _check_photos(store: Store, faults: _Faults, progress: Progress, *, decode: bool) -> None:
    samples = store.samples
    sizes: dict[str, int] = {}
    for shard in np.unique(samples.photo_shard[samples.has_photo]):
        path = store.folder / "photos" / str(shard)
        sizes[str(shard)] = path.stat().st_size if path.is_file() else -1
        if not path.is_file():
            faults.add("missing photo shards", str(shard))
        elif not tarfile.is_tarfile(path):
            faults.add("photo shards that are no tar files", str(shard))
    indices = np.flatnonzero(samples.has_photo)
    for number, index in enumerate(indices):
        progress.raise_if_cancelled()
        progress.report(0.5 + 0.5 * number / len(indices), f"photo {number + 1} of {len(indices)}")
        end = int(samples.photo_offset[index] + samples.photo_size[index])
        if end > sizes[str(samples.photo_shard[index])]:
            faults.add("missing photos", str(samples.id[index]))
        elif decode:
            try:
                store.read_photo(int(index))
            except BadInputError as error:
                faults.add("unreadable photos", error.message)


def _check_splits(store: Store, faults: _Faults, leak_km: float) -> None:
    samples = store.samples
    for name in ("train", "validation"):
        if not (samples.split == name).any():
            faults.add("empty splits", name)
    pairs = {(str(tile), str(split)) for tile, split in zip(samples.tile, samples.split, strict=True)}
    for tile, count in Counter(tile for tile, _ in pairs).items():
        if count > 1:
            faults.add("tiles in several splits", tile)
    for first, second, distance in near_pairs(samples.lonlat, samples.split, leak_km):
        names = f"{samples.id[first]} and {samples.id[second]}"
        faults.add(f"split leaks under {leak_km:g} km", f"{names} are {distance:.2f} km apart")


TASK = Task("store-check", StoreCheckRequest, check_store)
