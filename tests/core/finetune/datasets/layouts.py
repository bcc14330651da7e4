"""Small copies of the published data sets of photos and places, file by file in their layouts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import sparse


def write_table(path: Path, header: list[str], rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_photo(path: Path, colour: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour % 256, 128, 255 - colour % 256)).save(path, quality=90)
    return path


def streetscapes(folder: Path, labels: list[str], city: str = "Stuttgart") -> list[str]:
    """Write tables and photos for one label a photo; the last row of every third table comes first."""
    ids = [f"{number:04x}-uuid" for number in range(len(labels))]
    key = ["uuid", "source", "orig_id"]
    common = [
        [
            one,
            "Mapillary",
            "1666317524185318",
            48.0 + number / 1000,
            9.0,
            "spherical" if number % 5 == 0 else "",
        ]
        for number, one in enumerate(ids)
    ]
    write_table(folder / "tables" / "02_common.csv", [*key, "lat", "lon", "projection_type"], common)
    towns = [[one, "Mapillary", "1", city, "1276171358"] for one in reversed(ids)]
    write_table(folder / "tables" / "01_simplemaps.csv", [*key, "city", "city_id"], towns)
    for start in range(0, len(ids), 50):
        for number, one in enumerate(ids[start : start + 50]):
            size = (64, 32) if (start + number) % 5 == 0 else (40, 30)
            write_photo(folder / "photos" / f"{start + 1}_{start + 50}" / f"{one}.jpeg", 7 * number, size)
    rotated = [[one, "x", "1", label] for one, label in zip(ids, labels, strict=True)]
    write_table(folder / "tables" / "platform.csv", [*key, "platform"], rotated[1:] + rotated[:1])
    return ids


def birds(folder: Path, name: str, classes: int = 3, images: int = 12) -> None:
    def image(split: str, number: int) -> dict[str, object]:
        place = {"lon": -100.0 + number, "lat": 40.0, "date": 0.5, "user_id": number}
        if number == 1:
            place = {"lon": None, "lat": None, "date": None, "user_id": None}
        if number == 2:
            place["lon"] = float("nan")
        if number == 3:
            place["user_id"] = None
        return {
            "valid_image": number != 0,
            "im_path": f"{split}/{number}.jpg",
            "class_id": number % classes,
            "orig_meta": {"lon": None, "lat": None, "date": None, "user_id": None},
            "ebird_meta": place,
        }

    data = {split: [image(split, number) for number in range(images)] for split in ("train", "valid", "test")}
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"Bird, {number} (Adult male)" for number in range(classes)]
    text = json.dumps({"classes": names, **data})
    (folder / f"{name}_with_loc_2019.json").write_text(text, encoding="utf-8")
    write_probabilities(folder / "features_inception" / f"{name}_test_preds_sparse.npz", images - 1, classes)


def inaturalist(folder: Path, year: int, train: int = 60, test: int = 8, named: bool = True) -> None:
    ids = [0, 1, 2, 3]
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, first in (("train", train, 1000), ("val", test, 5000)):
        numbers = [first + number for number in range(count)]
        annotations = {
            "images": [{"id": one, "file_name": f"{part}{year}/Aves/{one}.jpg"} for one in numbers],
            # Annotations stand in another order than images.
            "annotations": [{"image_id": one, "category_id": ids[one % 4]} for one in reversed(numbers)],
            "categories": [{"id": one, "name": str(one)} for one in reversed(ids)],
        }
        places = [
            {"id": one, "lon": one % 90 + 0.5, "lat": -33.25, "date_c": 0.1, "user_id": one}
            for one in numbers[1:]
        ]
        places[0].update(lon=None, lat=None)
        places[1].update(user_id=None)
        (folder / f"{part}{year}.json").write_text(json.dumps(annotations), encoding="utf-8")
        (folder / f"{part}{year}_locations.json").write_text(json.dumps(places[::-1]), encoding="utf-8")
    if named:
        listed = [{"id": one, "name": f"Genus species{one}"} for one in reversed(ids)]
        (folder / f"categories{year}.json").write_text(json.dumps(listed), encoding="utf-8")
    write_probabilities(folder / "features_inception" / f"inat{year}_val_preds_sparse.npz", test, 4)


def write_probabilities(path: Path, rows: int, classes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((rows, classes), np.float32)
    values[np.arange(rows), np.arange(rows) % classes] = 0.75
    sparse.save_npz(path, sparse.csr_matrix(values))


def socioeconomic(folder: Path, cities: dict[str, int]) -> None:
    from gair_core.finetune.datasets.socioeconomic import HEADINGS, INDICATORS

    for city, count in cities.items():
        for number in range(count):
            place = folder / f"{city}GSV" / f"-pano_{number}"
            for heading in HEADINGS:
                write_photo(place / f"-pano_{number}_{heading}.jpg", 30 * number + heading)
            meta = {"lon": -71.06 + number / 1000, "lat": 42.36, "year": 2019, "month": 7}
            (place / "meta_data.json").write_text(json.dumps(meta), encoding="utf-8")
            values = {name: number / 10 + index for index, name in enumerate(INDICATORS)}
            (place / "eco_data_normalized.json").write_text(json.dumps(values), encoding="utf-8")
