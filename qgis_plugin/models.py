"""Registered models, found as gair_core finds them but without importing it."""

from __future__ import annotations

import os
from pathlib import Path

from . import settings

VARIABLE = "GAIR_MODELS"
#: The model that is always there.
DEMO = "demo"

_SUFFIX = ".safetensors"


def user_folder() -> Path:
    """Return the folder in which a user's own models are registered."""
    return Path(settings.data_folder()) / "models"


def model_folders() -> tuple[Path, ...]:
    """Return the folders of models in the order in which gair_core searches them; some may not exist."""
    listed = [Path(text).expanduser() for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    carried = Path(__file__).parent / "core" / "gair_core" / "models"
    return (*listed, user_folder(), carried)


def registered_models(folders: tuple[Path, ...] | None = None) -> tuple[str, ...]:
    """Return the names of all registered models, `DEMO` first.

    Args:
        folders: Where to look; default: `model_folders`.
    """
    found = set()
    for folder in model_folders() if folders is None else folders:
        if folder.is_dir():
            found |= {file.stem for file in folder.glob(f"*{_SUFFIX}") if file.is_file()}
    return (DEMO, *sorted(found - {DEMO}))


def default_model(algorithm: str) -> str:
    """Return the model that an algorithm used last if it still exists, else `DEMO`."""
    last = settings.last_model(algorithm)
    return last if last in registered_models() or (last and Path(last).is_file()) else DEMO


def resolve_model(value: str) -> str:
    """Return a model as the worker, which has another current folder, finds it.

    Args:
        value: A path or a registered name.
    """
    path = Path(value).expanduser()
    # As in gair_core a file under this path wins over a name.
    return str(path.resolve()) if path.is_file() else value
