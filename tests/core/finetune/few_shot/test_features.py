"""Training sees at labelled pixels what segmenting sees there."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch

from gair_core.finetune.few_shot.features import PixelTable, collect, features_of, tiles_needed
from gair_core.finetune.few_shot.fit import FitOptions, build_head, fit
from gair_core.head_checkpoint import save_head
from gair_core.heads import HeadClass, HeadMetadata
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.inference.engine import Engine
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene
from tests.core.inference import brightness, scenes

CLASSES = tuple(HeadClass(value=k + 1, name=f"class {k}", colour=(k, k, k)) for k in range(3))


@pytest.mark.parametrize("place", ["utm", "degrees"])
def test_a_trained_head_segments_as_its_classifier_classifies_the_table(place, tmp_path):
    dn = scenes.textured(120, 104)
    dn[:, :30, 60:] = 0
    scene_path = scenes.write(tmp_path / "scene.tif", dn, place, nodata=0)
    model = brightness.save_model(tmp_path / "encoder.safetensors")
    engine = Engine(model, "cpu", tile_size=64, margin=8)
    rng = np.random.default_rng(0)
    row, column = rng.integers(0, 120, 900), rng.integers(0, 104, 900)
    with Scene.open(scene_path, gsd=engine.config.gsd) as scene:
        features = features_of(scene)
        table = collect(engine, scene, row, column, features=features)
        lonlat = scene.native.footprint.lonlat(np.stack([(column + 0.5) / 104, (row + 0.5) / 120], axis=1))
    np.testing.assert_array_equal(table.valid, dn[0][row, column] > 0)
    np.testing.assert_allclose(table.lonlat, lonlat, atol=1e-12)
    np.testing.assert_array_equal(table.bands[table.valid, :10], dn[:, row, column].T[table.valid])
    # Squares of the scene are the polygons, and brightness is the class.
    polygon = row // 20 * 10 + column // 20
    target = np.random.default_rng(1).integers(0, 3, 100)[polygon]
    options = FitOptions(components=(0, 4), penalties=(1e-2,), embedding_penalties=(1e-4,), folds=3)
    found = fit(table, target, polygon, [one.name for one in CLASSES], options=options)
    save_head(
        build_head(found, features, HeadMetadata(classes=CLASSES)), tmp_path / "head.safetensors", model
    )
    segment(
        SegmentRequest(
            scene=str(scene_path),
            output=str(tmp_path / "map.tif"),
            model=str(tmp_path / "head.safetensors"),
            tile_size=64,
            margin=8,
        )
    )
    with rasterio.open(tmp_path / "map.tif") as dataset:
        mapped = dataset.read(1)[row, column]
    logits = np.sort(found.classifier.logits(table), axis=1)
    clear = table.valid & (logits[:, -1] - logits[:, -2] > 1e-3)
    assert clear.sum() > 500
    np.testing.assert_array_equal(mapped[clear], found.classifier.logits(table).argmax(axis=1)[clear] + 1)
    assert (mapped[~table.valid] == 0).all()


def test_the_embedding_is_that_of_the_model(tmp_path):
    dn = scenes.textured(64, 48)
    model = brightness.save_model(tmp_path / "encoder.safetensors")
    engine = Engine(model, "cpu")
    row, column = np.array([0, 20, 63, 31]), np.array([47, 11, 0, 30])
    with Scene.open(scenes.write(tmp_path / "scene.tif", dn), gsd=10) as scene:
        table = collect(engine, scene, row, column, features=PixelFeatures())
    from gair_core.sentinel2.bands import MEAN, STD, normalize

    images = normalize(torch.from_numpy(dn.astype(np.float32)), MEAN, STD, quantize=engine.config.quantize)
    with torch.no_grad():
        z = model.interpolate_dense(model.encode_remote_sensing(images[None]), (64, 48))[0]
    np.testing.assert_allclose(table.embedding, z[:, row, column].T.numpy(), atol=1e-4)


def test_only_the_tiles_that_pixels_need_are_encoded(tmp_path):
    model = brightness.save_model(tmp_path / "encoder.safetensors")
    engine = Engine(model, "cpu", tile_size=32, margin=8)
    corner = np.array([3, 5]), np.array([4, 2])
    with Scene.open(scenes.write(tmp_path / "scene.tif", scenes.textured(160, 160)), gsd=10) as scene:
        assert tiles_needed(engine, scene, *corner) == 1
        everywhere = np.arange(0, 160, 8), np.arange(0, 160, 8)
        assert tiles_needed(engine, scene, *everywhere) > 9

        class Counting(Progress):
            messages: list[str] = []  # noqa: RUF012

            def report(self, fraction: float, message: str = "") -> None:
                del fraction
                self.messages.append(message)

        progress = Counting()
        collect(engine, scene, *corner, features=PixelFeatures(), progress=progress)
    assert progress.messages[-1].startswith("tile 1 of 1")


def test_tables_of_several_scenes_are_one():
    def table(count, value):
        return PixelTable(
            np.full((count, 3), value, np.float32),
            np.full((count, 2), value, np.float32),
            np.ones(count, bool),
            np.zeros((count, 2)),
        )

    both = PixelTable.concatenate([table(2, 1.0), table(3, 2.0)])
    assert len(both) == 5
    assert both.take(np.array([4])).embedding.tolist() == [[2.0, 2.0, 2.0]]
