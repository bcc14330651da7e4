"""Which maps a demonstration's page shows; tools/render.py draws them in QGIS's Python."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import rasterio
from demo_inputs import Inputs
from demo_process import QUIET
from demo_scores import PhotoScore, PhotoScores
from sketch import Sketch
from stage import ROOT

# In pixels; what the page shows is no larger.
SMALL_SIDE = 360


def check_renderer(python: str) -> None:
    """Check that a Python can draw maps, before anything else takes time.

    Raises:
        SystemExit: It is missing or has no QGIS.
    """
    try:
        run = subprocess.run([python, "-c", "import qgis.core"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(
            f"{python} cannot be run: {error.strerror}. Name QGIS's Python: QGIS_PYTHON=..."
        ) from None
    if run.returncode != 0:
        raise SystemExit(
            f"{python} cannot import qgis.core. Name QGIS's Python: QGIS_PYTHON=...\n{run.stderr}"
        )


def scene_maps(inputs: Inputs, scores: PhotoScores | None) -> list[Sketch]:
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


def photo_maps(inputs: Inputs, shown: Iterable[PhotoScore], layers: Sequence[Path]) -> dict[Path, Sketch]:
    """Return the similarity layers of photos with where they are tagged, were taken and look like.

    Args:
        inputs: What the demonstration ran on.
        shown: The photos.
        layers: The similarity layers of this run, with their styles.

    Returns:
        By photo; photos without a layer have no map.
    """
    sketches = {}
    layer_of = _by_photo(layers)
    for score in shown:
        layer = layer_of.get(score.path.name)
        if layer is None:
            continue
        marks = [("best", *score.best), ("tagged", *score.tagged)]
        lines = []
        if score.wrong and score.true is not None:
            marks.append(("true", *score.true))
            lines.append([score.tagged, score.true])
        sketches[score.path] = Sketch(
            str(inputs.folder / "maps" / f"photo_{layer.stem}.png"),
            str(inputs.scene),
            [str(layer)],
            # A window around a photo would be a speck in a large scene.
            zoom=inputs.world is None,
            width=2 * SMALL_SIDE if score.wrong else SMALL_SIDE,
            marks=marks,
            mark_share=0.07,
            lines=lines,
        )
    return sketches


def _by_photo(layers: Sequence[Path]) -> dict[str, Path]:
    """Return similarity layers by the name of their photo, which their band is called.

    Photos of one name in two folders are left out: which layer is whose cannot be told.
    """
    layers = [layer for layer in layers if layer.suffix == ".tif"]
    names = []
    for layer in layers:
        with rasterio.open(layer) as source:
            names.append(source.descriptions[0])
    counts = Counter(names)
    return {name: layer for name, layer in zip(names, layers, strict=True) if counts[name] == 1}


def render_maps(python: str, sketches: Sequence[Sketch]) -> None:
    """Render maps in QGIS's Python.

    Raises:
        SystemExit: It failed; what it said stands in the message.
    """
    with tempfile.TemporaryDirectory(prefix="gair-maps-") as folder:
        wanted = Path(folder) / "maps.json"
        wanted.write_text(json.dumps([asdict(sketch) for sketch in sketches]), encoding="utf-8")
        run = subprocess.run(
            [python, ROOT / "tools" / "render.py", wanted],
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode != 0:
        raise SystemExit(f"Rendering the maps failed:\n{run.stdout}{run.stderr}")
