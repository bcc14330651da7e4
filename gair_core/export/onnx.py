"""Networks as ONNX files that old and new versions of onnxruntime read.

PyTorch's exporter on `torch.export` writes them. Sizes are constants to it, so that nothing but arithmetic is
left in the graph; the older one traces them as tensors and leaves their bookkeeping behind.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gair_core.errors import BadInputError, CheckpointError
from gair_core.inference import outputs

OPSET = 18
"""The operators of ONNX 1.13, the oldest that the exporter writes; onnxruntime runs them from 1.14 on."""

IR_VERSION = 8
"""The file format of that version."""

INPUT, OUTPUT = "tile", "probabilities"
"""Names of the network's input and output."""

_EXTRA = "pip install 'gair-core[onnx]'"


def require_onnx() -> None:
    """Check that the packages are installed.

    Raises:
        BadInputError: One is not; the hint installs them.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise BadInputError(
            f"Writing ONNX needs onnx, onnxruntime and onnxscript; {error.name} is not installed.",
            f"Install them: {_EXTRA}.",
        ) from None
    del onnx, onnxruntime, onnxscript


def to_onnx(network: nn.Module, example: Tensor, metadata: Mapping[str, str], producer: str) -> bytes:
    """Return a network as an ONNX file.

    Args:
        network: From one tensor to one, in evaluation mode.
        example: An input; its shape is the only one that the file takes.
        metadata: Entries for whoever reads the file.
        producer: Name and version of the program that made it.

    Raises:
        BadInputError: The packages are not installed.
    """
    require_onnx()
    import onnx

    with warnings.catch_warnings(), torch.no_grad():
        # What the exporter warns of concerns its own code.
        warnings.simplefilter("ignore")
        # The encoder keeps the attention bias of its first run, which must not be the exporter's stand-in.
        network(example)
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    _anonymise(model)
    model.ir_version = IR_VERSION
    model.producer_name = producer
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    written: bytes = model.SerializeToString()
    return written


def _anonymise(model: Any) -> None:  # noqa: ANN401 (protobuf makes its classes at run time)
    """Drop what the exporter notes of every node: the lines of code behind it, on whose machine."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def run_onnx(file: bytes, tile: Tensor) -> Tensor:
    """Run an ONNX file on the CPU.

    Args:
        file: The whole file.
        tile: Its input, float32.
    """
    require_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found: Any = session.run([OUTPUT], {INPUT: tile.numpy()})[0]
    return torch.from_numpy(found)


def largest_difference(network: nn.Module, file: bytes, tile: Tensor) -> float:
    """Return by how much the values of a file differ at most from those of the network it was made of."""
    with torch.inference_mode():
        wanted = network(tile)
    return float((run_onnx(file, tile) - wanted).abs().max())


def write(path: Path, file: bytes, token: str) -> None:
    """Write a file, complete or not at all.

    Raises:
        BadInputError: The name or the folder is impossible, or it cannot be written.
    """
    with outputs.replacing(path, token) as temporary:
        temporary.write_bytes(file)


def check_same(difference: float, tolerance: float, path: Path) -> None:
    """Check that a file computes what its network computes, before it appears under its name.

    Raises:
        CheckpointError: It does not.
    """
    if not difference <= tolerance:
        raise CheckpointError(
            f"What was to become {path} differs from the head by {difference:.2g} on a made-up tile, "
            f"where {tolerance:g} is allowed; nothing was written.",
            "This is a fault of the exporter: report it with the versions that `gair check` prints.",
        )
