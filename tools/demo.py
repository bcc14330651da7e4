"""Run the built plugin as a user would, without a screen, and picture what it makes.

Installs ``build/gair-<version>.zip`` in a throw-away QGIS profile, runs gair:segment, gair:embed and
gair:photosimilarity with ``qgis_process`` on a scene with photos, and renders each output over the scene.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import demo_scene
from package import version
from stage import NAME, ROOT

GAIR_PYTHON = Path(sys.executable)
# No screen, and no statistics of GDAL's beside somebody's scene.
QUIET = {"QT_QPA_PLATFORM": "offscreen", "GDAL_PAM_ENABLED": "NO"}
UNTRAINED = "The model is the untrained demo: the pictures show that everything works, not what GAIR knows."


def main() -> None:
    """Run the demonstration that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scene", type=Path, help="raster with the ten bands; default: a made-up one")
    parser.add_argument("--photos", type=Path, help="folder of geotagged photos, or a table with their paths")
    parser.add_argument("--output", type=Path, default=ROOT / "demo", help="where everything goes")
    parser.add_argument("--qgis-python", default="/usr/bin/python3", help="the Python that QGIS uses")
    options = parser.parse_args()
    folder = options.output / (options.scene.stem if options.scene else "generated")
    folder.mkdir(parents=True, exist_ok=True)
    if options.scene is None:
        scene, photos = demo_scene.write(folder)
        say("No SCENE was given: this one is made up by tools/demo_scene.py, and no satellite saw it.")
    else:
        scene, photos = options.scene.absolute(), options.photos and options.photos.absolute()
    say(UNTRAINED)
    with tempfile.TemporaryDirectory(prefix="gair-profile-") as profile:
        process = Process(Path(profile))
        process.install(ROOT / "build" / f"{NAME}-{version()}.zip")
        made = run_algorithms(process, scene, photos, folder)
    pictures = [picture(options.qgis_python, folder, title, scene, layers) for title, layers in made.items()]
    say("Pictures:\n" + "\n".join(f"  {path}" for path in pictures))
    say(UNTRAINED)


def run_algorithms(process: Process, scene: Path, photos: Path | None, folder: Path) -> dict[str, list[Path]]:
    """Run the three algorithms; returns for each picture's title the layers over the scene."""
    classes, embeddings, similarity = (
        folder / f"{name}.tif" for name in ("classes", "embeddings", "similarity")
    )
    process.run("gair:segment", INPUT=scene, OUTPUT=classes)
    process.run("gair:embed", INPUT=scene, OUTPUT=embeddings)
    made = {
        "Classes (gair:segment)": [classes],
        "Embeddings, first three components (gair:embed)": [embeddings],
    }
    if photos is None:
        say("gair:photosimilarity is left out: this scene has no photos (name them with PHOTOS=...).")
        return made
    if photos.is_dir():
        # QGIS's own way from a folder of geotagged photos to a layer.
        photos = process.import_photos(photos, folder / "photos.gpkg")
    scores = folder / "similarity_photos.gpkg"
    process.run("gair:photosimilarity", INPUT=scene, PHOTOS=photos, OUTPUT=similarity, OUTPUT_PHOTOS=scores)
    made["Similarity with the photos (gair:photosimilarity)"] = [similarity, scores]
    return made


class Process:
    """``qgis_process`` with a profile of its own.

    Args:
        profile: An empty folder.
    """

    def __init__(self, profile: Path) -> None:
        self._plugins = profile / "profiles" / "default" / "python" / "plugins"
        self._plugins.mkdir(parents=True)
        # On Debian 12 the wrapper adds an option that the program does not know.
        program = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
        if program is None:
            raise SystemExit("qgis_process is missing; run make setup-qgis")
        self._program = program
        self._environment = {
            **os.environ,
            **QUIET,
            "QGIS_CUSTOM_CONFIG_PATH": str(profile),
            "GAIR_PYTHON": str(GAIR_PYTHON),
        }

    def install(self, archive: Path) -> None:
        """Unpack the plugin's zip where QGIS's "install from ZIP" does, and enable it."""
        with zipfile.ZipFile(archive) as plugin:
            plugin.extractall(self._plugins)
        self._call("plugins", "enable", NAME)

    def run(self, algorithm: str, **parameters: Path) -> None:
        """Run an algorithm and check that its outputs are there.

        Raises:
            SystemExit: It failed; what it said stands in the message.
        """
        started = time.monotonic()
        self._call("run", algorithm, "--", *(f"{name}={value}" for name, value in parameters.items()))
        missing = [
            str(value) for name, value in parameters.items() if "OUTPUT" in name and not value.is_file()
        ]
        if missing:
            raise SystemExit(f"{algorithm} said nothing of a failure, but {', '.join(missing)} is missing")
        say(f"{algorithm}: {time.monotonic() - started:.1f} s -> {parameters['OUTPUT']}")

    def import_photos(self, folder: Path, layer: Path) -> Path:
        """Make a point layer of a folder of geotagged photos."""
        self._call("run", "native:importphotos", "--", f"FOLDER={folder}", f"OUTPUT={layer}")
        return layer

    def _call(self, *arguments: str) -> None:
        run = subprocess.run(
            [self._program, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise SystemExit(f"qgis_process {' '.join(arguments)} failed:\n{run.stdout}{run.stderr}")


def picture(qgis_python: str, folder: Path, title: str, scene: Path, layers: list[Path]) -> Path:
    """Render layers over the scene in QGIS's Python."""
    path = folder / f"{layers[0].stem}.png"
    untrained = f"{title}: model demo, untrained"
    run = subprocess.run(
        [qgis_python, ROOT / "tools" / "render.py", path, untrained, scene, *layers],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise SystemExit(f"Rendering {path} failed:\n{run.stdout}{run.stderr}")
    return path


def say(text: str) -> None:
    """Print at once, for runs take a while."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
