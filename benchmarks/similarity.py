"""What similarity costs beyond the encoder: six shared channels against embeddings of every pixel.

    python benchmarks/similarity.py [--preset tiny] [--size 864] [--photos 400] [--rounds 3]

A scene is encoded by the engine (reading and the 3x3 convolution included), and then, from the same strips of
the lattice: the mean cosine of one photo by inner products of the lattice; the same by interpolating all D
dimensions at every pixel and taking the cosine there; and everything that `gair similarity` does for
many photos: a band, and their scores, percentiles and best matches in the whole scene. Writing files is
left out on all sides; the photos' own encoding is reported apart. Weights are random.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tile_size import write_scene
from timing import interleaved
from torch import Tensor

from gair_core.config import GAIRConfig
from gair_core.inference.cosine import CosineSampler, SceneScores, lattice_products
from gair_core.inference.engine import Engine
from gair_core.inference.lattice import LatticeStrip, PixelSampler
from gair_core.model import GAIR
from gair_core.sentinel2.scene import Scene


class Comparison:
    """The ways from a scene's lattice to cosines, all of which start from the same strips."""

    def __init__(self, engine: Engine, scene: Scene, photos: int) -> None:
        self.engine, self.scene = engine, scene
        self.rim = engine.model.localizer.rim_weight().detach().cpu()
        self.queries = F.normalize(torch.randn(photos, len(self.rim)), dim=-1)
        self.strips: list[LatticeStrip] = []

    def encode(self) -> None:
        """Encode the scene and keep its lattice."""
        lattice = self.engine.model.localizer.lattice
        self.strips = list(self.engine.strips(self.scene, self.engine.plan(self.scene), lattice))

    def products(self, queries: Tensor, strips: Iterator[LatticeStrip] | None = None) -> Tensor:
        """Return the cosines of every pixel by inner products of the lattice."""
        grid, patch = self.scene.grid, self.engine.patch
        sampler = CosineSampler(grid, grid, patch, grid.full_window, queries=queries, rim_weight=self.rim)
        products = lattice_products(strips or iter(self.strips), queries, self.rim, patch)
        return torch.cat([strip.values for strip in sampler.sample(products)], 1)

    def embeddings(self, queries: Tensor) -> Tensor:
        """Return the cosines of every pixel by its embedding."""
        grid = self.scene.grid
        sampler = PixelSampler(grid, grid, self.engine.patch, grid.full_window, self.rim)
        parts = []
        for strip in sampler.sample(iter(self.strips)):
            dots = torch.einsum("kd,dyx->kyx", queries, strip.values)
            parts.append(dots / torch.linalg.vector_norm(strip.values, dim=0).clamp_(min=1e-12))
        return torch.cat(parts, 1)

    def many(self) -> None:
        """Compute the mean cosine and the scores of all photos."""
        grid, patch = self.scene.grid, self.engine.patch
        shape = -(-grid.height // patch), -(-grid.width // patch)
        uv = np.random.default_rng(0).random((len(self.queries), 2)) * 0.9
        scores = SceneScores(self.queries, uv, shape, self.rim, patch)

        def scored() -> Iterator[LatticeStrip]:
            for strip in self.strips:
                scores.add(strip)
                yield strip

        self.products(self.queries.mean(0, keepdim=True), scored())
        scores.result()

    def seconds_per_photo(self, batch: int = 8) -> float:
        """Measure the photo encoder after a warm-up."""
        config = self.engine.model.config.street_view
        if config is None:
            raise ValueError("the presets have a photo encoder")
        images = torch.zeros(batch, 3, config.image_size, config.image_size, device=self.engine.device)
        with torch.inference_mode():
            self.engine.model.encode_street_view(images)
            start = time.perf_counter()
            self.engine.model.encode_street_view(images).cpu()
        return (time.perf_counter() - start) / batch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=("base", "small", "tiny"), default="tiny")
    parser.add_argument("--size", type=int, default=864, help="side of the scene, pixels")
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = GAIR(GAIRConfig.preset(arguments.preset)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.tif"
        write_scene(path, arguments.size)
        with Scene.open(path) as scene:
            work = Comparison(Engine(model, arguments.device), scene, arguments.photos)
            one = work.queries[:1]
            seconds = interleaved(
                {
                    "encode": work.encode,
                    "products": lambda: work.products(one),
                    "embeddings": lambda: work.embeddings(one),
                    "many": work.many,
                },
                arguments.rounds,
            )
            difference = float((work.products(one) - work.embeddings(one)).abs().max())
            report(arguments, seconds, difference, work.seconds_per_photo())


def report(
    arguments: argparse.Namespace, seconds: dict[str, float], difference: float, per_photo: float
) -> None:
    encoder = seconds["encode"]
    ratio = seconds["embeddings"] / seconds["products"]
    print(f"{arguments.preset}, {arguments.size} x {arguments.size} pixels; seconds:")
    print(f"  encoder, reading included     {encoder:8.2f}")
    print(f"  one photo by products         {seconds['products']:8.3f}")
    print(
        f"  one photo by embeddings       {seconds['embeddings']:8.3f}   {ratio:.1f} times as long (bar: 20)"
    )
    print(f"  largest difference            {difference:8.1e}   (bar: 1e-5)")
    share = 100 * seconds["many"] / encoder
    print(
        f"  {arguments.photos} photos, scores included {seconds['many']:8.3f}   {share:.1f} % of the encoder"
    )
    print("                                           (bar: 10 % of the base preset's)")
    total = per_photo * arguments.photos
    print(
        f"  encoding the {arguments.photos} photos       {total:8.2f}   {1000 * per_photo:.1f} ms each, apart"
    )


if __name__ == "__main__":
    main()
