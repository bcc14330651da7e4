"""Layers of photos as users have them, made of the shared data, and a feedback that remembers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeature,
    QgsGeometry,
    QgsPointXY,
    QgsProcessingFeedback,
    QgsProject,
    QgsVectorFileWriter,
    QgsVectorLayer,
)

LONLAT = "EPSG:4326"
# Photo, scene, longitude, latitude; row and column of the scene, from ../shared/data/README.md.
PAIRS = {
    "detroit": (-83.258332, 42.482289, 67, 201),
    "sacramento": (-121.474012, 38.570138, 138, 143),
    "tokyo": (139.75009, 35.657349, 198, 44),
}


class Log(QgsProcessingFeedback):
    """Keeps what an algorithm says."""

    def __init__(self) -> None:
        super().__init__(False)
        self.information: list[str] = []
        self.warnings: list[str] = []
        self.errors: list[str] = []

    def pushInfo(self, info):
        self.information.append(info)

    def pushWarning(self, warning):
        self.warnings.append(warning)

    def reportError(self, error, fatalError=False):  # noqa: ARG002
        self.errors.append(error)


def scene_path(shared: Path, city: str = "detroit") -> str:
    return str(shared / "data" / "gair_pairs" / "queries" / f"{city}_rs.tif")


def photo_path(shared: Path, city: str = "detroit") -> str:
    return str(shared / "data" / "gair_pairs" / "gallery" / f"{city}_sv.jpg")


def point_layer(
    rows: Iterable[Sequence[object]],
    fields: str = "photo:string",
    crs: str = LONLAT,
    name: str = "my photos",
    kind: str = "Point",
) -> QgsVectorLayer:
    """A memory layer of points, given in longitude and latitude, in any CRS.

    Args:
        rows: Longitude, latitude and attributes; None as longitude leaves the geometry out.
        fields: As in a memory layer's URI, joined with ``&field=``.
        crs: The layer's CRS; empty for none.
        name: The layer's name.
        kind: Geometry type.
    """
    layer = QgsVectorLayer(f"{kind}?field={fields}" + (f"&crs={crs}" if crs else ""), name, "memory")
    assert layer.isValid()
    if not crs:
        # Without a screen QGIS gives a layer of unknown CRS a default one.
        layer.setCrs(QgsCoordinateReferenceSystem())
    transform = QgsCoordinateTransform(
        QgsCoordinateReferenceSystem(LONLAT),
        QgsCoordinateReferenceSystem(crs or LONLAT),
        QgsProject.instance(),
    )
    features = []
    for lon, lat, *attributes in rows:
        feature = QgsFeature(layer.fields())
        feature.setAttributes(attributes)
        if lon is not None:
            feature.setGeometry(QgsGeometry.fromPointXY(transform.transform(QgsPointXY(lon, lat))))
        features.append(feature)
    layer.dataProvider().addFeatures(features)
    return layer


def pairs_layer(shared: Path, crs: str = LONLAT) -> QgsVectorLayer:
    """The three photos of gair_pairs with absolute paths."""
    rows = [(lon, lat, photo_path(shared, city), city) for city, (lon, lat, _, _) in PAIRS.items()]
    return point_layer(rows, "photo:string&field=city:string", crs)


def saved(layer: QgsVectorLayer, path: Path, driver: str = "GPKG") -> QgsVectorLayer:
    """Save a layer to a file and return the file as a layer."""
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = driver
    error, message, *_ = QgsVectorFileWriter.writeAsVectorFormatV3(
        layer, str(path), QgsProject.instance().transformContext(), options
    )
    assert error == QgsVectorFileWriter.WriterError.NoError, message
    return QgsVectorLayer(str(path), path.stem, "ogr")


def layer_of(output: object) -> QgsVectorLayer:
    """An output of processing.run as a layer, whether temporary layers are files or not."""
    return output if isinstance(output, QgsVectorLayer) else QgsVectorLayer(output, "output", "ogr")


def without_fid(layer: QgsVectorLayer) -> list[str]:
    """Names of fields, without the key that GeoPackages add."""
    return [name for name in layer.fields().names() if name != "fid"]
