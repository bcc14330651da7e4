"""What the algorithms on layers of photos and points share: the parameters, and the table for gair_core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingFeedback,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsVectorLayer,
)

from ..photo_input import (
    ExportedTable,
    PhotoPaths,
    Rows,
    export_table,
    find_photos,
    layer_file,
    photo_folders,
    read_rows,
    wants_selection,
)
from ..translation import tr
from .base import GairAlgorithm, Values


class TableAlgorithm(GairAlgorithm):
    """Base of the algorithms that read a layer of photos or points.

    The layer is read and written to a table in `prepare`, on the main thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: Rows | None = None
        self._paths: PhotoPaths | None = None
        self._table: ExportedTable | None = None
        self.layer_path = ""

    def add_photos(
        self,
        kinds: Sequence[Any] = (QgsProcessing.SourceType.TypeVectorPoint,),
        *,
        optional: bool = False,
    ) -> None:
        """Add a layer of photos and the field with their paths.

        Args:
            kinds: Kinds of layers.
            optional: Whether the layer may be left out.
        """
        text = tr(
            "A layer of photos in any CRS and format, for example of 'Import geotagged photos', or a table "
            "with columns of longitude and latitude. Of panoramas, which a field such as projection_type "
            "tells, the view to the front counts."
        )
        self.add(
            QgsProcessingParameterFeatureSource("PHOTOS", tr("Photos"), list(kinds)),
            f"{text} {tr('Default: none, a folder has the photos.')}" if optional else text,
            optional=optional,
        )
        self.add(
            QgsProcessingParameterField(
                "PHOTO_FIELD", tr("Photo field"), None, "PHOTOS", QgsProcessingParameterField.DataType.String
            ),
            tr(
                "The field with the photos' paths: absolute, or relative to the layer's file or to the "
                "project. Default: the field that holds names of image files; the log says which."
            ),
            optional=True,
        )

    def read_table(
        self,
        name: str,
        parameters: Values,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        *,
        with_photos: bool = True,
        need_positions: bool = True,
    ) -> None:
        """Read the layer of a parameter; belongs into `prepare`.

        Args:
            name: The parameter.
            parameters: The run's parameters.
            context: The run's context.
            feedback: Told what was found.
            with_photos: Whether the rows are photos; then ``PHOTO_FIELD`` is looked up.
            need_positions: Whether a layer without CRS is refused.

        Raises:
            QgsProcessingException: The layer, or its field of photos, cannot be used.
        """
        source = self.parameterAsSource(parameters, name, context)
        if source is None:
            raise QgsProcessingException(self.invalidSourceError(parameters, name))
        self.layer_path = layer_file(self._vector_layer(name, parameters, context))
        self._rows = read_rows(source, feedback, wants_selection(parameters.get(name)))
        if with_photos:
            field = self.parameterAsString(parameters, "PHOTO_FIELD", context)
            folders = photo_folders(self.layer_path, context.project())
            self._paths = find_photos(self._rows, field, folders, feedback)
        self._table = export_table(
            self._rows,
            self.temporary_folder() / "table.gpkg",
            context,
            feedback,
            photos=self._paths,
            need_positions=need_positions,
        )
        self.name_stand_in(self._table.path, self._rows.name)

    def table(self) -> tuple[ExportedTable, Rows]:
        """Return the table that `read_table` made, and the rows that it was made of.

        Raises:
            QgsProcessingException: The run was cancelled before it could be read.
        """
        if self._table is None or self._rows is None:
            raise QgsProcessingException(tr("Cancelled: nothing was written."))
        return self._table, self._rows

    def photo_paths(self) -> Sequence[str]:
        """Return the absolute path of each row's photo, empty where it names none."""
        return () if self._paths is None else self._paths.paths

    def _vector_layer(
        self, name: str, parameters: Values, context: QgsProcessingContext
    ) -> QgsVectorLayer | None:
        """Return the layer behind a source; QGIS 3.22 does not look into definitions for it."""
        value = parameters.get(name)
        if isinstance(value, QgsProcessingFeatureSourceDefinition):
            value = value.source.valueAsString(context.expressionContext())[0]
        return self.parameterAsVectorLayer({**parameters, name: value}, name, context)
