"""Checkpoints of heads: their own tensors and classes, and which encoder they belong to.

A head that was trained on a frozen encoder holds only its own tensors and names that encoder by name and
fingerprint. A self-contained one holds the encoder too, under ``encoder.``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from gair_core import checkpoint, registry
from gair_core.checkpoint import Entry
from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError, CheckpointError
from gair_core.heads.base import BackboneReference, BaseHead, Head, HeadMetadata
from gair_core.heads.fusion import FusionHead
from gair_core.heads.geo_prior import GeoPrior
from gair_core.heads.linear import LinearChangeHead, LinearHead
from gair_core.heads.pixel import PixelLinearHead
from gair_core.heads.point import PointHead
from gair_core.heads.probes import LinearProbe, NonlinearProbe
from gair_core.heads.regression import LocationRegression
from gair_core.heads.temporal import SeriesLinearHead, SeriesLTAEHead
from gair_core.heads.upernet import UPerNetChangeHead, UPerNetHead
from gair_core.metadata import CheckpointMetadata
from gair_core.model.gair import GAIR
from gair_core.task import describe_validation_error

HEAD_KINDS: Mapping[str, type[Head]] = {
    head.kind: head
    for head in (
        LinearHead,
        LinearChangeHead,
        PixelLinearHead,
        UPerNetHead,
        UPerNetChangeHead,
        SeriesLinearHead,
        SeriesLTAEHead,
    )
}
"""Every kind of head for maps that a checkpoint may hold, by its name there."""

POINT_HEAD_KINDS: Mapping[str, type[PointHead]] = {
    head.kind: head for head in (LinearProbe, NonlinearProbe, GeoPrior, LocationRegression, FusionHead)
}
"""Every kind of head for single photos and places."""

_ENCODER = "encoder."
_MODEL_PARTS = ("remote_sensing", "street_view", "location", "nili")

LoadModel = Callable[[str], GAIR]


def save_head(
    head: BaseHead,
    path: str | os.PathLike[str],
    model: GAIR,
    *,
    embed_backbone: bool = False,
    token: str | None = None,
) -> HeadMetadata:
    """Save a head; the file appears under its name only when it is complete.

    Args:
        head: The head.
        path: Destination, ``*.safetensors``; an older file is replaced.
        model: The encoder that it was trained on, as it was loaded.
        embed_backbone: Store what it needs of the encoder too, so that the file is all that is needed.
        token: Part of the temporary name ``<path>.<token>.part``; random when None.

    Returns:
        The head's metadata with its encoder and the fingerprint of what was written.

    Raises:
        BadInputError: The head does not fit the model, or the destination cannot be written.
        CheckpointError: The model has no fingerprint, because it was never saved.
    """
    head.check_fits(model)
    known = model.checkpoint or CheckpointMetadata()
    if not (known.fingerprint or embed_backbone):
        raise CheckpointError(
            "The head's encoder was never saved, so the head could not name it.",
            "Save the encoder and load it again, or embed it into the head.",
        )
    metadata = head.metadata.model_copy(
        update={"backbone": BackboneReference(name=known.name, sha256=known.fingerprint)}
    )
    tensors = {name: tensor.float() for name, tensor in head.state_dict().items()}
    entry: Entry = {
        **metadata.model_dump(mode="json", exclude={"name", "fingerprint"}),
        "head_kind": head.kind,
        "config": head.config.model_dump(mode="json"),
        "encoder": None,
    }
    if embed_backbone:
        encoder = needed_parts(model, head)
        entry["encoder"] = checkpoint.model_entry(encoder, known)
        tensors |= {_ENCODER + name: tensor.float() for name, tensor in encoder.state_dict().items()}
    fingerprint = checkpoint.write_tensors(path, tensors, "head", entry, token=token)
    return metadata.model_copy(update={"fingerprint": fingerprint, "name": Path(path).stem})


def load_head(
    path_or_name: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    load_model: LoadModel = checkpoint.load,
) -> tuple[Head, GAIR]:
    """Load a head for maps and its encoder, in evaluation mode and float32.

    The encoder is the one inside the file; else ``backbone``; else the file of its name beside the head; else
    the registered model of its name; else any registered model with its fingerprint.

    Args:
        path_or_name: A checkpoint of a head, or the name of a registered one; ``demo`` stands for the
            land-cover head of the built-in model.
        backbone: The encoder's path or registered name.
        load_model: How to load the encoder, for callers that keep one.

    Returns:
        The head, on the CPU, and its encoder.

    Raises:
        CheckpointError: There is no such file; it is damaged or a model without a head; or its encoder is
            missing or another one.
        BadInputError: It is a head for single photos or places, or does not fit its encoder.
    """
    path = _find_head(path_or_name)
    head, model = _load(path, backbone, load_model)
    if not isinstance(head, Head):
        raise BadInputError(
            f"{path} is a head for single photos or places (kind {head.kind}), which has no map.",
            "Apply it to a table of photos or points: gair predict.",
        )
    return head, model


def load_point_head(
    path_or_name: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    load_model: LoadModel = checkpoint.load,
) -> tuple[PointHead, GAIR]:
    """Load a head for single photos and places and its encoder; arguments and errors as in `load_head`.

    Raises:
        BadInputError: It is a head for maps, or does not fit its encoder.
    """
    head, model = _load(registry.find(path_or_name), backbone, load_model)
    if not isinstance(head, PointHead):
        raise BadInputError(
            f"{path_or_name} is a head for maps (kind {head.kind}).",
            "Apply it to a scene: gair segment, or gair change for one of two dates.",
        )
    return head, model


def _load(path: Path, backbone: str | None, load_model: LoadModel) -> tuple[BaseHead, GAIR]:
    """Load a head of any kind and its encoder."""
    entry = checkpoint.read_entry(path)
    if entry["kind"] != "head":
        raise CheckpointError(
            f"{path} is a model without a head: it knows no classes.",
            "Give a head that was trained on it (gair train-head), or demo to try things out.",
        )
    entry, tensors = checkpoint.read_tensors(path, "head")
    head = _build_head(entry, path)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(_ENCODER)}
    checkpoint.check_tensors(own, head.state_dict(), path)
    head.load_state_dict({name: tensor.float() for name, tensor in own.items()})
    if entry.get("encoder") is None:
        model = load_model(_find_backbone(head.metadata, path, backbone))
    else:
        model = _build_encoder(entry["encoder"], tensors, head.metadata, path)
    head.check_fits(model)
    return head.eval(), model


def is_head(path_or_name: str | os.PathLike[str]) -> bool:
    """Return whether a path or registered name is a head and no model; ``demo`` is a model here.

    Raises:
        CheckpointError: There is no such file, or it is damaged.
    """
    return bool(checkpoint.read_entry(registry.find(path_or_name))["kind"] == "head")


def _find_head(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the file of a head; that of `registry.DEMO_HEAD` for the name of the built-in model."""
    path = registry.find(path_or_name)
    # A user's file called demo may hold a head of its own.
    if str(path_or_name) == registry.DEMO and checkpoint.read_entry(path)["kind"] == "model":
        return registry.find(registry.DEMO_HEAD)
    return path


def _build_head(entry: Entry, path: Path) -> BaseHead:
    """Return a head without its values.

    Raises:
        CheckpointError: Its kind is unknown or its description is incomplete or impossible.
    """
    kind = str(entry.get("head_kind"))
    kinds: dict[str, type[BaseHead]] = {**HEAD_KINDS, **POINT_HEAD_KINDS}
    if kind not in kinds:
        raise CheckpointError(
            f"{path} holds a head of the unknown kind {kind!r}; known are {', '.join(kinds)}.",
            "Update gair_core.",
        )
    described = {name: entry[name] for name in HeadMetadata.model_fields if name in entry}
    try:
        metadata = HeadMetadata.model_validate({**described, "name": path.stem})
        config = kinds[kind].config_class.model_validate(entry.get("config"))
    except ValidationError as error:
        raise CheckpointError(
            f"The description inside {path} is impossible: {describe_validation_error(error)}.",
            "Train or save the head again.",
        ) from None
    return kinds[kind](config, metadata)


def needed_parts(model: GAIR, head: BaseHead) -> GAIR:
    """Return the parts of a model that a head reads, the others would only make its file larger.

    The weights are shared.
    """
    parts = tuple(part for part in head.encoder_parts if part in model.parts)
    changes: dict[str, Any] = {part: None for part in _MODEL_PARTS if part not in parts}
    part = checkpoint.build(GAIRConfig.parse({**model.config.model_dump(), **changes}))
    wanted = {*parts, "log_temperature"} | ({"street_view_projection"} if "street_view" in parts else set())
    kept = {k: v for k, v in model.state_dict().items() if k.split(".")[0] in wanted}
    checkpoint.assign(part, kept)
    return part.eval()


def _build_encoder(entry: Entry, tensors: Mapping[str, Tensor], metadata: HeadMetadata, path: Path) -> GAIR:
    """Return the encoder that a self-contained head holds."""
    reference = metadata.backbone or BackboneReference(name="", sha256="")
    config, components, known = checkpoint.parse_model_entry({**entry, "fingerprint": reference.sha256}, path)
    model = checkpoint.build(config, components)
    inside = {k.removeprefix(_ENCODER): v for k, v in tensors.items() if k.startswith(_ENCODER)}
    checkpoint.check_tensors(inside, model.state_dict(), path)
    checkpoint.assign(model, inside)
    model.checkpoint = known.model_copy(update={"name": reference.name})
    return model.eval()


def _find_backbone(metadata: HeadMetadata, path: Path, given: str | None) -> str:
    """Return the encoder of a head as a path or name.

    Raises:
        CheckpointError: It is nowhere, or what has its name is another one.
    """
    wanted = metadata.backbone
    if wanted is None:
        raise CheckpointError(f"{path} does not say which encoder it needs.", "Train the head again.")
    if given is not None:
        candidates = [given]
    else:
        beside = path.with_name(f"{wanted.name}.safetensors")
        registered = [str(model.path) for model in registry.list_models()]
        # The right name first: reading every registered model's description is the last resort.
        registered.sort(key=lambda name: Path(name).stem != wanted.name)
        candidates = [str(beside)] * beside.is_file() + registered
    found = ""
    for candidate in candidates:
        fingerprint = _fingerprint(candidate, given is not None)
        if fingerprint == wanted.sha256:
            return candidate
        if fingerprint and (given is not None or Path(candidate).stem == wanted.name):
            found = found or f"{candidate} is another one, {fingerprint[:12]}"
    raise CheckpointError(
        f"The head {path} was trained on the model {wanted.name!r} with the fingerprint "
        f"{wanted.sha256[:12]}; {found or 'no such model is here'}.",
        f"Put {wanted.name}.safetensors beside the head or name its file as the backbone.",
    )


def _fingerprint(name: str, is_wanted: bool) -> str:
    """Return a model's fingerprint; empty for heads and, unless it is the wanted one, for damaged files."""
    try:
        entry = checkpoint.read_entry(registry.find(name))
    except CheckpointError:
        if is_wanted:
            raise
        return ""
    return str(entry["fingerprint"]) if entry["kind"] == "model" else ""
