"""Layers of photos and points, whatever provider they come from, as a table that gair_core reads.

gair_core reads files, in its own process. A layer may be a memory layer, a selection, a table with edits or
a database view, its CRS may be user-defined and its photo paths relative to a project: only QGIS knows all
that. So rows are taken from QGIS, resolved here and written to a temporary GeoPackage in longitude and
latitude. Every row carries its number, by which results find their way back to the original features.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qgis.core import (
    NULL,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCsException,
    QgsFeature,
    QgsFeatureSink,
    QgsField,
    QgsFields,
    QgsGeometry,
    QgsPointXY,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSource,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingFeedback,
    QgsProject,
    QgsProviderRegistry,
    QgsVectorFileWriter,
    QgsVectorLayer,
    QgsWkbTypes,
)
from qgis.PyQt.QtCore import QDate, QDateTime, Qt, QTime, QUrl, QVariant

from .translation import tr

ROW = "gair_row"
"""Column of the exported table, and of results, with the number of the source's row from 0."""
PHOTO = "gair_photo"
"""Column of the exported table with absolute paths of photos."""

# What gair_core takes for photos (gair_core/photos/reading.py) and the columns it knows them by, in order of
# preference (gair_core/photos/columns.py); a test compares the copies.
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".tif", ".tiff", ".webp"})
PHOTO_FIELDS = (
    "photo",
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "image",
    "image_path",
    "picture",
)

# Columns that gair_core writes: a source's own column of such a name must not hide them.
_WRITTEN_BY_GAIR = re.compile(r"gair_.*|similarity|percentile|best_.*|embedding_\d+", re.IGNORECASE)
_LONLAT = "EPSG:4326"


@dataclass(frozen=True)
class Rows:
    """The features of a source, read at once.

    Attributes:
        name: What to call the source in messages.
        features: The features, in the source's order.
        fields: Their fields.
        crs: Their coordinate reference system; invalid where there is none.
        geometry_type: A `QgsWkbTypes.Type`.
    """

    name: str
    features: Sequence[QgsFeature]
    fields: QgsFields
    crs: QgsCoordinateReferenceSystem
    geometry_type: Any

    @property
    def spatial(self) -> bool:
        """Whether the source has geometries."""
        return self.geometry_type != QgsWkbTypes.Type.NoGeometry


@dataclass(frozen=True)
class PhotoPaths:
    """Where the photos of some rows are.

    Attributes:
        field: The field that holds them.
        paths: An absolute path for each row, whether or not the file exists; empty where a row names none.
    """

    field: str
    paths: Sequence[str]


@dataclass(frozen=True)
class ExportedTable:
    """A table for gair_core.

    Attributes:
        path: The GeoPackage.
        columns: Name of the column that holds each of the source's fields.
    """

    path: str
    columns: dict[str, str]


def read_rows(
    source: QgsProcessingFeatureSource, feedback: QgsProcessingFeedback, selected_only: bool = False
) -> Rows:
    """Read a source; belongs into `prepareAlgorithm`, where layers may be touched.

    Args:
        source: From `parameterAsSource`, so that a selection is respected.
        feedback: May cancel.
        selected_only: Whether only selected features were asked for; for the message about none.

    Raises:
        QgsProcessingException: There is no row.
    """
    features = []
    for feature in source.getFeatures():
        if feedback.isCanceled():
            break
        features.append(QgsFeature(feature))
    if not features and not feedback.isCanceled():
        reason = (
            tr("no feature of {name} is selected. Select some, or clear 'Selected features only'.")
            if selected_only
            else tr("{name} has no rows.")
        )
        raise QgsProcessingException(reason.format(name=source.sourceName()))
    return Rows(source.sourceName(), features, source.fields(), source.sourceCrs(), source.wkbType())


def wants_selection(value: object) -> bool:
    """Return whether a parameter asks for the selected features only."""
    return isinstance(value, QgsProcessingFeatureSourceDefinition) and value.selectedFeaturesOnly


def layer_file(layer: QgsVectorLayer | None) -> str:
    """Return the file or folder that a layer is read from; empty where it comes from elsewhere."""
    if layer is None:
        return ""
    parts = QgsProviderRegistry.instance().decodeUri(layer.providerType(), layer.source())
    path = Path(parts.get("path") or "")
    return str(path.absolute()) if path.name and path.exists() else ""


def photo_folders(layer_path: str, project: QgsProject | None) -> list[str]:
    """Return the folders that relative photo paths may start from: the layer's, then the project's.

    Args:
        layer_path: From `layer_file`.
        project: The project, if there is one.
    """
    folders = []
    if layer_path:
        path = Path(layer_path)
        folders.append(str(path if path.is_dir() else path.parent))
    if project is not None and project.absolutePath():
        folders.append(project.absolutePath())
    return folders


def find_photos(
    rows: Rows, field: str, folders: Sequence[str], feedback: QgsProcessingFeedback
) -> PhotoPaths:
    """Resolve the photos of some rows and say in the log where they were found.

    Args:
        rows: The rows.
        field: The field with the paths; empty to recognise it by its content and name.
        folders: Where relative paths may start, the first that fits wins.
        feedback: Gets the log.

    Raises:
        QgsProcessingException: There is no such field, several could be meant, it is empty, or its paths are
            relative and there is nothing that they could be relative to.
    """
    chosen = field or recognise_photo_field(rows)
    index = rows.fields.lookupField(chosen)
    if index < 0:
        raise QgsProcessingException(
            tr("{name} has no field {field}; it has {fields}.").format(
                name=rows.name, field=chosen, fields=", ".join(rows.fields.names())
            )
        )
    values = [_path_text(feature.attribute(index)) for feature in rows.features]
    named = [value for value in values if value]
    if not named:
        raise QgsProcessingException(
            tr("The field {field} of {name} is empty: it names no photo.").format(
                field=chosen, name=rows.name
            )
        )
    if not folders and not any(map(_is_absolute, named)):
        raise QgsProcessingException(
            tr(
                "The photo paths in {field} are relative (such as {path}), but the layer {name} is no "
                "file and the project is not saved, so there is no folder that they could start from. "
                "Save the project, or use absolute paths."
            ).format(field=chosen, path=named[0], name=rows.name)
        )
    paths = [resolve_path(value, folders) for value in values]
    feedback.pushInfo(
        tr("Photos: {count} of {rows} rows of {name} name one, in the field {field} ({how}).").format(
            count=len(named),
            rows=len(values),
            name=rows.name,
            field=chosen,
            how=tr("chosen") if field else tr("recognised; the parameter PHOTO_FIELD takes another"),
        )
    )
    return PhotoPaths(chosen, paths)


def recognise_photo_field(rows: Rows) -> str:
    """Return the field whose values are names of image files; of several the one with the most usual name.

    The same rule as gair_core's.

    Raises:
        QgsProcessingException: There is none, or none of several has a usual name.
    """
    names = rows.fields.names()
    with_photos = [
        name
        for index, name in enumerate(names)
        if _are_photos(feature.attribute(index) for feature in rows.features)
    ]
    usual = _usual(with_photos) or (None if with_photos else _usual(names))
    if usual is None and len(with_photos) == 1:
        usual = with_photos[0]
    if usual is not None:
        return usual
    found = (
        tr("the fields {fields} all do").format(fields=", ".join(with_photos))
        if with_photos
        else tr("its fields are {fields}").format(fields=", ".join(names) or tr("none"))
    )
    raise QgsProcessingException(
        tr("No field of {name} could be recognised as the one that holds paths of photos: {found}.").format(
            name=rows.name, found=found
        )
        + " "
        + tr("Choose the photo field.")
    )


def resolve_path(value: str, folders: Sequence[str]) -> str:
    """Return the absolute path of a photo.

    Args:
        value: An absolute path, one relative to one of the folders, or empty.
        folders: Tried in their order; where the file is in none, the path is in the first.
    """
    if not value:
        return ""
    # Backslashes are what a table made on Windows has; elsewhere they may be part of a name.
    spellings = [value, value.replace("\\", "/")] if "\\" in value else [value]
    starts = [""] if _is_absolute(value) or not folders else folders
    candidates = [Path(start, spelling) for start in starts for spelling in spellings]
    found = next((candidate for candidate in candidates if candidate.exists()), candidates[0])
    # Not `resolve`: a link's own name is what the user knows.
    return os.path.normpath(found)


def export_table(
    rows: Rows,
    path: Path,
    context: QgsProcessingContext,
    feedback: QgsProcessingFeedback,
    *,
    photos: PhotoPaths | None = None,
    need_positions: bool = True,
) -> ExportedTable:
    """Write rows to a GeoPackage: every attribute, the row's number and its place in EPSG:4326.

    A table without geometries stays one: gair_core finds its columns of longitude and latitude.

    Args:
        rows: The rows.
        path: The GeoPackage, in a temporary folder.
        context: For transformations.
        feedback: Told about rows that have no place in longitude and latitude.
        photos: Where the photos are, or None for plain points.
        need_positions: Whether a layer without CRS is refused; otherwise its places are left out.

    Raises:
        QgsProcessingException: The layer has no CRS or holds no points, or the disk is full.
    """
    places = _places(rows, context, feedback, need_positions)
    columns = _column_names(rows.fields.names())
    fields = QgsFields()
    fields.append(QgsField(ROW, QVariant.LongLong))
    if photos is not None:
        fields.append(QgsField(PHOTO, QVariant.String))
    for index, column in enumerate(columns):
        fields.append(QgsField(column, exported_type(rows.fields.at(index))))
    writer = _writer(str(path), fields, places is not None, context)
    for number, feature in enumerate(rows.features):
        exported = QgsFeature(fields)
        start = [number] if photos is None else [number, photos.paths[number] or None]
        exported.setAttributes([*start, *map(plain, feature.attributes())])
        if places is not None and places[number] is not None:
            exported.setGeometry(QgsGeometry.fromPointXY(places[number]))
        if not writer.addFeature(exported, QgsFeatureSink.Flag.FastInsert):
            break
    # Dropping the writer, after its error was read, is what closes the file.
    message = writer.errorMessage()
    failed = writer.hasError() != QgsVectorFileWriter.WriterError.NoError
    del writer
    if failed:
        raise _export_failed(str(path), message)
    return ExportedTable(str(path), dict(zip(rows.fields.names(), columns)))


def _writer(
    path: str, fields: QgsFields, spatial: bool, context: QgsProcessingContext
) -> QgsVectorFileWriter:
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "GPKG"
    options.layerName = "rows"
    # Names that leave "fid" and "geom" to the source's own columns.
    options.layerOptions = ["FID=gair_fid", "GEOMETRY_NAME=gair_geometry", "SPATIAL_INDEX=NO"]
    writer = QgsVectorFileWriter.create(
        path,
        fields,
        QgsWkbTypes.Type.Point if spatial else QgsWkbTypes.Type.NoGeometry,
        QgsCoordinateReferenceSystem(_LONLAT) if spatial else QgsCoordinateReferenceSystem(),
        context.transformContext(),
        options,
    )
    if writer.hasError() != QgsVectorFileWriter.WriterError.NoError:
        raise _export_failed(path, writer.errorMessage())
    return writer


def _export_failed(path: str, message: str) -> QgsProcessingException:
    return QgsProcessingException(
        tr("The temporary table {path} cannot be written: {message}.").format(path=path, message=message)
        + " "
        + tr("Free some space in the temporary folder, or choose another in the Processing options.")
    )


def _places(
    rows: Rows, context: QgsProcessingContext, feedback: QgsProcessingFeedback, need_positions: bool
) -> list[QgsPointXY | None] | None:
    """Return a point in longitude and latitude or None for each row; None for a table without geometries."""
    if not rows.spatial:
        return None
    if not rows.crs.isValid():
        if not need_positions:
            return None
        raise QgsProcessingException(
            tr(
                "The layer {name} has no coordinate reference system, so its points could be anywhere."
            ).format(name=rows.name)
            + " "
            + tr("Assign one: Layer > Set CRS of Layer(s).")
        )
    transform = QgsCoordinateTransform(
        rows.crs, QgsCoordinateReferenceSystem(_LONLAT), context.transformContext()
    )
    places: list[QgsPointXY | None] = []
    lost = []
    for number, feature in enumerate(rows.features):
        point = _point(feature, rows, number)
        try:
            places.append(None if point is None else transform.transform(point))
        except QgsCsException:
            places.append(None)
            lost.append(number)
    if lost:
        feedback.pushWarning(
            tr(
                "{count} rows of {name} lie where {crs} has no longitude and latitude, the first is row "
                "{row}."
            ).format(count=len(lost), name=rows.name, crs=rows.crs.authid(), row=lost[0] + 1)
        )
    return places


def _point(feature: QgsFeature, rows: Rows, number: int) -> QgsPointXY | None:
    geometry = feature.geometry()
    if geometry.isNull() or geometry.isEmpty():
        return None
    if geometry.type() == QgsWkbTypes.GeometryType.PointGeometry:
        points = geometry.asMultiPoint() if geometry.isMultipart() else [geometry.asPoint()]
        if len(points) == 1:
            return points[0]
    raise QgsProcessingException(
        tr("Row {row} of {name} is not one point but {kind}.").format(
            row=number + 1, name=rows.name, kind=QgsWkbTypes.displayString(geometry.wkbType())
        )
        + " "
        + tr("Convert the layer, for example with Centroids or Multipart to singleparts.")
    )


def _column_names(names: Iterable[str]) -> list[str]:
    """Names that differ by more than case, as SQLite wants them, and are none of gair_core's own."""
    used: set[str] = set()
    unique = []
    for name in names:
        base = f"{name}_" if _WRITTEN_BY_GAIR.fullmatch(name) else name
        candidate, count = base, 1
        while candidate.casefold() in used:
            count += 1
            candidate = f"{base}_{count}"
        used.add(candidate.casefold())
        unique.append(candidate)
    return unique


def exported_type(field: QgsField) -> Any:  # noqa: ANN401
    """Return the type of a table's column that holds a field's values."""
    # What QVariant.Type is depends on the version of Qt.
    if field.type() == QVariant.Bool:
        return QVariant.Bool
    if field.isNumeric():
        return QVariant.Double if field.type() == QVariant.Double else QVariant.LongLong
    return QVariant.String


def plain(value: object) -> bool | int | float | str | None:
    """A value as a number, a truth value or text."""
    if value is None or value == NULL:
        return None
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (QDate, QDateTime, QTime)):
        return value.toString(Qt.DateFormat.ISODate)
    return str(value)


def _path_text(value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    return QUrl(text).toLocalFile() if text.lower().startswith("file:") else text


def _is_absolute(path: str) -> bool:
    # A path of another system is none that could be relative here.
    return Path(path).is_absolute() or re.match(r"[A-Za-z]:[\\/]|\\\\|/", path) is not None


def _are_photos(values: Iterable[object]) -> bool:
    """Whether all values that are not empty are text and end as names of photos do, and there are some."""
    found = False
    for value in values:
        if value is None or value in (NULL, ""):
            continue
        if not isinstance(value, str) or _suffix(value) not in PHOTO_SUFFIXES:
            return False
        found = True
    return found


def _suffix(value: str) -> str:
    return PurePosixPath(value.strip().replace("\\", "/")).suffix.lower()


def _usual(names: Sequence[str]) -> str | None:
    known = {name.strip().lower(): name for name in reversed(names)}
    return next((known[name] for name in PHOTO_FIELDS if name in known), None)
