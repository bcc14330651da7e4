"""The day when a product was taken."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from gair_core.sentinel2.dates import parse_date, product_date


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("ssl4eo_0000200_L2A_20200604", (2020, 6, 4)),
        ("S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543", (2020, 2, 23)),
        ("GS2B_20240824T162829_039005_N05.11", (2024, 8, 24)),
        ("2018-04-29", (2018, 4, 29)),
        ("scene 2018_04_29 clipped", (2018, 4, 29)),
        ("2018_3A_Theia_Bouconne", None),
        ("composite_20200101_20201231", None),
        ("twice_20200101_20200101", (2020, 1, 1)),
        ("20200230", None),
        ("id_1202006041", None),
        ("", None),
    ],
)
def test_days_in_texts(text, day):
    assert parse_date(text) == (None if day is None else dt.date(*day))


def test_metadata_come_before_names(tmp_path):
    item = tmp_path / "item_20190101.json"
    item.write_text(json.dumps({"properties": {"datetime": "2021-07-08T10:11:12Z"}}))
    assert product_date(item) == dt.date(2021, 7, 8)
    item.write_text(json.dumps({"properties": {"datetime": None, "start_datetime": "2021-07-09T00:00:00Z"}}))
    assert product_date(item) == dt.date(2021, 7, 9)
    item.write_text("{")
    assert product_date(item) == dt.date(2019, 1, 1)
    assert product_date(tmp_path / "20190203" / "B02.tif") == dt.date(2019, 2, 3)
    assert product_date(tmp_path / "S2A_MSIL2A_20200101T100000_N0_R0_T0_20210101T000000.SAFE") == dt.date(
        2020, 1, 1
    )
    assert product_date("/vsicurl/https://example.org/S2_20220304.tif") == dt.date(2022, 3, 4)


def test_real_products(shared):
    data = shared / "data"
    known = {
        "gair_pairs/queries/detroit_rs.tif": dt.date(2024, 8, 24),
        "gair_pairs/queries/sacramento_rs.tif": dt.date(2021, 6, 23),
        "laos_scene/majortom_199U_1099R_20200223_12b_10m.tif": dt.date(2020, 2, 23),
        "toulouse_series/2018_3A_Theia_Bouconne.tif": None,
    }
    for name, day in known.items():
        assert product_date(data / name) == day
