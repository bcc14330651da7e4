"""train-head from labels to a segmented scene: real polygons, and everything that users may get wrong."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.transform import from_origin
from shapely.geometry import Point, box

from gair_core import checkpoint
from gair_core.checkpoint import load
from gair_core.cli import main
from gair_core.errors import BadInputError, CancelledError, CheckpointError
from gair_core.finetune import train_head as module
from gair_core.finetune.few_shot.label_pixels import label_places
from gair_core.finetune.few_shot.labels import read_labels
from gair_core.finetune.train_head import TrainHeadRequest, TrainHeadResult, train_head
from gair_core.geo.grid import Grid
from gair_core.head_checkpoint import load_head
from gair_core.inference.request import Estimate
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.info import InfoRequest, describe
from gair_core.progress import Progress
from gair_core.sentinel2.bands import BANDS

LEFT, TOP, SIZE = 450_000, 5_500_000, 64
NAMES = ("Wald, dicht", 'the "old" field', "Gewässer")
# Reflectance of the quarters of the made scene, DN.
LEVELS = (700, 2200, 300)


def write_scene(path: Path, *, shift: int = 0, left: int = LEFT) -> Path:
    """A scene of three vertical stripes that differ in all bands."""
    rng = np.random.default_rng(2)
    stripe = np.repeat(LEVELS, (22, 21, 21))
    slope = np.linspace(0.5, 1.5, len(BANDS))[:, None, None]
    values = stripe[None, None] * slope + rng.normal(0, 60, (len(BANDS), SIZE, SIZE)) + shift
    with rasterio.open(
        path, "w", driver="GTiff", width=SIZE, height=SIZE, count=len(BANDS), dtype="uint16",
        crs="EPSG:32632", transform=from_origin(left, TOP, 10, 10), nodata=0,
    ) as dataset:  # fmt: skip
        dataset.write(np.clip(values, 1, 10_000).astype(np.uint16))
        dataset.descriptions = BANDS
    return path


def pixels(col: float, row: float, width: float, height: float) -> Any:
    """A rectangle in pixels of the made scene."""
    return box(LEFT + 10 * col, TOP - 10 * (row + height), LEFT + 10 * (col + width), TOP - 10 * row)


def stripes(polygons: int = 4) -> tuple[list[Any], list[str]]:
    """So many polygons in each stripe."""
    shapes = [pixels(3 + 22 * stripe, 2 + 15 * i, 8, 8) for stripe in range(3) for i in range(polygons)]
    return shapes, [NAMES[stripe] for stripe in range(3) for _ in range(polygons)]


def write_labels(path: Path, shapes: list[Any], names: list[Any], crs: str = "EPSG:32632") -> Path:
    frame = gpd.GeoDataFrame({"class": names}, geometry=shapes, crs="EPSG:32632").to_crs(crs)
    frame.to_file(path, engine="pyogrio")
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene.tif")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path / "labels.gpkg", *stripes())


def train(scene: Path, labels: Path, **options: Any) -> TrainHeadResult:
    values = {"output": str(scene.parent / "head.safetensors"), "field": "class", "offset": 0, **options}
    result = train_head(TrainHeadRequest(scene=str(scene), labels=str(labels), device="cpu", **values))
    assert isinstance(result, TrainHeadResult)
    return result


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- real polygons ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def germany(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainHeadResult]:
    folder = tmp_path_factory.mktemp("germany")
    data = shared / "data" / "germany_polygons"
    before = written(data)
    result = train_head(
        TrainHeadRequest(
            scene=str(data / "sen2.tif"),
            labels=str(data / "training_polygons.gpkg"),
            output=str(folder / "head.safetensors"),
            report=str(folder / "report.html"),
            field="class",
            device="cpu",
        )
    )
    assert written(data) == before
    assert isinstance(result, TrainHeadResult)
    return folder, result


def test_real_polygons_are_learnt(germany: tuple[Path, TrainHeadResult]) -> None:
    folder, result = germany
    assert written(folder) == ["head.safetensors", "report.html"]
    assert result.pixels == {
        "agriculture": 652, "bare ground": 375, "forest": 537, "grass": 1037, "village": 769, "water": 130
    }  # fmt: skip
    # The bands alone give 0.95 and more on these polygons, whatever the encoder knows.
    assert result.overall_accuracy is not None
    assert result.overall_accuracy > 0.85
    assert result.macro_f1 is not None
    assert result.macro_f1 > 0.8


def test_the_accuracy_is_in_the_head_and_in_info(germany: tuple[Path, TrainHeadResult]) -> None:
    folder, result = germany
    head, _ = load_head(folder / "head.safetensors", load_model=load)
    accuracy = head.metadata.accuracy
    assert accuracy is not None
    assert accuracy.metrics["overall_accuracy"] == result.overall_accuracy
    confusion = np.array(accuracy.confusion)
    assert confusion.sum() == 3500
    assert confusion.sum(axis=1).tolist() == list(result.pixels.values())
    described = describe(InfoRequest(model=str(folder / "head.safetensors")), Progress())
    assert "overall accuracy" in described.text()
    assert head.metadata.provenance.training_data == "training_polygons.gpkg (field class) on sen2.tif"


def test_the_report_of_real_polygons(germany: tuple[Path, TrainHeadResult]) -> None:
    folder, result = germany
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{100 * (result.overall_accuracy or 0):.1f} %" in html
    assert html.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', html)
    command = re.search(r"<pre>(.*)</pre>", html)
    assert command is not None
    assert shlex.split(command[1]) == [
        "gair",
        "segment",
        "sen2.tif",
        "classes.tif",
        "--model",
        "head.safetensors",
    ]


def test_the_map_agrees_with_the_labels(germany: tuple[Path, TrainHeadResult], shared: Path) -> None:
    folder, _ = germany
    data = shared / "data" / "germany_polygons"
    output = folder.parent / "classes.tif"
    segment(
        SegmentRequest(
            scene=str(data / "sen2.tif"),
            output=str(output),
            model=str(folder / "head.safetensors"),
            device="cpu",
        )
    )
    layer = read_labels(data / "training_polygons.gpkg", "class")
    with rasterio.open(output) as dataset:
        places = label_places(layer, Grid.from_dataset(dataset))
        found = dataset.read(1)[places.row, places.col]
    values = np.array([one.value for one in layer.classes])
    assert (found == values[places.target]).mean() > 0.93


# --- a made scene -----------------------------------------------------------------------------------------


def test_names_with_commas_quotes_and_umlauts(scene: Path, labels: Path) -> None:
    result = train(scene, labels, report=str(scene.parent / "report.html"))
    assert set(result.pixels) == set(NAMES)
    assert result.overall_accuracy is not None
    assert result.overall_accuracy > 0.9
    head, _ = load_head(result.output, load_model=load)
    assert {one.name for one in head.classes} == set(NAMES)
    html = (scene.parent / "report.html").read_text(encoding="utf-8")
    assert "the &#34;old&#34; field" in html
    assert "--offset=0" in html


def test_polygons_in_another_crs_give_the_same_head(scene: Path, labels: Path, tmp_path: Path) -> None:
    moved = write_labels(tmp_path / "moved.gpkg", *stripes(), crs="EPSG:3857")
    train(scene, labels, output=str(tmp_path / "a.safetensors"))
    train(scene, moved, output=str(tmp_path / "b.safetensors"))
    one, other = (load_head(tmp_path / f"{name}.safetensors", load_model=load)[0] for name in "ab")
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_points(scene: Path, tmp_path: Path) -> None:
    shapes, names = stripes()
    path = write_labels(tmp_path / "points.gpkg", [shape.centroid for shape in shapes], names)
    result = train(scene, path)
    assert result.pixels == dict.fromkeys(sorted(NAMES, key=str.casefold), 4)


def test_a_head_with_its_encoder_needs_nothing_else(scene: Path, labels: Path) -> None:
    result = train(scene, labels, embed_backbone=True)

    def refuse(name: str) -> Any:
        raise AssertionError(name)

    head, model = load_head(result.output, load_model=refuse)
    assert head.config.embed_dim == model.config.embed_dim
    assert checkpoint.read_entry(Path(result.output))["kind"] == "head"


def test_the_command_line(scene: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = scene.parent / "head.safetensors"
    words = ["train-head", str(scene), str(labels), str(output), "--field", "class", "--offset", "0"]
    other = write_scene(scene.parent / "other.tif", left=LEFT + 10)
    more = ["--more-scenes", str(other), "--device", "cpu", "--json", "--title", "three stripes"]
    assert main([*words, *more]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["output"] == str(output)
    assert load_head(output, load_model=load)[0].metadata.title == "three stripes"


def test_a_dry_run_writes_nothing(scene: Path, labels: Path) -> None:
    before = written(scene.parent)
    request = TrainHeadRequest(
        scene=str(scene), labels=str(labels), output=str(scene.parent / "h.safetensors"), field="class",
        report=str(scene.parent / "r.html"), dry_run=True, offset=0,
    )  # fmt: skip
    estimate = train_head(request)
    assert isinstance(estimate, Estimate)
    assert estimate.tiles == 2
    assert estimate.seconds > 0
    assert estimate.bytes > 0
    assert written(scene.parent) == before


# --- what is warned of ------------------------------------------------------------------------------------


def warned(result: TrainHeadResult, text: str) -> bool:
    return any(text in warning for warning in result.warnings)


def test_everything_doubtful_is_said(scene: Path, tmp_path: Path) -> None:
    shapes, names = stripes()
    shapes += [
        pixels(80, 80, 4, 4),
        pixels(60, 40, 10, 3),
        pixels(2, 2, 4, 4),
        pixels(50, 1, 2, 2),
        shapes[0],
    ]
    names += [NAMES[0], NAMES[2], NAMES[1], "alone", None]  # type: ignore[list-item]
    shapes.append(pixels(200, 200, 5, 5))
    names.append("never seen")
    result = train(scene, write_labels(tmp_path / "doubtful.gpkg", shapes, names))
    assert warned(result, "1 feature of 18 have no class")
    assert warned(result, "2 of 17 polygons and points of doubtful.gpkg lie outside the scene")
    assert warned(result, "1 of 17 polygons and points of doubtful.gpkg reach beyond a scene")
    assert warned(result, "14 pixels lie in polygons or points of different classes")
    assert warned(result, "No pixel has the class never seen")
    assert warned(result, "One polygon alone: 'alone'")
    assert "never seen" not in result.pixels


def test_pixels_without_data_are_left_out(scene: Path, labels: Path) -> None:
    with rasterio.open(scene, "r+") as dataset:
        values = dataset.read()
        values[:, :8] = 0
        dataset.write(values)
    assert warned(train(scene, labels), "144 of 768 labelled pixels have no data")


def test_scenes_of_different_radiometry(scene: Path, labels: Path) -> None:
    shifted = write_scene(scene.parent / "shifted.tif", shift=1000)
    alike = train(scene, labels, more_scenes=[str(write_scene(scene.parent / "alike.tif"))])
    assert not warned(alike, "reflects far differently")
    result = train(scene, labels, more_scenes=[str(shifted)])
    assert warned(result, "shifted.tif reflects far differently")


def test_segmenting_a_scene_of_another_radiometry(scene: Path, labels: Path) -> None:
    result = train(scene, labels)
    classes = str(scene.parent / "classes.tif")

    def warnings(path: Path) -> str:
        request = SegmentRequest(scene=str(path), output=classes, model=result.output, offset=0, device="cpu")
        return " ".join(segment(request).warnings)

    assert "far differently" not in warnings(scene)
    assert "far differently" in warnings(write_scene(scene.parent / "shifted.tif", shift=1000))


def test_a_scene_that_no_label_meets_adds_nothing(scene: Path, labels: Path) -> None:
    far = write_scene(scene.parent / "far.tif", left=LEFT + 100_000)
    result = train(scene, labels, more_scenes=[str(far)])
    assert warned(result, "No label lies in the scene far.tif")
    result = train(far, labels, more_scenes=[str(scene)], report=str(scene.parent / "report.html"))
    assert warned(result, "No label lies in the scene far.tif")
    assert "scene.tif" in (scene.parent / "report.html").read_text(encoding="utf-8")


# --- what is refused, and leaves nothing ------------------------------------------------------------------


def refused(scene: Path, labels: Path, **options: Any) -> BadInputError:
    before = written(scene.parent)
    with pytest.raises(BadInputError) as caught:
        train(scene, labels, report=str(scene.parent / "report.html"), **options)
    assert written(scene.parent) == before
    return caught.value


def test_labels_that_are_all_outside(scene: Path, tmp_path: Path) -> None:
    shapes, names = stripes()
    moved = [pixels(1000, 0, 5, 5) for _ in shapes]
    error = refused(scene, write_labels(tmp_path / "far.gpkg", moved, names))
    assert "None of the 12 polygons and points of far.gpkg lies in the scene" in error.message
    assert re.search(r"longitude 8\.\d+ to 8\.\d+ and latitude 49\.\d+", error.message)
    assert "CRS" in error.hint


def test_one_class_only(scene: Path, tmp_path: Path) -> None:
    shapes, _ = stripes()
    error = refused(scene, write_labels(tmp_path / "one.gpkg", shapes, ["forest"] * len(shapes)))
    assert "same class 'forest'" in error.message


def test_one_class_inside(scene: Path, tmp_path: Path) -> None:
    shapes = [pixels(2, 2, 5, 5), pixels(500, 2, 5, 5)]
    error = refused(scene, write_labels(tmp_path / "one.gpkg", shapes, ["in", "out"]))
    assert "Only the class 'in'" in error.message
    assert "out" in error.message


def test_everything_disputed(scene: Path, tmp_path: Path) -> None:
    error = refused(scene, write_labels(tmp_path / "two.gpkg", [pixels(2, 2, 5, 5)] * 2, ["a", "b"]))
    assert "a and b" in error.message


def test_an_extent_elsewhere(scene: Path, labels: Path) -> None:
    assert "does not meet" in refused(scene, labels, extent=(0, 0, 10, 10)).message


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("output", "head.pt", "must end in .safetensors"),
        ("output", "missing/head.safetensors", "does not exist"),
        ("report", "report.pdf", "must end in .html or .htm"),
    ],
)
def test_impossible_destinations(scene: Path, labels: Path, option: str, value: str, text: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(text)):
        train(scene, labels, **{option: str(scene.parent / value)})


@pytest.mark.filterwarnings("ignore:File .* has GPKG application_id")
def test_inputs_are_never_overwritten(scene: Path, labels: Path, tmp_path: Path) -> None:
    page = tmp_path / "labels.html"
    page.write_bytes(labels.read_bytes())
    with pytest.raises(BadInputError, match="is the input"):
        train(scene, page, report=str(page))
    assert page.read_bytes() == labels.read_bytes()


def test_a_head_is_no_model_to_train_on(scene: Path, labels: Path) -> None:
    result = train(scene, labels)
    with pytest.raises(CheckpointError):
        train(scene, labels, model=result.output, output=str(scene.parent / "second.safetensors"))


class Stopper(Progress):
    """Cancels when a report says so."""

    def __init__(self, when: Callable[[float], bool]) -> None:
        super().__init__()
        self._when = when
        self.fractions: list[float] = []

    def report(self, fraction: float, message: str = "") -> None:  # noqa: ARG002
        self.fractions.append(fraction)
        if self._when(fraction):
            self.cancel()


@pytest.mark.parametrize("share", [0.1, 0.46, 0.7])
def test_a_cancel_leaves_nothing(scene: Path, labels: Path, share: float) -> None:
    before = written(scene.parent)
    request = TrainHeadRequest(
        scene=str(scene), labels=str(labels), output=str(scene.parent / "head.safetensors"), field="class",
        report=str(scene.parent / "report.html"), offset=0, device="cpu",
    )  # fmt: skip
    with pytest.raises(CancelledError):
        train_head(request, Stopper(lambda fraction: fraction >= share))
    assert written(scene.parent) == before


def test_an_error_while_reporting_leaves_nothing(
    scene: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "render_report", fail)
    before = written(scene.parent)
    with pytest.raises(BadInputError, match="the disk is full"):
        train(scene, labels, report=str(scene.parent / "report.html"))
    assert written(scene.parent) == before


def test_progress_rises_to_the_end(scene: Path, labels: Path) -> None:
    progress = Stopper(lambda _: False)
    request = TrainHeadRequest(
        scene=str(scene), labels=str(labels), output=str(scene.parent / "head.safetensors"), field="class",
        report=str(scene.parent / "report.html"), offset=0, device="cpu",
    )  # fmt: skip
    train_head(request, progress)
    assert progress.fractions == sorted(progress.fractions)
    assert progress.fractions[-1] == 1.0


@pytest.mark.slow
def test_200_classes(scene: Path, tmp_path: Path) -> None:
    shapes, names = [], []
    for number in range(200):
        for copy in range(2):
            place = number * 2 + copy
            shapes.append(Point(pixels(2 + 3 * (place % 20), 2 + 3 * (place // 20), 1, 1).centroid))
            names.append(f"class {number}")
    result = train(
        scene, write_labels(tmp_path / "many.gpkg", shapes, names), report=str(tmp_path / "r.html")
    )
    assert len(result.pixels) == 200
    head, _ = load_head(result.output, load_model=load)
    assert len({one.colour for one in head.classes}) == 200


def test_a_turned_scene(tmp_path: Path, labels: Path) -> None:
    path = write_scene(tmp_path / "turned.tif")
    with rasterio.open(path, "r+") as dataset:
        dataset.transform = Affine.translation(LEFT, TOP) * Affine.rotation(8) * Affine.scale(10, -10)
    result = train(path, labels, report=str(tmp_path / "report.html"))
    assert sum(result.pixels.values()) > 500
