"""Probes of the photo encoder, and its full fine-tuning (section 3.4 and table 1 of the paper)."""

from __future__ import annotations

from typing import Literal

from gair_core.config import Positive
from gair_core.finetune.located_task import LocatedTask, LocatedTaskConfig
from gair_core.heads.probes import LinearProbe, NonlinearProbe
from gair_core.model.gair import GAIR


class PhotoTaskConfig(LocatedTaskConfig):
    """Classes or quantities from photos alone.

    With ``mode=frozen`` it is a probe, with ``mode=full`` the encoder learns too.

    Attributes:
        hidden: Width of the hidden layer of the non-linear probe; null for the linear one.
        flip: Whether photos are mirrored half of the time while their encoder is trained.
    """

    kind: Literal["photo"] = "photo"
    hidden: Positive | None = None
    flip: bool = True

    def build(self, model: GAIR, *, frozen: bool, seed: int) -> LocatedTask:
        """Return the task, see `TaskConfig.build`."""
        del seed
        return LocatedTask(
            model,
            self.data.read(),
            LinearProbe if self.hidden is None else NonlinearProbe,
            ("photo",),
            frozen=frozen,
            hidden=self.hidden,
            class_weights=self.class_weights,
            flip=self.flip,
        )
