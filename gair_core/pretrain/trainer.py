"""The training loop: from a configuration and a store to a checkpoint.

A run is a folder: ``config.yaml``, ``training.csv``, ``evaluation.csv``, ``tensorboard/``, ``state/`` (to
resume from), ``last.safetensors`` and ``best.safetensors`` (models as of the last save and of the best
evaluation) and, when it has ended, ``model.safetensors`` with the PCA basis of its embeddings.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from gair_core import checkpoint
from gair_core.basis import fit_basis
from gair_core.errors import BadInputError, GairError, TrainingError
from gair_core.losses.distributed import gather
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.model.gair import GAIR
from gair_core.pretrain.augmentation import prepare
from gair_core.pretrain.config import AugmentationConfig, PretrainConfig
from gair_core.pretrain.dataset import Batch, PretrainDataset
from gair_core.pretrain.evaluation import evaluate
from gair_core.pretrain.gradcache import cached_backward
from gair_core.pretrain.initialization import initialize
from gair_core.pretrain.objective import ContrastiveObjective, Objective, Terms, build_objective
from gair_core.pretrain.optimization import average_gradients, build_optimizer, rate_factor, set_rates
from gair_core.pretrain.run_log import Meter, RunLog
from gair_core.pretrain.sampler import BatchSampler, Draw
from gair_core.pretrain.state import read_state, restore_state, save_state, state_to_resume
from gair_core.pretrain.stop_signal import StopSignal, ignore_signals
from gair_core.pretrain.store import Store
from gair_core.yaml_config import list_changes, to_yaml

# What may differ between a run and its continuation: it changes neither batches nor gradients.
_FREE: Final = frozenset(
    {"data.store", "data.workers", "data.prefetch", "data.unreadable_limit", "data.evaluation_split"}
    | {"accelerator", "devices", "nodes", "compile", "log_every", "save_every", "keep", "evaluation"}
    | {"basis_components", "basis_samples", "output", "title"}
)
_BASIS_QUERIES: Final = 16
_FIRST_PHOTOS: Final = 1000
_LISTED_IDS: Final = 20

StepHook = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        steps: Steps made.
        finished: Whether these were all.
        signal: The signal that stopped it, 0 when none did.
        metrics: The last evaluation.
    """

    steps: int
    finished: bool
    signal: int
    metrics: dict[str, float]


@dataclass
class Counters:
    """What a run counts, beside its weights; kept in its state.

    Attributes:
        step: Steps made.
        drawn: Photos asked for, over all ranks.
        unreadable: Photos that could not be read.
        best: The best evaluation's score.
        evaluated: Steps made at the last evaluation, -1 without one.
        metrics: The last evaluation.
    """

    step: int = 0
    drawn: int = 0
    unreadable: int = 0
    best: float | None = None
    evaluated: int = -1
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


def pretrain(
    config: PretrainConfig,
    *,
    resume: bool = False,
    revision: str = "",
    show_progress: bool = True,
    on_step: StepHook | None = None,
) -> Outcome:
    """Train a model.

    SIGTERM and the first Ctrl-C end the step, save the state and stop.

    Args:
        config: The run.
        resume: Continue the run in `config.output`.
        revision: Revision of this software, for the checkpoint's provenance.
        show_progress: Whether to draw a bar.
        on_step: Called after each step with the number of steps made and the terms of the loss.

    Returns:
        How it ended.

    Raises:
        BadInputError: The store, the configuration or the folder cannot be used; a disk is full.
        TrainingError: The loss is no number; the batch's ids are named.
    """
    # Before the ranks start: afterwards the first of them may have begun to write.
    state = state_to_resume(config.output, resume=resume)
    best = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(
        accelerator=best if config.accelerator == "auto" else config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        precision=config.precision,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
    )
    fabric.launch()
    run = _Run(config, fabric, revision)
    if state is not None:
        run.restore(state)
    with StopSignal() as stop:
        return run.train(stop, show_progress=show_progress, on_step=on_step)


class _Run:
    """Everything that a run holds on one rank."""

    def __init__(self, config: PretrainConfig, fabric: Fabric, revision: str) -> None:
        self.config = config
        self.fabric = fabric
        self.revision = revision
        self.store = Store(config.data.store)
        indices = self.store.samples.select(split=config.data.split)
        if config.objective.kind == "contrastive" and set(config.modalities) == {"scene", "photo"}:
            # Without a photo such a sample has nothing to say.
            indices = self.store.samples.select(split=config.data.split, with_photo=True)
        self.indices = indices
        if config.objective.kind == "contrastive" and config.data.evaluation_split is not None:
            # Better now than after the last step.
            self.store.samples.select(
                split=config.data.evaluation_split, with_photo="photo" in config.modalities
            )
        self.steps = config.steps or config.epochs * (len(indices) // config.sampling.batch_size)
        self.counters = Counters()
        # The same weights on all ranks, whatever was drawn before.
        torch.manual_seed(config.seed)
        model = GAIR(config.model)
        loaded = initialize(model, config.initialize)
        self.objective: Objective = build_objective(model, config.objective, fabric.autocast)
        self.dtype = torch.float64 if config.precision == "64-true" else torch.float32
        self.objective.to(device=fabric.device, dtype=self.dtype).train()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        initialized = [
            name
            for name, parameter in self.objective.named_parameters()
            if names.get(id(parameter)) in loaded
        ]
        self.optimizer = build_optimizer(self.objective, config.optimizer, initialized)
        if config.compile:
            for part in (model.remote_sensing, model.street_view):
                if part is not None:
                    part.compile()

    @property
    def model(self) -> GAIR:
        return self.objective.model

    def restore(self, path: Path) -> None:
        """Continue from a state."""
        description, tensors = read_state(path)
        changed = list_changes(description["config"], self.config.model_dump(mode="json"), _FREE)
        if changed:
            raise BadInputError(
                f"The run in {self.config.output} was started with other values: {'; '.join(changed)}.",
                "Resume with the run's own config.yaml, or start a new run in another folder.",
            )
        if description["samples"] != self._samples_digest():
            raise BadInputError(
                f"The store {self.config.data.store} holds other samples than when the run was started.",
                "Resume with the same store, or start a new run.",
            )
        restore_state(tensors, self.objective, self.optimizer, path)
        self.counters = Counters(**description["counters"])

    def train(self, stop: StopSignal, *, show_progress: bool, on_step: StepHook | None) -> Outcome:
        """Make the remaining steps."""
        loader = self._loader()
        log = None
        if self.fabric.is_global_zero:
            self.config.output.mkdir(parents=True, exist_ok=True)
            (self.config.output / "config.yaml").write_text(to_yaml(self.config), encoding="utf-8")
            log = RunLog(self.config.output, self.counters.step)
        try:
            with self._bar(shown=show_progress and self.fabric.is_global_zero) as bar:
                received = self._train(loader, stop, log, bar, on_step)
                finished = self.counters.step == self.steps
                if finished and not received:
                    self._on_first_rank(lambda: self._finish(log))
        finally:
            if log is not None:
                log.close()
        return Outcome(self.counters.step, finished, received, self.counters.metrics)

    def _train(
        self,
        loader: DataLoader[Batch],
        stop: StopSignal,
        log: RunLog | None,
        bar: tqdm[Any],
        on_step: StepHook | None,
    ) -> int:
        """Make steps until they are all made or a signal comes; return the signal."""
        config = self.config
        meter = Meter(config.sampling.batch_size)
        batches = iter(loader)
        received = 0
        while self.counters.step < self.steps and not received:
            meter.start()
            batch = next(batches)
            meter.loaded()
            terms = self._step(batch)
            self.counters.step += 1
            step = self.counters.step
            drawn = int((batch.has_photo | batch.unreadable).sum())
            meter.count(terms, drawn=drawn, unreadable=int(batch.unreadable.sum()))
            bar.update(config.sampling.batch_size)
            received = stop.agreed(self.fabric.device)
            if on_step is not None:
                on_step(step, {name: float(value) for name, value in terms.items()})
                received = received or stop.agreed(self.fabric.device)
            last = step == self.steps or bool(received)
            if last or step % config.log_every == 0:
                self._count_photos(meter)
                if log is not None:
                    figures = meter.take()
                    log.write("training", step, {**figures, **self._vitals()})
                    bar.set_postfix(loss=f"{figures['loss']:.4f}")
            with meter.paused():
                if config.evaluation.every and step % config.evaluation.every == 0 and not received:
                    self._on_first_rank(lambda: self._evaluate(log))
                if last or step % config.save_every == 0:
                    self._on_first_rank(self._save)
        return received

    def _step(self, batch: Batch) -> Terms:
        """Make one step and return the terms of its loss."""
        config, step = self.config, self.counters.step
        set_rates(self.optimizer, rate_factor(step, self.steps, config.optimizer.warmup))
        torch.manual_seed(_step_seed(config.seed, step, self.fabric.global_rank))
        inputs = prepare(batch.to(self.fabric.device), config.model, self.dtype)
        if config.cached_chunk is not None and isinstance(self.objective, ContrastiveObjective):
            terms = cached_backward(self.objective, inputs, config.cached_chunk)
        else:
            terms = self.objective(inputs)
            terms["loss"].backward()
        parameters = [parameter for parameter in self.objective.parameters() if parameter.grad is not None]
        average_gradients(parameters)
        limit = config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
        terms = {**{name: value.detach() for name, value in terms.items()}, "gradient_norm": norm}
        # A gradient can be no number where the loss still is one. The averaged one is the same on all ranks.
        if not bool(torch.isfinite(terms["loss"]) & torch.isfinite(norm)):
            raise self._not_a_number(batch, terms)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.end_step(inputs)
        return terms

    def _not_a_number(self, batch: Batch, terms: Terms) -> TrainingError:
        rows = gather(batch.index.to(self.fabric.device)).tolist()
        ids = [str(self.store.samples.id[row]) for row in rows]
        path = self.config.output / "not-a-number.json"
        values = {name: str(float(value)) for name, value in terms.items()}
        if self.fabric.is_global_zero:
            described = {"step": self.counters.step, "terms": values, "ids": ids}
            path.write_text(json.dumps(described, indent=1), encoding="utf-8")
        listed = checkpoint.enumerate_names(ids, _LISTED_IDS)
        return TrainingError(
            f"The loss of step {self.counters.step} is {values['loss']}, the norm of its gradient "
            f"{values['gradient_norm']}; the batch holds {listed}.",
            f"{path} lists it. Lower optimizer.peak_rate or look at these samples; earlier states are sound.",
        )

    def _count_photos(self, meter: Meter) -> None:
        """Add up drawn and unreadable photos over the ranks, and stop all of them beyond the limit."""
        counts = torch.tensor([[meter.drawn, meter.unreadable]], device=self.fabric.device)
        drawn, unreadable = gather(counts).sum(dim=0).tolist()
        meter.drawn = meter.unreadable = 0
        self.counters.drawn += drawn
        self.counters.unreadable += unreadable
        limit = self.config.data.unreadable_limit
        # A handful may fall into the first batches by chance.
        if self.counters.unreadable > limit * max(self.counters.drawn, _FIRST_PHOTOS):
            raise BadInputError(
                f"{self.counters.unreadable} of {self.counters.drawn} photos could not be read, the limit is "
                f"{limit:g} of them.",
                "gair store-check names them. Build the store again, or raise data.unreadable_limit.",
            )

    def _vitals(self) -> dict[str, float]:
        vitals = {
            "epoch": self.counters.step / max(len(self.indices) // self.config.sampling.batch_size, 1),
            "learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
            "temperature": 1 / float(self.model.logit_scale.detach()),
            "unreadable_photos": float(self.counters.unreadable),
        }
        if self.fabric.device.type == "cuda":
            vitals["peak_gib"] = torch.cuda.max_memory_allocated(self.fabric.device) / 2**30
        return vitals

    def _on_first_rank(self, work: Callable[[], None]) -> None:
        """Work on the first rank while the others wait; all of them hear of a failure, or they would hang."""
        error: GairError | None = None
        if self.fabric.is_global_zero:
            try:
                work()
            except GairError as caught:
                error = caught
        failed = gather(torch.tensor([int(error is not None)], device=self.fabric.device))
        if error is not None:
            raise error
        if bool(failed.any()):
            raise TrainingError("The first rank failed.", "Its message says why.")

    def _evaluate(self, log: RunLog | None) -> None:
        """Evaluate, and keep the model when it is the best."""
        config, split = self.config, self.config.data.evaluation_split
        if split is None or not isinstance(self.objective, ContrastiveObjective):
            return
        with _evaluating(self.model), self.fabric.autocast():
            metrics = evaluate(self.model, self.store, split, config.evaluation, modalities=config.modalities)
        self.counters.metrics, self.counters.evaluated = metrics, self.counters.step
        if log is not None:
            log.write("evaluation", self.counters.step, metrics)
        score = metrics.get("score")
        if score is not None and (self.counters.best is None or score > self.counters.best):
            self.counters.best = score
            self._save_model("best")

    def _save(self) -> None:
        """Write the state and the model as it is."""
        description = {
            "step": self.counters.step,
            "counters": dataclasses.asdict(self.counters),
            "config": self.config.model_dump(mode="json"),
            "samples": self._samples_digest(),
        }
        folder = self.config.output / "state"
        save_state(folder, self.objective, self.optimizer, description, keep=self.config.keep)
        self._save_model("last")

    def _save_model(self, name: str) -> None:
        config = self.config
        counts = self.store.description.get("counts", {})
        provenance = Provenance(
            source=f"gair_core pretraining, {self.counters.step} of {self.steps} steps, seed {config.seed}",
            training_data=f"{config.data.store.name}, split {config.data.split}: {json.dumps(counts)}",
            git_revision=self.revision,
            metrics=self.counters.metrics,
        )
        metadata = CheckpointMetadata(title=config.title, provenance=provenance)
        checkpoint.save(self.model, config.output / f"{name}.safetensors", metadata=metadata)

    def _finish(self, log: RunLog | None) -> None:
        """Evaluate once more, fit the PCA basis and write the final model."""
        if self.counters.evaluated != self.counters.step:
            self._evaluate(log)
        if "scene" in self.config.modalities and self.config.basis_components:
            with _evaluating(self.model), self.fabric.autocast():
                embeddings = self._basis_embeddings()
            self.model.basis = fit_basis(embeddings, self.config.basis_components)
        self._save_model("model")
        self.model.basis = None

    @torch.no_grad()
    def _basis_embeddings(self) -> Tensor:
        """Return embeddings of random places of training scenes, (N, D)."""
        config = self.config
        augmentation = AugmentationConfig.none().model_copy(
            update={"random_window": True, "random_date": True}
        )
        dataset = PretrainDataset(
            self.store, config.model, augmentation, modalities=("scene",), seed=config.seed
        )
        generator = np.random.default_rng(config.seed)
        rows = generator.permutation(self.indices)[: config.basis_samples]
        found = []
        for start in range(0, len(rows), config.evaluation.batch_size):
            part = rows[start : start + config.evaluation.batch_size]
            draws = [Draw(int(row), 0, start + number) for number, row in enumerate(part)]
            inputs = prepare(dataset.__getitems__(draws).to(self.fabric.device), config.model, self.dtype)
            if inputs.scene is None:
                raise ValueError("a basis needs scenes")
            uv = torch.from_numpy(generator.random((len(part), _BASIS_QUERIES, 2))).to(inputs.uv)
            features = self.model.encode_remote_sensing(inputs.scene)
            found.append(self.model.interpolate(features, uv).flatten(0, 1).float().cpu())
        return torch.cat(found)

    def _loader(self) -> DataLoader[Batch]:
        config = self.config
        dataset = PretrainDataset(
            self.store,
            config.model,
            config.augmentation,
            modalities=config.modalities,
            seed=config.seed,
            min_valid=config.data.min_valid,
        )
        sampler = BatchSampler(
            self.store.samples,
            self.indices,
            config.sampling,
            seed=config.seed,
            steps=self.steps,
            start=self.counters.step,
            rank=self.fabric.global_rank,
            ranks=self.fabric.world_size,
        )
        workers = config.data.workers
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=config.data.prefetch if workers else None,
            pin_memory=self.fabric.device.type == "cuda",
            worker_init_fn=ignore_signals,
        )

    @contextmanager
    def _bar(self, *, shown: bool) -> Iterator[tqdm[Any]]:
        size = self.config.sampling.batch_size
        with tqdm(
            total=self.steps * size,
            initial=self.counters.step * size,
            unit="samples",
            # None: no bar where standard error is no terminal.
            disable=None if shown else True,
            dynamic_ncols=True,
            smoothing=0.05,
        ) as bar:
            yield bar

    def _samples_digest(self) -> int:
        ids = "\n".join(self.store.samples.id[self.indices])
        return zlib.crc32(ids.encode())


@contextmanager
def _evaluating(model: GAIR) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of dropout and masks of a step, different on each rank."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401
    """Return what the dataset made: it joins samples itself."""
    return batch
