"""Fixtures of the plugin's tests: the staged plugin in a headless QGIS, with gair_core's real worker."""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / "build" / "stage"
GAIR_PYTHON = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
HAS_QGIS = importlib.util.find_spec("qgis") is not None

if not HAS_QGIS:
    # `pytest` at the top of the checkout runs in gair_core's own environment, which has no QGIS.
    collect_ignore_glob = ["*"]


def load_tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _isolate_settings() -> tempfile.TemporaryDirectory:
    """Settings and user data of this run only: runs share neither with each other nor with the developer."""
    from qgis.PyQt.QtCore import QSettings

    folder = tempfile.TemporaryDirectory(prefix="gair-qgis-")
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, folder.name)
    os.environ["QGIS_CUSTOM_CONFIG_PATH"] = folder.name
    os.environ["XDG_DATA_HOME"] = str(Path(folder.name) / "data")
    return folder


_sessions: list[pytest.Session] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keep the session, which will know how the tests went."""
    _sessions.append(session)


def _end_at_once() -> None:
    """End with pytest's exit status: QGIS may crash when it is taken apart around Python's layers."""
    if not _sessions:
        return
    _SETTINGS.cleanup()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(_sessions[0].exitstatus))


if HAS_QGIS:
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    # GDAL would note statistics beside the files that the tests only read.
    os.environ["GDAL_PAM_ENABLED"] = "NO"
    os.environ["GAIR_PYTHON"] = str(GAIR_PYTHON)
    os.environ.pop("GAIR_MODELS", None)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        load_tool("stage").stage(STAGE)
    sys.path.insert(0, str(STAGE))
    _SETTINGS = _isolate_settings()
    # After Qt's own, so that it comes before them; what pytest adds later comes before this.
    atexit.register(_end_at_once)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call() -> None:
    """Keep pytest's note of the current test constant: a changed environment restarts the worker."""
    os.environ["PYTEST_CURRENT_TEST"] = "a test of the plugin"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scenes, photos and parity data that developers keep beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the developers' data folder {folder}, which is not part of the project")
    return folder


@pytest.fixture(scope="session")
def gair_python() -> Path:
    """The interpreter that has gair_core."""
    if not GAIR_PYTHON.exists():
        pytest.skip(f"needs {GAIR_PYTHON}; run make setup")
    return GAIR_PYTHON


@pytest.fixture(autouse=True)
def _nothing_remembered(qgis_app: object) -> None:
    """The model that one test chose must not be the next one's default."""
    from qgis.core import QgsSettings

    QgsSettings().remove("gair/last_model")


@pytest.fixture(scope="session")
def provider(qgis_processing: None) -> Iterator[object]:
    """GAIR's provider, registered in Processing; its worker ends with the session."""
    from gair.provider import GairProvider
    from gair.worker_client import close_shared_client
    from qgis.core import QgsApplication

    registry = QgsApplication.processingRegistry()
    gair = GairProvider()
    registry.addProvider(gair)
    yield gair
    close_shared_client()
    registry.removeProvider(gair)
