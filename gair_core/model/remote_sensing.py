"""The scene encoder f: a ViT without position embedding whose attention is biased by distance (2-D ALiBi)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gair_core.config import RemoteSensingConfig
from gair_core.errors import BadInputError


def alibi_slopes(num_heads: int) -> Tensor:
    """Return the slope of each head, shape (num_heads,), float64.

    For a power of two the slopes are 2^(-8/n), 2^(-16/n), ...; otherwise those of the next smaller power of
    two, followed by every second slope of the next larger one (Press et al. 2022, "Train Short, Test Long").
    """

    def geometric(count: int) -> Tensor:
        return 2.0 ** (-8.0 / count * torch.arange(1, count + 1, dtype=torch.float64))

    power = 2 ** math.floor(math.log2(num_heads))
    return torch.cat([geometric(power), geometric(2 * power)[0::2][: num_heads - power]])


def alibi_bias(rows: int, columns: int, num_heads: int) -> Tensor:
    """Return what is added to the attention logits: minus slope times Euclidean distance in patches.

    Args:
        rows: Rows of the patch lattice.
        columns: Columns of the patch lattice.
        num_heads: Number of attention heads.

    Returns:
        Shape (1, num_heads, N, N) with N = rows * columns in row-major order, float32.
    """
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([row.flatten(), column.flatten()], dim=1).double()
    distance = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
    return (-alibi_slopes(num_heads)[:, None, None] * distance).float()[None]


class ALiBi(nn.Module):
    """Distance biases, built once for each lattice shape, device and dtype and kept for the last few."""

    _KEPT = 4

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self._cache: OrderedDict[tuple[int, int, torch.device, torch.dtype], Tensor] = OrderedDict()

    def forward(self, rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the bias of a lattice, shape (1, num_heads, N, N), see `alibi_bias`."""
        key = (rows, columns, device, dtype)
        if key not in self._cache:
            # Float32 first: float64 does not exist on MPS.
            self._cache[key] = alibi_bias(rows, columns, self.num_heads).to(device=device, dtype=dtype)
            while len(self._cache) > self._KEPT:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]


class RemoteSensingEncoder(nn.Module):
    """CROMA's optical encoder: linear patch embedding, pre-norm blocks, ALiBi, no class token.

    Any height and width divisible by the patch size will do.
    """

    def __init__(self, config: RemoteSensingConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(
            img_size=None, patch_size=config.patch_size, in_chans=len(config.bands), embed_dim=config.width
        )
        self.alibi = ALiBi(config.num_heads)
        rates = [config.drop_path * index / max(config.depth - 1, 1) for index in range(config.depth)]
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=False,
                drop_path=rate,
                norm_layer=nn.LayerNorm,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(config.width) if config.final_norm else nn.Identity()
        self.apply(_init_linear)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images.

        Args:
            images: Shape (B, C, H, W), values in [0, 1] (`gair_core.sentinel2.bands.normalize`), H and W
                divisible by the patch size p.

        Returns:
            Features, shape (B, width, H/p, W/p).
        """
        return self.forward_blocks(images, [len(self.blocks) - 1])[0]

    def forward_blocks(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Encode normalised images and return what several blocks put out.

        Args:
            images: As in `forward`.
            blocks: Numbers of the blocks from 0, not falling. What lies behind the last one is not computed.

        Returns:
            One tensor (B, width, H/p, W/p) a block. Only the last block's output passes the final norm, which
            was trained on it.

        Raises:
            BadInputError: There is no such block, or the numbers fall.
        """
        last = len(self.blocks) - 1
        if not blocks or list(blocks) != sorted(blocks) or blocks[0] < 0 or blocks[-1] > last:
            raise BadInputError(
                f"The scene encoder has the blocks 0 to {last}, asked for {', '.join(map(str, blocks))}.",
                "Name blocks that there are, from the first to the last.",
            )
        rows, columns = (side // self.config.patch_size for side in images.shape[-2:])
        tokens: Tensor = self.patch_embed(images)
        # Scaled dot-product attention wants the mask in the query's dtype, which autocast may have lowered.
        device = tokens.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
        bias = self.alibi(rows, columns, tokens.device, dtype)
        found: list[Tensor] = []
        for number, block in enumerate(self.blocks[: blocks[-1] + 1]):
            tokens = block(tokens, attn_mask=bias)
            if number in blocks:
                seen = self.norm(tokens) if number == last else tokens
                features = seen.transpose(1, 2).reshape(len(tokens), -1, rows, columns)
                found += [features] * list(blocks).count(number)
        return found


def check_images(images: Tensor, config: RemoteSensingConfig) -> None:
    """Check the shape and dtype of normalised scenes.

    Args:
        images: Must be floating point, of shape (B, C, H, W), H and W multiples of the patch size.
        config: The encoder that is to read them.

    Raises:
        BadInputError: Another shape, band count or dtype.
    """
    bands, patch = config.bands, config.patch_size
    if images.ndim != 4:
        raise BadInputError(f"Scenes must have the shape (B, C, H, W), found {tuple(images.shape)}.")
    if images.shape[1] != len(bands):
        raise BadInputError(
            f"Scenes must have {len(bands)} bands ({', '.join(bands)}), found {images.shape[1]}.",
            "Select and order the bands first.",
        )
    height, width = images.shape[2:]
    if min(height, width) < patch or height % patch or width % patch:
        raise BadInputError(
            f"Height and width must be multiples of the patch size {patch}, found {height} x {width}.",
            "Pad the scene by reflection, or resize it.",
        )
    require_floating(images, "Scenes", "gair_core.sentinel2.bands.normalize")


def require_floating(values: Tensor, what: str, remedy: str) -> None:
    """Check that an input was prepared: integers are pixels or degrees as they were read.

    Raises:
        BadInputError: It is not floating point; the hint names what prepares it.
    """
    if not values.is_floating_point():
        raise BadInputError(f"{what} must be floating point, found {values.dtype}.", f"Use {remedy} first.")


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
