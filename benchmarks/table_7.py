"""Table 7: operations and latency of the encoders, with and without NILI.

    python benchmarks/table_7.py [--presets base small tiny] [--batch-sizes 1 8] [--device cuda]
                                 [--json table_7.json]

Operations are counted by torch.utils.flop_counter, which knows matrix products, convolutions and attention
but neither norms nor activations; a multiply-add counts two. Latency is the median of interleaved rounds on
random input of the size that the preset wants; on a GPU each is followed by a synchronisation. Ratios come
from one run: a busy machine slows all parts alike.

The paper prints 23.10 GFLOP for the scene encoder and 23.12 with NILI and does not say what it counts. ViT-B
with patches of 8 on 96 x 96 pixels has 12.7 G multiply-adds, so 25.4 GFLOP by our count.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from timing import interleaved
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gair_core.config import GAIRConfig, Preset
from gair_core.evaluation.costs import Cost, Costs, Part, costs_as_text
from gair_core.model.gair import GAIR

PRESETS: tuple[Preset, ...] = ("base", "small", "tiny")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Call = Callable[[], object]


def calls(model: GAIR, batch_size: int, dtype: torch.dtype) -> dict[Part, Call]:
    """Each part of the table on random input, a batch of it."""
    config, device = model.config, model.device
    if config.remote_sensing is None or config.street_view is None:
        raise TypeError
    size, photo = config.remote_sensing.tile_size, config.street_view.image_size
    scenes = torch.rand(batch_size, len(config.remote_sensing.bands), size, size, device=device)
    photos = torch.randn(batch_size, 3, photo, photo, device=device)
    uv = torch.rand(batch_size, 1, 2, device=device)
    lonlat = torch.rand(batch_size, 2, device=device, dtype=torch.float64)

    def mixed(run: Call) -> Call:
        def call() -> object:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                return run()

        return call

    def localized() -> object:
        return model.interpolate(model.encode_remote_sensing(scenes), uv)

    parts: dict[Part, Call] = {
        "scene": lambda: model.encode_remote_sensing(scenes),
        "scene_nili": localized,
        "scene_nili_dense": lambda: model.interpolate_dense(
            model.encode_remote_sensing(scenes), (size, size)
        ),
        "photo": lambda: model.encode_street_view(photos),
        "location": lambda: model.encode_location(lonlat),
        "joint": lambda: (localized(), model.encode_street_view(photos), model.encode_location(lonlat)),
    }
    return {part: mixed(run) for part, run in parts.items()}


def count(run: Call) -> int:
    """Operations of a call; attention by its plain products, whose count no backend changes."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def synchronised(run: Call, device: torch.device) -> Call:
    """The same, ended when the device has ended it."""
    if device.type != "cuda":
        return run

    def call() -> None:
        run()
        torch.cuda.synchronize(device)

    return call


@torch.no_grad()
def measure(preset: Preset, batch_size: int, device: torch.device, precision: str, rounds: int) -> list[Cost]:
    """Costs of all parts of a preset."""
    torch.manual_seed(0)
    model = GAIR(GAIRConfig.preset(preset)).to(device).eval()
    runs = calls(model, batch_size, PRECISIONS[precision])
    operations = {part: count(run) / batch_size for part, run in runs.items()}
    seconds = interleaved({part: synchronised(run, device) for part, run in runs.items()}, rounds)
    return [
        Cost(
            preset=preset,
            part=part,
            batch_size=batch_size,
            gflops=operations[part] / 1e9,
            latency_ms=1000 * seconds[part],
        )
        for part in runs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    found = [
        cost
        for preset in options.presets
        for batch_size in options.batch_sizes
        for cost in measure(preset, batch_size, device, options.precision, options.rounds)
    ]
    costs = Costs(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        threads=options.threads,
        precision=options.precision,
        torch=torch.__version__,
        rounds=options.rounds,
        costs=tuple(found),
    )
    if options.json is not None:
        options.json.write_text(json.dumps(costs.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    print(costs_as_text(costs))


if __name__ == "__main__":
    main()
