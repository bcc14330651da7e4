"""What the plugin remembers between sessions, in QGIS's own settings, and what follows for this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qgis.core import QgsSettings

from . import environment

_PYTHON = "gair/python"
_LAST_MODEL = "gair/last_model"


def interpreter() -> str:
    """Return the interpreter that the user chose, or an empty text."""
    return str(QgsSettings().value(_PYTHON, "") or "")


def set_interpreter(path: str) -> None:
    """Remember the user's interpreter; an empty text forgets it."""
    if path:
        QgsSettings().setValue(_PYTHON, path)
    else:
        QgsSettings().remove(_PYTHON)


def data_folder() -> str:
    """Return this user's folder of environments and models."""
    return environment.data_folder(sys.platform, os.environ, str(Path.home()))


def chosen_interpreter() -> environment.Interpreter | None:
    """Return the interpreter that the worker is started with: by the variable, the setting, or as created."""
    created = environment.created_interpreter(data_folder(), sys.platform)
    return environment.choose_interpreter(interpreter(), os.environ, created)


def last_model(algorithm: str) -> str:
    """Return the model that the user chose last for an algorithm, or an empty text.

    Args:
        algorithm: The algorithm's id without the provider's, such as ``segment``.
    """
    return str(QgsSettings().value(f"{_LAST_MODEL}/{algorithm}", "") or "")


def remember_model(algorithm: str, model: str) -> None:
    """Remember the model that an algorithm used successfully."""
    QgsSettings().setValue(f"{_LAST_MODEL}/{algorithm}", model)
