"""What all importers share: safe reading of foreign files, the mapping of tensor names and its report."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gair_core.checkpoint import assign, build, enumerate_names
from gair_core.config import GAIRConfig
from gair_core.errors import CheckpointError
from gair_core.model.gair import GAIR

Combine = Callable[..., Tensor]
Fate = Literal["used", "ignored"]
# The entries under which training scripts keep a model's weights beside optimiser state and counters.
WRAPPERS = ("model", "state_dict", "model_state_dict")
_TEMPERATURE = "log_temperature"
# Prefixes that DistributedDataParallel and torch.compile put before every name.
_WRAPPED_NAME = re.compile(r"^(?:module\.|_orig_mod\.)+")


class TensorRecord(BaseModel):
    """What became of one tensor, or of one entry that holds no tensors of the model.

    Attributes:
        name: Name in the foreign file.
        shape: Shape in the foreign file.
        fate: ``used`` or ``ignored``; what is missing or mis-shaped is an error, not a record.
        target: Name in our checkpoint, empty when there is none.
        note: Why it was ignored.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    shape: tuple[int, ...] = ()
    fate: Fate
    target: str = ""
    note: str = ""


class ImportReport(BaseModel):
    """Everything that an import did with the tensors that it found.

    Attributes:
        importer: ``official``, ``croma`` or ``geoclip``.
        source: The foreign file.
        records: One for each tensor or foreign entry.
        notes: Decisions that a user should know, one sentence each.
    """

    model_config = ConfigDict(frozen=True)

    importer: str
    source: str
    records: tuple[TensorRecord, ...]
    notes: tuple[str, ...] = ()

    def of(self, fate: Fate) -> tuple[TensorRecord, ...]:
        """Return the records with one fate."""
        return tuple(record for record in self.records if record.fate == fate)

    def text(self) -> str:
        """Return the report for people: counts, notes and everything that was not used."""
        counts = f"{len(self.of('used'))} tensors used, {len(self.of('ignored'))} entries ignored"
        lines = [f"{self.source}: {counts}."]
        lines += [f"- {note}" for note in self.notes]
        lines += [f"ignored, {reason}: {enumerate_names(names)}" for reason, names in self.ignored.items()]
        return "\n".join(lines)

    @property
    def ignored(self) -> dict[str, list[str]]:
        """Names of what was not used, by reason."""
        reasons: dict[str, list[str]] = {}
        for record in self.of("ignored"):
            reasons.setdefault(record.note, []).append(record.name)
        return reasons


def read_foreign(path: Path) -> object:
    """Read a foreign .pth/.pt file, or a .safetensors file, without running anything that it contains.

    Tensors stay on the disk until they are used, where the format allows it.

    Args:
        path: The file.

    Returns:
        What was stored, usually a dict.

    Raises:
        CheckpointError: There is no such file, it would run code, or it is no checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.", "Check the path.")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights themselves.", "Fetch them with 'git lfs pull'."
        )
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(f"{path} is a web page, not a checkpoint.", "Download the file itself.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path)


def state_dict(
    loaded: object, path: Path, key: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Find the model's tensors in what `read_foreign` returned.

    A wrapping ``model``, ``state_dict`` or ``model_state_dict`` is opened, a leading ``module.`` or
    ``_orig_mod.`` removed from every name.

    Args:
        loaded: What was stored.
        path: The file, for messages.
        key: The entry that must be there, for files that keep several models; None for any of the wrappers.

    Returns:
        The tensors by name; and the other entries beside them (optimiser, teacher, counters), name to kind.

    Raises:
        CheckpointError: There are no tensors, or no entry ``key``.
    """
    others: dict[str, str] = {}
    wanted = [key] if key is not None else []
    while isinstance(loaded, Mapping):
        entries = {str(name): value for name, value in loaded.items()}
        inside = next((name for name in (*wanted, *WRAPPERS) if isinstance(entries.get(name), Mapping)), None)
        if inside is None:
            break
        others |= {name: _describe(value) for name, value in entries.items() if name != inside}
        loaded = entries[inside]
        if inside in wanted:
            wanted = []
    tensors = _named_tensors(loaded, path) if isinstance(loaded, Mapping) else {}
    if wanted or not tensors:
        found = enumerate_names(map(str, loaded)) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise CheckpointError(
            f"{path} should hold {f'an entry {key!r}' if wanted else 'tensors by name'}, found: "
            f"{found or 'nothing'}.",
            "Check that this is the file, and the kind, that you meant.",
        )
    if isinstance(loaded, Mapping):
        others |= {
            str(name): _describe(value) for name, value in loaded.items() if not isinstance(value, Tensor)
        }
    return tensors, others


@dataclass
class TensorMapping:
    """Which tensors of ours are made of which foreign ones, and a record of what happened to every one.

    Nothing is copied before `collect`, so that a mapping of a big file costs no memory.

    Args:
        tensors: The foreign tensors by name.
        others: Entries beside them, name to kind; they are reported as ignored.
    """

    tensors: Mapping[str, Tensor]
    others: Mapping[str, str] = field(default_factory=dict)
    _targets: dict[str, tuple[tuple[str, ...], Combine | None]] = field(default_factory=dict, init=False)
    _reasons: list[tuple[str, str]] = field(default_factory=list, init=False)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a foreign tensor.

        Raises:
            CheckpointError: It is not there.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"The file lacks the tensor {name}, from which the model's size is read.",
                f"It holds: {enumerate_names(self.tensors) or 'nothing'}.",
            )
        return tuple(self.tensors[name].shape)

    @property
    def targets(self) -> frozenset[str]:
        """Our tensors for which there is a source."""
        return frozenset(self._targets)

    def count(self, pattern: str) -> int:
        """Return how many tensors a numbered series has, such as ``blocks.{}.weight``, counted from 0."""
        number = 0
        while pattern.format(number) in self.tensors:
            number += 1
        return number

    def add(self, target: str, *sources: str, combine: Combine | None = None) -> None:
        """Say that our tensor ``target`` is made of foreign ones.

        Args:
            target: Name in our checkpoint.
            *sources: Names in the foreign file.
            combine: Function of the sources in their order; None for one source that is taken as it is.
        """
        self._targets[target] = (sources, combine)

    def add_module(self, target: str, source: str, bias: bool = True) -> None:
        """Map ``weight`` and, if there is one, ``bias`` of a layer."""
        for leaf in ("weight", "bias") if bias else ("weight",):
            self.add(f"{target}.{leaf}", f"{source}.{leaf}")

    def ignore(self, prefix: str, reason: str) -> None:
        """Give the reason why tensors whose name starts with ``prefix`` are not used."""
        self._reasons.append((prefix, reason))

    def collect(self, expected: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Tensor]:
        """Make our tensors.

        Args:
            expected: The names and shapes that our checkpoint must have.
            path: The foreign file, for the message.

        Returns:
            Our tensors, contiguous; floating point ones as float32.

        Raises:
            CheckpointError: Foreign tensors are missing or have another shape; all of them are listed.
        """
        made: dict[str, Tensor] = {}
        problems: list[str] = []
        for target, shape in expected.items():
            sources, combine = self._targets.get(target, ((), None))
            absent = [name for name in sources if name not in self.tensors]
            if absent or not sources:
                problems += [f"missing {name}" for name in absent or [f"a source of {target}"]]
                continue
            found = [tuple(self.tensors[name].shape) for name in sources]
            try:
                tensor = self._make(sources, combine)
            except RuntimeError as error:
                problems.append(f"{', '.join(sources)} {found} do not fit together ({error})")
                continue
            if tuple(tensor.shape) != tuple(shape):
                problems.append(f"{', '.join(sources)} of shape {found}, wanted {list(shape)} for {target}")
                continue
            made[target] = tensor
        surplus = sorted(set(self._targets) - set(expected))
        problems += [f"{target} has no place in this configuration" for target in surplus]
        if problems:
            raise CheckpointError(
                f"{path} does not hold the model that was asked for: {'; '.join(problems)}.",
                "Check the kind of the file and the options that describe its architecture.",
            )
        return made

    def report(self, importer: str, source: str | Path, notes: Iterable[str] = ()) -> ImportReport:
        """Return what became of every tensor."""
        used: dict[str, str] = {}
        for target, (sources, _) in self._targets.items():
            for name in sources:
                used[name] = f"{used[name]}, {target}" if name in used else target
        records = []
        for name, tensor in self.tensors.items():
            shape = tuple(tensor.shape)
            if name in used:
                records.append(TensorRecord(name=name, shape=shape, fate="used", target=used[name]))
            else:
                records.append(TensorRecord(name=name, shape=shape, fate="ignored", note=self._reason(name)))
        records += [
            TensorRecord(name=name, fate="ignored", note=f"not weights of the model ({kind})")
            for name, kind in self.others.items()
        ]
        return ImportReport(importer=importer, source=str(source), records=tuple(records), notes=tuple(notes))

    def _make(self, sources: tuple[str, ...], combine: Combine | None) -> Tensor:
        values = [_as_float32(self.tensors[name]) for name in sources]
        with torch.no_grad():
            return (values[0] if combine is None else combine(*values)).contiguous()

    def _reason(self, name: str) -> str:
        matching = [reason for prefix, reason in self._reasons if name.startswith(prefix)]
        return matching[0] if matching else "unknown to this importer"


def build_model(config: GAIRConfig, mapping: TensorMapping, path: Path) -> GAIR:
    """Build a model from foreign tensors; a temperature that was not mapped is the configuration's.

    Args:
        config: The model's configuration.
        mapping: Where its tensors come from.
        path: The foreign file, for messages.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: As `TensorMapping.collect`.
    """
    model = build(config)
    given: dict[str, Tensor] = {}
    if _TEMPERATURE not in mapping.targets:
        given[_TEMPERATURE] = torch.tensor(math.log(config.temperature))
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in given}
    assign(model, {**mapping.collect(expected, path), **given})
    return model.eval()


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()


def _named_tensors(loaded: Mapping[object, object], path: Path) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for full_name, value in loaded.items():
        name = _WRAPPED_NAME.sub("", str(full_name))
        if name in named:
            raise CheckpointError(
                f"{path} holds a tensor twice, with and without a wrapper's prefix: {name}."
            )
        if isinstance(value, Tensor):
            named[name] = value
    return named


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"{len(value)} entries"
    return type(value).__name__


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no readable safetensors file: {error}.", "Download it again."
        ) from None


def _read_pickle(path: Path) -> object:
    # Scripts that descend from MAE keep their arguments (plain values in a Namespace) in every file.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            loaded: object = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
        except Exception as error:  # the unpickler, the zip reader and storages each have errors of their own
            raise _explain(path, error) from None
    return loaded


def _is_zip(path: Path) -> bool:
    # Files of torch before 1.6 are no zip archives and cannot be mapped into memory.
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _explain(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if type(error).__name__ == "UnpicklingError":
        asked = re.search(r"GLOBAL ([\w.]+)", text)
        if asked or "safe_globals" in text or "unrecognized function" in text:
            what = f" It asks for {asked.group(1)}." if asked else ""
            return CheckpointError(
                f"{path} holds more than tensors: reading it would run code of its author, so it was "
                f"refused.{what}",
                "Ask its author for a file with the state_dict alone, or for safetensors.",
            )
    reason = f"{type(error).__name__}: {text}".split(". ")[0]
    return CheckpointError(
        f"{path} was refused: it is damaged, incomplete, no PyTorch checkpoint, or a pickle of more than "
        f"tensors ({reason}).",
        "Download it again and compare its size.",
    )
