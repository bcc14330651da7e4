"""The task ``models``: which models are registered, and what they are."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gair_core.checkpoint import read_entry
from gair_core.errors import CheckpointError
from gair_core.progress import Progress
from gair_core.registry import list_models, model_folders
from gair_core.task import Request, Result, Task


class ModelsRequest(Request):
    """List the models that can be asked for by name, and the folders that are searched for them."""


class CatalogueEntry(BaseModel):
    """A registered model.

    Attributes:
        name: Its name.
        title: One line for people.
        kind: ``model`` or ``head``; ``damaged`` when the file cannot be read, the title then says why.
        parts: The encoders inside.
        file: Its file.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    kind: str
    parts: tuple[str, ...]
    file: Path


class ModelsResult(Result):
    """The registered models.

    Attributes:
        models: By name.
        folders: Searched in this order; the first hit wins.
    """

    models: tuple[CatalogueEntry, ...]
    folders: tuple[Path, ...]

    def text(self) -> str:
        """Return the list for people."""
        width = max(len(model.name) for model in self.models)
        lines = [f"{m.name:{width}}  {m.title} ({', '.join(m.parts) or m.kind})" for m in self.models]
        return "\n".join([*lines, "searched:", *(f"  {folder}" for folder in self.folders)])


def list_catalogue(request: ModelsRequest, progress: Progress) -> ModelsResult:
    """List the registered models; a damaged file is listed as such and hides no other."""
    del request
    entries = tuple(_entry(model.name, model.path) for model in list_models())
    warnings = tuple(entry.title for entry in entries if entry.kind == "damaged")
    for warning in warnings:
        progress.log("warning", warning)
    progress.report(1.0, "done")
    return ModelsResult(models=entries, folders=model_folders(), warnings=warnings)


def _entry(name: str, path: Path) -> CatalogueEntry:
    try:
        entry = read_entry(path)
    except CheckpointError as error:
        return CatalogueEntry(name=name, title=str(error), kind="damaged", parts=(), file=path)
    title, parts = str(entry.get("title", "untitled")), tuple(entry.get("parts", ()))
    return CatalogueEntry(name=name, title=title, kind=entry["kind"], parts=parts, file=path)


TASK = Task("models", ModelsRequest, list_catalogue)
