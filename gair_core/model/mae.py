"""The masked-autoencoder objective of the GAIR-MAE ablation (section 4.2.2 of the paper).

All that the paper says of it: "we do masking on the RS image and the street view images are treated as a
special masked patch of the RS image, allowing the model to reconstruct missing RS image patches". This is
what we made of that:

- f sees a random quarter of the scene's patches. Attention is biased by the distances between those patches,
  rows and columns of the full ALiBi bias; nothing else tells f where a patch is.
- A light decoder reconstructs the pixels of the other patches (He et al. 2022: mean squared error on masked
  patches only, each patch normalised by its own mean and deviation).
- The photo is one extra patch, at its query location (u, v): its distances to the scene's patches bias the
  decoder's attention, and like any patch it is seen or masked. Seen, its token is g(s), which helps to
  reconstruct the scene: this trains g. Masked, its token is a learnable one from which the decoder
  reconstructs the photo's pixels, shrunk to the size of a patch of g: this trains f to know what a photo here
  would show.
- The photo's target is pixels, never g(s): an encoder that is trained towards its own output can make it a
  constant. And a photo is never seen and reconstructed at once, or g alone could carry it across.
- ALiBi tells distance but no direction, so the decoder's tokens also carry a sine-cosine embedding of their
  place, the photo's too.

Neither NILI nor the location encoder takes part; a trainer that insists on gradients everywhere should be
given a model without them.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from typing_extensions import Self

from gair_core.config import Config
from gair_core.errors import BadInputError, CheckpointError
from gair_core.model.gair import GAIR
from gair_core.model.remote_sensing import RemoteSensingEncoder, alibi_slopes


class MAEConfig(Config):
    """How scenes and photos are masked and reconstructed.

    Attributes:
        mask_ratio: Fraction of a scene's patches that is masked.
        photo_mask_ratio: Probability that a photo is masked and reconstructed; otherwise it is seen.
        normalize_targets: Whether every patch, and the photo, is normalised by its own mean and deviation.
        photo_weight: Weight of the photo's error, where that of the scene has 1.
        photo_target_size: Side to which a photo is shrunk before it is reconstructed, pixels.
        decoder_width: Channels of the decoder's tokens, a multiple of 4 and of the heads.
        decoder_depth: Number of its transformer blocks.
        decoder_heads: Its attention heads; each has its own ALiBi slope.
    """

    mask_ratio: float = Field(0.75, gt=0, lt=1)
    photo_mask_ratio: float = Field(0.5, ge=0, le=1)
    normalize_targets: bool = True
    photo_weight: float = Field(1.0, ge=0)
    photo_target_size: int = Field(16, gt=0)
    decoder_width: int = Field(512, gt=0, multiple_of=4)
    decoder_depth: int = Field(1, gt=0)
    decoder_heads: int = Field(8, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} is no multiple of decoder_heads {self.decoder_heads}"
            )
        return self


class MAETerms(NamedTuple):
    """The errors of one batch, scalars.

    Attributes:
        total: scene + photo_weight * photo.
        scene: Mean squared error of the masked patches.
        photo: Mean squared error of the masked photos; 0 when the batch has none.
    """

    total: Tensor
    scene: Tensor
    photo: Tensor


class PhotoToken(NamedTuple):
    """Photos as extra patches.

    Attributes:
        embedding: Photo embeddings g(s), shape (B, D).
        uv: Their places, shape (B, 2), u to the right and v down, in [0, 1].
        masked: Whether a photo is hidden from the decoder, shape (B,), bool.
        present: Whether a sample has a photo at all, shape (B,), bool.
    """

    embedding: Tensor
    uv: Tensor
    masked: Tensor
    present: Tensor


class Reconstruction(NamedTuple):
    """What the decoder predicts.

    Attributes:
        patches: Shape (B, N, C * p * p), patches in row-major order, values ordered (c, row, column).
        photo: Shape (B, 3 * S * S) with S = photo_target_size, ordered likewise; None without photos.
    """

    patches: Tensor
    photo: Tensor | None


def random_masking(
    batch: int, patches: int, ratio: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw which patches of each image the encoder sees.

    Args:
        batch: Number of images B.
        patches: Number of patches N of an image, at least 2.
        ratio: Fraction to mask. The count is rounded; at least one patch is masked and one is seen.
        generator: Source of randomness; the same state gives the same masks on every device.

    Returns:
        Indices of the V patches that are seen, shape (B, V), int64, ascending; and the mask, shape (B, N),
        bool, True where masked. Both are on the device of the generator (CPU without one).

    Raises:
        BadInputError: Fewer than two patches, or a ratio outside (0, 1).
    """
    if patches < 2:
        raise BadInputError(
            f"Masking needs at least 2 patches, found {patches}.", "Use larger images or smaller patches."
        )
    if not 0 < ratio < 1:
        raise BadInputError(f"The mask ratio must lie between 0 and 1, found {ratio}.")
    visible = patches - min(max(round(ratio * patches), 1), patches - 1)
    device = None if generator is None else generator.device
    order = torch.rand(batch, patches, generator=generator, device=device).argsort(dim=1)
    seen = order[:, :visible].sort(dim=1).values
    masked = torch.ones(batch, patches, dtype=torch.bool, device=device).scatter(1, seen, value=False)
    return seen, masked


def encode_visible(encoder: RemoteSensingEncoder, images: Tensor, seen: Tensor) -> Tensor:
    """Encode some of the patches of each image, as if the others were not there.

    Args:
        encoder: The scene encoder f.
        images: Shape (B, C, H, W), values in [0, 1].
        seen: Indices of patches in row-major order, shape (B, V).

    Returns:
        Tokens after the final norm, shape (B, V, width).
    """
    rows, columns = (side // encoder.config.patch_size for side in images.shape[-2:])
    tokens = _take(encoder.patch_embed(images), seen)
    bias = encoder.alibi(rows, columns, tokens.device, _attention_dtype(tokens))[0]
    pairs = bias[:, seen[:, :, None], seen[:, None, :]].transpose(0, 1).contiguous()
    for block in encoder.blocks:
        tokens = block(tokens, attn_mask=pairs)
    encoded: Tensor = encoder.norm(tokens)
    return encoded


def patch_pixels(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches in row-major order, values ordered (c, row, column).

    Args:
        images: Shape (B, C, H, W).
        patch_size: Side p of a patch.

    Returns:
        Shape (B, N, C * p * p).
    """
    return F.unfold(images, patch_size, stride=patch_size).mT


def place_embedding(positions: Tensor, width: int) -> Tensor:
    """Embed places on the lattice by sines and cosines, wavelengths from 2 pi to 20000 pi patches.

    Args:
        positions: Shape (..., 2), x and y in patches, 0 at the centre of the first patch, any real number.
        width: Channels, a multiple of 4.

    Returns:
        Shape (..., width): sines and cosines of x, then of y.
    """
    steps = torch.arange(width // 4, device=positions.device, dtype=positions.dtype) / (width // 4)
    phase = positions[..., None] * torch.exp(-math.log(10_000) * steps)
    return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2)


class MAEDecoder(nn.Module):
    """Reconstructs the pixels of all patches, and of the photo, from the tokens that were seen.

    Args:
        config: Its sizes.
        scene_width: Channels of the scene encoder's tokens.
        photo_width: Channels of the photo embedding.
        patch_values: Values of a scene patch, C * p * p.
    """

    def __init__(self, config: MAEConfig, scene_width: int, photo_width: int, patch_values: int) -> None:
        super().__init__()
        self.slopes: Tensor
        width = config.decoder_width
        self.scene_embed = nn.Linear(scene_width, width)
        self.photo_embed = nn.Linear(photo_width, width)
        self.scene_mask_token = nn.Parameter(torch.zeros(width))
        self.photo_mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(
            Block(width, config.decoder_heads, qkv_bias=True, norm_layer=nn.LayerNorm)
            for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.scene_head = nn.Linear(width, patch_values)
        self.photo_head = nn.Linear(width, 3 * config.photo_target_size**2)
        self.register_buffer("slopes", alibi_slopes(config.decoder_heads).float(), persistent=False)
        self.apply(_init_linear)
        for token in (self.scene_mask_token, self.photo_mask_token):
            nn.init.normal_(token, std=0.02)

    def forward(
        self,
        seen_tokens: Tensor,
        seen: Tensor,
        lattice: tuple[int, int],
        photo: PhotoToken | None = None,
    ) -> Reconstruction:
        """Reconstruct a batch.

        Args:
            seen_tokens: Tokens of the patches that were seen, shape (B, V, scene_width).
            seen: Their indices, shape (B, V).
            lattice: Rows and columns of the patch lattice.
            photo: The photos, or None.

        Returns:
            Predicted values of all patches, seen ones included, and of the photos.
        """
        tokens, positions = self._scene_tokens(seen_tokens, seen, lattice)
        if photo is not None:
            token, place = self._photo_token(photo, lattice)
            tokens = torch.cat([tokens, token[:, None]], dim=1)
            positions = torch.cat([positions, place.to(positions)[:, None]], dim=1)
        bias = self._bias(positions, None if photo is None else photo.present).to(_attention_dtype(tokens))
        tokens = tokens + place_embedding(positions, tokens.shape[-1]).to(tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, attn_mask=bias)
        tokens = self.norm(tokens)
        pixels = None if photo is None else self.photo_head(tokens[:, -1])
        return Reconstruction(self.scene_head(tokens[:, : lattice[0] * lattice[1]]), pixels)

    def _scene_tokens(
        self, seen_tokens: Tensor, seen: Tensor, lattice: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return all tokens, (B, N, decoder_width), and their x and y in patches, (B, N, 2)."""
        # The dtype of the weights, so that autocast does not lower the residual stream.
        dtype, device = self.scene_mask_token.dtype, seen_tokens.device
        embedded = self.scene_embed(seen_tokens).to(dtype)
        tokens = self.scene_mask_token.expand(len(seen), lattice[0] * lattice[1], -1)
        tokens = tokens.scatter(1, seen[..., None].expand_as(embedded), embedded)
        axes = [torch.arange(count, device=device, dtype=_wide(dtype)) for count in lattice]
        y, x = torch.meshgrid(*axes, indexing="ij")
        positions = torch.stack([x.flatten(), y.flatten()], dim=1)
        return tokens, positions.expand(len(seen), -1, -1)

    def _photo_token(self, photo: PhotoToken, lattice: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the tokens of the photos, (B, decoder_width), and their x and y in patches, (B, 2)."""
        rows, columns = lattice
        embedded = self.photo_embed(photo.embedding).to(self.photo_mask_token.dtype)
        token = torch.where(photo.masked[:, None], self.photo_mask_token, embedded)
        return token, photo.uv * torch.tensor([columns, rows], device=photo.uv.device) - 0.5

    def _bias(self, positions: Tensor, present: Tensor | None) -> Tensor:
        """Return minus slope times distance in patches, (B, T, 2) -> (B, heads, T, T).

        No token but itself attends to the last one, the photo's, of a sample without a photo.
        """
        distance = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
        if present is not None:
            # A softmax over nothing is NaN, so an absent photo may still attend to itself.
            distance[:, :-1, -1].masked_fill_(~present[:, None], torch.inf)
        return -self.slopes.to(distance.dtype)[:, None, None] * distance[:, None]


class MaskedAutoencoder(nn.Module):
    """GAIR's encoders f and g under a masked-autoencoder objective.

    Args:
        model: The model to train; it must have a scene encoder, and a photo encoder if photos are passed.
        config: How to mask and reconstruct.

    Raises:
        CheckpointError: The model has no scene encoder.
    """

    def __init__(self, model: GAIR, config: MAEConfig | None = None) -> None:
        super().__init__()
        encoder = model.remote_sensing
        if encoder is None:
            raise CheckpointError(
                f"A masked autoencoder needs the part 'remote_sensing'; this model holds "
                f"{', '.join(model.parts) or 'nothing'}.",
                "Start from a configuration with a scene encoder.",
            )
        self.config = config or MAEConfig()
        self.model = model
        scenes = encoder.config
        self.decoder = MAEDecoder(
            self.config, scenes.width, model.config.embed_dim, len(scenes.bands) * scenes.patch_size**2
        )

    def forward(
        self,
        images: Tensor,
        photos: Tensor | None = None,
        uv: Tensor | None = None,
        has_photo: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MAETerms:
        """Mask, reconstruct and measure the error over this rank's batch.

        Args:
            images: Scenes, shape (B, C, H, W), normalised to [0, 1].
            photos: Preprocessed photos, shape (B, 3, S, S), finite; needs `uv`.
            uv: Their places in the scenes, shape (B, 2), u to the right and v down, in [0, 1].
            has_photo: Shape (B,), bool; the photos of the other samples are ignored. None: all have one.
            generator: Source of the masks.

        Returns:
            The errors, float32 or float64, computed outside autocast.

        Raises:
            BadInputError: Shapes that do not belong together, or a place outside its scene.
            CheckpointError: Photos were passed and the model has no photo encoder.
        """
        encoder = self._encoder
        self._check(images, photos, uv, has_photo)
        lattice = (images.shape[2] // encoder.config.patch_size, images.shape[3] // encoder.config.patch_size)
        seen, masked = random_masking(len(images), lattice[0] * lattice[1], self.config.mask_ratio, generator)
        seen, masked = seen.to(images.device), masked.to(images.device)
        photo = None
        if photos is not None and uv is not None:
            photo = self._photo_token(photos, uv, has_photo, generator)
        predicted = self.decoder(encode_visible(encoder, images, seen), seen, lattice, photo)
        with torch.autocast(images.device.type, enabled=False):
            scene = self._scene_error(predicted.patches, images, masked)
            error = scene.new_zeros(())
            if photos is not None and photo is not None and predicted.photo is not None:
                error = self._photo_error(predicted.photo, photos, photo.present & photo.masked)
            return MAETerms(scene + self.config.photo_weight * error, scene, error)

    @property
    def _encoder(self) -> RemoteSensingEncoder:
        return cast("RemoteSensingEncoder", self.model.remote_sensing)

    def _photo_token(
        self, photos: Tensor, uv: Tensor, has_photo: Tensor | None, generator: torch.Generator | None
    ) -> PhotoToken:
        device = None if generator is None else generator.device
        draw = torch.rand(len(photos), generator=generator, device=device)
        masked = (draw < self.config.photo_mask_ratio).to(photos.device)
        present = torch.ones_like(masked) if has_photo is None else has_photo.to(photos.device)
        return PhotoToken(self.model.encode_street_view(photos), uv, masked, present)

    def _scene_error(self, predicted: Tensor, images: Tensor, masked: Tensor) -> Tensor:
        wide = _wide(predicted.dtype)
        target = self._target(patch_pixels(images.to(wide), self._encoder.config.patch_size))
        errors = (predicted.to(wide) - target).square().mean(dim=2)
        return (errors * masked).sum() / masked.sum()

    def _photo_error(self, predicted: Tensor, photos: Tensor, counted: Tensor) -> Tensor:
        wide = _wide(predicted.dtype)
        shrunk = F.adaptive_avg_pool2d(photos.to(wide), self.config.photo_target_size)
        errors = (predicted.to(wide) - self._target(shrunk.flatten(1))).square().mean(dim=1)
        # `where`, not indexing: without any masked photo the head still gets its (zero) gradient.
        return torch.where(counted, errors, 0).sum() / counted.sum().clamp(min=1)

    def _target(self, values: Tensor) -> Tensor:
        if not self.config.normalize_targets:
            return values
        mean, variance = values.mean(dim=-1, keepdim=True), values.var(dim=-1, keepdim=True)
        # He et al. 2022 add 1e-6, which keeps a patch of open water finite.
        return (values - mean) / (variance + 1e-6).sqrt()

    def _check(
        self, images: Tensor, photos: Tensor | None, uv: Tensor | None, has_photo: Tensor | None
    ) -> None:
        config = self._encoder.config
        bands, patch = len(config.bands), config.patch_size
        sides = images.shape[2:]
        if images.ndim != 4 or images.shape[1] != bands or any(s < patch or s % patch for s in sides):
            raise BadInputError(
                f"Scenes must have the shape (B, {bands}, H, W), H and W multiples of {patch}, found "
                f"{tuple(images.shape)}."
            )
        if (photos is None) != (uv is None):
            raise BadInputError("photos and uv belong together, found one of them.", "Pass both or neither.")
        if photos is None or uv is None:
            if has_photo is not None:
                raise BadInputError("has_photo came without photos.", "Pass both or neither.")
            return
        if uv.shape != (len(images), 2) or len(photos) != len(images):
            raise BadInputError(
                f"{len(images)} scenes need as many photos and uv of the shape ({len(images)}, 2), found "
                f"{len(photos)} photos and uv {tuple(uv.shape)}."
            )
        if not bool(((uv >= 0) & (uv <= 1)).all()):
            raise BadInputError(
                "Photos must lie inside their scene, u and v in [0, 1].",
                "Drop photos outside the scene first.",
            )
        if has_photo is not None and (has_photo.shape != (len(images),) or has_photo.dtype != torch.bool):
            raise BadInputError(
                f"has_photo must be bool of the shape ({len(images)},), found {has_photo.dtype} of "
                f"{tuple(has_photo.shape)}."
            )


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """Return some tokens of each sample, (B, N, D) and (B, V) -> (B, V, D)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _attention_dtype(tokens: Tensor) -> torch.dtype:
    """Return the dtype of queries, which autocast may lower and a bias must have."""
    device = tokens.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
