"""How `make docs` turns the guide into HTML.

The pages are plain Markdown that a code host shows as well. What only the built guide has comes from here:
its table of contents, which is that of README.md, and what is made from the code (`_extensions`).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

from gair_core.version import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "GAIR"
author = "The GAIR developers"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "command_line",
    "request_fields",
]
root_doc = "README"
# A link to a heading of another page is the heading's text, as on a code host.
myst_heading_anchors = 3
# Docstrings write `name` for what the reference may describe; what it does not is shown as code.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# How pydantic is told to check values.
autodoc_default_options = {"exclude-members": "model_config"}
# Signatures name other classes of ours by their last name.
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Properties are documented themselves.
napoleon_use_ivar = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["guide.css"]
html_title = f"GAIR {release}"
html_show_copyright = False
html_show_sphinx = False
# The prompt and what a program says are not to be copied.
copybutton_exclude = ".linenos, .gp, .go"

_LINK = re.compile(r"\]\(([a-z_]+)\.md\)")
_PAGE_OF_README = "project"


def add_table_of_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make of every section of README.md with links to pages a part of the table of contents."""
    if docname != root_doc:
        return
    parts = re.split(r"^## ", source[0], flags=re.MULTILINE)
    for part in parts[1:]:
        caption = part.splitlines()[0]
        pages = list(dict.fromkeys(_LINK.findall(part)))
        if pages:
            # The page of README.md is headed by the project's name alone, which says little in a list.
            listed = "\n".join(f"The project <{page}>" if page == _PAGE_OF_README else page for page in pages)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def point_to_page_of_readme(app: Sphinx, docname: str, source: list[str]) -> None:
    """Let links to the project's README, outside of the guide, lead to the page that includes it."""
    source[0] = source[0].replace("](../README.md", f"]({_PAGE_OF_README}.md")


def write_index(app: Sphinx, exception: Exception | None) -> None:
    """Let the folder's index be the first page."""
    if exception is None:
        to_first_page = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        page = f"<!doctype html>{to_first_page}<title>GAIR</title>\n"
        (Path(app.outdir) / "index.html").write_text(page, "utf-8")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", point_to_page_of_readme)
    app.connect("source-read", add_table_of_contents)
    app.connect("build-finished", write_index)
