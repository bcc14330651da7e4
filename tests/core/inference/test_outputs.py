"""Destinations: refused before any work, replaced by complete files alone, nothing left after a failure."""

from __future__ import annotations

import errno
import os
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import geopandas
import pytest

import gair_core
from gair_core.errors import BadInputError
from gair_core.inference import outputs
from gair_core.inference.outputs import Destination
from gair_core.inference.publish import published_together
from gair_core.inference.sample import SampleRequest, sample
from gair_core.inference.segment import SegmentRequest, segment
from gair_core.inference.similarity import SimilarityRequest, similarity
from tests.core.inference import scenes
from tests.core.inference.test_inputs_are_kept import photo_of

MARK = "7f3a"


def check(*destinations, **options):
    outputs.check_destinations(destinations, token=MARK, **options)


def table(path, needed=0):
    return Destination(path, (".csv", ".gpkg"), needed)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- temporaries --------------------------------------------------------------------------------------------


def test_temporaries_begin_with_output_and_token_and_lie_beside_it(tmp_path):
    output = tmp_path / "a.tif"
    assert outputs.temporary_path(output, MARK) == tmp_path / "a.tif.7f3a.part"
    assert outputs.temporary_path(output, MARK, "strips") == tmp_path / "a.tif.7f3a.strips.part"


@pytest.mark.parametrize("token", ["", "../x", "a b", "a.b", "é", "x" * 65, "a/b", "a\n"])
def test_tokens_that_cannot_be_part_of_a_name(token, tmp_path):
    with pytest.raises(BadInputError, match="cannot be part of a file name"):
        outputs.temporary_path(tmp_path / "a.tif", token)
    with pytest.raises(BadInputError), outputs.live(tmp_path / "a.tif", token):
        pass
    assert not outputs._live


def test_only_the_temporaries_of_one_output_and_token_are_removed(tmp_path):
    output = tmp_path / "a [1].tif"
    mine = [f"a [1].tif.{MARK}.part", f"a [1].tif.{MARK}.part.ovr.tmp", f"a [1].tif.{MARK}.staged.tif"]
    others = ["a [1].tif", "a [1].qml", "a [1].tif.7f3b.part", f"a 1.tif.{MARK}.part", f"b.tif.{MARK}.part"]
    for name in mine + others:
        (tmp_path / name).write_text(name)
    assert [path.name for path in outputs.temporaries(output, MARK)] == sorted(mine)
    outputs.remove_temporaries(output, MARK)
    assert names(tmp_path) == sorted(others)


def test_a_folder_that_is_gone_has_no_temporaries(tmp_path):
    assert outputs.temporaries(tmp_path / "gone/a.tif", MARK) == []
    outputs.remove_temporaries(tmp_path / "gone/a.tif", MARK)


def test_a_process_that_must_stop_removes_what_is_in_the_making(tmp_path):
    first, second = tmp_path / "a.tif", tmp_path / "b.gpkg"
    with outputs.live(first, MARK), outputs.live(second, MARK):
        for output in (first, second):
            outputs.temporary_path(output, MARK).write_text("half")
            output.write_text("old")
        outputs.remove_live_temporaries()
        assert names(tmp_path) == ["a.tif", "b.gpkg"]
    assert not outputs._live


# --- replacing ----------------------------------------------------------------------------------------------


def test_a_file_appears_complete_under_its_name(tmp_path):
    output = tmp_path / "a.csv"
    output.write_text("old")
    with outputs.replacing(output, MARK) as temporary:
        temporary.write_text("new")
        assert output.read_text() == "old"
    assert output.read_text() == "new"
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError, BadInputError])
def test_after_any_failure_the_old_file_is_there_and_nothing_else(error, tmp_path):
    output = tmp_path / "a.csv"
    output.write_text("old")

    def fail():
        with outputs.replacing(output, MARK) as temporary:
            temporary.write_text("half")
            raise error("stop")

    with pytest.raises(BadInputError if error is OSError else error, match="stop"):
        fail()
    assert output.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


def test_a_destination_that_another_program_holds_open(tmp_path, monkeypatch):
    """As on Windows, where a file that QGIS shows cannot be replaced."""
    output = tmp_path / "a.csv"
    output.write_text("old")

    def held(self, target):
        raise PermissionError(errno.EACCES, "The process cannot access the file", str(target))

    monkeypatch.setattr(Path, "replace", held)
    with (
        pytest.raises(BadInputError, match=r"cannot replace .*a\.csv: The process cannot") as caught,
        outputs.replacing(output, MARK) as temporary,
    ):
        temporary.write_text("new")
    assert "remove the layer from QGIS" in caught.value.hint
    monkeypatch.undo()
    assert output.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


def test_texts_are_utf8_with_unix_line_ends(tmp_path):
    outputs.write_text(tmp_path / "Straße.qml", "<é>\n<東>\n", MARK)
    assert (tmp_path / "Straße.qml").read_bytes() == "<é>\n<東>\n".encode()
    assert names(tmp_path) == ["Straße.qml"]


# --- several at once ----------------------------------------------------------------------------------------


def test_outputs_appear_together_with_their_styles(tmp_path):
    first, second = tmp_path / "a.tif", tmp_path / "b.gpkg"
    first.write_text("old")
    (tmp_path / "a.tif.aux.xml").write_text("old statistics")
    with published_together(MARK, first, second) as publication:
        publication.stage(first).write_text("new a")
        publication.stage(first).with_suffix(".qml").write_text("style")
        publication.stage(second).write_text("new b")
        assert first.read_text() == "old"
        assert not second.exists()
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == {
        "a.tif": "new a",
        "a.qml": "style",
        "b.gpkg": "new b",
    }


@pytest.mark.parametrize("failing", ["a.tif", "a.qml", "b.gpkg"])
def test_when_one_cannot_be_replaced_all_old_files_are_back(failing, tmp_path, monkeypatch):
    first, second = tmp_path / "a.tif", tmp_path / "b.gpkg"
    old = {"a.tif": "old a", "a.qml": "old style", "b.gpkg": "old b"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    replace = Path.replace

    def held(self, target):
        if Path(target).name == failing and "staged" in self.name:
            raise PermissionError(errno.EACCES, "held open")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held)
    with pytest.raises(BadInputError, match="held open"), published_together(MARK, first, second) as made:
        made.stage(first).write_text("new a")
        made.stage(first).with_suffix(".qml").write_text("new style")
        made.stage(second).write_text("new b")
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == old


def test_errors_name_the_outputs_as_they_were_asked_for(tmp_path):
    output = tmp_path / "a.tif"
    with (
        pytest.raises(BadInputError, match=r"writing \S*/a\.tif failed"),
        published_together(MARK, output) as made,
    ):
        staged = made.stage(output)
        raise outputs.writing_failed(staged, OSError("no"))
    assert names(tmp_path) == []


# --- checks before any work ---------------------------------------------------------------------------------


def test_a_good_destination_is_left_untouched(tmp_path):
    output = tmp_path / "a.csv"
    check(table(output), inputs=[tmp_path / "absent.tif", "/vsicurl/https://example.org/x.tif"])
    assert names(tmp_path) == []
    output.write_text("old")
    os.utime(output, (1, 1))
    check(table(output))
    assert (output.read_text(), output.stat().st_mtime) == ("old", 1)


def test_endings_folders_and_their_way_out(tmp_path):
    with pytest.raises(BadInputError, match=r"ends in '\.tif'; it must end in \.csv or \.gpkg") as caught:
        check(table(tmp_path / "a.tif"))
    assert caught.value.hint == "Name it a.csv."
    with pytest.raises(BadInputError, match="ends in 'nothing'"):
        check(table(tmp_path / "a"))
    with pytest.raises(BadInputError, match=r"folder .*gone of the output a\.csv does not exist"):
        check(table(tmp_path / "gone/a.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadInputError, match="is an existing folder"):
        check(table(tmp_path / "folder.csv"))
    check(table(tmp_path / "CAPITALS.CSV"))
    assert names(tmp_path) == ["folder.csv"]


@pytest.mark.parametrize("spelling", ["same", "relative", "symbolic link", "hard link", "input is a link"])
def test_an_output_is_never_an_input_however_it_is_spelt(spelling, tmp_path, monkeypatch):
    source, output = tmp_path / "in.csv", tmp_path / "in.csv"
    source.write_text("input")
    given = str(source)
    if spelling == "relative":
        monkeypatch.chdir(tmp_path)
        given = "../" + tmp_path.name + "/in.csv"
    elif spelling == "symbolic link":
        output = tmp_path / "out.csv"
        output.symlink_to(source)
    elif spelling == "hard link":
        output = tmp_path / "out.csv"
        os.link(source, output)
    elif spelling == "input is a link":
        (tmp_path / "link.csv").symlink_to(source)
        given = str(tmp_path / "link.csv")
    before = names(tmp_path)
    with pytest.raises(BadInputError, match="is the input") as caught:
        check(table(output), inputs=[given])
    assert "Inputs are never overwritten" in caught.value.hint
    assert source.read_text() == "input"
    assert names(tmp_path) == before


def test_archives_and_folders_that_are_read(tmp_path):
    archive = tmp_path / "scene.csv"  # a zip under any name
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("inside.tif", "x")
    for given in (f"/vsizip/{archive}/inside.tif", f"/vsizip/{{{archive}}}/inside.tif", f"/vsizip/{archive}"):
        with pytest.raises(BadInputError, match="is the input"):
            check(table(archive), inputs=[given])
    with pytest.raises(BadInputError, match="lies in the input folder"):
        check(table(archive), inputs=[tmp_path])
    check(table(tmp_path / "new.csv"), inputs=[tmp_path])


def test_a_folder_that_nobody_can_write_to(tmp_path, monkeypatch):
    """Also for root, for whom permission bits mean nothing: the system refuses the probe."""
    touch = Path.touch

    def refuse(self, *arguments, **options):
        if self.parent == tmp_path:
            raise PermissionError(errno.EROFS, "Read-only file system")
        return touch(self, *arguments, **options)

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(BadInputError, match=r"cannot write into the folder .*: Read-only file system"):
        check(table(tmp_path / "a.csv"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_permission_bits(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(BadInputError, match="cannot write into the folder"):
        check(table(folder / "a.csv"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc, where nobody can write")
def test_a_real_folder_that_cannot_be_written():
    with pytest.raises(BadInputError, match="cannot write into the folder /proc"):
        check(table(Path("/proc/a.csv")))


# --- disks --------------------------------------------------------------------------------------------------


def test_one_output_that_is_too_large_says_what_is_wanted_and_found(tmp_path):
    with pytest.raises(BadInputError) as caught:
        check(table(tmp_path / "a.csv", 3_000_000), free=lambda _: 1_500_000)
    assert "a.csv needs up to 3.0 MB while it is written, but only 1.5 MB are free" in caught.value.message
    assert "choose another disk" in caught.value.hint
    check(table(tmp_path / "a.csv", 1_500_000), free=lambda _: 1_500_000)


def test_outputs_that_fit_one_by_one_but_not_together(tmp_path):
    pair = [table(tmp_path / "a.csv", 1_000_000), table(tmp_path / "b.gpkg", 700_000)]
    for one in pair:
        check(one, free=lambda _: 1_500_000)
    with pytest.raises(BadInputError) as caught:
        check(*pair, free=lambda _: 1_500_000)
    assert "a.csv (1.0 MB), b.gpkg (700.0 kB) need up to 1.7 MB together" in caught.value.message
    assert "only 1.5 MB are free" in caught.value.message
    check(*pair, free=lambda _: 1_700_000)


SECOND_DISK = Path("/dev") / "shm"


@pytest.mark.skipif(not SECOND_DISK.is_dir(), reason="needs a second file system")
def test_each_disk_must_hold_only_its_own(tmp_path):
    other = SECOND_DISK
    if other.stat().st_dev == tmp_path.stat().st_dev or not os.access(other, os.W_OK):
        pytest.skip("needs a second file system to write to")
    pair = [table(tmp_path / "a.csv", 1_000_000), table(other / f"{tmp_path.name}.csv", 700_000)]
    check(*pair, free=lambda _: 1_000_000)
    with pytest.raises(BadInputError, match=f"only 0 bytes are free in {other}"):
        check(*pair, free=lambda folder: 0 if folder == other else 1_000_000)
    assert not (other / f"{tmp_path.name}.csv").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_writing(code, tmp_path):
    with (
        pytest.raises(BadInputError, match=r"writing .*a\.csv failed: the disk is full .*nothing was kept"),
        outputs.replacing(tmp_path / "a.csv", MARK) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(code, "full")
    assert names(tmp_path) == []


def test_a_vague_error_on_a_disk_without_space_is_a_full_disk(tmp_path, monkeypatch):
    vague = RuntimeError("TIFFAppendToStrip: Write error")
    assert "TIFFAppendToStrip" in outputs.writing_failed(tmp_path / "a.tif", vague).message
    monkeypatch.setattr(outputs, "free_bytes", lambda _: 1000)
    error = outputs.writing_failed(tmp_path / "a.tif", vague)
    assert "the disk is full (1.0 kB free)" in error.message
    assert "Free some space" in error.hint


def test_readable_sizes():
    found = [outputs.readable_bytes(n) for n in (0, 999, 1000, 1_500_000, 2_000_000_000, 3_200_000_000_000)]
    assert found == ["0 bytes", "999 bytes", "1.0 kB", "1.5 MB", "2.0 GB", "3.2 TB"]


# --- whole tasks on a disk with little space ----------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """Sets how many bytes every disk seems to have."""

    def set_free(count):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: usage(0, 0, count))

    return set_free


def test_segment_sums_its_three_outputs(tmp_path, disk):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(100, 100))
    before = names(tmp_path)
    all_three = {
        name: str(tmp_path / f"out.{end}") for name, end in [("output", "tif"), ("polygons", "gpkg")]
    }
    all_three["confidence"] = str(tmp_path / "confidence.tif")
    # 10,000 pixels of a byte, with temporaries 8/3 times as much, twice; and the polygons.
    disk(2 * 26_666 + 79_999)
    with pytest.raises(BadInputError, match=r"out\.tif .*confidence\.tif .*out\.gpkg .*133\.3 kB together"):
        segment(SegmentRequest(scene=str(scene), **all_three))
    assert names(tmp_path) == before
    disk(2 * 26_666 + 80_000)
    estimate = segment(SegmentRequest(scene=str(scene), **all_three, dry_run=True))
    assert estimate.bytes == 20_000


@pytest.mark.parametrize("mode", ["mean", "photo"])
def test_similarity_counts_the_photos_too(mode, tmp_path, disk):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(100, 100))
    photos = photo_of(tmp_path, scene)
    before = names(tmp_path)
    output = tmp_path / ("out.tif" if mode == "mean" else "out")
    request = {"scene": str(scene), "photos": str(photos), "output": str(output), "mode": mode}
    raster = int(40_000 * (1 + 5 / 3)) if mode == "mean" else int(40_000 * (4 / 3 + 1 + 5 / 3))
    disk(raster + 1_000_000)
    similarity(SimilarityRequest(**request, scores=False, dry_run=True))
    with pytest.raises(BadInputError, match=r"out.* \(1\d\d\.\d kB\), out_photos\.gpkg|out_photos\.gpkg"):
        similarity(SimilarityRequest(**request))
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("suffix", "value_bytes"), [("parquet", 5), ("csv", 16), ("gpkg", 10), ("geojson", 40)]
)
def test_sample_counts_its_rows_before_it_starts(suffix, value_bytes, tmp_path, disk):
    scene = scenes.write(tmp_path / "scene.tif", scenes.textured(96, 96))
    point = geopandas.read_file(photo_of(tmp_path, scene))
    points = tmp_path / "many.gpkg"
    many = geopandas.GeoDataFrame(geometry=[point.geometry.iloc[0]] * 2000, crs="EPSG:4326")
    many.to_file(points, driver="GPKG")
    before = names(tmp_path)
    options = {"scene": str(scene), "points": str(points), "output": str(tmp_path / f"out.{suffix}")}
    needed = 2000 * gair_core.load("demo").config.embed_dim * value_bytes
    disk(needed)
    with pytest.raises(BadInputError, match=r"needs up to .* while it is written, but only .* are free"):
        sample(SampleRequest(**options))
    assert names(tmp_path) == before
    disk(1 << 40)
    sample(SampleRequest(**options))
    assert (tmp_path / f"out.{suffix}").stat().st_size < needed + (1 << 20)
