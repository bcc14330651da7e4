"""Texts in the user's language.

`tr` marks a text and translates it at once; `translatable` only marks it, for texts that are constants of a
class and are translated when they are shown. ``tools/extract_texts.py`` collects both into a ``.ts`` file
under the context ``Gair``; a file ``i18n/gair_<language>.qm`` made of it is loaded when the plugin starts.
"""

from __future__ import annotations

from qgis.PyQt.QtCore import QCoreApplication

CONTEXT = "Gair"


def tr(text: str) -> str:
    """Return ``text`` in the language of QGIS."""
    return QCoreApplication.translate(CONTEXT, text)


def translatable(text: str) -> str:
    """Mark a text that `tr` translates later; returns it as it is."""
    return text
