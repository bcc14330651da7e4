"""`gair:locationsimilarity`: where on Earth a photo could be from, by the location encoder."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
)

from ..figure import Figure, make_see_through
from ..photo_input import PHOTO_SUFFIXES
from ..translation import tr, translatable
from .base import PHOTOS, GairAlgorithm, Values, extent_request


class LocationSimilarityAlgorithm(GairAlgorithm):
    """Maps the cosine of a photo with location embeddings."""

    ID = "locationsimilarity"
    TITLE = translatable("Similarity of a photo and places")
    GROUP = PHOTOS
    TAGS = ("street view", "location", "cosine", "similarity", "map", "geolocation")
    HELP = translatable(
        "<p>Compares a street-level photo with the embedding of every place in an extent; no scene is "
        "needed. Bright places are likely ones. The values are cosines from -1 to 1.</p><p>At the date "
        "line and at the poles the map has a seam: one place there has several embeddings.</p>"
    )

    def declare(self) -> None:
        """Add the parameters and outputs."""
        patterns = " ".join(f"*{suffix} *{suffix.upper()}" for suffix in sorted(PHOTO_SUFFIXES))
        self.add(
            QgsProcessingParameterFile(
                "PHOTO", tr("Photo"), fileFilter=tr("Photos ({patterns})").format(patterns=patterns)
            ),
            tr("A photo: JPEG, PNG, TIFF or WebP. Of a panorama the view to the front counts."),
        )
        self.add_model()
        self.add(
            QgsProcessingParameterExtent("EXTENT", tr("Extent")),
            tr(
                "The part of the Earth to map, in any CRS, which is the output's CRS as well: "
                "xmin,xmax,ymin,ymax [EPSG:...]. Without a CRS it is in the project's, or where that is "
                "unset in longitude and latitude."
            ),
        )
        self.add(
            QgsProcessingParameterNumber(
                "RESOLUTION",
                tr("Pixel size (units of the extent's CRS)"),
                QgsProcessingParameterNumber.Type.Double,
                minValue=0,
            ),
            tr("Pixel size in degrees or metres. Default (empty or 0): 512 pixels along the longer side."),
            optional=True,
        )
        self.add_device()
        self.add(
            QgsProcessingParameterRasterDestination("OUTPUT", tr("Similarity of places")),
            tr("The GeoTIFF to write, cosines as float32."),
        )
        self.addOutput(
            QgsProcessingOutputNumber("BEST_LONGITUDE", tr("Longitude of the best place (degrees)"))
        )
        self.addOutput(QgsProcessingOutputNumber("BEST_LATITUDE", tr("Latitude of the best place (degrees)")))
        self.addOutput(QgsProcessingOutputNumber("MAXIMUM", tr("Largest cosine")))

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the task ``location-map``."""
        extent = self.extent(parameters, context)
        if extent is None:
            raise QgsProcessingException(tr("The extent is empty. Give xmin,xmax,ymin,ymax [EPSG:...]."))
        request = self.engine_request(parameters, context)
        request["photo"] = self.file(parameters, context, "PHOTO")
        request["output"] = self.output(parameters, context)
        request.update(extent_request(extent))
        resolution = self.parameterAsDouble(parameters, "RESOLUTION", context)
        if resolution:
            request["resolution"] = resolution
        result = self.run_task("location-map", request, feedback)
        make_see_through(request["output"], feedback)
        Figure().watch(context, request["output"])
        return {
            "OUTPUT": result["output"],
            "BEST_LONGITUDE": result["best_longitude"],
            "BEST_LATITUDE": result["best_latitude"],
            "MAXIMUM": result["maximum"],
        }
