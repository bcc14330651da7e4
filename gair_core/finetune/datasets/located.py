"""What every data set of photos and places becomes: samples by split, and a count of what was left out."""

from __future__ import annotations

import colorsys
import hashlib
import json
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from gair_core.errors import BadInputError
from gair_core.finetune.task import Split
from gair_core.heads.base import HeadClass, HeadTarget

SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")
Shares = tuple[float, float, float]
"""Parts of train, validation and test; they sum to 1."""

INTRA_CITY: Final[Shares] = (0.6, 0.2, 0.2)
"""The paper's split of photos: at random within each city, so that all splits have each city's share."""

_SPLIT_NAMES: Final[dict[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Samples:
    """N photos or places.

    Attributes:
        ids: What messages call them, str (N,).
        lonlat: Degrees, float64 (N, 2), NaN where unknown.
        labels: Index of the class, int64 (N,), or a regression's targets, float64 (N, targets), NaN unknown.
        photos: The photos of each sample, several where it was taken in several directions; empty tuples in
            a data set without photos.
        panorama: Whether its photos are full panoramas, bool (N,).
        image_features: Features that another encoder made of each image, float32 (N, F), or None.
        image_probabilities: P(y | I) of an image classifier as a SciPy sparse array (N, classes), or None.
    """

    ids: npt.NDArray[np.str_]
    lonlat: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    photos: tuple[tuple[Path, ...], ...]
    panorama: npt.NDArray[np.bool_]
    image_features: npt.NDArray[np.float32] | None = None
    image_probabilities: Any = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def placed(self) -> npt.NDArray[np.bool_]:
        """Whether each sample has a place, bool (N,)."""
        return np.asarray(np.isfinite(self.lonlat).all(axis=1))

    def take(self, rows: npt.ArrayLike) -> Self:
        """Return the given rows (indices, or one boolean a row)."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        arrays = {
            name: values[chosen]
            for name, values in columns.items()
            if name != "photos" and values is not None
        }
        return replace(self, **arrays, photos=tuple(self.photos[row] for row in chosen))


@dataclass(frozen=True)
class LocatedData:
    """A data set.

    Attributes:
        name: What it is called.
        splits: Its samples.
        classes: Names of the classes in the order of their indices; empty for a regression.
        targets: What a regression predicts.
        left_out: How many rows could not be used, by reason.
    """

    name: str
    splits: Mapping[Split, Samples]
    classes: tuple[str, ...] = ()
    targets: tuple[HeadTarget, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """The name with what was left out, for people and for the provenance of a head."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
        return f"{self.name} (left out: {reasons})" if reasons else self.name

    @property
    def head_classes(self) -> tuple[HeadClass, ...]:
        """The classes as a head describes them: values from 1, colours from all around the wheel."""
        return head_classes(self.classes)


def head_classes(names: Sequence[str]) -> tuple[HeadClass, ...]:
    """Return classes with values from 1 and colours from all around the wheel.

    Args:
        names: Their names; one that occurs twice gets its value behind it.
    """
    seen = Counter(names)
    classes = []
    for value, name in enumerate(names, start=1):
        # Multiples of the golden ratio never come close to each other.
        red, green, blue = colorsys.hsv_to_rgb(value * _GOLDEN % 1, 0.55 + 0.15 * (value % 4), 0.9)
        unique = name if seen[name] == 1 else f"{name} ({value})"
        classes.append(
            HeadClass(value=value, name=unique, colour=(int(255 * red), int(255 * green), int(255 * blue)))
        )
    return tuple(classes)


def split_within(
    ids: Sequence[str] | npt.NDArray[np.str_],
    groups: Sequence[str] | npt.NDArray[np.str_],
    shares: Shares = INTRA_CITY,
    seed: int = 0,
) -> npt.NDArray[np.str_]:
    """Divide samples at random within each group, so that every split has each group's share.

    The order within a group is that of a hash of seed and id: it depends neither on the order of the rows nor
    on the other groups.

    Args:
        ids: Unique names of the samples, N.
        groups: The group of each, such as its city.
        shares: Parts of train, validation and test.
        seed: Another seed, another split.

    Returns:
        The split of each sample, str (N,).

    Raises:
        BadInputError: The shares are negative or do not sum to 1.
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise BadInputError(f"The parts of train, validation and test must sum to 1, found {shares}.")
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[str(group)].append(row)
    splits = np.full(len(ids), "train", dtype="<U10")
    for rows in members.values():
        ordered = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{ids[row]}".encode()).digest())
        validation, test = (round(share * len(rows)) for share in shares[1:])
        splits[ordered[:test]] = "test"
        splits[ordered[test : test + validation]] = "validation"
    return splits


def named_splits(names: npt.ArrayLike, where: str) -> npt.NDArray[np.str_]:
    """Return splits from a column that names them, str (N,).

    Raises:
        BadInputError: A name is not known.
    """
    plain = [str(name).strip().lower() for name in np.asarray(names).tolist()]
    unknown = sorted(set(plain) - set(_SPLIT_NAMES))
    if unknown:
        raise BadInputError(
            f"{where} has the splits {', '.join(unknown[:5])}.", f"Known are {', '.join(_SPLIT_NAMES)}."
        )
    return np.array([_SPLIT_NAMES[name] for name in plain], dtype=str)


def by_split(samples: Samples, splits: npt.NDArray[np.str_], name: str) -> dict[Split, Samples]:
    """Return the samples of each split.

    Raises:
        BadInputError: A split is empty.
    """
    divided = {split: samples.take(splits == split) for split in SPLITS}
    for split, part in divided.items():
        if not len(part):
            raise BadInputError(
                f"{name} has no sample left for the split {split} ({len(samples)} in all).",
                "Check the tables, the photos' folder and how the data are divided.",
            )
    return divided


def clean_lonlat(lonlat: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return places (N, 2) as float64 with NaN in both columns where one is missing or impossible."""
    places = np.array(lonlat, dtype=np.float64).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        possible = (np.abs(places[:, 0]) <= 180) & (np.abs(places[:, 1]) <= 90)
    places[~possible] = np.nan
    return places


def class_indices(
    values: Sequence[str], classes: Sequence[str] | None, where: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Map labels to classes by name, whatever their case and blanks.

    Args:
        values: The labels, none of them empty.
        classes: All classes in their order; None takes those that occur, sorted.
        where: The table, for messages.

    Returns:
        The index of each label, int64 (N,), and the names of the classes.

    Raises:
        BadInputError: A label is no class, two classes differ in case alone, or there is only one.
    """
    if classes is None:
        spelled = {_plain(value): value.strip() for value in sorted(values, reverse=True)}
        classes = tuple(spelled[name] for name in sorted(spelled))
    index = {_plain(name): number for number, name in enumerate(classes)}
    if len(index) < max(2, len(classes)):
        raise BadInputError(
            f"{where} has the classes {', '.join(classes) or 'none'}.",
            "At least two are needed that differ in more than case and blanks.",
        )
    unknown = sorted({value for value in values if _plain(value) not in index})
    if unknown:
        raise BadInputError(
            f"{where} holds the labels {', '.join(map(repr, unknown[:5]))}, which are none of the classes "
            f"{', '.join(classes)}.",
            "Name all classes in the configuration, or leave it out to take those that occur.",
        )
    return np.array([index[_plain(value)] for value in values], dtype=np.int64), tuple(classes)


def read_json(path: Path) -> Any:  # noqa: ANN401 (JSON has any type)
    """Read a JSON file; NaN is understood, as the published files hold it.

    Raises:
        BadInputError: It is missing, cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInputError(
            f"{path} cannot be read: {error.strerror}.", "Check the folder of the data set."
        ) from None
    except ValueError as error:
        raise BadInputError(f"{path} is no JSON: {error}.", "Copy it again from its source.") from None


def read_probabilities(path: Path, rows: int, classes: int) -> Any:  # noqa: ANN401 (SciPy has no types)
    """Read an image classifier's probabilities from a file of ``scipy.sparse.save_npz``.

    Args:
        path: The file: arrays ``data``, ``indices``, ``indptr``, ``shape`` and ``format`` (csr).
        rows: Images that it must have, in their order.
        classes: Classes that it must have.

    Returns:
        A SciPy sparse array (rows, classes), float32.

    Raises:
        BadInputError: It is missing, no such file, or has another shape.
    """
    from scipy import sparse

    try:
        found = sparse.csr_array(sparse.load_npz(path), dtype=np.float32)
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error}.") from None
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path} holds no sparse array of SciPy: {error}.") from None
    if found.shape != (rows, classes):
        raise BadInputError(
            f"{path} has {found.shape[0]} rows of {found.shape[1]} classes; {rows} images of {classes} "
            "classes are listed.",
            "Take probabilities and annotations from the same release.",
        )
    return found


def number_or_nan(value: object) -> float:
    """Return a JSON value as a number, NaN for null, text and what else is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    return float(value)


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
