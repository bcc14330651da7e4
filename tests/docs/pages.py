"""What the guide asks its readers to type: the commands and snippets of README.md and docs/*.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.name if path.parent == ROOT else f"docs/{path.name}": path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}

# Languages of blocks that are typed, and of blocks that are read: files, answers, the generator's directives.
# A block that does not say what it is, is typed.
SHELL = {"sh", ""}
WINDOWS = {"bat", "powershell"}
READ = {"text", "json", "toml", "ini"}

# An inline piece of code that begins with a program and goes on is a command; `gair embed` alone is a name.
_INLINE = re.compile(r"(?:gair|qgis_process) [\w-]+ .+|(?:make|python|pip|sudo|echo|\.venv/bin/\w+) .+")
# A snippet that begins with a name is saved under it and does nothing by itself.
_FILE = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True)
class Step:
    """One thing to type.

    Attributes:
        page: Its page as in `PAGES`.
        line: Its line there, from 1.
        kind: ``command`` of a shell, ``python`` snippet, ``file`` that is saved, or ``windows`` command.
        text: The command on one line, or the snippet.
    """

    page: str
    line: int
    kind: str
    text: str

    @property
    def file(self) -> str:
        """The name under which a snippet is saved, which its first line tells."""
        found = _FILE.match(self.text)
        return found.group(1) if found else ""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def steps(page: str) -> list[Step]:
    """Everything to type on a page.

    Raises:
        ValueError: A block has no language, or one that is neither typed nor known to be read.
    """
    tokens = MarkdownIt("commonmark").enable("table").parse(PAGES[page].read_text("utf-8"))
    return [step for token in tokens for step in _steps_of(page, token)]


def _steps_of(page: str, token: Token) -> Iterator[Step]:
    line = (token.map or [0])[0] + 1
    if token.type == "inline":
        for child in token.children or []:
            if child.type == "code_inline" and _INLINE.fullmatch(child.content):
                yield Step(page, line, "command", child.content)
    elif token.type == "fence":
        language = token.info.strip()
        if language in SHELL:
            yield from (
                Step(page, line + 1 + number, "command", text) for number, text in commands(token.content)
            )
        elif language in WINDOWS:
            yield from (
                Step(page, line + 1 + number, "windows", text) for number, text in commands(token.content)
            )
        elif language == "python":
            yield Step(page, line, "file" if _FILE.match(token.content) else "python", token.content)
        elif language not in READ and not language.startswith("{"):
            raise ValueError(
                f"{page}:{line}: a block of code has the language {language!r}, which tells nobody "
                f"whether it is to be typed"
            )
    elif token.type == "code_block":
        raise ValueError(f"{page}:{line}: an indented block of code has no language; fence it")


def commands(block: str) -> Iterator[tuple[int, str]]:
    """The commands of a shell block with their line in it: comments left out, continued lines joined."""
    begun, first = "", 0
    for number, line in enumerate(block.splitlines()):
        if not begun:
            first = number
        begun += line.strip()
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        text = re.sub(r"(^|\s)#.*$", "", begun).strip()
        begun = ""
        if text:
            yield first, text
