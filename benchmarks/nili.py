"""What dense NILI costs: factorised against Eq. 1 evaluated per pixel, and against the encoder itself.

    python benchmarks/nili.py [--preset base] [--threads N]

One tile of 96 x 96 pixels, CPU, float32, median of seven interleaved rounds. The matrix rate is that of one
square product, large enough to reach the machine's best. Bars: at least 50 times faster than the smaller of
the vectorised Eq. 1 and its 391 GFLOP at the matrix rate; at most 0.35 of the encoder with all components and
0.1 with 16; the encoder at 0.7 of the matrix rate or more.

What bounds the encoder: nine tenths of its time are products of 144 rows (one tile) with the weights, and
these alone reach 0.69 to 0.83 of the rate of the square product, which is why one tile measures 0.65 to 0.77
from run to run. Attention takes 4 %, GELU 2 %, norms and additions 3 %. Four tiles at a time (576 rows, the
rows of the engine's default tile) reach 0.9, printed beside it; nothing else was found to gain as much.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from timing import interleaved
from torch import Tensor

from gair_core.config import GAIRConfig
from gair_core.model import GAIR
from gair_core.model.nili import NILI, gather_cell, grid_centres, locate

MATRIX_SIDE = 3072


def equation_1(nili: NILI, features: Tensor, uv: Tensor, chunk: int = 1152) -> Tensor:
    """Eq. 1 as printed, vectorised over queries: four gathers of unfolded features, four times H."""
    lattice = F.unfold(features, 3, padding=1).unflatten(2, features.shape[-2:])
    step = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    parts = []
    for part in uv.split(chunk, dim=1):
        cell = locate(part, *features.shape[-2:])
        unfolded, weights = gather_cell(lattice, cell)
        offset = 2 * (cell.fraction[..., None, :] - step) + cell.rim[..., None, :]
        values = nili.layers[0](torch.cat([unfolded, offset], dim=-1))
        parts.append(torch.einsum("bqk,bqkd->bqd", weights, values))
    return torch.cat(parts, dim=1)


def encoder_flops(config: GAIRConfig, patches: int) -> float:
    """Multiply-adds times two of one forward pass of the scene encoder, norms and softmax left out."""
    c = config.remote_sensing
    if c is None:
        return 0.0
    block = patches * c.width * c.width * (4 + 2 * c.mlp_ratio) + 2 * patches**2 * c.width
    return 2 * (c.depth * block + patches * c.patch_size**2 * len(c.bands) * c.width)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=("base", "small", "tiny"), default="base")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = GAIRConfig.preset(arguments.preset)
    model = GAIR(config).eval()
    nili = model.localizer
    if not isinstance(nili, NILI):
        raise TypeError
    size = (96, 96)
    image = torch.rand(1, 10, *size)
    four = torch.rand(4, 10, *size)
    features = model.encode_remote_sensing(image)
    uv = grid_centres(*size, like=features)[None]
    projection = torch.randn(16, config.embed_dim) / config.embed_dim**0.5
    left, right = torch.randn(MATRIX_SIDE, MATRIX_SIDE), torch.randn(MATRIX_SIDE, MATRIX_SIDE)

    seconds = interleaved(
        {
            "matrix product": lambda: left @ right,
            "encoder": lambda: model.encode_remote_sensing(image),
            "encoder, 4 tiles": lambda: model.encode_remote_sensing(four),
            "dense, all components": lambda: nili.dense(features, size),
            "dense, 16 components": lambda: nili.dense(features, size, projection),
            "Eq. 1 per pixel": lambda: equation_1(nili, features, uv),
        }
    )
    rate = 2 * MATRIX_SIDE**3 / seconds["matrix product"]
    patches = features.shape[-2] * features.shape[-1]
    work = 2 * 4 * size[0] * size[1] * nili.layers[0].weight.numel()
    ideal = work / rate
    dense, projected, encoder = (
        seconds[name] for name in ("dense, all components", "dense, 16 components", "encoder")
    )
    difference = (
        (nili.dense(features, size) - equation_1(nili, features, uv).mT.unflatten(2, size)).abs().max()
    )
    for name, value in seconds.items():
        print(f"{name:24s} {1000 * value:10.2f} ms")
    print(f"matrix rate              {rate / 1e9:10.1f} GFLOP/s on {arguments.threads} threads")
    print(f"Eq. 1 at the matrix rate {1000 * ideal:10.2f} ms for {work / 1e9:.0f} GFLOP")
    print(
        f"speed-up of dense NILI   {min(seconds['Eq. 1 per pixel'], ideal) / dense:10.1f} times   (bar: 50)"
    )
    print(f"dense / encoder          {dense / encoder:10.3f}         (bar: 0.35 with all components)")
    print(f"16 components / encoder  {projected / encoder:10.3f}         (bar: 0.1)")
    print(
        f"encoder / matrix rate    {encoder_flops(config, patches) / encoder / rate:10.3f}         (bar: 0.7)"
    )
    batched = seconds["encoder, 4 tiles"] / 4
    print(f"the same, 4 tiles        {encoder_flops(config, patches) / batched / rate:10.3f}")
    print(f"largest difference       {float(difference):10.2e}")


if __name__ == "__main__":
    main()
