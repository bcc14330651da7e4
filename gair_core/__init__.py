"""GAIR: one embedding space for Sentinel-2 scenes, street-level photos and places.

What is public here is imported when it is first used, so that ``import gair_core`` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gair_core.version import __version__

if TYPE_CHECKING:
    from gair_core.checkpoint import load, save
    from gair_core.features import create_feature_extractor
    from gair_core.model.gair import GAIR

__all__ = ["GAIR", "__version__", "create_feature_extractor", "load", "save"]

_HOMES = {
    "GAIR": "gair_core.model.gair",
    "create_feature_extractor": "gair_core.features",
    "load": "gair_core.checkpoint",
    "save": "gair_core.checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
