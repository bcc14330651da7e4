"""Shows requests as their callers see them: keyword arguments, described as on the command line."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx

from gair_core.task import Request


def add_fields(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Describe the fields of a request below its docstring."""
    if not (isinstance(thing, type) and issubclass(thing, Request)):
        return
    described = {field: info for field, info in thing.model_fields.items() if info.description}
    if described:
        lines += ["", "Keyword Args:"]
        lines += [
            f"    {field}: {_plain(info.description or '')}; {_default(info)}."
            for field, info in described.items()
        ]
        lines += [""]


def hide_signature(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str, returns: str
) -> tuple[str, None] | None:
    """Leave out what pydantic says of types, which is longer than what it describes."""
    return ("", None) if isinstance(thing, type) and issubclass(thing, BaseModel) else None


def _plain(text: str) -> str:
    """Text in which no character means anything to reStructuredText."""
    return text.replace("\\", "\\\\").replace("*", r"\*").replace("_ ", r"\_ ")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    # A value that is made anew would change the page with every build.
    return "made anew" if info.default_factory else f"default ``{info.default!r}``"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect it, before napoleon reads the docstrings."""
    app.connect("autodoc-process-docstring", add_fields, priority=400)
    app.connect("autodoc-process-signature", hide_signature)
    return {"parallel_read_safe": True}
