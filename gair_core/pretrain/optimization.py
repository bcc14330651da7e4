"""AdamW's parameter groups, the learning rate of a step, and gradients over ranks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gair_core.losses.distributed import world_size
from gair_core.pretrain.config import OptimizerConfig

# Gradients are averaged in pieces of at most this many values: one message of all would copy the whole model.
_BUCKET = 2**25


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, initialized: Collection[str] = ()
) -> torch.optim.AdamW:
    """Return AdamW with groups for new and for loaded weights, each with and without decay.

    Args:
        model: What is optimised.
        config: Rates and decay.
        initialized: Names of the parameters that were loaded; they learn by `initialized_factor`.

    Returns:
        The optimiser; ``peak`` of a group is its learning rate after the warm-up.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name in initialized, parameter.ndim > 1].append(parameter)
    described = []
    for (loaded, decays), parameters in groups.items():
        peak = config.peak_rate * (config.initialized_factor if loaded else 1.0)
        decay = config.weight_decay if decays else 0.0
        described.append({"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay})
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    return torch.optim.AdamW(described, betas=config.betas, fused=on_gpu)


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the peak rate: a linear rise over the warm-up, then a cosine to 0.

    Args:
        step: The step that is about to be made, from 0.
        steps: Number of steps of the run.
        warmup: Fraction of them over which the rate rises.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the rate of every group to a fraction of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Average gradients over the ranks, see the convention of `gair_core.losses.distributed`.

    DistributedDataParallel would do it during the backward pass, but only for what went through its own
    forward pass once: the memory bank, the temperature and GradCache's second pass do not.
    """
    ranks = world_size()
    if ranks == 1:
        return
    bucket: list[Tensor] = []
    for gradient in [parameter.grad for parameter in parameters if parameter.grad is not None]:
        if bucket and (
            bucket[0].dtype != gradient.dtype or sum(map(Tensor.numel, bucket)) + gradient.numel() > _BUCKET
        ):
            _average(bucket, ranks)
            bucket = []
        bucket.append(gradient)
    if bucket:
        _average(bucket, ranks)


def _average(gradients: list[Tensor], ranks: int) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= ranks
    pieces = flat.split([gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))
