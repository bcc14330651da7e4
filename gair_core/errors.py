"""Errors that tell a user what was found, what was wanted and the way out.

Every error that a user can cause derives from `GairError`; its ``kind`` is what the worker protocol sends
to the QGIS plugin and its ``hint`` is the way out, printed on a line of its own.
"""

from __future__ import annotations

from typing import ClassVar


class GairError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What was found and what was wanted.
        hint: What the user can do about it; may be empty.
    """

    kind: ClassVar[str] = "internal"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class BadInputError(GairError, ValueError):
    """A file, a value or a combination of options that cannot be used."""

    kind = "bad_input"


class CheckpointError(BadInputError):
    """A checkpoint that is damaged, foreign, newer than this software or lacks what was asked of it."""


class TrainingError(GairError):
    """A training run that cannot go on."""


class DownloadError(GairError):
    """A file that could not be fetched whole: no connection, a server that refuses, another checksum."""

    kind = "download"


class OutOfMemoryError(GairError):
    """The device has too little memory even for a batch of one tile."""

    kind = "out_of_memory"


class CancelledError(GairError):
    """The user cancelled the task."""

    kind = "cancelled"

    def __init__(self, message: str = "cancelled", hint: str = "") -> None:
        super().__init__(message, hint)
