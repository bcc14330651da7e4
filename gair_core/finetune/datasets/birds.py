"""BirdSnap and NABirds with places (Mac Aodha et al. 2019).

    <set>_with_loc_2019.json                             classes, train, valid, test
    features_inception/<set>_<split>_preds_sparse.npz    P(y | I), one row a valid image of the split

An image is ``{valid_image, im_path, class_id, orig_meta, ebird_meta}``; both metas hold lon, lat, date and
user_id. BirdSnap's own places are known for a third of the images; those of ``ebird_meta`` were drawn from
eBird's records of the species.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gair_core.config import Config
from gair_core.errors import BadInputError
from gair_core.finetune.datasets.located import (
    LocatedData,
    Samples,
    clean_lonlat,
    number_or_nan,
    read_json,
    read_probabilities,
)
from gair_core.finetune.task import Split

_KEYS: dict[Split, str] = {"train": "train", "validation": "valid", "test": "test"}
_NAMES = {"birdsnap": "BirdSnap", "nabirds": "NABirds"}


class BirdsConfig(Config):
    """Which set, and whose places.

    Attributes:
        folder: Folder of the files.
        set: ``birdsnap`` or ``nabirds``.
        meta: ``orig_meta`` or ``ebird_meta``; NABirds has only the latter.
        probabilities: Folder of the image-only class probabilities within it; null judges places alone.
    """

    kind: Literal["birds"] = "birds"
    folder: Path
    set: Literal["birdsnap", "nabirds"]
    meta: Literal["orig_meta", "ebird_meta"] = "ebird_meta"
    probabilities: str | None = "features_inception"

    def read(self) -> LocatedData:
        """Read the annotations; see `_split` for what is left out.

        Raises:
            BadInputError: A file is missing or not as described.
        """
        path = self.folder / f"{self.set}_with_loc_2019.json"
        data = read_json(path)
        missing = {"classes", *_KEYS.values()} - set(data if isinstance(data, dict) else ())
        if missing:
            raise BadInputError(
                f"{path} lacks {', '.join(sorted(missing))}.", "Copy it again from its source."
            )
        classes = tuple(str(name).strip() for name in data["classes"])
        left_out: Counter[str] = Counter()
        splits = {split: self._split(data, split, len(classes), path, left_out) for split in _KEYS}
        name = f"{_NAMES[self.set]} ({self.meta})"
        return LocatedData(name=name, splits=splits, classes=classes, left_out=left_out)

    def _split(
        self, data: dict[str, Any], split: Split, classes: int, path: Path, left_out: Counter[str]
    ) -> Samples:
        """Return the samples of a split.

        For training an image needs a place and a photographer, as in the authors' protocol; validation and
        test keep every valid image, and one without a place is judged by the image alone.
        """
        images = [one for one in data[_KEYS[split]] if one.get("valid_image")]
        left_out["invalid images"] += len(data[_KEYS[split]]) - len(images)
        probabilities = self._probabilities(split, len(images), classes)
        try:
            samples = _samples(images, self.meta, probabilities, self.folder)
        except (KeyError, TypeError) as error:
            raise BadInputError(
                f"An image of {path} is not as described: {error} is missing or of another kind.",
                f"It needs im_path, class_id and {self.meta}.",
            ) from None
        if len(samples) and not 0 <= int(samples.labels.min()) <= int(samples.labels.max()) < classes:
            raise BadInputError(
                f"{path} has class_id up to {int(samples.labels.max())}, but {classes} classes, from 0."
            )
        if split == "train":
            known = [one[self.meta].get("user_id") is not None for one in images]
            usable = samples.placed & np.array(known, dtype=bool)
            left_out["training images without place or photographer"] += int((~usable).sum())
            samples = samples.take(usable)
        if not len(samples):
            raise BadInputError(f"{path} has no usable image in {_KEYS[split]} with {self.meta}.")
        return samples

    def _probabilities(self, split: Split, rows: int, classes: int) -> Any:  # noqa: ANN401 (SciPy has no types)
        if self.probabilities is None or split == "train":
            return None
        # The authors' files call every split as the annotations do.
        file = self.folder / self.probabilities / f"{self.set}_{_KEYS[split]}_preds_sparse.npz"
        return optional_probabilities(file, split, rows, classes)


def optional_probabilities(file: Path, split: Split, rows: int, classes: int) -> Any:  # noqa: ANN401
    """Return an image classifier's probabilities; None where the file of the validation split is absent.

    Raises:
        BadInputError: The file of the test split is absent, or a file is not as it should be.
    """
    if not file.is_file() and split == "validation":
        return None
    if not file.is_file():
        raise BadInputError(
            f"The image-only class probabilities {file} are missing.",
            "Set probabilities to null to judge places alone.",
        )
    return read_probabilities(file, rows, classes)


def _samples(images: list[dict[str, Any]], meta: str, probabilities: Any, folder: Path) -> Samples:  # noqa: ANN401
    places = [[number_or_nan(one[meta]["lon"]), number_or_nan(one[meta]["lat"])] for one in images]
    return Samples(
        ids=np.array([str(one["im_path"]) for one in images], dtype=str),
        lonlat=clean_lonlat(places),
        labels=np.array([int(one["class_id"]) for one in images], dtype=np.int64),
        photos=tuple((folder / str(one["im_path"]),) for one in images),
        panorama=np.zeros(len(images), dtype=bool),
        image_probabilities=probabilities,
    )
