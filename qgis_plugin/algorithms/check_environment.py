"""`gair:checkenvironment`: what is there, what is missing and what to do."""

from __future__ import annotations

import html
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qgis.core import (
    Qgis,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputBoolean,
    QgsProcessingOutputString,
    QgsProcessingParameterFileDestination,
)

from .. import environment, settings
from ..report import page, write_page
from ..translation import tr, translatable
from .base import GairAlgorithm, Values
from .create_environment import ENVIRONMENT, PLUGIN_FOLDER


class Finding(NamedTuple):
    """A line of the report.

    Attributes:
        name: What was looked at.
        value: What was found.
        good: Whether that is as it should be; None where it is only information.
    """

    name: str
    value: str
    good: bool | None = None


class CheckEnvironmentAlgorithm(GairAlgorithm):
    """Reports on the environment."""

    ID = "checkenvironment"
    TITLE = translatable("Check the GAIR environment")
    GROUP = ENVIRONMENT
    NEEDS_WORKER = False
    TAGS = ("install", "python", "version", "diagnose", "self-test", "cuda", "device")
    HELP = translatable(
        "<p>Says which Python environment GAIR uses, with which versions and devices, tests that everything "
        "works (some seconds), and says what to do where something is missing. Nothing is changed. A fault "
        "does not make this algorithm fail: it is in the report, and the output OK is false.</p>"
    )

    def declare(self) -> None:
        """Add the parameters and outputs."""
        self.add_model()
        self.add_device()
        report = QgsProcessingParameterFileDestination("HTML", tr("Report"), tr("HTML files (*.html)"))
        report.setCreateByDefault(False)
        self.add(report, tr("An HTML file to write the report to. Default: only the log."), optional=True)
        self.addOutput(QgsProcessingOutputBoolean("OK", tr("Whether everything works")))
        self.addOutput(QgsProcessingOutputString("PYTHON", tr("Interpreter in use")))
        self.addOutput(QgsProcessingOutputString("TEXT", tr("Report as text")))

    def work(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Look, test and report."""
        interpreter = settings.chosen_interpreter()
        findings = plugin_findings(interpreter)
        request = {
            "model": self.model(parameters, context),
            "device": self.parameterAsEnumString(parameters, "DEVICE", context) or "auto",
        }
        findings += self._test(request, feedback)
        ok = all(finding.good is not False for finding in findings)
        text = as_text(findings, ok)
        for finding in findings:
            line = f"{finding.name}: {finding.value}"
            if finding.good is False:
                feedback.reportError(line, False)
            else:
                feedback.pushInfo(line)
        feedback.pushInfo(conclusion(ok))
        outputs = {"OK": ok, "PYTHON": interpreter.path if interpreter else "", "TEXT": text}
        destination = self.parameterAsFileOutput(parameters, "HTML", context)
        if destination:
            write_page(destination, as_html(findings, ok))
            outputs["HTML"] = destination
        return outputs

    def _test(self, request: dict[str, Any], feedback: QgsProcessingFeedback) -> list[Finding]:
        """Run gair_core's own check in the worker; a worker that does not start is a finding."""
        from ..worker_client import WorkerError, shared_client

        client = shared_client()
        try:
            result = client.run(
                "check",
                request,
                report=lambda fraction, _: feedback.setProgress(100 * fraction),
                cancelled=feedback.isCanceled,
            )
        except WorkerError as error:
            if error.kind == "cancelled":
                raise QgsProcessingException(tr("Cancelled.")) from None
            # A worker that answers is there, whatever is wrong with the model or the device.
            started = greeting_findings(client.greeting)
            return [*started, Finding(tr("Fault"), error.message, False), *_advice(error.hint)]
        return [*greeting_findings(client.greeting), *check_findings(result)]


def plugin_findings(interpreter: environment.Interpreter | None) -> list[Finding]:
    """Return what this side knows: versions, and where an interpreter may come from."""
    try:
        carried = Finding(tr("Plugin"), environment.carried_version(str(PLUGIN_FOLDER)))
    except environment.GreetingError as error:
        carried = Finding(tr("Plugin"), f"{error.message} {error.hint}", False)
    stamp = environment.read_stamp(settings.data_folder())
    made = (
        ", ".join(f"{name} {value}" for name, value in stamp.items() if name != "folder")
        if stamp
        else tr("none")
    )
    findings = [
        carried,
        Finding("QGIS", f"{Qgis.QGIS_VERSION}, Python {platform.python_version()}, {platform.platform()}"),
        Finding(environment.VARIABLE, os.environ.get(environment.VARIABLE) or tr("not set")),
        Finding(tr("Setting gair/python"), settings.interpreter() or tr("not set")),
        Finding(tr("Created environment in {folder}").format(folder=settings.data_folder()), made),
    ]
    if interpreter is None:
        findings.append(Finding(tr("Interpreter in use"), tr("none"), False))
    else:
        there = Path(interpreter.path).is_file()
        state = interpreter.path if there else tr("{path} does not exist").format(path=interpreter.path)
        findings.append(Finding(tr("Interpreter in use"), f"{state} ({interpreter.origin})", there))
    return findings


def greeting_findings(greeting: Mapping[str, Any] | None) -> list[Finding]:
    """Return what the worker says of itself."""
    if greeting is None:
        return []
    devices = ", ".join(map(str, greeting.get("devices", ())))
    versions = f"gair_core {greeting.get('gair_core')}, PyTorch {greeting.get('torch')}"
    return [Finding(tr("Worker"), versions, True), Finding(tr("Devices"), devices)]


def check_findings(result: Mapping[str, Any]) -> list[Finding]:
    """Return what gair_core's check found."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    devices = "; ".join(f"{device['name']}: {device['description']}" for device in result["devices"])
    models = "; ".join(f"{model['name']}: {model['title']}" for model in result["models"])
    tests = [
        Finding(
            tr("Test '{name}'").format(name=test["name"]),
            f"{test['outcome']}: {test['detail']}",
            None if test["outcome"] == "skip" else test["outcome"] == "pass",
        )
        for test in result["tests"]
    ]
    findings = [
        Finding(tr("Versions"), versions),
        Finding(
            tr("Computing devices"), f"{devices}; " + tr("tested: {device}").format(device=result["device"])
        ),
        Finding(tr("Models"), models),
        *tests,
        *(Finding(tr("Warning"), warning) for warning in result.get("warnings", ())),
    ]
    return findings if result["ok"] else [*findings, *_advice(environment.REPAIR)]


def _advice(hint: str) -> list[Finding]:
    return [Finding(tr("What to do"), hint)] if hint else []


def conclusion(ok: bool) -> str:
    """Return the last line of a report."""
    return tr("Everything works.") if ok else tr("Something does not work, see above.")


def as_text(findings: list[Finding], ok: bool) -> str:
    """Return the report as plain text."""
    return "\n".join([*(f"{finding.name}: {finding.value}" for finding in findings), conclusion(ok)])


def as_html(findings: list[Finding], ok: bool) -> str:
    """Return the report as a page."""
    signs = {True: "&#10004;", False: "&#10008;", None: ""}
    rows = "".join(
        f"<tr><td>{signs[finding.good]}</td><th>{html.escape(finding.name)}</th>"
        f"<td>{html.escape(finding.value).replace(chr(10), '<br>')}</td></tr>\n"
        for finding in findings
    )
    title = html.escape(tr("The GAIR environment"))
    return page(title, f"<h1>{title}</h1>\n<table>\n{rows}</table>\n<p>{html.escape(conclusion(ok))}</p>")
