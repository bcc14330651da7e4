"""Gathering across ranks, with gradient.

The convention, which `DistributedDataParallel` and FSDP share because both average gradients over the ranks:

- every rank gathers the global batch and computes the same global loss, the value of a single process;
- the backward pass of `gather` sums what all ranks ask of a row, so the gradient that reaches a rank's own
  embeddings is world_size times that of a single process, and the gradient of a weight that does not pass
  through `gather` (the temperature, the location encoder over the memory bank) is that of a single process;
- after averaging over the ranks, every weight has the gradient of a single process.

Whoever sums gradients over the ranks must divide by the world size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from gair_core.errors import BadInputError


def world_size() -> int:
    """Return the number of ranks, 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    """All-gather along the first dimension whose backward sums over the ranks."""

    @staticmethod
    def forward(ctx: object, local: Tensor) -> Tensor:
        del ctx
        parts = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(parts, local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        del ctx
        # Clone: autograd may share the incoming gradient with other consumers, and all_reduce writes into it.
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.tensor_split(world_size())[dist.get_rank()]


def gather(local: Tensor) -> Tensor:
    """Concatenate the tensors of all ranks in rank order, with gradient (see the module's convention).

    Every rank must pass the same shape; `check_same_on_all_ranks` makes sure of it.

    Args:
        local: Shape (B, ...).

    Returns:
        Shape (world_size * B, ...); `local` itself when there is one rank.
    """
    if world_size() == 1:
        return local
    gathered: Tensor = _Gather.apply(local.contiguous())
    return gathered


def check_same_on_all_ranks(values: dict[str, int], device: torch.device) -> None:
    """Check that all ranks are about to gather tensors of the same shape, before a collective can hang.

    Args:
        values: Named integers that must agree, the same names on every rank.
        device: Where the process group's backend works.

    Raises:
        BadInputError: On every rank, when a value differs between ranks.
    """
    if world_size() == 1:
        return
    local = torch.tensor([list(values.values())], device=device, dtype=torch.int64)
    columns: Sequence[list[int]] = gather(local).T.tolist()
    for name, column in zip(values, columns, strict=True):
        if len(set(column)) > 1:
            raise BadInputError(
                f"All ranks must bring the same {name}, found {column} in rank order.",
                "Give every rank equal batches, for example by a distributed sampler with drop_last.",
            )
