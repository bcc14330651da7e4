"""The GAIR model: three encoders and NILI, each in one readable file."""

from __future__ import annotations

from gair_core.model.gair import GAIR

__all__ = ["GAIR"]
