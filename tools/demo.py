"""Run the built plugin as a user would, without a screen, and make a page of what it does.

Installs ``build/gair-<version>.zip`` in a throw-away QGIS profile and runs its algorithms with
``qgis_process``: on a city of the procedural world, of which everything is known, or on a scene of yours.
The page holds the maps as QGIS rendered them, the photos beside their similarity layers, figures against
the truth where it is known, and the commands that repeat each step.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import demo_scene
import pyogrio
from demo_page import Page, PhotoView, Truth, percent, picture_uri, render_page
from demo_process import GAIR_PYTHON, QUIET, Process, Step
from demo_scores import PhotoScore, PhotoScores, legend_of, score_change, score_cover, score_photos
from package import version
from stage import NAME, ROOT

from gair_core.world import World
from gair_core.world.demo import DAY, LATER, DemoFiles

PHOTO_RADIUS = 2000
PHOTOS_SHOWN = 40
# In pixels; what the page shows is no larger.
MAP_SIDE, SMALL_SIDE = 900, 360


@dataclass(frozen=True)
class Sketch:
    """A map for tools/render.py, see `Map` there."""

    picture: str
    scene: str
    layers: list[str] = field(default_factory=list)
    legend: bool = False
    width: int = MAP_SIDE
    marks: list[tuple[str, float, float]] = field(default_factory=list)
    mark_share: float = 0.022
    lines: list[list[tuple[float, float]]] = field(default_factory=list)
    opacity: float = 0.85
    zoom: bool = False


@dataclass(frozen=True)
class Inputs:
    """What a demonstration runs on.

    Attributes:
        folder: Where everything goes, and where commands run.
        scene: The scene.
        photos: A folder of geotagged photos or a table, if there are any.
        world: The files of the procedural city; None for a scene of the user's.
    """

    folder: Path
    scene: Path
    photos: Path | None
    world: DemoFiles | None

    def name(self, path: Path) -> str:
        """Return a path as commands in the folder write it."""
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)


def main() -> None:
    """Run the demonstration that the command line asks for."""
    options = _parse()
    started = time.monotonic()
    inputs = _inputs(options)
    with tempfile.TemporaryDirectory(prefix="gair-profile-") as profile:
        process = Process(Path(profile), inputs.folder)
        process.install(ROOT / "build" / f"{NAME}-{version()}.zip")
        steps = run_algorithms(process, inputs, options.model, options.head)
    scores = None if inputs.photos is None else _photo_scores(inputs, inputs.photos)
    sketches = [*_maps(inputs, scores), *(_photo_maps(inputs, scores) if scores else ())]
    render_maps(options.qgis_python, sketches)
    truth = None if inputs.world is None else _truth(inputs.world, inputs.folder)
    page = inputs.folder.parent / "index.html" if inputs.world else inputs.folder / "index.html"
    content = Page(
        name="a city of the procedural world" if inputs.world else inputs.scene.name,
        model=options.model,
        head=options.head,
        files=inputs.folder,
        setup=_setup(process, inputs.folder),
        maps={Path(one.picture).stem: picture_uri(Path(one.picture)) for one in _maps(inputs, scores)},
        steps=steps,
        seconds=time.monotonic() - started,
        scores=scores,
        views=tuple(_views(inputs, scores)) if scores else (),
        truth=truth,
        report=(inputs.folder / "report.html").read_text("utf-8") if inputs.world else "",
        place=_place() if inputs.world else "",
    )
    page.write_text(render_page(content), encoding="utf-8")
    say(_summary(content))
    say(f"{time.monotonic() - started:.0f} s in all. Open {page}")


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
    for name in ("model", "head"):
        # Algorithms run in another folder.
        file = Path(getattr(options, name))
        if file.is_file():
            setattr(options, name, str(file.absolute()))
    return options


def _inputs(options: argparse.Namespace) -> Inputs:
    folder = (options.output / (options.scene.stem if options.scene else "world")).absolute()
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    for earlier in (folder / "maps").glob("*.png"):
        earlier.unlink()
    if options.scene is not None:
        photos = None if options.photos is None else options.photos.absolute()
        return Inputs(folder, options.scene.absolute(), photos, None)
    began = time.monotonic()
    files = demo_scene.write(folder)
    say(
        f"No SCENE was given: a city of the procedural world, {time.monotonic() - began:.1f} s -> {folder}\n"
        f"It has two dates and {demo_scene.PHOTOS} photos, {demo_scene.WRONG} of them wrongly tagged."
    )
    return Inputs(folder, files.scene, files.photos, files)


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
        segment=score_cover(folder / "classes.tif", merged),
        trained=score_cover(trained, world.land_cover, polygons=world.polygons),
        trained_merged=score_cover(trained, merged, polygons=world.polygons, merged={**demo_scene.MERGED}),
        polygons=_count(world.polygons),
        change=score_change(
            folder / "change.tif", (world.scene, world.later), (world.land_cover, world.later_land_cover)
        ),
        dates=(f"{DAY:%d %B %Y}".lstrip("0"), f"{LATER:%d %B %Y}".lstrip("0")),
        change_legend=tuple(legend.values()),
    )


def _count(layer: Path) -> int:
    return int(pyogrio.read_info(layer)["features"])


def _maps(inputs: Inputs, scores: PhotoScores | None) -> list[Sketch]:
    """Return the maps that the page shows once each; a map's name is its picture's."""
    folder, scene = inputs.folder, str(inputs.scene)
    # The wrong ones last, so that they lie on top.
    marks = [
        ("wrong" if one.wrong else "photo", *one.tagged)
        for one in (() if scores is None else (*scores.right, *scores.wrong))
    ]
    layers = {"embeddings": ["embeddings.tif"], "classes": ["classes.tif"]}
    if scores is not None:
        layers["similarity"] = ["similarity.tif"]
    sketches = [Sketch(str(folder / "maps" / "scene.png"), scene, marks=marks)]
    if inputs.world is not None:
        layers.update(
            trained=["trained.tif"],
            truth=[inputs.world.land_cover.name],
            true_classes=["true_classes.tif"],
            polygons=[inputs.world.polygons.name],
            true_change=["true_change.tif"],
            change=["change.tif"],
            scene_plain=[],
        )
        sketches.append(Sketch(str(folder / "maps" / "later.png"), str(inputs.world.later)))
    sketches += [
        Sketch(
            str(folder / "maps" / f"{name}.png"),
            scene,
            [str(folder / file) for file in files],
            legend=name == "similarity" or (name == "classes" and inputs.world is None),
        )
        for name, files in layers.items()
    ]
    return sketches


def _shown(scores: PhotoScores) -> list[PhotoScore]:
    """Return the photos that the page shows: the wrong ones, then the others from the worst fit on."""
    return [*scores.wrong, *scores.right][:PHOTOS_SHOWN]


def _photo_map(inputs: Inputs, score: PhotoScore) -> Path:
    return inputs.folder / "maps" / f"photo_{score.path.stem}.png"


def _photo_maps(inputs: Inputs, scores: PhotoScores) -> Iterable[Sketch]:
    """Return the similarity layers of photos with where they are tagged, were taken and look like."""
    for score in _shown(scores):
        layer = inputs.folder / "similarity_layers" / f"{score.path.stem}.tif"
        if not layer.is_file():
            continue
        marks = [("best", *score.best), ("tagged", *score.tagged)]
        lines = []
        if score.wrong and score.true is not None:
            marks.append(("true", *score.true))
            lines.append([score.tagged, score.true])
        yield Sketch(
            str(_photo_map(inputs, score)),
            str(inputs.scene),
            [str(layer)],
            # A window around a photo would be a speck in a large scene.
            zoom=inputs.world is None,
            width=2 * SMALL_SIDE if score.wrong else SMALL_SIDE,
            marks=marks,
            mark_share=0.07,
            lines=lines,
        )


def render_maps(qgis_python: str, sketches: list[Sketch]) -> None:
    """Render maps in QGIS's Python.

    Raises:
        SystemExit: It failed; what it said stands in the message.
    """
    with tempfile.TemporaryDirectory(prefix="gair-maps-") as folder:
        wanted = Path(folder) / "maps.json"
        wanted.write_text(json.dumps([asdict(sketch) for sketch in sketches]), encoding="utf-8")
        run = subprocess.run(
            [qgis_python, ROOT / "tools" / "render.py", wanted],
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode != 0:
        raise SystemExit(f"Rendering the maps failed:\n{run.stdout}{run.stderr}")


def _views(inputs: Inputs, scores: PhotoScores) -> Iterable[PhotoView]:
    for score in _shown(scores):
        drawn = _photo_map(inputs, score)
        yield PhotoView(
            score=score,
            rank=scores.photos.index(score) + 1,
            photo=picture_uri(score.path, SMALL_SIDE),
            map=picture_uri(drawn) if drawn.is_file() else "",
        )


def _setup(process: Process, folder: Path) -> str:
    """Return the commands before the first step."""
    plugins = "$HOME/.local/share/QGIS/QGIS3/profiles/default/python/plugins"
    archive = shlex.quote(str(ROOT / "build" / f"{NAME}-{version()}.zip"))
    return "\n".join(
        (
            f'mkdir -p "{plugins}" && unzip -oq {archive} -d "{plugins}"',
            f"{process.program} plugins enable {NAME}",
            f"export GAIR_PYTHON={shlex.quote(str(GAIR_PYTHON))}",
            "export QT_QPA_PLATFORM=offscreen   # where there is no screen",
            f"cd {shlex.quote(str(folder))}",
        )
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
        f"the others from {page.scores.right[0].percentile:.1f} on)\n"
        f"Land cover of {page.head}: {percent(cover.accuracy)} right, mean IoU {percent(cover.mean_iou)}\n"
        f"Land cover, trained on {page.truth.polygons} polygons: {percent(trained.accuracy)} right, "
        f"mean IoU {percent(trained.mean_iou)}\n"
        f"Change: AUC {change.auc:.3f}, without fields {change.auc_no_fields:.3f}; difference of the bands "
        f"{change.auc_bands:.3f}, {change.auc_bands_no_fields:.3f}"
    )


def say(text: str) -> None:
    """Print at once, for runs take a while."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
