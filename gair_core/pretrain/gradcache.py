"""GradCache: the exact gradient of a contrastive batch that is too large to encode at once (Gao et al. 2021).

A contrastive loss is no sum over samples, so its gradient cannot be accumulated over parts of a batch. But
the loss needs only the embeddings: they are computed part by part without graphs, the loss gives the gradient
of each embedding, and a second forward pass of each part carries it into the weights. Dropout and stochastic
depth must repeat in the second pass, so the random state of each part is kept and replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gair_core.pretrain.augmentation import Inputs
from gair_core.pretrain.objective import ContrastiveObjective, Terms


@dataclass(frozen=True)
class RandomState:
    """The state of torch's generators on the CPU and one device.

    Attributes:
        device: The device.
        cpu: State of the CPU's generator.
        cuda: State of the device's, None on a CPU.
    """

    device: torch.device
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> RandomState:
        """Return the present state."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), cuda)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Run with this state, and afterwards go on with the one before."""
        before = RandomState.capture(self.device)
        self.restore()
        try:
            yield
        finally:
            before.restore()

    def restore(self) -> None:
        """Go on with this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


def cached_backward(objective: ContrastiveObjective, inputs: Inputs, chunk: int) -> Terms:
    """Compute the loss of a whole batch and add its gradient to the weights.

    Args:
        objective: The objective.
        inputs: This rank's batch.
        chunk: Samples that are encoded at once.

    Returns:
        The terms, without graph; equal, as the gradients are, to those of one pass over the batch with the
        same random numbers.
    """
    device = inputs.uv.device
    chunks = [slice(start, start + chunk) for start in range(0, len(inputs), chunk)]
    states, parts = [], []
    with torch.no_grad():
        for rows in chunks:
            states.append(RandomState.capture(device))
            parts.append(objective.embed(inputs.part(rows)))
    cached = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
    terms = objective.compare(cached, inputs)
    terms["loss"].backward()
    for rows, state in zip(chunks, states, strict=True):
        with state.replayed():
            embeddings = objective.embed(inputs.part(rows))
        reached = [(values, cached[name].grad) for name, values in embeddings.items()]
        pairs = [(values, grad[rows]) for values, grad in reached if grad is not None]
        torch.autograd.backward([values for values, _ in pairs], [grad for _, grad in pairs])
    return {name: value.detach() for name, value in terms.items()}
