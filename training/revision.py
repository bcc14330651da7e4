"""Which revision of this project trains."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_revision() -> str:
    """Return the revision of this checkout, with a plus where files were changed; empty outside one."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        found = subprocess.run(  # noqa: S603
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
