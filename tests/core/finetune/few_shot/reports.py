"""A report's content, made up, for tests of the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from gair_core.finetune.few_shot.area import accuracy_report, estimate_areas
from gair_core.finetune.few_shot.fit import Setting, SettingScore
from gair_core.finetune.few_shot.label_style import distinct_colours
from gair_core.finetune.few_shot.report import ReportContent, TrainedScene
from gair_core.finetune.few_shot.report_map import ReportMap
from gair_core.heads.base import HeadClass

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
NAMES = ("forest", "grass, wet", 'the "old" town', "<b>water</b>", "Gewässer & Moor", "裸地")


def made_content(names: tuple[str, ...] = NAMES, **changes: Any) -> ReportContent:
    generator = np.random.default_rng(0)
    count = len(names)
    classes = tuple(
        HeadClass(value=number, name=name, colour=colour)
        for number, (name, colour) in enumerate(zip(names, distinct_colours(count), strict=True), start=1)
    )
    confusion = generator.integers(0, 12, (count, count)) + np.diag(generator.integers(100, 900, count))
    small = Setting(components=0, penalty=0.01, embedding_factor=1.0)
    large = Setting(components=24, penalty=0.001, embedding_factor=10.0)
    values: dict[str, Any] = {
        "title": "6 classes of labels.gpkg",
        "date": "2025-03-01 12:00",
        "scenes": [TrainedScene("sen2.tif", 3500)],
        "labels": "labels.gpkg",
        "field": "class",
        "model": "demo (demo)",
        "output": "head.safetensors",
        "style": "labels.qml",
        "classes": classes,
        "polygons": [4] * count,
        "pixels": confusion.sum(axis=1).tolist(),
        "accuracy": accuracy_report(confusion, names, "3,500 of 3,500 labelled pixels."),
        "areas": estimate_areas(confusion.T / 100, generator.uniform(1e5, 1e7, count)),
        "map": ReportMap(PIXEL, PIXEL, "sen2.tif, 1 x 1 pixels."),
        "scores": [SettingScore(small, 0.9, 0.03, 0.25), SettingScore(large, 0.93, 0.0, 0.75)],
        "warnings": ["The class <water> has one polygon."],
        "command": "gair segment sen2.tif classes.tif --model 'my head.safetensors'",
    }
    return ReportContent(**{**values, **changes})
