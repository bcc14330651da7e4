"""The report of a training: one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from gair_core.finetune.few_shot.area import AreaEstimate
from gair_core.finetune.few_shot.fit import SettingScore
from gair_core.finetune.few_shot.report_map import ReportMap
from gair_core.heads.base import AccuracyReport, HeadClass
from gair_core.version import __version__

# A matrix of more classes is no longer readable; then its largest entries are listed.
_MATRIX_CLASSES = 30
_CONFUSIONS = 30


@dataclass(frozen=True)
class TrainedScene:
    """A scene that was trained on.

    Attributes:
        name: What to call it.
        pixels: Its labelled pixels with data that were used.
    """

    name: str
    pixels: int


@dataclass(frozen=True)
class ReportContent:
    """What a report says; every text is plain, and escaped when the page is made.

    Attributes:
        title: The head's title.
        date: When it was trained, for people.
        scenes: What it was trained on.
        labels: Name of the labels' file.
        field: Their field.
        model: Title of the encoder.
        output: Name of the head's file.
        style: Where the colours come from; empty for the palette.
        classes: The classes.
        polygons: Polygons and points of each class that label a pixel.
        pixels: Labelled pixels of each class.
        accuracy: On held-out polygons.
        areas: One a class; empty where nothing was held out.
        map: The map.
        scores: Of all settings, and their weights in the head.
        warnings: What the user should know.
        command: The command that segments a scene with the head.
    """

    title: str
    date: str
    scenes: Sequence[TrainedScene]
    labels: str
    field: str
    model: str
    output: str
    style: str
    classes: Sequence[HeadClass]
    polygons: Sequence[int]
    pixels: Sequence[int]
    accuracy: AccuracyReport
    areas: Sequence[AreaEstimate]
    map: ReportMap
    scores: Sequence[SettingScore]
    warnings: Sequence[str]
    command: str

    @property
    def version(self) -> str:
        """Version of this software."""
        return __version__

    @property
    def total_area(self) -> float:
        """Area of all classes together, square metres."""
        return sum(area.mapped for area in self.areas)

    @property
    def matrix(self) -> list[list[MatrixCell]]:
        """Rows of the confusion matrix; none where there are too many classes to read it."""
        if len(self.classes) > _MATRIX_CLASSES:
            return []
        return [
            [
                MatrixCell(count, count / max(sum(counts), 1), row == column)
                for column, count in enumerate(counts)
            ]
            for row, counts in enumerate(self.accuracy.confusion)
        ]

    @property
    def confusions(self) -> list[Confusion]:
        """The most frequent confusions, from the most frequent one on."""
        counts = np.array(self.accuracy.confusion)
        reference = np.maximum(counts.sum(axis=1), 1)
        wrong = counts - np.diag(np.diag(counts))
        largest = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
        places = [divmod(int(place), len(counts)) for place in largest]
        return [
            Confusion(
                self.classes[row],
                self.classes[column],
                int(wrong[row, column]),
                float(wrong[row, column] / reference[row]),
            )
            for row, column in places
            if wrong[row, column]
        ]

    @property
    def settings(self) -> list[SettingRow]:
        """The best setting for each number of components that was tried, and what all of them weigh."""
        rows = []
        for components in sorted({score.setting.components for score in self.scores}):
            tried = [score for score in self.scores if score.setting.components == components]
            best = max(tried, key=lambda score: score.score)
            weight = sum(score.weight for score in tried)
            rows.append(SettingRow(components, best.setting.penalty, best.score, weight))
        return rows

    @property
    def choice(self) -> str:
        """What the head is made of, in words."""
        if not self.scores:
            return "There were too few polygons to compare settings; a cautious one was used."
        counting = [score for score in self.scores if score.weight > 0]
        most = max(score.setting.components for score in counting)
        if most == 0:
            return (
                "Compared by cross-validation over polygons. The embedding did not help with these labels, "
                "so the head reads the pixels' own bands and their means over small windows alone."
            )
        share = sum(score.weight for score in counting if score.setting.components)
        return (
            f"The head is the mean of {len(counting)} settings, weighted by how they did in cross-validation "
            "over polygons. All read the pixels' own bands and their means over small windows; settings that "
            f"also read the embedding, up to {most} principal components of it, have {100 * share:.0f} % of "
            "the weight."
        )


@dataclass(frozen=True)
class MatrixCell:
    """One cell: its count, its share of the row and whether label and prediction agree."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Confusion:
    """Pixels of one class that were predicted as another, and their share of the class."""

    label: HeadClass
    predicted: HeadClass
    count: int
    share: float


@dataclass(frozen=True)
class SettingRow:
    """The best result with a number of components, and the weight of all settings with so many."""

    components: int
    penalty: float
    score: float
    weight: float


def render_report(content: ReportContent) -> str:
    """Return a report as one HTML page without scripts; pictures are inside."""
    environment = Environment(
        loader=PackageLoader("gair_core.finetune", "few_shot"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["hectares"] = _hectares
    return environment.get_template("report.html").render(report=content)


def _hectares(square_metres: float) -> str:
    """Return an area for people, with as many digits as say something."""
    hectares = square_metres / 10_000
    return f"{hectares:,.0f}" if hectares >= 100 else f"{hectares:.3g}" if hectares else "0"
