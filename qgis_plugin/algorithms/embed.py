"""`gair:embed`: the embedding of every pixel of a scene."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    Qgis,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterEnum,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
)

from ..translation import tr, translatable
from .base import SCENES, GairAlgorithm, Values

_AUTOMATIC = "automatic"


class EmbedAlgorithm(GairAlgorithm):
    """Writes a raster of embeddings."""

    ID = "embed"
    TITLE = translatable("Embed a scene")
    GROUP = SCENES
    TAGS = ("features", "pca", "principal components", "nili")
    HELP = translatable(
        "<p>Computes the embedding of every pixel of a Sentinel-2 scene and writes its principal components "
        "as a raster: places that look alike have similar values. The first three components are shown as "
        "red, green and blue. Use it as input of a clustering or a classifier.</p>"
    )

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add_scene()
        self.add_model()
        self.add_bands()
        self.add_extent()
        self.add(
            QgsProcessingParameterNumber(
                "RESOLUTION", tr("Pixel size (metres)"), QgsProcessingParameterNumber.Type.Double, minValue=0
            ),
            tr("Pixel size of the output in metres. Default (empty or 0): the scene's own pixels."),
            optional=True,
        )
        self.add(
            QgsProcessingParameterNumber(
                "COMPONENTS", tr("Components"), QgsProcessingParameterNumber.Type.Integer, 16, minValue=0
            ),
            tr(
                "Number of principal components to write; 0 writes all dimensions of the embedding. Default: "
                "16."
            ),
        )
        self.add(
            QgsProcessingParameterEnum(
                "DTYPE",
                tr("Pixel type"),
                [_AUTOMATIC, "int8", "float16", "float32"],
                defaultValue=_AUTOMATIC,
                usesStaticStrings=True,
            ),
            tr(
                "Type of the output's pixels. int8 is smallest; its band scales give the values back. "
                "Reading it needs QGIS 3.30 and GDAL 3.7. Default: automatic, int8 where this QGIS reads it, "
                "else float16."
            ),
        )
        self.add(
            QgsProcessingParameterEnum(
                "BASIS", tr("Basis"), ["model", "scene"], defaultValue="model", usesStaticStrings=True
            ),
            tr(
                "Whose principal components are written: the model's, which are the same for all scenes, or "
                "ones that are fitted to this scene, for models that have none. Default: model."
            ),
            advanced=True,
        )
        self.add_advanced()
        self.add(
            QgsProcessingParameterRasterDestination("OUTPUT", tr("Embedding")),
            tr("The GeoTIFF to write, one band a component, on the scene's pixel grid."),
        )
        self.addOutput(QgsProcessingOutputNumber("EXPLAINED_VARIANCE", tr("Explained variance (0 to 1)")))

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the task ``embed``."""
        components = self.parameterAsInt(parameters, "COMPONENTS", context)
        request = self.scene_request(parameters, context, feedback)
        request["output"] = self.output(parameters, context)
        request["components"] = components or "all"
        request["basis"] = self.parameterAsEnumString(parameters, "BASIS", context)
        request["dtype"] = self.parameterAsEnumString(parameters, "DTYPE", context)
        if request["dtype"] == _AUTOMATIC:
            request["dtype"] = automatic_dtype(components)
        resolution = self.parameterAsDouble(parameters, "RESOLUTION", context)
        if resolution:
            request["resolution"] = resolution
        result = self.run_task("embed", request, feedback)
        self.name_layer(
            context, request["output"], tr("Embedding of {scene}").format(scene=self.scene_name())
        )
        outputs = {"OUTPUT": result["output"], "EXPLAINED_VARIANCE": result["explained_variance"]}
        return {name: value for name, value in outputs.items() if value is not None}


def automatic_dtype(components: int) -> str:
    """Return the smallest pixel type that this QGIS reads.

    Args:
        components: Number of components; 0 for all dimensions, for which int8 has no scales.
    """
    return "int8" if components and reads_int8() else "float16"


def reads_int8() -> bool:
    """Return whether this QGIS and its GDAL know signed bytes."""
    # Not with the module: QGIS registers the algorithms when it starts.
    from osgeo import gdal

    return Qgis.QGIS_VERSION_INT >= 33000 and int(gdal.VersionInfo("VERSION_NUM")) >= 3070000
