"""Make the built-in model anew: ``python training/demo.py [--output FOLDER]``.

One command, four steps: draw the store of the procedural world, train the model, fit its land-cover head and
measure both. It writes ``demo.safetensors`` and ``demo-land-cover.safetensors``, and the figures as
``figures.json`` into the folder of the training.
Ctrl-C stops it; the same command continues: the store with its missing cities, the training after its last
step. The head and the figures, which take minutes, are made anew. With ``--trained MODEL`` the training is
left out: any model of the world can become the demo.

The files become the built-in ones in ``gair_core/models``; ``GAIR_MODELS=FOLDER`` tries them out before.
``--quick`` makes a tiny world and a few steps, which shows that everything works and not what GAIR knows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch
from revision import git_revision
from world_store import WorldSize, draw_world

from gair_core import checkpoint
from gair_core.cli import BarProgress
from gair_core.errors import GairError
from gair_core.evaluation.demo import as_text, held_out_figures
from gair_core.finetune.datasets.world import WorldData
from gair_core.finetune.world_land_cover import (
    CLASSES,
    FitOptions,
    collect_pixels,
    evaluate_land_cover,
    fit_land_cover,
)
from gair_core.head_checkpoint import load_head, save_head
from gair_core.heads.base import HeadMetadata
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.pretrain.config import PretrainConfig, read_config
from gair_core.pretrain.store import Store
from gair_core.pretrain.trainer import pretrain
from gair_core.progress import Progress
from gair_core.registry import DEMO, DEMO_HEAD

_LICENCE = "Apache-2.0"
_CONFIG = Path(__file__).resolve().parent / "configs" / "demo.yaml"
# Of training on the smallest world that has everything.
_QUICK = (
    # Of its own: a small world must never be taken for the one that a demo learns from.
    *("data.store=stores/demo_quick", "output=runs/demo_quick"),
    *("steps=4", "sampling.batch_size=8", "objective.bank_capacity=16", "data.workers=0", "save_every=2"),
    *("evaluation.every=0", "evaluation.galleries=2", "evaluation.localized=4", "evaluation.scene_size=64"),
    *("evaluation.gallery=4", "model.remote_sensing.depth=1", "model.street_view.depth=1"),
    *("basis_components=16", "basis_samples=16"),
)
_QUICK_WORLD = WorldSize(
    cities=6, validation=1, test=1, side=64, photos=8, photo_side=32, days=(date(2023, 7, 10),)
)
_QUICK_SCENES = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 finished, 1 failed, 128 + n stopped by signal n."""
    options = _parse(arguments)
    progress = BarProgress()
    try:
        with contextlib.closing(progress):
            return _run(options, progress)
    # Whatever is written is written whole or not at all, so Ctrl-C may come at any time.
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except GairError as error:
        print(f"demo: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=_CONFIG, help="of the training (%(default)s)")
    parser.add_argument("--store", type=Path, help="drawn where it is missing (default: the configuration's)")
    parser.add_argument("--runs", type=Path, help="folder of the training (default: the configuration's)")
    parser.add_argument("--output", type=Path, help="folder for both files (default: models in --runs)")
    parser.add_argument("--trained", metavar="MODEL", help="a model that was trained already")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="cities drawn at a time (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny world and a few steps, in seconds")
    options = parser.parse_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes must be at least 1, found {options.processes}")
    return options


def _run(options: argparse.Namespace, progress: Progress) -> int:
    size = _QUICK_WORLD if options.quick else WorldSize()
    fit = FitOptions(scenes=_QUICK_SCENES) if options.quick else FitOptions()
    config = _configuration(options)
    output: Path = options.output or config.output / "models"
    if not (config.data.store / "store.json").is_file():
        draw_world(config.data.store, size, options.processes, progress)
    trained = options.trained
    if trained is None:
        trained = config.output / "model.safetensors"
        stopped = _train(config)
        if stopped:
            return _stopped(stopped)
    output.mkdir(parents=True, exist_ok=True)
    _publish(trained, output / f"{DEMO}.safetensors", config)
    _fit_head(output, config.data.store, fit, progress)
    _measure(output, config, fit, progress)
    print(f"{output / DEMO}.safetensors and {DEMO_HEAD}.safetensors are written.")
    return 0


def _configuration(options: argparse.Namespace) -> PretrainConfig:
    overrides = list(_QUICK) if options.quick else []
    # Quoted: YAML would read more than a path into some.
    overrides += [f"data.store={json.dumps(str(options.store))}"] if options.store else []
    overrides += [f"output={json.dumps(str(options.runs))}"] if options.runs else []
    return read_config(options.config, overrides)


def _stopped(number: int) -> int:
    print("Stopped; run the same command again to continue.", file=sys.stderr)
    return 128 + number


def _train(config: PretrainConfig) -> int:
    """Train, or go on with it; return the signal that stopped it, 0 when it is finished."""
    if (config.output / "model.safetensors").is_file():
        return 0
    resume = (config.output / "state").is_dir()
    return pretrain(config, resume=resume, revision=git_revision()).signal


def _training_data(store: Store, split: str) -> str:
    rows = store.samples.select(split=split, with_photo=True)
    cities = len(set(store.samples.city[rows].tolist()))
    days = len(store.tile(str(store.samples.tile[rows[0]])).dates)
    return (
        f"the procedural world of gair_core.world: {len(rows):,} photos in {cities} cities, each on {days} "
        f"day{'s' * (days > 1)}; no real imagery"
    )


def _publish(trained: str | Path, path: Path, config: PretrainConfig) -> None:
    """Write the model in half precision; the Fourier frequencies and the basis stay as they are."""
    model = checkpoint.load(trained)
    known = model.checkpoint or CheckpointMetadata()
    provenance = known.provenance.model_copy(
        update={
            "licence": _LICENCE,
            "training_data": _training_data(Store(config.data.store), config.data.split),
        }
    )
    metadata = CheckpointMetadata(title=config.title, provenance=provenance)
    checkpoint.save(model, path, metadata=metadata, dtype=torch.float16)


def _fit_head(folder: Path, store: Path, options: FitOptions, progress: Progress) -> None:
    """Fit the head on the model as it was written, and say how well it does on cities held out."""
    # By its path: the name may belong to the one that is built in by now.
    model = checkpoint.load(folder / f"{DEMO}.safetensors")
    data = WorldData(store, "segmentation")
    head = fit_land_cover(model, collect_pixels(model, data, "train", options, progress), options)
    results = evaluate_land_cover(model, head, data, "test")
    shown = ("iou", "f1", "precision", "recall")
    known = {name: {key: found[key] for key in shown} for name, found in results.class_metrics.items()}
    report = replace(results, class_metrics=known).report("scenes of held-out cities of the procedural world")
    head.metadata = HeadMetadata(
        title="GAIR demo: land cover, learned from a procedural world",
        classes=CLASSES,
        accuracy=report,
        provenance=Provenance(
            source=f"training/demo.py, {options.scenes} varied scenes, seed {options.seed}",
            licence=_LICENCE,
            training_data="scenes and land cover of the procedural world of gair_core.world; no real imagery",
            git_revision=git_revision(),
        ),
    )
    save_head(head, folder / f"{DEMO_HEAD}.safetensors", model)


def _measure(folder: Path, config: PretrainConfig, options: FitOptions, progress: Progress) -> None:
    head, model = load_head(folder / f"{DEMO_HEAD}.safetensors")
    store = Store(config.data.store)
    figures = held_out_figures(model, head, store, config.evaluation, options=options, progress=progress)
    text = json.dumps([asdict(one) for one in figures], indent=1)
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(as_text(figures))


if __name__ == "__main__":
    sys.exit(main())
