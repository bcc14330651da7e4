import numpy as np
import pytest

from gair_core.errors import BadInputError
from gair_core.sentinel2.offsets import decide, offset_from_baseline, offset_from_product_name, tagged_offset


def sample(share_below, size=100_000):
    values = np.full(size, 3000.0)
    values[: round(share_below * size)] = 999
    return values


@pytest.mark.parametrize(("share", "offset"), [(0.0, -1000), (0.0009, -1000), (0.001, 0), (0.3, 0)])
def test_the_threshold_is_a_tenth_of_a_percent(share, offset):
    found = decide(sample(share), floating=False, tagged=-1000.0, option="auto", source="scene")
    assert found.offset == offset
    assert not found.warning


@pytest.mark.parametrize(
    ("tagged", "share", "warns"), [(None, 0.0, True), (None, 0.01, False), (0.0, 0.0, False)]
)
def test_only_an_untagged_bright_scene_warns(tagged, share, warns):
    found = decide(sample(share), floating=False, tagged=tagged, option="auto", source="scene")
    assert bool(found.warning) is warns
    assert found.offset == 0


def test_reflectance_is_told_from_dn_by_its_size():
    assert decide(sample(0.1) / 10000, floating=True, tagged=None, option="auto", source="s").scale == 10000
    assert decide(sample(0.1), floating=True, tagged=None, option="auto", source="s").scale == 1
    bright = np.full(1000, 1.8)  # snow and cloud exceed a reflectance of 1
    assert decide(bright, floating=True, tagged=None, option=0, source="s").scale == 10000


@pytest.mark.parametrize("option", [1000, -20000, True, "minus", float("nan")])
def test_impossible_options(option):
    with pytest.raises(BadInputError, match="wanted DN to add"):
        decide(sample(0.1), floating=False, tagged=None, option=option, source="scene")


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("S2B_MSIL2A_20240824T162829_N0511_R083_T16TGN_20240824T204911", -1000),
        ("S2A_MSIL1C_20220706T085611_N0400_R007_T33NZA_20220706T153419", -1000),
        ("S2B_MSIL2A_20210623T184919_N0300_R113_T10SFH_20210623T224134", 0),
        ("S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543", None),
        ("S2A_MSIL2A_20170613T101031_87_48", None),
    ],
)
def test_product_names(text, offset):
    assert offset_from_product_name(f"/somewhere/{text}.SAFE") == offset


def test_baselines_and_tags():
    assert [offset_from_baseline(text) for text in ("03.01", "04.00", "05.11", "", "x")] == [
        0,
        -1000,
        -1000,
        None,
        None,
    ]
    assert (
        tagged_offset({"BOA_ADD_OFFSET_B1": "-1000", "RADIO_ADD_OFFSET_0": "-1000.0", "OTHER": "3"}) == -1000
    )
    assert tagged_offset({}) is None
    with pytest.raises(BadInputError, match="one for all bands"):
        tagged_offset({"BOA_ADD_OFFSET": "many"})
