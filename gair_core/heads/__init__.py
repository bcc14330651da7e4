"""Heads: what turns embeddings into classes, and the description that travels with them."""

from __future__ import annotations

from gair_core.heads.base import (
    AccuracyReport,
    BackboneReference,
    BaseHead,
    Head,
    HeadClass,
    HeadConfig,
    HeadMetadata,
    HeadTarget,
)
from gair_core.heads.fusion import FusionHead
from gair_core.heads.geo_prior import GeoPrior
from gair_core.heads.linear import LinearChangeHead, LinearHead
from gair_core.heads.pixel import PixelLinearConfig, PixelLinearHead
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.heads.point import PointHead, PointHeadConfig
from gair_core.heads.probes import LinearProbe, NonlinearProbe
from gair_core.heads.regression import LocationRegression
from gair_core.heads.temporal import SeriesLinearConfig, SeriesLinearHead, SeriesLTAEConfig, SeriesLTAEHead
from gair_core.heads.upernet import UPerNetChangeConfig, UPerNetChangeHead, UPerNetConfig, UPerNetHead

__all__ = [
    "AccuracyReport",
    "BackboneReference",
    "BaseHead",
    "FusionHead",
    "GeoPrior",
    "Head",
    "HeadClass",
    "HeadConfig",
    "HeadMetadata",
    "HeadTarget",
    "LinearChangeHead",
    "LinearHead",
    "LinearProbe",
    "LocationRegression",
    "NonlinearProbe",
    "PixelFeatures",
    "PixelLinearConfig",
    "PixelLinearHead",
    "PointHead",
    "PointHeadConfig",
    "SeriesLTAEConfig",
    "SeriesLTAEHead",
    "SeriesLinearConfig",
    "SeriesLinearHead",
    "UPerNetChangeConfig",
    "UPerNetChangeHead",
    "UPerNetConfig",
    "UPerNetHead",
]
