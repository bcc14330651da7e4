"""`gair:photosimilarity`: where a scene looks like photos, and which photos do not fit their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputFolder,
    QgsProcessingOutputMultipleLayers,
    QgsProcessingOutputNumber,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFeatureSink,
    QgsProcessingParameterField,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingUtils,
)

from ..figure import Figure, make_see_through
from ..photo_input import PHOTO, ExportedTable, Rows
from ..point_output import check_destination, destination_text, join_result, write_features
from ..translation import tr, translatable
from .base import PHOTOS, Values
from .photos import TableAlgorithm

_RASTER_SUFFIXES = (".tif", ".tiff")
_SCORES = (
    "similarity",
    "percentile",
    "best_similarity",
    "best_lon",
    "best_lat",
    "best_x",
    "best_y",
    "best_distance_m",
)


class PhotoSimilarityAlgorithm(TableAlgorithm):
    """Maps the cosine of photos with every pixel of a scene."""

    ID = "photosimilarity"
    TITLE = translatable("Similarity of photos and a scene")
    GROUP = PHOTOS
    TAGS = ("street view", "geotag", "cosine", "similarity", "map", "photo")
    HELP = translatable(
        "<p>Compares street-level photos with every pixel of a Sentinel-2 scene: bright places look, seen "
        "from above, like the places where the photos were taken. The values are cosines from -1 to "
        "1.</p><p>The photos come back with the similarity at their own place, its percentile within the "
        "scene (0 to 100) and the place of and distance to the best match: photos with wrong coordinates "
        "stand out.</p>"
    )

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add_scene()
        self.add_photos()
        self.add_model()
        self.add(
            QgsProcessingParameterEnum(
                "MODE", tr("Mode"), ["mean", "group", "photo"], defaultValue="mean", usesStaticStrings=True
            ),
            tr(
                "mean: one band, the mean of the photos' cosines. group: a band for each value of the "
                "group field. photo: a raster for each photo, around its place; the output is a folder "
                "then. Default: mean."
            ),
        )
        self.add(
            QgsProcessingParameterField("GROUP_FIELD", tr("Group field"), None, "PHOTOS"),
            tr(
                "In the mode group, the field whose values become the bands. Other modes ignore it. Default: "
                "none."
            ),
            optional=True,
        )
        self.add(
            QgsProcessingParameterNumber(
                "RADIUS", tr("Radius (metres)"), QgsProcessingParameterNumber.Type.Double, 2000, minValue=0
            ),
            tr(
                "In the mode photo, half the side of the square around each photo, in metres; 0 takes the "
                "whole extent. Other modes ignore it. Default: 2000."
            ),
        )
        self.add_bands()
        self.add_extent()
        self.add_advanced()
        self.add(
            QgsProcessingParameterRasterDestination("OUTPUT", tr("Similarity")),
            tr(
                "The GeoTIFF to write, on the scene's pixel grid, cosines as float32. In the mode photo a "
                "folder, which gets a GeoTIFF named after each photo: give a folder, or a file name such "
                "as near.tif, which makes the folder near."
            ),
        )
        self.add(
            QgsProcessingParameterFeatureSink(
                "OUTPUT_PHOTOS", tr("Photos with scores"), QgsProcessing.SourceType.TypeVectorPoint
            ),
            tr(
                "The photos that were used, with all their fields and similarity, percentile (0 to 100), "
                "best_similarity, best_lon, best_lat, best_x, best_y (in the scene's CRS) and "
                "best_distance_m (metres). The whole scene is encoded for it, whatever the extent; left "
                "out, only the extent is."
            ),
            optional=True,
        )
        self.addOutput(QgsProcessingOutputFolder("OUTPUT_FOLDER", tr("Folder of the similarity rasters")))
        self.addOutput(QgsProcessingOutputMultipleLayers("OUTPUT_RASTERS", tr("Similarity rasters")))
        self.addOutput(QgsProcessingOutputNumber("PHOTO_COUNT", tr("Number of photos compared")))

    def prepare(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Read the photos."""
        self.read_table("PHOTOS", parameters, context, feedback)

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the task ``similarity``."""
        table, rows = self.table()
        mode = self.parameterAsEnumString(parameters, "MODE", context)
        wanted = destination_text(parameters.get("OUTPUT_PHOTOS"), context)
        check_destination(wanted, context, self.layer_path)
        request = self.scene_request(parameters, context, feedback)
        request.update(photos=table.path, photo_field=PHOTO, mode=mode, scores=bool(wanted))
        if mode == "group":
            request["group_field"] = self._group_column(parameters, context, table)
        scores = self.temporary_folder() / "scores.gpkg"
        if wanted:
            request["photos_output"] = str(scores)
        figure = Figure()
        if mode == "photo":
            request["radius"] = self.parameterAsDouble(parameters, "RADIUS", context) or "full"
            result, outputs = self._one_raster_a_photo(request, parameters, context, feedback, figure)
        else:
            result, outputs = self._one_raster(request, parameters, context, feedback, figure)
        if wanted:
            outputs["OUTPUT_PHOTOS"] = self._write_photos(scores, rows, parameters, context, feedback)
            figure.watch(context, outputs["OUTPUT_PHOTOS"])
        return {**outputs, "PHOTO_COUNT": result["photos"]}

    def _group_column(self, parameters: Values, context: QgsProcessingContext, table: ExportedTable) -> str:
        field = self.parameterAsString(parameters, "GROUP_FIELD", context)
        if not field:
            raise QgsProcessingException(tr("The mode group needs a group field: choose one."))
        if field not in table.columns:
            raise QgsProcessingException(
                tr("The photos have no field {field}; they have {fields}.").format(
                    field=field, fields=", ".join(table.columns)
                )
            )
        return table.columns[field]

    def _one_raster(
        self,
        request: dict[str, Any],
        parameters: Values,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        figure: Figure,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        output = self.output(parameters, context)
        result = self.run_task("similarity", {**request, "output": output}, feedback)
        make_see_through(output, feedback)
        figure.watch(context, output)
        return result, {
            "OUTPUT": output,
            "OUTPUT_FOLDER": str(Path(output).parent),
            "OUTPUT_RASTERS": [output],
        }

    def _one_raster_a_photo(
        self,
        request: dict[str, Any],
        parameters: Values,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        figure: Figure,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        destination = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        # A folder is no layer: its rasters are loaded instead, if loading was asked for.
        pending = context.layersToLoadOnCompletion()
        details = pending.pop(destination, None)
        context.setLayersToLoadOnCompletion(pending)
        folder = Path(self.output(parameters, context))
        if folder.suffix.lower() in _RASTER_SUFFIXES:
            folder = folder.with_suffix("")
        before = _rasters_in(folder)
        result = self.run_task("similarity", {**request, "output": str(folder)}, feedback)
        rasters = [path for path, state in _rasters_in(folder).items() if before.get(path) != state]
        for raster in rasters:
            make_see_through(str(raster), feedback)
        for raster in rasters if details is not None else ():
            name = tr("Similarity to {photo}").format(photo=raster.stem)
            context.addLayerToLoadOnCompletion(
                str(raster),
                QgsProcessingContext.LayerDetails(
                    name, details.project, "OUTPUT", QgsProcessingUtils.LayerHint.Raster
                ),
            )
            figure.watch(context, str(raster))
        feedback.pushInfo(
            tr("{count} rasters were written into the folder {folder}.").format(
                count=len(rasters), folder=folder
            )
        )
        return result, {
            "OUTPUT": str(folder),
            "OUTPUT_FOLDER": str(folder),
            "OUTPUT_RASTERS": [str(raster) for raster in rasters],
        }

    def _write_photos(
        self,
        scores: Path,
        rows: Rows,
        parameters: Values,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> str:
        def make_sink(*shape: object) -> tuple[Any, str]:
            return self.parameterAsSink(parameters, "OUTPUT_PHOTOS", context, *shape)

        return write_features(
            join_result(rows, scores, _SCORES), parameters.get("OUTPUT_PHOTOS"), make_sink, context, feedback
        )


def _rasters_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the rasters of a folder with what changes when one is written anew."""
    states = {path: path.stat() for path in sorted(folder.glob("*.tif"))}
    return {path: (state.st_mtime_ns, state.st_ino) for path, state in states.items()}
