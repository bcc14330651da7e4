"""The head that is always there: land cover by name, random numbers by nature.

It shows how `segment` works and what its outputs look like; what it says about a scene is worth nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from gair_core.heads.base import BackboneReference, HeadClass, HeadConfig, HeadMetadata
from gair_core.heads.linear import LinearHead
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.model.gair import GAIR
from gair_core.registry import DEMO

SEED = 20250317
CLASSES = tuple(
    HeadClass(value=value, name=name, colour=colour)
    for value, (name, colour) in enumerate(
        {
            "water": (65, 155, 223),
            "trees": (57, 125, 73),
            "grass": (136, 176, 83),
            "wetland": (122, 135, 198),
            "crops": (228, 150, 53),
            "built-up": (196, 40, 27),
            "bare ground": (165, 155, 143),
        }.items(),
        start=1,
    )
)


def build_demo_head(model: GAIR) -> LinearHead:
    """Return an untrained head for a model; it is the same on every machine.

    Each logit is a random mixture of the model's standardised principal components, so that every class
    appears somewhere.

    Args:
        model: The demo model, or any other with a PCA basis.
    """
    backbone = model.checkpoint or CheckpointMetadata()
    metadata = HeadMetadata(
        title="demo land cover (untrained)",
        classes=CLASSES,
        provenance=Provenance(
            source=f"random numbers, seed {SEED}",
            licence="Apache-2.0",
            training_data="none: this head is untrained",
        ),
        backbone=BackboneReference(name=backbone.name, sha256=backbone.fingerprint),
        name=DEMO,
    )
    dim = model.config.embed_dim
    head = LinearHead(HeadConfig(embed_dim=dim), metadata)
    generator = np.random.Generator(np.random.PCG64(SEED))
    basis = model.basis
    mixture = generator.standard_normal((len(CLASSES), dim if basis is None else len(basis.components)))
    weight = torch.from_numpy(mixture.astype(np.float32))
    with torch.no_grad():
        if basis is not None:
            # One int8 step is a fixed fraction of a component's standard deviation.
            scaled = basis.components.cpu() / basis.scale.cpu()[:, None]
            weight = weight @ scaled / 127
            head.bias.copy_(-weight @ basis.mean.cpu())
        head.weight.copy_(weight)
    return head.eval()
