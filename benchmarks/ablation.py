"""Table 4 on the procedural world: every variant of GAIR trained on one budget, with several seeds.

    python training/build_world.py
    python benchmarks/ablation.py
    python benchmarks/ablation.py --seeds 5 --budget 2000 accelerator=cuda precision=bf16-mixed

Each cell (variant, seed) takes training/configs/world_tiny.yaml with scenes of 480 m and photos of 64 px,
which halves its time, the changes of the variant's own file, and the budget in place of its epochs; further
``key=value`` hold for all. Finished cells stay in
``cells.jsonl``: run it again to go on, to add seeds, or to print the table alone. A seed gives all variants
the same order of samples, windows and augmentation, so differences are paired.

The columns, all on held-out cities: recall@1 of photo to scene in galleries of one season, the same within a
city, and percentile of a photo's true place within its scene (50 is chance); and two probes of the encoders
alone, in the manner of table 4: land cover from the scene encoder's features, read bilinearly whatever the
variant's localizer (mean recall of the classes), and the built-up share within 100 m from the photo encoder's
(RMSE).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import time
import zlib
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gair_core import checkpoint
from gair_core.errors import GairError
from gair_core.model.gair import GAIR
from gair_core.pretrain.config import EvaluationConfig, PretrainConfig, merged, read_config
from gair_core.pretrain.evaluation import EvaluationReader, evaluate
from gair_core.pretrain.probes import probe_land_cover
from gair_core.pretrain.splits import SplitConfig
from gair_core.pretrain.state import latest_state
from gair_core.pretrain.store import Store
from gair_core.pretrain.trainer import pretrain
from gair_core.progress import Progress

CONFIGS = Path(__file__).resolve().parents[1] / "training" / "configs"
ROWS = (
    "gair",
    "mae",
    "without_nili_and_location",
    "without_nili",
    "without_location",
    "bilinear",
    "bicubic",
    "hidden_layers",
)
COLUMNS = {
    "photo_to_scene_recall_1": "recall@1",
    "within_city_recall_1": "in city",
    "place_percentile_median": "percentile",
    "land_cover_linear_mean_recall": "land cover",
    "built_up_rmse": "built-up RMSE",
}
BUILT_UP = ("dense built-up", "sparse built-up")
# Student's t, two-sided 95 %, of 2, 3, ... pairs; beyond the last one it is a little too wide.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# About half the tokens of the small run: 24 cells in two hours of processor time.
SMALL = ("model.remote_sensing.tile_size=48", "model.street_view.image_size=64")
QUICK = (
    "model.embed_dim=16",
    "model.remote_sensing={width: 16, depth: 1, num_heads: 2, tile_size: 32}",
    "model.street_view={width: 16, depth: 1, num_heads: 2, image_size: 16}",
    "objective={bank_capacity: 16, mae: {decoder_width: 16, decoder_heads: 2}}",
    "sampling.batch_size=8",
)

Cell = dict[str, Any]


def configuration(row: str, seed: int, options: argparse.Namespace) -> PretrainConfig:
    """The run of a cell."""
    overrides = [
        f"data.store={options.store}",
        "data.evaluation_split=null",
        f"steps={options.budget}",
        f"seed={seed}",
        f"output={options.output}",
        "basis_components=0",
        *SMALL,
        *options.overrides,
    ]
    config = read_config(CONFIGS / f"ablation_{row}.yaml", overrides, base=CONFIGS / "world_tiny.yaml")
    if config.model.nili is None or not config.model.nili.hidden:
        return config
    # As wide as the embedding, as they are at full size.
    hidden = [config.model.embed_dim] * len(config.model.nili.hidden)
    return PretrainConfig.parse(merged(config.model_dump(), {"model": {"nili": {"hidden": hidden}}}))


def fingerprint(config: PretrainConfig, evaluation: EvaluationConfig, store: Store) -> str:
    """What must agree for a cell to be used again; neither seed nor machine."""
    part = config.model_dump(
        mode="json",
        include={"model", "sampling", "augmentation", "objective", "initialize", "optimizer", "steps"}
        | {"precision", "cached_chunk"},
    )
    ids = "\n".join(store.samples.id)
    text = json.dumps([part, evaluation.model_dump(), store.description["plan"], zlib.crc32(ids.encode())])
    return f"{zlib.crc32(text.encode()):08x}"


def train(config: PretrainConfig) -> int:
    """Train a cell, or go on with it; return the signal that stopped it, or 0."""
    resume = latest_state(config.output / "state") is not None
    return pretrain(config, resume=resume, revision="").signal


def measure(config: PretrainConfig, evaluation: EvaluationConfig, store: Store) -> dict[str, float]:
    """Evaluate a trained cell on the test split."""
    cuda = config.accelerator != "cpu" and torch.cuda.is_available()
    model = checkpoint.load(config.output / "model.safetensors", "cuda" if cuda else "cpu")
    found: dict[str, float] = {}
    if config.objective.kind == "contrastive":
        # From the contents of photo and scene alone.
        found |= evaluate(model, store, "test", evaluation, modalities=("scene", "photo"))
    found |= probe_land_cover(model, store, "test", evaluation, method="bilinear")
    found["built_up_rmse"] = built_up_rmse(model, store, evaluation)
    return {name: found[name] for name in COLUMNS if name in found}


@torch.no_grad()
def built_up_rmse(model: GAIR, store: Store, evaluation: EvaluationConfig, limit: int = 2000) -> float:
    """Error of a ridge regression from the photo encoder's features to the built-up share within 100 m."""
    generator = np.random.default_rng(evaluation.seed)
    values, shares = {}, {}
    for split in ("train", "test"):
        rows = generator.permutation(store.samples.select(split=split, with_photo=True))[:limit]
        batches = EvaluationReader(store, model, ("photo",), evaluation).batches(rows)
        photos = [inputs.photo for _, inputs in batches if inputs.photo is not None]
        features = torch.cat([model.encode_street_view(part, project=False).cpu() for part in photos])
        values[split] = features.double().numpy()
        shares[split] = np.array([built_up_share(store, int(row)) for row in rows])
    mean, std = values["train"].mean(axis=0), values["train"].std(axis=0) + 1e-6
    left, right = ((values[split] - mean) / std for split in ("train", "test"))
    offset = shares["train"].mean()
    penalty = len(left) * 1e-2 * np.eye(left.shape[1])
    weights = np.linalg.solve(left.T @ left + penalty, left.T @ (shares["train"] - offset))
    return float(np.sqrt(np.mean((right @ weights + offset - shares["test"]) ** 2)))


def built_up_share(store: Store, row: int, radius: int = 10) -> float:
    """Share of built-up pixels in the square of 200 m around a photo, moved inside where its tile ends."""
    tile = store.tile(str(store.samples.tile[row]))
    side = 2 * radius
    corner = np.clip(np.round(store.samples.position[row] - radius), 0, np.array(tile.size) - side)
    cover = store.read_land_cover(tile, 0, int(corner[0]), int(corner[1]), side)
    return float(np.isin(cover, [store.classes.index(name) for name in BUILT_UP]).mean())


def read_cells(path: Path) -> list[Cell]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def write_cells(path: Path, cells: Iterable[Cell]) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text("".join(f"{json.dumps(cell)}\n" for cell in cells), encoding="utf-8")
    part.replace(path)


def report(cells: list[Cell]) -> str:
    """The table: means and deviations, then paired differences from GAIR with their intervals."""
    lines = [_line("mean (standard deviation)", [*COLUMNS.values(), "seeds", "seconds"])]
    present = [row for row in ROWS if any(cell["row"] == row for cell in cells)]
    for row in present:
        entries = [_spread(list(_by_seed(cells, row, name).values())) for name in COLUMNS]
        seconds = [cell["seconds"] for cell in cells if cell["row"] == row]
        lines.append(_line(row, [*entries, str(len(seconds)), f"{statistics.fmean(seconds):.0f}"]))
    lines += ["", _line("difference from gair, 95 %", list(COLUMNS.values()))]
    for row in present:
        if row != "gair":
            pairs = [(_by_seed(cells, row, name), _by_seed(cells, "gair", name)) for name in COLUMNS]
            lines.append(_line(row, [difference(*pair) for pair in pairs]))
    return "\n".join(lines)


def difference(left: dict[int, float], right: dict[int, float]) -> str:
    """The mean of the differences of common seeds with its interval; "not resolved" where that includes 0."""
    found = [left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())]
    if len(found) < 2:
        return "-"
    mean = statistics.fmean(found)
    reach = T_95[min(len(found) - 2, len(T_95) - 1)] * statistics.stdev(found) / math.sqrt(len(found))
    return "not resolved" if abs(mean) <= reach else f"{mean:+.3g} ± {reach:.2g}"


def _by_seed(cells: list[Cell], row: str, name: str) -> dict[int, float]:
    chosen = [cell for cell in cells if cell["row"] == row and name in cell["metrics"]]
    return {cell["seed"]: cell["metrics"][name] for cell in chosen}


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.fmean(values):.3g}" + (
        f" ({statistics.stdev(values):.2g})" if len(values) > 1 else ""
    )


def _line(name: str, entries: list[str]) -> str:
    return f"{name:28}{''.join(f'{entry:>20}' for entry in entries)}".rstrip()


def make_quick_store(folder: Path) -> None:
    """A world of five small cities, two of them for test."""
    from gair_core.world import World
    from gair_core.world.writers import write_store

    cities = [World(0).city(index, 64) for index in range(5)]
    days = (date(2023, 1, 15), date(2023, 7, 10))
    held_out = {city.name for city in cities[3:]}
    alone = SplitConfig(validation=0, test=0)
    write_store(folder, cities, days, Progress(), photos=8, size=32, splits=alone, held_out=held_out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to all cells")
    parser.add_argument("--store", type=Path, default=Path("stores/world_tiny"), help="%(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), help="%(default)s")
    parser.add_argument("--budget", type=int, default=400, help="steps of a cell (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of a row (%(default)s)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--table", action="store_true", help="print the finished cells alone")
    parser.add_argument(
        "--quick", action="store_true", help="only show that it works: minute models, 2 steps"
    )
    options = parser.parse_intermixed_args()
    if options.quick:
        options.budget, options.seeds = min(options.budget, 2), min(options.seeds, 2)
        options.overrides = [*QUICK, *options.overrides]
        options.store = options.output / "store"
    return options


def main() -> int:
    options = parse()
    try:
        return run(options)
    except GairError as error:
        print(f"ablation: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    options.output.mkdir(parents=True, exist_ok=True)
    if options.quick and not (options.store / "store.json").exists():
        make_quick_store(options.store)
    store = Store(options.store)
    gallery = (
        {"gallery": 6, "galleries": 2, "localized": 4} if options.quick else {"gallery": 100, "galleries": 20}
    )
    evaluation = EvaluationConfig.parse(gallery)
    path = options.output / "cells.jsonl"
    kept, wanted = read_cells(path), []
    used: list[Cell] = []
    for seed in range(options.seeds):  # seed by seed, so that an unfinished table is a paired one
        for row in options.rows:
            config = configuration(row, seed, options)
            settings = fingerprint(config, evaluation, store)
            folder = options.output / f"{row}-{seed}-{settings}"
            config = config.model_copy(update={"output": folder})
            same = [
                cell
                for cell in kept
                if (cell["row"], cell["seed"], cell["settings"]) == (row, seed, settings)
            ]
            used += same[:1]
            if not same:
                wanted.append((row, seed, settings, config))
    for number, (row, seed, settings, config) in enumerate([] if options.table else wanted, 1):
        print(f"cell {number} of {len(wanted)}: {row}, seed {seed}", file=sys.stderr, flush=True)
        began = time.monotonic()
        stopped = train(config)
        if stopped:
            print("Stopped; run the same command again to continue.", file=sys.stderr)
            return 128 + stopped
        metrics = measure(config, evaluation, store)
        cell = {"row": row, "seed": seed, "settings": settings, "steps": config.steps, "metrics": metrics}
        cell["seconds"] = round(time.monotonic() - began, 1)
        used.append(cell)
        kept.append(cell)
        write_cells(path, kept)
        shutil.rmtree(config.output / "state")
    print(report(used))
    return 0


if __name__ == "__main__":
    sys.exit(main())
