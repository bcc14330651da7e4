"""What the plugin remembers between sessions, in QGIS's own settings."""

from __future__ import annotations

from qgis.core import QgsSettings

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


def last_model(algorithm: str) -> str:
    """Return the model that the user chose last for an algorithm, or an empty text.

    Args:
        algorithm: The algorithm's id without the provider's, such as ``segment``.
    """
    return str(QgsSettings().value(f"{_LAST_MODEL}/{algorithm}", "") or "")


def remember_model(algorithm: str, model: str) -> None:
    """Remember the model that an algorithm used successfully."""
    QgsSettings().setValue(f"{_LAST_MODEL}/{algorithm}", model)
