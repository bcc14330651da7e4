"""HLS Burn Scars (Phillips et al. 2023): burnt areas of the United States in HLS scenes.

The layout is that of the published archive: ``training`` and ``validation`` hold
``subsetted_512x512_HLS.S30.T*.v1.4_merged.tif`` (reflectance, float, 9999 without data) beside the same name
with ``.mask.tif`` (0, 1, and -1 where nobody knows). As in PANGAEA a tenth of the training folder, drawn with
seed 23, is the validation split, and the validation folder is the test split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from gair_core.errors import BadInputError
from gair_core.finetune.datasets.scenes import (
    IGNORED,
    SceneData,
    SceneDataConfig,
    SceneExample,
    check_same_size,
    make_classes,
    map_labels,
    pair_files,
    read_raster,
    require_folder,
)
from gair_core.finetune.task import Split

_IMAGE: Final = "_merged.tif"
_NODATA: Final = 9999
_VALIDATION_SHARE: Final = 0.1
_SEED: Final = 23


class BurnScarsConfig(SceneDataConfig):
    """HLS Burn Scars.

    Attributes:
        folder: The folder that holds ``training`` and ``validation``.
    """

    kind: Literal["burn_scars"] = "burn_scars"

    def open(self) -> SceneData:
        """List the files, see `SceneDataConfig.open`."""
        return BurnScars(self.folder)


class BurnScars(SceneData):
    """HLS Burn Scars, see the module's description.

    Args:
        folder: The folder that holds ``training`` and ``validation``.
    """

    title = "HLS Burn Scars"
    use = "one scene"
    bands = ("B2", "B3", "B4", "B8A", "B11", "B12")
    classes = make_classes({"not burnt": (120, 170, 100), "burn scar": (200, 60, 20)})
    # Published by PANGAEA for reflectance.
    mean = (333.4971, 570.1186, 588.9748, 2323.2451, 1972.8549, 1194.4914)
    std = (226.9136, 268.0756, 400.4110, 779.1732, 870.8739, 724.1979)
    gsd = 30.0

    def __init__(self, folder: Path) -> None:
        training = _list_pairs(folder, "training")
        held_out = _validation_rows(len(training))
        self._files = {
            "train": [pair for row, pair in enumerate(training) if row not in held_out],
            "validation": [pair for row, pair in enumerate(training) if row in held_out],
            "test": _list_pairs(folder, "validation"),
        }

    def names(self, split: Split) -> Sequence[str]:
        """Return the images' paths, see `SceneData.names`."""
        return [str(image) for image, _ in self._files[split]]

    def read(self, split: Split, index: int) -> SceneExample:
        """Read an example, see `SceneData.read`."""
        image, mask = self._files[split][index]
        reflectance = read_raster(image, len(self.bands), self.title)
        labels = read_raster(mask, 1, self.title)[0]
        valid = np.isfinite(reflectance).all(axis=0) & (reflectance != _NODATA).all(axis=0)
        dn = np.where(valid, reflectance * np.float32(10_000), np.float32(0))
        target = map_labels(labels, {0: 0, 1: 1, -1: IGNORED}, mask, self.title)
        return check_same_size(SceneExample(dn[None], valid[None], target), image, self.title)


def _list_pairs(folder: Path, name: str) -> list[tuple[Path, Path]]:
    title = BurnScars.title
    there = require_folder(folder / name, title, f"subsetted_512x512_HLS.S30.T*{_IMAGE} and *.mask.tif")
    images = sorted(there.glob(f"*{_IMAGE}"))
    if not images:
        raise BadInputError(f"{title}: {there} holds no *{_IMAGE}.", "Unpack the data set there.")
    masks = [there / image.name.replace(_IMAGE, ".mask.tif") for image in images]
    return pair_files(images, [mask if mask.is_file() else None for mask in masks], title)


def _validation_rows(count: int) -> frozenset[int]:
    """Return the images that are held out of so many, as scikit-learn's ``train_test_split`` draws them."""
    if count < 2:
        raise BadInputError(
            f"{BurnScars.title}: {count} training image cannot be split.", "Unpack all of it."
        )
    order = np.random.RandomState(_SEED).permutation(count)
    return frozenset(int(row) for row in order[: math.ceil(_VALIDATION_SHARE * count)])
