"""What a step optimises: the encoders under the contrastive objective or the masked autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from gair_core.losses import ContrastiveLoss
from gair_core.model.gair import GAIR
from gair_core.model.mae import MaskedAutoencoder
from gair_core.pretrain.augmentation import Inputs
from gair_core.pretrain.config import ObjectiveConfig

Autocast = Callable[[], AbstractContextManager[None]]
Terms = dict[str, Tensor]
Embeddings = dict[str, Tensor]


class ContrastiveObjective(nn.Module):
    """GAIR's objective (Eq. 4) of any two or three modalities; see `gair_core.losses.ContrastiveLoss`.

    Args:
        model: The model.
        config: Modalities and the loss's settings.
        autocast: Context in which the image encoders run; the location encoder and the losses never do.
    """

    def __init__(self, model: GAIR, config: ObjectiveConfig, autocast: Autocast) -> None:
        super().__init__()
        self.model = model
        self.modalities = config.modalities
        self.contrast = ContrastiveLoss(config.secl_weight, config.bank_capacity, config.false_negative_km)
        self._autocast = autocast

    def forward(self, inputs: Inputs) -> Terms:
        """Return the terms over the batches of all ranks, the sum as ``loss``."""
        return self.compare(self.embed(inputs), inputs)

    def embed(self, inputs: Inputs) -> Embeddings:
        """Return the embeddings of a batch by modality, each (B, D), float32 or wider."""
        found: Embeddings = {}
        with self._autocast():
            if "scene" in self.modalities and inputs.scene is not None:
                features = self.model.encode_remote_sensing(inputs.scene)
                found["scene"] = self.model.interpolate(features, inputs.uv)[:, 0]
            if "photo" in self.modalities and inputs.photo is not None:
                found["photo"] = self.model.encode_street_view(inputs.photo)
        if "location" in self.modalities:
            found["location"] = self.model.encode_location(inputs.lonlat)
        wide = torch.promote_types(self.model.log_temperature.dtype, torch.float32)
        return {name: values.to(wide) for name, values in found.items()}

    def compare(self, embeddings: Embeddings, inputs: Inputs) -> Terms:
        """Return the terms of embeddings that `embed` returned."""
        located = "location" in embeddings
        terms = self.contrast(
            self.model.logit_scale,
            **embeddings,
            lonlat=inputs.lonlat if located else None,
            encode_location=self.model.encode_location if located else None,
            has_photo=inputs.has_photo if "photo" in embeddings else None,
        )
        return {"loss": terms.total, **{name: getattr(terms, name) for name in terms._fields[1:]}}

    def end_step(self, inputs: Inputs) -> None:
        """Put the batch's places, of all ranks, into the memory bank."""
        if "location" in self.modalities:
            self.contrast.bank.update(inputs.lonlat)


class MaskedObjective(nn.Module):
    """GAIR-MAE of the paper's ablation; see `gair_core.model.mae`.

    Args:
        model: The model; only its scene and photo encoders are trained.
        config: How to mask.
        autocast: Context in which the encoders and the decoder run.
    """

    def __init__(self, model: GAIR, config: ObjectiveConfig, autocast: Autocast) -> None:
        super().__init__()
        self.autoencoder = MaskedAutoencoder(model, config.mae)
        self._autocast = autocast

    @property
    def model(self) -> GAIR:
        """The model that is trained."""
        return self.autoencoder.model

    def forward(self, inputs: Inputs) -> Terms:
        """Return the errors over this rank's batch, their sum as ``loss``; masks come from torch's seed."""
        if inputs.scene is None:
            raise ValueError("the masked autoencoder needs scenes")
        uv = None if inputs.photo is None else inputs.uv[:, 0]
        with self._autocast():
            terms = self.autoencoder(inputs.scene, inputs.photo, uv, inputs.has_photo)
        return {"loss": terms.total, "scene": terms.scene, "photo": terms.photo}

    def end_step(self, inputs: Inputs) -> None:
        """Nothing is remembered."""


Objective = ContrastiveObjective | MaskedObjective


def build_objective(model: GAIR, config: ObjectiveConfig, autocast: Autocast) -> Objective:
    """Return the objective that a configuration asks for."""
    kind = ContrastiveObjective if config.kind == "contrastive" else MaskedObjective
    return kind(model, config, autocast)
