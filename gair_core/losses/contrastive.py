"""INCL (Eq. 2), SECL (Eq. 3) and their sum (Eq. 4), over the global batch.

Cosines, logits and logarithms are computed outside autocast, in float32 or, for float64 embeddings, float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gair_core.errors import BadInputError
from gair_core.losses.distributed import check_same_on_all_ranks, gather
from gair_core.losses.memory_bank import CoordinateMemoryBank
from gair_core.model.gair import check_lonlat


def incl(scene: Tensor, photo: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Implicit neural contrastive learning: symmetric InfoNCE of scene and photo embeddings (Eq. 2).

    Args:
        scene: Localized scene embeddings z, shape (N, D).
        photo: Projected photo embeddings g, shape (N, D), row i of the place of row i of `scene`.
        logit_scale: 1 / temperature, a scalar.

    Returns:
        A scalar, float32 or float64; 0 when N is 0.

    Raises:
        BadInputError: The shapes differ or are not (N, D).
    """
    _check_embeddings({"scene": scene, "photo": photo})
    with torch.autocast(scene.device.type, enabled=False):
        logits = logit_scale * (_unit(scene) @ _unit(photo).mT)
        if not len(logits):
            return logits.sum()
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.mT, target)) / 2


def secl_term(
    image: Tensor, location: Tensor, bank: Tensor, excluded: Tensor, logit_scale: Tensor | float
) -> Tensor:
    """Spatially explicit contrastive learning of one image modality, one of the two logarithms of Eq. 3.

    The paper's denominator runs over the memory bank alone; here it is [positive | memory bank], which bounds
    the loss below by 0. With no entry left it is exactly 0, with gradients of 0.

    Args:
        image: Scene or photo embeddings, shape (N, D).
        location: Embeddings e(x_i) of their places, shape (N, D): the positives, never excluded.
        bank: Embeddings e(x_j) of the memory bank, shape (M, D).
        excluded: Shape (N, M), bool: the entries that are no negatives of row i.
        logit_scale: 1 / temperature, a scalar.

    Returns:
        The mean over N, a scalar, float32 or float64; 0 when N is 0.

    Raises:
        BadInputError: The shapes do not belong together.
    """
    _check_embeddings({"image": image, "location": location})
    if bank.ndim != 2 or bank.shape[1] != image.shape[1]:
        raise BadInputError(
            f"The bank's embeddings must have the shape (M, {image.shape[1]}), found {tuple(bank.shape)}."
        )
    if excluded.shape != (len(image), len(bank)) or excluded.dtype != torch.bool:
        raise BadInputError(
            f"excluded must be bool of the shape ({len(image)}, {len(bank)}), found {excluded.dtype} of "
            f"{tuple(excluded.shape)}."
        )
    with torch.autocast(image.device.type, enabled=False):
        anchor = _unit(image)
        positive = logit_scale * (anchor * _unit(location)).sum(dim=1, keepdim=True)
        # Scaled first: the gradient of a learnable scale would be 0 times infinity.
        negatives = (logit_scale * (anchor @ _unit(bank).mT)).masked_fill(excluded, -torch.inf)
        logits = torch.cat([positive, negatives], dim=1)
        if not len(logits):
            return logits.sum()
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


class ContrastiveTerms(NamedTuple):
    """The terms of Eq. 4, each a scalar over the global batch; a term without its modalities is 0.

    Attributes:
        total: incl + secl_weight * secl.
        incl: Eq. 2, scene against photo.
        secl: Eq. 3, half the sum of the next two.
        secl_scene: Scene against location.
        secl_photo: Photo against location.
    """

    total: Tensor
    incl: Tensor
    secl: Tensor
    secl_scene: Tensor
    secl_photo: Tensor


class ContrastiveLoss(nn.Module):
    """GAIR's objective, L = INCL + lambda SECL (Eq. 4), of any two or three of the modalities.

    A modality that is missing, from the call or from single samples, takes its terms with it; the others keep
    their weight, and each term is the mean over the samples that take part in it. The memory bank is `bank`:
    it belongs into the training checkpoint, and ``loss.bank.update(lonlat)`` ends every step.

    Across ranks the value is that of a single process on every rank. Gradients are meant to be averaged over
    the ranks, see `gair_core.losses.distributed`.

    Args:
        secl_weight: lambda of Eq. 4.
        bank_capacity: Coordinates in the memory bank.
        false_negative_km: See `CoordinateMemoryBank`.

    Raises:
        BadInputError: A negative weight, or one that the memory bank refuses.
    """

    def __init__(
        self, secl_weight: float = 0.5, bank_capacity: int = 4096, false_negative_km: float = 2.0
    ) -> None:
        super().__init__()
        if not secl_weight >= 0:
            raise BadInputError(f"secl_weight must be at least 0, found {secl_weight}.")
        self.secl_weight = secl_weight
        self.bank = CoordinateMemoryBank(bank_capacity, false_negative_km)

    def forward(
        self,
        logit_scale: Tensor | float,
        *,
        scene: Tensor | None = None,
        photo: Tensor | None = None,
        location: Tensor | None = None,
        lonlat: Tensor | None = None,
        encode_location: Callable[[Tensor], Tensor] | None = None,
        has_photo: Tensor | None = None,
    ) -> ContrastiveTerms:
        """Compute the terms over the batches of all ranks.

        Args:
            logit_scale: 1 / temperature, a scalar (`GAIR.logit_scale`).
            scene: Localized scene embeddings z, shape (B, D).
            photo: Projected photo embeddings g, shape (B, D).
            location: Location embeddings e, shape (B, D); needs `lonlat` and `encode_location`.
            lonlat: Places of the samples, shape (B, 2), longitude and latitude in degrees, float64.
            encode_location: The location encoder (`GAIR.encode_location`), called with the coordinates of the
                bank, shape (capacity, 2), float64; gradients flow into it.
            has_photo: Shape (B,), bool. A sample without a photo takes part in scene against location only;
                its row of `photo` is ignored. None: every sample has one.

        Returns:
            The terms.

        Raises:
            BadInputError: Fewer than two modalities, shapes that do not belong together, or batches that
                differ between ranks.
        """
        given = {"scene": scene, "photo": photo, "location": location}
        present = {name: embedding for name, embedding in given.items() if embedding is not None}
        _check_modalities(present, lonlat, encode_location, has_photo)
        _check_ranks(given, has_photo)
        present = _gather_embeddings(present)
        scene, photo, location = (present.get(name) for name in given)
        # Not every backend gathers bool.
        chosen = None if has_photo is None else gather(has_photo.to(torch.uint8)).bool()
        incl_value = secl_scene = secl_photo = next(iter(present.values())).new_zeros(())
        if scene is not None and photo is not None:
            incl_value = incl(_select(scene, chosen), _select(photo, chosen), logit_scale)
        if location is not None and lonlat is not None and encode_location is not None:
            bank = self._encode_bank(encode_location)
            excluded = self.bank.excluded(_gather_lonlat(lonlat)).to(location.device)
            if scene is not None:
                secl_scene = secl_term(scene, location, bank, excluded, logit_scale)
            if photo is not None:
                secl_photo = secl_term(
                    _select(photo, chosen),
                    _select(location, chosen),
                    bank,
                    _select(excluded, chosen),
                    logit_scale,
                )
        secl = (secl_scene + secl_photo) / 2
        return ContrastiveTerms(
            incl_value + self.secl_weight * secl, incl_value, secl, secl_scene, secl_photo
        )

    def _encode_bank(self, encode_location: Callable[[Tensor], Tensor]) -> Tensor:
        # A copy: the encoder may keep its input for the backward pass, and `update` writes in place.
        bank = encode_location(self.bank.coordinates.clone())
        if bank.ndim != 2 or len(bank) != self.bank.capacity:
            raise BadInputError(
                f"encode_location must return the shape ({self.bank.capacity}, D) for the memory bank, "
                f"found {tuple(bank.shape)}."
            )
        return bank


def _unit(embeddings: Tensor) -> Tensor:
    """Return rows of length 1, float32 or wider."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


def _select(values: Tensor, chosen: Tensor | None) -> Tensor:
    return values if chosen is None else values[chosen]


def _gather_embeddings(present: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gather all modalities by one collective, (B, D) -> (world_size * B, D), float32 or wider."""
    dtype = torch.float32
    for embedding in present.values():
        dtype = torch.promote_types(dtype, embedding.dtype)
    stacked = torch.stack([embedding.to(dtype) for embedding in present.values()], dim=1)
    return dict(zip(present, gather(stacked).unbind(1), strict=True))


def _check_ranks(given: dict[str, Tensor | None], has_photo: Tensor | None) -> None:
    """Check, by one small collective, that all ranks bring the same tensors."""
    first = next(embedding for embedding in given.values() if embedding is not None)
    presence = {f"presence of {name}": int(values is not None) for name, values in given.items()}
    presence["presence of has_photo"] = int(has_photo is not None)
    check_same_on_all_ranks(
        {"batch size": len(first), "embedding dimension": first.shape[1], **presence}, first.device
    )


@torch.no_grad()
def _gather_lonlat(lonlat: Tensor) -> Tensor:
    # MPS has no float64 (and no process groups).
    place = torch.device("cpu") if lonlat.device.type == "mps" else lonlat.device
    return gather(lonlat.to(place).double())


def _check_embeddings(embeddings: dict[str, Tensor]) -> None:
    shapes = {name: tuple(embedding.shape) for name, embedding in embeddings.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise BadInputError(f"Embeddings must all have one shape (N, D), found {found}.")
    for name, embedding in embeddings.items():
        if not embedding.is_floating_point():
            raise BadInputError(f"Embeddings must be floating point, found {embedding.dtype} for {name}.")


def _check_modalities(
    present: dict[str, Tensor],
    lonlat: Tensor | None,
    encode_location: Callable[[Tensor], Tensor] | None,
    has_photo: Tensor | None,
) -> None:
    if len(present) < 2:
        found = ", ".join(present) or "none"
        raise BadInputError(f"A contrastive loss needs two of scene, photo and location, found {found}.")
    _check_embeddings(present)
    length = len(next(iter(present.values())))
    if "location" in present:
        if lonlat is None or encode_location is None:
            raise BadInputError(
                "Location embeddings came without lonlat or encode_location.",
                "SECL needs the places of the samples and the encoder for its memory bank.",
            )
        check_lonlat(lonlat)
        if len(lonlat) != length:
            raise BadInputError(f"lonlat must have the shape ({length}, 2), found {tuple(lonlat.shape)}.")
    if has_photo is None:
        return
    if "photo" not in present:
        raise BadInputError("has_photo came without photo.", "Pass both or neither.")
    if has_photo.shape != (length,) or has_photo.dtype != torch.bool:
        raise BadInputError(
            f"has_photo must be bool of the shape ({length},), found {has_photo.dtype} of "
            f"{tuple(has_photo.shape)}."
        )
