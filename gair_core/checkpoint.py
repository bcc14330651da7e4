"""Checkpoints: one .safetensors file holds the weights and, as JSON, everything needed to use them.

The metadata entry ``gair`` of the file is a JSON object with at least ``format_version``, ``kind`` (``model``
or ``head``) and ``fingerprint``. `write_tensors` and `read_tensors` serve both kinds; `save` and `load` add
what a model needs. Nothing in such a file can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gair_core import registry
from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.model.gair import GAIR
from gair_core.task import describe_validation_error

FORMAT_VERSION = 1
Kind = Literal["model", "head"]
Entry = dict[str, Any]
_PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl")
_BASIS = "basis."
# Rounding these would move every location embedding, rescale every similarity or shift every int8 component.
_KEPT_FLOAT32 = (".frequencies", "log_temperature")
_LISTED = 20


@dataclass(frozen=True)
class StoredTensor:
    """Shape and dtype of a tensor in a file, read without its values.

    Attributes:
        shape: Its shape.
        dtype: Name of its dtype as safetensors writes it, for example ``F32``.
    """

    shape: tuple[int, ...]
    dtype: str


def save(
    model: GAIR,
    path: str | os.PathLike[str],
    *,
    metadata: CheckpointMetadata | None = None,
    dtype: torch.dtype | None = None,
    token: str | None = None,
) -> CheckpointMetadata:
    """Save a model; the file appears under its name only when it is complete.

    Args:
        model: The model.
        path: Destination, ``*.safetensors``; an older file is replaced.
        metadata: Title and provenance; those that the model was loaded with when None.
        dtype: ``torch.float16`` or ``torch.bfloat16`` halves the file. The Fourier frequencies, the
            temperature and the PCA basis stay float32. None keeps float32.
        token: Part of the temporary name ``<path>.<token>.part``; random when None.

    Returns:
        The metadata with the fingerprint of what was written.

    Raises:
        BadInputError: The destination cannot be written.
    """
    metadata = metadata or model.checkpoint or CheckpointMetadata()
    tensors = {name: _storable(name, tensor, dtype) for name, tensor in model.state_dict().items()}
    fingerprint = write_tensors(path, tensors, "model", model_entry(model, metadata), token=token)
    return metadata.model_copy(update={"fingerprint": fingerprint, "name": Path(path).stem})


def load(path_or_name: str | os.PathLike[str], device: str | torch.device = "cpu") -> GAIR:
    """Load a model, in evaluation mode and float32.

    On a CPU the weights stay mapped to the file until they are used, privately: training never changes it.

    Args:
        path_or_name: A checkpoint, or the name of a registered model such as ``demo``.
        device: Where the weights go.

    Returns:
        The model; its `checkpoint` holds title, provenance and fingerprint.

    Raises:
        CheckpointError: There is no such file or model; it is damaged, foreign, a head or written by a newer
            version; or tensors are missing, unexpected or mis-shaped (all are listed).
    """
    path = registry.find(path_or_name)
    entry, tensors = read_tensors(path, "model", device)
    config, components, metadata = parse_model_entry(entry, path)
    model = build(config, components)
    check_tensors(tensors, model.state_dict(), path)
    assign(model, tensors)
    model.checkpoint = metadata
    return model.to(device).eval()


def build(config: GAIRConfig, basis_components: int = 0) -> GAIR:
    """Return a model without memory or values, for `assign`.

    Args:
        config: Its configuration.
        basis_components: Number of components of its PCA basis.
    """
    with _WithoutMemory():
        return GAIR(config, basis_components)


def assign(model: GAIR, tensors: Mapping[str, Tensor]) -> None:
    """Make ``tensors`` the weights of a model that `build` returned; float32 ones are not copied."""
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)


def merge(base: GAIR, part: GAIR) -> GAIR:
    """Return a model with the parts of both; where both have a part, it is taken from ``part``.

    The photo encoder brings its projection. The temperature is the base's. The base's PCA basis is dropped
    when the scene encoder or NILI changes, because it describes their embeddings. The weights are shared.

    Args:
        base: The model that receives.
        part: A partial model, such as an import.

    Raises:
        BadInputError: The two have different embedding dimensions or do not fit together.
    """
    if base.config.embed_dim != part.config.embed_dim:
        raise BadInputError(
            f"Parts of one model must share an embedding space, found {base.config.embed_dim} dimensions in "
            f"the base ({', '.join(base.parts)}) and {part.config.embed_dim} in the part "
            f"({', '.join(part.parts)}).",
            "Merge parts that were trained together, or train a new head for the part.",
        )
    changes: dict[str, Any] = {name: getattr(part.config, name).model_dump() for name in part.parts}
    if "remote_sensing" not in base.parts or ("nili" in part.parts and "nili" not in base.parts):
        changes["localizer"] = part.config.localizer
    config = GAIRConfig.parse({**base.config.model_dump(), **changes})
    replaced = set(part.parts)
    keep_basis = base.basis is not None and not replaced & {"remote_sensing", "nili"}
    if "street_view" in replaced:
        replaced.add("street_view_projection")
    tensors = {k: v for k, v in base.state_dict().items() if k.split(".")[0] not in replaced}
    tensors |= {k: v for k, v in part.state_dict().items() if k.split(".")[0] in replaced}
    if not keep_basis:
        tensors = {k: v for k, v in tensors.items() if not k.startswith(_BASIS)}
    components = len(base.basis.components) if base.basis is not None and keep_basis else 0
    model = build(config, components)
    assign(model, tensors)
    if base.checkpoint is not None and part.checkpoint is not None:
        model.checkpoint = base.checkpoint.merged_with(part.checkpoint)
    return model.eval()


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    kind: Kind,
    entry: Mapping[str, Any],
    *,
    token: str | None = None,
) -> str:
    """Write a checkpoint of any kind: atomic, synchronised to the disk.

    Args:
        path: Destination, ``*.safetensors``.
        tensors: What to store.
        kind: ``model`` or ``head``.
        entry: JSON-serialisable description; format version, kind and fingerprint are added here.
        token: Part of the temporary name ``<path>.<token>.part``; random when None.

    Returns:
        The fingerprint of the tensors.

    Raises:
        BadInputError: The name or the folder is impossible, or the disk is full.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise BadInputError(f"A checkpoint must be named *.safetensors, found {path.name}.")
    if not path.parent.is_dir():
        raise BadInputError(f"There is no folder {path.parent}.", "Create it first.")
    if path.is_dir():
        raise BadInputError(f"{path} is a folder.", "Give the name of a file.")
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    fingerprint = fingerprint_of(stored)
    full_entry = {**entry, "format_version": FORMAT_VERSION, "kind": kind, "fingerprint": fingerprint}
    part = path.with_name(f"{path.name}.{token or secrets.token_hex(4)}.part")
    try:
        save_complete(stored, path, part, {"format": "pt", "gair": json.dumps(full_entry, allow_nan=False)})
    except (OSError, SafetensorError) as error:
        raise BadInputError(
            f"{path} could not be written: {error}.",
            "Check free space and permissions, or whether it is in use.",
        ) from error
    return fingerprint


def save_complete(tensors: Mapping[str, Tensor], path: Path, part: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that is complete when its name is there, even after a power cut.

    Args:
        tensors: What to store, contiguous and on the CPU.
        path: The file.
        part: Where it grows, in the same folder; gone afterwards.
        metadata: Of the file's header.

    Raises:
        OSError: It cannot be written; what had the name still has it.
        SafetensorError: Likewise.
    """
    try:
        part.touch()
        # As the system makes a new file; safetensors makes one that only its owner may read.
        mode = stat.S_IMODE(part.stat().st_mode)
        save_file(dict(tensors), part, metadata=dict(metadata))
        part.chmod(mode)
        _synchronise(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_tensors(
    path: Path, kind: Kind, device: str | torch.device = "cpu"
) -> tuple[Entry, dict[str, Tensor]]:
    """Read a checkpoint.

    Args:
        path: The file.
        kind: The kind that it must have.
        device: Where the tensors go; on a CPU they stay mapped to the file until they are used.

    Returns:
        Its description (the entry ``gair``) and its tensors in the dtypes of the file.

    Raises:
        CheckpointError: It is missing, damaged, foreign, of another kind or of a newer version.
    """
    entry = read_entry(path)
    if entry["kind"] != kind:
        way_out = (
            "Give the model that it was trained on; heads are for gair segment, change and predict."
            if kind == "model"
            else "Give a head that was trained on it."
        )
        raise CheckpointError(f"{path} holds a {entry['kind']}, wanted a {kind}.", way_out)
    # safetensors knows fewer devices than torch: it reads, torch moves.
    return entry, _open(path, lambda file: {name: file.get_tensor(name).to(device) for name in file.keys()})  # noqa: SIM118


def read_entry(path: Path) -> Entry:
    """Read the description of a checkpoint of either kind, without its weights.

    Raises:
        CheckpointError: As `read_tensors`.
    """
    _check_is_file(path)
    text = (_open(path, lambda file: file.metadata()) or {}).get("gair")
    if text is None:
        raise CheckpointError(
            f"{path} is a safetensors file of another program: it has no metadata entry 'gair'.",
            "Convert foreign weights with: gair import.",
        )
    try:
        entry = json.loads(text)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("format_version"), int):
        raise CheckpointError(f"{path} has an unreadable metadata entry 'gair'.", "Save or import it again.")
    if entry["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by a newer version of gair_core: format {entry['format_version']}, this one "
            f"reads up to {FORMAT_VERSION}.",
            "Update gair_core.",
        )
    if entry.get("kind") not in {"model", "head"}:
        raise CheckpointError(f"{path} is of an unknown kind {entry.get('kind')!r}.", "Update gair_core.")
    return entry


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return shape and dtype of every tensor in a file, without reading the values.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    _check_is_file(path)

    def describe(file: Any) -> dict[str, StoredTensor]:  # noqa: ANN401 (safetensors has no type for it)
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: StoredTensor(tuple(view.get_shape()), str(view.get_dtype()))
            for name, view in slices.items()
        }

    described: dict[str, StoredTensor] = _open(path, describe)
    return described


def parse_model_entry(entry: Entry, path: Path) -> tuple[GAIRConfig, int, CheckpointMetadata]:
    """Decode the description of a model.

    Returns:
        Its configuration, the number of components of its PCA basis, and its metadata.

    Raises:
        CheckpointError: The description is incomplete or impossible.
    """
    try:
        config = GAIRConfig.parse(entry["config"])
        components = int(entry["basis_components"])
        metadata = CheckpointMetadata(
            title=entry["title"],
            provenance=Provenance.model_validate(entry["provenance"]),
            name=path.stem,
            fingerprint=entry["fingerprint"],
        )
    except KeyError as error:
        raise CheckpointError(
            f"The description inside {path} lacks {error}.", "Save or import it again."
        ) from None
    except ValidationError as error:
        raise CheckpointError(
            f"The description inside {path} is impossible: {describe_validation_error(error)}."
        ) from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"The description inside {path} is impossible: {error}") from None
    return config, components, metadata


def model_entry(model: GAIR, metadata: CheckpointMetadata) -> Entry:
    """Return the description of a model as it is stored, less what `write_tensors` adds."""
    return {
        "title": metadata.title,
        "parts": list(model.parts),
        "config": model.config.model_dump(mode="json"),
        "basis_components": 0 if model.basis is None else len(model.basis.components),
        "provenance": metadata.provenance.model_dump(mode="json"),
    }


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes, hexadecimal, without the PCA basis."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.startswith(_BASIS):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_tensors(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Compare names, shapes and kinds of tensors with those that are wanted.

    Raises:
        CheckpointError: Lists everything that is missing, unexpected, mis-shaped or no floating point tensor.
    """
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    other = [
        f"{name} {list(tensor.shape)} {tensor.dtype} (wanted {list(wanted[name].shape)})"
        for name, tensor in tensors.items()
        if name in wanted and (tensor.shape != wanted[name].shape or not tensor.is_floating_point())
    ]
    problems = {"missing": missing, "unexpected": unexpected, "mis-shaped": other}
    if any(problems.values()):
        listed = "; ".join(f"{what}: {enumerate_names(names)}" for what, names in problems.items() if names)
        raise CheckpointError(
            f"The tensors inside {path} do not fit its configuration: {listed}.", "Save or import it again."
        )


def enumerate_names(names: Iterable[str], limit: int = _LISTED) -> str:
    """Join names for a message: the first few, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


class _WithoutMemory(TorchFunctionMode):
    """Creates parameters and buffers on the meta device.

    A device context would also move the small helper tensors that timm reads while it builds a model.
    """

    _FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.eye)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        del types
        options = dict(kwargs or {})
        if func in self._FACTORIES and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)


def _storable(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    if dtype is None or name.startswith(_BASIS) or name.endswith(_KEPT_FLOAT32):
        return tensor.float()
    return tensor.to(dtype)


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, wanted a .safetensors file.")
    if not path.exists():
        raise CheckpointError(f"There is no file {path}.", "Check the path.")
    if path.suffix.lower() in _PICKLES:
        raise CheckpointError(
            f"{path} is a PyTorch pickle, wanted a .safetensors file.",
            "Convert it first: gair import official IN.pth OUT.safetensors (or croma, geoclip).",
        )


def _open(path: Path, read: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    try:
        with safe_open(str(path), framework="pt") as file:
            return read(file)
    except SafetensorError as error:
        text = str(error)
        what = "is truncated" if "incomplete" in text.lower() else "is no readable safetensors file"
        raise CheckpointError(f"{path} {what} ({text}).", "Copy or download it again.") from None
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error}.") from None


def _synchronise(path: Path) -> None:
    # The bytes must be on the disk before the name is, or a power cut leaves an empty checkpoint.
    with path.open("rb+") as file:
        os.fsync(file.fileno())
