"""No task overwrites a file that its scene is made of, however the scene refers to it."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
import rasterio.shutil
from PIL import Image

from gair_core.errors import BadInputError
from gair_core.inference.change import ChangeRequest, change
from gair_core.inference.embed import EmbedRequest, embed
from gair_core.inference.locate import LocateRequest, locate
from gair_core.inference.sample import SampleRequest, sample
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.inference.similarity import SimilarityRequest, similarity
from gair_core.sentinel2.bands import BANDS
from gair_core.sentinel2.scene import Scene
from tests.core.sentinel2.makers import SURFACE, stored_bands, values, write, write_band_files, write_stac


def stac(folder):
    item = write_stac(folder / "item", stored_bands(SURFACE))
    return {"scene": item}, folder / "item/data/B04.tif"


def vrt(folder):
    stack = write(folder / "stack.tif", values(10), BANDS)
    rasterio.shutil.copy(stack, folder / "view.vrt", driver="VRT")
    return {"scene": folder / "view.vrt"}, stack


def band_file(folder):
    bands = write_band_files(folder / "bands", stored_bands(SURFACE))
    return {"scene": bands}, bands / "B8A.tif"


def unused_band(folder):
    """B1 is not read, but it is part of what the user gave."""
    bands = write_band_files(folder / "bands", stored_bands(SURFACE))
    return {"scene": bands}, bands / "B01.tif"


def mask(folder):
    scene = write(folder / "scene.tif", values(10), BANDS)
    file = write(folder / "mask.tif", np.zeros((1, 48, 60), np.uint8))
    return {"scene": scene, "mask": file}, file


def scl(folder):
    scene = write(folder / "scene.tif", values(10), BANDS)
    file = write(folder / "scl.tif", np.full((1, 48, 60), 4, np.uint8))
    return {"scene": scene, "scl": file}, file


KINDS = (stac, vrt, band_file, unused_band, mask, scl)


def photo_of(folder, scene):
    """A photo in the middle of a scene, and the layer that names it."""
    with Scene.open(scene) as opened:
        lonlat = opened.grid.footprint.lonlat([[0.5, 0.5]])
    Image.fromarray(np.full((40, 60, 3), 120, np.uint8)).save(folder / "photo.jpg")
    frame = geopandas.GeoDataFrame(
        {"photo": ["photo.jpg"]}, geometry=geopandas.points_from_xy(*lonlat.T), crs="EPSG:4326"
    )
    frame.to_file(folder / "photos.gpkg", driver="GPKG")
    return folder / "photos.gpkg"


@pytest.fixture
def refused(tmp_path):
    """Runs a task that must refuse its destination as an input and leave every file as it was."""

    def run(task, request):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(BadInputError, match=r"is the input|lies in the input folder") as caught:
            task(request)
        assert "Inputs are never overwritten" in caught.value.hint
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert after == before

    return run


def as_text(options):
    return {name: str(value) for name, value in options.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_embed(kind, tmp_path, refused):
    options, victim = kind(tmp_path)
    refused(embed, EmbedRequest(**as_text(options), output=str(victim)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["output", "confidence"])
def test_segment(kind, which, tmp_path, refused):
    options, victim = kind(tmp_path)
    names = {"output": tmp_path / "new.tif"} | {which: victim}
    refused(segment, SegmentRequest(**as_text(options | names)))


@pytest.mark.parametrize("kind", KINDS)
def test_similarity(kind, tmp_path, refused):
    options, victim = kind(tmp_path)
    photos = photo_of(tmp_path, options["scene"])
    request = SimilarityRequest(**as_text(options), photos=str(photos), output=str(victim))
    refused(similarity, request)


@pytest.mark.parametrize("kind", [stac, vrt, mask])
@pytest.mark.parametrize("date", ["first", "second"])
def test_change(kind, date, tmp_path, refused):
    options, victim = kind(tmp_path)
    other = write(tmp_path / "other.tif", values(10, seed=1), BANDS)
    scene = options.pop("scene")
    before, after = (scene, other) if date == "first" else (other, scene)
    if date == "second":
        options = {f"after_{name}": value for name, value in options.items()}
    refused(
        change, ChangeRequest(**as_text(options | {"before": before, "after": after}), output=str(victim))
    )


def test_tables_do_not_replace_what_they_are_made_of(tmp_path, refused):
    """A scene's files have other endings than tables, but the points and photos do not."""
    options, _ = vrt(tmp_path)
    photos = photo_of(tmp_path, options["scene"])
    scene = str(options["scene"])
    refused(sample, SampleRequest(scene=scene, points=str(photos), output=str(photos)))
    refused(locate, LocateRequest(scene=scene, photos=str(photos), output=str(photos)))
    refused(
        similarity,
        SimilarityRequest(
            scene=scene, photos=str(photos), output=str(tmp_path / "new.tif"), photos_output=str(photos)
        ),
    )


def test_a_link_to_a_table_is_the_table(tmp_path, refused):
    options, _ = vrt(tmp_path)
    photos = photo_of(tmp_path, options["scene"])
    (tmp_path / "link.gpkg").symlink_to(photos)
    request = SampleRequest(
        scene=str(options["scene"]), points=str(photos), output=str(tmp_path / "link.gpkg")
    )
    refused(sample, request)


def test_polygons_do_not_replace_a_stack_in_a_geopackage(tmp_path, refused):
    """GDAL reads rasters from GeoPackages, too."""
    scene = tmp_path / "scene.tif"
    write(scene, values(10), BANDS)
    mask_file = write(tmp_path / "mask.gpkg", np.full((1, 48, 60), 0, np.uint8), driver="GPKG")
    request = SegmentRequest(
        scene=str(scene), mask=str(mask_file), output=str(tmp_path / "new.tif"), polygons=str(mask_file)
    )
    refused(segment, request)
