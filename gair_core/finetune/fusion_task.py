"""Fusion of photo, scene at the place, place and image features (section 5.1 and figure 5 of the paper)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from gair_core.config import Positive
from gair_core.finetune.datasets.scene_places import ScenePlacesConfig
from gair_core.finetune.located_task import LocatedTask, LocatedTaskConfig
from gair_core.heads.fusion import FusionHead
from gair_core.heads.point import Input
from gair_core.model.gair import GAIR


class FusionTaskConfig(LocatedTaskConfig):
    """Classes or quantities from any inputs side by side; from one alone it is what a fusion must beat.

    Attributes:
        inputs: Of photo, scene, location and image.
        hidden: Width of the hidden layer; null for a linear head.
        scenes: The scenes at the places, for the input scene.
        flip: Whether photos are mirrored half of the time while their encoder is trained.
    """

    kind: Literal["fusion"] = "fusion"
    inputs: tuple[Input, ...] = Field(min_length=1)
    hidden: Positive | None = None
    scenes: ScenePlacesConfig | None = None
    flip: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"inputs must differ from each other, found {', '.join(self.inputs)}")
        if ("scene" in self.inputs) != (self.scenes is not None):
            raise ValueError("the input scene and the value scenes belong together: give both or neither")
        return self

    def build(self, model: GAIR, *, frozen: bool, seed: int) -> LocatedTask:
        """Return the task, see `TaskConfig.build`."""
        del seed
        return LocatedTask(
            model,
            self.data.read(),
            FusionHead,
            self.inputs,
            frozen=frozen,
            hidden=self.hidden,
            class_weights=self.class_weights,
            scenes=self.scenes,
            flip=self.flip,
        )
