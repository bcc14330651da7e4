"""GAIR in QGIS: scenes, street-level photos and places as Processing algorithms."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qgis.gui import QgisInterface

    from .plugin import GairPlugin


def classFactory(iface: QgisInterface | None) -> GairPlugin:
    """Make the plugin, as QGIS asks at start; ``iface`` is None under qgis_process."""
    from .plugin import GairPlugin

    return GairPlugin(iface)
