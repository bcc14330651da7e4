"""How a model is chosen in a dialog: a registered name from a list, any text, or a file.

Processing imports this by name when it builds a dialog; ``qgis_process`` never does.
"""

from __future__ import annotations

from pathlib import Path

from processing.gui.wrappers import DIALOG_BATCH, DIALOG_MODELER, InvalidParameterValue, WidgetWrapper
from qgis.core import (
    QgsProcessingModelChildParameterSource,
    QgsProcessingOutputFile,
    QgsProcessingOutputString,
    QgsProcessingParameterFile,
    QgsProcessingParameterString,
)
from qgis.PyQt.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QSizePolicy, QToolButton, QWidget

from .models import registered_models, user_folder
from .translation import tr


class ModelChooser(QWidget):
    """An editable list of models with a button that opens a file dialog."""

    def __init__(self, names: tuple[str, ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.list = QComboBox()
        self.list.setEditable(True)
        self.list.addItems(names)
        # A long path must not widen the dialog.
        self.list.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        button = QToolButton()
        button.setText("…")
        button.setToolTip(tr("Choose a checkpoint file"))
        button.clicked.connect(self.choose)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.list, 1)
        layout.addWidget(button)

    def choose(self) -> None:
        """Ask for a file, beginning where the last one was."""
        current = Path(self.text())
        folder = current.parent if current.is_file() else user_folder()
        file, _ = QFileDialog.getOpenFileName(
            self, tr("Choose a model"), str(folder), tr("GAIR checkpoints (*.safetensors)")
        )
        if file:
            self.set_text(file)

    def text(self) -> str:
        """Return the name or path."""
        return self.list.currentText().strip()

    def set_text(self, text: str) -> None:
        """Show a name or path."""
        self.list.setEditText(text)


class ModelWidget(WidgetWrapper):
    """Puts the `ModelChooser` into a dialog, a row of a batch or the model designer."""

    def createWidget(self) -> QWidget:
        """Return the widget; in the model designer the model's own inputs and outputs are offered too."""
        chooser = ModelChooser(registered_models())
        if self.dialogType == DIALOG_MODELER:
            for source in self.dialog.getAvailableValuesOfType(
                [QgsProcessingParameterString, QgsProcessingParameterFile],
                [QgsProcessingOutputString, QgsProcessingOutputFile],
            ):
                chooser.list.addItem(self.dialog.resolveValueDescription(source), source)
        if self.dialogType != DIALOG_BATCH:
            chooser.setToolTip(self.parameterDefinition().toolTip())
        chooser.list.currentTextChanged.connect(lambda _: self.widgetValueHasChanged.emit(self))
        return chooser

    def setValue(self, value: str | QgsProcessingModelChildParameterSource | None) -> None:
        """Show a value."""
        if isinstance(value, QgsProcessingModelChildParameterSource):
            names = self.widget.list
            known = [index for index in range(names.count()) if names.itemData(index) == value]
            names.setCurrentIndex(known[0] if known else -1)
        elif value:
            self.widget.set_text(str(value))

    def value(self) -> str | QgsProcessingModelChildParameterSource:
        """Return the name or path, or in the model designer where it comes from.

        Raises:
            InvalidParameterValue: There is none.
        """
        names = self.widget.list
        index = names.findText(names.currentText())
        if index >= 0 and names.itemData(index) is not None:
            return names.itemData(index)
        if not self.widget.text():
            raise InvalidParameterValue
        return self.widget.text()
