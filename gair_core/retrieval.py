"""Retrieval of photos by scenes on a handful of known pairs: does a model recognise what belongs together?

The authors publish three pairs (Detroit, Sacramento, Tokyo) and say of their weights that each scene finds
its own photo. What they do there is done here: a scene is squeezed to one tile of the model, NILI is asked at
the photo's place, and its vector is compared with those of all photos by the cosine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gair_core.config import RemoteSensingConfig
from gair_core.errors import BadInputError
from gair_core.geo.footprint import Footprint
from gair_core.geo.grid import Window
from gair_core.inference.encoding import encode_photos
from gair_core.model.gair import GAIR
from gair_core.photos.tables import PhotoTable, read_photos
from gair_core.progress import Progress, Quiet
from gair_core.sentinel2.bands import normalize, resize
from gair_core.sentinel2.scene import Scene

TABLE = "photos.csv"
Verdict = Literal["right", "wrong", "not conclusive"]
# A scene this much larger or smaller than a tile on the ground is squeezed to it whole, as the authors do.
_TOLERANCE = 0.1
# Shares of the loss of guessing, ln N: a model that is better than this knows, one that is worse guesses.
_KNOWS, _GUESSES = 0.5, 0.9
# Of the similarity map of a scene, in which the true place is ranked; pixels of a side.
_MAP = 48
_ADVICE: dict[Verdict, str] = {
    "right": "The model tells these places and photos apart; imported weights were imported right.",
    "wrong": (
        "The model guesses. Imported weights that do so are damaged, of another model or imported as another "
        "kind: fetch and import them again (gair download) and compare the SHA-256. A model that was never "
        "trained on real photos and scenes does so too, and there it is no fault."
    ),
    "not conclusive": (
        "The model is better than guessing, but not sure of every pair. Few pairs cannot say more: try more "
        "of your own in the same layout, with weights whose checksum was compared."
    ),
}


class RetrievalCheck(BaseModel):
    """How well scenes and photos that belong together find each other.

    Attributes:
        ids: Names of the N pairs.
        cosines: Row by row for each scene, at its photo's place, its cosine with every photo; N by N.
        scene_finds_photo: Part of the scenes whose own photo is the most similar, in [0, 1].
        photo_finds_scene: Part of the photos whose own scene is the most similar, in [0, 1].
        margins: Of each scene, the cosine with its own photo less the largest with another one.
        percentiles: Of each photo, the percentage of its own scene that is less similar to it than its place.
        loss: InfoNCE of the scenes over the photos at the model's temperature (paper, INCL), nats.
        guessing: What guessing loses, ln N.
        verdict: ``right`` when every scene finds its photo and the loss is at most half of guessing;
            ``wrong`` when it is at least 0.9 of guessing; else ``not conclusive``.
        advice: What the verdict means and what to do.
    """

    model_config = ConfigDict(frozen=True)

    ids: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...]
    scene_finds_photo: float
    photo_finds_scene: float
    margins: tuple[float, ...]
    percentiles: tuple[float, ...]
    loss: float
    guessing: float
    verdict: Verdict
    advice: str

    def text(self) -> str:
        """Return the report for people."""
        count = len(self.ids)
        scenes, photos = (
            f"{round(share * count)} of {count}" for share in (self.scene_finds_photo, self.photo_finds_scene)
        )
        place = f"{np.mean(self.percentiles):.1f} % of its scene (guessing: 50 %)"
        return "\n".join(
            [
                *self._matrix(),
                f"scenes that find their photo: {scenes} (all of them by luck: 1 in {count**count})",
                f"photos that find their scene: {photos}",
                f"the true place is more similar to its photo than {place}",
                f"loss {self.loss:.3f} (guessing: {self.guessing:.3f})",
                f"verdict: {self.verdict}. {self.advice}",
            ]
        )

    def _matrix(self) -> list[str]:
        width = max(8, *map(len, self.ids))
        names = " ".join(f"{name:>{width}}" for name in self.ids)
        lines = [
            "cosines of scenes (rows) with photos (columns):",
            f"{'':{width}} {names}   margin  percentile",
        ]
        for index, name in enumerate(self.ids):
            values = " ".join(f"{value:{width}.4f}" for value in self.cosines[index])
            lines.append(
                f"{name:{width}} {values} {self.margins[index]:+8.4f} {self.percentiles[index]:9.1f} %"
            )
        return lines


def check_retrieval(folder: Path, model: GAIR, progress: Progress) -> RetrievalCheck:
    """Let the scenes of a folder find its photos.

    Args:
        folder: Holds ``photos.csv`` with the columns ``id``, ``photo``, ``scene`` (paths relative to the
            folder), ``lon`` and ``lat`` (degrees, the place of the photo within the scene).
        model: A model with scene encoder and photo encoder, on the device that computes.
        progress: Its log says what is doubtful about a scene; may cancel.

    Raises:
        BadInputError: The folder is laid out otherwise, a photo's place is outside its scene, a file cannot
            be used, or the model lacks an encoder.
        CancelledError: The user cancelled.
    """
    if model.config.remote_sensing is None or model.config.street_view is None:
        raise BadInputError(
            f"Retrieval needs a scene encoder and a photo encoder, found {', '.join(model.parts)}.",
            "Give a whole model, such as that of 'gair download gair'.",
        )
    table = _read_table(folder)
    rows, photos = encode_photos(table, model, Quiet(progress), 1.0)
    if len(rows) < len(table):
        unread = [str(table.frame["id"].iloc[row]) for row in range(len(table)) if row not in rows]
        raise BadInputError(f"{folder / TABLE}: the photos of {', '.join(unread)} cannot be read.")
    places, percentiles = [], []
    for row, photo in enumerate(photos):
        progress.raise_if_cancelled()
        view = _open_scene(table, row, model.config.remote_sensing, progress)
        place, percentile = _compare(model, view, photo)
        places.append(place)
        percentiles.append(percentile)
    cosines = model.similarity(torch.stack(places), photos)
    return judge(tuple(map(str, table.frame["id"])), cosines, float(model.logit_scale), tuple(percentiles))


def judge(
    ids: tuple[str, ...], cosines: Tensor, logit_scale: float, percentiles: tuple[float, ...]
) -> RetrievalCheck:
    """Turn cosines into figures and a verdict.

    Args:
        ids: Names of the N pairs.
        cosines: Of scenes (rows) with photos (columns), shape (N, N); pairs on the diagonal.
        logit_scale: 1 / temperature of the model.
        percentiles: As in `RetrievalCheck`.
    """
    cosines = cosines.double()
    count = len(ids)
    pairs = torch.arange(count)
    own = cosines.diagonal()
    others = cosines.masked_fill(torch.eye(count, dtype=torch.bool), -math.inf)
    loss, guessing = float(F.cross_entropy(cosines * logit_scale, pairs)), math.log(count)
    found = float((own > others.amax(dim=1)).double().mean())
    verdict: Verdict = "not conclusive"
    if not loss < _GUESSES * guessing:  # NaN is no success either
        verdict = "wrong"
    elif found == 1 and loss <= _KNOWS * guessing:
        verdict = "right"
    return RetrievalCheck(
        ids=ids,
        cosines=tuple(tuple(row) for row in cosines.tolist()),
        scene_finds_photo=found,
        photo_finds_scene=float((own > others.amax(dim=0)).double().mean()),
        margins=tuple((own - others.amax(dim=1)).tolist()),
        percentiles=percentiles,
        loss=loss,
        guessing=guessing,
        verdict=verdict,
        advice=_ADVICE[verdict],
    )


@dataclass(frozen=True)
class _View:
    """What the scene encoder sees of a scene: normalised (1, C, H, W), and where the photo stands in it."""

    images: Tensor
    uv: npt.NDArray[np.float64]


def _read_table(folder: Path) -> PhotoTable:
    path = folder / TABLE
    if not path.is_file():
        raise BadInputError(
            f"{folder} is no folder with a {TABLE}.",
            "The table must have the columns id, photo, scene, lon and lat; paths relative to the folder.",
        )
    table = read_photos(path, photo_field="photo", lon_field="lon", lat_field="lat")
    absent = [name for name in ("id", "scene") if name not in table.frame]
    if absent:
        raise BadInputError(
            f"{path} lacks the columns {' and '.join(absent)}.", "Columns: id, photo, scene, lon, lat."
        )
    if len(table) < 2 or not table.placed.all():
        raise BadInputError(
            f"{path} has {int(table.placed.sum())} places in {len(table)} rows, wanted at least two rows, "
            "each with its place."
        )
    return table


def _open_scene(table: PhotoTable, row: int, config: RemoteSensingConfig, progress: Progress) -> _View:
    path = table.source.parent / str(table.frame["scene"].iloc[row])
    place = table.lonlat[row : row + 1]
    with Scene.open(path, gsd=None) as scene:
        for warning in scene.warnings:
            progress.log("warning", warning)
        footprint = scene.native.footprint
        uv = footprint.uv(place)[0]
        if not footprint.contains(uv[None])[0]:
            lon, lat = place[0]
            raise BadInputError(
                f"{path}: the photo's place {lon:.6f}, {lat:.6f} is outside the scene.",
                f"Correct lon and lat of '{table.frame['id'].iloc[row]}' in {table.source}.",
            )
        window, size = _cut(footprint, uv, config)
        dn, valid = scene.read(window)
        place_in_window = scene.native.crop(window).footprint.uv(place)
    images = normalize(torch.from_numpy(dn), config.mean, config.std, quantize=config.quantize)
    images[:, ~torch.from_numpy(valid)] = 0.5  # the mean of every band
    return _View(resize(images[None], size), place_in_window)


def _cut(
    footprint: Footprint, uv: npt.NDArray[np.float64], config: RemoteSensingConfig
) -> tuple[Window, tuple[int, int]]:
    """Return the pixels around a place that make one tile, and the height and width to resize them to."""
    pixel_x, pixel_y = footprint.pixel_size_metres()
    column, width, columns = _cut_axis(footprint.width, pixel_x, uv[0], config)
    row, height, rows = _cut_axis(footprint.height, pixel_y, uv[1], config)
    return Window(row, column, height, width), (rows, columns)


def _cut_axis(pixels: int, metres: float, place: float, config: RemoteSensingConfig) -> tuple[int, int, int]:
    """Return the first pixel, the number of pixels and the size to resize them to, of one axis."""
    tiles = pixels * metres / (config.tile_size * config.gsd)
    if tiles > 1 + _TOLERANCE:
        count = max(1, round(pixels / tiles))
        start = round(place * pixels - count / 2)
        return min(max(start, 0), pixels - count), count, config.tile_size
    if tiles >= 1 - _TOLERANCE:
        return 0, pixels, config.tile_size
    return 0, pixels, max(1, round(tiles * config.tile_size / config.patch_size)) * config.patch_size


@torch.inference_mode()
def _compare(model: GAIR, view: _View, photo: Tensor) -> tuple[Tensor, float]:
    """Return the embedding (D,) at the photo's place, and the percentile of its cosine within the scene."""
    features = model.encode_remote_sensing(view.images.to(model.device))
    uv = torch.from_numpy(view.uv)[None].clamp(0, 1).to(features.device, features.dtype)
    place = model.interpolate(features, uv)[0, 0].float().cpu()
    dense = model.interpolate_dense(features, (_MAP, _MAP))[0].flatten(1).mT.float().cpu()
    similarity = model.similarity(photo[None], dense)[0]
    here = model.similarity(photo[None], place[None])[0, 0]
    return place, 100 * float((similarity < here).double().mean())
