"""What `gair embed` costs beyond the encoder: reading, blending, NILI, int8 and the COG included.

    python benchmarks/embed.py SCENE [--preset base] [--rounds 3]

Both candidates encode the same tiles of the scene in the same batches, interleaved. The bar is 1.2 for the
base preset on a CPU at the scene's resolution with 16 components.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from timing import interleaved

from gair_core import checkpoint
from gair_core.basis import fit_basis
from gair_core.config import GAIRConfig
from gair_core.inference.embed import EmbedRequest, embed
from gair_core.inference.engine import Engine
from gair_core.inference.models import load_model
from gair_core.model import GAIR
from gair_core.sentinel2.scene import Scene


def save_model(preset: str, path: Path) -> None:
    """Save a seeded model of a preset with a basis, so that `embed` has everything that it needs."""
    torch.manual_seed(0)
    config = GAIRConfig.preset(preset)  # type: ignore[arg-type]
    model = GAIR(config).eval()
    model.basis = fit_basis(torch.randn(1000, config.embed_dim), 16)
    checkpoint.save(model, path)


@torch.inference_mode()
def encode_only(engine: Engine, batches: int, size: int) -> None:
    side = engine.tile * engine.patch
    images = torch.rand(size, 10, side, side)
    for _ in range(batches):
        engine.model.encode_remote_sensing(images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scene")
    parser.add_argument("--preset", choices=("base", "small", "tiny"), default="base")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(arguments.preset, path)
        engine = Engine(load_model(str(path)), "cpu")
        with Scene.open(arguments.scene) as scene:
            plan = engine.plan(scene)
        size = min(engine.batch_size, len(plan.columns.starts))
        batches = len(plan.rows.starts) * -(-len(plan.columns.starts) // size)
        output = str(Path(folder) / "out.tif")
        request = EmbedRequest(scene=arguments.scene, output=output, model=str(path), device="cpu")
        seconds = interleaved(
            {"encoder": lambda: encode_only(engine, batches, size), "embed": lambda: embed(request)},
            arguments.rounds,
        )
    print(f"{plan.count} tiles of {engine.tile * engine.patch} pixels in batches of {size}")
    for name, value in seconds.items():
        print(f"{name:10s} {value:8.2f} s")
    print(f"embed / encoder {seconds['embed'] / seconds['encoder']:.3f} (bar: 1.2 with the base preset)")


if __name__ == "__main__":
    main()
