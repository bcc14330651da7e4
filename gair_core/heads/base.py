"""What every head has: classes, a description, and two steps that the engine can stream.

A head works in two steps, so that it runs on scenes of any size in the memory of one strip:

1. `Head.lattice` maps the features of a tile to channels at patch resolution. The engine blends these between
   overlapping tiles and interpolates them bilinearly at the pixels of the output. What commutes with both,
   such as a linear classifier, does all its work here, once a patch.
2. `Head.logits` maps the interpolated channels to one logit a class at every pixel. What does not commute,
   such as hidden layers, belongs here.

Before them `Head.encode` gets the features of a tile out of the encoder: those of the last block, unless the
head wants others. A head may look at several scenes of one place, such as two dates or a series. Its first
step then runs once a scene, or, of a head that `merges`, once on what `Head.merge` makes of the features of
all of them. `Head.forward_tile` is all of that at once, for training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from gair_core.errors import BadInputError
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.metadata import Provenance
from gair_core.model.gair import GAIR
from gair_core.model.nili import NILI, FeatureLocalizer

NODATA = 0
"""Value of pixels without data in every class raster; classes begin at 1."""

LARGEST_VALUE = 65535
Channel = Annotated[int, Field(ge=0, le=255)]


class _Description(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HeadClass(_Description):
    """One class.

    Attributes:
        value: Its value in a raster, 1 to 65535; 0 is nodata.
        name: Its name for people.
        colour: Red, green and blue, 0 to 255.
    """

    value: int = Field(ge=1, le=LARGEST_VALUE)
    name: str = Field(min_length=1)
    colour: tuple[Channel, Channel, Channel]


class HeadTarget(_Description):
    """One quantity that a regression head predicts.

    Attributes:
        name: Its name for people and for the columns of tables.
        unit: Its unit, empty where it has none or nobody knows.
    """

    name: str = Field(min_length=1)
    unit: str = ""


class AccuracyReport(_Description):
    """How well a head did on data that it was not trained on.

    Attributes:
        data: The data and how they were held out, for people.
        metrics: Overall results by name, such as ``mean_iou``.
        class_metrics: Results by class name, then by metric.
        confusion: Counts, rows reference and columns prediction, in the order of the head's classes; may be
            empty.
    """

    data: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    class_metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()


class BackboneReference(_Description):
    """The encoder that a head was trained on.

    Attributes:
        name: Its registered name or file stem.
        sha256: Its checkpoint's fingerprint, hexadecimal.
    """

    name: str
    sha256: str


class HeadMetadata(_Description):
    """What a head says about itself.

    Attributes:
        title: One line for people, for example "land cover of Laos".
        classes: Its classes, at least two, in the order of its logits; empty for a regression.
        targets: What a regression predicts, in the order of its outputs; empty where there are classes.
        ignore_value: Label value that training left out; None when every label counted.
        accuracy: How well it did, None when nobody measured.
        provenance: Where it comes from.
        backbone: Its encoder; None until it is saved.
        name: Registered name or file stem under which it was loaded; it is not stored.
        fingerprint: SHA-256 of its tensors, hexadecimal; computed when saved.
    """

    title: str = "untitled"
    classes: tuple[HeadClass, ...] = ()
    targets: tuple[HeadTarget, ...] = ()
    ignore_value: int | None = None
    accuracy: AccuracyReport | None = None
    provenance: Provenance = Provenance()
    backbone: BackboneReference | None = None
    name: str = ""
    fingerprint: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.classes) == bool(self.targets) or len(self.classes) == 1:
            raise ValueError(
                f"a head has at least 2 classes, or targets of a regression; found {len(self.classes)} "
                f"classes and {len(self.targets)} targets"
            )
        names = [one.name for one in self.targets]
        if len(set(names)) < len(names):
            raise ValueError(f"two targets have the same name, found {', '.join(names)}")
        for what in ("value", "name"):
            found = [getattr(one, what) for one in self.classes]
            twice = sorted(one for one, count in Counter(found).items() if count > 1)
            if twice:
                raise ValueError(f"two classes have the same {what} {twice[0]!r}")
        if self.ignore_value in {one.value for one in self.classes}:
            raise ValueError(f"the ignored label value {self.ignore_value} is also a class")
        return self


class HeadConfig(_Description):
    """What the tensors of a head look like; kinds with more to say derive from it.

    Attributes:
        embed_dim: Dimension D of the embeddings that the head reads.
    """

    embed_dim: int = Field(gt=0)


class BaseHead(nn.Module, ABC):
    """What heads for maps (`Head`) and heads for single photos and places (`point.PointHead`) share.

    Args:
        config: Sizes of its tensors.
        metadata: Its classes and the rest of its description.

    Attributes:
        kind: Name of this kind of head inside a checkpoint.
        config_class: Type of its configuration.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type[HeadConfig]] = HeadConfig

    def __init__(self, config: HeadConfig, metadata: HeadMetadata) -> None:
        super().__init__()
        self.config = config
        self.metadata = metadata

    @property
    def classes(self) -> tuple[HeadClass, ...]:
        """The classes, in the order of the logits; none where it is a regression."""
        return self.metadata.classes

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        """Parts of the model that it reads, as in `GAIRConfig.parts`."""
        return ("remote_sensing", "nili")

    @abstractmethod
    def check_fits(self, model: GAIR) -> None:
        """Check that a model's embeddings can go into this head.

        Raises:
            BadInputError: They have another dimension, or a part is missing.
        """


class Head(BaseHead):
    """A head for maps, see the module's description.

    Args:
        config: Sizes of its tensors.
        metadata: Its classes and the rest of its description.

    Attributes:
        scenes: Scenes of one place that it looks at, in their order: 1, 2 for a change between two dates, or
            None for a series of any length, which needs the dates.
        merges: Whether `merge` makes one lattice of all scenes; otherwise every scene has its own.
        pixel_features: Features of the scene's own pixels that `logits` reads; None for the embedding alone.
    """

    scenes: ClassVar[int | None] = 1
    merges: ClassVar[bool] = False
    pixel_features: PixelFeatures | None = None

    @property
    def subdivision(self) -> int:
        """How many cells a patch has along each side, f.

        With f > 1 the lattice holds C f^2 channels a patch, which are the C channels of its f x f cells in
        the order of `torch.nn.functional.pixel_shuffle`. They are blended as they are, and interpolated
        between the centres of the cells instead of those of the patches. It must divide the patch size.
        """
        return 1

    def encode(self, model: GAIR, images: Tensor) -> Tensor:
        """Return the features of one scene that the head reads.

        Args:
            model: The encoder, on the images' device.
            images: Shape (B, bands, H, W), normalised, H and W divisible by the patch size p.

        Returns:
            Shape (B, channels, H/p, W/p); by default what `encode_remote_sensing` returns.
        """
        return model.encode_remote_sensing(images)

    def merge(
        self,
        features: Sequence[Tensor],
        days: Tensor | None = None,  # noqa: ARG002
        valid: Tensor | None = None,  # noqa: ARG002
    ) -> Sequence[Tensor]:
        """Bring the features of several scenes together; by default they stay apart.

        Args:
            features: What `encode` returned, one (B, channels, P_y, P_x) a scene.
            days: Day of the year of each scene, 1 to 366, shape (B, scenes); None where nobody knows.
            valid: Share of a patch's pixels with data, in [0, 1], shape (B, scenes, P_y, P_x); None for 1.

        Returns:
            Features for `lattice`, one tensor if the head `merges`, else one a scene.
        """
        return features

    @abstractmethod
    def lattice(self, model: GAIR, features: Tensor, scene: int = 0) -> Tensor:
        """Return the channels that are blended and interpolated.

        Args:
            model: The encoder, on the features' device.
            features: Output of `merge`, or of `encode` where there is nothing to merge, shape
                (B, channels, P_y, P_x).
            scene: Which of the head's scenes it is, from 0.

        Returns:
            Shape (B, C f^2, P_y, P_x), f the `subdivision`.
        """

    @abstractmethod
    def rim_weight(self, model: GAIR, scene: int = 0) -> Tensor | None:
        """Return NILI's coordinate weight W_c of the channels, shape (C, 2), or None without such a term.

        A head with a `subdivision` has none.
        """

    @abstractmethod
    def logits(self, sampled: Sequence[Tensor]) -> Tensor:
        """Return the logits of pixels.

        Args:
            sampled: The channels at the pixels, one (C, height, width) a scene, or one for all if the head
                `merges`; then, of a head with `pixel_features`, these features (F, height, width).

        Returns:
            Shape (classes, height, width).
        """

    def tile_lattice(
        self,
        model: GAIR,
        images: Sequence[Tensor],
        days: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Return the channels of tiles, those of several scenes that stay apart one after another.

        Args:
            model: The encoder, on the images' device.
            images: One tensor (B, bands, H, W) a scene, normalised.
            days: Day of the year of each scene, 1 to 366, shape (B, scenes); None where nobody knows.
            valid: Share of a patch's pixels with data, in [0, 1], shape (B, scenes, P_y, P_x); None for 1.

        Returns:
            Shape (B, n C f^2, P_y, P_x) with n = 1 if the head `merges`, else the number of scenes.
        """
        merged = self.merge([self.encode(model, one) for one in images], days, valid)
        return torch.cat([self.lattice(model, one, scene) for scene, one in enumerate(merged)], dim=1)

    def tile_rim(self, model: GAIR, scenes: int) -> Tensor | None:
        """Return W_c of the channels of `tile_lattice`, shape (n C, 2), or None without such a term.

        Args:
            model: The encoder.
            scenes: Number of scenes.
        """
        weights = [self.rim_weight(model, scene) for scene in range(1 if self.merges else scenes)]
        known = [weight for weight in weights if weight is not None]
        return torch.cat(known) if len(known) == len(weights) else None

    def split(self, sampled: Tensor, scenes: int) -> list[Tensor]:
        """Take the interpolated channels of `tile_lattice` apart, as `logits` wants them.

        Args:
            sampled: Shape (n C, height, width).
            scenes: Number of scenes.

        Returns:
            n tensors (C, height, width).
        """
        return list(sampled.chunk(1 if self.merges else scenes))

    def forward_tile(
        self,
        model: GAIR,
        images: Sequence[Tensor],
        days: Tensor | None = None,
        valid: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of tiles at their own pixels, differentiable; what training calls.

        A tile is what the engine makes of it when it is a scene of its own: nothing is blended.

        Args:
            model: The encoder, on the images' device; its gradients are switched by its own parameters.
            images: One tensor (B, bands, H, W) a scene, normalised
                (`gair_core.sentinel2.bands.normalize`), H and W divisible by the patch size. Pixels without
                data hold the normalised band mean.
            days: Day of the year of each scene, 1 to 366, shape (B, scenes); heads of series need them.
            valid: Whether a pixel of a scene has data, bool, shape (B, scenes, H, W); None for all. Dates
                that only pad a batch are False everywhere and change nothing.
            pixels: The `pixel_features`, shape (B, F, H, W), of a head that has them.

        Returns:
            Shape (B, classes, H, W).
        """
        patch = model.require_remote_sensing().config.patch_size
        seen = None if valid is None else _shares(valid, patch)
        lattice = self.tile_lattice(model, images, days, seen)
        if self.subdivision > 1:
            lattice = F.pixel_shuffle(lattice, self.subdivision)
        size = (images[0].shape[-2], images[0].shape[-1])
        rim = self.tile_rim(model, len(images))
        if rim is None:
            sampled = F.interpolate(lattice, size=size, mode="bilinear", align_corners=False)
        else:
            sampled = NILI.upsample(lattice, size, rim)
        more = [[] if pixels is None else [pixels[index]] for index in range(len(sampled))]
        return torch.stack(
            [
                self.logits([*self.split(one, len(images)), *extra])
                for one, extra in zip(sampled, more, strict=True)
            ]
        )

    def check_scenes(self, count: int) -> None:
        """Check that it looks at so many scenes.

        Raises:
            BadInputError: It looks at more or fewer.
        """
        if count == self.scenes or (self.scenes is None and count > 1):
            return
        ways = {
            1: "Use gair segment with one scene.",
            2: "Use gair change.",
            None: "Give all dates to gair segment: --series takes those after the first.",
        }
        raise BadInputError(
            f"The head {self.metadata.name} is of the kind {self.kind} and looks at {_dates(self.scenes)}; "
            f"found {_dates(count)}.",
            ways[self.scenes],
        )

    def check_fits(self, model: GAIR) -> None:
        """Check that a model's embeddings can go into this head.

        Raises:
            BadInputError: They have another dimension, or do not factorise.
        """
        found, wanted = model.config.embed_dim, self.config.embed_dim
        if found != wanted:
            raise BadInputError(
                f"The head reads embeddings of {wanted} dimensions, the model's have {found}.",
                "Use the model that the head was trained on.",
            )
        embedding_localizer(model)


def _dates(count: int | None) -> str:
    if count is None:
        return "a series of dates"
    return "one date" if count == 1 else f"{count} dates"


def _shares(valid: Tensor, patch: int) -> Tensor:
    """Return the share of True in each patch, bool (..., H, W) to float32 (..., H/patch, W/patch)."""
    blocks = valid.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
    shares: Tensor = blocks.float().mean(dim=(-3, -1))
    return shares


def embedding_localizer(model: GAIR) -> NILI | FeatureLocalizer:
    """Return a model's localizer if its embeddings are a bilinear interpolation of a lattice.

    True for a NILI that is one Linear, and for ``bilinear``, which in a scene is continued to the scene's
    edge (clamped) instead of fading to 0.

    Raises:
        BadInputError: It is another localizer.
    """
    localizer = model.localizer
    if localizer.is_linear or model.config.localizer == "bilinear":
        return localizer
    hidden = " with hidden layers" if isinstance(localizer, NILI) else ""
    raise BadInputError(
        f"This model's embeddings do not factorise: its localizer is {model.config.localizer}{hidden}.",
        "Use a model whose NILI is one Linear.",
    )


def embedding_lattice(model: GAIR, features: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the lattice G whose bilinear interpolation is the embedding, or its projection.

    Args:
        model: The encoder.
        features: Shape (B, width, P_y, P_x).
        rows: Matrix (K, D) that is applied to the embeddings, or None.

    Returns:
        Shape (B, D or K, P_y, P_x).
    """
    return embedding_localizer(model).lattice(features, rows)


def embedding_rim(model: GAIR, rows: Tensor | None = None) -> Tensor | None:
    """Return W_c of the embeddings or of their projection by ``rows`` (K, D): (D or K, 2), or None."""
    localizer = embedding_localizer(model)
    if not isinstance(localizer, NILI):
        return None
    return localizer.rim_weight(rows)
