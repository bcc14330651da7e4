"""Data sets of photos and places are read in their published layouts, with all that is odd about them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from gair_core.errors import BadInputError
from gair_core.finetune.datasets.birds import BirdsConfig
from gair_core.finetune.datasets.global_streetscapes import PERCEPTION, GlobalStreetscapesConfig
from gair_core.finetune.datasets.inaturalist import INaturalistConfig
from gair_core.finetune.datasets.located import class_indices, head_classes, split_within
from gair_core.finetune.datasets.mosaiks import MosaiksConfig
from gair_core.finetune.datasets.socioeconomic import INDICATORS, SocioEconomicConfig
from tests.core.finetune.datasets import layouts


def everything(data):
    """Join the splits: ids, labels and the split of each."""
    ids = np.concatenate([part.ids for part in data.splits.values()])
    labels = np.concatenate([part.labels for part in data.splits.values()])
    return dict(zip(ids, labels, strict=True))


def test_a_split_within_groups_gives_each_its_share_whatever_the_order():
    ids = [f"photo {number}" for number in range(1000)]
    city = ["a"] * 700 + ["b"] * 295 + ["c"] * 4 + ["d"]
    found = split_within(ids, city, seed=3)
    for name, count in (("a", 700), ("b", 295)):
        of_city = found[np.array(city) == name]
        assert (of_city == "test").sum() == (of_city == "validation").sum() == round(0.2 * count)
    assert sorted(found[995:999]) == ["test", "train", "train", "validation"]
    assert found[999] == "train"
    order = np.random.default_rng(0).permutation(1000)
    shuffled = split_within([ids[one] for one in order], [city[one] for one in order], seed=3)
    assert (shuffled == found[order]).all()
    assert (split_within(ids, city, seed=4) != found).mean() > 0.3
    with pytest.raises(BadInputError, match="sum to 1"):
        split_within(ids, city, (0.6, 0.2, 0.3))


def test_labels_are_mapped_by_name_and_never_by_order():
    labels, classes = class_indices(["Side ", "front/Back", "side"], ("front/back", "side"), "the table")
    assert labels.tolist() == [1, 0, 1]
    assert classes == ("front/back", "side")
    labels, classes = class_indices(["b", "a", " B", 'c, "d"'], None, "the table")
    assert classes == ("a", "B", 'c, "d"')
    assert labels.tolist() == [1, 0, 1, 2]
    with pytest.raises(BadInputError, match="'up', which are none of the classes front/back, side"):
        class_indices(["side", "up"], ("front/back", "side"), "the table")
    with pytest.raises(BadInputError, match="At least two"):
        class_indices(["a", "A "], None, "the table")
    many = head_classes([f"species {number % 199}" for number in range(200)])
    assert len({one.name for one in many}) == len({one.colour for one in many}) == 200
    assert many[0].name == "species 0 (1)"


class TestGlobalStreetscapes:
    @pytest.fixture
    def folder(self, tmp_path):
        labels = ["driving surface", "walking surface", "Tunnel", "cycling surface"] * 15
        labels[7], labels[8] = "", "nan"
        layouts.streetscapes(tmp_path, labels)
        return tmp_path

    def config(self, folder, **changes):
        options = {"tables": folder / "tables", "photos": folder / "photos", "label": "platform", **changes}
        return GlobalStreetscapesConfig.parse(options)

    def test_tables_are_joined_by_uuid_and_what_is_missing_is_counted(self, folder):
        (folder / "photos" / "51_100" / "0039-uuid.jpeg").unlink()
        data = self.config(folder).read()
        found = everything(data)
        assert data.left_out == {"without a position": 0, "without a photo": 1, "without a label": 2}
        assert "1 without a photo, 2 without a label" in data.description
        assert len(found) == 57
        # All published classes, in their order, though two of them do not occur.
        assert data.classes[:4] == ("driving surface", "walking surface", "cycling surface", "tunnel")
        assert len(data.classes) == 6
        assert [found[f"{number:04x}-uuid"] for number in (0, 1, 2, 3)] == [0, 1, 3, 2]
        assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [35, 11, 11]
        train = data.splits["train"]
        numbers = np.array([int(one[:4], 16) for one in train.ids])
        assert train.panorama.tolist() == (numbers % 5 == 0).tolist()
        np.testing.assert_allclose(train.lonlat, np.column_stack([np.full(35, 9.0), 48 + numbers / 1000]))
        assert all(paths[0].is_file() for paths in train.photos)
        assert self.config(folder, panoramas="skip").read().left_out["panoramas"] == 12

    def test_perception_scores_keep_their_scale(self, folder):
        ids = [f"{number:04x}-uuid" for number in range(60)]
        rows = [[one, "x", "1", *np.linspace(0, 10, 6) * number / 59] for number, one in enumerate(ids)]
        rows[5][3] = ""
        layouts.write_table(
            folder / "tables" / "perception.csv", ["uuid", "source", "orig_id", *PERCEPTION], rows
        )
        data = self.config(folder, label=None, targets=PERCEPTION).read()
        found = everything(data)
        assert [one.name for one in data.targets] == list(PERCEPTION)
        np.testing.assert_allclose(found["003b-uuid"], np.linspace(0, 10, 6))
        assert np.isnan(found["0005-uuid"]).tolist() == [True] + [False] * 5
        rows[9][4] = 74.5
        layouts.write_table(
            folder / "tables" / "perception.csv", ["uuid", "source", "orig_id", *PERCEPTION], rows
        )
        with pytest.raises(
            BadInputError, match=r"Boring holds '74.5' for the photo 0009-uuid; a score from 0"
        ):
            self.config(folder, label=None, targets=PERCEPTION).read()

    def test_bad_tables_are_explained(self, folder, tmp_path):
        with pytest.raises(BadInputError, match=r"No table in .* has the columns weather"):
            self.config(folder, label="weather").read()
        with pytest.raises(BadInputError, match=r"No photo of .* is left"):
            (tmp_path / "empty").mkdir()
            self.config(folder, photos=tmp_path / "empty").read()
        with pytest.raises(BadInputError, match="does not exist"):
            self.config(folder, photos=tmp_path / "nowhere").read()
        with pytest.raises(BadInputError, match="either label"):
            self.config(folder, targets=("Safe",))
        other = [["0000-uuid", "x", "1", "tunnel"], ["0001-uuid", "x", "1", "walking surface"]]
        layouts.write_table(
            folder / "tables" / "test" / "platform.csv", ["uuid", "source", "orig_id", "platform"], other
        )
        with pytest.raises(BadInputError, match="different things about 1 photos, such as 0000-uuid"):
            self.config(folder).read()

    def test_real_tables_and_photos_join(self, shared):
        data = GlobalStreetscapesConfig.parse(
            {
                "tables": shared / "data" / "tables" / "global_streetscapes",
                "photos": shared / "data" / "photos_csv",
                "label": "koppen_geiger_zone",
            }
        ).read()
        found = everything(data)
        assert data.left_out == {"without a position": 0, "without a photo": 475, "without a label": 0}
        assert data.classes == ("Af", "Cfb")
        known = pd.read_csv(shared / "data" / "photos_csv" / "photos.csv").set_index("uuid")
        assert set(found) == set(known.index)
        for part in data.splits.values():
            towns = known.loc[part.ids]
            assert part.labels.tolist() == (towns["city"] == "Stuttgart").astype(int).tolist()
            np.testing.assert_allclose(part.lonlat, towns[["lon", "lat"]], atol=1e-9)
            assert part.panorama.tolist() == (towns["projection_type"] == "spherical").tolist()
        # 19 photos of Stuttgart and 6 of Singapore: a fifth of each.
        assert [len(part) for part in data.splits.values()] == [15, 5, 5]

    def test_awkward_columns_can_be_labels_and_targets(self, shared):
        config = {
            "tables": shared / "data" / "tables" / "global_streetscapes",
            "photos": shared / "data" / "photos_csv",
        }
        with pytest.raises(BadInputError, match="No table"):
            GlobalStreetscapesConfig.parse({**config, "targets": ["length", "hrs_aft_sunrise"]}).read()
        data = GlobalStreetscapesConfig.parse({**config, "targets": ["length"]}).read()
        assert all(np.isfinite(part.labels).all() for part in data.splits.values())


class TestSocioEconomic:
    def test_places_with_four_photos(self, tmp_path):
        layouts.socioeconomic(tmp_path, {"boston": 10, "losangeles": 20})
        (tmp_path / "bostonGSV" / "-pano_3" / "-pano_3_90.jpg").unlink()
        for path in (tmp_path / "bostonGSV" / "-pano_4").glob("*.jpg"):
            path.unlink()
        (tmp_path / "bostonGSV" / "-pano_5" / "meta_data.json").unlink()
        partly = tmp_path / "losangelesGSV" / "-pano_6" / "eco_data_normalized.json"
        partly.write_text(json.dumps({"sky": 0.5, "health": None, "violent": "n/a"}), encoding="utf-8")
        without = tmp_path / "losangelesGSV" / "-pano_7" / "eco_data_normalized.json"
        without.write_text(json.dumps({"sky": float("nan")}), encoding="utf-8")
        data = SocioEconomicConfig(folder=tmp_path).read()
        assert data.left_out == {
            "without a photo": 1,
            "without a description": 1,
            "without an indicator": 1,
        }
        found = everything(data)
        assert len(found) == 27
        np.testing.assert_allclose(found["boston_-pano_2"], np.arange(10) + 0.2)
        known = np.isfinite(found["losangeles_-pano_6"])
        assert [INDICATORS[index] for index in np.flatnonzero(known)] == ["sky"]
        photos = {
            one: paths
            for part in data.splits.values()
            for one, paths in zip(part.ids, part.photos, strict=True)
        }
        assert [path.name for path in photos["boston_-pano_2"]] == [
            f"-pano_2_{heading}.jpg" for heading in (0, 90, 180, 270)
        ]
        assert len(photos["boston_-pano_3"]) == 3
        towns = [one.split("_")[0] for one in data.splits["test"].ids]
        assert (towns.count("boston"), towns.count("losangeles")) == (2, 4)

    def test_a_table_chooses_places_and_may_come_from_another_machine(self, tmp_path):
        layouts.socioeconomic(tmp_path, {"boston": 6, "losangeles": 6})
        rows = [[f"-pano_{number}", "/data/somebody/bostonGSV/"] for number in range(5)]
        rows += [[f"-pano_{number}", "E:\\data\\losangelesGSV"] for number in range(5)] + rows[:1]
        layouts.write_table(tmp_path / "all.csv", ["panoid", "path"], rows)
        data = SocioEconomicConfig(folder=tmp_path, tables=("all.csv",), indicators=("sky",)).read()
        found = everything(data)
        assert len(found) == 10
        assert found["losangeles_-pano_4"].tolist() == [9.4]
        with pytest.raises(BadInputError, match="No place has the indicators wealth"):
            SocioEconomicConfig(folder=tmp_path, indicators=("sky", "wealth")).read()
        layouts.write_table(tmp_path / "bad.csv", ["pano", "path"], rows)
        with pytest.raises(BadInputError, match="no column panoid"):
            SocioEconomicConfig(folder=tmp_path, tables=("bad.csv",)).read()
        with pytest.raises(BadInputError, match="no folder <city>GSV"):
            SocioEconomicConfig(folder=tmp_path / "bostonGSV").read()


class TestMosaiks:
    def write(self, folder, rows=40):
        generator = np.random.default_rng(0)
        table = pd.DataFrame(
            {
                "lon": generator.uniform(-180, 180, rows).round(6),
                "lat": generator.uniform(-55, 75, rows).round(6),
                "elevation": np.arange(rows) * 10.0,
                "split": (["train", "val", "test", "train"] * rows)[:rows],
            }
        )
        table.loc[0, "elevation"] = np.nan
        table.loc[4, "lon"] = np.nan
        table.to_csv(folder / "Y_elevation.csv")  # with pandas' unnamed index
        np.save(folder / "X_elevation.npy", np.arange(rows)[:, None] * np.ones((1, 2048)))

    def test_features_follow_their_rows(self, tmp_path):
        self.write(tmp_path)
        data = MosaiksConfig(folder=tmp_path, task="elevation").read()
        assert data.left_out == {"without a position": 1, "without a value": 1}
        assert [len(part) for part in data.splits.values()] == [18, 10, 10]
        for part in data.splits.values():
            np.testing.assert_array_equal(part.image_features[:, 7] * 10, part.labels[:, 0])
            assert part.image_features.dtype == np.float32
        half = MosaiksConfig(folder=tmp_path, task="elevation", subsample=0.5).read()
        assert sum(map(len, half.splits.values())) == 19
        places = MosaiksConfig(folder=tmp_path, task="elevation", features=None).read()
        assert places.splits["train"].image_features is None
        np.save(tmp_path / "X_elevation.npy", np.zeros((39, 2048)))
        with pytest.raises(BadInputError, match=r"\(39, 2048\); 40 rows are needed"):
            MosaiksConfig(folder=tmp_path, task="elevation").read()
        with pytest.raises(BadInputError, match="cannot be read"):
            MosaiksConfig(folder=tmp_path, task="population").read()

    def test_real_tables_have_neither_split_nor_features(self, shared):
        data = MosaiksConfig(
            folder=shared / "data" / "tables" / "mosaiks",
            task="forest_cover",
            table="forest_cover.csv",
            features=None,
        ).read()
        assert [len(part) for part in data.splits.values()] == [1200, 400, 400]
        assert float(max(part.labels.max() for part in data.splits.values())) == pytest.approx(
            4.615, abs=0.001
        )


def test_birds_keep_every_valid_image_but_train_on_placed_ones(tmp_path):
    layouts.birds(tmp_path, "nabirds")
    data = BirdsConfig(folder=tmp_path, set="nabirds").read()
    assert data.left_out == {
        "invalid images": 3,
        "training images without place or photographer": 3,
    }
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [8, 11, 11]
    assert data.splits["train"].ids[0] == "train/4.jpg"
    assert data.splits["train"].placed.all()
    test = data.splits["test"]
    assert test.placed.tolist() == [False, False] + [True] * 9
    assert test.labels.tolist() == [number % 3 for number in range(1, 12)]
    # Row r belongs to the r-th valid image.
    assert test.image_probabilities.toarray()[:2].tolist() == [[0.75, 0, 0], [0, 0.75, 0]]
    assert data.splits["validation"].image_probabilities is None
    assert data.classes[1] == "Bird, 1 (Adult male)"
    part = test.take([2, 0])
    assert part.image_probabilities.toarray().tolist() == [[0, 0, 0.75], [0.75, 0, 0]]
    with pytest.raises(BadInputError, match="no usable image in train with orig_meta"):
        BirdsConfig(folder=tmp_path, set="nabirds", meta="orig_meta").read()
    with pytest.raises(BadInputError, match=r"birdsnap_with_loc_2019.json cannot be read"):
        BirdsConfig(folder=tmp_path, set="birdsnap").read()
    layouts.write_probabilities(tmp_path / "features_inception" / "nabirds_test_preds_sparse.npz", 12, 3)
    with pytest.raises(BadInputError, match="12 rows of 3 classes; 11 images of 3"):
        BirdsConfig(folder=tmp_path, set="nabirds").read()
    (tmp_path / "features_inception" / "nabirds_test_preds_sparse.npz").write_bytes(b"no npz")
    with pytest.raises(BadInputError, match="holds no sparse array"):
        BirdsConfig(folder=tmp_path, set="nabirds").read()
    (tmp_path / "features_inception" / "nabirds_test_preds_sparse.npz").unlink()
    with pytest.raises(BadInputError, match="are missing"):
        BirdsConfig(folder=tmp_path, set="nabirds").read()
    assert BirdsConfig(folder=tmp_path, set="nabirds", probabilities=None).read()


@pytest.mark.parametrize("named", [True, False])
def test_inaturalist_joins_images_labels_and_places_by_id(tmp_path, named):
    layouts.inaturalist(tmp_path, 2018, named=named)
    data = INaturalistConfig(folder=tmp_path, year=2018, validation=0.1).read()
    assert data.left_out == {"training images without place or photographer": 3}
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [51, 6, 8]
    assert data.classes == (("Genus species0" if named else "0"), *data.classes[1:])
    test = data.splits["test"]
    assert test.ids.tolist() == [str(5000 + number) for number in range(8)]
    assert test.labels.tolist() == [0, 1, 2, 3] * 2
    assert test.placed.tolist() == [False, False] + [True] * 6
    np.testing.assert_array_equal(test.lonlat[4], [5004 % 90 + 0.5, -33.25])
    np.testing.assert_array_equal(test.image_probabilities.toarray().argmax(axis=1), test.labels)
    train = data.splits["train"]
    assert train.labels.tolist() == [int(one) % 4 for one in train.ids]
    for name in ("val2018.json", "val2018_locations.json"):
        (tmp_path / name).write_text('[{"id": 3}]', encoding="utf-8")
        with pytest.raises(BadInputError, match="not as described"):
            INaturalistConfig(folder=tmp_path, year=2018).read()
