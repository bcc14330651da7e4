"""Per-pixel NILI embeddings of a scene: a raster of principal components, or of all dimensions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from gair_core.basis import fit_basis
from gair_core.checkpoint import load
from gair_core.errors import BadInputError
from gair_core.heads.base import embedding_lattice, embedding_localizer, embedding_rim
from gair_core.inference.engine import Engine
from gair_core.inference.lattice import PixelSampler, PixelStrip
from gair_core.inference.models import load_model
from gair_core.inference.request import Estimate, SceneRequest, output_window, provenance
from gair_core.inference.styles import rgb_style
from gair_core.inference.writers import RasterWriter, check_raster_destination, expected_bytes
from gair_core.model.gair import GAIR, EmbeddingBasis
from gair_core.progress import Progress, Quiet
from gair_core.sentinel2.scene import Scene
from gair_core.task import Result, Task

# int8 keeps -128 free for nodata.
_NODATA: dict[str, float] = {"int8": -128, "float16": float("nan"), "float32": float("nan")}
# Tiles to which `--basis scene` is fitted: enough for a stable basis, few beside a whole scene.
_BASIS_TILES = 16


class EmbedRequest(SceneRequest):
    """Compute the embedding of every pixel (NILI) and write its principal components."""

    components: Annotated[int, Field(gt=0)] | Literal["all"] = Field(
        16, description="principal components to keep, or all for the embedding itself"
    )
    basis: str = Field(
        "model",
        description="model (the checkpoint's), scene (fitted to this scene) or a checkpoint to take it from",
    )
    dtype: Literal["int8", "float16", "float32"] = Field("int8", description="pixel type of the output")


class EmbedResult(Result):
    """What `embed` wrote.

    Attributes:
        output: The raster.
        components: Number of its bands.
        explained_variance: Fraction of the embeddings' variance that they carry; None for all dimensions.
    """

    output: str
    components: int
    explained_variance: float | None


def embed(request: EmbedRequest, progress: Progress | None = None) -> EmbedResult | Estimate:
    """Write a raster of embeddings.

    Args:
        request: What to do.
        progress: Told how far it is; may cancel.

    Returns:
        What was written, or the estimate of a dry run.

    Raises:
        BadInputError: The scene, the model or an option cannot be used.
        CancelledError: The user cancelled; nothing is left.
    """
    progress = progress or Progress()
    model = load_model(request.model)
    engine = request.engine(model)
    with request.open(request.scene, engine.config.gsd, progress) as scene:
        place = output_window(scene, engine.patch, request.resolution, request.extent, request.extent_crs)
        bands = model.config.embed_dim if request.components == "all" else request.components
        if request.dtype == "int8" and request.components == "all":
            raise BadInputError(
                "All dimensions cannot be written as int8: fixed scales exist for principal components only.",
                "Add --dtype float16, or choose a number of --components.",
            )
        check_raster_destination(
            Path(request.output),
            place.grid,
            bands,
            request.dtype,
            token=request.token,
            inputs=scene.files,
        )
        embedding_localizer(model)
        identity = PixelSampler(place.whole, scene.grid, engine.patch, place.window)
        plan = engine.plan(scene, identity.lattice_window)
        if request.dry_run:
            seconds = engine.seconds_per_tile(partial(embedding_lattice, model)) * plan.count
            return Estimate(
                tiles=plan.count, seconds=seconds, bytes=expected_bytes(place.grid, bands, request.dtype)
            )
        basis, share = _basis(request, model, engine, scene, progress)
        rows = None if basis is None else basis.components
        rim = embedding_rim(model, rows)
        sampler = PixelSampler(place.whole, scene.grid, engine.patch, place.window, rim)
        transform = partial(embedding_lattice, model, rows=rows)
        with RasterWriter(
            request.output,
            place.grid,
            bands,
            request.dtype,
            token=request.token,
            nodata=_NODATA[request.dtype],
            band_names=[f"{'dimension' if basis is None else 'component'} {i + 1}" for i in range(bands)],
            tags=provenance("embed", request, model, scene, **_describe(basis)),
            scales=basis.scale.tolist() if basis is not None and request.dtype == "int8" else None,
            style=_style(basis, request.dtype),
            inputs=scene.files,
            progress=progress,
        ) as writer:
            strips = engine.strips(scene, plan, transform, progress, (share, 0.97))
            for strip in sampler.sample(strips):
                writer.write(_pixels(strip, basis, request.dtype), strip.row)
    progress.report(1.0, "done")
    return EmbedResult(
        output=request.output,
        components=bands,
        explained_variance=None if basis is None else float(basis.variance.sum()),
        warnings=tuple(progress.warnings),
    )


def _basis(
    request: EmbedRequest, model: GAIR, engine: Engine, scene: Scene, progress: Progress
) -> tuple[EmbeddingBasis | None, float]:
    """Return the basis cut to the wanted components, and the share of the progress that it took."""
    if request.components == "all":
        return None, 0.0
    if request.basis == "scene":
        return fit_scene_basis(engine, scene, request.components, progress), 0.2
    basis = model.basis if request.basis == "model" else load(request.basis).basis
    if basis is None:
        raise BadInputError(
            f"{'The model' if request.basis == 'model' else request.basis} has no PCA basis.",
            "Fit one to this scene with --basis scene, or write all dimensions with --components all.",
        )
    if basis.mean.shape[0] != model.config.embed_dim:
        raise BadInputError(
            f"The basis is of {basis.mean.shape[0]} dimensions, the model's embeddings have "
            f"{model.config.embed_dim}.",
            "Take the basis of the same model.",
        )
    found = len(basis.components)
    if request.components > found:
        raise BadInputError(
            f"The basis has {found} components, {request.components} were asked for.",
            f"Ask for at most {found}, or use --basis scene.",
        )
    return _first_components(basis.to(engine.device), request.components), 0.0


def _first_components(basis: EmbeddingBasis, count: int) -> EmbeddingBasis:
    first = EmbeddingBasis(basis.mean.shape[0], count).to(basis.mean.device)
    first.mean.copy_(basis.mean)
    for name in ("components", "variance", "scale"):
        getattr(first, name).copy_(getattr(basis, name)[:count])
    return first


def fit_scene_basis(engine: Engine, scene: Scene, components: int, progress: Progress) -> EmbeddingBasis:
    """Fit a basis to a fixed sample of a scene's tiles, whatever part of the scene is wanted.

    Args:
        engine: The engine.
        scene: The scene.
        components: Number of components.
        progress: Gets the first fifth.

    Raises:
        BadInputError: The sample holds too few valid patches.
    """
    whole = engine.plan(scene)
    side = int(_BASIS_TILES**0.5)
    rows = sorted({whole.rows.starts[i] for i in _spread(len(whole.rows.starts), side)})
    columns = sorted({whole.columns.starts[i] for i in _spread(len(whole.columns.starts), side)})
    embeddings = []
    places = [(row, column) for row in rows for column in columns]
    for index, (row, column) in enumerate(places):
        plan = whole.single_tile(row, column)
        lattice = partial(embedding_lattice, engine.model)
        for strip in engine.strips(scene, plan, lattice, Quiet(progress)):
            complete = strip.patch_validity(engine.patch, share=1)
            embeddings.append(strip.values[:, complete].mT)
        progress.report(0.2 * (index + 1) / len(places), "fitting the basis")
    return fit_basis(torch.cat(embeddings), components).to(engine.device)


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({round(x) for x in np.linspace(0, count - 1, min(count, wanted))})


def _pixels(strip: PixelStrip, basis: EmbeddingBasis | None, dtype: str) -> npt.NDArray[Any]:
    """Centre, scale and mask a strip."""
    values = strip.values
    if basis is not None:
        centre = (basis.components @ basis.mean).float().cpu()
        values = values - centre[:, None, None]
    if dtype == "int8":
        step = basis.scale.cpu()[:, None, None] if basis is not None else torch.ones(1)
        values = (values / step).round().clamp(-127, 127)
    pixels = values.numpy()
    pixels[:, ~strip.valid] = _NODATA[dtype]
    return pixels.astype(dtype)


def _describe(basis: EmbeddingBasis | None) -> dict[str, Any]:
    if basis is None:
        return {}
    return {
        "explained_variance": [round(value, 6) for value in basis.variance.tolist()],
        "int8_scale": basis.scale.tolist(),
        "basis_mean": [round(value, 6) for value in basis.mean.tolist()],
        "basis": [[round(value, 6) for value in row] for row in basis.components.tolist()],
    }


def _style(basis: EmbeddingBasis | None, dtype: str) -> str | None:
    """The first three components as red, green and blue, two standard deviations to each side."""
    if basis is None or len(basis.components) < 3:
        return None
    # One int8 step is SPAN / 127 standard deviations.
    half = 127 / 2 if dtype == "int8" else None
    limits = [half or 127 / 2 * float(step) for step in basis.scale[:3]]
    return rgb_style((1, 2, 3), [(-limit, limit) for limit in limits])


TASK = Task("embed", EmbedRequest, embed)
