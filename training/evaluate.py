"""Evaluate a model on held-out cities of a store: ``python training/evaluate.py retrieval MODEL STORE``.

It prints the figures of the model beside those of an untrained one of the same shape, and writes them as JSON
and, with ``--figures``, figures 7 and 8 of the paper as PNG.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from gair_core import checkpoint
from gair_core.errors import BadInputError, GairError
from gair_core.model.gair import GAIR
from gair_core.pretrain.config import EvaluationConfig, Modality
from gair_core.pretrain.evaluation import evaluate
from gair_core.pretrain.figures import figure_7, figure_8
from gair_core.pretrain.probes import probe_land_cover
from gair_core.pretrain.store import Store

_PARTS: dict[str, Modality] = {"remote_sensing": "scene", "street_view": "photo", "location": "location"}


def main() -> int:
    """Run the command and return its exit code."""
    options = _parse()
    try:
        _retrieval(options)
    except GairError as error:
        print(f"evaluate: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a pretrained model on a store.")
    tasks = parser.add_subparsers(dest="task", required=True)
    retrieval = tasks.add_parser("retrieval", help="retrieval, places within scenes, probes of land cover")
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
    return parser.parse_args()


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
        torch.manual_seed(options.seed)
        untrained = GAIR(model.config).to(options.device).eval()
        metrics["untrained"] = _measure(untrained, store, options, config)
    print(f"{'':36}{''.join(f'{name:>12}' for name in metrics)}")
    for name in metrics["model"]:
        print(f"{name:36}{''.join(f'{column[name]:12.4g}' for column in metrics.values())}")
    if options.json is not None:
        options.json.write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    if options.figures is not None:
        _draw(model, store, options, config)


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


if __name__ == "__main__":
    sys.exit(main())
