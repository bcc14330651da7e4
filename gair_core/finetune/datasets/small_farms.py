"""AI4SmallFarms (Persello et al. 2023): crop fields of Vietnam and Cambodia in Sentinel-2.

The layout is that of the published archive: ``sentinel-2-asia/{train,validate,test}/{images,masks}/*.tif``
with B2, B3, B4 and B8 (DN, NaN without data) and masks of 0 and 255, 255 inside a field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from gair_core.errors import BadInputError
from gair_core.finetune.datasets.scenes import (
    SceneData,
    SceneDataConfig,
    SceneExample,
    check_same_size,
    make_classes,
    map_labels,
    read_raster,
    require_folder,
)
from gair_core.finetune.task import Split

_FOLDERS: Final[dict[Split, str]] = {"train": "train", "validation": "validate", "test": "test"}


class SmallFarmsConfig(SceneDataConfig):
    """AI4SmallFarms.

    Attributes:
        folder: The folder that holds ``sentinel-2-asia``.
    """

    kind: Literal["small_farms"] = "small_farms"

    def open(self) -> SceneData:
        """List the files, see `SceneDataConfig.open`."""
        return SmallFarms(self.folder)


class SmallFarms(SceneData):
    """AI4SmallFarms, see the module's description.

    Args:
        folder: The folder that holds ``sentinel-2-asia``.
    """

    title = "AI4SmallFarms"
    use = "one scene"
    bands = ("B2", "B3", "B4", "B8")
    classes = make_classes({"no field": (150, 150, 150), "crop field": (225, 175, 60)})
    # Published by PANGAEA.
    mean = (750.2136, 1032.7277, 1165.1279, 2416.0448)
    std = (283.3842, 332.7280, 518.9025, 702.3791)

    def __init__(self, folder: Path) -> None:
        self._files = {
            split: _list_pairs(folder / "sentinel-2-asia" / name) for split, name in _FOLDERS.items()
        }

    def names(self, split: Split) -> Sequence[str]:
        """Return the images' paths, see `SceneData.names`."""
        return [str(image) for image, _ in self._files[split]]

    def read(self, split: Split, index: int) -> SceneExample:
        """Read an example, see `SceneData.read`."""
        image, mask = self._files[split][index]
        dn = read_raster(image, len(self.bands), self.title)
        valid = np.asarray(np.isfinite(dn).all(axis=0))
        labels = read_raster(mask, 1, self.title)[0]
        target = map_labels(labels, {0: 0, 255: 1}, mask, self.title)
        example = SceneExample(np.where(valid, dn, np.float32(0))[None], valid[None], target)
        return check_same_size(example, image, self.title)


def _list_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return images with their masks: those of the same name, or of the same numbers in their names.

    Raises:
        BadInputError: A folder is missing, or images and masks do not correspond one to one.
    """
    title = SmallFarms.title
    images = sorted(require_folder(folder / "images", title, "*.tif").glob("*.tif"))
    masks = sorted(require_folder(folder / "masks", title, "*.tif").glob("*.tif"))
    if not images:
        raise BadInputError(f"{title}: {folder / 'images'} holds no *.tif.", "Unpack the data set there.")
    for key in (_whole_name, _numbers):
        by_key = {key(mask): mask for mask in masks}
        if len(by_key) == len(masks) == len(images) and {key(image) for image in images} == set(by_key):
            return [(image, by_key[key(image)]) for image in images]
    raise BadInputError(
        f"{title}: the {len(images)} images and {len(masks)} masks of {folder} have different names.",
        "Unpack the data set again.",
    )


def _whole_name(path: Path) -> str:
    return path.stem


def _numbers(path: Path) -> str:
    return " ".join(re.findall(r"\d+", path.stem))
