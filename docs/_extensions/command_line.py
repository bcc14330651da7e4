"""The directive ``gair-help``: what `gair --help` and `gair TASK --help` print, by the program itself."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from gair_core.cli import main
from gair_core.task import TASK_MODULES

_WIDTH = "96"


def help_of(*words: str) -> str:
    """Return what ``gair`` prints for some words, in a terminal of 96 columns.

    Raises:
        RuntimeError: The command failed.
    """
    printed = io.StringIO()
    with _columns(_WIDTH), contextlib.redirect_stdout(printed):
        code = main(words)
    if code != 0:
        raise RuntimeError(f"gair {' '.join(words)} ended with {code}")
    return printed.getvalue()


@contextlib.contextmanager
def _columns(width: str) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = width
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


class CommandLineHelp(SphinxDirective):
    """A section for every task."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        # A second build would show what the program said in the first.
        self.env.note_reread()
        texts = {"gair": help_of("--help")}
        texts |= {f"gair {name}": help_of(name, "--help") for name in TASK_MODULES}
        return [self._section(title, text) for title, text in texts.items()]

    def _section(self, title: str, text: str) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(title)], names=[title])
        block = nodes.literal_block(text, text, language="text")
        section += [nodes.title(title, title), block]
        self.state.document.note_explicit_target(section)
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("gair-help", CommandLineHelp)
    return {"parallel_read_safe": True}
