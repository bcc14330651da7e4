"""The task ``info``: everything that a user wants to know about a checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg
from torch import Tensor

from gair_core.checkpoint import fingerprint_of, parse_model_entry, read_entry, read_tensors
from gair_core.config import GAIRConfig, LocationConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.metadata import Provenance
from gair_core.progress import Progress
from gair_core.registry import find
from gair_core.stac_mlm import stac_item
from gair_core.task import Request, Result, Task

Line = tuple[str, str]
# What every entry has; the rest of a head's is its own description.
_COMMON = {"title", "provenance", "format_version", "kind", "fingerprint"}


class InfoRequest(Request):
    """Describe a checkpoint: what is inside, what it expects and where it comes from."""

    model: CliPositionalArg[str] = Field(description="a .safetensors file, or the name of a registered model")
    stac: bool = Field(
        False, description="print a STAC Item with the fields of the Machine Learning Model extension instead"
    )


class Band(BaseModel):
    """A band that the scene encoder expects, with its statistics in DN (reflectance x 10000)."""

    model_config = ConfigDict(frozen=True)

    name: str
    mean: float
    std: float


class Basis(BaseModel):
    """The PCA basis of the embeddings.

    Attributes:
        components: Number of components.
        explained_variance: Explained fraction of the total variance of each component, in [0, 1].
        int8_step: Value of one int8 step of each component.
    """

    model_config = ConfigDict(frozen=True)

    components: int
    explained_variance: tuple[float, ...]
    int8_step: tuple[float, ...]


class InfoResult(Result):
    """A checkpoint, described.

    Attributes:
        title: One line for people.
        kind: ``model`` or ``head``.
        name: Registered name or file stem.
        file: The file.
        bytes: Size of the file.
        dtypes: Number of values of each dtype.
        fingerprint: SHA-256 of the weights without the PCA basis, hexadecimal.
        intact: Whether the weights still have the fingerprint that was stored with them.
        parameters: Number of trainable values of each part.
        bands: Input bands of the scene encoder in their order.
        config: The whole configuration of a model.
        basis: The PCA basis of a model's embeddings.
        head: What a head says of itself.
        provenance: Where the weights come from.
    """

    title: str
    kind: str
    name: str
    file: Path
    bytes: int
    dtypes: dict[str, int]
    fingerprint: str
    intact: bool
    parameters: dict[str, int]
    bands: tuple[Band, ...] = ()
    config: GAIRConfig | None = None
    basis: Basis | None = None
    head: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance

    def text(self) -> str:
        """Return the description for people, one fact a line."""
        size = f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 1e5 else f"{self.bytes} bytes"
        lines = [
            ("title", self.title),
            ("kind", self.kind),
            ("file", f"{self.file}, {size}"),
            ("values", ", ".join(f"{count:,} {dtype}" for dtype, count in self.dtypes.items())),
            ("parts", ", ".join(f"{part} {count:,}" for part, count in self.parameters.items())),
            ("total", f"{sum(self.parameters.values()):,} parameters"),
        ]
        lines += [] if self.config is None else _describe_config(self.config)
        lines += _describe_head(self.head) if self.kind == "head" else []
        if self.config is not None:
            lines.append(("PCA basis", "none" if self.basis is None else _describe_basis(self.basis)))
        known = self.provenance.model_dump(exclude={"metrics"})
        lines += [(key.replace("_", " "), value) for key, value in known.items() if value]
        if metrics := self.provenance.metrics:
            lines.append(("metrics", "\n".join(_measured(*one) for one in metrics.items())))
        lines.append(("fingerprint", self.fingerprint + ("" if self.intact else " DOES NOT FIT THE WEIGHTS")))
        width = max(len(label) for label, _ in lines) + 1
        # Tables stand in the column of the values.
        further = "\n" + " " * (width + 1)
        return "\n".join(f"{label + ':':{width}} {value}".replace("\n", further) for label, value in lines)


class StacResult(Result):
    """A checkpoint as a STAC Item.

    Attributes:
        item: The Item, see `gair_core.stac_mlm`.
    """

    item: dict[str, Any]

    def text(self) -> str:
        """Return the Item as JSON, ready to be written beside the checkpoint."""
        return json.dumps(self.item, indent=2, ensure_ascii=False)


def run(request: InfoRequest, progress: Progress) -> InfoResult | StacResult:
    """Describe a checkpoint, for people or as a STAC Item.

    Raises:
        CheckpointError: As `describe`; or an Item is asked for of a head whose encoder is nowhere.
    """
    result = describe(request, progress)
    return StacResult(item=stac_item(result), warnings=result.warnings) if request.stac else result


def describe(request: InfoRequest, progress: Progress) -> InfoResult:
    """Describe a checkpoint of either kind.

    Raises:
        CheckpointError: There is no such file or model, or it is damaged, foreign or of a newer version.
    """
    path = find(request.model)
    entry, tensors = read_tensors(path, read_entry(path)["kind"])
    result = _describe(entry, tensors, path)
    if not result.intact:
        progress.log("warning", result.warnings[0])
    progress.report(1.0, "done")
    return result


def _describe(entry: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> InfoResult:
    is_model = entry["kind"] == "model"
    config, _, metadata = parse_model_entry(entry, path) if is_model else (None, 0, None)
    dtypes = Counter[str]()
    for tensor in tensors.values():
        dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    fingerprint = fingerprint_of(tensors)
    intact = fingerprint == entry.get("fingerprint")
    damage = "The weights do not have the fingerprint that was stored with them: the file is damaged."
    return InfoResult(
        title=str(entry.get("title", "untitled")),
        kind=entry["kind"],
        name=path.stem,
        file=path,
        bytes=path.stat().st_size,
        dtypes=dict(dtypes),
        fingerprint=fingerprint,
        intact=intact,
        parameters=parameters_by_part(tensors, config) if config else _parameters_of_head(tensors),
        bands=_bands(config),
        config=config,
        basis=_basis(tensors) if is_model else None,
        head={} if is_model else {key: value for key, value in entry.items() if key not in _COMMON},
        provenance=metadata.provenance
        if metadata
        else Provenance.model_validate(entry.get("provenance") or {}),
        warnings=() if intact else (damage,),
    )


def parameters_by_part(tensors: Mapping[str, Tensor], config: GAIRConfig) -> dict[str, int]:
    """Count the trainable values of each part; the photo encoder's projection belongs to it."""
    counts = dict.fromkeys(config.parts, 0)
    for name, tensor in tensors.items():
        part = name.split(".")[0].removesuffix("_projection")
        if part in counts and not name.endswith(".frequencies"):
            counts[part] += tensor.numel()
    return counts


def _parameters_of_head(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Count the values of a head and those of the encoder that may be inside the file."""
    counts = Counter[str]()
    for name, tensor in tensors.items():
        counts["encoder" if name.startswith("encoder.") else "head"] += tensor.numel()
    return dict(counts)


def _bands(config: GAIRConfig | None) -> tuple[Band, ...]:
    scenes = None if config is None else config.remote_sensing
    if scenes is None:
        return ()
    rows = zip(scenes.bands, scenes.mean, scenes.std, strict=True)
    return tuple(Band(name=name, mean=mean, std=std) for name, mean, std in rows)


def _basis(tensors: dict[str, Tensor]) -> Basis | None:
    if "basis.variance" not in tensors:
        return None
    return Basis(
        components=len(tensors["basis.components"]),
        explained_variance=tuple(tensors["basis.variance"].tolist()),
        int8_step=tuple(tensors["basis.scale"].tolist()),
    )


def _describe_config(config: GAIRConfig) -> list[Line]:
    lines = [("dimensions", str(config.embed_dim)), ("localizer", config.localizer)]
    if config.remote_sensing is not None:
        lines += _describe_scenes(config.remote_sensing)
    if config.nili is not None:
        hidden = _numbers(config.nili.hidden)
        lines.append(("NILI", f"hidden layers {hidden}" if hidden else "one Linear"))
    if config.street_view is not None:
        lines += _describe_photos(config.street_view)
    if config.location is not None:
        lines += _describe_places(config.location)
    learnable = ", learnable" if config.learnable_temperature else ""
    return [*lines, ("temperature", f"{config.temperature:g}{learnable}")]


def _describe_scenes(config: RemoteSensingConfig) -> list[Line]:
    size, norm, quantize = config.tile_size, _on(config.final_norm), _on(config.quantize)
    pixels = f"{config.gsd:g} m per pixel, tiles of {size} x {size} pixels, patches of {config.patch_size}"
    encoder = f"{config.depth} blocks, {config.width} wide, {config.num_heads} heads, final norm {norm}"
    rows = zip(config.bands, config.mean, config.std, strict=True)
    bands = ", ".join(f"{name} ({mean:g} ± {std:g})" for name, mean, std in rows)
    return [("scenes", pixels), ("8-bit input", quantize), ("scene encoder", encoder), ("bands", bands)]


def _describe_photos(config: StreetViewConfig) -> list[Line]:
    size, smooth, projection = config.image_size, _on(config.antialias), _on(config.projection)
    pixels = f"{size} x {size} pixels, patches of {config.patch_size}"
    encoder = f"{config.depth} blocks, {config.width} wide, {config.num_heads} heads"
    return [
        ("photos", f"{pixels}, {config.resampling}, antialiasing {smooth}"),
        ("photo mean, std", f"{_numbers(config.mean)}; {_numbers(config.std)}"),
        ("photo encoder", f"{encoder}, pooling {config.pooling}, projection {projection}"),
    ]


def _describe_places(config: LocationConfig) -> list[Line]:
    frequencies = f"{config.num_frequencies} frequencies at each sigma of {_numbers(config.sigmas)}"
    return [("places", f"{frequencies}; {config.hidden_layers} layers of {config.hidden_width}")]


def _describe_head(head: Mapping[str, Any]) -> list[Line]:
    """Describe what a head says of itself; entries that are not of the usual form are shown as they are."""
    rest = dict(head)
    lines: list[Line] = []
    config = rest.pop("config", None) or {}
    if "head_kind" in rest:
        sizes = ", ".join(_describe_size(name, value) for name, value in config.items())
        lines.append(("head", f"{rest.pop('head_kind')}, {sizes}"))
    accuracy = rest.pop("accuracy", None) or {}
    if classes := rest.pop("classes", []):
        lines.append(("classes", _table_of_classes(classes, accuracy.get("class_metrics") or {})))
    if targets := rest.pop("targets", []):
        lines.append(("predicts", ", ".join(_target(one) for one in targets)))
    if metrics := accuracy.get("metrics"):
        measured = ", ".join(_measured(*one) for one in metrics.items())
        lines.append(("accuracy", f"{measured} ({accuracy.get('data') or 'unknown data'})"))
    lines += _describe_encoder(rest.pop("backbone", None) or {}, rest.pop("encoder", None))
    return lines + [(key.replace("_", " "), str(value)) for key, value in rest.items() if value is not None]


def _measured(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:.4g}"


def _describe_size(name: str, value: Any) -> str:  # noqa: ANN401 (whatever a head's configuration holds)
    name = name.replace("_", " ")
    if isinstance(value, Mapping):
        return f"{name}: " + "; ".join(_describe_size(*one) for one in value.items())
    if isinstance(value, (list, tuple)):
        return f"{name} " + ", ".join(map(str, value))
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _table_of_classes(classes: Sequence[Any], metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Return a row a class: value, colour, name, and how well it was recognised where that is known."""
    if not all(isinstance(one, dict) for one in classes):
        return ", ".join(map(str, classes))
    columns = list(dict.fromkeys(name for found in metrics.values() for name in found))
    rows = [["value", "colour", "name", *(name.replace("_", " ") for name in columns)]]
    for one in classes:
        colour = "#" + "".join(f"{channel:02x}" for channel in one.get("colour", ()))
        found = metrics.get(one.get("name", ""), {})
        numbers = [f"{found[name]:.4g}" if name in found else "" for name in columns]
        rows.append([str(one.get("value", "")), colour, str(one.get("name", "")), *numbers])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _target(target: Any) -> str:  # noqa: ANN401 (a file may hold anything here)
    """Return a target's name with its unit."""
    if not isinstance(target, dict):
        return str(target)
    return (
        f"{target.get('name', '')} ({target['unit']})" if target.get("unit") else str(target.get("name", ""))
    )


def _describe_encoder(backbone: Mapping[str, Any], inside: Mapping[str, Any] | None) -> list[Line]:
    """Describe the encoder that a head needs, and the one inside its file if there is one."""
    name, fingerprint = backbone.get("name") or "unnamed", backbone.get("sha256") or "unknown"
    if not inside:
        return [("encoder", f"{name}, a file of its own, with the fingerprint {fingerprint}")]
    lines = [("encoder", f"{name}, {inside.get('title') or 'untitled'}, inside this file")]
    return lines + (_describe_config(GAIRConfig.parse(inside["config"])) if "config" in inside else [])


def _describe_basis(basis: Basis) -> str:
    total = sum(basis.explained_variance)
    return f"{basis.components} components explain {total:.1%} of the variance"


def _on(switch: bool) -> str:
    return "on" if switch else "off"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


TASK = Task("info", InfoRequest, run)
