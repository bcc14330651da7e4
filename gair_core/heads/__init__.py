"""Heads: what turns embeddings into classes, and the description that travels with them."""

from __future__ import annotations

from gair_core.heads.base import AccuracyReport, BackboneReference, Head, HeadClass, HeadConfig, HeadMetadata
from gair_core.heads.linear import LinearChangeHead, LinearHead

__all__ = [
    "AccuracyReport",
    "BackboneReference",
    "Head",
    "HeadClass",
    "HeadConfig",
    "HeadMetadata",
    "LinearChangeHead",
    "LinearHead",
]
