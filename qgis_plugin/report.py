"""Reports of algorithms: HTML pages, which QGIS shows in its results viewer."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsProcessingException

from .translation import tr

_STYLE = "body{font-family:sans-serif} th{text-align:left;vertical-align:top} td{vertical-align:top}"


def page(title: str, body: str) -> str:
    """Return a whole page.

    Args:
        title: Its title, escaped.
        body: What is in it, HTML.
    """
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def write_page(path: str, text: str) -> None:
    """Write a page, with the folder that it goes into.

    Raises:
        QgsProcessingException: The place cannot be written to.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise QgsProcessingException(
            tr("The report cannot be written to {path}: {error}").format(path=path, error=error.strerror)
        ) from None
