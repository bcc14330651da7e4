"""iNaturalist 2017 and 2018 with places.

    train20XX.json, val20XX.json                         COCO: images, annotations (image_id, category_id)
    train20XX_locations.json, val20XX_locations.json     a list of {id, lon, lat, date_c, user_id}
    categories20XX.json                                  a list of {id, name}; else the COCO categories
    features_inception/inat20XX_val_preds_sparse.npz     P(y | I), one row an image of val20XX.json

The labels of the test sets are secret: val is tested on, as in TorchSpatial, and a part of train is held out
for validation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from gair_core.config import Config
from gair_core.errors import BadInputError
from gair_core.finetune.datasets.birds import optional_probabilities
from gair_core.finetune.datasets.located import (
    LocatedData,
    Samples,
    clean_lonlat,
    number_or_nan,
    read_json,
    split_within,
)


class INaturalistConfig(Config):
    """Which year.

    Attributes:
        folder: Folder of the files.
        year: 2017 or 2018.
        probabilities: Folder of the image-only class probabilities within it; null judges places alone.
        validation: Part of the training images that is held out for validation.
        seed: Seed of that part.
    """

    kind: Literal["inaturalist"] = "inaturalist"
    folder: Path
    year: Literal[2017, 2018]
    probabilities: str | None = "features_inception"
    validation: float = Field(0.05, gt=0, lt=1)
    seed: int = Field(0, ge=0)

    def read(self) -> LocatedData:
        """Read annotations and places.

        For training an image needs a place and a photographer, as in the authors' protocol; the test keeps
        every image, and one without a place is judged by the image alone.

        Raises:
            BadInputError: A file is missing or not as described.
        """
        left_out: Counter[str] = Counter()
        learnt, known = self._images("train")
        tested, _ = self._images("val")
        usable = learnt.placed & known
        left_out["training images without place or photographer"] = int((~usable).sum())
        learnt = learnt.take(usable)
        ids, classes = self._classes()
        learnt, tested = (self._with_indices(part, ids) for part in (learnt, tested))
        if self.probabilities is not None:
            file = self.folder / self.probabilities / f"inat{self.year}_val_preds_sparse.npz"
            found = optional_probabilities(file, "test", len(tested), len(classes))
            tested = replace(tested, image_probabilities=found)
        shares = (1 - self.validation, self.validation, 0.0)
        splits = split_within(learnt.ids, ["all"] * len(learnt), shares, self.seed)
        train, validation = (learnt.take(splits == name) for name in ("train", "validation"))
        if not (len(train) and len(validation) and len(tested)):
            raise BadInputError(
                f"iNaturalist {self.year} in {self.folder} has {len(train)} images for training, "
                f"{len(validation)} for validation and {len(tested)} for the test.",
                "Each needs at least one.",
            )
        return LocatedData(
            name=f"iNaturalist {self.year}",
            splits={"train": train, "validation": validation, "test": tested},
            classes=classes,
            left_out=left_out,
        )

    def _images(self, part: str) -> tuple[Samples, npt.NDArray[np.bool_]]:
        """Return the images of a file, labels still category ids, and whether each has a photographer."""
        path = self.folder / f"{part}{self.year}.json"
        places_path = self.folder / f"{part}{self.year}_locations.json"
        annotations, places = read_json(path), read_json(places_path)
        try:
            category = {int(one["image_id"]): int(one["category_id"]) for one in annotations["annotations"]}
            place = {int(one["id"]): one for one in places}
            images = [(int(one["id"]), str(one.get("file_name", ""))) for one in annotations["images"]]
            labels = np.array([category[number] for number, _ in images], dtype=np.int64)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInputError(
                f"{path} or {places_path.name} is not as described: {error} is missing or of another kind.",
                "Needed are images and annotations in COCO's form, and a list of places.",
            ) from None
        unknown: dict[str, Any] = {}
        metas = [place.get(number, unknown) for number, _ in images]
        lonlat = [[number_or_nan(one.get("lon")), number_or_nan(one.get("lat"))] for one in metas]
        samples = Samples(
            ids=np.array([str(number) for number, _ in images], dtype=str),
            lonlat=clean_lonlat(lonlat),
            labels=labels,
            photos=tuple((self.folder / name,) if name else () for _, name in images),
            panorama=np.zeros(len(images), dtype=bool),
        )
        return samples, np.array([one.get("user_id") is not None for one in metas], dtype=bool)

    def _classes(self) -> tuple[list[int], tuple[str, ...]]:
        """Return the category ids in rising order, which is that of the probabilities, and their names."""
        path = self.folder / f"categories{self.year}.json"
        if path.is_file():
            listed = read_json(path)
        else:
            path = self.folder / f"train{self.year}.json"
            listed = read_json(path).get("categories", [])
        try:
            names = {int(one["id"]): str(one["name"]) for one in listed}
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(f"The categories of {path} need id and name, {error} is missing.") from None
        if len(names) < 2:
            raise BadInputError(f"{path} lists {len(names)} categories; at least two are needed.")
        ids = sorted(names)
        return ids, tuple(names[one] for one in ids)

    def _with_indices(self, samples: Samples, ids: list[int]) -> Samples:
        """Return samples with the place of each label among the category ids."""
        order = np.array(ids, dtype=np.int64)
        index = np.searchsorted(order, samples.labels).clip(max=len(order) - 1)
        wrong = order[index] != samples.labels
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise BadInputError(
                f"The image {samples.ids[row]} has the category {int(samples.labels[row])}, "
                "which is not listed."
            )
        return replace(samples, labels=index)
