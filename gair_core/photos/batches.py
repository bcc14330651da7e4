"""Loading photos in threads, as batches that the photo encoder takes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from gair_core.config import StreetViewConfig
from gair_core.errors import BadInputError
from gair_core.photos.exif import read_tags
from gair_core.photos.panoramas import views
from gair_core.photos.preprocess import preprocess
from gair_core.photos.reading import open_photo
from gair_core.photos.selection import SkippedPhotos
from gair_core.photos.tables import PhotoTable
from gair_core.progress import Progress

PanoramaMode = Literal["auto", "always", "never"]

# A decoded photo of 50 megapixels takes 150 MB (and 600 MB while it is normalised).
_MAX_WORKERS: Final = 4


@dataclass(frozen=True)
class PhotoBatch:
    """Photos ready for the encoder.

    Attributes:
        rows: Row of the table of each image, int64 (B,), in rising order; a panorama with several views has
            as many consecutive images, which may be spread over two batches.
        images: float32 (B, 3, S, S), normalised, see `preprocess`.
    """

    rows: npt.NDArray[np.int64]
    images: torch.Tensor


class PhotoBatcher:
    """Iterates over the photos of a table in batches, decoding ahead in threads (Pillow frees the GIL).

    A photo that cannot be read is skipped with a warning that names it.

    Args:
        photos: The photos, usually what `usable` left of a table.
        config: The encoder's photo size, statistics and resampling.
        batch_size: Images in a batch; the last may have fewer.
        panoramas: Which photos become perspective views: ``auto`` those that the table (``projection_type``
            spherical) or their tags (GPano) call panoramas, ``always`` all, ``never`` none.
        panorama_views: Views of a panorama, evenly around from its heading; by default one, to the front.
        workers: Threads; by default as many as processors, at most 4.
        progress: Where warnings go; asked between photos whether to stop.

    Raises:
        BadInputError: A number is not positive; on iteration, when no photo could be read.
        CancelledError: On iteration, when the task was cancelled.
    """

    def __init__(
        self,
        photos: PhotoTable,
        config: StreetViewConfig,
        *,
        batch_size: int = 32,
        panoramas: PanoramaMode = "auto",
        panorama_views: int = 1,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.photos = photos
        self.config = config
        self.batch_size = batch_size
        self.panoramas = panoramas
        self.panorama_views = panorama_views
        self.workers = min(_MAX_WORKERS, os.cpu_count() or 1) if workers is None else workers
        self.progress = progress or Progress()
        for name in ("batch_size", "panorama_views", "workers"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is {getattr(self, name)}; at least 1 is needed.")

    def __iter__(self) -> Iterator[PhotoBatch]:
        images = self._images()
        while chunk := list(islice(images, self.batch_size)):
            rows = np.array([row for row, _ in chunk], dtype=np.int64)
            yield PhotoBatch(rows, torch.stack([image for _, image in chunk]))

    def load(self, row: int) -> list[torch.Tensor]:
        """Return the images (3, S, S) of one photo: itself, or the views of a panorama.

        Raises:
            BadInputError: The photo cannot be read, or is no panorama although it should be one.
        """
        path = self.photos.paths[row]
        if path is None:
            raise BadInputError(f"Photo {self.photos.name(row)} has no path.")
        photo = open_photo(path)
        if not self._is_panorama(row):
            return [preprocess(photo, self.config)]
        try:
            return [preprocess(view, self.config) for _, view in views(photo, self.panorama_views)]
        except BadInputError as error:
            raise BadInputError(f"{path}: {error.message}", error.hint) from None

    def _is_panorama(self, row: int) -> bool:
        if self.panoramas != "auto":
            return self.panoramas == "always"
        path = self.photos.paths[row]
        return bool(self.photos.panorama[row]) or (path is not None and read_tags(path).panorama)

    def _images(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the row and tensor of every readable image, in the table's order."""
        skipped = SkippedPhotos(self.progress)
        for row, future in self._futures():
            try:
                images = future.result()
            except BadInputError as error:
                skipped.skip(self.photos.name(row), "unreadable", error.message.rstrip("."))
                continue
            yield from ((row, image) for image in images)
        skipped.finish()
        if len(skipped) == len(self.photos):
            raise BadInputError(
                f"None of the {len(self.photos)} photos of {self.photos.source} can be read.",
                "The warnings name them.",
            )

    def _futures(self) -> Iterator[tuple[int, Future[list[torch.Tensor]]]]:
        """Yield each row with its pending result, a bounded number of rows ahead."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="photos")
        pending: deque[tuple[int, Future[list[torch.Tensor]]]] = deque()
        rows = iter(range(len(self.photos)))
        try:
            pending.extend((row, pool.submit(self.load, row)) for row in islice(rows, 2 * self.workers))
            while pending:
                self.progress.raise_if_cancelled()
                yield pending.popleft()
                pending.extend((row, pool.submit(self.load, row)) for row in islice(rows, 1))
        finally:
            # Also when the caller stops early: decoding what nobody will read would delay a cancel.
            pool.shutdown(wait=True, cancel_futures=True)
