"""Every task that a configuration may ask for; one tells itself from the others by its ``kind``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gair_core.finetune.fusion_task import FusionTaskConfig
from gair_core.finetune.location_task import GeoPriorTaskConfig, LocationRegressionTaskConfig
from gair_core.finetune.photo_task import PhotoTaskConfig
from gair_core.finetune.scene_task import SceneTaskConfig

AnyTaskConfig = Annotated[
    SceneTaskConfig | PhotoTaskConfig | GeoPriorTaskConfig | LocationRegressionTaskConfig | FusionTaskConfig,
    Field(discriminator="kind"),
]
