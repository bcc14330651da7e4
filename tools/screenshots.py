"""Take the pictures of the user's guide: a real QGIS window under xvfb, the plugin and the made-up scene.

Runs tools/guide_window.py inside QGIS with a throw-away profile, then shrinks what it saved for docs/images.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import demo_scene
import numpy as np
from PIL import Image
from stage import NAME, ROOT, stage

TIMEOUT_SECONDS = 1800
LARGEST_BYTES = 300_000
# Enough for photos of the map; fewer only where a picture would be too large.
COLOURS = (256, 192, 128, 64)

# What a user has after the first session: no news, no tips, no plugins but the two that matter.
SETTINGS = f"""\
[PythonPlugins]
{NAME}=true
processing=true
MetaSearch=false
db_manager=false
grassprovider=false
otbprovider=false
sagaprovider=false

[locale]
overrideFlag=true
userLocale=en_US
globalLocale=en_US

[qgis]
checkVersion=false
askToSaveProjectChanges=false
askToDeleteFeatures=false
newsFeed/enabled=false

[UI]
UITheme=default

[Projections]
unknownCrsBehavior=NoAction
"""


def main() -> None:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="where they go")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gair-guide-") as folder:
        for picture in take(Path(folder)):
            shrink(picture, options.output / picture.name)


def take(work: Path) -> list[Path]:
    """Let QGIS take the pictures; returns them.

    Args:
        work: An empty folder, for the profile, the plugin, the scene and the pictures.

    Raises:
        SystemExit: QGIS or a run failed, or was not done in time.
    """
    # A stage of its own: tests may change the one in build/ meanwhile.
    plugins = stage(work / "plugins").parent
    demo_scene.write(work)
    settings = work / "profiles" / "default" / "QGIS" / "QGIS3.ini"
    settings.parent.mkdir(parents=True)
    settings.write_text(SETTINGS, "utf-8")
    temporary = work / "temporary"
    temporary.mkdir()
    screen = [program("xvfb-run"), "--auto-servernum", "--server-args=-screen 0 1600x1200x24"]
    qgis = [program("qgis"), "--nologo", "--noversioncheck", "--profiles-path", str(work)]
    process = subprocess.Popen(
        [*screen, *qgis, "--code", str(ROOT / "tools" / "guide_window.py")],
        env={
            **os.environ,
            "GAIR_GUIDE": str(work),
            "GAIR_GUIDE_TOOLS": str(ROOT / "tools"),
            "GAIR_PYTHON": sys.executable,
            "QGIS_PLUGINPATH": str(plugins),
            "QT_QPA_PLATFORM": "xcb",
            # QGIS marks layers below this folder as temporary; the scene and the photos are not to be.
            "TMPDIR": str(temporary),
            # What the machine that takes the pictures has of its own is not to be in them.
            "PATH": os.defpath,
            "XDG_DATA_HOME": str(work / "data"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"QGIS was not done within {TIMEOUT_SECONDS} s") from None
    finally:
        # xvfb-run leaves QGIS and the display behind when it is killed itself.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    failure = work / "failure.txt"
    if failure.is_file():
        raise SystemExit(failure.read_text("utf-8"))
    if not (work / "done").is_file():
        raise SystemExit(f"QGIS ended with {process.returncode} before all pictures were taken:\n{said}")
    return sorted((work / "pictures").glob("*.png"))


def program(name: str) -> str:
    """Return the path of a program.

    Raises:
        SystemExit: It is missing.
    """
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is missing; run make setup-qgis")
    return path


def shrink(picture: Path, destination: Path) -> None:
    """Write a picture, with fewer colours where it is larger than `LARGEST_BYTES`."""
    full = Image.open(picture).convert("RGB")
    full.save(destination, optimize=True)
    for colours in COLOURS:
        if destination.stat().st_size <= LARGEST_BYTES:
            break
        reduce_colours(full, colours).save(destination, optimize=True)
    size = destination.stat().st_size / 1000
    sys.stdout.write(f"{destination}: {full.width} x {full.height}, {size:.0f} kB\n")


def reduce_colours(picture: Image.Image, colours: int) -> Image.Image:
    """Keep the window's own colours, which cover most of its pixels, and reduce the grain of the map."""
    pixels = np.asarray(picture).reshape(-1, 3)
    found, place, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    flat = np.argsort(counts)[: -colours // 2 - 1 : -1]
    grain = pixels[np.isin(place.ravel(), flat, invert=True)]
    mixed = Image.fromarray(grain[None]).quantize(colours - len(flat), kmeans=1).getpalette() or []
    palette = np.concatenate([found[flat], np.array(mixed, np.uint8).reshape(-1, 3)])[:colours]
    # Without dithering, which would blur letters and make the file larger.
    nearest = [
        np.argmin(((part[:, None].astype(np.int32) - palette) ** 2).sum(-1), axis=1)
        for part in np.array_split(found, 1 + len(found) // 4096)
    ]
    indices = np.concatenate(nearest)[place.ravel()].reshape(picture.height, picture.width)
    reduced = Image.fromarray(indices.astype(np.uint8), "P")
    reduced.putpalette(palette.tobytes())
    return reduced


if __name__ == "__main__":
    main()
