"""The task ``export``: a head for maps as a file for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from gair_core.export import onnx
from gair_core.export.deepness import (
    DeepnessSegmentor,
    Radiometry,
    deepness_metadata,
    example_tile,
    own_metadata,
)
from gair_core.head_checkpoint import load_head
from gair_core.inference.engine import TILE_SIZE
from gair_core.inference.models import load_model
from gair_core.inference.outputs import Destination, check_destinations, readable_bytes
from gair_core.inference.request import OutputRequest
from gair_core.progress import Progress
from gair_core.registry import find
from gair_core.task import Result, Task
from gair_core.version import __version__

# Of probabilities. Two libraries round differently; a wrong graph is off by far more.
_TOLERANCE = 1e-3
# Float32 weights, the attention bias of a large tile and the graph, over the checkpoint's own bytes.
_GROWTH, _FIXED = 3, 2**26


class ExportRequest(OutputRequest):
    """Write a head for maps as an ONNX file for the QGIS plugin Deepness.

    gair export onnx HEAD.safetensors OUT.onnx

    The file holds the head and its encoder. Deepness needs a layer with the encoder's ten bands in their
    order (the result names them), in DN, in a CRS in metres; it finds classes, resolution, tile size and
    overlap in the file. Channel 0 is "no data", the classes follow.
    """

    kind: CliPositionalArg[Literal["onnx"]] = Field(description="onnx")
    model: CliPositionalArg[str] = Field(
        description="a checkpoint of a head for maps of one date (linear, pixel_linear, upernet), or its name"
    )
    output: CliPositionalArg[str] = Field(description="the file to write, *.onnx")
    backbone: str | None = Field(
        None, description="the head's encoder, where it is neither inside, beside it nor registered"
    )
    tile_size: int = Field(TILE_SIZE, gt=0, description="side of a tile, pixels; fixed inside the file")
    scale: float = Field(
        1.0, gt=0, description="what the layer's values are multiplied by: 10000 for reflectance from 0 to 1"
    )
    offset: float = Field(
        0.0, description="DN to add: -1000 for layers of products since 2022 that were not harmonised"
    )


class ExportResult(Result):
    """What `export_checkpoint` wrote.

    Attributes:
        output: The file.
        bytes: Its size.
        opset: Version of the operators inside.
        tile_size: Side of a tile, pixels.
        resolution: Size of a pixel, centimetres, as Deepness asks for it.
        bands: The layer's bands in their order.
        channels: Names of the output's channels in their order.
        largest_difference: By how much its probabilities differ at most from the head's, on a made-up tile.
    """

    output: str
    bytes: int
    opset: int
    tile_size: int
    resolution: float
    bands: tuple[str, ...]
    channels: tuple[str, ...]
    largest_difference: float

    def text(self) -> str:
        """Return what Deepness needs to be told, for people."""
        return "\n".join(
            [
                f"{self.output}, {readable_bytes(self.bytes)}, opset {self.opset}",
                f"layer: {', '.join(self.bands)} in this order, pixels of {self.resolution / 100:g} m",
                f"tiles: {self.tile_size} x {self.tile_size} pixels",
                f"channels: {', '.join(self.channels)}",
                f"differs from the head by at most {self.largest_difference:.0e} in probability",
            ]
        )


def export_checkpoint(request: ExportRequest, progress: Progress | None = None) -> ExportResult:
    """Write a head and its encoder as one ONNX file.

    Raises:
        BadInputError: The head cannot be exported, the output cannot be written or is an input, or the
            packages of the extra ``onnx`` are not installed; nothing is left of the output.
        CheckpointError: There is no such head, its encoder is missing, or it is a model without a head.
        CancelledError: The user cancelled.
    """
    progress = progress or Progress()
    onnx.require_onnx()
    _check_output(request)
    progress.report(0.0, "reading")
    head, model = load_head(request.model, backbone=request.backbone, load_model=load_model)
    head, model = head.cpu(), model.cpu()
    radiometry = Radiometry(request.scale, request.offset)
    segmentor = DeepnessSegmentor(head, model, request.tile_size, radiometry).eval()
    progress.raise_if_cancelled()
    progress.report(0.2, "writing")
    tile = example_tile(segmentor)
    metadata = {**deepness_metadata(segmentor), **own_metadata(segmentor)}
    file = onnx.to_onnx(segmentor, tile, metadata, f"gair_core {__version__}")
    progress.raise_if_cancelled()
    progress.report(0.7, "comparing with the head")
    path = Path(request.output)
    difference = onnx.largest_difference(segmentor, file, tile)
    onnx.check_same(difference, _TOLERANCE, path)
    onnx.write(path, file, request.token)
    progress.report(1.0, "done")
    return ExportResult(
        output=request.output,
        bytes=len(file),
        opset=onnx.OPSET,
        tile_size=request.tile_size,
        resolution=100 * segmentor.config.gsd,
        bands=segmentor.config.bands,
        channels=segmentor.channels,
        largest_difference=difference,
        warnings=tuple(progress.warnings),
    )


def _check_output(request: ExportRequest) -> None:
    """Refuse an impossible destination before any work.

    Raises:
        BadInputError: It cannot be written, is no ``*.onnx`` or is an input, or does not fit on the disk.
    """
    inputs = [path for name in (request.model, request.backbone) if name and (path := find(name)).is_file()]
    needed = _FIXED + _GROWTH * sum(path.stat().st_size for path in inputs)
    destination = Destination(Path(request.output), (".onnx",), needed)
    check_destinations([destination], token=request.token, inputs=inputs)


TASK = Task("export", ExportRequest, export_checkpoint)
