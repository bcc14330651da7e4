"""The model that is always there: tiny, untrained, the same on every machine.

It shows how everything works and where results go; what it says about a scene is worth nothing.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from gair_core.basis import fit_basis
from gair_core.checkpoint import assign, build, fingerprint_of
from gair_core.config import GAIRConfig
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.model.gair import GAIR, EmbeddingBasis
from gair_core.registry import DEMO

SEED = 20250316
COMPONENTS = 16
CONFIG = GAIRConfig.preset("tiny")
METADATA = CheckpointMetadata(
    title="demo (untrained)",
    provenance=Provenance(
        source=f"random numbers, seed {SEED}",
        licence="Apache-2.0",
        training_data="none: this model is untrained",
    ),
    name=DEMO,
)


def build_demo() -> GAIR:
    """Build the untrained demo model; the state of torch's random generator stays as it is.

    Weights come from NumPy's PCG64, seeded by tensor name, so that they are the same with every version of
    torch. The PCA basis is fitted on synthetic scenes.
    """
    model = build(CONFIG)
    sigmas = () if CONFIG.location is None else CONFIG.location.sigmas
    weights = {
        name: _draw(name, tensor, sigmas) if tensor.ndim else torch.tensor(CONFIG.temperature).log()
        for name, tensor in model.state_dict().items()
    }
    assign(model, weights)
    model.eval()
    model.basis = _calibrate(model)
    model.checkpoint = METADATA.model_copy(update={"fingerprint": fingerprint_of(model.state_dict())})
    return model


def _draw(name: str, tensor: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(tensor.shape)
    if tensor.ndim == 1:  # the weights of LayerNorm
        return torch.ones(tensor.shape)
    if name.endswith("frequencies"):
        deviation = sigmas[int(name.split(".")[-2])]
    elif "cls_token" in name or "pos_embed" in name:
        deviation = 0.02
    else:  # keeps the variance of what flows through, so that the features of an untrained model differ
        deviation = tensor[0].numel() ** -0.5
    generator = np.random.Generator(np.random.PCG64([SEED, zlib.crc32(name.encode())]))
    values = generator.standard_normal(tuple(tensor.shape), dtype=np.float32)
    return torch.from_numpy(values * np.float32(deviation))


def _calibrate(model: GAIR) -> EmbeddingBasis:
    scenes = model.config.remote_sensing
    if scenes is None:
        raise ValueError("the demo has a scene encoder")
    generator = np.random.Generator(np.random.PCG64(SEED))
    # Coarse patches and fine grain, different in each band, around the mean 0.5 of normalised values.
    size = scenes.tile_size
    shape = (4, len(scenes.bands))
    coarse = torch.from_numpy(generator.standard_normal((*shape, 6, 6), dtype=np.float32))
    fine = torch.from_numpy(generator.standard_normal((*shape, size, size), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    with torch.inference_mode():
        features = model.encode_remote_sensing((0.5 + 0.2 * smooth + 0.05 * fine).clamp(0, 1))
        lattice = model.localizer.lattice(features)
    return fit_basis(lattice.movedim(1, -1).flatten(0, 2), COMPONENTS)
