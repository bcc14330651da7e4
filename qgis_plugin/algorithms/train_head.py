"""`gair:trainhead`: a segmentation model from labelled polygons or points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterString,
)

from ..label_input import export_labels
from ..models import user_folder
from ..photo_input import layer_file, read_rows, wants_selection
from ..raster_input import Extent
from ..translation import tr, translatable
from .base import MODELS, Values, extent_request
from .photos import TableAlgorithm


class TrainHeadAlgorithm(TableAlgorithm):
    """Trains a head on scenes with a layer of labels, and reports how good it is."""

    ID = "trainhead"
    TITLE = translatable("Train a model from polygons")
    GROUP = MODELS
    TAGS = ("classification", "supervised", "training", "land cover", "polygons", "head")
    HELP = translatable(
        "<p>Makes a segmentation model from labelled polygons or points, in about a minute. It learns from "
        "the embedding of each labelled pixel and from the pixel's own bands, and finds out by itself, on "
        "polygons that it holds out, how much of the embedding helps. <i>Segment a scene</i> then uses the "
        "model on this scene and on others like it.</p><p>The report says how accurate the model is on "
        "held-out polygons, class by class, estimates the areas of the classes with confidence intervals, "
        "warns of what looks wrong and shows the map. Draw at least three polygons a class, scattered over "
        "the scene; the colours of the classes are those of the layer's style.</p>"
    )

    def __init__(self) -> None:
        super().__init__()
        self._scenes: list[str] = []
        self._labels = ""
        self._labels_file = ""
        self._labels_extent: Extent | None = None

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add_scenes(
            "INPUT",
            tr("Sentinel-2 scenes"),
            tr(
                "One or several raster layers or products with the ten Sentinel-2 bands of 10 m and 20 m: "
                "other dates of one place, or other places. Each label is used in every scene that covers it."
            ),
        )
        self._declare_labels()
        self.add_model()
        self.add_bands()
        self.add_extent()
        self.add(
            QgsProcessingParameterString("TITLE", tr("Title")),
            tr(
                "One line that says what the model maps. Default: the number of classes and the layer's name."
            ),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterBoolean("EMBED", tr("Put the encoder into the model"), defaultValue=False),
            tr(
                "Makes a file that works without the encoder's own, and is as large as both. Default: no, "
                "the file is small and needs its encoder, which is found among the registered models."
            ),
            advanced=True,
        )
        self.add_advanced()
        self._declare_outputs()

    def _declare_labels(self) -> None:
        self.add(
            QgsProcessingParameterFeatureSource(
                "LABELS",
                tr("Labels"),
                [QgsProcessing.SourceType.TypeVectorPolygon, QgsProcessing.SourceType.TypeVectorPoint],
            ),
            tr(
                "A layer of polygons or points in any CRS. Parts of a multipolygon count as polygons of "
                "their own. Pixels that polygons of two classes share are left out."
            ),
        )
        self.add(
            QgsProcessingParameterField("CLASS_FIELD", tr("Class field"), None, "LABELS"),
            tr(
                "The field with the class of each feature: names, or whole numbers, which stay the values of "
                "the map. Features without a class are left out."
            ),
        )

    def _declare_outputs(self) -> None:
        self.add(
            QgsProcessingParameterFileDestination(
                "OUTPUT_MODEL", tr("Segmentation model"), tr("GAIR checkpoints (*.safetensors)")
            ),
            tr(
                "The model to write. Put into the folder {folder}, it is offered by its name everywhere."
            ).format(folder=user_folder()),
        )
        self.add(
            QgsProcessingParameterFileDestination("REPORT", tr("Report"), tr("HTML files (*.html)")),
            tr(
                "A page with accuracy, areas, warnings and a map. For the map the scene, or the extent, is "
                "segmented. Default: a temporary file."
            ),
            optional=True,
        )
        self.addOutput(
            QgsProcessingOutputNumber("ACCURACY", tr("Overall accuracy on held-out polygons (0 to 1)"))
        )
        self.addOutput(QgsProcessingOutputNumber("MEAN_F1", tr("Mean F1 of the classes (0 to 1)")))
        self.addOutput(QgsProcessingOutputNumber("CLASS_COUNT", tr("Number of classes")))
        self.addOutput(QgsProcessingOutputNumber("COMPONENTS", tr("Components of the embedding in use")))

    def prepare(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Read the scenes, the labels and their style."""
        self._scenes = self.read_scenes("INPUT", parameters, context)
        if not self._scenes:
            raise QgsProcessingException(tr("There is no scene to train on. Choose one as INPUT."))
        source = self.parameterAsSource(parameters, "LABELS", context)
        if source is None:
            raise QgsProcessingException(self.invalidSourceError(parameters, "LABELS"))
        layer = self._vector_layer("LABELS", parameters, context)
        self._labels_file = layer_file(layer)
        rows = read_rows(source, feedback, wants_selection(parameters.get("LABELS")))
        field = self.parameterAsString(parameters, "CLASS_FIELD", context)
        self._labels = export_labels(rows, layer, field, self.temporary_folder(), context)
        self.name_stand_in(self._labels, rows.name)
        self._labels_extent = Extent(source.sourceExtent(), source.sourceCrs())

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the task ``train-head``."""
        request = self._request(parameters, context, feedback)
        result = self.run_task("train-head", request, feedback)
        outputs = {
            "OUTPUT_MODEL": result["output"],
            "REPORT": result["report"],
            "ACCURACY": result["overall_accuracy"],
            "MEAN_F1": result["macro_f1"],
            "CLASS_COUNT": len(result["pixels"]),
            "COMPONENTS": result["components"],
        }
        self._describe(result, feedback)
        return {name: value for name, value in outputs.items() if value is not None}

    def _request(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        request = self.engine_request(parameters, context)
        request.update(self.reading_request(parameters, context))
        # Of a layer that is no file, what the labels need is copied.
        scenes = [self.scene_source(name, self._labels_extent, feedback) for name in self._scenes]
        request.update(scene=scenes[0], more_scenes=scenes[1:], labels=self._labels)
        request["field"] = self.parameterAsString(parameters, "CLASS_FIELD", context)
        extent = self.extent(parameters, context)
        if extent is not None:
            request.update(extent_request(extent))
        title = self.parameterAsString(parameters, "TITLE", context).strip()
        if title:
            request["title"] = title
        request["embed_backbone"] = self.parameterAsBoolean(parameters, "EMBED", context)
        output = self.parameterAsFileOutput(parameters, "OUTPUT_MODEL", context)
        request["output"] = self._destination(str(Path.cwd() / output))
        report = self.parameterAsFileOutput(parameters, "REPORT", context)
        if report:
            request["report"] = self._destination(str(Path.cwd() / report))
        return request

    def _destination(self, path: str) -> str:
        """Return an output unless it is the labels' file, of which gair_core sees only a copy."""
        if self._labels_file and Path(path).exists() and Path(path).samefile(self._labels_file):
            raise QgsProcessingException(
                tr(
                    "The output {path} is the input. Inputs are never overwritten: choose another name."
                ).format(path=path)
            )
        return path

    def _describe(self, result: dict[str, Any], feedback: QgsProcessingFeedback) -> None:
        for name, count in result["pixels"].items():
            feedback.pushInfo(tr("{name}: {count} labelled pixels").format(name=name, count=count))
        if result["overall_accuracy"] is not None:
            feedback.pushInfo(
                tr("Overall accuracy on held-out polygons: {accuracy:.1f} %, mean F1 {f1:.1f} %").format(
                    accuracy=100 * result["overall_accuracy"], f1=100 * result["macro_f1"]
                )
            )
