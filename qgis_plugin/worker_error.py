"""How requests to the worker fail."""

from __future__ import annotations


class WorkerError(Exception):
    """A request that failed.

    Args:
        kind: A kind of the protocol (bad_input, out_of_memory, cancelled, busy, unknown_task, protocol,
            internal), or one of this side: ``no_environment`` (no usable interpreter), ``version`` (another
            gair_core), ``died`` (the worker ended).
        message: What was found and what was wanted.
        hint: What the user can do; may be empty.
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()
