"""Checkpoints as STAC Items with the fields of the Machine Learning Model extension (MLM).

https://github.com/stac-extensions/mlm, version 1.6, on STAC 1.1. An Item says what a model is made of, what
it reads, how its input must be scaled and what comes out, so that a catalogue can be searched for models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from gair_core.checksum import sha256_of
from gair_core.config import GAIRConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.head_checkpoint import POINT_HEAD_KINDS, load_head, load_point_head, needed_parts
from gair_core.heads.base import BaseHead, Head, HeadClass
from gair_core.heads.pixel_features import PixelFeatures
from gair_core.heads.point import PointHead
from gair_core.version import __version__

if TYPE_CHECKING:
    from gair_core.info import InfoResult

Json = dict[str, Any]

MLM = "https://stac-extensions.github.io/mlm/v1.6.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"

# A checkpoint does not say where its training data lie, and a model may be used anywhere.
_WORLD = (-180.0, -90.0, 180.0, 90.0)
# From the launch of Sentinel-2A on; STAC wants an end.
_TIMES = {"start_datetime": "2015-06-23T00:00:00Z", "end_datetime": "9999-12-31T23:59:59Z"}
_MULTIHASH_SHA256 = "1220"
_BATCH = -1


def stac_item(info: InfoResult) -> Json:
    """Return a checkpoint as a STAC Item.

    The asset's address is the file's name, so that the Item belongs beside the file.

    Args:
        info: The checkpoint, described.

    Raises:
        CheckpointError: It is a head whose encoder is nowhere, so that nobody knows what it reads.
    """
    head, config, parameters = _whole_model(info)
    name = slug(info.name)
    extensions = [MLM, FILE] + ([CLASSIFICATION] if head is not None and head.classes else [])
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": extensions,
        "id": f"{name}-{info.fingerprint[:12]}",
        "geometry": {"type": "Polygon", "coordinates": [_ring(_WORLD)]},
        "bbox": list(_WORLD),
        "properties": {
            "datetime": None,
            **_TIMES,
            **_common(info),
            **_model_fields(f"GAIR-{name}", parameters),
            "mlm:architecture": _architecture(head, config),
            "mlm:tasks": _tasks(head),
            **_training(info),
            "mlm:hyperparameters": _hyperparameters(head, config),
            "mlm:input": _inputs(head, config),
            "mlm:output": _outputs(head, config),
        },
        "links": [],
        "assets": _assets(info, head, config),
    }


def slug(text: str) -> str:
    """Return a name of letters, digits, ``_``, ``.`` and ``-``, the latter three not at its ends."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.")
    return plain or "unnamed"


def _whole_model(info: InfoResult) -> tuple[BaseHead | None, GAIRConfig, int]:
    """Return the head, if any, the encoder's configuration, and the number of parameters of both."""
    if info.config is not None:
        return None, info.config, sum(info.parameters.values())
    load = load_point_head if info.head.get("head_kind") in POINT_HEAD_KINDS else load_head
    head, model = load(info.file)
    encoder = needed_parts(model, head)
    values = [*head.parameters(), *encoder.parameters()]
    return head, encoder.config, sum(value.numel() for value in values)


def _ring(bbox: Sequence[float]) -> list[list[float]]:
    left, bottom, right, top = bbox
    return [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]


def _common(info: InfoResult) -> Json:
    """Return the fields that every STAC Item may have, and two of our own."""
    provenance = info.provenance
    facts = (
        ("source", provenance.source),
        ("licence", provenance.licence),
        ("training data", provenance.training_data),
        ("described by", f"gair_core {__version__}"),
    )
    fields: Json = {
        "title": info.title,
        "description": "; ".join(f"{name}: {text}" for name, text in facts if text),
        "gair:fingerprint": info.fingerprint,
    }
    metrics = {**provenance.metrics, **((info.head.get("accuracy") or {}).get("metrics") or {})}
    if metrics:
        fields["gair:metrics"] = metrics
    licence = provenance.licence
    if licence:
        # An SPDX name, or this word where the licence is described in prose.
        fields["license"] = licence if re.fullmatch(r"[\w.+-]+", licence) else "other"
    return fields


def _model_fields(name: str, parameters: int) -> Json:
    return {
        "mlm:name": name,
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__,
        "mlm:total_parameters": parameters,
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
        "mlm:accelerator_summary": "CPU, CUDA or MPS",
    }


def _training(info: InfoResult) -> Json:
    """Say what it was pretrained on, if anybody knows."""
    data = info.provenance.training_data
    return {"mlm:pretrained": True, "mlm:pretrained_source": data} if data else {}


def _architecture(head: BaseHead | None, config: GAIRConfig) -> str:
    encoder = (
        "Vision Transformer"
        if config.remote_sensing is not None or config.street_view is not None
        else "Multilayer Perceptron"
    )
    return encoder if head is None else f"{encoder}, {head.kind}"


def _tasks(head: BaseHead | None) -> list[str]:
    if head is None:
        return ["similarity-search"]
    if isinstance(head, Head):
        return ["semantic-segmentation"]
    return ["classification"] if head.classes else ["regression"]


def _hyperparameters(head: BaseHead | None, config: GAIRConfig) -> Json:
    found: Json = {"embed_dim": config.embed_dim, "localizer": config.localizer}
    scenes = config.remote_sensing
    if scenes is not None:
        found |= {"gsd": scenes.gsd, "patch_size": scenes.patch_size, "quantize": scenes.quantize}
    if head is not None:
        found["head_kind"] = head.kind
    return found


def _inputs(head: BaseHead | None, config: GAIRConfig) -> list[Json]:
    found = []
    if config.remote_sensing is not None:
        found.append(_scene_input(config.remote_sensing, head))
        if isinstance(head, Head) and head.pixel_features is not None:
            found.append(_pixel_input(config.remote_sensing, head.pixel_features))
    if config.street_view is not None:
        found.append(_photo_input(config.street_view))
    if config.location is not None:
        found.append(_location_input())
    if isinstance(head, PointHead) and "image" in head.config.inputs:
        found.append(_given_input(head.config.inputs["image"]))
    return found


def _scene_input(scenes: RemoteSensingConfig, head: BaseHead | None) -> Json:
    shape, order = [_BATCH, len(scenes.bands), scenes.tile_size, scenes.tile_size], _image_order()
    dates = head.scenes if isinstance(head, Head) else 1
    if dates != 1:
        shape.insert(1, dates or -1)
        order.insert(1, "time")
    steps = "clipped to [0, 1]" + (" and truncated to 8 bits" if scenes.quantize else "")
    return {
        "name": "scene",
        "description": (
            f"Sentinel-2 surface reflectance x 10000 without offset, pixels of {scenes.gsd:g} m, scaled "
            f"(mean - 2 std to 0, mean + 2 std to 1), then {steps}. Height and width may be any multiple of "
            f"{scenes.patch_size}."
        ),
        "bands": list(scenes.bands),
        "input": {"shape": shape, "dim_order": order, "data_type": "float32"},
        "value_scaling": [
            {"type": "min-max", "minimum": round(mean - 2 * std, 4), "maximum": round(mean + 2 * std, 4)}
            for mean, std in zip(scenes.mean, scenes.std, strict=True)
        ],
        "resize_type": None,
        "pre_processing_function": {
            "format": "python",
            "expression": "gair_core.sentinel2.bands:normalize",
            "description": f"the scaling above, {steps}",
        },
    }


def _pixel_input(scenes: RemoteSensingConfig, features: PixelFeatures) -> Json:
    windows = " and ".join(f"{side} x {side}" for side in features.windows)
    means = f", then their means over {windows} pixels" if windows else ""
    shape = [_BATCH, features.count, scenes.tile_size, scenes.tile_size]
    return {
        "name": "pixels",
        "description": f"The ten bands of the scene's own pixels, reflectance x 10000, not scaled{means}.",
        "bands": [],
        "input": {"shape": shape, "dim_order": _image_order(), "data_type": "float32"},
        "pre_processing_function": {
            "format": "python",
            "expression": "gair_core.inference.pixel_bands:read_features",
        },
    }


def _photo_input(photos: StreetViewConfig) -> Json:
    size = photos.image_size
    return {
        "name": "photo",
        "description": f"RGB, 0 to 255, resized to {size} x {size} pixels, then scaled.",
        "bands": [],
        "input": {"shape": [_BATCH, 3, size, size], "dim_order": _image_order(), "data_type": "float32"},
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": std}
            for mean, std in zip(photos.mean, photos.std, strict=True)
        ],
        "resize_type": "interpolation-cubic" if photos.resampling == "bicubic" else "interpolation-linear",
        "pre_processing_function": {
            "format": "python",
            "expression": "gair_core.photos.preprocess:preprocess",
        },
    }


def _location_input() -> Json:
    return {
        "name": "location",
        "description": "Longitude and latitude, WGS 84, degrees.",
        "bands": [],
        "input": {"shape": [_BATCH, 2], "dim_order": ["batch", "coordinate"], "data_type": "float64"},
        "pre_processing_function": None,
    }


def _given_input(width: int) -> Json:
    return {
        "name": "image",
        "description": "Features of an image from another model, as they come with the data set.",
        "bands": [],
        "input": {"shape": [_BATCH, width], "dim_order": ["batch", "channel"], "data_type": "float32"},
        "pre_processing_function": None,
    }


def _image_order() -> list[str]:
    return ["batch", "channel", "height", "width"]


def _outputs(head: BaseHead | None, config: GAIRConfig) -> list[Json]:
    return _embeddings(config) if head is None else [_predictions(head, config)]


def _embeddings(config: GAIRConfig) -> list[Json]:
    """Return an output for every part: they all lie in one space."""
    found, width = [], config.embed_dim
    if config.remote_sensing is not None:
        size = config.remote_sensing.tile_size
        order = ["batch", "embedding", "height", "width"]
        found.append(_output("scene_embedding", [_BATCH, width, size, size], order))
    for name, part in (("photo_embedding", config.street_view), ("location_embedding", config.location)):
        if part is not None:
            found.append(_output(name, [_BATCH, width], ["batch", "embedding"]))
    return found


def _output(name: str, shape: Sequence[int], order: Sequence[str]) -> Json:
    return {
        "name": name,
        "tasks": _tasks(None),
        "result": {"shape": list(shape), "dim_order": list(order), "data_type": "float32"},
        "post_processing_function": None,
    }


def _predictions(head: BaseHead, config: GAIRConfig) -> Json:
    """Return the logits of a head's classes, or the quantities that it predicts."""
    shape, order = [_BATCH, len(head.classes or head.metadata.targets)], ["batch", "class"]
    if not head.classes:
        order = ["batch", "quantity"]
    if isinstance(head, Head) and config.remote_sensing is not None:
        shape += [config.remote_sensing.tile_size] * 2
        order += ["height", "width"]
    found: Json = {
        "name": "logits" if head.classes else "quantities",
        "tasks": _tasks(head),
        "result": {"shape": shape, "dim_order": order, "data_type": "float32"},
        "post_processing_function": None,
    }
    if head.classes:
        found["classification:classes"] = classification_classes(head.classes)
    else:
        found["description"] = ", ".join(
            f"{one.name} ({one.unit})" if one.unit else one.name for one in head.metadata.targets
        )
    return found


def classification_classes(classes: Sequence[HeadClass]) -> list[Json]:
    """Return classes as the Classification extension describes them, in the order of the logits.

    Its ``name`` is an identifier; what people call the class is the ``description``.
    """
    names = [re.sub(r"[^0-9A-Za-z_-]+", "-", one.name).strip("-") for one in classes]
    return [
        {
            "value": one.value,
            "name": name if name and names.count(name) == 1 else f"class-{one.value}",
            "description": one.name,
            "color_hint": "".join(f"{channel:02X}" for channel in one.colour),
        }
        for one, name in zip(classes, names, strict=True)
    ]


def _assets(info: InfoResult, head: BaseHead | None, config: GAIRConfig) -> Json:
    model: Json = {
        "href": f"./{info.file.name}",
        "title": info.title,
        "type": "application/octet-stream; framework=pytorch",
        "roles": ["mlm:model", "mlm:weights", "data"],
        "mlm:artifact_type": "safetensors.torch.save_file",
        "file:size": info.bytes,
        # A multihash, as the extension wants it.
        "file:checksum": _MULTIHASH_SHA256 + sha256_of(info.file),
    }
    if config.remote_sensing is not None:
        model["bands"] = _bands(config.remote_sensing)
    assets = {"model": model}
    backbone = None if head is None else head.metadata.backbone
    if backbone is not None and not info.head.get("encoder"):
        assets["encoder"] = {
            "href": f"./{backbone.name}.safetensors",
            "title": f"the encoder that the head needs, fingerprint {backbone.sha256}",
            "type": "application/octet-stream; framework=pytorch",
            "roles": ["mlm:weights", "data"],
        }
    return assets


def _bands(scenes: RemoteSensingConfig) -> list[Json]:
    """Return the bands with the statistics of the training data, DN."""
    rows = zip(scenes.bands, scenes.mean, scenes.std, strict=True)
    return [{"name": name, "statistics": {"mean": mean, "stddev": std}} for name, mean, std in rows]
