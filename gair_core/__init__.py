"""GAIR: one embedding space for Sentinel-2 scenes, street-level photos and places.

`load`, `save` and `GAIR` are imported when they are first used, so that ``import gair_core`` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gair_core.version import __version__

if TYPE_CHECKING:
    from gair_core.checkpoint import load, save
    from gair_core.model.gair import GAIR

__all__ = ["GAIR", "__version__", "load", "save"]

_HOMES = {"GAIR": "gair_core.model.gair", "load": "gair_core.checkpoint", "save": "gair_core.checkpoint"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
