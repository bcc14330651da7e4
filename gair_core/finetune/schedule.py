"""The learning rate of a step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from gair_core.pretrain.config import OptimizerConfig
from gair_core.pretrain.optimization import rate_factor


class FinetuneOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule; the defaults are PANGAEA's (Marsocci et al. 2024).

    Attributes:
        peak_rate: Learning rate after the warm-up.
        initialized_factor: Factor on it for the weights of a pretrained encoder.
        weight_decay: Weight decay; none on norms, biases and other vectors.
        betas: Decay rates of the moments.
        warmup: Fraction of the steps over which the rate rises linearly.
        clip_norm: Largest norm of the gradient; None does not clip.
        schedule: What becomes of the rate then: at each of the ``milestones`` it is multiplied by `gamma`; it
            falls to 0 by a ``cosine``; or it stays ``constant``.
        milestones: Fractions of the steps, rising.
        gamma: Factor on the rate at a milestone.
    """

    peak_rate: float = Field(1e-4, gt=0)
    initialized_factor: float = Field(1.0, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.0, ge=0, le=1)
    clip_norm: float | None = Field(None, gt=0)
    schedule: Literal["milestones", "cosine", "constant"] = "milestones"
    milestones: tuple[float, ...] = (0.6, 0.9)
    gamma: float = Field(0.1, gt=0, le=1)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError(f"milestones must rise between 0 and 1, found {self.milestones}")
        return self


def schedule_factor(step: int, steps: int, config: FinetuneOptimizerConfig) -> float:
    """Return the factor on the peak rate.

    Args:
        step: The step that is about to be made, from 0.
        steps: Number of steps of the run.
        config: The schedule.
    """
    cosine = rate_factor(step, steps, config.warmup)
    if config.schedule == "cosine" or step < config.warmup * steps:
        return cosine
    if config.schedule == "constant":
        return 1.0
    return config.gamma ** sum(step >= int(steps * milestone) for milestone in config.milestones)
