"""Heads for single photos and places: vectors in, classes or quantities out, no map.

Such a head reads some of four vectors of a sample, joined in this order:

- ``photo``: g(s) before the projection, which transfer leaves out (section 3.4 of the paper);
- ``scene``: z(q), the scene's embedding at the place of the photo;
- ``location``: e(x);
- ``image``: features that another encoder made of the sample's image, given with the data.

It has no lattice, so `gair segment` cannot run it; `gair predict` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from gair_core.config import Positive
from gair_core.errors import BadInputError
from gair_core.heads.base import BaseHead, HeadConfig, HeadMetadata, embedding_localizer
from gair_core.model.gair import GAIR

Input = Literal["photo", "scene", "location", "image"]
INPUTS: tuple[Input, ...] = ("photo", "scene", "location", "image")
"""All inputs, in the order in which they are joined."""

_PARTS: dict[Input, tuple[str, ...]] = {
    "photo": ("street_view",),
    "scene": ("remote_sensing", "nili"),
    "location": ("location",),
    "image": (),
}
# Below this an input counts as constant: dividing by its spread would only blow rounding up.
_SMALLEST_SPREAD = 1e-6
# How far the stored mean and spread go towards a batch's, as in torch's BatchNorm.
_PACE = 0.1


class PointHeadConfig(HeadConfig):
    """What a head for single photos and places reads.

    Attributes:
        inputs: Length of each vector that it reads.
        hidden: Width of its hidden layer, with sigmoids; None for a linear head.
    """

    inputs: dict[Input, Positive] = Field(min_length=1)
    hidden: Positive | None = None

    @property
    def order(self) -> tuple[Input, ...]:
        """Its inputs in the order in which they are joined."""
        return tuple(name for name in INPUTS if name in self.inputs)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("scene", "location"):
            if self.inputs.get(name, self.embed_dim) != self.embed_dim:
                raise ValueError(
                    f"the input {name} has the {self.embed_dim} dimensions of an embedding, "
                    f"found {self.inputs[name]}"
                )
        return self


class PointHead(BaseHead):
    """A head for single photos and places, see the module's description.

    Inputs are standardised by the mean and spread of the training data, which a linear layer could do as
    well but AdamW at one rate for all could not; a regression's outputs are scaled back to their units.

    Args:
        config: Its inputs.
        metadata: Its classes or targets.

    Attributes:
        allowed: Inputs that this kind may have.
        needed: Inputs that it must have.
        regression: Whether it predicts quantities (True), classes (False) or either (None).
        hidden_layers: Hidden layers (0 or 1) that it must have; None for either.
        follows: Whether, in training, mean and spread of the inputs are those of the batch, and the stored
            ones follow them (a BatchNorm without weights): needed while an encoder moves under the head.

    Raises:
        BadInputError: Inputs, hidden layer or metadata do not suit the kind.
    """

    config_class: ClassVar[type[HeadConfig]] = PointHeadConfig
    config: PointHeadConfig
    allowed: ClassVar[tuple[Input, ...]] = INPUTS
    needed: ClassVar[tuple[Input, ...]] = ()
    regression: ClassVar[bool | None] = None
    hidden_layers: ClassVar[int | None] = None

    def __init__(self, config: HeadConfig, metadata: HeadMetadata) -> None:
        super().__init__(config, metadata)
        self._check_kind()
        self.follows = False
        width = sum(self.config.inputs.values())
        outputs = len(metadata.classes) or len(metadata.targets)
        self.input_mean: Tensor
        self.input_spread: Tensor
        self.output_mean: Tensor
        self.output_spread: Tensor
        #: Mean and spread of the joined inputs, shape (width,), and of a regression's targets, (outputs,).
        self.register_buffer("input_mean", torch.zeros(width))
        self.register_buffer("input_spread", torch.ones(width))
        self.register_buffer("output_mean", torch.zeros(outputs))
        self.register_buffer("output_spread", torch.ones(outputs))
        hidden = self.config.hidden
        self.layers = (
            nn.Sequential(nn.Linear(width, outputs))
            if hidden is None
            else nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid(), nn.Linear(hidden, outputs))
        )

    @property
    def is_regression(self) -> bool:
        """Whether it predicts quantities and no classes."""
        return bool(self.metadata.targets)

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        """Parts of the model that it reads, as in `GAIRConfig.parts`; none for given features alone."""
        return tuple(part for name in self.config.order for part in _PARTS[name])

    def forward(self, inputs: Mapping[Input, Tensor]) -> Tensor:
        """Return what is trained on.

        Args:
            inputs: Each vector of N samples, (N, its length); more than it reads are ignored.

        Returns:
            Logits (N, classes), or a regression's targets in units of their spread, (N, targets).

        Raises:
            BadInputError: An input is missing or has another length.
        """
        joined = self.join(inputs)
        mean, spread = self.input_mean, self.input_spread
        if self.follows and self.training and len(joined) > 1:
            joined = joined.float()
            mean, spread = joined.mean(dim=0), (joined.var(dim=0) + _SMALLEST_SPREAD**2).sqrt()
            with torch.no_grad():
                self.input_mean.lerp_(mean, _PACE)
                self.input_spread.lerp_(spread, _PACE)
        outputs: Tensor = self.layers((joined - mean) / spread)
        return outputs

    def predict(self, inputs: Mapping[Input, Tensor]) -> Tensor:
        """Return class probabilities (N, classes), or quantities in their units (N, targets).

        Args:
            inputs: As in `forward`.
        """
        outputs = self(inputs).float()
        if self.is_regression:
            return outputs * self.output_spread + self.output_mean  # type: ignore[no-any-return]
        return outputs.softmax(dim=-1)  # type: ignore[no-any-return]

    def scaled(self, targets: Tensor) -> Tensor:
        """Return a regression's targets (N, targets) as `forward` predicts them; NaN stays NaN."""
        return (targets - self.output_mean) / self.output_spread

    @torch.no_grad()
    def fit_scales(self, inputs: Mapping[Input, Tensor], targets: Tensor | None = None) -> None:
        """Set mean and spread to those of the training data.

        Args:
            inputs: The training data, as in `forward`.
            targets: A regression's targets (N, targets), NaN where unknown; None leaves them.
        """
        mean, spread = _mean_and_spread(self.join(inputs))
        self.input_mean.copy_(mean)
        self.input_spread.copy_(spread)
        if targets is not None:
            mean, spread = _mean_and_spread(targets)
            self.output_mean.copy_(mean)
            self.output_spread.copy_(spread)

    def join(self, inputs: Mapping[Input, Tensor]) -> Tensor:
        """Return the inputs that it reads side by side, (N, sum of their lengths).

        Raises:
            BadInputError: One is missing or has another length.
        """
        for name in self.config.order:
            wanted = self.config.inputs[name]
            found = inputs[name].shape[-1] if name in inputs else None
            if found != wanted:
                raise BadInputError(
                    f"The head reads the input {name} of length {wanted}, "
                    f"found {'none' if found is None else found}.",
                    "Give it the inputs that it was trained on.",
                )
        return torch.cat([inputs[name] for name in self.config.order], dim=-1)

    def check_fits(self, model: GAIR) -> None:
        """Check that the model makes the vectors that it reads, see `BaseHead.check_fits`."""
        for part in self.encoder_parts:
            if part not in model.parts and part != "nili":
                raise BadInputError(
                    f"The head reads what the part '{part}' makes; the model holds {', '.join(model.parts)}.",
                    "Use the model that the head was trained on.",
                )
        for name, wanted in self.config.inputs.items():
            found = input_length(model, name)
            if found is not None and found != wanted:
                raise BadInputError(
                    f"The head reads the input {name} of {wanted} dimensions, the model's has {found}.",
                    "Use the model that the head was trained on.",
                )
        if "scene" in self.config.inputs:
            embedding_localizer(model)

    def _check_kind(self) -> None:
        found = self.config.order
        wrong = set(found) - set(self.allowed) or set(self.needed) - set(found)
        if wrong:
            wanted = " and ".join(self.needed) or " or ".join(self.allowed)
            raise BadInputError(
                f"A head of the kind {self.kind} reads {wanted}, found {' and '.join(found)}.",
                "Choose its inputs accordingly, or another kind of head.",
            )
        if self.hidden_layers is not None and self.hidden_layers != (self.config.hidden is not None):
            wanted = "one hidden layer" if self.hidden_layers else "no hidden layer"
            raise BadInputError(f"A head of the kind {self.kind} has {wanted}.")
        if self.regression not in (None, self.is_regression):
            wanted = "targets" if self.regression else "classes"
            raise BadInputError(f"A head of the kind {self.kind} needs {wanted}.")


def input_length(model: GAIR, name: Input) -> int | None:
    """Return the length of an input that a model makes; None for ``image``, which no model makes."""
    if name == "photo":
        return None if model.config.street_view is None else model.config.street_view.width
    return None if name == "image" else model.config.embed_dim


def _mean_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of columns (N, C) over what is no NaN; 1 where nothing varies."""
    values = values.double()
    mean = values.nanmean(dim=0)
    spread = (values - mean).square().nanmean(dim=0).sqrt()
    # A column without any value keeps 0 and 1.
    return mean.nan_to_num(), torch.where(spread > _SMALLEST_SPREAD, spread, torch.ones_like(spread))
