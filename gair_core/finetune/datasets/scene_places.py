"""The scenes at the places of a data set: z(q) there, or the windows around them to train an encoder on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gair_core.config import Config
from gair_core.errors import BadInputError
from gair_core.model.gair import GAIR

if TYPE_CHECKING:
    from gair_core.geo.grid import Window
    from gair_core.sentinel2.scene import Scene


class ScenePlacesConfig(Config):
    """Where the scenes are.

    Attributes:
        files: Sentinel-2 products: files, folders, SAFE, zip or STAC items. A place takes the first that has
            data there.
        folder: Folder with a scene for each place instead, named by its id: ``<id>.tif``, as the published
            ``<city>_<panoid>.tif``.
        offset: DN to add, or ``auto``, see `gair segment`.
        missing: What to do about absent bands.
    """

    files: tuple[Path, ...] = ()
    folder: Path | None = None
    offset: float | Literal["auto"] = "auto"
    missing: Literal["error", "mean", "zero"] = "error"

    def of(self, ids: npt.NDArray[np.str_], lonlat: npt.NDArray[np.float64]) -> list[tuple[Path, list[int]]]:
        """Return each scene with the places that may lie in it.

        Raises:
            BadInputError: No scene is named, or none is there.
        """
        if (self.folder is None) == (not self.files):
            raise BadInputError(
                "A fusion with scenes needs their files, or the folder with one for each place.",
                "Set task.scenes.files or task.scenes.folder.",
            )
        rows = np.flatnonzero(np.isfinite(lonlat).all(axis=1)).tolist()
        if self.folder is None:
            return [(path, rows) for path in self.files]
        own = [(self.folder / f"{ids[row]}.tif", [row]) for row in rows]
        there = [(path, row) for path, row in own if path.is_file()]
        if not there:
            raise BadInputError(f"{self.folder} holds no scene <id>.tif, such as {ids[0]}.tif.")
        return there


@dataclass(frozen=True)
class Windows:
    """Windows of scenes around places.

    Attributes:
        rows: Which places have one, int64 (M,).
        dn: Reflectance x 10000, uint16 (M, bands, S, S), gaps at the band's mean.
        uv: The place in its window, float32 (M, 2).
    """

    rows: npt.NDArray[np.int64]
    dn: npt.NDArray[np.uint16]
    uv: npt.NDArray[np.float32]


def scene_embeddings(
    model: GAIR,
    config: ScenePlacesConfig,
    ids: npt.NDArray[np.str_],
    lonlat: npt.NDArray[np.float64],
    device: torch.device,
) -> tuple[npt.NDArray[np.int64], Tensor]:
    """Return which places have a scene and z(q) there, by the engine that `gair predict` uses.

    Args:
        model: The model.
        config: The scenes.
        ids: Names of the places, (N,).
        lonlat: Degrees, (N, 2).
        device: What computes.

    Returns:
        Rows int64 (M,), rising, and embeddings float32 (M, D) on the CPU.

    Raises:
        BadInputError: A scene cannot be read, or none has data at any place.
    """
    from gair_core.heads.base import embedding_lattice, embedding_rim
    from gair_core.inference.engine import Engine
    from gair_core.inference.points import Places, plan_groups, sample_places

    engine = Engine(model, device.type)
    found: dict[int, Tensor] = {}
    for scene, rows, uv in _inside(config, ids, lonlat, engine.config.gsd):
        missing = np.array([row not in found for row in rows], dtype=bool)
        rows, uv = rows[missing], uv[missing]  # noqa: PLW2901
        if not len(rows):
            continue
        places = Places.of(uv, (scene.grid.width, scene.grid.height), engine.patch)
        values, valid = sample_places(
            engine,
            scene,
            places,
            plan_groups(engine, scene, places),
            transform=lambda features: embedding_lattice(model, features),
            rim_weight=embedding_rim(model),
        )
        found |= {int(row): torch.from_numpy(values[one]) for one, row in enumerate(rows) if valid[one]}
    if not found:
        raise _nowhere(config)
    ordered = sorted(found)
    return np.array(ordered, dtype=np.int64), torch.stack([found[row] for row in ordered])


def scene_windows(
    model: GAIR, config: ScenePlacesConfig, ids: npt.NDArray[np.str_], lonlat: npt.NDArray[np.float64]
) -> Windows:
    """Read a window of the model's tile size around each place, moved inwards at the scene's edge.

    They are kept in memory: 0.2 MB a place at 96 pixels and ten bands.

    Args:
        model: The model.
        config: The scenes.
        ids: Names of the places, (N,).
        lonlat: Degrees, (N, 2).

    Raises:
        BadInputError: A scene cannot be read or is smaller than a window, or none has data at any place.
    """
    encoder = model.require_remote_sensing().config
    size = encoder.tile_size
    found: dict[int, tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]] = {}
    mean = np.asarray(encoder.mean, np.float32)[:, None]
    for scene, rows, uv in _inside(config, ids, lonlat, encoder.gsd):
        if min(scene.grid.width, scene.grid.height) < size:
            raise BadInputError(
                f"A scene has {scene.grid.width} x {scene.grid.height} pixels; windows of {size} are "
                "needed to train the encoder.",
                "Train with mode=frozen, which takes scenes of any size.",
            )
        for row, place in zip(rows.tolist(), uv, strict=True):
            if row in found:
                continue
            window, inside = _window(scene, place, size)
            dn, valid = scene.read(window)
            pixel = np.minimum((inside * size).astype(int), size - 1)
            if not valid[pixel[1], pixel[0]]:
                continue
            dn[:, ~valid] = mean
            found[row] = dn.round().clip(0, 65535).astype(np.uint16), inside.astype(np.float32)
    if not found:
        raise _nowhere(config)
    ordered = sorted(found)
    return Windows(
        np.array(ordered, dtype=np.int64),
        np.stack([found[row][0] for row in ordered]),
        np.stack([found[row][1] for row in ordered]),
    )


def _inside(
    config: ScenePlacesConfig, ids: npt.NDArray[np.str_], lonlat: npt.NDArray[np.float64], gsd: float
) -> Iterator[tuple[Scene, npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Yield each scene with the rows of the places in it and their (u, v)."""
    from gair_core.inference.cache import bounded_cache
    from gair_core.sentinel2.scene import Scene

    for path, rows in config.of(ids, lonlat):
        with (
            bounded_cache(),
            Scene.open(str(path), gsd=gsd, offset=config.offset, missing=config.missing) as scene,
        ):
            uv = scene.grid.footprint.uv(lonlat[rows])
            inside = scene.grid.footprint.contains(uv)
            if inside.any():
                yield scene, np.array(rows, dtype=np.int64)[inside], uv[inside]


def _window(
    scene: Scene, place: npt.NDArray[np.float64], size: int
) -> tuple[Window, npt.NDArray[np.float64]]:
    """Return the window around a place and where in it the place lies."""
    from gair_core.geo.grid import Window

    pixels = np.array([scene.grid.width, scene.grid.height])
    position = place * pixels
    left, top = np.clip(np.round(position - size / 2), 0, pixels - size).astype(int).tolist()
    return Window(top, left, size, size), np.clip((position - [left, top]) / size, 0, 1)


def _nowhere(config: ScenePlacesConfig) -> BadInputError:
    where = config.folder or ", ".join(path.name for path in config.files)
    return BadInputError(
        f"None of the places lies on a scene with data ({where}).",
        "Check that scenes and places belong together.",
    )
