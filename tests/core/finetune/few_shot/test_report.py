"""The report: one page, everything in it escaped, nothing fetched, nothing made up."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from shapely.geometry import Point, box

from gair_core.finetune.few_shot import report_map
from gair_core.finetune.few_shot.fit import Setting, SettingScore
from gair_core.finetune.few_shot.labels import LabelLayer
from gair_core.finetune.few_shot.report import render_report
from gair_core.finetune.few_shot.report_map import (
    ReportMap,
    class_picture,
    map_areas,
    pixel_areas,
    true_colour_picture,
)
from gair_core.geo.grid import Grid
from gair_core.heads.base import HeadClass
from gair_core.sentinel2.bands import BANDS
from gair_core.sentinel2.scene import Scene
from tests.core.finetune.few_shot.reports import made_content


class Page(HTMLParser):
    """Texts, tags and addresses of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_texts_arrive_as_they_are_and_are_no_markup() -> None:
    html = render_report(made_content())
    page = Page(html)
    text = "".join(page.texts)
    for name in ('the "old" town', "<b>water</b>", "Gewässer & Moor", "裸地", "<water>"):
        assert name in text
    assert "gair segment sen2.tif classes.tif --model 'my head.safetensors'" in text
    assert page.tags.count("b") == 5 + 1  # of the cards and the box of warnings
    assert "script" not in page.tags


def test_nothing_is_fetched() -> None:
    content = made_content(map=ReportMap("data:image/png;base64,AA", "data:image/png;base64,BB", "here"))
    html = render_report(content)
    assert Page(html).addresses == ["data:image/png;base64,AA", "data:image/png;base64,BB"]
    assert not re.search(r"url\(|@import|<link", html)


def test_figures_are_those_of_the_accuracy() -> None:
    content = made_content()
    text = re.sub(r"\s+", " ", "".join(Page(render_report(content)).texts))
    assert f"{100 * content.accuracy.metrics['overall_accuracy']:.1f} %overall accuracy" in text
    found = content.accuracy.class_metrics["forest"]
    assert f"{100 * found['recall']:.1f} %" in text
    assert "up to 24 principal components of it, have 75 % of the weight" in text


def test_an_embedding_that_does_not_help_is_said_so() -> None:
    scores = [SettingScore(Setting(0, 0.01), 0.9, 0.0, 1.0), SettingScore(Setting(24, 0.01), 0.5, 0.01, 0.0)]
    html = render_report(made_content(scores=scores))
    assert "did not help" in html


def test_what_is_not_known_is_left_open() -> None:
    content = made_content(areas=[], scores=[])
    nothing = content.accuracy.model_copy(
        update={
            "metrics": {},
            "class_metrics": {one.name: {} for one in content.classes},
            "confusion": ((0,) * 6,) * 6,
            "data": "No polygon could be held out.",
        }
    )
    html = render_report(made_content(areas=[], scores=[], accuracy=nothing))
    assert "No polygon could be held out." in html
    assert "overall accuracy" not in html
    assert "Olofsson" not in html
    assert "nan" not in html.lower().replace("tenant", "")


def test_200_classes_list_the_worst_confusions() -> None:
    names = tuple(f"class {number}" for number in range(200))
    content = made_content(names)
    html = render_report(content)
    assert "most frequent confusions" in html
    assert len(html) < 500_000
    counts = [one.count for one in content.confusions]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == 30


# --- pictures ---------------------------------------------------------------------------------------------

CLASSES = (
    HeadClass(value=3, name="a", colour=(200, 10, 10)),
    HeadClass(value=9, name="b", colour=(0, 0, 250)),
)


def image(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def write(path: Path, grid: Grid, values: np.ndarray, names: tuple[str, ...] = ()) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", width=grid.width, height=grid.height, count=len(values),
        dtype=values.dtype, crs=grid.crs, transform=grid.transform,
    ) as dataset:  # fmt: skip
        dataset.write(values)
        dataset.descriptions = names or (None,) * len(values)
    return path


def test_areas_are_those_on_the_ellipsoid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_map, "_STEP", 500)
    grid = Grid("EPSG:4326", Affine(0.01, 0, 8, 0, -0.01, 60), 40, 50)
    values = np.zeros((1, 50, 40), np.uint16)
    values[:, 5:25], values[:, 25:] = 3, 9
    areas = map_areas(write(tmp_path / "classes.tif", grid, values), grid, CLASSES)
    rectangle = gpd.GeoSeries([box(8, 59.75, 8.4, 59.95), box(8, 59.5, 8.4, 59.75)], crs=4326)
    assert areas == pytest.approx(rectangle.to_crs("ESRI:54034").area.to_numpy(), rel=1e-4)


def test_a_pixel_of_utm_is_nearly_what_its_size_says() -> None:
    areas = pixel_areas(Grid("EPSG:32632", Affine(10, 0, 500_000, 0, -10, 5_600_000), 7, 300))
    assert areas == pytest.approx(100 / 0.9996**2, rel=1e-4)


@pytest.mark.parametrize(("width", "height"), [(30, 20), (1500, 700)])
def test_pictures_show_the_same_place(tmp_path: Path, width: int, height: int) -> None:
    grid = Grid("EPSG:32632", Affine(10, 0, 500_000, 0, -10, 5_600_000), width, height)
    half = np.full((1, height, width), 3, np.uint8)
    half[:, :, width // 2 :] = 9
    half[:, : height // 4] = 0
    classes = image(class_picture(write(tmp_path / "classes.tif", grid, half), grid, CLASSES))
    values = np.full((10, height, width), 500, np.uint16)
    values[:, :, width // 2 :] = 3000
    values[:, : height // 4] = 0
    write(tmp_path / "scene.tif", grid, values, BANDS)
    ring = box(500_000 + 2 * width, 5_600_000 - 8 * height, 500_000 + 4 * width, 5_600_000 - 5 * height)
    far = Point(0, 0)
    layer = LabelLayer(
        "x", gpd.GeoSeries([ring, far], crs="EPSG:32632"), np.array([0, 1]), CLASSES, (), "", "class"
    )
    with Scene.open(tmp_path / "scene.tif", offset=0) as scene:
        colour = image(true_colour_picture(scene, scene.native.full_window, layer))
    assert classes.shape == colour.shape
    assert max(classes.shape[:2]) <= 960
    rows = len(classes)
    assert classes[rows // 2, 3].tolist() == [200, 10, 10, 255]
    assert classes[rows // 2, -3].tolist() == [0, 0, 250, 255]
    assert classes[3, 3, 3] == 0
    assert colour[3, 3, 3] == 0
    assert colour[-3, 3, :3].max() < 20
    assert colour[-3, -3, :3].min() > 235
    assert (colour[..., :3] == [200, 10, 10]).all(axis=-1).any()
