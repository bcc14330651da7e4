"""The memory bank of SECL: past coordinates, re-encoded at each step so that no entry is stale."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import Self

from gair_core.errors import BadInputError
from gair_core.losses.distributed import check_same_on_all_ranks, gather
from gair_core.model.gair import check_lonlat

#: Mean radius R1 of the Earth, (2a + b) / 3 of GRS 80 (Moritz 2000), kilometres.
EARTH_RADIUS_KM = 6371.0088


def great_circle_km(first: Tensor, second: Tensor) -> Tensor:
    """Return distances on the sphere by the haversine formula, which keeps its precision at short range.

    Args:
        first: Shape (N, 2), longitude and latitude in degrees.
        second: Shape (M, 2), likewise.

    Returns:
        Shape (N, M), kilometres on a sphere of the Earth's mean radius 6371.0088 km, float64.
    """
    longitude, latitude = torch.deg2rad(first.double())[:, None].unbind(-1)
    other_longitude, other_latitude = torch.deg2rad(second.double())[None].unbind(-1)
    haversine = (
        torch.sin((latitude - other_latitude) / 2) ** 2
        + torch.cos(latitude) * torch.cos(other_latitude) * torch.sin((longitude - other_longitude) / 2) ** 2
    )
    # Rounding can leave the square of the half chord just above 1 at the antipode.
    return 2 * EARTH_RADIUS_KM * torch.asin(haversine.clamp(0, 1).sqrt())


class CoordinateMemoryBank(nn.Module):
    """A ring of the latest coordinates of all ranks, part of the state dict.

    The coordinates are float64 whatever the model's dtype: float32 degrees are off by about a metre. They
    stay on the CPU when the model moves to MPS, which has no float64.

    Args:
        capacity: Number of coordinates kept.
        false_negative_km: Entries nearer than this to an anchor are no negatives of it, kilometres on the
            sphere: two photos of one street show one place. 0 keeps every entry.

    Raises:
        BadInputError: The capacity is below 1 or the distance is negative.
    """

    def __init__(self, capacity: int = 4096, false_negative_km: float = 2.0) -> None:
        super().__init__()
        if capacity < 1:
            raise BadInputError(f"The memory bank must hold at least 1 coordinate, found {capacity}.")
        if not false_negative_km >= 0:
            raise BadInputError(
                f"false_negative_km must be at least 0, found {false_negative_km}.", "0 switches it off."
            )
        self.capacity = capacity
        self.false_negative_km = false_negative_km
        self.coordinates: Tensor
        self.valid: Tensor
        self.pointer: Tensor
        #: Longitude and latitude in degrees, (capacity, 2), float64; (0, 0) where not yet valid.
        self.register_buffer("coordinates", torch.zeros(capacity, 2, dtype=torch.float64))
        #: Whether an entry has been written, (capacity,), bool.
        self.register_buffer("valid", torch.zeros(capacity, dtype=torch.bool))
        #: Where the next coordinate goes, a scalar, int64.
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # ``module.half()`` and its like come through here: let them move the coordinates, never round them.
        coordinates, self.coordinates = self.coordinates, torch.empty(0)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.valid.device
        self.coordinates = coordinates.to("cpu" if device.type == "mps" else device)
        return self

    @torch.no_grad()
    def update(self, lonlat: Tensor) -> None:
        """Write the coordinates of all ranks, in rank order, over the oldest entries.

        Call it once after each step, on every rank.

        Args:
            lonlat: Shape (B, 2), this rank's longitudes and latitudes in degrees; pass float64.

        Raises:
            BadInputError: Another shape, places out of range, or batches of different size between ranks.
        """
        check_lonlat(lonlat)
        device = self.coordinates.device
        check_same_on_all_ranks({"number of coordinates": len(lonlat)}, device)
        arrived = gather(lonlat.to(device).double())
        slots = (self.pointer + torch.arange(len(arrived), device=self.pointer.device)) % self.capacity
        # Of a batch larger than the ring only the latest survive; writing a slot twice has no fixed order.
        latest = slots[-self.capacity :]
        self.coordinates[latest.to(device)] = arrived[-self.capacity :]
        self.valid[latest] = True
        self.pointer.add_(len(arrived)).remainder_(self.capacity)

    def excluded(self, lonlat: Tensor) -> Tensor:
        """Tell which entries are no negatives of each anchor: not yet valid, or too near.

        Args:
            lonlat: Places of the anchors, shape (N, 2), longitude and latitude in degrees.

        Returns:
            Shape (N, capacity), bool, on the device of the rest of the bank.
        """
        absent = ~self.valid.expand(len(lonlat), -1)
        if self.false_negative_km == 0:
            return absent
        distance = great_circle_km(lonlat.to(self.coordinates.device), self.coordinates)
        return absent | (distance < self.false_negative_km).to(absent.device)
