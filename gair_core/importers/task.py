"""The task ``import``: one command for all importers."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, CliSuppress
from typing_extensions import Self

from gair_core.checkpoint import load, merge, save
from gair_core.errors import BadInputError
from gair_core.importers.common import ImportReport
from gair_core.importers.croma import import_croma
from gair_core.importers.geoclip import import_geoclip
from gair_core.importers.official import import_official
from gair_core.info import parameters_by_part
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.model.gair import GAIR
from gair_core.progress import Progress
from gair_core.registry import find
from gair_core.task import Request, Result, Task

ImportKind = Literal["official", "croma", "geoclip"]
Precision = Literal["float32", "float16", "bfloat16"]
# The options that describe an architecture, and the kinds that they fit.
_OPTIONS: dict[str, tuple[ImportKind, ...]] = {
    "final_norm": ("official", "croma"),
    "num_heads": ("croma",),
    "patch_size": ("croma",),
}


class ImportRequest(Request):
    """Convert the weights of another project into a checkpoint.

    gair import official IN.pth OUT.safetensors   the authors' GAIR
    gair import croma IN.pt OUT.safetensors       CROMA's optical encoder, a scene encoder alone
    gair import geoclip OUT.safetensors           the location encoder inside the Python package geoclip
    gair import geoclip IN.pth OUT.safetensors    the same from a file

    Code inside a file is never run.
    """

    kind: CliPositionalArg[ImportKind] = Field(description="official, croma or geoclip")
    paths: CliPositionalArg[list[Path]] = Field(
        min_length=1,
        max_length=2,
        description="the foreign file, then the checkpoint to write (*.safetensors)",
    )
    into: str | None = Field(
        None, description="checkpoint or registered model that receives the imported parts; it is not changed"
    )
    final_norm: bool | None = Field(
        None,
        description="apply the LayerNorm after the scene encoder's last block; default: if the file has it",
    )
    num_heads: int | None = Field(None, gt=0, description="attention heads of a CROMA encoder not 768 wide")
    patch_size: int | None = Field(
        None, gt=0, description="resample CROMA's patch embedding to this side, pixels"
    )
    title: str | None = Field(None, description="title of the checkpoint, one line")
    precision: Precision = Field("float32", description="float16 and bfloat16 halve the file")
    report: Path | None = Field(None, description="write what became of every tensor to this JSON file")
    token: CliSuppress[str | None] = Field(None, description="part of the temporary file's name")

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind != "geoclip" and len(self.paths) != 2:
            raise ValueError(f"import {self.kind} needs two paths, IN and OUT, found {len(self.paths)}")
        for option, kinds in _OPTIONS.items():
            if getattr(self, option) is not None and self.kind not in kinds:
                raise ValueError(f"{option} does not apply to {self.kind}, only to {' and '.join(kinds)}")
        return self

    @property
    def source(self) -> Path | None:
        """The foreign file; None for the weights of the installed package."""
        return self.paths[0] if len(self.paths) == 2 else None

    @property
    def output(self) -> Path:
        """The checkpoint to write."""
        return self.paths[-1]


class ImportResult(Result):
    """What an import wrote.

    Attributes:
        output: The checkpoint.
        title: Its title.
        parts: The parts inside.
        parameters: Number of trainable values of each part.
        tensors_used: Foreign tensors that were used.
        ignored: Names of the foreign entries that were not, by reason.
        notes: Decisions that a user should know.
        fingerprint: SHA-256 of the weights, hexadecimal.
    """

    output: Path
    title: str
    parts: tuple[str, ...]
    parameters: dict[str, int]
    tensors_used: int
    ignored: dict[str, list[str]]
    notes: tuple[str, ...]
    fingerprint: str


def import_checkpoint(request: ImportRequest, progress: Progress) -> ImportResult:
    """Read a foreign checkpoint and write ours.

    Raises:
        BadInputError: The output would replace an input, or cannot be written.
        CheckpointError: The foreign file is not what it should be.
    """
    return convert(request, progress)


def convert(request: ImportRequest, progress: Progress, origin: str | None = None) -> ImportResult:
    """Do what `import_checkpoint` does.

    Args:
        request: What to read and to write.
        progress: Told how far it is; may cancel.
        origin: What the checkpoint names as the source of its weights; the foreign file's name when None.

    Raises:
        BadInputError: As `import_checkpoint`.
        CheckpointError: Likewise.
    """
    _protect_inputs(request)
    progress.report(0.0, "reading")
    model, report = _read(request)
    model.checkpoint = _metadata(request, report, origin)
    progress.raise_if_cancelled()
    warnings: tuple[str, ...] = ()
    if request.into is not None:
        base = load(request.into)
        warnings = _merge_warnings(base, model)
        model = merge(base, model)
    for warning in warnings:
        progress.log("warning", warning)
    metadata = model.checkpoint or CheckpointMetadata()
    if request.title is not None:
        metadata = metadata.model_copy(update={"title": request.title})
    progress.report(0.3, "writing")
    dtype: torch.dtype = getattr(torch, request.precision)
    metadata = save(model, request.output, metadata=metadata, dtype=dtype, token=request.token)
    if request.report is not None:
        request.report.write_text(report.model_dump_json(indent=2), encoding="utf-8")
    progress.report(1.0, "done")
    return ImportResult(
        output=request.output,
        title=metadata.title,
        parts=model.parts,
        parameters=parameters_by_part(model.state_dict(), model.config),
        tensors_used=len(report.of("used")),
        ignored=report.ignored,
        notes=report.notes,
        fingerprint=metadata.fingerprint,
        warnings=warnings,
    )


def _read(request: ImportRequest) -> tuple[GAIR, ImportReport]:
    if request.kind == "geoclip" or request.source is None:
        return import_geoclip(request.source)
    if request.kind == "official":
        return import_official(request.source, request.final_norm)
    return import_croma(
        request.source,
        num_heads=request.num_heads,
        patch_size=request.patch_size,
        final_norm=request.final_norm,
    )


def _metadata(request: ImportRequest, report: ImportReport, origin: str | None) -> CheckpointMetadata:
    title, licence, data = {
        "official": (
            "GAIR (official weights)",
            "the authors' (their code: CC BY-NC 4.0, non-commercial)",
            "Streetscapes1M",
        ),
        "croma": ("CROMA optical encoder", "MIT", "SSL4EO-S12"),
        "geoclip": ("GeoCLIP location encoder", "MIT", "MP-16"),
    }[request.kind]
    source = Path(report.source).name if request.source else f"geoclip {version('geoclip')} (Python package)"
    return CheckpointMetadata(
        title=title,
        provenance=Provenance(
            source=origin or source,
            licence=licence,
            training_data=data,
            importer=f"gair import {request.kind}",
        ),
    )


def _merge_warnings(base: GAIR, part: GAIR) -> tuple[str, ...]:
    warnings = []
    replaced = [name for name in part.parts if name in base.parts]
    if replaced:
        warnings.append(f"The imported {' and '.join(replaced)} replaces the base's.")
    if "remote_sensing" in part.parts and base.nili is not None and part.nili is None:
        warnings.append("The base's NILI was trained with another scene encoder: train it again.")
    if base.basis is not None and {"remote_sensing", "nili"} & set(part.parts):
        warnings.append("The base's PCA basis describes other embeddings and was dropped.")
    return tuple(warnings)


def _protect_inputs(request: ImportRequest) -> None:
    inputs = [request.source, find(request.into) if request.into is not None else None]
    outputs = [request.output, request.report]
    for output in (path for path in outputs if path is not None):
        for path in (path for path in inputs if path is not None):
            if path.exists() and output.exists() and output.samefile(path):
                raise BadInputError(
                    f"{output} is read and would be replaced.", "Give the output another name."
                )
    if request.report is not None and not request.report.parent.is_dir():
        raise BadInputError(f"There is no folder {request.report.parent}.", "Create it first.")


TASK = Task("import", ImportRequest, import_checkpoint)
