"""``qgis_process`` as a subprocess, with the staged plugin in a profile of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .conftest import GAIR_PYTHON, STAGE

# On Debian 12 the wrapper adds an option that the program does not know.
PROGRAM = shutil.which("qgis_process.bin") or shutil.which("qgis_process")


class QgisProcess:
    """Calls of ``qgis_process``.

    Args:
        profile: An empty folder for its settings.
        plugins: The folder that holds the plugin's folder.
    """

    def __init__(self, profile: Path, plugins: Path = STAGE) -> None:
        self.environment = {
            **os.environ,
            "QGIS_CUSTOM_CONFIG_PATH": str(profile),
            "QGIS_PLUGINPATH": str(plugins),
            "QT_QPA_PLATFORM": "offscreen",
            "GAIR_PYTHON": str(GAIR_PYTHON),
        }
        enabled = self.call("plugins", "enable", "gair")
        if enabled.returncode != 0:
            raise RuntimeError(enabled.stdout + enabled.stderr)

    def call(
        self, *arguments: str, stdin: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Call it, whatever comes of it."""
        return subprocess.run(
            [PROGRAM, *arguments],
            env={**self.environment, **(environment or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def run(
        self, algorithm: str, environment: dict[str, str] | None = None, **parameters: object
    ) -> subprocess.CompletedProcess[str]:
        """Run an algorithm with ``NAME=value`` parameters, whatever comes of it."""
        values = (f"{name}={value}" for name, value in parameters.items())
        return self.call("run", algorithm, "--", *values, environment=environment)
