"""How good a head trained from polygons is, against the usual ways to classify pixels.

    python benchmarks/train_head.py [--model demo] [--germany FOLDER] [--splits 10] [--city 9]

Ten times a random third of each class's polygons (at least one, and at least one is left) is held out, and
all their pixels are classified by what was trained on balanced draws of the others' pixels:

- a random forest (200 trees) on the ten bands,
- logistic regression on the bands and their 5 x 5 means, the strongest simple rival, with scikit-learn's own
  defaults and with classes balanced,
- our solver on the bands and their small-window means alone, on the embedding z alone, and on both.

Seconds are of the processor, for one training and the prediction, without encoding.

The scenes are a real one with 22 polygons, whose bands alone are nearly enough, and cities of a world of
another seed than the one that models are trained on. Their classes need context: a land cover that the world
has in several kinds of districts is divided by them, so that a lawn in a park is another class than a pasture
outside of town, and a roof in the centre another one than a factory's. What covers one kind of place alone,
such as water and crops, is left out. All that follows from the world's own plan (`gair_core.world`). Polygons
are discs of up to 100 m, clear of the edges of their patches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.features import shapes
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gair_core import checkpoint
from gair_core.finetune.few_shot.features import PixelTable, collect, features_of
from gair_core.finetune.few_shot.fit import FitOptions, fit
from gair_core.finetune.few_shot.label_pixels import label_places
from gair_core.finetune.few_shot.labels import read_labels
from gair_core.finetune.few_shot.sampling import draw_pixels
from gair_core.geo.footprint import apply_affine
from gair_core.inference.engine import Engine
from gair_core.sentinel2.scene import Scene
from gair_core.world import LAND_COVER, World, layout
from gair_core.world.city import City
from gair_core.world.writers import write_scene

WORLD_SEED = 20240611
DAY = date(2023, 7, 10)
FEWEST_POLYGONS = 4
POLYGONS = 12
TRIES = 2000
"""Pixels of a class that are tried as centres."""
REACH = 100.0
"""Largest radius of a polygon in metres."""
APART = 300.0
"""Least distance between the centres of two polygons of one class in metres."""

# Which kinds of district divide which covers of the ground, by the names of the classes that result.
LAND_USE = {
    "park or lawn in town": ("grass", range(layout.CENTRE, layout.FIELDS)),
    "grassland": ("grass", range(layout.FIELDS, layout.BARREN + 1)),
    "trees in town": ("forest", range(layout.CENTRE, layout.FIELDS)),
    "woodland": ("forest", range(layout.FIELDS, layout.BARREN + 1)),
    "building land": ("bare soil", range(layout.CENTRE, layout.FIELDS)),
    "bare ground": ("bare soil", range(layout.FIELDS, layout.BARREN + 1)),
    "centre": ("dense built-up", range(layout.CENTRE, layout.CENTRE + 1)),
    "tower blocks": ("dense built-up", range(layout.TOWERS, layout.TOWERS + 1)),
    "industry": ("dense built-up", range(layout.INDUSTRY, layout.INDUSTRY + 1)),
    "houses": ("sparse built-up", range(layout.CENTRE, layout.FIELDS)),
    "farm": ("sparse built-up", range(layout.FIELDS, layout.BARREN + 1)),
}

Indices = npt.NDArray[np.int64]
Classify = Callable[[Indices, int], Indices]


@dataclass(frozen=True)
class Labelled:
    """Labelled pixels of one scene."""

    name: str
    table: PixelTable
    target: Indices
    polygon: Indices
    classes: list[str]

    def take(self, chosen: Indices) -> Labelled:
        """Return some of the pixels."""
        return replace(
            self,
            table=self.table.take(chosen),
            target=self.target[chosen],
            polygon=self.polygon[chosen],
        )


def read(name: str, scene_path: Path, labels: Path, engine: Engine) -> Labelled:
    """Collect the labelled pixels of a scene and print what they are."""
    layer = read_labels(labels, "class")
    with Scene.open(scene_path, gsd=engine.config.gsd) as scene:
        places = label_places(layer, scene.native)
        start = time.process_time()
        table = collect(engine, scene, places.row, places.col, features=features_of(scene))
    seconds = time.process_time() - start
    found = Labelled(name, table, places.target, places.polygon, [one.name for one in layer.classes])
    found = found.take(np.flatnonzero(table.valid))
    print(f"\n{name}: {len(found.target)} pixels, encoded in {seconds:.0f} s of processor time")
    for number, one in enumerate(found.classes):
        mine = found.target == number
        print(f"  {one:22s}{mine.sum():6d} pixels in {len(np.unique(found.polygon[mine])):2d} polygons")
    return found


# --- the world's classes --------------------------------------------------------------------------------


def land_use(city: City) -> npt.NDArray[np.uint8]:
    """Return the land use of every pixel: its number in `LAND_USE` plus one, 0 for none."""
    cover = city.land_cover(DAY)
    centres = (np.arange(city.size) + 0.5) * city.geotransform[0] - city.size // 2 * city.geotransform[0]
    x = np.tile(centres, city.size).astype(np.float32)
    y = np.repeat(-centres, city.size).astype(np.float32)
    district = city.surface(DAY.year).place(x, y).kind.reshape(cover.shape)
    use = np.zeros(cover.shape, np.uint8)
    for number, (name, kinds) in enumerate(LAND_USE.values(), start=1):
        use[(cover == LAND_COVER.index(name)) & np.isin(district, list(kinds))] = number
    return use


def draw_polygons(city: City, use: npt.NDArray[np.uint8]) -> gpd.GeoDataFrame:
    """Draw polygons of each land use all over the scene; uses with too few are left out."""
    rng = np.random.default_rng(city.seed)
    transform = Affine(*city.geotransform)
    patches: dict[int, list[shapely.Geometry]] = {}
    for geometry, value in shapes(use, mask=use > 0, transform=transform):
        # Half a pixel inwards leaves the mixed pixels out.
        inner = shapely.geometry.shape(geometry).buffer(-5)
        if inner.area >= 800:
            patches.setdefault(int(value), []).append(inner)
    rows = []
    for value, mine in sorted(patches.items()):
        row, column = np.nonzero(use == value)
        places = apply_affine(transform, np.column_stack([column, row]) + 0.5)
        drawn = list(_discs(mine, places[rng.permutation(len(places))[:TRIES]]))
        if len(drawn) >= FEWEST_POLYGONS:
            rows += [(list(LAND_USE)[value - 1], polygon) for polygon in drawn]
    names, polygons = zip(*rows, strict=True)
    return gpd.GeoDataFrame({"class": list(names)}, geometry=list(polygons), crs=f"EPSG:{city.epsg}")


def _discs(patches: list[shapely.Geometry], places: npt.NDArray[np.float64]) -> Iterator[shapely.Geometry]:
    """Cut discs out of patches around places, apart from one another."""
    tree = shapely.STRtree(patches)
    centres: list[shapely.Point] = []
    for point in shapely.points(places):
        if len(centres) == POLYGONS or any(point.distance(other) < APART for other in centres):
            continue
        for number in tree.query(point, predicate="within"):
            cut = patches[number].intersection(point.buffer(REACH))
            part = max(getattr(cut, "geoms", [cut]), key=lambda one: one.area)
            if part.area >= 800:
                centres.append(point)
                yield part


# --- the candidates -------------------------------------------------------------------------------------


def simple(labelled: Labelled, columns: Indices, build: Callable[[int], object]) -> Classify:
    """Return a classifier of scikit-learn on some features of the bands."""

    def classify(train: Indices, split: int) -> Indices:
        part = labelled.take(train)
        drawn = draw_pixels(
            part.polygon, part.target, per_polygon=200, per_class=2000, total=20_000,
            rng=np.random.default_rng(split),
        )  # fmt: skip
        model = build(split)
        model.fit(part.table.bands[drawn][:, columns], part.target[drawn])
        return np.asarray(model.predict(labelled.table.bands[:, columns]))

    return classify


def ours(labelled: Labelled, options: FitOptions, *, bands: bool = True) -> Classify:
    """Return our classifier; without bands they are all the same, so that nothing can be learnt from them."""
    table = labelled.table if bands else replace(labelled.table, bands=np.zeros_like(labelled.table.bands))

    def classify(train: Indices, split: int) -> Indices:
        part = labelled.take(train)
        found = fit(
            table.take(train), part.target, part.polygon, part.classes, options=replace(options, seed=split)
        )
        return np.asarray(found.classifier.logits(table).argmax(axis=1))

    return classify


def candidates(labelled: Labelled) -> dict[str, Classify]:
    ten, five = np.arange(10), np.r_[0:10, 20:30]

    def forest(split: int) -> RandomForestClassifier:
        return RandomForestClassifier(200, random_state=split)

    def logistic(split: int) -> object:
        del split
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))

    def balanced(split: int) -> object:
        del split
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))

    alone = FitOptions(penalties=(1.0,))
    return {
        "random forest, 10 bands": simple(labelled, ten, forest),
        "logistic regression, bands + 5x5": simple(labelled, five, logistic),
        "the same, classes balanced": simple(labelled, five, balanced),
        "ours, bands alone": ours(labelled, FitOptions(components=(0,))),
        "ours, z alone": ours(labelled, alone, bands=False),
        "ours, both": ours(labelled, FitOptions()),
    }


def held_out(labelled: Labelled, split: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of a random third of each class's polygons."""
    rng = np.random.default_rng([split, 1])
    test: list[int] = []
    for number in range(len(labelled.classes)):
        polygons = np.unique(labelled.polygon[labelled.target == number])
        count = min(max(1, round(len(polygons) / 3)), len(polygons) - 1)
        test += rng.permutation(polygons)[:count].tolist()
    return np.isin(labelled.polygon, test)


def compare(labelled: Labelled, splits: int) -> None:
    """Print accuracy and macro-F1 of all candidates over the same splits."""
    results: dict[str, list[tuple[float, float, float]]] = {}
    for split in range(splits):
        test = held_out(labelled, split)
        for name, classify in candidates(labelled).items():
            start = time.process_time()
            predicted = classify(np.flatnonzero(~test), split)[test]
            seconds = time.process_time() - start
            target = labelled.target[test]
            accuracy = float((predicted == target).mean())
            score = f1_score(target, predicted, average="macro", labels=np.unique(target), zero_division=0)
            results.setdefault(name, []).append((100 * accuracy, 100 * float(score), seconds))
        print(f"  split {split + 1}: macro-F1 of both {results['ours, both'][-1][1]:.1f}", flush=True)
    print(f"{f'over {splits} splits by polygon':36s}{'accuracy':>16s}{'macro-F1':>16s}{'CPU s':>9s}")
    for name, rows in results.items():
        mean, deviation = np.mean(rows, axis=0), np.std(rows, axis=0)
        accuracy, score = (f"{mean[k]:7.2f} +- {deviation[k]:5.2f}" for k in (0, 1))
        print(f"{name:36s}{accuracy:>16s}{score:>16s}{mean[2]:9.1f}")
    gain = np.array(results["ours, both"]) - np.array(results["ours, bands alone"])
    error = gain.std(axis=0, ddof=1) / len(gain) ** 0.5
    print(f"both - bands: accuracy {gain[:, 0].mean():+.2f} (standard error {error[0]:.2f}), "
          f"macro-F1 {gain[:, 1].mean():+.2f} ({error[1]:.2f})")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="the encoder, a path or a registered name")
    parser.add_argument("--germany", type=Path, help="folder with sen2.tif and training_polygons.gpkg")
    parser.add_argument("--city", type=int, nargs="*", default=[9], help="cities of the held-out world")
    parser.add_argument("--size", type=int, default=512, help="height and width of a city in pixels")
    parser.add_argument("--splits", type=int, default=10)
    arguments = parser.parse_args()
    engine = Engine(checkpoint.load(arguments.model), "cpu")
    print(f"model {arguments.model}: {engine.model.config.embed_dim} dimensions")
    if arguments.germany is not None:
        scene, labels = (arguments.germany / name for name in ("sen2.tif", "training_polygons.gpkg"))
        compare(read("Germany", scene, labels, engine), arguments.splits)
    for number in arguments.city:
        city = World(WORLD_SEED).city(number, arguments.size)
        with tempfile.TemporaryDirectory() as folder:
            scene = write_scene(city, Path(folder) / "scene.tif", DAY)
            labels = Path(folder) / "labels.gpkg"
            draw_polygons(city, land_use(city)).to_file(labels)
            labelled = read(f"{city.name} ({city.region.name})", scene, labels, engine)
        compare(labelled, arguments.splits)


if __name__ == "__main__":
    main()
