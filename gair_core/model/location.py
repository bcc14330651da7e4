"""The location encoder e: Equal Earth projection, random Fourier features at three scales, small MLPs.

The projection has a seam: one place has two embeddings at longitudes -180 and 180 degrees, and a pole has one
for every longitude. At sigma = 256 a feature turns once in some 50 km, so the phase is computed in float64 by
elementwise operations that neither autocast nor TF32 can touch; bf16 would leave noise (mean error 0.66 on
values in [-1, 1]).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import Self

from gair_core.config import LocationConfig

# Polynomial of the Equal Earth projection (Savric, Patterson and Jenny 2018, eq. 9) and GeoCLIP's scale.
A1, A2, A3, A4 = 1.340264, -0.081106, 0.000893, 0.003796
SCALE = 66.50336 / 180


def equal_earth(lonlat: Tensor) -> Tensor:
    """Project places by Equal Earth and scale them as GeoCLIP does.

    Args:
        lonlat: Shape (..., 2), longitude and latitude in degrees, float64.

    Returns:
        Shape (..., 2), x to the east and y to the north, about [-1, 1] x [-0.49, 0.49], float64.
    """
    longitude, latitude = torch.deg2rad(lonlat).unbind(-1)
    theta = torch.asin(math.sqrt(3) / 2 * torch.sin(latitude))
    slope = 9 * A4 * theta**8 + 7 * A3 * theta**6 + 3 * A2 * theta**2 + A1
    x = 2 * math.sqrt(3) * longitude * torch.cos(theta) / (3 * slope)
    y = A4 * theta**9 + A3 * theta**7 + A2 * theta**3 + A1 * theta
    return SCALE * torch.stack([x, y], dim=-1)


class LocationCapsule(nn.Module):
    """Fourier features of one scale, ReLU layers and a head.

    The frequencies are a buffer, drawn once and never trained; they stay float32 whatever the model's dtype.
    """

    def __init__(self, config: LocationConfig, sigma: float, embed_dim: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", sigma * torch.randn(config.num_frequencies, 2))
        widths = [2 * config.num_frequencies] + [config.hidden_width] * config.hidden_layers
        self.layers = nn.Sequential()
        for width_in, width_out in itertools.pairwise(widths):
            self.layers.extend([nn.Linear(width_in, width_out), nn.ReLU()])
        self.head = nn.Linear(config.hidden_width, embed_dim)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # ``model.half()`` and its like come through here: let them move the frequencies, never round them.
        frequencies = self.frequencies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequencies = frequencies.to(self.frequencies.device)
        return self

    def features(self, projected: Tensor) -> Tensor:
        """Return cos and sin of 2·pi·B·x.

        Args:
            projected: Output of `equal_earth`, shape (B, 2), float64.

        Returns:
            Shape (B, 2 * num_frequencies), cosines first, float64.
        """
        frequencies = self.frequencies.to(projected.device).double()
        x, y = projected.unbind(-1)
        phase = 2 * math.pi * (x[:, None] * frequencies[:, 0] + y[:, None] * frequencies[:, 1])
        return torch.cat([phase.cos(), phase.sin()], dim=-1)

    def forward(self, projected: Tensor) -> Tensor:
        """Embed projected places, (B, 2) float64 -> (B, embed_dim)."""
        features = self.features(projected).to(dtype=self.head.weight.dtype)
        return self.head(self.layers(features.to(self.head.weight.device)))  # type: ignore[no-any-return]


class LocationEncoder(nn.Module):
    """The sum of one capsule for each scale sigma."""

    def __init__(self, config: LocationConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.capsules = nn.ModuleList(LocationCapsule(config, sigma, embed_dim) for sigma in config.sigmas)

    def forward(self, lonlat: Tensor) -> Tensor:
        """Embed places.

        Args:
            lonlat: Shape (B, 2), longitude in [-180, 180] and latitude in [-90, 90], degrees. Pass float64:
                float32 degrees are off by about a metre.

        Returns:
            Shape (B, embed_dim).
        """
        # MPS has no float64, so there the features are computed on the CPU.
        place = torch.device("cpu") if lonlat.device.type == "mps" else lonlat.device
        projected = equal_earth(lonlat.to(place).double())
        return torch.stack([capsule(projected) for capsule in self.capsules]).sum(dim=0)
