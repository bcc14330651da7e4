"""What every task on a scene has in common: its options, its grids, its plan and its provenance."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from affine import Affine
from pydantic import AfterValidator, Field
from pydantic_settings import CliPositionalArg, CliSuppress

from gair_core.errors import BadInputError
from gair_core.geo.grid import Grid, Window
from gair_core.inference.cache import bounded_cache
from gair_core.inference.engine import MARGIN, TILE_SIZE, Engine, readable_seconds
from gair_core.inference.outputs import readable_bytes
from gair_core.model.gair import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.scene import Scene
from gair_core.task import Request, Result
from gair_core.version import __version__

Extent = tuple[float, float, float, float]
Resolution = Annotated[float, Field(gt=0)] | Literal["lattice"]


def _new_token() -> str:
    return uuid.uuid4().hex[:12]


def _plain_token(token: str) -> str:
    if not token.isalnum():
        raise ValueError("a token is made of letters and digits")
    return token


class OutputRequest(Request):
    """Base of every task that writes a file."""

    # Of use to programs alone, which remove by it what a killed process left; no option of the command line.
    token: CliSuppress[Annotated[str, AfterValidator(_plain_token)]] = Field(
        default_factory=_new_token, description="part of the names of temporary files", exclude=True
    )


class SceneOptions(Request):
    """How to read a Sentinel-2 product; the same for every task."""

    bands: dict[str, int | str] | None = Field(
        None, description="where bands are: name=number in the stack (from 1), or another band's name"
    )
    offset: float | Literal["auto"] = Field(
        "auto", description="DN to add: -1000 removes ESA's offset, 0 leaves values alone, auto decides"
    )
    nodata: float | None = Field(None, description="stored value that means nodata; default: as declared")
    mask: str | None = Field(None, description="raster whose nonzero pixels are left out")
    scl: str | None = Field(None, description="scene classification (SCL) raster")
    scl_classes: tuple[int, ...] | None = Field(
        None, description="SCL classes to leave out, such as 3,8,9,10"
    )
    missing: Literal["error", "mean", "zero"] = Field(
        "error", description="what to do about absent bands: refuse, or fill with their mean or with 0"
    )

    @contextmanager
    def open(self, source: str, gsd: float, progress: Progress) -> Iterator[Scene]:
        """Open a product at a ground sampling distance for a block; its warnings go to the user.

        GDAL's cache is bounded from before the first read on: the sample of a whole Sentinel-2 tile, from
        which a scene's offset is decided, alone would fill it with 400 MB.
        """
        options = {name: getattr(self, name) for name in SceneOptions.model_fields}
        with bounded_cache(), Scene.open(source, gsd=gsd, **options) as scene:
            for warning in scene.warnings:
                progress.log("warning", warning)
            yield scene


class EngineOptions(Request):
    """How to run the encoder, or only to say what it would take; the defaults suit everybody."""

    model: str = Field("demo", description="a checkpoint, or the name of a registered model")
    device: str = Field("auto", description="cpu, cuda, mps or auto")
    tile_size: int = Field(TILE_SIZE, gt=0, description="side of a tile, pixels of the model's resolution")
    margin: int = Field(MARGIN, ge=0, description="overlap of a tile on each side, pixels")
    batch_size: int | None = Field(None, gt=0, description="tiles of a batch; default: as suits the device")
    dry_run: bool = Field(False, description="only say how many tiles, seconds and bytes it would take")

    def engine(self, model: GAIR) -> Engine:
        """Return the engine for a model."""
        return Engine(model, self.device, self.tile_size, self.margin, self.batch_size)


class WindowOptions(Request):
    """Which pixels of a scene a raster has."""

    extent: Extent | None = Field(None, description="left,bottom,right,top; default: the whole scene")
    extent_crs: str | None = Field(
        None, description="CRS of the extent, such as EPSG:4326; default: the scene's"
    )
    resolution: Resolution | None = Field(
        None,
        description="pixel size of the output in metres, or lattice (one per patch); default: the scene's",
    )


class SceneRequest(WindowOptions, EngineOptions, SceneOptions, OutputRequest):
    """Base of the tasks that turn a scene into a raster."""

    scene: CliPositionalArg[str] = Field(
        description="a Sentinel-2 product: file, folder, SAFE, zip or STAC item"
    )
    output: CliPositionalArg[str] = Field(description="the GeoTIFF to write")


class Estimate(Result):
    """What a run would take.

    Attributes:
        tiles: Tiles to encode.
        seconds: Estimated time, measured on this machine.
        bytes: Uncompressed size of the output.
    """

    tiles: int
    seconds: float
    bytes: int

    def text(self) -> str:
        """Return the estimate for people."""
        time, size = readable_seconds(self.seconds), readable_bytes(self.bytes)
        return f"{self.tiles} tiles, about {time}, {size} before compression"


@dataclass(frozen=True)
class OutputWindow:
    """The output's pixels.

    Attributes:
        whole: Grid of the whole scene at the output's resolution.
        window: The part that is written.
    """

    whole: Grid
    window: Window

    @property
    def grid(self) -> Grid:
        """Grid of the file that is written."""
        return self.whole.crop(self.window)


def output_window(
    scene: Scene,
    patch: int,
    resolution: float | Literal["lattice"] | None,
    extent: Extent | None,
    extent_crs: str | None,
) -> OutputWindow:
    """Return where the pixels of an output lie: edges aligned with the scene's.

    Args:
        scene: The scene at the model's ground sampling distance.
        patch: Pixels of a patch.
        resolution: Metres, ``lattice`` or None for the scene's own pixels.
        extent: Left, bottom, right and top, or None.
        extent_crs: CRS of the extent, the scene's when None.

    Raises:
        BadInputError: The extent is empty or does not meet the scene.
    """
    if resolution is None:
        whole = scene.native
    elif resolution == "lattice":
        whole = _lattice_grid(scene.grid, patch)
    else:
        whole = scene.native.resampled(resolution)
    window = whole.full_window if extent is None else whole.window(extent, extent_crs)
    return OutputWindow(whole, window)


def _lattice_grid(grid: Grid, patch: int) -> Grid:
    """One pixel a patch; the last row and column may reach beyond the scene's edge."""
    width, height = -(-grid.width // patch), -(-grid.height // patch)
    return Grid(grid.crs, grid.transform * Affine.scale(patch), width, height)


def provenance(task: str, request: Request, model: GAIR, scene: Scene, **more: Any) -> dict[str, str]:  # noqa: ANN401
    """Return the tags that say how an output was made; folders are left out, they may be private.

    Args:
        task: Name of the task.
        request: Its request.
        model: The model.
        scene: The scene.
        **more: Further entries, JSON-serialisable.
    """
    options = request.model_dump(mode="json", exclude_defaults=True, exclude={"scene", "output", "token"})
    information = model.checkpoint
    entries: dict[str, Any] = {
        "SOFTWARE": f"gair_core {__version__}",
        "TASK": task,
        "MODEL": f"{information.title} ({information.name})" if information else "unnamed",
        "MODEL_FINGERPRINT": information.fingerprint if information else "",
        "SCENE": scene.provenance,
        "OPTIONS": _without_folders(options),
        **{name.upper(): value for name, value in more.items()},
    }
    return {
        f"GAIR_{name}": value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
        for name, value in entries.items()
    }


def _without_folders(options: dict[str, Any]) -> dict[str, Any]:
    def public(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, list):
            return [public(one) for one in value]
        return Path(value).name if isinstance(value, str) and os.sep in value else value

    return {name: public(value) for name, value in options.items()}


def require_part(model: GAIR, part: str, task: str) -> None:
    """Check that a model has a part before any work is done.

    Raises:
        BadInputError: It lacks the part.
    """
    if part not in model.parts:
        raise BadInputError(
            f"{task} needs a model with the part '{part}'; this one holds {', '.join(model.parts)}.",
            "Choose another model, or merge a checkpoint that has it: gair import ... --into MODEL.",
        )
