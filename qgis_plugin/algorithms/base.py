"""What every algorithm of GAIR shares: names, help, parameters of a scene, and the run in the worker.

An algorithm declares its parameters in `declare`, reads layers and other things of the main thread in
`prepare`, and does its work in `work`, on whatever thread Processing chooses.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingUtils,
    QgsProperty,
    QgsRasterLayer,
)
from qgis.PyQt.QtGui import QIcon

from ..compatibility import wkt
from ..figure import Figure
from ..models import default_model, registered_models, resolve_model
from ..provider import ICON
from ..raster_input import Extent, InputError, RasterInput, is_product, parse_bands
from ..settings import remember_model
from ..translation import tr, translatable

if TYPE_CHECKING:
    from ..worker_error import WorkerError

SCENES = ("scenes", translatable("Scenes"))
PHOTOS = ("photos", translatable("Photos"))
MODELS = ("models", translatable("Models"))

Values = dict[str, Any]

_NUMBER = re.compile(r"[\d.,]+")
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)( all\b)?")
_COUNTDOWN_SECONDS = 10.0
_PACKAGE = __name__.rsplit(".", 2)[0]


class GairAlgorithm(QgsProcessingAlgorithm):
    """Base of all algorithms.

    Attributes:
        ID: Name inside the provider, such as ``segment``.
        TITLE: Name in the toolbox.
        GROUP: `SCENES`, `PHOTOS` or `MODELS`.
        TAGS: Words by which the toolbox finds it.
        HELP: What it does, in a few sentences of HTML; the parameters' own help is added.
        NEEDS_WORKER: Whether it cannot do anything without gair_core's environment.
    """

    ID = ""
    TITLE = ""
    GROUP = SCENES
    TAGS: tuple[str, ...] = ()
    HELP = ""
    NEEDS_WORKER = True

    def __init__(self) -> None:
        super().__init__()
        self._scene_names: list[str] = []
        self._list_names: list[str] = []
        self._rasters: dict[str, RasterInput] = {}
        self._classification = ""
        self._chosen_model = ""
        self._obstacle = ""
        self._temporary_folder: str | None = None
        self._names: dict[str, str] = {}

    # What an algorithm fills in.

    def declare(self) -> None:
        """Add the parameters and outputs."""
        raise NotImplementedError

    def prepare(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Read what belongs to the main thread, layers above all; keep plain values only."""

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Do the work and return the outputs by name.

        Raises:
            QgsProcessingException: It failed; the message says why and what to do.
        """
        raise NotImplementedError

    # What QGIS asks.

    def name(self) -> str:
        """Return the id."""
        return self.ID

    def displayName(self) -> str:
        """Return the title in the user's language."""
        return tr(self.TITLE)

    def groupId(self) -> str:
        """Return the group's id."""
        return self.GROUP[0]

    def group(self) -> str:
        """Return the group's name in the user's language."""
        return tr(self.GROUP[1])

    def tags(self) -> list[str]:
        """Return the words by which the toolbox finds it, translated and not."""
        words = ("gair", "sentinel-2", "embedding", *self.TAGS)
        return list(dict.fromkeys([*words, *(tr(word) for word in words)]))

    def icon(self) -> QIcon:
        """Return the provider's icon."""
        return QIcon(str(ICON))

    def svgIconPath(self) -> str:
        """Return the icon's file."""
        return str(ICON)

    def shortHelpString(self) -> str:
        """Return what it does and what each parameter means."""
        items = "".join(
            f"<h3>{parameter.description()}</h3><p>{parameter.help()}</p>"
            for parameter in self.parameterDefinitions()
            if parameter.help()
        )
        return f"{tr(self.HELP)}{items}"

    def createInstance(self) -> GairAlgorithm:
        """Return a new one, as Processing wants for every run."""
        return type(self)()

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Add the parameters and outputs."""
        self.declare()

    def checkParameterValues(self, parameters: Values, context: QgsProcessingContext) -> tuple[bool, str]:
        """Check the values as QGIS does, but let products pass that are no layers: folders and archives."""
        checked = dict(parameters)
        for name in self._scene_names:
            if is_product(parameters.get(name)):
                # QGIS does not look into a property.
                checked[name] = QgsProperty.fromValue(parameters[name])
        for name in self._list_names:
            values = listed(parameters.get(name))
            layers = [value for value in values if not is_product(value)]
            if len(layers) < len(values):
                # In a list it does; any layer may stand for products.
                checked[name] = layers or QgsRasterLayer()
        return super().checkParameterValues(checked, context)

    def prepareAlgorithm(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> bool:
        """Read the layers, on the main thread."""
        try:
            if self.NEEDS_WORKER:
                # Before layers are read and copied, which may take long.
                _require_worker()
            for name in self._scene_names:
                self._rasters[name] = self._read_raster(name, parameters, context)
            self._classification = self.classification("SCL", parameters, context)
            self.prepare(parameters, context, feedback)
        except QgsProcessingException as error:
            # Raised here, its text would reach the log only: processing.run would say 'there were errors'.
            self._obstacle = str(error)
        return True

    def processAlgorithm(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Do the work; nothing temporary is left, and a model that worked is remembered."""
        try:
            if self._obstacle:
                raise QgsProcessingException(self._obstacle)
            outputs = self.work(parameters, context, feedback)
        finally:
            # A provider that outlives QGIS, in some cycle of Python's, would crash it on exit.
            self._rasters.clear()
            if self._temporary_folder is not None:
                shutil.rmtree(self._temporary_folder, ignore_errors=True)
        if self._chosen_model:
            remember_model(self.ID, self._chosen_model)
        return outputs

    # Shared parameters.

    def add(
        self,
        parameter: QgsProcessingParameterDefinition,
        text: str,
        *,
        advanced: bool = False,
        optional: bool = False,
    ) -> None:
        """Add a parameter with its help.

        Args:
            parameter: The parameter.
            text: Its help, translated, with units and default.
            advanced: Whether it is hidden at first.
            optional: Whether it may be left out.
        """
        flags = parameter.flags()
        if advanced:
            flags |= QgsProcessingParameterDefinition.Flag.FlagAdvanced
        if optional:
            flags |= QgsProcessingParameterDefinition.Flag.FlagOptional
        parameter.setFlags(flags)
        parameter.setHelp(text)
        self.addParameter(parameter)

    def add_scene(self, name: str = "INPUT", description: str = "", text: str = "") -> None:
        """Add a Sentinel-2 scene, which `prepareAlgorithm` reads.

        Args:
            name: The parameter's name.
            description: Its label; default: Sentinel-2 scene.
            text: Its help; a default exists.
        """
        self._scene_names.append(name)
        self.add(
            QgsProcessingParameterRasterLayer(name, description or tr("Sentinel-2 scene")),
            text
            or tr(
                "Any raster layer or product with the ten Sentinel-2 bands of 10 m and 20 m: a stack of "
                "bands, a file inside a SAFE or band folder, a subdataset. Layers that are not files (WMS, "
                "WCS, virtual) are copied for the extent first. The layer needs a CRS."
            ),
        )

    def add_scenes(self, name: str, description: str, text: str, *, optional: bool = False) -> None:
        """Add a list of scenes, which `read_scenes` reads.

        Args:
            name: The parameter's name.
            description: Its label.
            text: Its help.
            optional: Whether there may be none; such a list is hidden at first.
        """
        self._list_names.append(name)
        parameter = QgsProcessingParameterMultipleLayers(
            name, description, QgsProcessing.SourceType.TypeRaster
        )
        self.add(parameter, text, advanced=optional, optional=optional)

    def read_scenes(self, name: str, parameters: Values, context: QgsProcessingContext) -> list[str]:
        """Read a list of scenes, on the main thread.

        Returns:
            A name a scene for `scene_source` and `scene_name`.

        Raises:
            QgsProcessingException: One cannot be read.
        """
        names = []
        for number, value in enumerate(listed(parameters.get(name)), start=1):
            found: list[QgsMapLayer] = []
            if not is_product(value):
                found = self.parameterAsLayerList({**parameters, name: [value]}, name, context)
            layer = found[0] if found else None
            try:
                raster = RasterInput.read(layer, str(value), context.transformContext())
            except InputError as error:
                raise QgsProcessingException(str(error)) from None
            names.append(f"{name} {number}")
            self._rasters[names[-1]] = raster
        return names

    def add_model(self, name: str = "MODEL") -> None:
        """Add the choice of a model: a registered name or a file; the last one is the default."""
        models = registered_models()
        parameter = QgsProcessingParameterString(name, tr("Model"), defaultValue=default_model(self.ID))
        # By name, so that no dialog is imported under qgis_process.
        parameter.setMetadata({"widget_wrapper": f"{_PACKAGE}.model_widget.ModelWidget"})
        self.add(
            parameter,
            tr(
                "A registered model's name or a checkpoint file (*.safetensors). Default: the one that was "
                "used last here, at first demo. Registered now: {models}."
            ).format(models=", ".join(models)),
        )

    def add_bands(self, name: str = "BANDS") -> None:
        """Add the order of the bands."""
        self.add(
            QgsProcessingParameterString(name, tr("Bands")),
            tr(
                "Where the bands are, for layers whose band names do not say so: either names with numbers, "
                "counted from 1, such as B2=1,B3=2,B4=3,B5=4,B6=5,B7=6,B8=7,B8A=8,B11=9,B12=10, or all names "
                "in the layer's order, such as B2,B3,B4,B5,B6,B7,B8,B8A,B11,B12. A band may stand in for "
                "another: B8A=B8. Default: found out from names and values."
            ),
            optional=True,
        )

    def add_extent(self, name: str = "EXTENT") -> None:
        """Add the extent."""
        self.add(
            QgsProcessingParameterExtent(name, tr("Extent")),
            tr(
                "The part to work on, in any CRS: xmin,xmax,ymin,ymax [EPSG:...]. Without a CRS it is in the "
                "project's, or where that is unset in the scene's. It grows outwards to whole pixels. "
                "Default: the whole scene."
            ),
            optional=True,
        )

    def add_advanced(self) -> None:
        """Add how to read the scene and how to run the encoder."""
        self.add(
            QgsProcessingParameterNumber("OFFSET", tr("Offset of the stored values (DN)")),
            tr(
                "Added to the stored values. -1000 removes the offset that ESA's products have since 2022, 0 "
                "leaves the values alone. Default: found out from metadata and values."
            ),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterRasterLayer("SCL", tr("Scene classification (SCL)")),
            tr(
                "A raster of ESA's scene classes, for clouds and their shadows to be left out. Default: the "
                "product's own where SCL classes are given, else none."
            ),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterString("SCL_CLASSES", tr("SCL classes to leave out")),
            tr(
                "Numbers from 0 to 11, for example 3,8,9,10 for cloud shadow, clouds and cirrus. Default: "
                "0,1,3,8,9,10 with a classification, else none."
            ),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterEnum(
                "MISSING",
                tr("Bands that the scene lacks"),
                ["error", "mean", "zero"],
                defaultValue="error",
                usesStaticStrings=True,
            ),
            tr(
                "error refuses the scene, mean and zero fill a band that is not there with its mean over the "
                "training data or with 0, at some cost in accuracy. Default: error."
            ),
            advanced=True,
        )
        self.add_device()
        for name, label, text in (
            (
                "TILE_SIZE",
                tr("Tile size (pixels)"),
                tr(
                    "Side of the tiles that the encoder sees, pixels of the model's resolution. Default: as "
                    "suits."
                ),
            ),
            (
                "BATCH_SIZE",
                tr("Batch size (tiles)"),
                tr("Tiles that are encoded at once; fewer need less memory. Default: as suits the device."),
            ),
        ):
            self.add(
                QgsProcessingParameterNumber(
                    name, label, QgsProcessingParameterNumber.Type.Integer, minValue=1
                ),
                text,
                advanced=True,
                optional=True,
            )

    def add_backbone(self) -> None:
        """Add where the encoder of a head is."""
        self.add(
            QgsProcessingParameterString("BACKBONE", tr("Encoder of the head")),
            tr(
                "The model that a head without an encoder of its own was trained on: a registered name or a "
                "file. Default: found among the registered models."
            ),
            advanced=True,
            optional=True,
        )

    def classification(self, name: str, parameters: Values, context: QgsProcessingContext) -> str:
        """Return the file of a layer of scene classes; belongs to the main thread.

        Returns:
            A source of GDAL's; empty where none is given.

        Raises:
            QgsProcessingException: It is no raster file.
        """
        if not parameters.get(name):
            return ""
        layer = self.parameterAsRasterLayer(parameters, name, context)
        if layer is None or not layer.isValid() or layer.dataProvider().name() != "gdal":
            raise QgsProcessingException(
                tr("The scene classification {value} is not a raster file. Choose a layer of a file.").format(
                    value=parameters[name]
                )
            )
        return str(layer.source())

    def backbone_request(self, parameters: Values, context: QgsProcessingContext) -> dict[str, str]:
        """Return the request's entry for the encoder of a head, if one is given."""
        value = self.parameterAsString(parameters, "BACKBONE", context).strip()
        return {"backbone": resolve_model(value)} if value else {}

    def add_device(self) -> None:
        """Add what to compute on."""
        self.add(
            QgsProcessingParameterEnum(
                "DEVICE",
                tr("Device"),
                ["auto", "cpu", "cuda", "mps"],
                defaultValue="auto",
                usesStaticStrings=True,
            ),
            tr(
                "What to compute on: cuda is an NVIDIA GPU, mps an Apple one. Default: auto, the fastest "
                "there is."
            ),
            advanced=True,
        )

    # Values of the shared parameters.

    def model(self, parameters: Values, context: QgsProcessingContext, name: str = "MODEL") -> str:
        """Return the model as the worker wants it; one that the user gave is remembered after success."""
        value = self.parameterAsString(parameters, name, context).strip()
        model = resolve_model(value) if value else default_model(self.ID)
        if parameters.get(name):
            self._chosen_model = model
        return model

    def extent(
        self, parameters: Values, context: QgsProcessingContext, name: str = "EXTENT"
    ) -> Extent | None:
        """Return the extent; None where the user gave none."""
        rectangle = self.parameterAsExtent(parameters, name, context)
        if parameters.get(name) in (None, "") or rectangle.isNull():
            return None
        return Extent(rectangle, self.parameterAsExtentCrs(parameters, name, context))

    def engine_request(self, parameters: Values, context: QgsProcessingContext) -> dict[str, Any]:
        """Return model, device, tile and batch size, as far as they are given."""
        request: dict[str, Any] = {
            "model": self.model(parameters, context),
            "device": self.parameterAsEnumString(parameters, "DEVICE", context) or "auto",
        }
        for name in ("TILE_SIZE", "BATCH_SIZE"):
            if parameters.get(name) not in (None, ""):
                request[name.lower()] = self.parameterAsInt(parameters, name, context)
        return request

    def scene_request(
        self,
        parameters: Values,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
        name: str = "INPUT",
    ) -> dict[str, Any]:
        """Return the request's entries for the scene, the extent and the encoder.

        Layers that are not files are copied here, so this belongs into `work`.

        Raises:
            QgsProcessingException: The layer, the bands or the extent cannot be used.
        """
        request = self.engine_request(parameters, context)
        extent = self.extent(parameters, context)
        request["scene"] = self.scene_source(name, extent, feedback)
        if extent is not None:
            request.update(extent_request(extent))
        request.update(self.reading_request(parameters, context))
        return request

    def reading_request(self, parameters: Values, context: QgsProcessingContext) -> dict[str, Any]:
        """Return the request's entries for how to read a scene, as far as they are given.

        Raises:
            QgsProcessingException: The bands or the classes to leave out cannot be read.
        """
        request: dict[str, Any] = {}
        bands = self.bands(parameters, context)
        if bands is not None:
            request["bands"] = bands
        if parameters.get("OFFSET") not in (None, ""):
            request["offset"] = self.parameterAsDouble(parameters, "OFFSET", context)
        if self._classification:
            request["scl"] = self._classification
        classes = self.parameterAsString(parameters, "SCL_CLASSES", context)
        if classes.strip():
            request["scl_classes"] = _numbers("SCL_CLASSES", classes)
        request["missing"] = self.parameterAsEnumString(parameters, "MISSING", context) or "error"
        return request

    def output(self, parameters: Values, context: QgsProcessingContext, name: str = "OUTPUT") -> str:
        """Return where an output goes, as the worker, which has another current folder, finds it.

        Returns:
            An absolute path; empty for an optional output that is not wanted.

        Raises:
            QgsProcessingException: An output that is needed has no place.
        """
        path = self.parameterAsOutputLayer(parameters, name, context)
        if path:
            return str(Path.cwd() / path)
        if self.parameterDefinition(name).flags() & QgsProcessingParameterDefinition.Flag.FlagOptional:
            return ""
        raise QgsProcessingException(tr("{name} is missing. Give a file to write.").format(name=name))

    def file(self, parameters: Values, context: QgsProcessingContext, name: str) -> str:
        """Return a file or folder of the user, as the worker, which has another current folder, finds it.

        Returns:
            An absolute path; empty where none was given.
        """
        path = self.parameterAsFile(parameters, name, context)
        return str(Path.cwd() / Path(path).expanduser()) if path else ""

    def bands(
        self, parameters: Values, context: QgsProcessingContext, name: str = "BANDS"
    ) -> dict[str, int | str] | None:
        """Return where the bands are, or None when the worker is to find out."""
        try:
            return parse_bands(self.parameterAsString(parameters, name, context))
        except InputError as error:
            raise QgsProcessingException(str(error)) from None

    def scene_source(self, name: str, extent: Extent | None, feedback: QgsProcessingFeedback) -> str:
        """Return what gair_core opens for a scene parameter: the layer's own source, or a temporary copy.

        Raises:
            QgsProcessingException: The layer cannot be read, or not in this extent.
        """
        raster = self._rasters[name]
        try:
            source = raster.source(extent, self.temporary_folder, feedback)
        except InputError as error:
            raise QgsProcessingException(str(error)) from None
        if source != raster.path:
            self.name_stand_in(source, raster.name)
        return source

    def name_stand_in(self, path: str, name: str) -> None:
        """Let errors name a layer instead of the temporary file that stands in for it."""
        self._names[path] = name

    def scene_name(self, name: str = "INPUT") -> str:
        """Return what people call a scene parameter's layer."""
        return self._rasters[name].name

    def scene_crs(self, name: str = "INPUT") -> QgsCoordinateReferenceSystem:
        """Return the CRS of a scene parameter's layer; invalid where only gair_core knows it."""
        return self._rasters[name].crs

    def name_layer(self, context: QgsProcessingContext, output: str, name: str) -> None:
        """Give an output's layer a name that says more than the parameter's, where it will be loaded."""
        if context.willLoadLayerOnCompletion(output):
            details = context.layerToLoadOnCompletionDetails(output)
            parameter = self.parameterDefinition(details.outputName)
            # A name that somebody chose, in a model for instance, stays.
            if parameter is not None and details.name == parameter.description():
                details.name = name
            Figure().watch(context, output)

    def temporary_folder(self) -> Path:
        """Return a folder that is removed when the work is done."""
        if self._temporary_folder is None:
            self._temporary_folder = tempfile.mkdtemp(prefix="gair_", dir=QgsProcessingUtils.tempFolder())
        return Path(self._temporary_folder)

    # The worker.

    def run_task(self, task: str, request: dict[str, Any], feedback: QgsProcessingFeedback) -> dict[str, Any]:
        """Run a task in the worker, with progress, log and cancel.

        Returns:
            The task's result.

        Raises:
            QgsProcessingException: With the worker's message and hint, or that it was cancelled.
        """
        from ..worker_client import WorkerError, shared_client

        monitor = _Monitor(feedback)
        try:
            return shared_client().run(
                task, request, report=monitor.report, log=monitor.log, cancelled=feedback.isCanceled
            )
        except WorkerError as error:
            if error.kind == "cancelled":
                raise QgsProcessingException(tr("Cancelled: nothing was written.")) from None
            failure = str(_failure(error))
            for path, name in self._names.items():
                failure = failure.replace(path, f"'{name}'")
            raise QgsProcessingException(failure) from None

    def _read_raster(self, name: str, parameters: Values, context: QgsProcessingContext) -> RasterInput:
        value = parameters.get(name)
        product = is_product(value)
        layer = None if product else self.parameterAsRasterLayer(parameters, name, context)
        try:
            return RasterInput.read(layer, str(value), context.transformContext())
        except InputError as error:
            raise QgsProcessingException(str(error)) from None


def listed(value: object) -> list[Any]:
    """Return the scenes of a parameter: a list of layers, or texts with one or several."""
    if isinstance(value, (list, tuple)):
        return [one for one in value if one not in (None, "")]
    if isinstance(value, str) and ";" in value and not Path(value).exists():
        return [one for one in value.split(";") if one]
    return [] if value in (None, "") else [value]


def _numbers(name: str, text: str) -> list[int]:
    items = re.split(r"[\s,;]+", text.strip(" \t\r\n,;"))
    if not all(item.isdecimal() for item in items):
        raise QgsProcessingException(
            tr("{name} takes numbers with commas between them, such as 3,8,9; found {text!r}.").format(
                name=name, text=text
            )
        )
    return [int(item) for item in items]


def _require_worker() -> None:
    from ..worker_client import WorkerError, shared_client

    try:
        shared_client().require_interpreter()
    except WorkerError as error:
        raise _failure(error) from None


def _failure(error: WorkerError) -> QgsProcessingException:
    hint = _OPTION.sub(_as_parameter, error.hint)
    return QgsProcessingException("\n".join(filter(None, (error.message, hint))))


def _as_parameter(option: re.Match[str]) -> str:
    """Return what an option of the command line, which gair_core's hints name, is called here."""
    # All components are 0 of them in a field for numbers.
    return option[1].replace("-", "_").upper() + (" 0" if option[2] else "")


class _Monitor:
    """Passes a task's progress and log on to Processing."""

    def __init__(self, feedback: QgsProcessingFeedback) -> None:
        self._feedback = feedback
        self._kind = ""
        self._next = 0.0

    def report(self, fraction: float, message: str) -> None:
        """Move the bar; every text becomes a line of the log, so mere countdowns come seldom."""
        self._feedback.setProgress(100 * fraction)
        kind, now = _NUMBER.sub("", message), time.monotonic()
        if message and (kind != self._kind or now >= self._next):
            self._kind, self._next = kind, now + _COUNTDOWN_SECONDS
            self._feedback.setProgressText(message)

    def log(self, level: str, message: str) -> None:
        """Show a line of the task's log."""
        if level == "error":
            self._feedback.reportError(message, False)
        elif level == "warning":
            self._feedback.pushWarning(message)
        else:
            self._feedback.pushInfo(message)


def crs_text(crs: QgsCoordinateReferenceSystem) -> str:
    """Return a CRS as gair_core reads it: an authority's code, or WKT for one that the user made."""
    if crs.authid().startswith(("EPSG:", "ESRI:", "OGC:", "IGNF:")):
        return crs.authid()
    return wkt(crs)


def extent_request(extent: Extent) -> dict[str, Any]:
    """Return a request's entries for an extent: left, bottom, right and top, and the CRS if it has one."""
    rectangle = extent.rectangle
    request: dict[str, Any] = {
        "extent": [rectangle.xMinimum(), rectangle.yMinimum(), rectangle.xMaximum(), rectangle.yMaximum()]
    }
    if extent.crs.isValid():
        request["extent_crs"] = crs_text(extent.crs)
    return request
