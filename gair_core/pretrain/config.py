"""What a pretraining run is: typed, frozen, read from YAML with dotted overrides.

A YAML file may name another one as ``base`` (relative to itself), whose values it changes. ``model`` may name
a ``preset`` (base, small, tiny), whose values its other keys change; null leaves a part of the model out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from gair_core.config import Config, GAIRConfig, Positive, Preset
from gair_core.errors import BadInputError
from gair_core.model.mae import MAEConfig
from gair_core.yaml_config import merged, read_values

Modality = Literal["scene", "photo", "location"]
Precision = Literal["bf16-mixed", "32-true", "64-true"]
_MODALITY_PARTS: dict[str, str] = {"scene": "remote_sensing", "photo": "street_view", "location": "location"}


class DataConfig(Config):
    """Which samples are read, and how.

    Attributes:
        store: Folder of the store.
        split: Split to train on.
        evaluation_split: Split to evaluate on while training; None evaluates nothing.
        workers: Processes that read ahead on each rank; 0 reads in the training process.
        prefetch: Batches that each of them keeps ready.
        min_valid: Valid fraction below which a window is drawn again from another date.
        unreadable_limit: Photos that may be unreadable, as a fraction of those drawn, before the run stops.
    """

    store: Path
    split: str = "train"
    evaluation_split: str | None = "validation"
    workers: int = Field(4, ge=0)
    prefetch: Positive = 4
    min_valid: float = Field(0.5, ge=0, le=1)
    unreadable_limit: float = Field(0.01, ge=0, le=1)


class SamplingConfig(Config):
    """How batches are drawn.

    Attributes:
        batch_size: Samples in a batch over all ranks.
        city_block: Samples of one city that stand together in a batch: 1 mixes all cities, `batch_size` makes
            batches of one city, whose negatives are harder.
        balance: ``settlement`` draws urban and rural samples in equal numbers.
    """

    batch_size: Positive = 256
    city_block: Positive = 1
    balance: Literal["none", "settlement"] = "none"


class AugmentationConfig(Config):
    """How samples vary from visit to visit.

    Attributes:
        flip_scene: Flip scenes, and the query with them, along either axis half of the time.
        flip_photo: Flip photos from left to right half of the time.
        random_window: Draw the window around a photo anywhere in its tile; otherwise the photo stands as near
            to the window's centre as the tile allows.
        random_date: Draw one of the tile's dates at each visit; otherwise take the one nearest in season to
            the photo.
        brightness: Largest relative change of the visible bands' and the photos' brightness.
        contrast: Largest relative change of their contrast.
        saturation: Largest relative change of their saturation.
        location_kappa: Concentration of von Mises-Fisher noise on the places; None for none. At 300 it moves
            a place by 4.1 degrees on average.
    """

    flip_scene: bool = True
    flip_photo: bool = True
    random_window: bool = True
    random_date: bool = True
    brightness: float = Field(0.2, ge=0, lt=1)
    contrast: float = Field(0.2, ge=0, lt=1)
    saturation: float = Field(0.2, ge=0, lt=1)
    location_kappa: float | None = Field(None, gt=0)

    @classmethod
    def none(cls) -> AugmentationConfig:
        """Return the settings under which every visit is the same, as evaluation needs them."""
        return cls(
            flip_scene=False,
            flip_photo=False,
            random_window=False,
            random_date=False,
            brightness=0,
            contrast=0,
            saturation=0,
        )


class ObjectiveConfig(Config):
    """What is optimised.

    Attributes:
        kind: ``contrastive`` (Eq. 4) or ``mae``, the masked autoencoder of the ablation.
        modalities: Two or three of scene, photo and location, for the contrastive objective.
        secl_weight: lambda of Eq. 4.
        bank_capacity: Coordinates in SECL's memory bank.
        false_negative_km: Entries of the bank nearer than this are no negatives; 0 keeps all.
        mae: Settings of the masked autoencoder.
    """

    kind: Literal["contrastive", "mae"] = "contrastive"
    modalities: tuple[Modality, ...] = ("scene", "photo", "location")
    secl_weight: float = Field(0.5, ge=0)
    bank_capacity: Positive = 4096
    false_negative_km: float = Field(2.0, ge=0)
    mae: MAEConfig = MAEConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.modalities)) != len(self.modalities) or len(self.modalities) < 2:
            raise ValueError(f"modalities must be two or three different ones, found {self.modalities}")
        return self


class InitializationConfig(Config):
    """Weights to start from.

    Attributes:
        file: A checkpoint of ours (of training, or an import of CROMA, GeoCLIP or the official weights), or a
            file of timm's ViT weights.
        kind: ``gair``, or ``timm`` for the photo encoder.
        parts: Parts to take, of remote_sensing, nili, street_view and location; all that the file has when
            empty.
    """

    file: Path
    kind: Literal["gair", "timm"] = "gair"
    parts: tuple[Literal["remote_sensing", "nili", "street_view", "location"], ...] = ()


class OptimizerConfig(Config):
    """AdamW and its schedule.

    Attributes:
        peak_rate: Learning rate after the warm-up, of parts that start from random weights.
        initialized_factor: Factor on it for weights that were loaded.
        weight_decay: Weight decay; none on norms, biases and other vectors.
        betas: Decay rates of the moments.
        warmup: Fraction of the steps over which the rate rises linearly; then it falls to 0 by a cosine.
        clip_norm: Largest norm of the gradient; None does not clip.
    """

    peak_rate: float = Field(1.5e-4, gt=0)
    initialized_factor: float = Field(0.1, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = Field(0.05, ge=0, le=1)
    clip_norm: float | None = Field(1.0, gt=0)


class EvaluationConfig(Config):
    """How a model is evaluated.

    Attributes:
        every: Steps between evaluations while training; 0 evaluates only at the end.
        gallery: Photos, or scenes, in a gallery.
        per_city: At most so many of one city in a gallery.
        galleries: Galleries that are drawn and averaged.
        localized: Photos whose place is sought within their scene, at most.
        scene_size: Side of that scene, pixels; the whole tile where that is smaller.
        batch_size: Samples that are encoded at once.
        seed: Seed of the draws.
    """

    every: int = Field(0, ge=0)
    gallery: int = Field(100, ge=2)
    per_city: Positive = 20
    galleries: Positive = 10
    localized: Positive = 500
    scene_size: Positive = 256
    batch_size: Positive = 64
    seed: int = 0


class PretrainConfig(Config):
    """A whole run.

    Attributes:
        model: The model.
        data: Which samples.
        sampling: How batches are drawn.
        augmentation: How samples vary.
        objective: What is optimised.
        initialize: Weights to start from, in order; later ones replace earlier ones.
        optimizer: How.
        evaluation: How the model is evaluated.
        output: Folder of the run.
        title: One line for people, kept in the checkpoint.
        epochs: Passes over the samples; ignored when `steps` is given.
        steps: Optimiser steps.
        seed: Seed of weights, order, augmentation, dropout and masks.
        precision: ``bf16-mixed`` computes the encoders in bf16; losses and location features never.
        accelerator: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one. MPS lacks the
            float64 that places need and the 16-bit integers of scenes.
        devices: Devices of this machine; each is a rank.
        nodes: Machines.
        cached_chunk: Samples that are encoded at once with gradient on a rank (GradCache); None encodes the
            batch as a whole.
        compile: Whether torch.compile compiles the encoders.
        log_every: Steps between lines of the log.
        save_every: Steps between checkpoints; the last step always has one.
        keep: Checkpoints of earlier steps that are kept beside the last.
        basis_components: Components of the PCA basis fitted at the end; 0 for none.
        basis_samples: Training scenes that it is fitted on.
    """

    model: GAIRConfig = GAIRConfig()
    data: DataConfig
    sampling: SamplingConfig = SamplingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    initialize: tuple[InitializationConfig, ...] = ()
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    output: Path
    title: str = "GAIR pretraining"
    epochs: Positive = 100
    steps: Positive | None = None
    seed: int = Field(0, ge=0)
    precision: Precision = "bf16-mixed"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Positive = 1
    nodes: Positive = 1
    cached_chunk: Positive | None = None
    compile: bool = False
    log_every: Positive = 20
    save_every: Positive = 1000
    keep: int = Field(0, ge=0)
    basis_components: int = Field(16, ge=0)
    basis_samples: Positive = 1024

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needed = [_MODALITY_PARTS[name] for name in self.objective.modalities]
        if self.objective.kind == "mae":
            needed = ["remote_sensing"]
            if self.cached_chunk is not None:
                raise ValueError("cached_chunk serves the contrastive objective; mae needs no large batch")
        missing = [part for part in needed if part not in self.model.parts]
        if missing:
            raise ValueError(f"the objective needs the parts {missing}, the model has {self.model.parts}")
        if self.sampling.batch_size % (self.devices * self.nodes):
            raise ValueError(
                f"batch_size {self.sampling.batch_size} cannot be shared by {self.devices * self.nodes} ranks"
            )
        return self

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that a batch must hold."""
        if self.objective.kind == "contrastive":
            return self.objective.modalities
        return ("scene", "photo") if self.model.street_view is not None else ("scene",)


def read_config(path: Path, overrides: Sequence[str] = (), *, base: Path | None = None) -> PretrainConfig:
    """Read a run's configuration.

    Args:
        path: A YAML file.
        overrides: ``key=value`` or ``a.b=value``, the value in YAML; ``model.preset=tiny`` too.
        base: Another file in place of the one that it names as ``base``: the same change to another run.

    Raises:
        BadInputError: A file is missing or no YAML, or a key is unknown or has an impossible value (named).
    """
    values = read_values(path, overrides, base=base)
    if isinstance(values.get("model"), Mapping):
        values = {**values, "model": _with_preset(values["model"])}
    return PretrainConfig.parse(values)


def _with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the other keys of a model over its preset."""
    changes = dict(values)
    name: Preset = changes.pop("preset", "base")
    try:
        preset = GAIRConfig.preset(name)
    except KeyError:
        raise BadInputError(f"model.preset is {name!r}.", "Presets are base, small and tiny.") from None
    return merged(preset.model_dump(), changes)
