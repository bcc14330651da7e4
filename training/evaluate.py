"""Evaluate models: on held-out cities of a store, and finished runs beside the paper's tables.

    python training/evaluate.py demo [--store STORE] [--real FOLDER]
    python training/evaluate.py retrieval MODEL STORE
    python training/evaluate.py table 1 --runs runs
    python training/evaluate.py figure 5 --runs runs
    python training/evaluate.py geo-bias runs/finetune/inat2018

``demo`` prints what the built-in model and its land-cover head can do on held-out cities of the procedural
world, drawn for the purpose or the test split of a store, beside an untrained model of the same shape and
beside chance; and on real scenes: docs/model_card.md. ``retrieval`` prints the figures of any model beside
those of an untrained one of the same shape, and writes them as JSON and, with ``--figures``, figures 7 and 8
of the paper as PNG. The others: docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from world_store import WorldSize, draw_world

from gair_core import checkpoint
from gair_core.cli import BarProgress
from gair_core.errors import BadInputError, GairError
from gair_core.evaluation.comparison import compare
from gair_core.evaluation.costs import costs_as_csv, costs_as_text, costs_as_values, read_costs
from gair_core.evaluation.demo import as_text as held_out_as_text
from gair_core.evaluation.demo import held_out_figures, real_as_text, real_figures, untrained_like
from gair_core.evaluation.geo_bias import RADIUS_KM
from gair_core.evaluation.printing import as_csv, as_json, as_text
from gair_core.evaluation.records import geo_bias_as_text, geo_bias_as_values, run_geo_bias
from gair_core.head_checkpoint import load_head
from gair_core.model.gair import GAIR
from gair_core.pretrain.config import EvaluationConfig, Modality
from gair_core.pretrain.evaluation import evaluate
from gair_core.pretrain.figures import figure_7, figure_8
from gair_core.pretrain.probes import probe_land_cover
from gair_core.pretrain.store import Store
from gair_core.progress import Progress

_CONFIGS = Path(__file__).resolve().parent / "configs"
# Cities of another world than the demo's, so that none of them can have been seen.
_HELD_OUT = WorldSize(cities=40, validation=0, test=10, photos=40, seed=1)
_PARTS: dict[str, Modality] = {"remote_sensing": "scene", "street_view": "photo", "location": "location"}


def main() -> int:
    """Run the command and return its exit code."""
    options = _parse()
    try:
        _TASKS[options.task](options)
    except KeyboardInterrupt:
        return 130
    except GairError as error:
        print(f"evaluate: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate models and compare them with the paper.")
    tasks = parser.add_subparsers(dest="task", required=True)
    _add_retrieval(
        tasks.add_parser("retrieval", help="retrieval, places within scenes, probes of land cover")
    )
    _add_demo(tasks.add_parser("demo", help="the built-in model: held-out cities and real scenes"))
    table = tasks.add_parser("table", help="a table of the paper, ours beside it")
    _add_comparison(table, (1, 2, 3, 4, 5, 6, 7))
    table.add_argument("--measured", type=Path, help="table 7: JSON of benchmarks/table_7.py")
    _add_comparison(tasks.add_parser("figure", help="a figure of the paper, ours beside it"), (5,))
    _add_geo_bias(
        tasks.add_parser("geo-bias", help="how the failures of finished runs are spread over the Earth")
    )
    return parser.parse_args()


def _add_retrieval(retrieval: argparse.ArgumentParser) -> None:
    retrieval.add_argument("model", help="checkpoint or registered name")
    retrieval.add_argument("store", type=Path, help="folder of the store")
    retrieval.add_argument("--split", default="test", help="split to evaluate on (default: %(default)s)")
    retrieval.add_argument("--gallery", type=int, default=100, help="samples in a gallery (%(default)s)")
    retrieval.add_argument("--per-city", type=int, default=20, help="of one city at most (%(default)s)")
    retrieval.add_argument("--galleries", type=int, default=20, help="galleries to average (%(default)s)")
    retrieval.add_argument(
        "--localized", type=int, default=500, help="photos to find in scenes (%(default)s)"
    )
    retrieval.add_argument(
        "--scene-size", type=int, default=256, help="side of these scenes, pixels, at most (%(default)s)"
    )
    retrieval.add_argument("--batch-size", type=int, default=64, help="samples encoded at once (%(default)s)")
    retrieval.add_argument("--seed", type=int, default=0, help="seed of the draws (%(default)s)")
    retrieval.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    retrieval.add_argument("--no-untrained", action="store_true", help="leave the untrained model out")
    retrieval.add_argument("--no-probes", action="store_true", help="leave the probes of land cover out")
    retrieval.add_argument("--json", type=Path, help="file for the figures")
    retrieval.add_argument("--figures", type=Path, help="folder for the pictures")
    retrieval.add_argument("--pictures", type=int, default=6, help="photos in a picture (%(default)s)")


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--head", default="demo", help="a land-cover head as training/demo.py makes it")
    demo.add_argument("--store", type=Path, help="a store of the world (default: one is drawn, in minutes)")
    demo.add_argument("--real", type=Path, help="folder with germany_polygons, world_patches, eurosat_order")
    demo.add_argument("--only-real", action="store_true", help="leave the held-out cities out")
    demo.add_argument("--galleries", type=int, default=20, help="galleries to average (%(default)s)")
    demo.add_argument(
        "--localized", type=int, default=500, help="photos to find in scenes (default: %(default)s)"
    )
    demo.add_argument("--json", type=Path, help="file for the figures")


def _add_comparison(comparison: argparse.ArgumentParser, numbers: tuple[int, ...]) -> None:
    comparison.add_argument("number", type=int, choices=numbers)
    comparison.add_argument(
        "--runs", type=Path, nargs="+", help="folders of runs, at any depth (default: runs, if there)"
    )
    comparison.add_argument("--json", type=Path, help="file for everything as JSON")
    comparison.add_argument("--csv", type=Path, help="file for one result a line")


def _add_geo_bias(bias: argparse.ArgumentParser) -> None:
    bias.add_argument("runs", type=Path, nargs="+", help="folders of runs on photos or places")
    bias.add_argument(
        "--radius-km", type=float, default=RADIUS_KM, help="of a neighbourhood (default: %(default).1f)"
    )
    bias.add_argument("--tolerance", type=float, help="largest error of a quantity that is no failure")
    bias.add_argument("--most", type=int, help="neighbourhoods to draw at random (default: all)")
    bias.add_argument("--seed", type=int, default=0, help="seed of the draws (%(default)s)")
    bias.add_argument("--json", type=Path, help="file for the scores")


def _compare(options: argparse.Namespace) -> None:
    if options.number == 7:
        _costs(options)
        return
    usual = Path("runs")
    runs = options.runs or ([usual] if usual.is_dir() else [])
    comparison = compare(f"{options.task} {options.number}", runs, _CONFIGS)
    print(as_text(comparison))
    if options.json is not None:
        _write(options.json, _json(as_json(comparison)))
    if options.csv is not None:
        _write(options.csv, as_csv(comparison))


def _costs(options: argparse.Namespace) -> None:
    costs = None if options.measured is None else read_costs(options.measured)
    print(costs_as_text(costs))
    if options.json is not None:
        _write(options.json, _json(costs_as_values(costs)))
    if options.csv is not None:
        _write(options.csv, costs_as_csv(costs))


def _geo_bias(options: argparse.Namespace) -> None:
    found = {
        str(folder): run_geo_bias(
            folder,
            radius_km=options.radius_km,
            tolerance=options.tolerance,
            most=options.most,
            seed=options.seed,
        )
        for folder in options.runs
    }
    print(geo_bias_as_text(found))
    if options.json is not None:
        _write(options.json, _json(geo_bias_as_values(found)))


def _json(values: object) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}.") from None


def _retrieval(options: argparse.Namespace) -> None:
    store = Store(options.store)
    model = checkpoint.load(options.model, options.device)
    config = EvaluationConfig.parse(
        {
            name: getattr(options, name)
            for name in ("gallery", "per_city", "galleries", "localized", "scene_size")
        }
        | {"batch_size": options.batch_size, "seed": options.seed}
    )
    metrics = {"model": _measure(model, store, options, config)}
    if not options.no_untrained:
        untrained = untrained_like(model, options.seed).to(options.device)
        metrics["untrained"] = _measure(untrained, store, options, config)
    print(f"{'':36}{''.join(f'{name:>12}' for name in metrics)}")
    for name in metrics["model"]:
        print(f"{name:36}{''.join(f'{column[name]:12.4g}' for column in metrics.values())}")
    if options.json is not None:
        _write(options.json, _json(metrics))
    if options.figures is not None:
        _draw(model, store, options, config)


def _demo(options: argparse.Namespace) -> None:
    if options.only_real and options.real is None:
        raise BadInputError("--only-real leaves nothing to measure without --real.", "Give --real FOLDER.")
    progress = BarProgress()
    found: dict[str, object] = {}
    with contextlib.closing(progress):
        if not options.only_real:
            head, model = load_head(options.head)
            config = EvaluationConfig(galleries=options.galleries, localized=options.localized)
            with _held_out_store(options.store, progress) as store:
                figures = held_out_figures(model, head, store, config, progress=progress)
            print(held_out_as_text(figures))
            found["held_out"] = [asdict(one) for one in figures]
        if options.real is not None:
            real = real_figures(options.real, options.head, progress)
            print(real_as_text(real))
            found["real"] = [asdict(one) for one in real]
    if options.json is not None:
        _write(options.json, _json(found))


@contextlib.contextmanager
def _held_out_store(folder: Path | None, progress: Progress) -> Iterator[Store]:
    """Open a store, or draw one that lasts as long as the block."""
    if folder is not None:
        yield Store(folder)
        return
    with tempfile.TemporaryDirectory(prefix="gair-world-") as temporary:
        draw_world(Path(temporary), _HELD_OUT, os.cpu_count() or 1, progress)
        yield Store(Path(temporary))


def _measure(
    model: GAIR, store: Store, options: argparse.Namespace, config: EvaluationConfig
) -> dict[str, float]:
    modalities = [modality for part, modality in _PARTS.items() if part in model.parts]
    if len(modalities) < 2:
        raise BadInputError(f"The model holds {', '.join(model.parts)}; retrieval needs two encoders.")
    metrics = evaluate(model, store, options.split, config, modalities=modalities)
    if "scene" in modalities and store.classes and not options.no_probes:
        metrics |= probe_land_cover(model, store, options.split, config)
    return metrics


def _draw(model: GAIR, store: Store, options: argparse.Namespace, config: EvaluationConfig) -> None:
    options.figures.mkdir(parents=True, exist_ok=True)
    rows = store.samples.select(split=options.split, with_photo=True)
    chosen = np.random.default_rng(options.seed).permutation(rows)[: options.pictures]
    if {"remote_sensing", "street_view"} <= set(model.parts):
        figure_7(model, store, chosen, config).save(options.figures / "figure_7.png")
    if {"location", "street_view"} <= set(model.parts):
        figure_8(model, store, chosen).save(options.figures / "figure_8.png")


_TASKS = {
    "demo": _demo,
    "retrieval": _retrieval,
    "table": _compare,
    "figure": _compare,
    "geo-bias": _geo_bias,
}


if __name__ == "__main__":
    sys.exit(main())
