"""The task ``download``: the weights of another project, from their server to a model of ours."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints
from pydantic_settings import CliPositionalArg

from gair_core.checkpoint import read_entry
from gair_core.errors import BadInputError, CancelledError, CheckpointError
from gair_core.importers.task import ImportRequest, ImportResult, convert
from gair_core.inference.outputs import Destination, check_destinations
from gair_core.progress import Progress, Quiet
from gair_core.registry import find, user_folder
from gair_core.task import Request, Result, Task
from gair_core.weights.cache import Authority, Weights, cached_path, look_at, obtain
from gair_core.weights.sources import Source, SourceName, find_source
from gair_core.weights.transfer import require_space

# Part of the progress that the import leaves to the download.
_DOWNLOAD_SHARE = 0.9


class DownloadRequest(Request):
    """Fetch real weights and make a registered model of them.

    gair download gair --accept-licence       the authors' GAIR, all of it
    gair download geoclip --accept-licence    GeoCLIP's location encoder
    gair download croma --accept-licence      CROMA's optical encoder, a scene encoder alone

    Afterwards `--model gair` works everywhere. A transfer that broke goes on where it stopped. The licence
    is shown first; without --accept-licence nothing is fetched.
    """

    name: CliPositionalArg[SourceName] = Field(description="gair, geoclip or croma")
    output: Path | None = Field(
        None, description="the checkpoint to write (*.safetensors); default: NAME in the user's models folder"
    )
    file: Path | None = Field(None, description="use this file, fetched by hand, in place of the network")
    accept_licence: bool = Field(False, description="you have read the licence and accept it")
    sha256: Annotated[str, StringConstraints(pattern="^([0-9a-fA-F]{64})?$", to_lower=True)] = Field(
        "",
        description="checksum that the file must have, hexadecimal; for gair, of which none is known",
    )
    dry_run: bool = Field(False, description="only say what would be fetched, its size and where it would go")


class DownloadResult(Result):
    """What was fetched and imported.

    Attributes:
        notice: What was fetched from where under which licence, for people.
        file: The foreign file; it may be deleted, or serves the next import.
        sha256: Its checksum, hexadecimal; empty after a dry run.
        authority: Who says that the checksum is right.
        output: The model.
        name: Name under which the model is registered; empty when OUTPUT lies elsewhere.
        imported: What the import made of it; None after a dry run.
    """

    notice: str
    file: Path
    sha256: str = ""
    authority: Authority = "nobody"
    output: Path
    name: str
    imported: ImportResult | None = None

    def text(self) -> str:
        """Return what happened, or would happen, for people."""
        if self.imported is None:
            return f"{self.notice}\nto {self.file}\nand, imported, to {self.output}"
        lines = [
            f"{self.imported.title}: {', '.join(self.imported.parts)}",
            f"model {self.output}",
            *(f"- {note}" for note in self.imported.notes),
            f"file {self.file}, SHA-256 {self.sha256} (right, says {self.authority})"
            if self.authority != "nobody"
            else f"file {self.file}, SHA-256 {self.sha256} (compared with nothing)",
        ]
        return "\n".join([*lines, *([f"use it: --model {self.name}"] if self.name else [])])


def download(request: DownloadRequest, progress: Progress) -> DownloadResult:
    """Fetch weights, compare their checksum and import them.

    Args:
        request: Which weights, from where, to where.
        progress: Told how far it is; may cancel. What has arrived stays for the next time.

    Raises:
        DownloadError: The file cannot be fetched, or is not the one that it should be.
        BadInputError: The licence was not accepted, a disk is too small, the output cannot be written, is
            the file itself or is somebody else's.
        CheckpointError: The file is no such checkpoint.
        CancelledError: The user cancelled.
    """
    source = find_source(request.name)
    output = request.output or user_folder() / f"{source.name}.safetensors"
    _check_request(request, source, output)
    plan = DownloadResult(
        notice=source.notice(),
        file=request.file or cached_path(source),
        output=output,
        name="" if request.output else source.name,
    )
    if request.dry_run:
        return plan
    progress.log("info", source.notice())
    if not request.accept_licence:
        raise BadInputError(
            f"The licence of {source.title} was not accepted: {source.licence}",
            f"Read it at {source.page} and, if you agree, add --accept-licence.",
        )
    if request.output is None:
        _prepare(output, request.file)
    require_space(output.parent, source.size)
    weights = _fetch(request, source, progress)
    progress.report(_DOWNLOAD_SHARE, "importing")
    imported = _import(source, weights, output, Quiet(progress))
    _say_when_hidden(plan.name, output, progress)
    progress.report(1.0, "done")
    found = {"file": weights.path, "sha256": weights.sha256, "authority": weights.authority}
    return plan.model_copy(update={**found, "imported": imported, "warnings": tuple(progress.warnings)})


def _check_request(request: DownloadRequest, source: Source, output: Path) -> None:
    if request.sha256 and source.sha256 not in ("", request.sha256):
        raise BadInputError(
            f"The checksum of {source.name} is fixed in this package: {source.sha256}.", "Leave out --sha256."
        )
    if request.output is not None:
        _check_destination(output, request.file)
    elif output.is_file() and not _is_ours(output):
        raise BadInputError(
            f"{output} is another model of yours, which would be replaced.",
            "Rename it, or give --output another name.",
        )


def _check_destination(output: Path, file: Path | None) -> None:
    """Refuse, before an hour of transfer, what could not be written after it."""
    inputs = [] if file is None else [file]
    check_destinations([Destination(output, (".safetensors",))], token=secrets.token_hex(4), inputs=inputs)


def _prepare(output: Path, file: Path | None) -> None:
    """Make the folder of the models where there is none yet."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"The models folder {output.parent} cannot be made: {error.strerror or error}.",
            "Give --output a file in another folder.",
        ) from error
    _check_destination(output, file)


def _is_ours(path: Path) -> bool:
    """Whether an import wrote this file, or nobody can read it."""
    try:
        provenance = read_entry(path).get("provenance", {})
    except CheckpointError:
        return True
    return str(provenance.get("importer", "")).startswith("gair import")


def _fetch(request: DownloadRequest, source: Source, progress: Progress) -> Weights:
    if request.file is not None:
        return look_at(source, request.file, request.sha256, progress)
    try:
        return obtain(source, request.sha256, progress, _DOWNLOAD_SHARE)
    except CancelledError:
        raise CancelledError(
            "cancelled; what has arrived is kept", "Run the same command again to go on."
        ) from None


def _import(source: Source, weights: Weights, output: Path, progress: Progress) -> ImportResult:
    with _unpacked(source, weights) as path:
        values = {"kind": source.kind, "paths": [str(path), str(output)]}
        try:
            return convert(ImportRequest.model_validate(values), progress, _origin(source, weights))
        except CheckpointError as error:
            if source.sha256 or weights.path != cached_path(source):
                raise
            # Nobody knows that these are the right bytes, and the next run would take them from the cache.
            raise CheckpointError(
                error.message,
                f"Remove the folder {weights.path.parent} and run the same command again to fetch another "
                f"one. What {source.page} says of the file may have changed since this version was made.",
            ) from error


@contextlib.contextmanager
def _unpacked(source: Source, weights: Weights) -> Iterator[Path]:
    """Give the weights themselves, which may lie within an archive."""
    if not source.member or weights.sha256 == source.member_sha256:
        yield weights.path
        return
    with (
        tempfile.TemporaryDirectory(prefix="gair-weights-", ignore_cleanup_errors=True) as folder,
        zipfile.ZipFile(weights.path) as archive,
    ):
        yield Path(archive.extract(source.member, folder))


def _origin(source: Source, weights: Weights) -> str:
    """Say in the checkpoint what its weights were made of."""
    revision = (
        f" at {weights.revision}" if weights.revision and weights.revision not in source.address else ""
    )
    return f"{source.address}{revision}, SHA-256 {weights.sha256}"


def _say_when_hidden(name: str, output: Path, progress: Progress) -> None:
    first = find(name) if name else output
    if first != output:
        progress.log("warning", f"{first} comes before {output} where models are searched by name.")


TASK = Task("download", DownloadRequest, download)
