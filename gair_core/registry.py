"""Registered models: checkpoints that are found by name, among them the built-in `demo`.

A name is a file's stem. Folders are searched in this order: those of the environment variable ``GAIR_MODELS``
(separated as in PATH), the user's data folder, the package. The first hit wins.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from gair_core.errors import CheckpointError

VARIABLE = "GAIR_MODELS"
#: Name of the model that the package brings.
DEMO = "demo"
#: Name of the head that the package brings: land cover, by `DEMO`.
DEMO_HEAD = "demo-land-cover"
#: Folder of the models that the package brings.
PACKAGED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class RegisteredModel:
    """A model that can be asked for by name.

    Attributes:
        name: The name.
        path: Its file.
    """

    name: str
    path: Path


def model_folders() -> tuple[Path, ...]:
    """Return the folders that are searched, in their order; some may not exist."""
    listed = [Path(text).expanduser() for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    return (*listed, user_folder(), PACKAGED)


def user_folder() -> Path:
    """Return the folder of the user's own models; it may not exist."""
    return platformdirs.user_data_path("gair", appauthor=False) / "models"


def list_models() -> tuple[RegisteredModel, ...]:
    """Return every registered model, by name."""
    found: dict[str, Path] = {}
    for folder in reversed(model_folders()):
        if folder.is_dir():
            found |= {file.stem: file for file in folder.glob("*.safetensors") if file.is_file()}
    return tuple(RegisteredModel(name, found[name]) for name in sorted(found))


def find(path_or_name: str | os.PathLike[str]) -> Path:
    """Find a model's file.

    Args:
        path_or_name: A path, or a registered name. A file that exists under this path wins over a name.

    Returns:
        The file, which may not exist when a path was given.

    Raises:
        CheckpointError: There is neither such a file nor such a name; the known names are listed.
    """
    path = Path(path_or_name).expanduser()
    if path.is_file() or _looks_like_path(path_or_name):
        return path
    models = {model.name: model.path for model in list_models()}
    name = str(path_or_name)
    if name not in models:
        known = ", ".join(models) or "none"
        raise CheckpointError(
            f"There is no file and no registered model {name!r}; registered are: {known}.",
            f"Give a path, or put the file into a folder that {VARIABLE} names.",
        )
    return models[name]


def _looks_like_path(path_or_name: str | os.PathLike[str]) -> bool:
    return not isinstance(path_or_name, str) or Path(path_or_name).name != path_or_name or "." in path_or_name
