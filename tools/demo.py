"""Run the built plugin as a user would, without a screen, and make a page of what it does.

Installs ``build/gair-<version>.zip`` in a throw-away QGIS profile and runs its algorithms with
``qgis_process``: on a city of the procedural world, of which everything is known, or on a scene of yours.
The page holds the maps as QGIS rendered them, the photos beside their similarity layers, figures against
the truth where it is known, and the commands that repeat each step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import demo_scene
import pyogrio
from demo_inputs import Inputs, check_files, claim
from demo_maps import SMALL_SIDE, check_renderer, photo_maps, render_maps, scene_maps
from demo_page import Page, PhotoView, Truth, percent, picture_uri, render_page
from demo_process import Process, Step, find_qgis, setup_commands
from demo_scores import (
    CoverScores,
    PhotoScore,
    PhotoScores,
    legend_of,
    score_change,
    score_cover,
    score_photos,
)
from package import version
from sketch import Sketch
from stage import NAME, ROOT

from gair_core.finetune.world_land_cover import MERGED
from gair_core.world import World
from gair_core.world.demo import DAY, LATER, DemoFiles

PHOTO_RADIUS = 2000
PHOTOS_SHOWN = 40
ARCHIVE = ROOT / "build" / f"{NAME}-{version()}.zip"


def main() -> None:
    """Run the demonstration that the command line asks for."""
    options = _parse()
    program = _check_tools(options.qgis_python)
    started = time.monotonic()
    inputs = _inputs(options)
    with tempfile.TemporaryDirectory(prefix="gair-profile-") as profile:
        process = Process(program, Path(profile), inputs.folder)
        process.install(ARCHIVE)
        steps = run_algorithms(process, inputs, options.model, options.head)
    scores = None if inputs.photos is None else _photo_scores(inputs, inputs.photos)
    maps = scene_maps(inputs, scores)
    shown = _shown(scores)
    photos = photo_maps(inputs, shown, steps["layers"].files) if shown else {}
    render_maps(options.qgis_python, [*maps, *photos.values()])
    content = Page(
        name="a city of the procedural world" if inputs.world else inputs.scene.name,
        model=options.model,
        head=options.head,
        files=inputs.folder,
        setup=setup_commands(process.program, ARCHIVE, inputs.folder),
        maps={Path(one.picture).stem: picture_uri(Path(one.picture)) for one in maps},
        steps=steps,
        seconds=time.monotonic() - started,
        scores=scores,
        views=tuple(_views(scores, shown, photos)) if scores else (),
        truth=_truth(inputs.world, inputs.folder) if inputs.world else None,
        report=(inputs.folder / "report.html").read_text("utf-8") if inputs.world else "",
        place=_place() if inputs.world else "",
    )
    inputs.page.write_text(render_page(content), encoding="utf-8")
    say(_summary(content))
    say(f"{time.monotonic() - started:.0f} s in all. Open {inputs.page}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scene", type=Path, help="raster with the ten bands; default: a city of the world")
    parser.add_argument("--photos", type=Path, help="folder of geotagged photos, or a table with their paths")
    parser.add_argument("--output", type=Path, default=ROOT / "demo", help="where everything goes")
    parser.add_argument("--model", default="demo", help="a checkpoint or the name of a registered model")
    parser.add_argument(
        "--head", default="demo", help="a head for gair:segment, or the name of a registered one"
    )
    parser.add_argument("--qgis-python", default="/usr/bin/python3", help="the Python that QGIS uses")
    options = parser.parse_args()
    if options.photos is not None and options.scene is None:
        parser.error("--photos needs --scene: the city of the world has photos of its own")
    return options


def _check_tools(qgis_python: str) -> str:
    """Return the path of `qgis_process`; complain of what is missing before anything takes time."""
    if not ARCHIVE.is_file():
        raise SystemExit(f"{ARCHIVE} is missing; run make plugin")
    check_renderer(qgis_python)
    return find_qgis()


def _inputs(options: argparse.Namespace) -> Inputs:
    folder = (options.output / (options.scene.stem if options.scene else "world")).absolute()
    check_files(options, folder)
    page = (folder if options.scene else folder.parent) / "index.html"
    claim(folder, page)
    if options.scene is not None:
        return Inputs(folder, page, options.scene, options.photos, None)
    began = time.monotonic()
    files = demo_scene.write(folder)
    say(
        f"No SCENE was given: a city of the procedural world, {time.monotonic() - began:.1f} s -> {folder}\n"
        f"It has two dates and {demo_scene.PHOTOS} photos, {demo_scene.WRONG} of them wrongly tagged."
    )
    return Inputs(folder, page, files.scene, files.photos, files)


def run_algorithms(process: Process, inputs: Inputs, model: str, head: str) -> dict[str, Step]:
    """Run the algorithms; returns what each made, by a name that the page knows."""
    scene = inputs.name(inputs.scene)
    steps = {
        "segment": process.run("gair:segment", INPUT=scene, MODEL=head, OUTPUT="classes.tif"),
        "embed": process.run("gair:embed", INPUT=scene, MODEL=model, OUTPUT="embeddings.tif"),
    }
    if inputs.photos is None:
        say("gair:photosimilarity is left out: this scene has no photos (name them with PHOTOS=...).")
    else:
        steps.update(_compare_photos(process, inputs, inputs.photos, model))
    if inputs.world is not None:
        steps.update(_train_and_compare(process, inputs, inputs.world, model))
    return steps


def _compare_photos(process: Process, inputs: Inputs, photos: Path, model: str) -> dict[str, Step]:
    scene, steps, layer = inputs.name(inputs.scene), {}, inputs.name(photos)
    if photos.is_dir():
        # QGIS's own way from a folder of geotagged photos to a layer.
        layer = "photo_places.gpkg"
        steps["photos"] = process.run("native:importphotos", FOLDER=inputs.name(photos), OUTPUT=layer)
        if not _count(inputs.folder / layer):
            raise SystemExit(
                f"PHOTOS: no JPEG in {photos} says where it was taken (EXIF GPS tags).\n"
                "Give photos that do, or a table with their paths, lon and lat."
            )
    given = {"INPUT": scene, "PHOTOS": layer, "MODEL": model}
    steps["similarity"] = process.run(
        "gair:photosimilarity", **given, OUTPUT="similarity.tif", OUTPUT_PHOTOS="similarity_photos.gpkg"
    )
    # A scene of any size has room for windows around its photos alone; 0 is the whole scene.
    radius = 0 if inputs.world else PHOTO_RADIUS
    steps["layers"] = process.run(
        "gair:photosimilarity", **given, MODE="photo", RADIUS=radius, OUTPUT="similarity_layers"
    )
    return steps


def _train_and_compare(process: Process, inputs: Inputs, world: DemoFiles, model: str) -> dict[str, Step]:
    scene, trained = inputs.name(inputs.scene), "trained_head.safetensors"
    return {
        "trainhead": process.run(
            "gair:trainhead",
            INPUT=scene,
            LABELS=inputs.name(world.polygons),
            CLASS_FIELD="value",
            MODEL=model,
            OUTPUT_MODEL=trained,
            REPORT="report.html",
        ),
        "trained": process.run("gair:segment", INPUT=scene, MODEL=trained, OUTPUT="trained.tif"),
        "change": process.run(
            "gair:detectchange",
            BEFORE=scene,
            AFTER=inputs.name(world.later),
            MODEL=model,
            OUTPUT="change.tif",
        ),
    }


def _photo_scores(inputs: Inputs, photos: Path) -> PhotoScores:
    folder = photos if photos.is_dir() else photos.parent
    truth = None if inputs.world is None else inputs.world.truth
    return score_photos(inputs.folder / "similarity_photos.gpkg", folder, truth)


def _truth(world: DemoFiles, folder: Path) -> Truth:
    legend = legend_of(folder / "true_change.tif")
    trained, merged = folder / "trained.tif", folder / "true_classes.tif"
    return Truth(
        # Where the polygons lie neither map is scored, so that both are scored alike.
        segment=score_cover(folder / "classes.tif", merged, polygons=world.polygons),
        trained=score_cover(trained, world.land_cover, polygons=world.polygons),
        trained_merged=score_cover(trained, merged, polygons=world.polygons, merged=MERGED),
        polygons=_count(world.polygons),
        change=score_change(
            folder / "change.tif", (world.scene, world.later), (world.land_cover, world.later_land_cover)
        ),
        dates=(f"{DAY:%d %B %Y}".lstrip("0"), f"{LATER:%d %B %Y}".lstrip("0")),
        change_legend=tuple(legend.values()),
    )


def _count(layer: Path) -> int:
    return int(pyogrio.read_info(layer)["features"])


def _shown(scores: PhotoScores | None) -> list[PhotoScore]:
    """Return the photos that the page shows: the wrong ones, then the others from the worst fit on."""
    return [] if scores is None else [*scores.wrong, *scores.right][:PHOTOS_SHOWN]


def _views(
    scores: PhotoScores, shown: Iterable[PhotoScore], maps: Mapping[Path, Sketch]
) -> Iterable[PhotoView]:
    for score in shown:
        drawn = maps.get(score.path)
        yield PhotoView(
            score=score,
            rank=scores.photos.index(score) + 1,
            photo=picture_uri(score.path, SMALL_SIDE),
            map=picture_uri(Path(drawn.picture)) if drawn else "",
        )


def _place() -> str:
    city = World(demo_scene.SEED).city(demo_scene.CITY, demo_scene.SIZE)
    side = demo_scene.SIZE / 100
    return f"{city.name} covers {side:.1f} x {side:.1f} km and looks like a town in {city.region.name}."


def _summary(page: Page) -> str:
    """Return the figures against the truth, for the terminal; of a scene of the user's there are none."""
    if page.truth is None or page.scores is None:
        return "What is true of this scene is not known, so there are no scores."
    cover, trained, change = page.truth.segment, page.truth.trained, page.truth.change
    wrong = len(page.scores.wrong)
    return (
        f"Photos: {page.scores.found} of the {wrong} wrongly tagged ones are the {wrong} of the lowest "
        f"percentile ({', '.join(f'{one.percentile:.1f}' for one in page.scores.wrong)}; "
        f"the others from {page.scores.right[0].percentile:.1f} on; by chance "
        f"{page.scores.found_by_chance:.1f} of {wrong})\n"
        f"Land cover of {page.head}: {_cover_text(cover)}\n"
        f"Land cover, trained on {page.truth.polygons} polygons: {_cover_text(trained)}\n"
        f"Change: AUC {change.distance.auc:.3f}, without fields {change.distance.auc_no_fields:.3f} "
        f"(difference of the bands {change.bands.auc:.3f}, {change.bands.auc_no_fields:.3f}; chance 0.5)"
    )


def _cover_text(scores: CoverScores) -> str:
    return (
        f"{percent(scores.accuracy)} right (the most frequent class alone: {percent(scores.largest)}), "
        f"mean IoU {percent(scores.mean_iou)} (chance {percent(scores.chance)})"
    )


def say(text: str) -> None:
    """Print at once, for runs take a while."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The same command begins anew.\n")
        sys.exit(130)
