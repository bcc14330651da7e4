"""The scene encoder as a data set needs it: its bands, its statistics, its ground sampling distance.

A data set may have fewer bands than the encoder. A band that is absent stands at its mean, which is 0.5 on
the encoder's scale from 0 to 1, everywhere and always: what the patch embedding makes of it is a constant and
moves into its bias, and its weights become 0. That is the same function, and an encoder that no longer looks
at those bands, so that a head trained without them gives the same on scenes that have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError
from gair_core.finetune.datasets.scenes import SceneData
from gair_core.model.gair import GAIR

MissingBands = Literal["mean", "zero"]
_FILL: dict[MissingBands, float] = {"mean": 0.5, "zero": 0.0}


def scene_part(model: GAIR) -> GAIR:
    """Return a copy of a model's scene encoder and NILI.

    Raises:
        CheckpointError: It has no scene encoder.
    """
    model.require_remote_sensing()
    return _copy(
        model, GAIRConfig.parse({**model.config.model_dump(), "street_view": None, "location": None})
    )


def adapt_encoder(
    model: GAIR, data: SceneData, *, missing: MissingBands = "mean", own_statistics: bool = True
) -> GAIR:
    """Return a copy of a model's scene encoder that fits a data set.

    Args:
        model: The model.
        data: The data set.
        missing: What an absent band holds: its ``mean``, or ``zero`` on the encoder's scale.
        own_statistics: Whether the data set's mean and standard deviation take the place of the model's.

    Raises:
        BadInputError: The data set has none, or it has a band that the model does not know.
        CheckpointError: The model has no scene encoder.
    """
    config = model.require_remote_sensing().config
    unknown = [band for band in data.bands if band not in config.bands]
    if unknown:
        raise BadInputError(
            f"{data.title} has the bands {', '.join(unknown)}, which the model does not know: it has "
            f"{', '.join(config.bands)}.",
            "Use a model with these bands.",
        )
    changes: dict[str, object] = {"gsd": data.gsd}
    if own_statistics:
        if data.mean is None or data.std is None:
            raise BadInputError(f"{data.title} has no statistics of its own.", "Set task.statistics=model.")
        changes["mean"] = _replaced(config.bands, config.mean, data.bands, data.mean)
        changes["std"] = _replaced(config.bands, config.std, data.bands, data.std)
    values = {
        **model.config.model_dump(),
        "street_view": None,
        "location": None,
        "remote_sensing": {**config.model_dump(), **changes},
    }
    adapted = _copy(model, GAIRConfig.parse(values))
    absent = [number for number, band in enumerate(config.bands) if band not in data.bands]
    projection = adapted.require_remote_sensing().patch_embed.proj
    if projection.bias is None:
        raise TypeError("the patch embedding of a scene encoder has a bias")
    with torch.no_grad():
        projection.bias += _FILL[missing] * projection.weight[:, absent].sum(dim=(1, 2, 3))
        projection.weight[:, absent] = 0
    return adapted


def is_changed(model: GAIR, adapted: GAIR) -> bool:
    """Return whether a head on an adapted encoder cannot name the model that it came from."""
    before, after = model.require_remote_sensing(), adapted.require_remote_sensing()
    same_weights = torch.equal(before.patch_embed.proj.weight, after.patch_embed.proj.weight)
    return before.config != after.config or not same_weights


def _copy(model: GAIR, config: GAIRConfig) -> GAIR:
    copy = GAIR(config)
    own = copy.state_dict()
    copy.load_state_dict({name: values for name, values in model.state_dict().items() if name in own})
    copy.checkpoint = model.checkpoint
    return copy.eval()


def _replaced(
    bands: Sequence[str], values: Sequence[float], names: Sequence[str], others: Sequence[float]
) -> tuple[float, ...]:
    known = {**dict(zip(bands, values, strict=True)), **dict(zip(names, others, strict=True))}
    return tuple(known[band] for band in bands)
