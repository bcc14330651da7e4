"""`gair:createenvironment`: the Python environment in which gair_core runs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputString,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterString,
)

from .. import environment, installation, settings
from ..installation import Build, InstallationError, Listener, Machine, Options
from ..translation import tr, translatable
from .base import GairAlgorithm, Values

ENVIRONMENT = ("environment", translatable("Environment"))
PLUGIN_FOLDER = Path(__file__).resolve().parents[1]


class CreateEnvironmentAlgorithm(GairAlgorithm):
    """Builds the environment, or only says how."""

    ID = "createenvironment"
    TITLE = translatable("Create the GAIR environment")
    GROUP = ENVIRONMENT
    NEEDS_WORKER = False
    TAGS = ("install", "python", "pip", "venv", "pytorch", "cuda", "update", "repair")
    HELP = translatable(
        "<p>Builds the Python environment in which all other algorithms of GAIR run, outside of QGIS and "
        "of the plugin's folder, from the source that the plugin carries. The exact commands come first in "
        "the log. It downloads about 1 GB (CPU) or 4 GB (CUDA), which takes some minutes. Run it again to "
        "repair or update the environment; after a cancel or a failure the previous one stays in use.</p>"
    )

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add(
            QgsProcessingParameterEnum(
                "BUILD",
                tr("PyTorch build"),
                list(installation.BUILDS),
                defaultValue="cpu",
                usesStaticStrings=True,
            ),
            tr(
                "cpu runs everywhere (on a Mac it includes the Apple GPU); cuda is for an NVIDIA GPU with a "
                "current driver; index takes what the package index offers. Default: cpu."
            ),
        )
        self.add(
            QgsProcessingParameterBoolean("COMMANDS_ONLY", tr("Only show the commands"), defaultValue=False),
            tr("Says what would be done and does nothing. Default: no."),
        )
        self._declare_advanced()
        self.addOutput(QgsProcessingOutputString("PYTHON", tr("Interpreter of the environment")))
        self.addOutput(QgsProcessingOutputString("COMMANDS", tr("Commands")))

    def _declare_advanced(self) -> None:
        self.add(
            QgsProcessingParameterString("INDEX_URL", tr("Package index address")),
            tr("Address of a mirror of PyPI. Default: as pip is configured on this machine."),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterString("TORCH_INDEX_URL", tr("PyTorch index address")),
            tr(
                "Address of an index with torch and torchvision. Default: download.pytorch.org where BUILD "
                "needs it."
            ),
            advanced=True,
            optional=True,
        )
        self.add(
            # QGIS's own filter for all files, *.*, refuses names without a dot.
            QgsProcessingParameterFile("PYTHON", tr("Base Python"), fileFilter=tr("Programs (*)")),
            tr(
                "The Python from which the environment is made: 3.10 or newer, 64 bits, with its venv "
                "module. Default: found on this machine, else fetched."
            ),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterBoolean("GEOCLIP", tr("With the weights of GeoCLIP"), defaultValue=False),
            tr(
                "Installs the package geoclip too, which gair:importcheckpoint needs for KIND geoclip. "
                "Default: no."
            ),
            advanced=True,
        )
        self.add(
            QgsProcessingParameterFile(
                "FOLDER", tr("Folder"), behavior=QgsProcessingParameterFile.Behavior.Folder
            ),
            tr(
                "Where the environment is built; about 3 GB (CPU) or 12 GB (CUDA) while that goes on. "
                "Another one than the default is noted in the setting gair/python. Default: {folder}."
            ).format(folder=settings.data_folder()),
            advanced=True,
            optional=True,
        )

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Show the commands, build, and use the result."""
        options = self._options(parameters, context)
        listener = Listener(
            feedback.pushInfo,
            lambda fraction, message: _report(feedback, fraction, message),
            feedback.isCanceled,
        )
        try:
            build = self._build(options, self.parameterAsString(parameters, "PYTHON", context), listener)
            commands = "\n".join(
                installation.shown(step.arguments, sys.platform) for step in installation.plan(build)
            )
            feedback.pushInfo(
                tr("The source in {source} is copied to {copy}, then:").format(
                    source=build.core, copy=build.source
                )
            )
            feedback.pushCommandInfo(commands)
            if self.parameterAsBoolean(parameters, "COMMANDS_ONLY", context):
                return {"PYTHON": "", "COMMANDS": commands}
            _warn_of_little_space(options, feedback)
            python = installation.install(build, listener)
            use(python, options.folder, feedback)
            _remove_others(build, feedback)
        except InstallationError as error:
            raise QgsProcessingException("\n".join(filter(None, (error.message, error.hint)))) from None
        feedback.pushInfo("\n" + tr("The environment is ready: {python}").format(python=python))
        return {"PYTHON": python, "COMMANDS": commands}

    def _options(self, parameters: Values, context: QgsProcessingContext) -> Options:
        folder = self.parameterAsString(parameters, "FOLDER", context) or settings.data_folder()
        path = Path(folder).expanduser().resolve()
        if path == PLUGIN_FOLDER or PLUGIN_FOLDER in path.parents:
            raise QgsProcessingException(
                tr("The environment cannot be in the plugin's folder, which updates of the plugin remove.")
                + "\n"
                + tr("Choose another FOLDER, or none.")
            )
        return Options(
            folder=str(path),
            build=self.parameterAsEnumString(parameters, "BUILD", context) or "cpu",
            index_url=self.parameterAsString(parameters, "INDEX_URL", context).strip(),
            torch_index_url=self.parameterAsString(parameters, "TORCH_INDEX_URL", context).strip(),
            geoclip=self.parameterAsBoolean(parameters, "GEOCLIP", context),
        )

    def _build(self, options: Options, choice: str, listener: Listener) -> Build:
        variables = environment.worker_environment(os.environ, sys.platform, QgsApplication.prefixPath())
        machine = Machine(sys.platform, variables, dict(os.environ), sys.base_prefix)
        base = installation.find_base_python(choice, machine, listener.cancelled)
        core = environment.core_folder(str(PLUGIN_FOLDER))
        return Build(options, machine, base, installation.new_folder(options), core)


def use(python: str, folder: str, feedback: QgsProcessingFeedback) -> None:
    """Let the plugin use a new environment: by the stamp in the default folder, by a setting elsewhere."""
    is_default = Path(folder) == Path(settings.data_folder()).resolve()
    before = settings.interpreter()
    settings.set_interpreter("" if is_default else python)
    if before and is_default:
        feedback.pushInfo(tr("The setting gair/python named {python}; it is cleared.").format(python=before))
    variable = os.environ.get(environment.VARIABLE)
    if variable:
        feedback.pushWarning(
            tr("The variable GAIR_PYTHON is set and goes first: {python} stays in use.").format(
                python=variable
            )
        )


def _remove_others(build: Build, feedback: QgsProcessingFeedback) -> None:
    """Remove the environment that this one replaces, once no algorithm runs in it any more."""
    from ..worker_client import WorkerError, shared_client

    try:
        shared_client().release(feedback.isCanceled)
    except WorkerError:
        feedback.pushInfo(tr("The previous environment is removed by the next run."))
        return
    installation.remove_others(Path(build.options.folder), build.folder)


def _warn_of_little_space(options: Options, feedback: QgsProcessingFeedback) -> None:
    existing = next(
        place for place in (Path(options.folder), *Path(options.folder).parents) if place.exists()
    )
    free, needed = shutil.disk_usage(existing).free, installation.NEEDED_BYTES[options.build]
    if free < needed:
        feedback.pushWarning(
            tr("{folder} has {free:.0f} GB of free space; about {needed:.0f} GB may be needed.").format(
                folder=existing, free=free / 1e9, needed=needed / 1e9
            )
        )


def _report(feedback: QgsProcessingFeedback, fraction: float, message: str) -> None:
    feedback.setProgress(100 * fraction)
    feedback.setProgressText(message)
