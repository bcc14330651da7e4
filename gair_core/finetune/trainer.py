"""The training loop of fine-tuning: from a configuration to a head and what it is worth.

A run is a folder: ``config.yaml``, ``training.csv``, ``evaluation.csv``, ``tensorboard/``, ``state/`` (to
resume from), ``best/`` (the weights of the best evaluation) and, when it has ended, ``head.safetensors`` with
the best weights, ``test.json`` and, of tasks that keep them, ``test_records.csv``.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from gair_core import checkpoint
from gair_core.checkpoint import enumerate_names
from gair_core.errors import BadInputError, CheckpointError, TrainingError
from gair_core.finetune.config import FinetuneConfig
from gair_core.finetune.reading import Visits, batches_from, evaluation_batches
from gair_core.finetune.schedule import schedule_factor
from gair_core.finetune.task import Batch, Examples, Results, Split, Terms
from gair_core.metadata import Provenance
from gair_core.pretrain.optimization import build_optimizer, set_rates
from gair_core.pretrain.run_log import Meter, RunLog
from gair_core.pretrain.state import latest_state, read_state, restore_state, save_state, state_to_resume
from gair_core.pretrain.stop_signal import StopSignal, ignore_signals
from gair_core.yaml_config import list_changes, to_yaml

# What may differ between a run and its continuation: it changes neither steps nor which of them is the best.
_FREE: Final = frozenset(
    {"output", "model", "workers", "prefetch", "log_every", "save_every", "test", "accelerator"}
)
_LISTED: Final = 20

StepHook = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        steps: Steps made.
        finished: Whether it came to its end, the last step or early stopping.
        signal: The signal that stopped it, 0 when none did.
        validation: The best evaluation on the validation split.
        test: The results on the test split; None where it was not evaluated.
    """

    steps: int
    finished: bool
    signal: int
    validation: dict[str, float]
    test: Results | None


@dataclass
class Counters:
    """What a run counts, beside its weights; kept in its state.

    Attributes:
        step: Steps made.
        best: The best value of the watched metric.
        best_step: Steps made at that evaluation, -1 before the first.
        stale: Evaluations since.
        metrics: That evaluation.
    """

    step: int = 0
    best: float | None = None
    best_step: int = -1
    stale: int = 0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


def finetune(
    config: FinetuneConfig,
    *,
    resume: bool = False,
    revision: str = "",
    show_progress: bool = True,
    on_step: StepHook | None = None,
) -> Outcome:
    """Train a head, and its encoder if the configuration says so; then test the best state and save it.

    SIGTERM and the first Ctrl-C end the step, save the state and stop.

    Args:
        config: The run.
        resume: Continue the run in `config.output`.
        revision: Revision of this software, for the head's provenance.
        show_progress: Whether to draw a bar.
        on_step: Called after each step with the number of steps made and the terms of the loss.

    Returns:
        How it ended.

    Raises:
        BadInputError: Model, data, configuration or folder cannot be used; a disk is full.
        TrainingError: The loss or a metric is no number; the examples are named.
    """
    state = state_to_resume(config.output, resume=resume)
    best = "cuda" if torch.cuda.is_available() else "cpu"
    accelerator = best if config.accelerator == "auto" else config.accelerator
    fabric = Fabric(accelerator=accelerator, devices=1, precision=config.precision)
    fabric.launch()
    run = _Run(config, fabric, revision)
    if state is not None:
        run.restore(state)
    with StopSignal() as stop:
        return run.train(stop, show_progress=show_progress, on_step=on_step)


class _Run:
    """Everything that a run holds."""

    def __init__(self, config: FinetuneConfig, fabric: Fabric, revision: str) -> None:
        self.config = config
        self.fabric = fabric
        self.revision = revision
        model = checkpoint.load(config.model)
        self.fingerprint = "" if model.checkpoint is None else model.checkpoint.fingerprint
        torch.manual_seed(config.seed)
        self.task = config.task.build(model, frozen=config.mode == "frozen", seed=config.seed)
        self.task.module.to(fabric.device)
        self.task.prepare(fabric.device)
        splits: tuple[Split, ...] = (
            ("train", "validation", "test") if config.test else ("train", "validation")
        )
        # Better now than after the last step.
        self.examples = {split: self._read(split) for split in splits}
        self._check_batches()
        self.epoch_steps = max(1, len(self.examples["train"]) // config.batch_size)
        self.steps = config.epochs * self.epoch_steps
        self.counters = Counters()
        self.optimizer = build_optimizer(self.task.module, config.optimizer, self.task.encoder_parameters)

    def _check_batches(self) -> None:
        """Refuse batches of one where statistics over a batch may be those of one value."""
        normalised = any(isinstance(part, nn.BatchNorm2d) for part in self.task.module.modules())
        if normalised and min(self.config.batch_size, len(self.examples["train"])) == 1:
            raise BadInputError(
                "This head normalises over its batch, and a batch of one example has no spread.",
                "Give at least two training examples and set batch_size to 2 or more.",
            )

    def _read(self, split: Split) -> Examples:
        examples = self.task.examples(split)
        if len(examples) == 0:
            raise BadInputError(f"{self.task.data_name} has no examples in the split {split}.")
        return examples

    @property
    def stopped_early(self) -> bool:
        """Whether the validation metric has not improved for too long."""
        return self.config.patience is not None and self.counters.stale >= self.config.patience

    def restore(self, path: Path) -> None:
        """Continue from a state."""
        description, tensors = read_state(path)
        free = _FREE | {f"task.{name}" for name in self.config.task.movable}
        changed = list_changes(description["config"], self.config.model_dump(mode="json"), free)
        if changed:
            raise BadInputError(
                f"The run in {self.config.output} was started with other values: {'; '.join(changed)}.",
                "Resume with the run's own config.yaml, or start a new run in another folder.",
            )
        for name, now in (("model", self.fingerprint), ("examples", self._digest())):
            if description[name] != now:
                raise BadInputError(
                    f"The {name} of the run in {self.config.output} are not those that it was started with.",
                    "Resume with the same model and data, or start a new run in another folder.",
                )
        restore_state(tensors, self.task.module, self.optimizer, path)
        self.counters = Counters(**description["counters"])
        for later in (self.config.output / "best").glob("*.safetensors"):
            # An evaluation whose state was never written; it comes again.
            if later.name > path.name:
                later.unlink()

    def train(self, stop: StopSignal, *, show_progress: bool, on_step: StepHook | None) -> Outcome:
        """Make the remaining steps."""
        self.config.output.mkdir(parents=True, exist_ok=True)
        _write_whole(self.config.output / "config.yaml", to_yaml(self.config))
        log = RunLog(self.config.output, self.counters.step)
        test = None
        try:
            with tqdm(
                total=self.steps,
                initial=self.counters.step,
                unit="steps",
                # None: no bar where standard error is no terminal.
                disable=None if show_progress else True,
                dynamic_ncols=True,
            ) as bar:
                received = self._train(stop, log, bar, on_step)
            finished = not received and (self.counters.step == self.steps or self.stopped_early)
            if finished:
                test = self._finish()
        finally:
            log.close()
        return Outcome(self.counters.step, finished, received, self.counters.metrics, test)

    def _train(self, stop: StopSignal, log: RunLog, bar: tqdm[Any], on_step: StepHook | None) -> int:
        """Make steps until all are made, it stops early or a signal comes; return the signal."""
        config = self.config
        meter = Meter(config.batch_size)
        batches = iter(self._training_loader())
        received = 0
        self.task.module.train()
        while self.counters.step < self.steps and not received and not self.stopped_early:
            meter.start()
            batch = next(batches)
            meter.loaded()
            terms = self._step(self._moved(batch))
            self.counters.step += 1
            step = self.counters.step
            meter.count(terms)
            bar.update()
            if on_step is not None:
                on_step(step, {name: float(value) for name, value in terms.items()})
            received = stop.agreed(self.fabric.device)
            last = step == self.steps or bool(received)
            if last or step % config.log_every == 0:
                figures = meter.take()
                log.write("training", step, {**figures, **self._vitals()})
                bar.set_postfix(loss=f"{figures['loss']:.4f}")
            with meter.paused():
                self._end_step(log, last=last, received=bool(received))
        return received

    def _end_step(self, log: RunLog, *, last: bool, received: bool) -> None:
        """Evaluate and save where an epoch has ended."""
        epoch, rest = divmod(self.counters.step, self.epoch_steps)
        improved = False
        if rest == 0 and (epoch % self.config.evaluate_every == 0 or self.counters.step == self.steps):
            improved = self._validate(log)
        due = rest == 0 and epoch % self.config.save_every == 0
        # The best weights and the state that says so belong together.
        if last or received or due or improved or self.stopped_early:
            self._save()

    def _step(self, batch: Batch) -> Terms:
        """Make one step and return the terms of its loss."""
        config, step = self.config, self.counters.step
        set_rates(self.optimizer, schedule_factor(step, self.steps, config.optimizer))
        torch.manual_seed(_step_seed(config.seed, step))
        with self.fabric.autocast():
            terms = self.task.loss(batch)
        terms["loss"].backward()
        parameters = [parameter for parameter in self.task.module.parameters() if parameter.grad is not None]
        limit = config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
        terms = {**{name: value.detach() for name, value in terms.items()}, "gradient_norm": norm}
        if not bool(torch.isfinite(terms["loss"]) & torch.isfinite(norm)):
            raise self._not_a_number(terms)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return terms

    def _not_a_number(self, terms: dict[str, Tensor]) -> TrainingError:
        batch = next(batches_from(self.counters.step, self.steps, len(self.examples["train"]), self.config))
        names = [self.examples["train"].name(visit.index) for visit in batch]
        return TrainingError(
            f"The loss of step {self.counters.step} is {float(terms['loss'])}, the norm of its gradient "
            f"{float(terms['gradient_norm'])}; the batch holds {enumerate_names(names, _LISTED)}.",
            "Lower optimizer.peak_rate or look at these examples; earlier states are sound.",
        )

    def _vitals(self) -> dict[str, float]:
        vitals = {
            "epoch": self.counters.step / self.epoch_steps,
            "learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
        }
        if self.fabric.device.type == "cuda":
            vitals["peak_gib"] = torch.cuda.max_memory_allocated(self.fabric.device) / 2**30
        return vitals

    def _validate(self, log: RunLog) -> bool:
        """Evaluate on the validation split; keep the weights and return True when they are the best."""
        metrics = self._evaluate("validation").metrics
        log.write("evaluation", self.counters.step, metrics)
        value = metrics[self.task.watched.name]
        if not self.task.watched.improves(value, self.counters.best):
            self.counters.stale += 1
            return False
        self.counters.best, self.counters.best_step = value, self.counters.step
        self.counters.stale, self.counters.metrics = 0, metrics
        save_state(self.config.output / "best", self.task.module, None, {"step": self.counters.step})
        return True

    @torch.no_grad()
    def _evaluate(self, split: Split) -> Results:
        self.task.module.eval()
        try:
            with self.fabric.autocast():
                results = self.task.evaluate(self._moved(batch) for batch in self._evaluation_loader(split))
        finally:
            self.task.module.train()
        wrong = [name for name, value in results.metrics.items() if not math.isfinite(value)]
        if wrong:
            raise TrainingError(
                f"On the split {split} these metrics are no numbers: {', '.join(wrong)}.",
                "Lower optimizer.peak_rate, or look at the labels of the split.",
            )
        return results

    def _save(self) -> None:
        """Write the state."""
        description = {
            "step": self.counters.step,
            "counters": dataclasses.asdict(self.counters),
            "config": self.config.model_dump(mode="json"),
            "model": self.fingerprint,
            "examples": self._digest(),
        }
        save_state(self.config.output / "state", self.task.module, self.optimizer, description)

    def _finish(self) -> Results | None:
        """Test the best weights and save them as a head."""
        path = latest_state(self.config.output / "best")
        if path is None:
            raise CheckpointError(
                f"The best weights are missing: {self.config.output / 'best'} is empty.",
                "Start a new run in another folder.",
            )
        restore_state(read_state(path)[1], self.task.module, None, path)
        self.task.module.eval()
        results = self._evaluate("test") if self.config.test else None
        provenance = Provenance(
            source=f"gair_core fine-tuning ({self.config.mode} encoder), best of {self.counters.step} steps: "
            f"{self.counters.best_step}, seed {self.config.seed}",
            training_data=f"{self.task.data_name}, training split: {len(self.examples['train'])} examples",
            git_revision=self.revision,
            metrics=self.counters.metrics,
        )
        accuracy = None if results is None else results.report(f"{self.task.data_name}, test split")
        if results is not None:
            self._write_test(results)
        self.task.save(self.config.output / "head.safetensors", accuracy, provenance)
        return results

    def _write_test(self, results: Results) -> None:
        described = {
            "data": self.task.data_name,
            "split": "test",
            "examples": len(self.examples["test"]),
            "model": self.config.model,
            "mode": self.config.mode,
            "step": self.counters.best_step,
            "metrics": results.metrics,
            "class_metrics": results.class_metrics,
            "confusion": results.confusion,
            "validation": self.counters.metrics,
        }
        folder = self.config.output
        _write_whole(folder / "test.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n")
        if results.records:
            _write_whole(folder / "test_records.csv", _as_csv(results.records))

    def _training_loader(self) -> DataLoader[Batch]:
        config, examples = self.config, self.examples["train"]
        sampler = batches_from(self.counters.step, self.steps, len(examples), config)
        return self._loader(examples, sampler)

    def _evaluation_loader(self, split: Split) -> DataLoader[Batch]:
        examples = self.examples[split]
        size = self.task.evaluation_batch or self.config.batch_size
        return self._loader(examples, evaluation_batches(len(examples), size))

    def _loader(self, examples: Examples, batches: Iterator[list[Any]]) -> DataLoader[Batch]:
        workers = self.config.workers
        return DataLoader(
            Visits(examples, self.config.seed),
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=self.config.prefetch if workers else None,
            pin_memory=self.fabric.device.type == "cuda",
            worker_init_fn=ignore_signals,
        )

    def _moved(self, batch: Batch) -> Batch:
        return {name: values.to(self.fabric.device) for name, values in batch.items()}

    def _digest(self) -> int:
        """Return a number that changes with the training and validation examples."""
        splits = (self.examples["train"], self.examples["validation"])
        names = [examples.name(index) for examples in splits for index in range(len(examples))]
        return zlib.crc32("\n".join(Path(name).name for name in names).encode())


def _step_seed(seed: int, step: int) -> int:
    """Return the seed of dropout and the like in a step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401
    """Return what the data set made: it joins examples itself."""
    return batch


def _as_csv(columns: Mapping[str, npt.NDArray[Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True))
    return text.getvalue()


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is there only when it is complete."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        part.replace(path)
    except OSError as error:
        raise BadInputError(
            f"{path} could not be written: {error}.", "Make room and run again with --resume."
        ) from error
    finally:
        part.unlink(missing_ok=True)
