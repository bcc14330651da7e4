"""NILI, neural implicit local interpolation (Eq. 1), and the deterministic localizers.

Eq. 1 evaluates H at the four patch centres around a query and blends the results by area:

    z(q) = sum_k w_k H(U_k, d_k)        U: 3x3 unfolding of the features, d_k: offset from centre k

For H = one Linear [W_f | W_c] with bias b, two facts make this cheap. W_f U + b is a 3x3 convolution G of
the features; and bilinear weights reproduce linear functions, so sum_k w_k d_k vanishes wherever the query
has four real neighbours. What is left is exact:

    z(q) = bilinear(G)(q) + W_c d(q)    d: non-zero only in the outer half-patch rim

so a dense raster of embeddings costs one convolution at patch resolution and a bilinear resize, and whatever
is linear (PCA, a linear head, the dot product with a photo) can be applied to G before the resize. With
hidden layers only the first layer factorises.

Everywhere, p = (u P_x - 1/2, v P_y - 1/2) are lattice coordinates (0 is the centre of the first patch), and
offsets are in half patches, so that a patch is 2 wide, x before y.
"""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cell(NamedTuple):
    """The lattice cell around each query, by axis (last dimension: x, y).

    Attributes:
        corner: Index of the upper left neighbour, int64, shape (..., 2).
        fraction: Weight of the lower right neighbour in [0, 1], shape (..., 2).
        rim: The offset d, 2 (p - clamp(p, 0, P - 1)), shape (..., 2); 0 between the outermost centres.
    """

    corner: Tensor
    fraction: Tensor
    rim: Tensor


def locate(uv: Tensor, rows: int, columns: int) -> Cell:
    """Find the cell of each query in a lattice.

    Args:
        uv: Shape (..., 2), u to the right and v down, in [0, 1].
        rows: Rows of the lattice.
        columns: Columns of the lattice.

    Returns:
        The cells. On a lattice with one row or column the second neighbour does not exist; its weight is 0.
    """
    count = torch.tensor([columns, rows], dtype=uv.dtype, device=uv.device)
    position = uv * count - 0.5
    last = count - 1
    clamped = position.clamp(min=torch.zeros_like(last), max=last)
    corner = clamped.floor().minimum((last - 1).clamp(min=0))
    return Cell(corner.long(), clamped - corner, 2 * (position - clamped))


def gather_cell(lattice: Tensor, cell: Cell) -> tuple[Tensor, Tensor]:
    """Return the four corner vectors of each query and their weights.

    Args:
        lattice: Shape (B, D, P_y, P_x).
        cell: Cells of shape (B, Q, 2).

    Returns:
        Corner vectors (B, Q, 4, D), upper left, upper right, lower left, lower right; and weights (B, Q, 4).
    """
    rows, columns = lattice.shape[-2:]
    x, y = cell.corner.unbind(-1)
    right, below = (x + 1).clamp(max=columns - 1), (y + 1).clamp(max=rows - 1)
    index = torch.stack(
        [y * columns + x, y * columns + right, below * columns + x, below * columns + right], -1
    )
    vectors = lattice.flatten(2).transpose(1, 2)
    batch = torch.arange(len(lattice), device=lattice.device)[:, None, None]
    fx, fy = cell.fraction.unbind(-1)
    weights = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], -1)
    return vectors[batch, index], weights


def grid_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Return (u, v) of the pixel centres of a raster, shape (height * width, 2), row-major."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    v = (torch.arange(height, device=like.device, dtype=dtype) + 0.5) / height
    u = (torch.arange(width, device=like.device, dtype=dtype) + 0.5) / width
    return torch.stack([u.expand(height, -1), v[:, None].expand(-1, width)], dim=-1).flatten(0, 1)


def _as_raster(embeddings: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, height * width, D) -> (B, D, height, width)."""
    return embeddings.mT.reshape(len(embeddings), -1, *size)


class NILI(nn.Module):
    """The function H and its evaluation by Eq. 1.

    Args:
        width: Channels of the features.
        embed_dim: Dimension D of the embeddings.
        hidden: Widths of hidden layers with GELU between them; empty for one Linear.
    """

    # Queries per step of the evaluation with hidden layers: bounds memory, 4 vectors a query.
    _CHUNK = 4096

    def __init__(self, width: int, embed_dim: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.width = width
        self.embed_dim = embed_dim
        # Input order of the first layer: (c, ky, kx) of the unfolding, then the offset (x, y).
        widths = [9 * width + 2, *hidden, embed_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    @property
    def is_linear(self) -> bool:
        """Whether H is one Linear, so that the dense form factorises."""
        return len(self.layers) == 1

    @property
    def kernel(self) -> Tensor:
        """W_f as the kernel of a convolution, shape (width of the first layer, width, 3, 3)."""
        return self._first.weight[:, :-2].reshape(-1, self.width, 3, 3)

    @property
    def coordinate_weight(self) -> Tensor:
        """W_c, shape (width of the first layer, 2), columns x and y."""
        return self._first.weight[:, -2:]

    @property
    def _first(self) -> nn.Linear:
        layer = self.layers[0]
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"the first layer of H must be a Linear, found {type(layer).__name__}")
        return layer

    def lattice(self, features: Tensor, projection: Tensor | None = None) -> Tensor:
        """Return G = W_f U + b, the first layer without its coordinate part at every patch.

        Args:
            features: Shape (B, width, P_y, P_x).
            projection: Optional matrix (K, D) applied to G; folded into the kernel, so K components
                cost K/D of the convolution.

        Returns:
            Shape (B, D or K, P_y, P_x).
        """
        kernel: Tensor = self.kernel
        bias: Tensor = self._first.bias
        if projection is not None:
            kernel, bias = torch.einsum("kd,dcyx->kcyx", projection, kernel), projection @ bias
        return F.conv2d(features, kernel, bias, padding=1)

    def interpolate(self, features: Tensor, uv: Tensor) -> Tensor:
        """Evaluate Eq. 1 at points.

        Args:
            features: Shape (B, width, P_y, P_x).
            uv: Shape (B, Q, 2) in [0, 1], v down.

        Returns:
            Shape (B, Q, D).
        """
        rows, columns = features.shape[-2:]
        if not self.is_linear:
            return self._interpolate_hidden(self.lattice(features), uv)
        cell = locate(uv, rows, columns)
        if uv.shape[1] < rows * columns:
            # Few queries: blend the 4x4 neighbourhood first and apply W_f once a query.
            local = F.linear(
                self._blend_neighbourhood(features, cell), self._first.weight[:, :-2], self._first.bias
            )
        else:
            corners, weights = gather_cell(self.lattice(features), cell)
            local = torch.einsum("bqk,bqkd->bqd", weights, corners.to(weights.dtype)).to(features.dtype)
        return local + F.linear(cell.rim.to(features.dtype), self.coordinate_weight)

    def dense(self, features: Tensor, size: tuple[int, int], projection: Tensor | None = None) -> Tensor:
        """Evaluate Eq. 1 at the pixel centres of a raster that covers the same footprint.

        Args:
            features: Shape (B, width, P_y, P_x).
            size: Height and width of the raster.
            projection: Optional matrix (K, D) applied to the embeddings.

        Returns:
            Shape (B, D or K, height, width).
        """
        if self.is_linear:
            return self.upsample(self.lattice(features, projection), size, self.rim_weight(projection))
        uv = grid_centres(*size, like=features).expand(len(features), -1, -1)
        lattice = self.lattice(features)
        embeddings = []
        for part in torch.split(uv, self._CHUNK, dim=1):
            embedding = self._interpolate_hidden(lattice, part)
            embeddings.append(embedding if projection is None else embedding @ projection.mT)
        return _as_raster(torch.cat(embeddings, dim=1), size)

    def rim_weight(self, projection: Tensor | None = None) -> Tensor:
        """Return W_c, shape (D, 2), or its projection, shape (K, 2)."""
        return self.coordinate_weight if projection is None else projection @ self.coordinate_weight

    @staticmethod
    def upsample(lattice: Tensor, size: tuple[int, int], rim_weight: Tensor) -> Tensor:
        """Resize G to a raster and add the rim term.

        Args:
            lattice: Shape (B, D, P_y, P_x).
            size: Height and width of the raster.
            rim_weight: W_c, shape (D, 2).

        Returns:
            Shape (B, D, height, width).
        """
        # Bilinear resizing without aligned corners clamps at the border, as the identity asks.
        dense = F.interpolate(lattice, size=size, mode="bilinear", align_corners=False)
        rows, columns = lattice.shape[-2:]
        wide = torch.promote_types(lattice.dtype, torch.float32)
        for axis, (pixels, patches) in enumerate(((size[1], columns), (size[0], rows))):
            position = (torch.arange(pixels, device=lattice.device, dtype=wide) + 0.5) * (
                patches / pixels
            ) - 0.5
            offset = (2 * (position - position.clamp(0, patches - 1))).to(lattice.dtype)
            # Most pixels are no rim: touch the few leading and trailing columns (rows) alone.
            leading = min(pixels, int((position < 0).sum()))
            trailing = max(leading, pixels - int((position > patches - 1).sum()))
            for part in (slice(0, leading), slice(trailing, pixels)):
                term = rim_weight[:, axis, None].to(lattice.dtype) * offset[part]
                if axis == 0:
                    dense[..., :, part] += term[:, None, :]
                else:
                    dense[..., part, :] += term[:, :, None]
        return dense

    def _blend_neighbourhood(self, features: Tensor, cell: Cell) -> Tensor:
        """Return sum_k w_k U_k, shape (B, Q, 9 * width), from the 4x4 patches around each query."""
        columns = features.shape[-1]
        # One zero patch before (the unfolding's padding) and two behind: the window of a one-patch lattice
        # reaches one further, with weight 0.
        padded = F.pad(features, (1, 2, 1, 2))
        window = torch.arange(4, device=features.device)
        x = cell.corner[..., 0, None] + window
        y = cell.corner[..., 1, None] + window
        index = (y[..., :, None] * (columns + 3) + x[..., None, :]).flatten(2)
        vectors = padded.flatten(2).transpose(1, 2)
        batch = torch.arange(len(features), device=features.device)[:, None, None]
        patches = vectors[batch, index].reshape(*index.shape[:2], 4, 4, -1)

        def blend(fraction: Tensor) -> Tensor:
            # (B, Q) -> (B, Q, 3, 4): row k of the kernel sees patches k and k + 1.
            eye = torch.eye(4, device=fraction.device, dtype=fraction.dtype)
            return (1 - fraction)[..., None, None] * eye[:3] + fraction[..., None, None] * eye[1:]

        blended = torch.einsum(
            "bqyi,bqxj,bqijc->bqcyx",
            blend(cell.fraction[..., 1]),
            blend(cell.fraction[..., 0]),
            patches.to(cell.fraction.dtype),
        )
        return blended.flatten(2).to(features.dtype)

    def _interpolate_hidden(self, lattice: Tensor, uv: Tensor) -> Tensor:
        """Evaluate Eq. 1 with hidden layers, given the first layer's conv part at every patch."""
        cell = locate(uv, *lattice.shape[-2:])
        corners, weights = gather_cell(lattice, cell)
        # The offset from each neighbour; where clamping leaves one neighbour its twin has weight 0.
        step = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=uv.device, dtype=uv.dtype)
        offset = 2 * (cell.fraction[..., None, :] - step) + cell.rim[..., None, :]
        hidden = corners + F.linear(offset.to(lattice.dtype), self.coordinate_weight)
        for layer in itertools.islice(self.layers, 1, None):
            hidden = layer(F.gelu(hidden))
        return torch.einsum("bqk,bqkd->bqd", weights, hidden.to(weights.dtype)).to(lattice.dtype)


class FeatureLocalizer(nn.Module):
    """The deterministic localizers of the paper's ablation; they have no weights.

    Like the authors', ``bilinear`` and ``bicubic`` take everything outside the lattice of patch centres as 0,
    so embeddings fade towards the edge of the footprint; `NILI` clamps instead.

    Args:
        method: ``bilinear``, ``bicubic`` or ``pool`` (the mean token, for any query).
    """

    is_linear = False

    def __init__(self, method: Literal["bilinear", "bicubic", "pool"]) -> None:
        super().__init__()
        self.method = method

    def lattice(self, features: Tensor, projection: Tensor | None = None) -> Tensor:
        """Return the vectors that are interpolated, (B, D, P_y, P_x) -> (B, D or K, P_y, P_x)."""
        if self.method == "pool":
            features = features.mean(dim=(2, 3), keepdim=True).expand_as(features)
        return features if projection is None else torch.einsum("kd,bdyx->bkyx", projection, features)

    def interpolate(self, features: Tensor, uv: Tensor) -> Tensor:
        """Evaluate at points, features (B, D, P_y, P_x) and uv (B, Q, 2) in [0, 1] -> (B, Q, D)."""
        if self.method == "pool":
            return features.mean(dim=(2, 3))[:, None].expand(-1, uv.shape[1], -1)
        wide = torch.promote_types(features.dtype, uv.dtype)
        grid = (2 * uv - 1)[:, :, None].to(wide)
        sampled = F.grid_sample(features.to(wide), grid, mode=self.method, align_corners=False)
        return sampled[..., 0].transpose(1, 2).to(features.dtype)

    def dense(self, features: Tensor, size: tuple[int, int], projection: Tensor | None = None) -> Tensor:
        """Evaluate at the pixel centres of a raster, (B, D, P_y, P_x) -> (B, D or K, height, width)."""
        lattice = self.lattice(features, projection)
        if self.method == "pool":
            return lattice[..., :1, :1].expand(-1, -1, *size)
        uv = grid_centres(*size, like=features).expand(len(features), -1, -1)
        return _as_raster(self.interpolate(lattice, uv), size)
