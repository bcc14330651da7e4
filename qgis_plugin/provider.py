"""The Processing provider: GAIR's group in the toolbox."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

ICON = Path(__file__).parent / "icons" / "gair.svg"


class GairProvider(QgsProcessingProvider):
    """Offers GAIR's algorithms under the id ``gair``."""

    def id(self) -> str:
        """Return the prefix of the algorithms' ids."""
        return "gair"

    def name(self) -> str:
        """Return the group's name in the toolbox."""
        return "GAIR"

    def longName(self) -> str:
        """Return the name with its meaning."""
        return "GAIR: satellite scenes and street-level photos in one embedding"

    def icon(self) -> QIcon:
        """Return the group's icon."""
        return QIcon(str(ICON))

    def svgIconPath(self) -> str:
        """Return the icon's file."""
        return str(ICON)

    def loadAlgorithms(self) -> None:
        """Register every algorithm."""
        from .algorithms import ALGORITHMS

        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())

    def supportedOutputRasterLayerExtensions(self) -> list[str]:
        """Return the endings that gair_core writes rasters to."""
        return ["tif", "tiff"]

    def supportsNonFileBasedOutput(self) -> bool:
        """Return that points may go into temporary layers and databases: QGIS writes them."""
        return True
