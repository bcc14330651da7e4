"""`gair:detectchange`: what changed between two dates of one place."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)

from ..raster_input import Extent
from ..translation import tr, translatable
from .base import SCENES, GairAlgorithm, Values


class DetectChangeAlgorithm(GairAlgorithm):
    """Writes the distance of two dates' embeddings, or the classes of a change head."""

    ID = "detectchange"
    TITLE = translatable("Detect change between two scenes")
    GROUP = SCENES
    TAGS = ("difference", "time", "two dates", "bitemporal")
    HELP = translatable(
        "<p>Compares two dates of one place, pixel by pixel, on the pixel grid of the first. A model gives "
        "the cosine distance of the embeddings: 0 where nothing changed, up to 2. A model with a change head "
        "gives its classes. Only the overlap is written, and pixels that one date lacks are nodata.</p>"
    )

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add_scene(
            "BEFORE", tr("Before"), tr("The Sentinel-2 scene of the first date: any raster layer.")
        )
        self.add_scene(
            "AFTER",
            tr("After"),
            tr("The scene of the second date: any raster layer, its pixel grid and CRS may be others."),
        )
        self.add_model()
        self.add_bands()
        self.add_extent()
        self.add(
            QgsProcessingParameterNumber(
                "RESOLUTION", tr("Pixel size (metres)"), QgsProcessingParameterNumber.Type.Double, minValue=0
            ),
            tr("Pixel size of the output in metres. Default (empty or 0): the first scene's own pixels."),
            optional=True,
        )
        self.add(
            QgsProcessingParameterString("AFTER_BANDS", tr("Bands of the second date")),
            tr("Where the second date's bands are, written as for the first. Default: as for the first."),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterNumber("AFTER_OFFSET", tr("Offset of the second date (DN)")),
            tr("Added to the second date's stored values. Default: as for the first."),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterRasterLayer("AFTER_SCL", tr("Scene classification of the second date")),
            tr("Like the scene classification (SCL), for the second date. Default: none."),
            advanced=True,
            optional=True,
        )
        self.add_advanced()
        self.add_backbone()
        self.add(
            QgsProcessingParameterRasterDestination("OUTPUT", tr("Change")),
            tr("The GeoTIFF to write: distances (0 to 2) or classes."),
        )
        self.addOutput(QgsProcessingOutputNumber("MEAN_DISTANCE", tr("Mean distance (0 to 2)")))
        self.addOutput(
            QgsProcessingOutputNumber("VALID_FRACTION", tr("Part with data on both dates (0 to 1)"))
        )

    def prepare(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Read the second date's classification."""
        self._after_classification = self.classification("AFTER_SCL", parameters, context)

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the task ``change``."""
        request = self.scene_request(parameters, context, feedback, "BEFORE")
        request.update(self.backbone_request(parameters, context))
        request["before"] = request.pop("scene")
        if self._after_classification:
            request["after_scl"] = self._after_classification
        request["after"] = self.scene_source("AFTER", self._after_extent(parameters, context), feedback)
        after_bands = self.bands(parameters, context, "AFTER_BANDS")
        if after_bands is not None:
            request["after_bands"] = after_bands
        if parameters.get("AFTER_OFFSET") not in (None, ""):
            request["after_offset"] = self.parameterAsDouble(parameters, "AFTER_OFFSET", context)
        resolution = self.parameterAsDouble(parameters, "RESOLUTION", context)
        if resolution:
            request["resolution"] = resolution
        request["output"] = self.output(parameters, context)
        result = self.run_task("change", request, feedback)
        self.name_layer(
            context,
            request["output"],
            tr("Change from {before} to {after}").format(
                before=self.scene_name("BEFORE"), after=self.scene_name("AFTER")
            ),
        )
        outputs = {
            "OUTPUT": result["output"],
            "MEAN_DISTANCE": result["mean_distance"],
            "VALID_FRACTION": result["valid_fraction"],
        }
        return {name: value for name, value in outputs.items() if value is not None}

    def _after_extent(self, parameters: Values, context: QgsProcessingContext) -> Extent | None:
        """Return the extent; one without a CRS is in the first date's."""
        extent = self.extent(parameters, context)
        if extent is None or extent.crs.isValid():
            return extent
        return Extent(extent.rectangle, self.scene_crs("BEFORE"))
