"""The plugin: registers the Processing provider, and ends the worker with QGIS."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsApplication
from qgis.PyQt.QtCore import QCoreApplication, QLocale, QTranslator

from .provider import GairProvider

TRANSLATIONS = Path(__file__).parent / "i18n"


class GairPlugin:
    """Entry point of QGIS and of ``qgis_process``.

    Args:
        iface: QGIS's window, which the plugin does not touch; None under ``qgis_process``.
    """

    def __init__(self, iface: object = None) -> None:
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
        # As the user chose it in QGIS, else the system's; Qt looks for pt_BR before pt.
        translator = QTranslator()
        if translator.load(QLocale(QgsApplication.locale()), "gair", "_", str(TRANSLATIONS)):
            QCoreApplication.installTranslator(translator)
            self._translator = translator
