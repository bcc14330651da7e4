from datetime import date

import numpy as np
import pytest

from gair_core.sentinel2 import bands
from gair_core.world import spectra
from gair_core.world.regions import REGIONS
from gair_core.world.seasons import CROPS, crop_stage, palette, season, sun

BY_NAME = {region.name: region for region in REGIONS}


def test_bands_are_the_models():
    assert spectra.BANDS == bands.BANDS


def test_regions_are_complete():
    for region in REGIONS:
        assert set(region.crops) <= set(CROPS)
        assert set(region.roofs + region.flat_roofs) <= set(spectra.CODE)
        assert -180 < region.longitude < 180
        assert -75 < region.latitude < 75
    assert len(BY_NAME) == len(REGIONS) >= 20


@pytest.mark.parametrize("name", spectra.MATERIALS)
def test_spectra_are_physical(name):
    values = spectra.reflectance(name)
    assert (values > 0).all()
    assert (values < 1).all()


def test_spectra_have_the_shapes_that_make_indices_work():
    def band(material, name):
        return float(spectra.reflectance(material)[spectra.BANDS.index(name)])

    def index(material, first, second):
        one, other = band(material, first), band(material, second)
        return (one - other) / (one + other)

    for plant in ("grass", "broadleaf", "conifer"):
        assert index(plant, "B8", "B4") > 0.75
        assert band(plant, "B5") < band(plant, "B6") / 2
    assert index("water", "B3", "B8") > 0.4
    assert index("snow", "B3", "B11") > 0.7
    assert -0.1 < index("asphalt", "B8", "B4") < 0.2
    assert band("tiles", "B4") > 2 * band("tiles", "B2")
    assert band("blue sheet", "B2") > 1.5 * band("blue sheet", "B4")


def test_crop_goes_from_soil_to_canopy_to_straw():
    wheat = CROPS["wheat"]
    leaf_area = [crop_stage(wheat, day)[0] for day in (300, 20, 100, 140)]
    assert leaf_area == sorted(leaf_area)
    assert crop_stage(wheat, 140)[0] > 5
    assert crop_stage(wheat, 203)[1] > 0.9
    leaves, _, stubble, _, height = crop_stage(wheat, 215)
    assert leaves == 0
    assert stubble > 0.8
    assert height < 0.2
    assert crop_stage(CROPS["rapeseed"], 135)[3] > 0.5


def test_year_of_a_cold_and_of_a_hot_place():
    nordic, tropical = BY_NAME["Scandinavia"], BY_NAME["Congo Basin"]
    winter, summer = (season(nordic, 61.0, date(2023, month, 20)) for month in (1, 7))
    assert winter.snow > 0.5
    assert winter.leaves == 0
    assert summer.snow == 0
    assert summer.leaves == 1
    assert season(nordic, 61.0, date(2023, 9, 25)).autumn > 0.3
    for month in range(1, 13):
        there = season(tropical, 1.0, date(2023, month, 15))
        assert there.leaves == 1
        assert there.snow == 0


def test_seasons_are_the_other_way_round_in_the_south():
    pampas = BY_NAME["Pampas"]
    assert season(pampas, -34, date(2023, 1, 15)).temperature > 20
    assert season(pampas, -34, date(2023, 7, 15)).temperature < 12


@pytest.mark.parametrize(
    ("latitude", "when", "hour", "azimuth", "elevation"),
    [
        (0, date(2023, 3, 21), 12, None, 89.5),
        (50, date(2023, 6, 21), 12, 180, 63.4),
        (50, date(2023, 12, 21), 12, 180, 16.6),
        (-35, date(2023, 12, 21), 12, 0, 78.4),
        (50, date(2023, 3, 21), 6, 90, 0),
    ],
)
def test_sun_stands_where_astronomy_says(latitude, when, hour, azimuth, elevation):
    found_azimuth, found_elevation = sun(latitude, when, hour)
    assert found_elevation == pytest.approx(elevation, abs=1.2)
    if azimuth is not None:
        assert (found_azimuth - azimuth + 180) % 360 - 180 == pytest.approx(0, abs=1.5)


def test_palette_follows_the_season():
    region = BY_NAME["Central Europe"]
    summer, winter = (palette(region, 49.6, 5, date(2023, month, 15)) for month in (6, 1))
    tree = spectra.CODE["broadleaf"]

    def greenness(table):
        red, infrared = table[:, 2], table[:, 6]
        return (infrared - red) / (infrared + red)

    assert greenness(summer.reflectance)[tree] > 0.8
    assert greenness(winter.reflectance)[tree] < 0.5
    assert winter.gaps[tree] > summer.gaps[tree] + 0.5
    assert np.isfinite(summer.colour).all()
    fields = greenness(summer.reflectance)[spectra.FIRST_CROP :]
    assert fields.max() - fields.min() > 0.3
