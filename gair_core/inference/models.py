"""The model of the last task, kept so that the next one starts at once."""

from __future__ import annotations

from pathlib import Path

from gair_core import checkpoint, registry
from gair_core.model.gair import GAIR

_Key = tuple[str, int, int]
_last: tuple[_Key, GAIR] | None = None


def load_model(name: str) -> GAIR:
    """Load a model by path or registered name, or return the last one when its file has not changed.

    Args:
        name: As for `gair_core.load`.

    Returns:
        The model, wherever the last task left it.

    Raises:
        CheckpointError: As `gair_core.load`.
    """
    global _last  # noqa: PLW0603 (one model is kept for the whole process)
    key = _identity(registry.find(name))
    if _last is None or _last[0] != key:
        _last = None  # let the old one go before the new one comes
        _last = key, checkpoint.load(name)
    return _last[1]


def _identity(path: Path) -> _Key:
    status = path.stat() if path.exists() else None
    return (str(path.resolve()), status.st_mtime_ns, status.st_size) if status else (str(path), 0, 0)
