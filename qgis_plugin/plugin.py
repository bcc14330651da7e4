"""The plugin: registers the Processing provider, and ends the worker with QGIS."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsApplication, QgsSettings
from qgis.PyQt.QtCore import QCoreApplication, QTranslator

from .provider import GairProvider


class GairPlugin:
    """Entry point of QGIS and of ``qgis_process``.

    Args:
        iface: QGIS's window; None under ``qgis_process``, and not used.
    """

    def __init__(self, iface: object = None) -> None:
        self.iface = iface
        self.provider: GairProvider | None = None
        self._translator: QTranslator | None = None

    def initProcessing(self) -> None:
        """Add the provider; QGIS calls this alone under ``qgis_process``."""
        self._install_translation()
        self.provider = GairProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider to a QGIS with a window."""
        self.initProcessing()

    def unload(self) -> None:
        """Take everything away again and end the worker."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
        if self._translator is not None:
            QCoreApplication.removeTranslator(self._translator)
            self._translator = None
        from .worker_client import close_shared_client

        close_shared_client()

    def _install_translation(self) -> None:
        language = str(QgsSettings().value("locale/userLocale", "") or "")[:2]
        file = Path(__file__).parent / "i18n" / f"gair_{language}.qm"
        if not file.is_file():
            return
        translator = QTranslator()
        if translator.load(str(file)):
            QCoreApplication.installTranslator(translator)
            self._translator = translator
