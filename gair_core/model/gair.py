"""The whole model: three encoders that meet in one embedding space, and NILI between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gair_core.config import GAIRConfig, Localizer
from gair_core.errors import BadInputError, CheckpointError
from gair_core.metadata import CheckpointMetadata
from gair_core.model.location import LocationEncoder
from gair_core.model.nili import NILI, FeatureLocalizer
from gair_core.model.remote_sensing import RemoteSensingEncoder, check_images, require_floating
from gair_core.model.street_view import StreetViewEncoder

Part = TypeVar("Part", bound=nn.Module)
# Latitudes cannot exceed 90 degrees, so a "latitude" beyond it beside a small "longitude" is a swapped pair.
_LONGITUDE, _LATITUDE = 180.0, 90.0


class EmbeddingBasis(nn.Module):
    """A PCA basis of a model's embeddings with fixed int8 scales.

    It is fitted once, so that embeddings of different scenes, extents and dates are comparable.

    Args:
        embed_dim: Dimension D of the embeddings.
        components: Number K of components.
    """

    def __init__(self, embed_dim: int, components: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.components: Tensor
        self.variance: Tensor
        self.scale: Tensor
        #: Mean embedding, (D,).
        self.register_buffer("mean", torch.zeros(embed_dim))
        #: Orthonormal rows, (K, D), by falling variance.
        self.register_buffer("components", torch.eye(components, embed_dim))
        #: Explained fraction of the total variance, (K,), in [0, 1].
        self.register_buffer("variance", torch.zeros(components))
        #: Value of one int8 step of each component, (K,).
        self.register_buffer("scale", torch.ones(components))

    def project(self, embeddings: Tensor) -> Tensor:
        """Return the components of embeddings, (..., D) -> (..., K)."""
        return (embeddings - self.mean) @ self.components.mT


class GAIR(nn.Module):
    """GAIR: scene encoder f, photo encoder g, location encoder e and NILI.

    A part that the configuration leaves out is None, and the method that needs it raises by name.

    Args:
        config: The model's configuration.
        basis_components: Number of components of the PCA basis, 0 for none.
    """

    def __init__(self, config: GAIRConfig, basis_components: int = 0) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        scenes, photos, places = config.remote_sensing, config.street_view, config.location
        self.remote_sensing = None if scenes is None else RemoteSensingEncoder(scenes)
        self.nili = (
            None if scenes is None or config.nili is None else NILI(scenes.width, dim, config.nili.hidden)
        )
        self.street_view = None if photos is None else StreetViewEncoder(photos)
        self.street_view_projection = (
            nn.Linear(photos.width, dim) if photos is not None and photos.projection else nn.Identity()
        )
        self.location = None if places is None else LocationEncoder(places, dim)
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(config.temperature)), config.learnable_temperature
        )
        self.basis = EmbeddingBasis(dim, basis_components) if basis_components else None
        #: Title, provenance and fingerprint of the checkpoint that it was loaded from; None when built anew.
        self.checkpoint: CheckpointMetadata | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that are inside, of remote_sensing, nili, street_view and location."""
        return self.config.parts

    @property
    def localizer(self) -> NILI | FeatureLocalizer:
        """What turns a scene's features into an embedding at a point."""
        return self._localizer(self.config.localizer)

    @property
    def logit_scale(self) -> Tensor:
        """1 / temperature, at most 100, a scalar."""
        return (-self.log_temperature).clamp(max=math.log(100)).exp()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_temperature.device

    def encode_remote_sensing(self, images: Tensor) -> Tensor:
        """Encode scenes into feature maps.

        Args:
            images: Shape (B, C, H, W), normalised to [0, 1], bands in the order of the configuration, H and W
                divisible by the patch size p.

        Returns:
            Features, shape (B, width, H/p, W/p).

        Raises:
            BadInputError: Another shape, band count or dtype.
            CheckpointError: The model has no scene encoder.
        """
        encoder = self.require_remote_sensing()
        check_images(images, encoder.config)
        return encoder(images)  # type: ignore[no-any-return]

    def encode_remote_sensing_blocks(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Return the feature maps of several blocks of the scene encoder, as dense decoders read them.

        Args:
            images: As in `encode_remote_sensing`.
            blocks: Numbers of the blocks from 0, not falling; one may be asked for several times.

        Returns:
            One tensor (B, width, H/p, W/p) a block, the sum of the residual branches up to it. The final
            norm, which was trained on the last block's output, is applied to that alone, so that it equals
            `encode_remote_sensing`.

        Raises:
            BadInputError: Another shape, band count or dtype, or there is no such block.
            CheckpointError: The model has no scene encoder.
        """
        encoder = self.require_remote_sensing()
        check_images(images, encoder.config)
        return encoder.forward_blocks(images, blocks)

    def require_remote_sensing(self) -> RemoteSensingEncoder:
        """Return the scene encoder.

        Raises:
            CheckpointError: The model has none.
        """
        return self._require(self.remote_sensing, "remote_sensing")

    def encode_street_view(self, photos: Tensor, project: bool = True) -> Tensor:
        """Encode photos.

        Args:
            photos: Shape (B, 3, S, S), preprocessed (`gair_core.photos.preprocess`).
            project: Whether to apply the projection, as every comparison with z and e needs it.

        Returns:
            Shape (B, D), or (B, width) without the projection.

        Raises:
            BadInputError: Another shape or dtype.
            CheckpointError: The model has no photo encoder.
        """
        encoder = self._require(self.street_view, "street_view")
        size = encoder.config.image_size
        if photos.ndim != 4 or photos.shape[1:] != (3, size, size):
            raise BadInputError(
                f"Photos must have the shape (B, 3, {size}, {size}), found {tuple(photos.shape)}.",
                "Use gair_core.photos.preprocess.",
            )
        require_floating(photos, "Photos", "gair_core.photos.preprocess")
        pooled = encoder(photos)
        return self.street_view_projection(pooled) if project else pooled  # type: ignore[no-any-return]

    def encode_location(self, lonlat: Tensor) -> Tensor:
        """Encode places.

        Args:
            lonlat: Shape (B, 2), longitude in [-180, 180] and latitude in [-90, 90], degrees; pass float64.

        Returns:
            Shape (B, D).

        Raises:
            BadInputError: Another shape, values out of range or swapped.
            CheckpointError: The model has no location encoder.
        """
        encoder = self._require(self.location, "location")
        check_lonlat(lonlat)
        return encoder(lonlat)  # type: ignore[no-any-return]

    def interpolate(self, features: Tensor, uv: Tensor, method: Localizer | None = None) -> Tensor:
        """Return scene embeddings at points (Eq. 1).

        Args:
            features: Output of `encode_remote_sensing`, shape (B, width, P_y, P_x).
            uv: Shape (B, Q, 2) in [0, 1]: u to the right, v DOWN from the top edge of the footprint.
            method: ``nili``, ``bilinear``, ``bicubic`` or ``pool``; the configured one when None.

        Returns:
            Shape (B, Q, D).

        Raises:
            BadInputError: Another shape, or a query outside the footprint.
            CheckpointError: ``nili`` was asked of a model without it.
        """
        localizer = self._localizer(method or self.config.localizer)
        self._check_features(features)
        if uv.ndim != 3 or uv.shape[-1] != 2 or len(uv) != len(features):
            raise BadInputError(f"uv must have the shape ({len(features)}, Q, 2), found {tuple(uv.shape)}.")
        inside = (uv >= 0) & (uv <= 1)
        if not bool(inside.all()):
            worst = uv[~inside.all(dim=-1)][0].tolist()
            raise BadInputError(
                f"Queries must lie in the footprint, u and v in [0, 1], found ({worst[0]:g}, {worst[1]:g}).",
                "Drop points outside the scene first.",
            )
        return localizer.interpolate(features, uv)

    def interpolate_dense(
        self,
        features: Tensor,
        size: tuple[int, int],
        method: Localizer | None = None,
        projection: Tensor | None = None,
    ) -> Tensor:
        """Return scene embeddings at the pixel centres of a raster over the same footprint.

        Args:
            features: Output of `encode_remote_sensing`, shape (B, width, P_y, P_x).
            size: Height and width of the raster, any resolution.
            method: As in `interpolate`.
            projection: Optional matrix (K, D); where the localizer is linear it is applied before the resize.

        Returns:
            Shape (B, D or K, height, width).

        Raises:
            BadInputError: Another shape, or an empty raster.
            CheckpointError: ``nili`` was asked of a model without it.
        """
        localizer = self._localizer(method or self.config.localizer)
        self._check_features(features)
        if min(size) < 1:
            raise BadInputError(f"The raster must have at least one pixel, found {size[0]} x {size[1]}.")
        return localizer.dense(features, size, projection)

    def similarity(self, photos: Tensor, embeddings: Tensor) -> Tensor:
        """Return cosines of photo embeddings (N, D) with other embeddings (M, D), shape (N, M)."""
        return F.normalize(photos, dim=-1) @ F.normalize(embeddings, dim=-1).mT

    def _localizer(self, method: Localizer) -> NILI | FeatureLocalizer:
        if method == "nili":
            return self._require(self.nili, "nili")
        return FeatureLocalizer(method)

    def _check_features(self, features: Tensor) -> None:
        width = self._require(self.remote_sensing, "remote_sensing").config.width
        if features.ndim != 4 or features.shape[1] != width:
            raise BadInputError(
                f"Features must have the shape (B, {width}, P, P), found {tuple(features.shape)}."
            )

    def _require(self, part: Part | None, name: str) -> Part:
        if part is None:
            raise CheckpointError(
                f"This model has no part '{name}'; it holds {', '.join(self.parts) or 'nothing'}.",
                "Merge a checkpoint that has it: gair import ... --into MODEL.",
            )
        return part


def check_lonlat(lonlat: Tensor) -> None:
    """Check places, shape (B, 2), degrees.

    Raises:
        BadInputError: Another shape, values out of range, or longitude and latitude swapped beyond doubt.
    """
    if lonlat.ndim != 2 or lonlat.shape[1] != 2:
        raise BadInputError(
            f"Places must have the shape (B, 2), longitude then latitude, found {tuple(lonlat.shape)}."
        )
    require_floating(lonlat, "Places", "float64")
    lon, lat = lonlat.detach().unbind(1)
    wrong = ~((lon.abs() <= _LONGITUDE) & (lat.abs() <= _LATITUDE))
    if not bool(wrong.any()):
        return
    index = int(wrong.nonzero()[0, 0])
    found = f"longitude {float(lon[index]):g}, latitude {float(lat[index]):g} (row {index})"
    swapped = bool(((lon.abs() <= _LATITUDE) & (lat.abs() <= _LONGITUDE))[wrong].all())
    raise BadInputError(
        f"Places must have longitudes in [-180, 180] and latitudes in [-90, 90] degrees, found {found}.",
        "The two are swapped: pass (longitude, latitude)." if swapped else "Check the columns and their CRS.",
    )
