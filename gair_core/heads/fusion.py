"""Fusion: one head on any of photo, scene at the place, location and given image features, side by side."""

from __future__ import annotations

from gair_core.heads.point import PointHead


class FusionHead(PointHead):
    """A linear head, or one with a hidden layer, on the joined vectors: classes or quantities.

    With a single input it is the yardstick that a fusion must beat.
    """

    kind = "fusion"
