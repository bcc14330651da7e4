"""`gair:importcheckpoint`: the weights of another project as a checkpoint of ours."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
)

from ..models import resolve_model, user_folder
from ..report import page, write_page
from ..translation import tr, translatable
from .base import MODELS, GairAlgorithm, Values

_KINDS = ["official", "croma", "geoclip"]


class ImportCheckpointAlgorithm(GairAlgorithm):
    """Converts a foreign checkpoint and reports what became of it."""

    ID = "importcheckpoint"
    TITLE = translatable("Import a checkpoint")
    GROUP = MODELS
    TAGS = ("weights", "convert", "croma", "geoclip", "safetensors")
    HELP = translatable(
        "<p>Converts the weights of another project into a checkpoint that the other algorithms use: the "
        "authors' GAIR, CROMA's optical encoder, or GeoCLIP's location encoder. Code inside a file is never "
        "run. The report says what became of every part.</p>"
        "<p>You need not fetch the files by hand: in a shell, <i>gair download gair</i> (or geoclip, or "
        "croma) downloads, checks and imports them in one step.</p>"
    )

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add(
            QgsProcessingParameterFile("FILE", tr("Foreign checkpoint")),
            tr(
                "The foreign file (.pth, .pt or .safetensors). Default: none, for geoclip alone, whose "
                "weights come with its Python package."
            ),
            optional=True,
        )
        self.add(
            QgsProcessingParameterEnum(
                "KIND", tr("Kind"), _KINDS, defaultValue=_KINDS[0], usesStaticStrings=True
            ),
            tr(
                "Where the file comes from: official (the authors' GAIR), croma (a scene encoder alone) or "
                "geoclip (a location encoder alone). Default: official."
            ),
        )
        self._declare_options()
        self.add(
            QgsProcessingParameterFileDestination(
                "OUTPUT", tr("Checkpoint"), tr("GAIR checkpoints (*.safetensors)")
            ),
            tr(
                "The checkpoint to write. Put into the folder {folder}, it is offered by its name everywhere."
            ).format(folder=user_folder()),
        )
        self.add(
            QgsProcessingParameterFileDestination("HTML", tr("Report"), tr("HTML files (*.html)")),
            tr(
                "A page that says what the checkpoint holds and what was left out. Default: a temporary file."
            ),
            optional=True,
        )

    def _declare_options(self) -> None:
        self.add(
            QgsProcessingParameterString("INTO", tr("Model that receives the parts")),
            tr(
                "A registered model or checkpoint file whose other parts are kept; it is not changed itself. "
                "Default: none, the checkpoint holds the imported parts alone."
            ),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterString("TITLE", tr("Title")),
            tr("One line that says what the checkpoint is. Default: by its kind."),
            advanced=True,
            optional=True,
        )
        self.add(
            QgsProcessingParameterEnum(
                "PRECISION",
                tr("Precision"),
                ["float32", "float16", "bfloat16"],
                defaultValue="float32",
                usesStaticStrings=True,
            ),
            tr("Number type of the weights; the two of 16 bits halve the file. Default: float32."),
            advanced=True,
        )
        for name, label, text in (
            (
                "NUM_HEADS",
                tr("Attention heads"),
                tr("A CROMA encoder's attention heads, which no file tells. Default: 16 for the width 768."),
            ),
            (
                "PATCH_SIZE",
                tr("Patch size (pixels)"),
                tr("Resample CROMA's patches to this side in pixels. Default: as they are."),
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

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the task ``import``."""
        request = self._request(parameters, context)
        result = self.run_task("import", request, feedback)
        for note in result["notes"]:
            feedback.pushInfo(note)
        outputs = {"OUTPUT": result["output"]}
        report = self.parameterAsFileOutput(parameters, "HTML", context)
        if report:
            write_page(report, report_page(result, request))
            outputs["HTML"] = report
        return outputs

    def _request(self, parameters: Values, context: QgsProcessingContext) -> dict[str, Any]:
        kind = self.parameterAsEnumString(parameters, "KIND", context)
        source = self.file(parameters, context, "FILE")
        if not source and kind != "geoclip":
            raise QgsProcessingException(
                tr("There is no file to import. Give FILE; only geoclip comes without one.")
            )
        output = str(Path.cwd() / self.parameterAsFileOutput(parameters, "OUTPUT", context))
        request: dict[str, Any] = {
            "kind": kind,
            "paths": [path for path in (source, output) if path],
            "precision": self.parameterAsEnumString(parameters, "PRECISION", context),
        }
        into = self.parameterAsString(parameters, "INTO", context).strip()
        if into:
            request["into"] = resolve_model(into)
        title = self.parameterAsString(parameters, "TITLE", context).strip()
        if title:
            request["title"] = title
        for name in ("NUM_HEADS", "PATCH_SIZE"):
            if parameters.get(name) not in (None, ""):
                request[name.lower()] = self.parameterAsInt(parameters, name, context)
        return request


def report_page(result: dict[str, Any], request: dict[str, Any]) -> str:
    """Return the HTML report of an import.

    Args:
        result: What the task ``import`` returned.
        request: What it was asked.
    """
    source = Path(request["paths"][0]).name if len(request["paths"]) == 2 else "geoclip"
    sections = [
        f"<h1>{escape(result['title'])}</h1>",
        _table(
            {
                tr("Imported from"): f"{source} ({request['kind']})",
                tr("Checkpoint"): result["output"],
                tr("Tensors used"): result["tensors_used"],
                tr("Fingerprint"): result["fingerprint"],
            }
        ),
        f"<h2>{tr('Parameters of each part')}</h2>",
        _table({part: f"{count:,}" for part, count in result["parameters"].items()}),
        _list(tr("Warnings"), result["warnings"]),
        _list(tr("Notes"), result["notes"]),
        *(
            _list(tr("Left out: {reason}").format(reason=reason), names)
            for reason, names in result["ignored"].items()
        ),
    ]
    return page("GAIR", "\n".join(filter(None, sections)))


def _table(rows: dict[str, Any]) -> str:
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items()
    )
    return f"<table cellpadding='4'>{cells}</table>"


def _list(title: str, items: list[str]) -> str:
    if not items:
        return ""
    return f"<h2>{escape(title)}</h2><ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
