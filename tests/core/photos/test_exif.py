from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from gair_core.errors import BadInputError
from gair_core.photos.exif import PhotoTags, read_tags

# File, longitude and latitude as the data's own documentation lists them.
POSITIONS = [
    ("berlin/01.jpg", 13.400294, 52.518917),
    ("berlin/02.jpg", 13.400389, 52.518925),
    ("berlin/03.jpg", 13.400447, 52.519047),
    ("arezzo/DSCN0010.jpg", 11.885127, 43.467448),
    ("arezzo/DSCN0012.jpg", 11.885395, 43.467157),
    ("arezzo/DSCN0021.jpg", 11.884538, 43.467082),
    ("arezzo/DSCN0025.jpg", 11.881635, 43.468365),
    ("arezzo/DSCN0027.jpg", 11.881515, 43.468442),
    ("arezzo/DSCN0029.jpg", 11.880172, 43.468243),
    ("arezzo/DSCN0038.jpg", 11.879213, 43.467255),
    ("arezzo/DSCN0040.jpg", 11.879112, 43.466012),
    ("arezzo/DSCN0042.jpg", 11.881478, 43.464455),
    ("helsinki/HMD_Nokia_8.3_5G.jpg", 24.906772, 60.146706),
]
HERE = {1: "N", 2: (43.0, 28.0, 2.814), 3: "E", 4: (11.0, 53.0, 6.456)}


@pytest.fixture
def write(tmp_path):
    def write_photo(gps=None, details=None, name="photo.jpg", **options) -> PhotoTags:
        exif = Image.Exif()
        exif[0x8825], exif[0x8769] = gps or {}, details or {}
        Image.new("RGB", (8, 4)).save(tmp_path / name, exif=exif.tobytes(), **options)
        return read_tags(tmp_path / name)

    return write_photo


@pytest.mark.parametrize(("name", "lon", "lat"), POSITIONS)
def test_positions_of_real_photos(shared, name, lon, lat):
    tags = read_tags(shared / "data/photos_exif" / name)
    assert (tags.longitude, tags.latitude) == pytest.approx((lon, lat), abs=5.1e-7)


def test_traits_of_real_photos(shared):
    folder = shared / "data/photos_exif"
    helsinki = read_tags(folder / "helsinki/HMD_Nokia_8.3_5G.jpg")
    assert (helsinki.direction, helsinki.direction_reference) == (56.0, "magnetic")
    assert helsinki.taken == datetime(2022, 8, 14, 14, 12, 31, tzinfo=timezone(timedelta(hours=3)))
    arezzo = read_tags(folder / "arezzo/DSCN0010.jpg")
    assert (arezzo.direction, arezzo.direction_reference, arezzo.altitude) == (None, None, None)
    assert arezzo.taken == datetime.fromisoformat("2008-10-22 16:28:39")
    berlin = [read_tags(folder / f"berlin/0{number}.jpg") for number in (1, 2, 3)]
    assert [tags.altitude for tags in berlin] == [27, 30, 39]
    assert [tags.taken for tags in berlin] == [None] * 3


def test_hemispheres(write):
    tags = write({1: "S", 2: (33.0, 30.0, 0.0), 3: "W", 4: (70.0, 45.0, 36.0)})
    assert (tags.longitude, tags.latitude) == pytest.approx((-70.76, -33.5), abs=1e-12)


def test_seconds_may_be_missing_and_minutes_decimal(write):
    tags = write({**HERE, 2: (43.0, 28.0469), 4: (11.8851267,)})
    assert (tags.longitude, tags.latitude) == pytest.approx((11.8851267, 43 + 28.0469 / 60), abs=1e-7)


@pytest.mark.parametrize(
    "change",
    [
        {2: (IFDRational(0, 0), IFDRational(0, 0), IFDRational(0, 0))},
        {4: (11.0, 53.0, IFDRational(0, 0))},
        {4: (11.0, IFDRational(5, 0), 6.0)},
        {1: ""},
        {3: "\0"},
        {3: "N"},
        {2: (91.0, 0.0, 0.0)},
        {4: (180.0, 0.0, 1.0)},
        {2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)},
    ],
)
def test_broken_positions_are_none(write, change):
    tags = write({**HERE, **change})
    assert tags.longitude is None
    assert tags.latitude is None


def test_one_half_of_a_position_is_none(write):
    assert write({1: "N", 2: (43.0, 0.0, 0.0)}).latitude is None


@pytest.mark.parametrize(("reference", "sign"), [(b"\0", 1), (b"\1", -1), (b"\2", 1), (b"\3", -1)])
def test_altitude_below_sea_level(write, reference, sign):
    assert write({**HERE, 5: reference, 6: IFDRational(4305, 10)}).altitude == sign * 430.5
    assert write({**HERE, 5: reference, 6: IFDRational(0, 0)}).altitude is None


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({16: "T", 17: 270.5}, (270.5, "true")),
        ({16: "M", 17: 0.0}, (0.0, "magnetic")),
        ({16: "", 17: 12.0}, (12.0, None)),
        ({17: 360.0}, (0.0, None)),
        ({16: "T", 17: 361.0}, (None, None)),
        ({16: "T", 17: IFDRational(0, 0)}, (None, None)),
    ],
)
def test_direction(write, gps, expected):
    tags = write({**HERE, **gps})
    assert (tags.direction, tags.direction_reference) == expected


def test_dates(write):
    assert write(details={36867: "2024:02:29 23:59:58"}).taken == datetime.fromisoformat(
        "2024-02-29T23:59:58"
    )
    assert write(details={36867: "2024:02:29 23:59:58", 36881: "-05:30"}).taken == datetime.fromisoformat(
        "2024-02-29T23:59:58-05:30"
    )
    assert write(details={36867: "0000:00:00 00:00:00"}).taken is None
    assert write(details={36867: "    :  :     :  :  "}).taken is None
    digitized = write(details={36867: "0000:00:00 00:00:00", 36868: "2001:01:01 01:01:01"})
    assert digitized.taken == datetime.fromisoformat("2001-01-01T01:01:01")


GPANO = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {}</rdf:RDF>
</x:xmpmeta>"""
ATTRIBUTES = 'GPano:ProjectionType="equirectangular" GPano:PoseHeadingDegrees="350.25"/>'
ELEMENTS = (
    "><GPano:ProjectionType>equirectangular</GPano:ProjectionType>"
    "<GPano:PoseHeadingDegrees>350.25</GPano:PoseHeadingDegrees></rdf:Description>"
)


@pytest.mark.parametrize("fields", [ATTRIBUTES, ELEMENTS])
def test_panorama_tags(write, fields):
    tags = write(HERE, xmp=GPANO.format(fields).encode())
    assert tags.panorama
    assert (tags.direction, tags.direction_reference) == (350.25, "true")
    assert write({**HERE, 16: "M", 17: 10.0}, xmp=GPANO.format(fields).encode()).direction == 10.0


def test_damaged_xmp_is_no_error(write):
    tags = write(HERE, xmp=b"<x:xmpmeta not xml")
    assert not tags.panorama
    assert tags.latitude == pytest.approx(43.46744833)


@pytest.mark.parametrize("name", ["photo.png", "photo.tif", "photo.webp"])
def test_tags_of_other_formats(write, name):
    assert write(HERE, name=name).latitude == pytest.approx(43.46744833)


def test_photos_without_tags_and_foreign_files(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.jpg")
    assert read_tags(tmp_path / "plain.jpg") == PhotoTags()
    Image.new("RGB", (4, 4)).save(tmp_path / "broken.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert read_tags(tmp_path / "broken.jpg") == PhotoTags()
    (tmp_path / "foreign.jpg").write_bytes(b"GIF89a")
    with pytest.raises(BadInputError, match=r"foreign\.jpg"):
        read_tags(tmp_path / "foreign.jpg")
