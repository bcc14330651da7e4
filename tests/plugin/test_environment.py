"""Tests of qgis_plugin/environment.py: the rules of all platforms, on any of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gair import environment

from .conftest import ROOT

GREETING = {"ready": True, "gair_core": "0.1.0", "protocol": 1, "torch": "2.9.0", "devices": ["cpu"]}


def greet(**changes: object) -> bytes:
    return json.dumps({**GREETING, **changes}).encode()


# Which interpreter.


def test_the_variable_goes_before_the_setting_and_the_created_environment() -> None:
    environ = {"GAIR_PYTHON": "/a"}
    assert environment.choose_interpreter("/b", environ, "/c").path == "/a"
    assert environment.choose_interpreter("/b", {}, "/c").path == "/b"
    assert environment.choose_interpreter("", {"GAIR_PYTHON": " "}, "/c").path == "/c"
    assert environment.choose_interpreter("", {}, None) is None


def test_the_origin_of_an_interpreter_is_told() -> None:
    found = environment.choose_interpreter("/b", {}, None)
    assert found == environment.Interpreter("/b", "the setting gair/python")


@pytest.mark.parametrize(
    ("platform", "folder", "wanted"),
    [
        ("win32", r"C:\Users\Åse\gair\py-1", r"C:\Users\Åse\gair\py-1\Scripts\python.exe"),
        ("darwin", "/Users/å/py 1", "/Users/å/py 1/bin/python"),
        ("linux", "/home/å/py", "/home/å/py/bin/python"),
    ],
)
def test_the_interpreter_inside_an_environment(platform: str, folder: str, wanted: str) -> None:
    assert environment.interpreter_in(folder, platform) == wanted


@pytest.mark.parametrize(
    ("platform", "environ", "home", "wanted"),
    [
        ("win32", {"LOCALAPPDATA": r"D:\Local"}, r"C:\Users\a", r"D:\Local\gair"),
        ("win32", {}, r"C:\Users\a", r"C:\Users\a\AppData\Local\gair"),
        ("darwin", {"XDG_DATA_HOME": "/x"}, "/Users/a", "/Users/a/Library/Application Support/gair"),
        ("linux", {}, "/home/a", "/home/a/.local/share/gair"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/home/a", "/data/gair"),
        ("linux", {"XDG_DATA_HOME": "relative"}, "/home/a", "/home/a/.local/share/gair"),
    ],
)
def test_the_folder_of_environments(platform: str, environ: dict, home: str, wanted: str) -> None:
    assert environment.data_folder(platform, environ, home) == wanted


def test_only_a_stamped_environment_counts(tmp_path: Path) -> None:
    (tmp_path / "py-1" / "bin").mkdir(parents=True)
    assert environment.created_interpreter(str(tmp_path), "linux") is None
    stamp = tmp_path / environment.STAMP
    for damaged in ("", "[]", '{"folder": 1}', "{"):
        stamp.write_text(damaged)
        assert environment.created_interpreter(str(tmp_path), "linux") is None
    stamp.write_text('{"folder": "py-1"}')
    assert environment.created_interpreter(str(tmp_path), "linux") == str(
        tmp_path / "py-1" / "bin" / "python"
    )


# The process's variables.


def test_variables_of_qgis_and_python_are_dropped_on_linux() -> None:
    environ = {
        "PATH": "/usr/bin:/opt/qgis/bin:/opt/qgis-tools/bin",
        "HOME": "/home/a",
        "PYTHONPATH": "/usr/share/qgis/python",
        "PYTHONHOME": "/x",
        "VIRTUAL_ENV": "/x",
        "LD_LIBRARY_PATH": "/opt/qgis/lib",
        "LD_PRELOAD": "x.so",
        "PROJ_LIB": "/x",
        "PROJ_DATA": "/x",
        "GDAL_DATA": "/x",
        "GDAL_DRIVER_PATH": "/x",
        "QT_PLUGIN_PATH": "/x",
        "QGIS_PREFIX_PATH": "/x",
        "GAIR_MODELS": "/models",
        "https_proxy": "http://proxy",
        "PIP_INDEX_URL": "https://mirror",
    }
    kept = environment.worker_environment(environ, "linux", "/opt/qgis")
    assert kept == {
        "PATH": "/usr/bin:/opt/qgis-tools/bin",
        "HOME": "/home/a",
        "GAIR_MODELS": "/models",
        "https_proxy": "http://proxy",
        "PIP_INDEX_URL": "https://mirror",
    }


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local", "/", ""])
def test_the_folders_of_a_distribution_stay_on_the_path(prefix: str) -> None:
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    assert environment.worker_environment(environ, "linux", prefix) == environ


def test_windows_loses_its_qgis_folders_by_long_and_by_short_name() -> None:
    environ = {
        "Path": r"C:\PROGRA~1\QGIS33~1.0\bin;C:\Program Files\QGIS 3.34.0\apps\Python39;C:\Windows\system32;"
        r'"c:\program files\qgis 3.34.0\apps\qt5\bin";D:\Python312',
        "OSGEO4W_ROOT": r"C:\PROGRA~1\QGIS33~1.0",
        "PythonHome": r"C:\x",
        "o4w_qt_prefix": r"C:\x",
        "SystemRoot": r"C:\Windows",
    }
    kept = environment.worker_environment(environ, "win32", "C:/Program Files/QGIS 3.34.0/apps/qgis")
    assert kept == {
        "Path": r"C:\Windows\system32;D:\Python312",
        "OSGEO4W_ROOT": r"C:\PROGRA~1\QGIS33~1.0",
        "SystemRoot": r"C:\Windows",
    }


def test_macos_loses_the_folders_inside_the_bundle() -> None:
    environ = {
        "PATH": "/Applications/QGIS.app/Contents/MacOS/bin:/opt/homebrew/bin:/usr/bin",
        "DYLD_LIBRARY_PATH": "/x",
        "__PYVENV_LAUNCHER__": "/x",
    }
    kept = environment.worker_environment(environ, "darwin", "/Applications/QGIS.app/Contents/MacOS")
    assert kept == {"PATH": "/opt/homebrew/bin:/usr/bin"}


def test_the_worker_is_started_isolated() -> None:
    assert environment.worker_command("/p") == ("/p", "-I", "-X", "utf8", "-u", "-m", "gair_core.worker")


# The greeting.


def test_a_good_greeting_is_returned() -> None:
    assert environment.parse_greeting(greet(), "0.1.0") == GREETING
    assert environment.parse_greeting(greet(gair_core="0.1.7"), "0.1.0")["gair_core"] == "0.1.7"


@pytest.mark.parametrize(
    ("line", "words", "is_version"),
    [
        (greet(gair_core="0.2.0"), "gair_core 0.2.0, this plugin needs 0.1.0", True),
        (greet(gair_core=None), "gair_core None", True),
        (greet(protocol=2), "protocol 2, this plugin speaks 1", True),
        (greet(protocol=None), "protocol None", True),
        (b"Python 3.11.2 (main)", r"it said 'Python 3.11.2 \(main\)'", False),
        (b"[1]", r"it said '\[1\]'", False),
        (b'{"ready": false}', "it said", False),
        (b"\xff\xfe", "it said", False),
        (
            b'{"id": null, "error": {"kind": "internal", "message": "no torch"}}',
            "cannot start: no torch",
            False,
        ),
    ],
)
def test_another_greeting_is_refused_with_a_way_out(line: bytes, words: str, is_version: bool) -> None:
    with pytest.raises(environment.GreetingError, match=words) as caught:
        environment.parse_greeting(line, "0.1.0")
    assert "gair:createenvironment" in caught.value.hint
    assert caught.value.is_version == is_version


@pytest.mark.parametrize(
    ("found", "wanted", "compatible"),
    [
        ("0.1.0", "0.1.9", True),
        ("0.2.0", "0.1.0", False),
        ("1.3.0", "1.2.5", True),
        ("1.1.0", "1.2.0", False),
        ("2.0.0", "1.2.0", False),
        ("0.1.0.dev3", "0.1.0", True),
        ("", "0.1.0", False),
        ("nonsense", "nonsense", False),
    ],
)
def test_which_versions_go_together(found: str, wanted: str, compatible: bool) -> None:
    assert environment.is_compatible(found, wanted) == compatible


def test_the_carried_version_is_that_of_the_source(tmp_path: Path) -> None:
    plugin = Path(environment.__file__).parent
    source = (ROOT / "gair_core" / "version.py").read_text()
    assert f'"{environment.carried_version(str(plugin))}"' in source
    with pytest.raises(environment.GreetingError, match="incomplete"):
        environment.carried_version(str(tmp_path))


# Base Pythons.


def test_the_users_choice_alone_counts() -> None:
    found = environment.base_python_candidates(
        " /my/python ", "linux", "/usr", lambda name: f"/usr/bin/{name}"
    )
    assert found == ["/my/python"]


def test_candidates_on_linux_come_from_the_path_then_from_qgis() -> None:
    known = {"python3": "/usr/bin/python3", "python3.11": "/usr/bin/python3.11"}
    found = environment.base_python_candidates("", "linux", "/usr", known.get)
    assert found == ["/usr/bin/python3.11", "/usr/bin/python3"]


def test_candidates_on_windows_end_with_qgis_own() -> None:
    base = r"C:\Program Files\QGIS 3.34\apps\Python312"
    found = environment.base_python_candidates("", "win32", base, {"python": r"D:\Python\python.exe"}.get)
    assert found == [r"D:\Python\python.exe", rf"{base}\python.exe", rf"{base}\python3.exe"]


def test_candidates_on_macos_include_the_bundles() -> None:
    base = "/Applications/QGIS.app/Contents/Frameworks/Python.framework/Versions/3.12"
    found = environment.qgis_pythons("darwin", base)
    assert found == [
        "/Applications/QGIS.app/Contents/MacOS/bin/python3",
        "/Applications/QGIS.app/Contents/MacOS/python3",
        f"{base}/bin/python3",
    ]
