"""Examples of photos and places: as vectors of frozen encoders, or as what encoders read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gair_core.config import StreetViewConfig
from gair_core.errors import BadInputError
from gair_core.finetune.datasets.located import Samples
from gair_core.finetune.datasets.scene_places import Windows
from gair_core.finetune.task import Batch, Examples
from gair_core.model.gair import GAIR
from gair_core.photos.panoramas import perspective_view
from gair_core.photos.preprocess import preprocess
from gair_core.photos.reading import open_photo

PHOTOS, VIEWS, LONLAT, WINDOW, UV = "photos", "views", "lonlat", "window", "uv"
"""Keys of a batch: photos (B, V, 3, S, S), which there are (B, V), places, windows, places in them."""

PROBABILITIES = "image_probabilities"
"""Key of P(y | I), (B, classes)."""

# Photos that are encoded at once.
_BATCH: Final = 64
_THREADS: Final = 4


class VectorExamples(Examples):
    """Samples whose vectors were computed before.

    Args:
        ids: Names of the N samples.
        tensors: What an example has, each (N, ...).
        probabilities: A sparse array (N, classes) of which an example has its row, `PROBABILITIES`; or None.
    """

    def __init__(
        self,
        ids: npt.NDArray[np.str_],
        tensors: Mapping[str, Tensor],
        probabilities: Any = None,  # noqa: ANN401 (SciPy has no types)
    ) -> None:
        self.ids = ids
        self.tensors = dict(tensors)
        self.probabilities = probabilities

    def __len__(self) -> int:
        return len(self.ids)

    def example(self, index: int, generator: np.random.Generator | None) -> Batch:
        """Return one row of every tensor; nothing varies."""
        del generator
        batch = {name: values[index] for name, values in self.tensors.items()}
        if self.probabilities is not None:
            batch[PROBABILITIES] = torch.from_numpy(self.probabilities[[index]].toarray()[0])
        return batch

    def name(self, index: int) -> str:
        """Return the sample's id."""
        return str(self.ids[index])


class RawExamples(VectorExamples):
    """Samples with their photos, read when they are needed, and windows of scenes.

    Args:
        samples: The samples.
        tensors: What else an example has.
        probabilities: As in `VectorExamples`.
        photos: The photo encoder's configuration; None reads no photos.
        windows: Windows of the scenes, a row a sample; None without scenes.
        flip: Whether photos are mirrored half of the time in training.
    """

    def __init__(
        self,
        samples: Samples,
        tensors: Mapping[str, Tensor],
        probabilities: Any = None,  # noqa: ANN401 (SciPy has no types)
        *,
        photos: StreetViewConfig | None = None,
        windows: Windows | None = None,
        flip: bool = False,
    ) -> None:
        super().__init__(samples.ids, tensors, probabilities)
        self.samples = samples
        self.photos = photos
        self.windows = windows
        self.flip = flip
        self.most_views = max((len(paths) for paths in samples.photos), default=0)

    def example(self, index: int, generator: np.random.Generator | None) -> Batch:
        """Return one sample; photos that are missing among several are zeros, which `VIEWS` tells."""
        batch = super().example(index, generator)
        if self.photos is not None:
            views = read_views(self.samples, index, self.photos)
            if generator is not None and self.flip and generator.random() < 0.5:
                views = [view.flip(-1) for view in views]
            missing = self.most_views - len(views)
            batch[PHOTOS] = torch.stack([*views, *[torch.zeros_like(views[0])] * missing])
            batch[VIEWS] = torch.arange(self.most_views) < len(views)
        if self.windows is not None:
            # Torch has few operations on 16-bit unsigned integers, and the loader's collation needs none.
            batch[WINDOW] = torch.from_numpy(self.windows.dn[index].astype(np.float32))
            batch[UV] = torch.from_numpy(self.windows.uv[index])
        return batch


def read_views(samples: Samples, index: int, config: StreetViewConfig) -> list[Tensor]:
    """Return the photos of a sample as the encoder takes them, each (3, S, S).

    Of a full panorama it is the view to the front, as in `gair predict`.

    Raises:
        BadInputError: One cannot be read; it is named.
    """
    views = []
    for path in samples.photos[index]:
        photo = open_photo(path)
        if samples.panorama[index]:
            try:
                photo = perspective_view(photo)
            except BadInputError as error:
                raise BadInputError(f"{path}: {error.message}", error.hint) from None
        views.append(preprocess(photo, config))
    return views


def encode_samples(
    model: GAIR, samples: Samples, device: torch.device
) -> tuple[npt.NDArray[np.int64], Tensor]:
    """Encode the photos of samples once, several of one sample averaged.

    Args:
        model: The model, on the device.
        samples: Samples with photos.
        device: What computes.

    Returns:
        Rows of the samples whose photos could all be read, int64 (M,), and g(s) before the projection,
        float32 (M, width), on the CPU.

    Raises:
        BadInputError: None could be read.
    """
    config = model.config.street_view
    if config is None:
        raise BadInputError("The model has no photo encoder.")

    def read(index: int) -> list[Tensor] | None:
        try:
            return read_views(samples, index, config)
        except BadInputError:  # The caller counts it.
            return None

    rows: list[int] = []
    vectors: list[Tensor] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(samples), _BATCH):
            part = range(start, min(start + _BATCH, len(samples)))
            read_ones = [(row, views) for row, views in zip(part, pool.map(read, part), strict=True) if views]
            if read_ones:
                views = [view for _, found in read_ones for view in found]
                counts = [len(found) for _, found in read_ones]
                vectors.append(_mean_of(_encode(model, views, device), counts))
                rows += [row for row, _ in read_ones]
    if not rows:
        raise BadInputError(f"None of the photos of {len(samples)} samples can be read.", _name_one(samples))
    return np.array(rows, dtype=np.int64), torch.cat(vectors)


def _encode(model: GAIR, views: Sequence[Tensor], device: torch.device) -> Tensor:
    with torch.no_grad():
        parts = [
            model.encode_street_view(part.to(device), project=False).float().cpu()
            for part in torch.stack(list(views)).split(_BATCH)
        ]
    return torch.cat(parts)


def _mean_of(vectors: Tensor, counts: Sequence[int]) -> Tensor:
    """Average consecutive vectors (sum of the counts, width) of each sample: (samples, width)."""
    return torch.stack([part.mean(dim=0) for part in vectors.split(list(counts))])


def _name_one(samples: Samples) -> str:
    first: Path | None = next((paths[0] for paths in samples.photos if paths), None)
    return "The table names no photos." if first is None else f"The first is {first}."
