"""Tests of tools/demo_page.py and demo_scores.py: the page needs no other file and shows its figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from shapely.geometry import box

from gair_core.inference.styles import palette_style

FETCHING = ("src", "href", "srcset", "data", "poster", "action")
MAPS = ("scene", "embeddings", "similarity", "classes", "truth", "true_classes", "trained", "polygons")
MORE_MAPS = ("scene_plain", "later", "true_change", "change")


@pytest.fixture(scope="module")
def tools() -> ModuleType:
    import demo_page

    return demo_page


class Addresses(HTMLParser):
    """Everything that a browser would fetch, and every picture."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pictures: list[str] = []
        self.nested: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in FETCHING]
        self.pictures += [value or "" for name, value in attrs if (tag, name) == ("img", "src")]
        self.nested += [value or "" for name, value in attrs if name == "srcdoc"]


def scores_of(tools: ModuleType, name: str, percentile: float, *, wrong: bool = False) -> object:
    return tools.PhotoScore(
        path=Path(f"photos/{name}.jpg"),
        tagged=(13.10, 58.70),
        best=(13.12, 58.70),
        similarity=0.31,
        percentile=percentile,
        true=(13.14, 58.70) if wrong else (13.10, 58.70),
        wrong=wrong,
    )


@pytest.fixture
def page(tools: ModuleType, tmp_path: Path) -> object:
    from demo_scores import Ranking

    Image.new("RGB", (64, 48), (20, 90, 30)).save(tmp_path / "map.png")
    uri = tools.picture_uri(tmp_path / "map.png", 32)
    photos = tools.PhotoScores(
        (
            scores_of(tools, "a&b", 3.25, wrong=True),
            scores_of(tools, "low", 40.5),
            scores_of(tools, "c", 71.75, wrong=True),
            scores_of(tools, "fine", 98.0),
        )
    )
    classes = (
        tools_class(tools, "water", 0.912, 0.4),
        tools_class(tools, "forest", 0.634, 0.6),
    )
    cover = tools.CoverScores(0.8766, 0.773, 0.6123, 0.1234, classes, 262_144)
    trained = tools.CoverScores(0.9321, 0.811, 0.6123, 0.1234, classes, 250_001)
    merged = tools.CoverScores(0.9444, 0.833, 0.6123, 0.1234, classes, 250_000)
    steps = {
        name: tools.Step(f"gair:{name}", f"qgis_process run gair:{name} -- INPUT=scene.tif", 4.25, {})
        for name in ("embed", "segment", "similarity", "layers", "trained", "change")
    }
    results = {"ACCURACY": "0.9712"}
    steps["trainhead"] = tools.Step("gair:trainhead", "qgis_process run gair:trainhead", 9.5, results)
    return tools.Page(
        name="Nornov <1>",
        model="demo",
        head="demo",
        files=tmp_path,
        setup="export GAIR_PYTHON=python",
        maps=dict.fromkeys(MAPS + MORE_MAPS, uri),
        steps=steps,
        seconds=93.4,
        scores=photos,
        views=tuple(tools.PhotoView(one, number, uri, uri) for number, one in enumerate(photos.photos, 1)),
        truth=tools.Truth(
            segment=cover,
            trained=trained,
            trained_merged=merged,
            polygons=57,
            change=tools.ChangeScores(
                0.0234, Ranking(0.871, 0.913, 0.321, 0.287), Ranking(0.921, 0.934, 0.456, 0.398)
            ),
            dates=("4 July 2023", "2 July 2026"),
            change_legend=(("built up", "#ff0000"),),
        ),
        report="<html><body>Report & all</body></html>",
        place="Nornov covers 5.1 x 5.1 km.",
    )


def tools_class(tools: ModuleType, name: str, iou: float, share: float) -> object:
    from demo_scores import ClassScore

    return ClassScore(name, "#112233", iou, share)


def test_the_page_needs_no_other_file(tools: ModuleType, page: object) -> None:
    html = tools.render_page(page)
    seen = Addresses()
    seen.feed(html)
    assert len(seen.pictures) > 15
    assert all(uri.startswith("data:image/webp;base64,") for uri in seen.pictures)
    assert all(address.startswith(("data:", "#")) for address in seen.found)
    assert not re.search(r"https?://|url\(|@import", html)
    assert seen.nested == ["<html><body>Report & all</body></html>"]


def test_the_page_shows_the_figures_that_it_was_given(tools: ModuleType, page: object) -> None:
    html = tools.render_page(page)
    text = re.sub(r"\s+", " ", re.sub(r"(?s)<style>.*?</style>|<script>.*?</script>|<[^>]*>", " ", html))
    figures = "87.7 %", "93.2 %", "94.4 %", "77.3 %", "91.2 %", "63.4 %", "0.871", "0.913", "28.7 %", "2.3 %"
    for figure in figures:
        assert figure in text
    # Each beside chance, and change beside the plainest measure of it.
    assert "by chance 1.0" in text
    assert text.count("61.2 %") >= 3
    assert "12.3 %" in text
    for row in ("all pixels 0.871 0.921 0.500", "Average precision 0.287 0.398 0.023", "0.321 0.456 0.023"):
        assert row in text
    # Of two wrong photos one is among the two lowest percentiles, and three must be looked at.
    assert "1 of 2 wrongly tagged" in text
    assert "one looks at 3 photos" in text
    assert "262,144" in text
    assert "97.1 %" in text
    assert "2.3 km away from where the photo was taken" in text
    assert "Nornov &lt;1&gt;" in html
    assert "a&amp;b.jpg" in html
    assert "gair:trainhead" in text
    assert html.index("a&amp;b.jpg</b>") < html.index("c.jpg</b>") < html.index("low.jpg</b>")


def test_pictures_are_described_and_headings_are_nested(tools: ModuleType, page: object) -> None:
    html = tools.render_page(page)
    pictures = re.findall(r"<img [^>]*>", html)
    assert all(re.search(r'alt="[^"]{6,}"', picture) for picture in pictures)
    levels = [int(level) for level in re.findall(r"<h([1-6])", html)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_a_scene_without_truth_has_no_scores(tools: ModuleType, page: object) -> None:
    from dataclasses import replace

    html = tools.render_page(replace(page, truth=None, scores=None, views=(), report=""))
    assert "no scores" in html
    assert "AUC" not in html
    assert "similarity" not in html.split("<main>")[1].split("repeat")[0]


def write(path: Path, values: np.ndarray, classes: dict[int, str] | None = None) -> Path:
    profile = {
        "driver": "GTiff",
        "count": 1,
        "height": values.shape[0],
        "width": values.shape[1],
        "dtype": values.dtype,
        "crs": "EPSG:32633",
        "transform": from_origin(600_000, 5_000_000, 10, 10),
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(values, 1)
    if classes:
        style = palette_style((value, name, (1, 2, 3)) for value, name in classes.items())
        path.with_suffix(".qml").write_text(style)
    return path


def test_classes_are_compared_by_name_and_unknown_ones_are_wrong(tools: ModuleType, tmp_path: Path) -> None:
    from demo_scores import score_cover

    true = np.array([[1, 1, 1, 2], [2, 2, 2, 2]], np.uint8)
    found = np.array([[7, 7, 3, 3], [3, 3, 9, 0]], np.uint8)
    truth = write(tmp_path / "truth.tif", true, {1: "water", 2: "forest", 3: "snow"})
    mapped = write(tmp_path / "found.tif", found, {3: "forest", 7: "water", 9: "moon"})
    scores = score_cover(mapped, truth)
    # The last pixel has no class. Water: 2 of 3; forest: 3 right, 1 lost to the moon, 1 taken from water.
    assert scores.pixels == 7
    assert scores.accuracy == pytest.approx(5 / 7)
    assert {one.name: one.iou for one in scores.classes} == pytest.approx({"water": 2 / 3, "forest": 3 / 5})
    assert scores.mean_iou == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert scores.largest == pytest.approx(4 / 7)
    # Water is 3 of 7, forest 4 of 7; drawn as often they meet themselves by chance.
    assert scores.chance == pytest.approx((3 / 11 + 4 / 10) / 2)


def test_pixels_of_training_polygons_are_not_scored(tools: ModuleType, tmp_path: Path) -> None:
    from demo_scores import score_cover

    names = {1: "water", 2: "forest"}
    truth = write(tmp_path / "truth.tif", np.array([[1, 2], [2, 2]], np.uint8), names)
    mapped = write(tmp_path / "found.tif", np.array([[1, 1], [2, 1]], np.uint8), names)
    # In longitude and latitude, as somebody may draw them: the upper row, and a corner of the last pixel.
    inside = (
        box(600_000.5, 4_999_990.5, 600_019.5, 4_999_999.5),
        box(600_018, 4_999_982, 600_019, 4_999_983),
    )
    polygons = gpd.GeoSeries(inside, crs="EPSG:32633").to_crs("EPSG:4326")
    polygons.to_file(tmp_path / "polygons.gpkg")
    scores = score_cover(mapped, truth, polygons=tmp_path / "polygons.gpkg")
    assert (scores.pixels, scores.accuracy) == (1, 1.0)


def test_change_is_ranked_against_the_truth(tools: ModuleType, tmp_path: Path) -> None:
    from demo_scores import Ranking, score_change

    names = {1: "forest", 2: "crops", 3: "road"}
    then = write(tmp_path / "then.tif", np.array([[1, 1, 2, 2]], np.uint8), names)
    now = write(tmp_path / "now.tif", np.array([[3, 1, 2, 2]], np.uint8), names)
    before = write(tmp_path / "before.tif", np.array([[100, 100, 100, 100]], np.uint16))
    after = write(tmp_path / "after.tif", np.array([[50, 100, 100, 110]], np.uint16))
    distance = write(tmp_path / "distance.tif", np.array([[0.2, 0.1, 0.3, np.nan]], np.float32))
    scores = score_change(distance, (before, after), (then, now))
    assert scores.share == pytest.approx(1 / 3)
    assert scores.distance.auc == pytest.approx(0.5)
    # The field that fooled the distance does not count here.
    assert scores.distance.auc_no_fields == 1.0
    assert scores.distance.precision == 0.0
    assert scores.distance.average_precision == pytest.approx(0.5)
    assert scores.bands == Ranking(1.0, 1.0, 1.0, 1.0)
