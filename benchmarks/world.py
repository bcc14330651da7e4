"""How fast the procedural world is drawn: photos per minute and megapixels of scene per minute.

    python benchmarks/world.py [--photos 120] [--size 256] [--scene 512] [--processes 2]

Photos and scenes of several cities, one city after another in each process, plans of the cities included. The
bar is a thousand photos of 256 pixels a minute on two cores; the last column scales what one process did in
its own processor time to that many cores, which other work on the machine does not disturb.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date

from gair_core.world import World

DAY = date(2023, 7, 1)


def draw_photos(index: int, count: int, size: int) -> float:
    """Return the processor seconds that a city's photos took."""
    start = time.process_time()
    city = World(0).city(index)
    positions, headings = city.photo_positions(count)
    city.photos(positions, headings, DAY, size)
    return time.process_time() - start


def draw_scene(index: int, size: int) -> float:
    """Return the processor seconds that a city's scene took."""
    start = time.process_time()
    World(0).city(index, size).scene(DAY)
    return time.process_time() - start


def report(name: str, amount: float, wall: float, used: float, processes: int) -> None:
    undisturbed = amount / used * processes * 60
    print(f"{name:28s} {amount / wall * 60:9.1f} /min measured {undisturbed:9.1f} /min undisturbed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=120, help="photos a city")
    parser.add_argument("--size", type=int, default=256, help="height and width of a photo in pixels")
    parser.add_argument("--scene", type=int, default=512, help="height and width of a scene in pixels")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    cities = 2 * arguments.processes
    with ProcessPoolExecutor(arguments.processes) as pool:
        list(
            pool.map(
                draw_photos, range(arguments.processes), [1] * arguments.processes, [64] * arguments.processes
            )
        )
        start = time.perf_counter()
        used = sum(
            pool.map(draw_photos, range(cities), [arguments.photos] * cities, [arguments.size] * cities)
        )
        wall = time.perf_counter() - start
        report(f"photos of {arguments.size} px", cities * arguments.photos, wall, used, arguments.processes)
        start = time.perf_counter()
        used = sum(pool.map(draw_scene, range(cities), [arguments.scene] * cities))
        wall = time.perf_counter() - start
        megapixels = cities * arguments.scene**2 / 1e6
        report("megapixels of scene", megapixels, wall, used, arguments.processes)


if __name__ == "__main__":
    main()
