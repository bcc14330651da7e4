"""What every data set of labelled scenes says about itself, and how one of its examples is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from gair_core.config import Config
from gair_core.errors import BadInputError
from gair_core.finetune.task import Split
from gair_core.heads.base import HeadClass

IGNORED: Final = -1
"""Target of pixels that no loss and no metric looks at."""

SceneUse = Literal["one scene", "two dates", "series"]


@dataclass(frozen=True)
class SceneExample:
    """One labelled place, as it was read.

    Attributes:
        dn: Reflectance x 10000, without offset, float32 (scenes, bands, H, W), bands as in `SceneData.bands`.
        valid: Whether a pixel has data, bool (scenes, H, W); ``dn`` is finite everywhere.
        target: Index of each pixel's class, int64 (H, W); `IGNORED` where there is none.
        days: Day of the year of each scene, 1 to 366, int64 (scenes,); None where the data do not say.
    """

    dn: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    target: npt.NDArray[np.int64]
    days: npt.NDArray[np.int64] | None = None


class SceneData(ABC):
    """A data set of labelled scenes; it may be sent to other processes.

    Attributes:
        title: Its name for people.
        use: What an example is: ``one scene``, ``two dates`` in their order, or a ``series`` of any length.
        bands: Its bands, names of `gair_core.sentinel2.bands.BANDS`, in the order of its examples.
        classes: Its classes; a target is an index into them.
        mean: Published mean of each band, DN; None where nobody published one.
        std: Published standard deviation of each band, DN.
        gsd: Ground sampling distance, metres.
    """

    title: str
    use: SceneUse
    bands: tuple[str, ...]
    classes: tuple[HeadClass, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    gsd: float = 10.0

    @property
    def longest(self) -> int:
        """Scenes of the example that has the most; the others may have fewer."""
        return 2 if self.use == "two dates" else 1

    @abstractmethod
    def names(self, split: Split) -> Sequence[str]:
        """Return the names of the examples of a split: their files, or what else people find them by."""

    @abstractmethod
    def read(self, split: Split, index: int) -> SceneExample:
        """Read an example.

        Raises:
            BadInputError: It cannot be read, or is not as the data set's examples are; the file is named.
        """

    def target(self, split: Split, index: int) -> npt.NDArray[np.int64]:
        """Read the target of an example alone, int64 (H, W)."""
        return self.read(split, index).target

    def class_counts(self, split: Split) -> npt.NDArray[np.int64]:
        """Count the labels of each class in a split, int64 (classes,)."""
        counts = np.zeros(len(self.classes), dtype=np.int64)
        for index in range(len(self.names(split))):
            target = self.target(split, index)
            counts += np.bincount(target[target != IGNORED], minlength=len(counts))
        return counts


class SceneDataConfig(Config, ABC):
    """A data set's section of the configuration.

    Attributes:
        folder: Folder of the data set.
    """

    folder: Path

    @abstractmethod
    def open(self) -> SceneData:
        """List the data set's files.

        Raises:
            BadInputError: The folder is missing, or is not laid out as the data set is; says what is missing.
        """


def make_classes(named: dict[str, tuple[int, int, int]]) -> tuple[HeadClass, ...]:
    """Return classes with the values 1, 2, ... from names and colours."""
    return tuple(
        HeadClass(value=value, name=name, colour=colour)
        for value, (name, colour) in enumerate(named.items(), start=1)
    )


def require_folder(folder: Path, title: str, wanted: str) -> Path:
    """Return a folder that is there.

    Args:
        folder: The folder.
        title: The data set.
        wanted: What lies in it, for the message.

    Raises:
        BadInputError: It is not there.
    """
    if not folder.is_dir():
        raise BadInputError(
            f"{title}: there is no folder {folder}.",
            f"It should hold {wanted}; task.data.folder names the folder above.",
        )
    return folder


def pair_files(images: Sequence[Path], labels: Sequence[Path | None], title: str) -> list[tuple[Path, Path]]:
    """Return images with their labels.

    Raises:
        BadInputError: An image has no labels.
    """
    pairs = [(image, label) for image, label in zip(images, labels, strict=True) if label is not None]
    lonely = [image for image, label in zip(images, labels, strict=True) if label is None]
    if lonely:
        raise BadInputError(
            f"{title}: {len(lonely)} of {len(images)} images have no mask, the first is {lonely[0]}.",
            "Unpack the data set again.",
        )
    return pairs


def read_raster(path: Path, bands: int, title: str) -> npt.NDArray[np.float32]:
    """Read all of a GeoTIFF, float32 (bands, H, W).

    Raises:
        BadInputError: It cannot be read, or has another number of bands.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as file:
            if file.count != bands:
                raise BadInputError(f"{title}: {path} has {file.count} bands, wanted {bands}.")
            values: npt.NDArray[np.float32] = file.read(out_dtype="float32")
    except RasterioError as error:
        raise BadInputError(
            f"{title}: {path} cannot be read: {error}.", "The file is damaged: unpack the data set again."
        ) from None
    return values


def map_labels(
    values: npt.NDArray[np.generic], known: dict[int, int], path: Path, title: str
) -> npt.NDArray[np.int64]:
    """Return targets for the values of a mask.

    Args:
        values: The mask, any shape.
        known: Target of each value that may occur.
        path: Its file, for the message.
        title: The data set.

    Raises:
        BadInputError: Another value occurs.
    """
    target = np.full(values.shape, np.iinfo(np.int64).min)
    for value, index in known.items():
        target[values == value] = index
    strange = target == np.iinfo(np.int64).min
    if strange.any():
        raise BadInputError(
            f"{title}: {path} holds the label {values[strange][0]:g}, wanted "
            f"{', '.join(map(str, sorted(known)))}."
        )
    return target


def check_same_size(example: SceneExample, path: Path, title: str) -> SceneExample:
    """Check that scene and target cover the same pixels.

    Raises:
        BadInputError: They do not.
    """
    if example.dn.shape[-2:] != example.target.shape:
        height, width = example.dn.shape[-2:]
        raise BadInputError(
            f"{title}: {path} has {height} x {width} pixels, its mask {example.target.shape[0]} x "
            f"{example.target.shape[1]}."
        )
    return example
