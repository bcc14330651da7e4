"""Build a pretraining store: ``python training/build_dataset.py PHOTOS SCENE... OUT``.

PHOTOS is a table (Global Streetscapes CSVs as they are) or a folder of photos with GPS tags; a SCENE is any
Sentinel-2 product, and several dates of a place are several scenes. Run it again to continue after a stop.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path

from gair_core.cli import BarProgress
from gair_core.errors import CancelledError, GairError
from gair_core.pretrain.build import BuildConfig, build_store


def main() -> int:
    """Run the command and return its exit code."""
    options = _parse()
    progress = BarProgress()
    signal.signal(signal.SIGINT, lambda *_: progress.cancel())
    try:
        with contextlib.closing(progress):
            summary = build_store(_config(options), progress)
    except CancelledError:
        print("Stopped; run the same command again to continue.", file=sys.stderr)
        return 130
    except GairError as error:
        print(f"build_dataset: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    splits = ", ".join(f"{name} {count}" for name, count in summary.splits.items())
    print(f"{summary.samples} samples ({splits}), {summary.photos} photos, {summary.tiles} tiles")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build a pretraining store from photos and scenes.")
    parser.add_argument("photos", type=Path, help="table of photos, or folder of photos with GPS tags")
    parser.add_argument("scenes", type=Path, nargs="+", metavar="SCENE", help="products, one date each")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder of the store")
    parser.add_argument(
        "--join", type=Path, nargs="+", default=[], help="CSV tables to add columns from, by uuid"
    )
    parser.add_argument("--images", type=Path, help="folder of the photos, named by uuid")
    parser.add_argument("--date", action="append", default=[], metavar="SCENE=DATE", help="date of a scene")
    parser.add_argument("--gsd", type=float, default=10.0, help="metres of a pixel (%(default)s)")
    parser.add_argument("--per-city", type=int, help="photos of a city at most, spread evenly")
    parser.add_argument("--panorama-views", type=int, default=1, help="views of a panorama (%(default)s)")
    parser.add_argument("--min-valid", type=float, default=0.5, help="valid fraction of a date (%(default)s)")
    parser.add_argument(
        "--max-cloud", type=float, default=0.8, help="cloudy fraction of a date (%(default)s)"
    )
    parser.add_argument("--validation", type=float, default=0.1, help="fraction of the cities (%(default)s)")
    parser.add_argument("--test", type=float, default=0.1, help="fraction of the cities (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of splits and sampling (%(default)s)")
    return parser.parse_intermixed_args()


def _config(options: argparse.Namespace) -> BuildConfig:
    names = ("photos", "scenes", "output", "join", "images", "gsd", "per_city", "panorama_views")
    values = {name: getattr(options, name) for name in (*names, "min_valid", "max_cloud", "seed")}
    splits = {"validation": options.validation, "test": options.test, "seed": options.seed}
    return BuildConfig.parse({**values, "dates": options.date, "splits": splits})


if __name__ == "__main__":
    sys.exit(main())
