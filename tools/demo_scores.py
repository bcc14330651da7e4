"""What a demonstration found beside what is true: land cover, change and wrongly tagged photos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyogrio
import pyproj
import rasterio
from defusedxml import ElementTree
from rasterio.features import rasterize
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from gair_core.finetune.world_land_cover import chance_iou
from gair_core.photos.columns import photo_column

_GEOD = pyproj.Geod(ellps="WGS84")
Place = tuple[float, float]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ClassScore:
    """How well one class was mapped: intersection over union, and the share of the true map, both 0-1."""

    name: str
    colour: str
    iou: float
    share: float


@dataclass(frozen=True)
class CoverScores:
    """A map of land cover against the truth.

    Attributes:
        accuracy: Share of the pixels that are right, 0-1.
        mean_iou: Mean intersection over union of the classes that occur in the truth, 0-1.
        largest: Share of the truth's most frequent class: the accuracy of a map of one class alone.
        chance: Mean intersection over union of a map that draws the classes as often as they are true.
        classes: The classes that occur in the truth.
        pixels: How many pixels were compared.
    """

    accuracy: float
    mean_iou: float
    largest: float
    chance: float
    classes: tuple[ClassScore, ...]
    pixels: int


@dataclass(frozen=True)
class Ranking:
    """How well a measure of difference ranks the pixels that changed before those that did not.

    Attributes:
        auc: How often a changed pixel has the larger value of a changed and an unchanged one, 0-1; by chance
            0.5.
        auc_no_fields: The same without the pixels that are fields on both dates.
        precision: Share of changed ones among as many pixels of the largest values as really changed; then it
            equals the recall.
        average_precision: Mean precision over all thresholds.
    """

    auc: float
    auc_no_fields: float
    precision: float
    average_precision: float


@dataclass(frozen=True)
class ChangeScores:
    """A map of distances between two dates against what really changed.

    Attributes:
        share: Share of the pixels that changed, 0-1: what precision and average precision are by chance.
        distance: Of the distances.
        bands: Of the plain difference of the two dates' bands.
    """

    share: float
    distance: Ranking
    bands: Ranking


@dataclass(frozen=True)
class PhotoScore:
    """What gair:photosimilarity says of a photo.

    Attributes:
        path: The photo.
        tagged: Longitude and latitude of its tag.
        best: Those of the most similar place.
        similarity: Cosine at the tagged place, -1 to 1.
        percentile: Share of the scene that is less similar than the tagged place, 0-100.
        true: Where it was taken, if that is known.
        wrong: Whether the tag is known to be wrong.
    """

    path: Path
    tagged: Place
    best: Place
    similarity: float
    percentile: float
    true: Place | None = None
    wrong: bool = False

    @property
    def error(self) -> float:
        """Metres between the tagged and the true place; 0 where nothing is known."""
        return 0.0 if self.true is None else float(_GEOD.inv(*self.tagged, *self.true)[2])


@dataclass(frozen=True)
class PhotoScores:
    """All photos, from the least to the most similar place by percentile.

    Attributes:
        photos: The photos.
    """

    photos: tuple[PhotoScore, ...]

    @property
    def wrong(self) -> tuple[PhotoScore, ...]:
        """The photos whose tags are known to be wrong."""
        return tuple(photo for photo in self.photos if photo.wrong)

    @property
    def right(self) -> tuple[PhotoScore, ...]:
        """The others."""
        return tuple(photo for photo in self.photos if not photo.wrong)

    @property
    def found(self) -> int:
        """How many of the k wrong ones are among the k photos of the lowest percentiles."""
        return sum(photo.wrong for photo in self.photos[: len(self.wrong)])

    @property
    def found_by_chance(self) -> float:
        """How many of the k wrong ones are among k photos drawn at random, on average."""
        return len(self.wrong) ** 2 / len(self.photos)

    @property
    def to_look_at(self) -> int:
        """How many photos one looks at, from the lowest percentile on, until all wrong ones are found."""
        return max((rank for rank, photo in enumerate(self.photos, 1) if photo.wrong), default=0)


def legend_of(raster: Path) -> dict[int, tuple[str, str]]:
    """Return name and colour (#rrggbb) of each value of a class raster, as QGIS's legend shows them."""
    style = ElementTree.parse(raster.with_suffix(".qml"))
    return {
        int(entry.get("value", "0")): (entry.get("label", ""), entry.get("color", "#000000"))
        for entry in style.iter("paletteEntry")
    }


def score_cover(
    found: Path, truth: Path, *, polygons: Path | None = None, merged: Mapping[str, str] | None = None
) -> CoverScores:
    """Compare a map of classes with the true one, class by class by their names.

    Args:
        found: The raster of a segmentation, with its style.
        truth: The raster of true classes on the same grid, with its style; pixels of value 0 do not count.
        polygons: Training polygons, whose pixels do not count.
        merged: Names of classes of the map, and what the truth calls them.
    """
    names = legend_of(truth)
    counted, true, values = _pixels(found, truth, polygons)
    # A class of the map that the truth does not know is wrong wherever it stands.
    unknown = max(names) + 1
    number_of = {name: value for value, (name, _) in names.items()}
    legend = legend_of(found)
    renamed = np.full(max(legend) + 1, unknown)
    for value, (name, _) in legend.items():
        renamed[value] = number_of.get((merged or {}).get(name, name), unknown)
    table = confusion_matrix(true[counted], renamed[values[counted]], labels=range(1, unknown + 1))
    right, true_counts, total = np.diag(table), table.sum(axis=1), int(table.sum())
    ious = right / np.maximum(true_counts + table.sum(axis=0) - right, 1)
    classes = tuple(
        ClassScore(name, colour, float(ious[value - 1]), float(true_counts[value - 1] / total))
        for value, (name, colour) in names.items()
        if true_counts[value - 1]
    )
    return CoverScores(
        accuracy=float(right.sum() / total),
        mean_iou=float(np.mean([one.iou for one in classes])),
        largest=max(one.share for one in classes),
        chance=chance_iou(true_counts.tolist()),
        classes=classes,
        pixels=total,
    )


def _pixels(
    found: Path, truth: Path, polygons: Path | None
) -> tuple[Mask, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return which pixels count, the true values and those that were found, (H, W) each."""
    with rasterio.open(found) as source, rasterio.open(truth) as reference:
        values, true = source.read(1), reference.read(1)
        counted = (true > 0) & (values > 0)
        if polygons is not None:
            counted &= ~_covered(polygons, reference)
    return counted, true, values


def _covered(polygons: Path, raster: rasterio.DatasetReader) -> Mask:
    """Return which pixels polygons touch."""
    shapes = gpd.read_file(polygons).to_crs(raster.crs).geometry
    touched = rasterize(shapes, raster.shape, transform=raster.transform, all_touched=True)
    return np.asarray(touched > 0)


def score_change(distance: Path, scenes: tuple[Path, Path], covers: tuple[Path, Path]) -> ChangeScores:
    """Compare a map of distances with where the true land cover of two dates differs.

    Args:
        distance: The distances.
        scenes: The two dates' bands, for the plain difference.
        covers: The two dates' true classes, with styles.
    """
    found = _read(distance)[0]
    before, after = (_read(path).astype(np.float32) for path in scenes)
    then, now = (_read(path)[0] for path in covers)
    valid = np.isfinite(found)
    changed = (then != now)[valid]
    bands = np.sqrt(np.square(after - before).sum(axis=0))
    crops = next(value for value, (name, _) in legend_of(covers[0]).items() if name == "crops")
    other = ~((then == crops) & (now == crops))[valid]
    return ChangeScores(
        share=float(changed.mean()),
        distance=_rank(found[valid], changed, other),
        bands=_rank(bands[valid], changed, other),
    )


def _rank(values: npt.NDArray[np.float32], changed: Mask, other: Mask) -> Ranking:
    """Rank pixels, of which ``other`` are no fields; all of shape (N,)."""
    largest = np.argpartition(-values, changed.sum() - 1)[: changed.sum()]
    return Ranking(
        auc=float(roc_auc_score(changed, values)),
        auc_no_fields=float(roc_auc_score(changed[other], values[other])),
        precision=float(changed[largest].mean()),
        average_precision=float(average_precision_score(changed, values)),
    )


def _read(path: Path) -> npt.NDArray[np.float32]:
    with rasterio.open(path) as source:
        values: npt.NDArray[np.float32] = source.read()
    return values


def score_photos(scores: Path, folder: Path, truth: Path | None = None) -> PhotoScores:
    """Read what gair:photosimilarity wrote about photos, and what is true of them.

    Args:
        scores: Its layer of photos.
        folder: What relative paths of photos are relative to.
        truth: The JSON of `gair_core.world.demo.write_demo`.
    """
    known = {} if truth is None else json.loads(truth.read_text("utf-8"))
    frame = pyogrio.read_dataframe(scores, layer=_layer(scores)).to_crs("EPSG:4326")
    field = photo_column(frame.drop(columns=frame.geometry.name), None, f"The layer {scores}")
    found = [_photo(row, folder / str(row[field]), known) for _, row in frame.iterrows()]
    return PhotoScores(tuple(sorted(found, key=lambda photo: photo.percentile)))


def _layer(path: Path) -> str:
    """Return the layer of points; QGIS keeps styles in a second one."""
    return next(str(name) for name, kind in pyogrio.list_layers(path) if kind is not None)


def _photo(row: Mapping[str, float], path: Path, known: Mapping[str, dict[str, Place]]) -> PhotoScore:
    true = known["positions"][path.name] if known else None
    return PhotoScore(
        path=path,
        tagged=(row["geometry"].x, row["geometry"].y),
        best=(row["best_lon"], row["best_lat"]),
        similarity=float(row["similarity"]),
        percentile=float(row["percentile"]),
        true=None if true is None else (true[0], true[1]),
        wrong=bool(known) and path.name in known["wrong"],
    )
