"""`gair:locatephotos`: the places of a scene where photos may have been taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsFeature,
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterFeatureSink,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
    QgsProcessingUtils,
    QgsWkbTypes,
)

from ..figure import Figure
from ..photo_input import PHOTO
from ..point_output import Joined, check_destination, read_result, select_fields, write_features
from ..translation import tr, translatable
from .base import PHOTOS, Values
from .photos import TableAlgorithm

_FOUND = ("rank", "score", "percentile", "distance_m")


class LocatePhotosAlgorithm(TableAlgorithm):
    """Finds the best places of photos in a scene."""

    ID = "locatephotos"
    TITLE = translatable("Locate photos in a scene")
    GROUP = PHOTOS
    TAGS = ("street view", "geolocation", "geotag", "retrieval", "photo")
    HELP = translatable(
        "<p>Finds for each photo the places of a Sentinel-2 scene that fit it best, for photos without "
        "coordinates. A photo's own coordinates are not used; where it has any, its distance from the "
        "places found is reported. Give a folder of photos or a layer or table that names them.</p>"
    )

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add_scene()
        self.add(
            QgsProcessingParameterFile(
                "FOLDER", tr("Folder of photos"), QgsProcessingParameterFile.Behavior.Folder
            ),
            tr(
                "A folder with photos, searched with its subfolders. Default: none, a layer names the photos."
            ),
            optional=True,
        )
        self.add_photos([QgsProcessing.SourceType.TypeVector], optional=True)
        self.add_model()
        self.add(
            QgsProcessingParameterNumber(
                "PLACES", tr("Places per photo"), QgsProcessingParameterNumber.Type.Integer, 5, False, 1, 1000
            ),
            tr("Number of places to find for each photo, at most. Default: 5."),
        )
        self.add(
            QgsProcessingParameterNumber(
                "RADIUS",
                tr("Least distance of places (metres)"),
                QgsProcessingParameterNumber.Type.Double,
                500,
                minValue=0,
            ),
            tr("Within this distance, in metres, only the best place of a photo counts. Default: 500."),
        )
        self.add_bands()
        self.add_advanced()
        self.add(
            QgsProcessingParameterFeatureSink(
                "OUTPUT", tr("Places of photos"), QgsProcessing.SourceType.TypeVectorPoint
            ),
            tr(
                "A point for each place, in longitude and latitude: the photo, or all fields of its row; "
                "rank (from 1), score (cosine), percentile (0 to 100: the share of the scene with a lower "
                "score) and distance_m, the distance from the photo's own coordinates."
            ),
        )

    def prepare(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Read the photos of a layer; a folder is gair_core's to read."""
        if parameters.get("PHOTOS") not in (None, ""):
            self.read_table("PHOTOS", parameters, context, feedback, need_positions=False)

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the task ``locate``."""
        folder = self.file(parameters, context, "FOLDER")
        listed = parameters.get("PHOTOS") not in (None, "")
        if bool(folder) == listed:
            raise QgsProcessingException(
                tr("Both a folder and a layer of photos were given: give one of them.")
                if listed
                else tr("Neither a folder nor a layer of photos was given: give one of them.")
            )
        check_destination(parameters.get("OUTPUT"), context, self.layer_path)
        found = self.temporary_folder() / "found.gpkg"
        request = self.scene_request(parameters, context, feedback)
        request.update(
            output=str(found),
            places=self.parameterAsInt(parameters, "PLACES", context),
            radius=self.parameterAsDouble(parameters, "RADIUS", context),
        )
        if listed:
            table, _ = self.table()
            request.update(photos=table.path, photo_field=PHOTO)
        else:
            request["photos"] = folder
        self.run_task("locate", request, feedback)

        def make_sink(*shape: object) -> tuple[Any, str]:
            return self.parameterAsSink(parameters, "OUTPUT", context, *shape)

        output = write_features(
            self._places(found, listed), parameters.get("OUTPUT"), make_sink, context, feedback
        )
        Figure().watch(context, output)
        return {"OUTPUT": output}

    def _places(self, path: Path, listed: bool) -> Joined:
        """Return the places that were found, with their photo's own fields where it has any."""
        result = read_result(path)
        added = select_fields(result.fields, _FOUND if listed else ("photo", *_FOUND))
        fields, originals = added, {}
        if listed:
            _, rows = self.table()
            fields = QgsProcessingUtils.combineFields(rows.fields, added)
            # Of several rows with one photo the first counts.
            for photo, row in zip(reversed(self.photo_paths()), reversed(rows.features)):
                originals[photo] = row.attributes()
        features = []
        for place in result.features:
            own = originals[os.path.normpath(place["photo"])] if listed else []
            feature = QgsFeature(fields)
            feature.setGeometry(place.geometry())
            feature.setAttributes([*own, *(place[name] for name in added.names())])
            features.append(feature)
        return Joined(fields, result.crs, QgsWkbTypes.Type.Point, features)
