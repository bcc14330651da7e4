"""Tasks for the location encoder e (section 3.4 and table 3 of the paper), by TorchSpatial's protocol.

The encoder is small, so that it is trained with the head: ``mode=full``.
"""

from __future__ import annotations

from typing import Literal

from gair_core.finetune.located_task import LocatedTask, LocatedTaskConfig
from gair_core.heads.geo_prior import GeoPrior
from gair_core.heads.regression import LocationRegression
from gair_core.model.gair import GAIR


class GeoPriorTaskConfig(LocatedTaskConfig):
    """Classes from places, joined with an image classifier's probabilities when they are judged."""

    kind: Literal["geo_prior"] = "geo_prior"

    def build(self, model: GAIR, *, frozen: bool, seed: int) -> LocatedTask:
        """Return the task, see `TaskConfig.build`."""
        del seed
        return LocatedTask(
            model,
            self.data.read(),
            GeoPrior,
            ("location",),
            frozen=frozen,
            class_weights=self.class_weights,
        )


class LocationRegressionTaskConfig(LocatedTaskConfig):
    """Quantities from given image features and places side by side."""

    kind: Literal["location_regression"] = "location_regression"

    def build(self, model: GAIR, *, frozen: bool, seed: int) -> LocatedTask:
        """Return the task, see `TaskConfig.build`."""
        del seed
        return LocatedTask(model, self.data.read(), LocationRegression, ("location", "image"), frozen=frozen)
