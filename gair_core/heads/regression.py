"""Location-aware regression: quantities from an image's given features and the location embedding."""

from __future__ import annotations

from gair_core.heads.point import PointHead


class LocationRegression(PointHead):
    """One linear layer on [image features, e(x)] (section 3.4 of the paper), trained with squared errors."""

    kind = "location_regression"
    allowed = needed = ("location", "image")
    regression = True
    hidden_layers = 0
