"""`gair:segment`: the class of every pixel of a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)

from ..polygon_output import check_polygons, convert_polygons
from ..raster_input import Extent
from ..translation import tr, translatable
from .base import SCENES, GairAlgorithm, Values


class SegmentAlgorithm(GairAlgorithm):
    """Writes a class raster, on request with its confidence and as polygons."""

    ID = "segment"
    TITLE = translatable("Segment a scene")
    GROUP = SCENES
    TAGS = ("classify", "land cover", "semantic segmentation", "classes")
    HELP = translatable(
        "<p>Gives every pixel of a Sentinel-2 scene a class, by a model with a segmentation head, and writes "
        "a raster with the names and colours of the classes. Pixels without data are 0.</p><p>The model "
        "<i>demo</i> knows seven classes of land cover, learned from an artificial world: it serves to "
        "try things out, and no decision should rest on its maps.</p><p>A model for series sees several "
        "dates of one place at once: give the other dates as "
        "a series, or one layer that holds them all and how many bands a date has.</p>"
    )

    def __init__(self) -> None:
        super().__init__()
        self._series: list[str] = []

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add_scene()
        self.add_model()
        self.add_bands()
        self.add_extent()
        self.add_advanced()
        self.add_backbone()
        self._declare_series()
        self.add(
            QgsProcessingParameterRasterDestination("OUTPUT", tr("Classes")),
            tr("The GeoTIFF of classes to write, on the scene's pixel grid."),
        )
        self.add(
            QgsProcessingParameterRasterDestination("CONFIDENCE", tr("Confidence"), createByDefault=False),
            tr(
                "A GeoTIFF of the best class's probability in percent, 0 to 100, 255 without data. It is not "
                "calibrated. Default: not written."
            ),
            optional=True,
        )
        self.add(
            QgsProcessingParameterVectorDestination(
                "POLYGONS",
                tr("Polygons"),
                QgsProcessing.SourceType.TypeVectorPolygon,
                createByDefault=False,
            ),
            tr(
                "Connected patches of one class as polygons with class value, name and area in square "
                "metres. A GeoPackage holds the colours as well. Default: not written."
            ),
            optional=True,
        )
        self.addOutput(QgsProcessingOutputNumber("CLASS_COUNT", tr("Number of classes found")))
        self.addOutput(QgsProcessingOutputNumber("POLYGON_COUNT", tr("Number of polygons")))

    def _declare_series(self) -> None:
        self.add_scenes(
            "SERIES",
            tr("Other dates of a series"),
            tr(
                "The other dates, for models of series: raster layers or products, their pixel grids and CRS "
                "may be others. The output has the pixels of the scene above. Default: none."
            ),
            optional=True,
        )
        self.add(
            QgsProcessingParameterString("DATES", tr("Dates")),
            tr(
                "When the scene and the others of a series were taken, in their order, as 2018-04-29 with "
                "commas between them. Default: as their metadata or file names tell."
            ),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterNumber(
                "BANDS_PER_DATE", tr("Bands of a date"), QgsProcessingParameterNumber.Type.Integer, minValue=2
            ),
            tr(
                "Where the scene is one layer that holds all dates one after another: how many bands a date "
                "has. The bands parameter then numbers those of the first date. Default: one date."
            ),
            advanced=True,
            optional=True,
        )

    def prepare(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Read the other dates."""
        self._series = self.read_scenes("SERIES", parameters, context)

    def _series_request(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Return the request's entries for a series, none of one scene alone."""
        request: dict[str, Any] = {}
        if self._series:
            extent = self.extent(parameters, context)
            if extent is not None and not extent.crs.isValid():
                # One without a CRS is in the first scene's.
                extent = Extent(extent.rectangle, self.scene_crs())
            request["series"] = [self.scene_source(name, extent, feedback) for name in self._series]
        dates = self.parameterAsString(parameters, "DATES", context).strip(" ,;")
        if dates:
            request["dates"] = [date.strip() for date in dates.replace(";", ",").split(",")]
        if parameters.get("BANDS_PER_DATE") not in (None, ""):
            request["bands_per_date"] = self.parameterAsInt(parameters, "BANDS_PER_DATE", context)
        return request

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the task ``segment``."""
        request = self.scene_request(parameters, context, feedback)
        request.update(self.backbone_request(parameters, context))
        request.update(self._series_request(parameters, context, feedback))
        request["output"] = self.output(parameters, context)
        confidence = self.output(parameters, context, "CONFIDENCE")
        polygons = self.output(parameters, context, "POLYGONS")
        if confidence:
            request["confidence"] = confidence
        direct = Path(polygons).suffix.lower() == ".gpkg"
        if polygons:
            check_polygons(polygons, context, request["scene"])
            request["polygons"] = polygons if direct else str(self.temporary_folder() / "polygons.gpkg")
        result = self.run_task("segment", request, feedback)
        if polygons and not direct:
            rasters = [path for path in (request["output"], confidence) if path]
            convert_polygons(request["polygons"], polygons, rasters, context.transformContext())
        self._describe(result, feedback)
        for output, name in (
            (request["output"], tr("Classes of {scene}")),
            (confidence, tr("Confidence of {scene}")),
            (polygons, tr("Class polygons of {scene}")),
        ):
            self.name_layer(context, output, name.format(scene=self.scene_name()))
        outputs = {"OUTPUT": result["output"], "CONFIDENCE": confidence, "POLYGONS": polygons}
        return {
            **{name: path for name, path in outputs.items() if path},
            "CLASS_COUNT": len(result["pixels"]),
            "POLYGON_COUNT": result["polygon_count"],
        }

    def _describe(self, result: dict[str, Any], feedback: QgsProcessingFeedback) -> None:
        total = sum(result["pixels"].values())
        for name, count in sorted(result["pixels"].items(), key=lambda item: -item[1]):
            feedback.pushInfo(
                tr("{name}: {count} pixels ({percent:.1f} %)").format(
                    name=name, count=count, percent=100 * count / total
                )
            )
