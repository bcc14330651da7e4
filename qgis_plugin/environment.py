"""Where gair_core's interpreter is and how it is started: rules for Windows, macOS and Linux.

The plugin never imports gair_core. It starts another interpreter, which has its own numpy, GDAL, PROJ and
torch, and keeps QGIS's variables away from it. Everything here is a function of its arguments (a platform is
a value of `sys.platform`), so that the rules of all platforms are tested on any of them; nothing imports Qt
or QGIS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Callable, NamedTuple

PROTOCOL = 1

# The variable that names the interpreter before everything else.
VARIABLE = "GAIR_PYTHON"
# The file in the environment's folder that says which environment is whole; written last.
STAMP = "environment.json"

Greeting = dict[str, Any]

ADVICE = (
    "Run the algorithm 'Create the GAIR environment' (gair:createenvironment), or set the environment "
    "variable GAIR_PYTHON to the Python of an environment that has gair_core."
)
REPAIR = (
    "Run the algorithm 'Create the GAIR environment' (gair:createenvironment) again: it repairs and updates."
)

UPDATE = (
    "Run the algorithm 'Create the GAIR environment' (gair:createenvironment): it updates gair_core. Where "
    "GAIR_PYTHON or the setting gair/python names the interpreter, update gair_core there."
)

_DROPPED_PREFIXES = ("PYTHON", "PROJ_", "GDAL_", "QT_", "DYLD_", "QGIS_", "O4W_QT_")
_DROPPED = {"VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "LD_LIBRARY_PATH", "LD_PRELOAD"}
# Folders of Linux distributions hold everything, not QGIS alone.
_SHARED_PREFIXES = {"/", "/usr", "/usr/local"}


class Interpreter(NamedTuple):
    """An interpreter and what named it.

    Attributes:
        path: Path of the program.
        origin: For people: the variable, the setting or the created environment.
    """

    path: str
    origin: str


class GreetingError(ValueError):
    """A worker that this plugin cannot work with.

    Args:
        message: What was found and what was wanted.
        hint: The way out.
        is_version: Whether it is a gair_core, but another one than this plugin needs.
    """

    def __init__(self, message: str, hint: str, *, is_version: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.is_version = is_version


def choose_interpreter(setting: str, environ: Mapping[str, str], created: str | None) -> Interpreter | None:
    """Return the interpreter to start: `GAIR_PYTHON`, else the setting, else the created environment's.

    What a person named is taken as it is: a wrong path is an error to be shown, not a reason to run something
    else.

    Args:
        setting: Value of the setting ``gair/python``; may be empty.
        environ: Environment variables.
        created: Interpreter of the environment that the plugin created, or None.
    """
    candidates = (
        (environ.get(VARIABLE, ""), f"the environment variable {VARIABLE}"),
        (setting, "the setting gair/python"),
        (created or "", "the environment that the plugin created"),
    )
    for path, origin in candidates:
        if path.strip():
            return Interpreter(path.strip(), origin)
    return None


def pure_path(platform: str, path: str) -> PurePath:
    """Return a path of a platform, on any platform."""
    return PureWindowsPath(path) if platform == "win32" else PurePosixPath(path)


def interpreter_in(folder: str, platform: str) -> str:
    """Return the interpreter's path inside a virtual environment."""
    inside = ("Scripts", "python.exe") if platform == "win32" else ("bin", "python")
    return str(pure_path(platform, folder).joinpath(*inside))


def data_folder(platform: str, environ: Mapping[str, str], home: str) -> str:
    """Return a user's folder of environments and models, which is gair_core's too; not the plugin's own.

    Args:
        platform: A value of `sys.platform`.
        environ: Environment variables.
        home: The user's home folder.
    """
    base = pure_path(platform, home)
    if platform == "win32":
        return str(
            pure_path(platform, environ.get("LOCALAPPDATA") or str(base / "AppData" / "Local")) / "gair"
        )
    if platform == "darwin":
        return str(base / "Library" / "Application Support" / "gair")
    data = environ.get("XDG_DATA_HOME", "")
    # The specification of these folders says that a relative value is to be ignored.
    if not data.startswith("/"):
        data = str(base / ".local" / "share")
    return str(pure_path(platform, data) / "gair")


def read_stamp(folder: str) -> dict[str, Any] | None:
    """Return what the stamp says of the whole environment in a folder; None where there is none.

    Returns:
        At least ``folder`` (the environment's), a string.
    """
    try:
        stamp = json.loads((Path(folder) / STAMP).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stamp, dict) or not isinstance(stamp.get("folder"), str):
        return None
    return stamp


def created_interpreter(folder: str, platform: str) -> str | None:
    """Return the interpreter of the whole environment in `data_folder`; None where there is none."""
    stamp = read_stamp(folder)
    if stamp is None:
        return None
    return interpreter_in(str(Path(folder) / stamp["folder"]), platform)


def worker_environment(environ: Mapping[str, str], platform: str, qgis_prefix: str) -> dict[str, str]:
    """Return variables for another Python's process: without QGIS's, Qt's, GDAL's, PROJ's and Python's.

    Args:
        environ: QGIS's variables.
        platform: A value of `sys.platform`.
        qgis_prefix: What `QgsApplication.prefixPath()` returns; may be empty.
    """
    roots = _qgis_roots(environ, platform, qgis_prefix)
    separator = ";" if platform == "win32" else ":"
    kept = {}
    for name, value in environ.items():
        # Names are the same in any case on Windows.
        known = name.upper() if platform == "win32" else name
        if known in _DROPPED or known.startswith(_DROPPED_PREFIXES):
            continue
        if known == "PATH":
            parts = [
                part for part in value.split(separator) if part and not _is_inside(part, roots, platform)
            ]
            kept[name] = separator.join(parts)
        else:
            kept[name] = value
    return kept


def _qgis_roots(environ: Mapping[str, str], platform: str, prefix: str) -> list[PurePath]:
    """Folders of which everything belongs to QGIS; OSGEO4W_ROOT may be the same one with a short 8.3 name."""
    roots = []
    if prefix:
        root = pure_path(platform, prefix)
        if platform == "win32" and root.parent.name.lower() == "apps":
            root = root.parent.parent
        if platform == "darwin":
            root = next((part for part in (root, *root.parents) if part.suffix == ".app"), root)
        roots.append(root)
    if platform == "win32":
        roots += [
            pure_path(platform, value) for name, value in environ.items() if name.upper() == "OSGEO4W_ROOT"
        ]
    return [root for root in roots if str(root) not in _SHARED_PREFIXES]


def _is_inside(folder: str, roots: Sequence[PurePath], platform: str) -> bool:
    path = pure_path(platform, folder.strip('"'))
    return any(root == path or root in path.parents for root in roots)


def worker_command(python: str) -> tuple[str, ...]:
    """Return the command that starts the worker."""
    return (python, "-I", "-X", "utf8", "-u", "-m", "gair_core.worker")


def core_folder(plugin_folder: str) -> Path:
    """Return the folder with gair_core's source that the plugin carries."""
    return Path(plugin_folder) / "core"


def carried_version(plugin_folder: str) -> str:
    """Return the version of the gair_core that the plugin carries.

    Raises:
        GreetingError: The plugin is not installed whole.
    """
    path = core_folder(plugin_folder) / "gair_core" / "version.py"
    try:
        found = re.search(r'__version__ = "([^"]+)"', path.read_text("utf-8"))
    except OSError:
        found = None
    if found is None:
        raise GreetingError(f"the plugin is incomplete: it has no {path}", "Install the plugin again.")
    return found.group(1)


def version_numbers(version: str) -> tuple[int, int]:
    """Return major and minor of a version such as ``0.1.0`` or ``1.2.0.dev3``; (-1, -1) where it has none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found.group(1)), int(found.group(2))) if found else (-1, -1)


def is_compatible(found: str, wanted: str) -> bool:
    """Whether a gair_core can serve a plugin that was made for another version.

    Before 1.0 every minor version may change requests; later ones only add to them.
    """
    have, want = version_numbers(found), version_numbers(wanted)
    if want[0] <= 0:
        return have == want and want != (-1, -1)
    return have[0] == want[0] and have[1] >= want[1]


def parse_greeting(line: bytes, wanted: str) -> Greeting:
    """Check a worker's first line.

    Args:
        line: The line.
        wanted: Version of gair_core that the plugin was made for.

    Returns:
        ``ready``, ``gair_core``, ``protocol``, ``torch`` and ``devices``.

    Raises:
        GreetingError: It is no greeting, or one of another version or protocol.
    """
    try:
        greeting = json.loads(line)
    except (ValueError, RecursionError):
        greeting = None
    if not isinstance(greeting, dict) or not (greeting.get("ready") is True or "error" in greeting):
        shown = line[:200].decode("utf-8", "replace").strip()
        raise GreetingError(f"the interpreter does not run gair_core's worker: it said {shown!r}", ADVICE)
    if isinstance(greeting.get("error"), dict):
        raise GreetingError(f"gair_core cannot start: {greeting['error'].get('message')}", REPAIR)
    version, protocol = str(greeting.get("gair_core")), greeting.get("protocol")
    problem = ""
    if protocol != PROTOCOL:
        problem = f"gair_core {version} speaks protocol {protocol!r}, this plugin speaks {PROTOCOL}"
    elif not is_compatible(version, wanted):
        problem = f"the environment has gair_core {version}, this plugin needs {wanted}"
    if problem:
        raise GreetingError(problem, UPDATE, is_version=True)
    return greeting


def base_python_candidates(
    choice: str, platform: str, base_prefix: str, which: Callable[[str], str | None]
) -> list[str]:
    """Return the Pythons from which an environment may be built, the preferred one first.

    Args:
        choice: The user's choice; it alone counts unless it is empty.
        platform: A value of `sys.platform`.
        base_prefix: `sys.base_prefix` of QGIS's Python.
        which: Finds a program on the (cleaned) PATH.
    """
    if choice.strip():
        return [choice.strip()]
    # The versions whose wheels all dependencies have come before an unknown, maybe too new `python3`.
    names = ["python3.12", "python3.11", "python3.13", "python3.10", "python3", "python"]
    if platform == "win32":
        # python3.exe of Windows is often no Python but an invitation to its store; the probe finds out.
        names = ["python", "python3"]
    found = [path for path in map(which, names) if path]
    found += qgis_pythons(platform, base_prefix)
    return list(dict.fromkeys(found))


def qgis_pythons(platform: str, base_prefix: str) -> list[str]:
    """Return where QGIS's own Python may lie; `sys.executable` is QGIS itself on Windows and macOS."""
    base = pure_path(platform, base_prefix)
    if platform == "win32":
        return [str(base / "python.exe"), str(base / "python3.exe")]
    paths = [base / "bin" / "python3"]
    if platform == "darwin":
        bundle = next((part for part in (base, *base.parents) if part.suffix == ".app"), None)
        if bundle is not None:
            paths = [
                bundle / "Contents" / "MacOS" / "bin" / "python3",
                bundle / "Contents" / "MacOS" / "python3",
                *paths,
            ]
    return [str(path) for path in paths]
