"""Collect the plugin's texts for translators: ``extract_texts.py de`` writes or renews i18n/gair_de.ts.

Every literal of ``tr(...)`` and ``translatable(...)`` in ``qgis_plugin`` becomes a message of the context
``Gair``; translations that are already in the file are kept. Qt Linguist edits it, and
``lrelease qgis_plugin/i18n/gair_de.ts`` makes the ``.qm`` that the plugin loads. Qt's own extractor cannot be
used: it takes the context of a text from the class around it.
"""

from __future__ import annotations

import argparse
import ast
from html import escape
from pathlib import Path
from string import Formatter

PLUGIN = Path(__file__).resolve().parents[1] / "qgis_plugin"
CONTEXT = "Gair"
MARKERS = ("tr", "translatable")


def texts_of(source: str) -> list[tuple[int, str]]:
    """The marked texts of a module: line and text, in their order.

    Raises:
        ValueError: A marked text is no literal, so that nobody could translate it.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKERS:
            text = node.args[0]
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found.append((text.lineno, text.value))
            elif isinstance(text, ast.JoinedStr):
                raise ValueError(f"line {node.lineno}: a formatted text cannot be translated, use .format()")
    return sorted(found)


def known_translations(file: Path) -> dict[str, str]:
    """What a ``.ts`` file already translates: source to translation."""
    if not file.exists():
        return {}
    # Here, so that the rest works without it.
    from defusedxml import ElementTree

    messages = ElementTree.parse(file).getroot().iter("message")
    pairs = {message.findtext("source", ""): message.findtext("translation", "") for message in messages}
    return {source: translation for source, translation in pairs.items() if translation}


def check_names(known: dict[str, str]) -> None:
    """Refuse translations that lost or changed a name in braces: QGIS would crash on filling it in.

    Raises:
        ValueError: Names the texts.
    """
    wrong = [text for text, translated in known.items() if _names(text) != _names(translated)]
    if wrong:
        raise ValueError(f"these translations lost or changed a name in braces: {wrong}")


def _names(text: str) -> set[str]:
    return {name.partition("!")[0] for _, name, _, _ in Formatter().parse(text) if name}


def document(places: dict[str, list[tuple[str, int]]], known: dict[str, str], language: str) -> str:
    """The ``.ts`` file.

    Args:
        places: File and line of every use of each text.
        known: Translations to keep.
        language: Code of the language.
    """
    messages = "".join(
        "    <message>\n"
        + "".join(f'        <location filename="../{file}" line="{line}"/>\n' for file, line in uses)
        + f"        <source>{escape(text, quote=False)}</source>\n"
        + (
            f"        <translation>{escape(known[text], quote=False)}</translation>\n"
            if text in known
            else '        <translation type="unfinished"></translation>\n'
        )
        + "    </message>\n"
        for text, uses in places.items()
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE TS>\n'
        f'<TS version="2.1" language="{language}" sourcelanguage="en">\n'
        f"<context>\n    <name>{CONTEXT}</name>\n{messages}</context>\n</TS>\n"
    )


def collect(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """Every text of a folder's modules, with its places."""
    places: dict[str, list[tuple[str, int]]] = {}
    for module in sorted(folder.rglob("*.py")):
        for line, text in texts_of(module.read_text(encoding="utf-8")):
            places.setdefault(text, []).append((module.relative_to(folder).as_posix(), line))
    return places


def main() -> None:
    """Write one language's file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("language", help="code of the language, such as de")
    language = parser.parse_args().language
    file = PLUGIN / "i18n" / f"gair_{language}.ts"
    places, known = collect(PLUGIN), known_translations(file)
    check_names(known)
    file.parent.mkdir(exist_ok=True)
    file.write_text(document(places, known, language), encoding="utf-8", newline="\n")
    print(f"{file}: {len(places)} texts, {len(known.keys() & places.keys())} translated")


if __name__ == "__main__":
    main()
