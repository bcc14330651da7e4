"""The scene data sets in the layouts that they are published in, with what is odd about them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gair_core.errors import BadInputError
from gair_core.finetune.datasets.burn_scars import BurnScars
from gair_core.finetune.datasets.scenes import IGNORED
from gair_core.finetune.datasets.small_farms import SmallFarms
from gair_core.finetune.datasets.south_sudan import SouthSudan
from gair_core.finetune.datasets.world import WorldData
from tests.core.finetune.layouts import make_burn_scars, make_small_farms, make_south_sudan, write_tif
from tests.core.pretrain.stores import make_store


def test_burn_scars_in_reflectance_with_gaps_and_unknown_labels(tmp_path: Path) -> None:
    data = BurnScars(make_burn_scars(tmp_path))
    names = {split: [Path(name) for name in data.names(split)] for split in ("train", "validation", "test")}
    assert [len(found) for found in names.values()] == [9, 2, 2]
    assert {path.parent.name for path in names["train"] + names["validation"]} == {"training"}
    assert {path.parent.name for path in names["test"]} == {"validation"}
    split = "train" if any("SD00" in path.name for path in names["train"]) else "validation"
    index = next(row for row, path in enumerate(names[split]) if "SD00" in path.name)
    example = data.read(split, index)
    assert example.dn.shape == (1, 6, 48, 48)
    assert not example.valid[0, :8, :8].any()
    assert example.valid[0, 8:, 8:].all()
    assert (example.dn[0, :, :8, :8] == 0).all()
    assert (example.target[-8:, -8:] == IGNORED).all()
    assert set(np.unique(example.target)) == {IGNORED, 0, 1}
    # Reflectance of about 0.1 is a DN of about 1000.
    assert np.median(example.dn[0, 0][example.valid[0]]) == pytest.approx(1000, rel=0.05)
    assert example.days is None


def test_burn_scars_split_is_that_of_scikit_learn(tmp_path: Path) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    folder = make_burn_scars(tmp_path, training=31, size=8)
    data = BurnScars(folder)
    files = sorted(str(path) for path in (folder / "training").glob("*_merged.tif"))
    train, validation = selection.train_test_split(np.arange(31), test_size=0.1, random_state=23)
    assert set(data.names("validation")) == {files[row] for row in validation}
    assert set(data.names("train")) == {files[row] for row in train}


def test_burn_scars_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no folder .*training"):
        BurnScars(tmp_path)
    folder = make_burn_scars(tmp_path)
    data = BurnScars(folder)
    image = Path(data.names("test")[0])
    mask = image.with_name(image.name.replace("_merged.tif", ".mask.tif"))
    good = image.read_bytes()
    image.write_bytes(good[:2000])
    with pytest.raises(BadInputError, match=rf"{image.name} cannot be read"):
        data.read("test", 0)
    write_tif(image, np.zeros((4, 48, 48), np.float32))
    with pytest.raises(BadInputError, match="has 4 bands, wanted 6"):
        data.read("test", 0)
    image.write_bytes(good)
    write_tif(mask, np.full((48, 48), 7, np.int16))
    with pytest.raises(BadInputError, match=r"label 7, wanted -1, 0, 1"):
        data.read("test", 0)
    write_tif(mask, np.zeros((40, 48), np.int16))
    with pytest.raises(BadInputError, match="48 x 48 pixels, its mask 40 x 48"):
        data.read("test", 0)
    mask.unlink()
    with pytest.raises(BadInputError, match=r"1 of 2 images have no mask, the first is .*merged"):
        BurnScars(folder)


def test_small_farms_pair_images_and_masks(tmp_path: Path) -> None:
    data = SmallFarms(make_small_farms(tmp_path))
    assert [len(data.names(split)) for split in ("train", "validation", "test")] == [4, 2, 2]
    example = data.read("train", 2)
    assert example.dn.shape == (1, 4, 40, 56)
    assert not example.valid[0, 0, 0]
    assert np.isfinite(example.dn).all()
    inside = example.valid[0]
    assert ((example.dn[0, 3] > 2000) == (example.target == 1))[inside].all()
    mask = tmp_path / "sentinel-2-asia" / "train" / "masks" / "mask_3.tif"
    mask.rename(mask.with_name("mask_33.tif"))
    with pytest.raises(BadInputError, match=r"4 images and 4 masks .* different names"):
        SmallFarms(tmp_path)


def test_small_farms_say_which_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no folder .*sentinel-2-asia/train/images"):
        SmallFarms(tmp_path)


def test_south_sudan_takes_the_latest_dates_in_order(tmp_path: Path) -> None:
    data = SouthSudan(make_south_sudan(tmp_path), 6)
    assert [len(data.names(split)) for split in ("train", "validation", "test")] == [4, 1, 1]
    assert data.longest == 6
    first = data.read("train", 0)
    assert first.dn.shape == (6, 10, 64, 64)
    assert first.days is not None
    assert list(first.days) == sorted(first.days)
    short = data.read("train", 1)
    assert short.dn.shape == (4, 10, 64, 64)
    assert not short.valid[0].any()
    assert short.valid[1:].all()
    assert set(np.unique(first.target)) == {IGNORED, 0, 1, 2, 3}
    # What is green on the last date is the second class.
    assert ((first.dn[-1, 6] > 3000) == (first.target == 1)).all()
    assert SouthSudan(tmp_path, None).longest == 9
    assert SouthSudan(tmp_path, None).class_counts("train").sum() > 0


def test_south_sudan_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no folder .*southsudan"):
        SouthSudan(tmp_path)
    data = SouthSudan(make_south_sudan(tmp_path))
    image = Path(data.names("test")[0])
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(BadInputError, match=rf"s2 of .*{image.name} cannot be read"):
        data.read("test", 0)
    base = tmp_path / "southsudan"
    dates = base / "s2" / "s2_southsudan_000000.json"
    dates.write_text(json.dumps({"dates": ["2017-01-01"]}))
    with pytest.raises(BadInputError, match=r"names 1 dates"):
        data.read("train", 0)
    dates.write_text(json.dumps({"days": []}))
    with pytest.raises(BadInputError, match=r"dates in .*000000.json cannot be read"):
        data.read("train", 0)
    (base / "truth" / "southsudan_000002.npz").unlink()
    with pytest.raises(BadInputError, match=r"truth of .*000002.npz cannot be read"):
        data.read("train", 2)
    (base / "list_eval_partition.csv").write_text("id,partition\n1,7\n")
    with pytest.raises(BadInputError, match=r"list_eval_partition.csv is damaged"):
        SouthSudan(tmp_path)
    (base / "list_eval_partition.csv").unlink()
    with pytest.raises(BadInputError, match=r"no .*list_eval_partition.csv"):
        SouthSudan(tmp_path)


def test_a_store_serves_segmentation_change_and_series(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "store")
    scenes = WorldData(folder, "segmentation")
    assert [len(scenes.names(split)) for split in ("train", "validation", "test")] == [8, 2, 2]
    assert [one.name for one in scenes.classes] == ["dark", "bright"]
    example = scenes.read("train", 1)
    assert example.dn.shape == (1, 10, 40, 40)
    assert list(example.days) == [166]
    assert ((example.dn[0, 0] > 2050) == (example.target == 1)).mean() > 0.97
    change = WorldData(folder, "change")
    assert len(change.names("train")) == 4
    pair = change.read("train", 0)
    assert pair.dn.shape == (2, 10, 40, 40)
    before, after = scenes.target("train", 0), scenes.target("train", 1)
    assert (pair.target == (before != after)).all()
    assert [one.name for one in change.classes] == ["unchanged", "changed"]
    series = WorldData(folder, "series")
    assert series.longest == 2
    assert (series.read("train", 0).target == after).all()
    with pytest.raises(BadInputError, match="no store"):
        WorldData(tmp_path / "nowhere", "change")
