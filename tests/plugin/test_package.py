"""Tests of the plugin's zip: what the plugin repository checks, and that QGIS loads it."""

from __future__ import annotations

import configparser
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from .conftest import GAIR_PYTHON, ROOT

SUFFIXES = {".csv", ".html", ".json", ".lock", ".md", ".py", ".qm", ".qml", ".safetensors", ".svg", ".toml"}
SUFFIXES |= {".txt", ".typed"}
TOP = {"__init__.py", "metadata.txt", "LICENSE"}
CORE = {"LICENSE", "README.md", "gair_core", "pyproject.toml", "requirements.lock"}
MEGABYTE = 1e6


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, gair_python: Path) -> Path:
    """The zip as `make plugin` builds it."""
    if shutil.which("zip") is None:
        pytest.skip("pb_tool needs the program zip: apt install zip")
    folder = tmp_path_factory.mktemp("package")
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import package;"
        "package.WORK = pathlib.Path(sys.argv[2]) / 'work';"
        "print(package.package(pathlib.Path(sys.argv[2]) / 'gair.zip'))"
    )
    command = [gair_python, "-c", script, ROOT / "tools", folder]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder / "gair.zip"


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin's folder, unpacked."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(archive) as plugin:
        plugin.extractall(folder)
    return folder / "gair"


@pytest.fixture(scope="module")
def metadata(unpacked: Path) -> configparser.SectionProxy:
    """The general section of metadata.txt, read as QGIS reads it."""
    parser = configparser.ConfigParser()
    parser.read(unpacked / "metadata.txt", encoding="utf-8")
    return parser["general"]


def test_the_zip_holds_nothing_but_sources(archive: Path) -> None:
    with zipfile.ZipFile(archive) as plugin:
        files = [PurePosixPath(entry.filename) for entry in plugin.infolist() if not entry.is_dir()]
    assert {path.parts[0] for path in files} == {"gair"}
    assert [path for path in files if path.suffix not in SUFFIXES and path.name != "LICENSE"] == []
    unwanted = {"__pycache__", "tests", "build", "benchmarks"}
    assert [
        path for path in files if unwanted & set(path.parts) or path.name.startswith((".", "test_"))
    ] == []


def test_the_zip_is_complete(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir()}
    assert names >= TOP
    assert {path.name for path in (unpacked / "core").iterdir()} == CORE
    for source, below in (("qgis_plugin", "."), ("gair_core", "core/gair_core")):
        wanted = {path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*.py")}
        found = {path.relative_to(unpacked / below) for path in (unpacked / below).rglob("*.py")}
        assert not wanted - found


def test_the_zip_is_small(archive: Path) -> None:
    assert archive.stat().st_size < 25 * MEGABYTE
    with zipfile.ZipFile(archive) as plugin:
        assert sum(entry.file_size for entry in plugin.infolist()) < 50 * MEGABYTE


def test_the_sources_are_text(unpacked: Path) -> None:
    for path in unpacked.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            path.read_text(encoding="utf-8")


def test_metadata_has_what_the_repository_wants(metadata: configparser.SectionProxy, unpacked: Path) -> None:
    for field in ("name", "description", "about", "author", "email", "tracker", "repository", "changelog"):
        assert metadata[field].strip()
    assert metadata["qgisMinimumVersion"] == "3.22"
    assert metadata["qgisMaximumVersion"] == "4.99"
    assert metadata["hasProcessingProvider"] == "yes"
    for dependency in ("gair_core", "PyTorch", "rasterio", "timm"):
        assert dependency in metadata["about"]
    assert metadata["category"] in ("Raster", "Vector", "Database", "Mesh", "Web")
    for address in ("tracker", "repository", "homepage"):
        assert metadata[address].startswith("https://")
    assert (unpacked / metadata["icon"]).is_file()


def test_plugin_and_core_have_one_version(metadata: configparser.SectionProxy) -> None:
    source = configparser.ConfigParser()
    source.read(ROOT / "metadata.txt", encoding="utf-8")
    version = runpy.run_path(str(ROOT / "gair_core" / "version.py"))["__version__"]
    assert metadata["version"] == source["general"]["version"] == version


def test_bandit_finds_nothing(unpacked: Path, gair_python: Path) -> None:
    # Its own process and no configuration: the plugin repository runs it with the default settings.
    command = [gair_python, "-m", "bandit", "--quiet", "--recursive", unpacked]
    run = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_detect_secrets_finds_nothing(unpacked: Path, gair_python: Path) -> None:
    files = [str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()]
    command = [gair_python.with_name("detect-secrets-hook"), *files]
    run = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_no_finding_is_silenced(unpacked: Path) -> None:
    # Spelled apart, for this file would be found otherwise.
    marks = ("# no" + "sec", "pragma: allow" + "list")
    silenced = [
        path for path in unpacked.rglob("*.py") if any(mark in path.read_text("utf-8") for mark in marks)
    ]
    assert silenced == []


def test_it_works_in_a_clean_profile(unpacked: Path, tmp_path: Path) -> None:
    plugins = tmp_path / "profiles" / "default" / "python" / "plugins"
    shutil.copytree(unpacked, plugins / "gair")
    environment = {
        **os.environ,
        "QGIS_CUSTOM_CONFIG_PATH": str(tmp_path),
        "QT_QPA_PLATFORM": "offscreen",
        "GAIR_PYTHON": str(GAIR_PYTHON),
    }
    program = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
    enabled = subprocess.run(
        [program, "plugins", "enable", "gair"], env=environment, capture_output=True, text=True, check=False
    )
    assert enabled.returncode == 0, enabled.stdout + enabled.stderr
    listed = subprocess.run([program, "list"], env=environment, capture_output=True, text=True, check=False)
    assert listed.returncode == 0
    for algorithm in ("segment", "embed", "photosimilarity", "createenvironment", "checkenvironment"):
        assert f"gair:{algorithm}" in listed.stdout, listed.stderr


def test_the_core_installs_from_the_zip(unpacked: Path, tmp_path: Path, gair_python: Path) -> None:
    # Without its dependencies and without an index: that the source is complete and builds.
    command = [gair_python, "-m", "uv", "build", "--quiet", "--wheel", "--no-build-isolation"]
    if subprocess.run([gair_python, "-c", "import setuptools"], capture_output=True, check=False).returncode:
        pytest.skip("needs setuptools in .venv")
    run = subprocess.run(
        [*command, "--out-dir", tmp_path, unpacked / "core"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("gair_core-*.whl")
    with zipfile.ZipFile(wheel) as built:
        names = built.namelist()
    assert "gair_core/worker.py" in names
    assert "gair_core/py.typed" in names


def test_the_plugin_parses_on_qgis_own_oldest_python() -> None:
    # QGIS 3.22 brings 3.9 on Windows and macOS; ruff knows that version's grammar.
    command = [
        GAIR_PYTHON.with_name("ruff"),
        "check",
        "--isolated",
        "--target-version",
        "py39",
        "--select",
        "E9",
    ]
    run = subprocess.run([*command, ROOT / "qgis_plugin"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert sys.version_info >= (3, 9)
