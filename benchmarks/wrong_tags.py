"""How many wrongly tagged photos `gair similarity` finds, beside chance, in cities that the model never saw.

    python benchmarks/wrong_tags.py
    python benchmarks/wrong_tags.py --model MODEL --cities 40

In each city 3 of 40 photos carry the tags of a place of another kind (`gair_core.world.demo.write_demo`): the
photos are ranked by the percentile of their tagged place. Found is a wrong one among the 3 lowest. The cities
are the first ones of the world of `make demo`, whose own city is a good case.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import pyogrio

from gair_core.errors import GairError
from gair_core.inference.similarity import SimilarityRequest, similarity
from gair_core.world import World
from gair_core.world.demo import write_demo

SEED = 2024
PHOTOS, WRONG, SIZE = 40, 3, 512


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo", help="checkpoint or registered name (%(default)s)")
    parser.add_argument("--cities", type=int, default=14, help="how many (%(default)s)")
    options = parser.parse_args()
    if options.cities < 1:
        parser.error(f"--cities must be at least 1, found {options.cities}")
    found = []
    try:
        for city in range(options.cities):
            ranks = ranks_of_wrong(city, options.model)
            found.append(sum(rank <= WRONG for rank in ranks))
            region = World(SEED).city(city, SIZE).region.name
            print(
                f"city {city:3} {region:20} {found[-1]} of {WRONG}; ranks {', '.join(map(str, ranks))}",
                flush=True,
            )
    except GairError as error:
        print(f"wrong_tags: error: {error.message}", file=sys.stderr)
        return 1
    total = WRONG * options.cities
    print(f"found {sum(found)} of {total} ({sum(found) / total:.0%}); by chance {WRONG / PHOTOS:.0%}")
    print(f"all {WRONG} found in {found.count(WRONG)} of {options.cities} cities")
    return 0


def ranks_of_wrong(city: int, model: str) -> list[int]:
    """Return the ranks of a city's wrongly tagged photos, from 1, the lowest percentile first."""
    with tempfile.TemporaryDirectory(prefix="gair-tags-") as temporary:
        folder = Path(temporary)
        files = write_demo(folder, seed=SEED, city=city, photos=PHOTOS, wrong=WRONG, size=SIZE)
        scores = folder / "scores.gpkg"
        similarity(
            SimilarityRequest(
                scene=str(files.scene),
                photos=str(files.photos),
                model=model,
                output=str(folder / "similarity.tif"),
                photos_output=str(scores),
            )
        )
        frame = pyogrio.read_dataframe(scores).sort_values("percentile", ignore_index=True)
        wrong = set(json.loads(files.truth.read_text("utf-8"))["wrong"])
    return [rank for rank, photo in enumerate(frame["photo"], 1) if Path(photo).name in wrong]


if __name__ == "__main__":
    sys.exit(main())
