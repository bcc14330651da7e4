"""Cancelling within a batch: on a slow processor one forward pass may take seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from timm.models.vision_transformer import Block
from torch import nn

from gair_core.progress import Progress


@contextlib.contextmanager
def cancelled_between_blocks(model: nn.Module, progress: Progress) -> Iterator[None]:
    """Within the context, a forward pass of ``model`` stops before its next block once somebody cancels.

    The hooks belong to one batch: several tasks may take turns with one model, each with its own progress.

    Args:
        model: The model; its transformer blocks are found wherever they are.
        progress: Asked before every block.

    Raises:
        CancelledError: Out of the forward pass.
    """

    def check(*_: object) -> None:
        # A compiled graph has no room for a question in between; the caller asks between batches.
        if not torch.compiler.is_compiling():
            progress.raise_if_cancelled()

    with contextlib.ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, Block):
                hooks.callback(module.register_forward_pre_hook(check).remove)
        yield
