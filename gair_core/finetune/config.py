"""What a fine-tuning run is: typed, frozen, read from YAML with dotted overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from gair_core.config import Config, Positive
from gair_core.finetune.schedule import FinetuneOptimizerConfig
from gair_core.finetune.tasks import AnyTaskConfig
from gair_core.yaml_config import read_values


class FinetuneConfig(Config):
    """A whole run.

    Attributes:
        model: The pretrained model: a checkpoint's path, or a registered name.
        mode: ``frozen`` trains the head alone, ``full`` the encoders too.
        task: What is learnt, see `gair_core.finetune.tasks`.
        optimizer: How.
        output: Folder of the run.
        epochs: Passes over the training examples.
        batch_size: Examples of a step. The last batch of an epoch is left out unless it is full, or the only.
        evaluate_every: Epochs between evaluations on the validation split; the last epoch always has one.
        patience: Evaluations without an improvement after which the run stops; None never stops early.
        save_every: Epochs between saved states.
        test: Whether the best state is evaluated on the test split at the end.
        seed: Seed of new weights, order, augmentation and dropout.
        precision: ``bf16-mixed`` computes the encoders and heads in bf16; losses never.
        accelerator: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        workers: Processes that read ahead; 0 reads in the training process.
        prefetch: Batches that each of them keeps ready.
        log_every: Steps between lines of the log.
    """

    model: str = Field(min_length=1)
    mode: Literal["frozen", "full"] = "frozen"
    task: AnyTaskConfig
    optimizer: FinetuneOptimizerConfig = FinetuneOptimizerConfig()
    output: Path
    epochs: Positive = 80
    batch_size: Positive = 8
    evaluate_every: Positive = 1
    patience: Positive | None = None
    save_every: Positive = 1
    test: bool = True
    seed: int = Field(0, ge=0)
    precision: Literal["bf16-mixed", "32-true"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(4, ge=0)
    prefetch: Positive = 2
    log_every: Positive = 20


def read_config(path: Path, overrides: Sequence[str] = (), *, base: Path | None = None) -> FinetuneConfig:
    """Read a run's configuration.

    Args:
        path: A YAML file; it may name another one as ``base``.
        overrides: ``key=value`` or ``a.b=value``, the value in YAML.
        base: Another file in place of the one that it names as ``base``.

    Raises:
        BadInputError: A file is missing or no YAML, or a key is unknown or has an impossible value (named).
    """
    return FinetuneConfig.parse(read_values(path, overrides, base=base))
