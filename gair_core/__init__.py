"""GAIR: one embedding space for Sentinel-2 scenes, street-level photos and places."""

from __future__ import annotations

from gair_core.version import __version__

__all__ = ["__version__"]
