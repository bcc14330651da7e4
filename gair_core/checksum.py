"""Checksums of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gair_core.progress import Progress

_BLOCK = 1 << 20


def sha256_of(path: Path, progress: Progress | None = None) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Args:
        path: The file.
        progress: May cancel.

    Raises:
        OSError: It cannot be read.
        CancelledError: The user cancelled.
    """
    progress = progress or Progress()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            progress.raise_if_cancelled()
            digest.update(block)
    return digest.hexdigest()
