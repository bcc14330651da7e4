"""What the classifier sees at labelled pixels: the embedding and the pixel's own bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gair_core.heads.base import embedding_lattice, embedding_rim
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.inference.engine import Engine
from gair_core.inference.pixel_bands import feature_grid, features_at, pixel_size, pixels_under
from gair_core.inference.points import Places, plan_groups, sample_places
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PixelTable:
    """Features of N pixels.

    Attributes:
        embedding: z(q) at the pixels' centres, float32, shape (N, D).
        bands: Features of `PixelFeatures`, DN, float32, shape (N, F).
        valid: Whether the scene has data at the pixel, shape (N,); the other rows mean nothing.
        lonlat: Longitude and latitude of the pixels' centres, degrees, float64, shape (N, 2).
    """

    embedding: npt.NDArray[np.float32]
    bands: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    lonlat: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.valid)

    def take(self, chosen: npt.NDArray[np.bool_] | IntArray) -> PixelTable:
        """Return some of the pixels."""
        return PixelTable(self.embedding[chosen], self.bands[chosen], self.valid[chosen], self.lonlat[chosen])

    @classmethod
    def concatenate(cls, tables: Sequence[PixelTable]) -> PixelTable:
        """Return the pixels of several scenes in one table."""
        return cls(
            np.concatenate([table.embedding for table in tables]),
            np.concatenate([table.bands for table in tables]),
            np.concatenate([table.valid for table in tables]),
            np.concatenate([table.lonlat for table in tables]),
        )


def features_of(scene: Scene) -> PixelFeatures:
    """Return the features for a head that is trained on a scene, at the size of its pixels."""
    return PixelFeatures(gsd=pixel_size(scene.native))


def tiles_needed(engine: Engine, scene: Scene, row: IntArray, column: IntArray) -> int:
    """Return how many tiles `collect` encodes, for the estimate of a dry run; pixels as in `collect`."""
    groups = plan_groups(engine, scene, _places(engine, scene, row, column))
    return sum(group.plan.count for group in groups)


def collect(
    engine: Engine,
    scene: Scene,
    row: IntArray,
    column: IntArray,
    *,
    features: PixelFeatures,
    progress: Progress | None = None,
    share: tuple[float, float] = (0.0, 1.0),
) -> PixelTable:
    """Return what the classifier sees at pixels of a scene's own grid (`Scene.native`).

    Only the tiles that the pixels need are encoded; memory is that of one strip of tiles and of the result.

    Args:
        engine: The engine.
        scene: The scene, opened at the model's ground sampling distance.
        row: Rows in ``scene.native``, shape (N,), N at least 1.
        column: Columns in ``scene.native``, shape (N,).
        features: Which features of the bands; the same for all scenes of a head.
        progress: Told the done fraction; may cancel.
        share: Part of the caller's progress that this is.

    Raises:
        BadInputError: The model's embeddings do not factorise, or a file is damaged.
        CancelledError: The user cancelled.
    """
    model = engine.model

    def transform(encoded: Tensor) -> Tensor:
        return embedding_lattice(model, encoded)

    places = _places(engine, scene, row, column)
    embedding, seen = sample_places(
        engine,
        scene,
        places,
        plan_groups(engine, scene, places),
        transform=transform,
        rim_weight=embedding_rim(model),
        progress=progress,
        share=share,
    )
    native, grid = scene.native, feature_grid(scene, features)
    bands, valid = features_at(
        scene,
        grid,
        pixels_under(native.height, grid.height, 0, native.height)[row],
        pixels_under(native.width, grid.width, 0, native.width)[column],
        features,
    )
    lonlat = native.footprint.lonlat(_uv(scene, row, column))
    return PixelTable(embedding, bands, seen & valid, lonlat)


def _places(engine: Engine, scene: Scene, row: IntArray, column: IntArray) -> Places:
    return Places.of(_uv(scene, row, column), (scene.grid.width, scene.grid.height), engine.patch)


def _uv(scene: Scene, row: IntArray, column: IntArray) -> npt.NDArray[np.float64]:
    """Return the centres of pixels in the scene's footprint, (N, 2)."""
    return np.stack([(column + 0.5) / scene.native.width, (row + 0.5) / scene.native.height], axis=1)
