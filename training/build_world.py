"""Draw the procedural world as a pretraining store: ``python training/build_world.py [OUT]``.

The defaults make ``stores/world_tiny``, on which ``training/configs/world_tiny.yaml`` trains: 400 cities of
192 pixels (1.9 km) on four days of a year, one a season, with 80 photos of 96 pixels each, 20 a day. Ten
cities are for validation and ten, of ten regions, for test; one season of any five of them fills a gallery of
100. It takes about 0.9 GB and 8 minutes on two cores. Run it again to continue after a stop.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from world_store import DAYS, WorldSize, draw_world

from gair_core.cli import BarProgress
from gair_core.errors import CancelledError, GairError
from gair_core.pretrain.splits import SplitConfig
from gair_core.pretrain.store import StoreSummary
from gair_core.progress import Progress
from gair_core.world import World
from gair_core.world.writers import write_store


def main() -> int:
    """Run the command and return its exit code."""
    options = _parse()
    progress = BarProgress()
    signal.signal(signal.SIGINT, lambda *_: progress.cancel())
    began = time.monotonic()
    try:
        print(_estimate(options), flush=True)
        if options.dry_run:
            return 0
        with contextlib.closing(progress):
            summary = _build(options, progress)
    except CancelledError:
        print("Stopped; run the same command again to continue.", file=sys.stderr)
        return 130
    except GairError as error:
        print(f"build_world: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    splits = ", ".join(f"{name} {count}" for name, count in summary.splits.items())
    print(
        f"{options.output}: {summary.samples} samples ({splits}), {summary.tiles} tiles, "
        f"{_bytes_of(options.output) / 1e6:.0f} MB in {(time.monotonic() - began) / 60:.1f} minutes"
    )
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "output", type=Path, nargs="?", default=Path("stores/world_tiny"), metavar="OUT", help="%(default)s"
    )
    parser.add_argument("--cities", type=int, default=400, help="cities of all splits (%(default)s)")
    parser.add_argument("--validation", type=int, default=10, help="of them for validation (%(default)s)")
    parser.add_argument("--test", type=int, default=10, help="of them for test (%(default)s)")
    parser.add_argument("--photos", type=int, default=80, help="photos of a city (%(default)s)")
    parser.add_argument("--size", type=int, default=192, help="side of a city, pixels of 10 m (%(default)s)")
    parser.add_argument("--photo-size", type=int, default=96, help="side of a photo, pixels (%(default)s)")
    parser.add_argument(
        "--days",
        type=date.fromisoformat,
        nargs="+",
        default=DAYS,
        help="days of the scenes, such as 2023-07-10",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the world (%(default)s)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="cities drawn at a time (%(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say size and time and stop")
    options = parser.parse_args()
    if min(options.cities, options.photos, options.photo_size, options.processes) < 1:
        parser.error("--cities, --photos, --photo-size and --processes must be at least 1")
    if min(options.validation, options.test) < 0 or options.validation + options.test >= options.cities:
        parser.error(
            f"--validation {options.validation} and --test {options.test} leave no city of --cities "
            f"{options.cities} for training"
        )
    return options


def _estimate(options: argparse.Namespace) -> str:
    """Say size and time, after drawing one city into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        city = World(options.seed).city(0, options.size)
        alone = SplitConfig(validation=0, test=0)
        write_store(
            folder,
            [city],
            options.days,
            Progress(),
            photos=options.photos,
            size=options.photo_size,
            splits=alone,
        )
        seconds, size = time.monotonic() - began, _bytes_of(Path(folder))
    minutes = seconds * options.cities / options.processes / 60
    return (
        f"{options.cities} cities, {options.cities * options.photos} photos: about "
        f"{size * options.cities / 1e6:.0f} MB, {minutes:.1f} minutes with {options.processes} processes"
    )


def _build(options: argparse.Namespace, progress: Progress) -> StoreSummary:
    size = WorldSize(
        cities=options.cities,
        validation=options.validation,
        test=options.test,
        side=options.size,
        photos=options.photos,
        photo_side=options.photo_size,
        days=tuple(options.days),
        seed=options.seed,
    )
    return draw_world(options.output, size, options.processes, progress)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
