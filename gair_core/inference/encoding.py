"""Photos in, vectors out: what every task that compares photos with a scene does first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.inference.cancelling import cancelled_between_blocks
from gair_core.model.gair import GAIR
from gair_core.photos.batches import PhotoBatcher
from gair_core.photos.tables import PhotoTable
from gair_core.progress import Progress

# Photos of a batch. On a CPU a batch must end well within the two seconds that a cancel may take.
_BATCH = {"cpu": 4, "mps": 16, "cuda": 64}


def encode_photos(
    photos: PhotoTable, model: GAIR, progress: Progress, share: float
) -> tuple[npt.NDArray[np.int64], Tensor]:
    """Encode the photos that can be read, of a panorama the view to the front; warnings name the others.

    Args:
        photos: The photos.
        model: The model, on the device that computes.
        progress: Told how far it is; may cancel.
        share: Part of the task's progress that belongs to the photos.

    Returns:
        Rows of the table of the N photos that could be read, in its order, and their vectors of length 1,
        shape (N, D), float32, on the CPU.

    Raises:
        BadInputError: The model has no photo encoder, or no photo can be read.
        CancelledError: The user cancelled.
    """
    rows, vectors = photo_vectors(photos, model, progress, (0.0, share), project=True)
    return rows, F.normalize(vectors, dim=-1)


def photo_vectors(
    photos: PhotoTable, model: GAIR, progress: Progress, share: tuple[float, float], *, project: bool
) -> tuple[npt.NDArray[np.int64], Tensor]:
    """Encode photos as `encode_photos`, but return their vectors as the encoder made them.

    Args:
        photos: The photos.
        model: The model, on the device that computes.
        progress: Told how far it is; may cancel.
        share: Part of the task's progress that this is.
        project: Whether the projection into the common space is applied.

    Returns:
        As `encode_photos`, but (N, width) without the projection, and of any length.

    Raises:
        BadInputError: As `encode_photos`.
        CancelledError: The user cancelled.
    """
    config = model.config.street_view
    if config is None:
        raise BadInputError("The model has no photo encoder.")
    rows: list[npt.NDArray[np.int64]] = []
    vectors: list[Tensor] = []
    begin, end = share
    for batch in PhotoBatcher(photos, config, batch_size=_BATCH[model.device.type], progress=progress):
        with torch.inference_mode(), cancelled_between_blocks(model, progress):
            encoded = model.encode_street_view(batch.images.to(model.device), project=project)
            vectors.append(encoded.float().cpu())
        rows.append(batch.rows)
        done = int(batch.rows[-1]) + 1
        progress.report(begin + (end - begin) * done / len(photos), f"photo {done} of {len(photos)}")
    return np.concatenate(rows), torch.cat(vectors)
