"""What a GAIR model is: a typed, frozen configuration that travels as JSON inside a checkpoint.

A part that a checkpoint lacks (a CROMA import has no photo encoder) is None here; GAIR raises by name when
it is asked for. Presets: `base` is the paper's model, `small` and `tiny` are for CPUs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from gair_core.errors import BadInputError
from gair_core.sentinel2.bands import BANDS, MEAN, STD
from gair_core.task import describe_validation_error

Localizer = Literal["nili", "bilinear", "bicubic", "pool"]
Pooling = Literal["avg", "cls", "pooler"]
Preset = Literal["base", "small", "tiny"]
Positive = Annotated[int, Field(gt=0)]
PHOTO_MEAN = (135.47184384, 142.28621995, 145.12271992)
PHOTO_STD = (59.19978436, 59.35279219, 72.02295734)


class Config(BaseModel):
    """Base of all configurations: immutable, JSON-serialisable, unknown keys refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Build a configuration from decoded JSON.

        Raises:
            BadInputError: Names every key that is unknown or has an impossible value.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BadInputError(f"Impossible {cls.__name__}: {describe_validation_error(error)}.") from None


class RemoteSensingConfig(Config):
    """The scene encoder f and the images that it expects.

    Attributes:
        bands: Band names in channel order.
        mean: Mean of each band, surface-reflectance DN (10000 = 1.0).
        std: Standard deviation of each band, DN.
        quantize: Truncate normalised values to 8 bits, as the official weights' pipeline does.
        gsd: Ground sampling distance of a pixel, metres.
        tile_size: Side of a training tile, pixels.
        patch_size: Side of a patch, pixels.
        width: Channels of the tokens.
        depth: Number of transformer blocks.
        num_heads: Attention heads; each has its own ALiBi slope.
        mlp_ratio: Width of a block's hidden layer over `width`.
        final_norm: Whether a LayerNorm (CROMA's ``norm_out``) follows the last block.
        drop_path: Stochastic depth rate of the last block, rising linearly from 0.
    """

    bands: tuple[str, ...] = BANDS
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    quantize: bool = False
    gsd: float = Field(10.0, gt=0)
    tile_size: Positive = 96
    patch_size: Positive = 8
    width: Positive = 768
    depth: Positive = 12
    num_heads: Positive = 16
    mlp_ratio: float = Field(4.0, gt=0)
    final_norm: bool = True
    drop_path: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError(
                f"bands, mean and std must have the same length, found {len(self.bands)}, {len(self.mean)} "
                f"and {len(self.std)}"
            )
        if len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands must differ from each other, found {self.bands}")
        if min(self.std, default=1.0) <= 0:
            raise ValueError(f"every std must be positive, found {self.std}")
        if self.tile_size % self.patch_size:
            raise ValueError(f"tile_size {self.tile_size} is no multiple of patch_size {self.patch_size}")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")
        return self


class StreetViewConfig(Config):
    """The photo encoder g and the photos that it expects.

    Attributes:
        image_size: Side of the square that a photo is resized to, pixels.
        mean: Mean of R, G and B on the scale 0 to 255.
        std: Standard deviation of R, G and B on the same scale.
        resampling: Interpolation of the resize.
        antialias: Whether the resize filters before it shrinks; the official pipeline does not.
        patch_size: Side of a patch, pixels.
        stem: How pixels become tokens: ``linear`` is the ViT's own projection of patches (the paper);
            ``conv`` is a stack of strided convolutions, with which small ViTs learn from few samples (Xiao
            et al. 2021, arXiv 2106.14881).
        width: Channels of the tokens.
        depth: Number of transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Width of a block's hidden layer over `width`.
        pooling: ``avg`` (patch tokens after the final norm), ``cls`` or ``pooler`` (tanh(Linear(cls))).
        norm_eps: Epsilon of every LayerNorm.
        projection: Whether a Linear maps the pooled photo into the common space.
        drop_path: Stochastic depth rate of the last block, rising linearly from 0.
    """

    image_size: Positive = 224
    mean: tuple[float, float, float] = PHOTO_MEAN
    std: tuple[float, float, float] = PHOTO_STD
    resampling: Literal["bicubic", "bilinear"] = "bicubic"
    antialias: bool = True
    patch_size: Positive = 16
    stem: Literal["linear", "conv"] = "linear"
    width: Positive = 768
    depth: Positive = 12
    num_heads: Positive = 12
    mlp_ratio: float = Field(4.0, gt=0)
    pooling: Pooling = "avg"
    norm_eps: float = Field(1e-6, gt=0)
    projection: bool = False
    drop_path: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")
        if self.stem == "conv" and self.patch_size not in (2, 4, 8, 16, 32):
            raise ValueError(
                f"stem conv halves the photo at each layer: patch_size must be 2, 4, 8, 16 or 32, found "
                f"{self.patch_size}"
            )
        return self


class LocationConfig(Config):
    """The location encoder e: random Fourier features at several scales, summed (GeoCLIP).

    Attributes:
        sigmas: Standard deviation of the Fourier frequencies of each capsule.
        num_frequencies: Frequencies of a capsule; its features are their cosines and sines.
        hidden_width: Width of the ReLU layers.
        hidden_layers: Number of the ReLU layers.
    """

    sigmas: tuple[float, ...] = (2.0**0, 2.0**4, 2.0**8)
    num_frequencies: Positive = 256
    hidden_width: Positive = 1024
    hidden_layers: Positive = 3


class NILIConfig(Config):
    """The function H of Eq. 1.

    Attributes:
        hidden: Widths of hidden layers (GELU between them); empty is one Linear, the official form, whose
            dense evaluation factorises.
    """

    hidden: tuple[Positive, ...] = ()


class GAIRConfig(Config):
    """A whole model.

    Attributes:
        embed_dim: Dimension D of the common embedding space.
        remote_sensing: Scene encoder, or None when the checkpoint has none.
        street_view: Photo encoder, or None.
        location: Location encoder, or None.
        nili: The function H, or None; without it `localizer` cannot be ``nili``.
        localizer: How a scene's features become an embedding at a point.
        temperature: Temperature of the contrastive losses.
        learnable_temperature: Whether training adjusts it (log scale, clamped at ln 100).
    """

    embed_dim: Positive = 768
    remote_sensing: RemoteSensingConfig | None = RemoteSensingConfig()
    street_view: StreetViewConfig | None = StreetViewConfig()
    location: LocationConfig | None = LocationConfig()
    nili: NILIConfig | None = NILIConfig()
    localizer: Localizer = "nili"
    temperature: float = Field(0.07, gt=0)
    learnable_temperature: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.remote_sensing is None:
            if self.nili is not None:
                raise ValueError("nili needs remote_sensing")
        elif self.nili is None and self.remote_sensing.width != self.embed_dim:
            raise ValueError(
                f"without nili the scene encoder's width ({self.remote_sensing.width}) must be "
                f"embed_dim ({self.embed_dim})"
            )
        if self.localizer == "nili" and self.remote_sensing is not None and self.nili is None:
            raise ValueError("localizer nili needs the part nili; choose bilinear, bicubic or pool")
        photos = self.street_view
        if photos is not None and not photos.projection and photos.width != self.embed_dim:
            raise ValueError(
                f"without a projection the photo encoder's width ({photos.width}) must be "
                f"embed_dim ({self.embed_dim})"
            )
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that are inside, of remote_sensing, nili, street_view and location."""
        names = ("remote_sensing", "nili", "street_view", "location")
        return tuple(name for name in names if getattr(self, name) is not None)

    @classmethod
    def preset(cls, name: Preset) -> GAIRConfig:
        """Return a preset: ``base`` (187 M parameters), ``small`` (47 M) or ``tiny`` (5 M)."""
        return _PRESETS[name]


_PRESETS: dict[Preset, GAIRConfig] = {
    "base": GAIRConfig(),
    "small": GAIRConfig(
        embed_dim=384,
        remote_sensing=RemoteSensingConfig(width=384, num_heads=6),
        street_view=StreetViewConfig(width=384, num_heads=6),
        location=LocationConfig(hidden_width=512),
    ),
    "tiny": GAIRConfig(
        embed_dim=192,
        remote_sensing=RemoteSensingConfig(width=192, depth=4, num_heads=6),
        street_view=StreetViewConfig(image_size=128, width=192, depth=4, num_heads=6),
        location=LocationConfig(num_frequencies=128, hidden_width=256),
    ),
}
