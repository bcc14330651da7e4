"""`gair:sampleembeddings`: the embedding of a scene at points, as attributes."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterFeatureSink,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterNumber,
)

from ..point_output import check_destination, join_result, write_features
from ..translation import tr, translatable
from .base import PHOTOS, Values
from .photos import TableAlgorithm


class SampleEmbeddingsAlgorithm(TableAlgorithm):
    """Adds embeddings to points."""

    ID = "sampleembeddings"
    TITLE = translatable("Sample embeddings at points")
    GROUP = PHOTOS
    TAGS = ("points", "features", "extract", "values")
    HELP = translatable(
        "<p>Computes the embedding of a Sentinel-2 scene exactly at points, between the pixels too, and "
        "adds it to their fields. Only the tiles that the points need are encoded. Points outside the "
        "scene or on pixels without data are left out; the log names them.</p>"
    )

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add_scene()
        self.add(
            QgsProcessingParameterFeatureSource(
                "POINTS", tr("Points"), [QgsProcessing.SourceType.TypeVectorPoint]
            ),
            tr("A layer of points in any CRS and format, or a table with columns of longitude and latitude."),
        )
        self.add_model()
        self.add(
            QgsProcessingParameterNumber(
                "COMPONENTS", tr("Components"), QgsProcessingParameterNumber.Type.Integer, 0, minValue=0
            ),
            tr(
                "Number of principal components to add; 0 adds all dimensions of the embedding. Default: "
                "0. Models without a basis of components have all dimensions only."
            ),
        )
        self.add_bands()
        self.add_advanced()
        self.add(
            QgsProcessingParameterFeatureSink(
                "OUTPUT", tr("Points with embeddings"), QgsProcessing.SourceType.TypeVectorPoint
            ),
            tr("The points with all their fields and embedding_0, embedding_1 and so on."),
        )
        self.addOutput(QgsProcessingOutputNumber("LEFT_OUT", tr("Number of points left out")))

    def prepare(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Read the points."""
        self.read_table("POINTS", parameters, context, feedback, with_photos=False)

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the task ``sample``."""
        table, rows = self.table()
        check_destination(parameters.get("OUTPUT"), context, self.layer_path)
        sampled = self.temporary_folder() / "sampled.gpkg"
        request = self.scene_request(parameters, context, feedback)
        request.update(points=table.path, output=str(sampled))
        request["components"] = self.parameterAsInt(parameters, "COMPONENTS", context) or "all"
        result = self.run_task("sample", request, feedback)

        def make_sink(*shape: object) -> tuple[Any, str]:
            return self.parameterAsSink(parameters, "OUTPUT", context, *shape)

        columns = [f"embedding_{index}" for index in range(result["dimensions"])]
        output = write_features(
            join_result(rows, sampled, columns), parameters.get("OUTPUT"), make_sink, context, feedback
        )
        return {"OUTPUT": output, "LEFT_OUT": result["left_out"]}
