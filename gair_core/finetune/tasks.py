"""Every task that a configuration may ask for; one tells itself from the others by its ``kind``."""

from __future__ import annotations

from gair_core.finetune.scene_task import SceneTaskConfig

AnyTaskConfig = SceneTaskConfig
