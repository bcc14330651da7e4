"""What fine-tuning on photos and places has in common: a head on vectors, and the encoders that make them.

A frozen encoder's vectors are computed once, before the first step. An encoder that is trained reads photos,
windows of scenes and places anew at every visit.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from gair_core.errors import BadInputError
from gair_core.finetune.class_weights import ClassWeights, inverse_frequency
from gair_core.finetune.datasets.birds import BirdsConfig
from gair_core.finetune.datasets.global_streetscapes import GlobalStreetscapesConfig
from gair_core.finetune.datasets.inaturalist import INaturalistConfig
from gair_core.finetune.datasets.located import LocatedData, Samples
from gair_core.finetune.datasets.mosaiks import MosaiksConfig
from gair_core.finetune.datasets.point_table import PointTableConfig
from gair_core.finetune.datasets.scene_places import (
    ScenePlacesConfig,
    Windows,
    scene_embeddings,
    scene_windows,
)
from gair_core.finetune.datasets.socioeconomic import SocioEconomicConfig
from gair_core.finetune.located_examples import (
    LONLAT,
    PHOTOS,
    PROBABILITIES,
    UV,
    VIEWS,
    WINDOW,
    RawExamples,
    VectorExamples,
    encode_samples,
)
from gair_core.finetune.located_metrics import RANKED, classification_results, regression_results
from gair_core.finetune.task import Batch, FinetuneTask, Results, Split, TaskConfig, Terms, Watched
from gair_core.head_checkpoint import needed_parts, save_head
from gair_core.heads.base import AccuracyReport, HeadMetadata
from gair_core.heads.geo_prior import GeoPrior, combine
from gair_core.heads.point import Input, PointHead, PointHeadConfig, input_length
from gair_core.metadata import CheckpointMetadata, Provenance
from gair_core.model.gair import GAIR
from gair_core.sentinel2.bands import normalize

AnyLocatedData = Annotated[
    PointTableConfig
    | GlobalStreetscapesConfig
    | SocioEconomicConfig
    | MosaiksConfig
    | BirdsConfig
    | INaturalistConfig,
    Field(discriminator="kind"),
]

TARGET, PLACED = "target", "placed"
# Samples from which an encoder that is trained gets the first mean and spread of its vectors.
_FOR_SCALES: Final = 512
_SCALE_BATCH: Final = 32

_log = logging.getLogger(__name__)


class LocatedTaskConfig(TaskConfig):
    """What all tasks on photos and places have.

    Attributes:
        data: The data set.
        class_weights: ``inverse_frequency`` makes rare classes count as much as frequent ones.
    """

    movable: ClassVar[frozenset[str]] = frozenset(
        {f"data.{name}" for name in ("folder", "tables", "photos", "table", "image_features")}
        | {"scenes.files", "scenes.folder"}
    )

    data: AnyLocatedData
    class_weights: ClassWeights = "none"


class LocatedTask(FinetuneTask):
    """A head on vectors of photos, scenes, places and given features.

    Args:
        model: The pretrained model.
        data: The data set.
        kind: Kind of the head.
        inputs: What it reads.
        frozen: Whether the encoders stay as they are.
        hidden: Width of a hidden layer; None for a linear head.
        class_weights: Weights of the classes in the loss.
        scenes: The scenes, where they are read.
        flip: Whether photos are mirrored half of the time while their encoder is trained.

    Raises:
        BadInputError: The model or the data lack what the head reads, or the head does not suit the data.
    """

    def __init__(
        self,
        model: GAIR,
        data: LocatedData,
        kind: type[PointHead],
        inputs: Sequence[Input],
        *,
        frozen: bool,
        hidden: int | None = None,
        class_weights: ClassWeights = "none",
        scenes: ScenePlacesConfig | None = None,
        flip: bool = False,
    ) -> None:
        lengths = {name: _length(model, data, name) for name in inputs}
        config = PointHeadConfig(embed_dim=model.config.embed_dim, inputs=lengths, hidden=hidden)
        metadata = HeadMetadata(title=data.name, classes=data.head_classes, targets=data.targets)
        self.head = kind(config, metadata)
        self.data = data
        self.frozen = frozen
        self.scenes = scenes
        self.flip = flip
        self.original = model
        self.left_out: Counter[str] = Counter()
        self.device = torch.device("cpu")
        self.weights = _class_weights(data, class_weights)
        # Parts that the head does not read would only be carried along.
        self.encoder = needed_parts(model, self.head)
        self.module: nn.Module
        if frozen or not self.head.encoder_parts:
            self.module = self.head
            self.encoder.requires_grad_(False)
        else:
            # Copies: the caller's model stays as it is.
            self.encoder = GAIR(self.encoder.config)
            self.encoder.load_state_dict(needed_parts(model, self.head).state_dict())
            self.module = nn.ModuleDict({"encoder": self.encoder, "head": self.head})
            self.head.follows = True
            self.encoder_parameters = frozenset(
                f"encoder.{name}" for name, _ in self.encoder.named_parameters()
            )
        self.head.check_fits(self.encoder)
        regression = self.head.is_regression
        self.watched = Watched("relative_rmse" if regression else "top_1", higher_is_better=not regression)

    @property
    def data_name(self) -> str:  # type: ignore[override]
        """The data set with all that was left out of it."""
        found = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
        return f"{self.data.description}; left out for this head: {found}" if found else self.data.description

    def prepare(self, device: torch.device) -> None:
        """Move the encoder, see `FinetuneTask.prepare`."""
        self.device = device
        self.encoder.to(device).eval()
        self.head.to(device)

    def examples(self, split: Split) -> VectorExamples:
        """Return the examples of a split; the training split sets the head's scales."""
        samples = self._placed(self.data.splits[split], split)
        examples = self._vectors(samples, split) if self._encoded_before else self._raw(samples, split)
        if split == "train":
            self._fit_scales(examples)
        return examples

    def loss(self, batch: Batch) -> Terms:
        """Return cross-entropy, or the mean squared error of the scaled targets that are known."""
        outputs = self.head(self.inputs(batch)).float()
        target = batch[TARGET]
        if not self.head.is_regression:
            weights = None if self.weights is None else self.weights.to(outputs.device)
            return {"loss": F.cross_entropy(outputs, target, weights)}
        wanted = self.head.scaled(target)
        known = torch.isfinite(wanted)
        error = torch.where(known, outputs - wanted, torch.zeros_like(outputs))
        return {"loss": error.square().sum() / known.sum().clamp(min=1)}

    def inputs(self, batch: Batch) -> dict[Input, Tensor]:
        """Return the vectors of a batch: those that it holds, the others by the encoder."""
        vectors: dict[Input, Tensor] = {}
        for name in self.head.config.order:
            if name in batch:
                vectors[name] = batch[name]
            elif name == "photo":
                vectors[name] = _encode_views(self.encoder, batch[PHOTOS], batch[VIEWS])
            elif name == "location":
                # A place that is unknown has been marked so, and its result is disregarded.
                vectors[name] = self.encoder.encode_location(batch[LONLAT].nan_to_num())
            else:
                vectors[name] = _encode_windows(self.encoder, batch[WINDOW], batch[UV])
        return vectors

    def evaluate(self, batches: Iterable[Batch]) -> Results:
        """Return the results of a split; a geo-prior's alone, the image's alone and both."""
        predicted: dict[str, list[Tensor]] = {}
        columns: dict[str, list[Tensor]] = {TARGET: [], LONLAT: []}
        for batch in batches:
            for name, values in self._predictions(batch).items():
                predicted.setdefault(name, []).append(values)
            for name, kept in columns.items():
                kept.append(batch[name].cpu())
        found = {name: torch.cat(values) for name, values in predicted.items()}
        target, lonlat = torch.cat(columns[TARGET]), torch.cat(columns[LONLAT])
        if self.head.is_regression:
            names = [one.name for one in self.data.targets]
            spread = self.head.output_spread.cpu()
            results = regression_results(found[""], target, names, spread)
        else:
            names = [one.name for one in self.head.classes]
            results = classification_results(found[""], target, names)
            for name in sorted(set(found) - {""}):
                alone = classification_results(found[name], target, names).metrics
                results.metrics.update(
                    {f"{key}_{name}": alone[key] for key in ("top_1", f"top_{RANKED}", "mean_f1")}
                )
        return Results(
            results.metrics,
            results.class_metrics,
            results.confusion,
            _records(found[""], target, lonlat, names),
        )

    def save(self, path: Path, accuracy: AccuracyReport | None, provenance: Provenance) -> None:
        """Save the head, with its encoder inside when that was trained or has no name."""
        self.head.metadata = self.head.metadata.model_copy(
            update={"accuracy": accuracy, "provenance": provenance}
        )
        known = self.original.checkpoint
        if self.module is not self.head:
            before = known or CheckpointMetadata()
            self.encoder.checkpoint = CheckpointMetadata(
                title=f"{before.title}, fine-tuned", provenance=before.provenance, name=before.name
            )
            save_head(self.head, path, self.encoder, embed_backbone=True)
            return
        nameless = known is None or not known.fingerprint
        save_head(self.head, path, self.original, embed_backbone=nameless or not self.head.encoder_parts)

    @property
    def _encoded_before(self) -> bool:
        return self.module is self.head

    def _predictions(self, batch: Batch) -> dict[str, Tensor]:
        """Return quantities (B, targets), or the likeliest classes (B, `RANKED`) by what they rest on.

        The key is empty for the head's own result, which of a geo-prior is that of image and place together.
        """
        values = self.head.predict(self.inputs(batch))
        if self.head.is_regression:
            return {"": values.cpu()}
        if not isinstance(self.head, GeoPrior) or PROBABILITIES not in batch:
            return {"": _ranked(values)}
        image = batch[PROBABILITIES]
        return {
            "": _ranked(combine(image, values, batch[PLACED])),
            "image": _ranked(image),
            "location": _ranked(values),
        }

    def _placed(self, samples: Samples, split: Split) -> Samples:
        """Leave out samples without a place where one is read, unless the image alone can judge them."""
        if not {"location", "scene"} & set(self.head.config.order):
            return samples
        if isinstance(self.head, GeoPrior) and split != "train" and samples.image_probabilities is not None:
            return samples
        return self._kept(samples, np.flatnonzero(samples.placed), "without a position")

    def _kept(self, samples: Samples, rows: npt.NDArray[np.int64], reason: str) -> Samples:
        lost = len(samples) - len(rows)
        if lost:
            self.left_out[reason] += lost
            _log.warning("%d of %d samples are left out: %s.", lost, len(samples), reason)
        return samples.take(rows)

    def _vectors(self, samples: Samples, split: Split) -> VectorExamples:
        """Encode everything once."""
        vectors: dict[str, Tensor] = {}
        order = self.head.config.order
        if "scene" in order:
            config = self.scenes or ScenePlacesConfig()
            rows, found = scene_embeddings(self.encoder, config, samples.ids, samples.lonlat, self.device)
            samples = self._kept(samples, rows, "not on a scene with data")
            vectors["scene"] = found
        if "photo" in order:
            rows, found = encode_samples(self.encoder, samples, self.device)
            samples = self._kept(samples, rows, "with a photo that cannot be read")
            vectors = {name: values[torch.from_numpy(rows)] for name, values in vectors.items()}
            vectors["photo"] = found
        if "location" in order:
            vectors["location"] = self._encode_places(samples)
        return VectorExamples(
            samples.ids, {**vectors, **_given(samples, order)}, self._probabilities(samples, split)
        )

    def _raw(self, samples: Samples, split: Split) -> RawExamples:
        """Leave encoding to the steps."""
        order = self.head.config.order
        windows: Windows | None = None
        if "scene" in order:
            windows = scene_windows(
                self.encoder, self.scenes or ScenePlacesConfig(), samples.ids, samples.lonlat
            )
            samples = self._kept(samples, windows.rows, "not on a scene with data")
        return RawExamples(
            samples,
            _given(samples, order),
            self._probabilities(samples, split),
            photos=self.encoder.config.street_view if "photo" in order else None,
            windows=windows,
            flip=self.flip,
        )

    def _probabilities(self, samples: Samples, split: Split) -> object:
        wanted = isinstance(self.head, GeoPrior) and split != "train"
        return samples.image_probabilities if wanted else None

    def _encode_places(self, samples: Samples) -> Tensor:
        places = torch.from_numpy(np.nan_to_num(samples.lonlat)).to(self.device)
        with torch.no_grad():
            return torch.cat(
                [self.encoder.encode_location(part).float().cpu() for part in places.split(1024)]
            )

    def _fit_scales(self, examples: VectorExamples) -> None:
        """Set the head's mean and spread from the training examples; some are enough to train an encoder."""
        if self._encoded_before:
            inputs = {name: examples.tensors[name] for name in self.head.config.order}
        else:
            chosen = np.random.default_rng(0).permutation(len(examples))[:_FOR_SCALES]
            parts = []
            for start in range(0, len(chosen), _SCALE_BATCH):
                batch = examples.collate(
                    [examples.example(int(one), None) for one in chosen[start : start + _SCALE_BATCH]]
                )
                with torch.no_grad():
                    found = self.inputs({name: values.to(self.device) for name, values in batch.items()})
                parts.append({name: values.float().cpu() for name, values in found.items()})
            inputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        targets = examples.tensors[TARGET].to(self.device) if self.head.is_regression else None
        self.head.fit_scales({name: values.to(self.device) for name, values in inputs.items()}, targets)


def _length(model: GAIR, data: LocatedData, name: Input) -> int:
    """Return the length of an input.

    Raises:
        BadInputError: The model or the data do not have it.
    """
    samples = data.splits["train"]
    if name == "image":
        if samples.image_features is None:
            raise BadInputError(
                f"{data.name} has no image features.",
                "Give them with the data, or leave the input out: a fusion of other inputs.",
            )
        return int(samples.image_features.shape[1])
    if name == "photo" and not any(samples.photos):
        raise BadInputError(f"{data.name} has no photos.", "Name the column of their paths.")
    part = {"photo": "street_view", "scene": "remote_sensing", "location": "location"}[name]
    found = input_length(model, name)
    if part not in model.parts or found is None:
        raise BadInputError(
            f"The input {name} needs a model with the part '{part}'; this one holds "
            f"{', '.join(model.parts)}.",
            "Choose another model, or merge a checkpoint that has it: gair import ... --into MODEL.",
        )
    return found


def _class_weights(data: LocatedData, kind: ClassWeights) -> Tensor | None:
    if kind == "none" or not data.classes:
        return None
    counts = np.bincount(data.splits["train"].labels.astype(np.int64), minlength=len(data.classes))
    return inverse_frequency(torch.from_numpy(counts))


def _given(samples: Samples, order: Sequence[Input]) -> dict[str, Tensor]:
    """Return what an example has without any encoder."""
    labels = samples.labels
    target = torch.from_numpy(labels if labels.ndim == 1 else labels.astype(np.float32))
    given = {
        TARGET: target,
        LONLAT: torch.from_numpy(samples.lonlat),
        PLACED: torch.from_numpy(samples.placed),
    }
    if "image" in order and samples.image_features is not None:
        given["image"] = torch.from_numpy(samples.image_features)
    return given


def _encode_views(model: GAIR, photos: Tensor, views: Tensor) -> Tensor:
    """Encode photos (B, V, 3, S, S) and average those that there are, (B, V) bool: (B, width)."""
    owner = views.nonzero()[:, 0]
    encoded = model.encode_street_view(photos[views], project=False).float()
    total = torch.zeros(len(photos), encoded.shape[1], device=encoded.device).index_add(0, owner, encoded)
    return total / views.sum(dim=1, keepdim=True)


def _encode_windows(model: GAIR, dn: Tensor, uv: Tensor) -> Tensor:
    """Encode windows (B, bands, S, S), DN, and interpolate at one place (B, 2) of each: (B, D)."""
    config = model.require_remote_sensing().config
    images = normalize(dn, config.mean, config.std, quantize=config.quantize)
    return model.interpolate(model.encode_remote_sensing(images), uv[:, None]).float()[:, 0]


def _ranked(probabilities: Tensor) -> Tensor:
    return probabilities.topk(min(RANKED, probabilities.shape[1]), dim=1).indices.cpu()


def _records(
    predicted: Tensor, target: Tensor, lonlat: Tensor, names: Sequence[str]
) -> dict[str, npt.NDArray[np.generic]]:
    """Return one row a sample: its place, its target and the prediction; several targets get their names."""
    records: dict[str, npt.NDArray[np.generic]] = {"lon": lonlat[:, 0].numpy(), "lat": lonlat[:, 1].numpy()}
    if target.ndim == 1 or target.shape[1] == 1:
        return {
            **records,
            "target": target.reshape(len(target)).numpy(),
            "prediction": predicted[:, 0].numpy(),
        }
    for column, name in enumerate(names):
        records[f"target_{name}"] = target[:, column].numpy()
        records[f"prediction_{name}"] = predicted[:, column].numpy()
    return records
