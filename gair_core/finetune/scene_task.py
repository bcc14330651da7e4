"""Classes of every pixel of scenes: segmentation, change between two dates, segmentation of series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field, JsonValue, ValidationError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gair_core.config import Config, Positive, RemoteSensingConfig
from gair_core.errors import BadInputError
from gair_core.finetune.class_weights import ClassWeights, inverse_frequency
from gair_core.finetune.datasets.burn_scars import BurnScarsConfig
from gair_core.finetune.datasets.scenes import IGNORED, SceneData, SceneExample, SceneUse
from gair_core.finetune.datasets.small_farms import SmallFarmsConfig
from gair_core.finetune.datasets.south_sudan import SouthSudanConfig
from gair_core.finetune.datasets.world import WorldDataConfig
from gair_core.finetune.encoder import MissingBands, adapt_encoder, is_changed
from gair_core.finetune.metrics import ClassificationMeter
from gair_core.finetune.task import (
    Batch,
    Examples,
    FinetuneTask,
    Results,
    Split,
    TaskConfig,
    Terms,
    Watched,
)
from gair_core.finetune.tiled import tiled_logits
from gair_core.head_checkpoint import HEAD_KINDS, save_head
from gair_core.heads.base import AccuracyReport, Head, HeadMetadata
from gair_core.heads.pixel import PixelLinearHead
from gair_core.heads.temporal import SeriesConfig, SeriesLinearHead
from gair_core.heads.upernet import UPerNetConfig, default_blocks
from gair_core.metadata import Provenance
from gair_core.model.gair import GAIR
from gair_core.sentinel2.bands import normalize
from gair_core.task import describe_validation_error

AnySceneData = Annotated[
    BurnScarsConfig | SmallFarmsConfig | SouthSudanConfig | WorldDataConfig, Field(discriminator="kind")
]
_SCENES: Final[dict[SceneUse, int | None]] = {"one scene": 1, "two dates": 2, "series": None}
_COUNTED: Final[dict[SceneUse, str]] = {
    "one scene": "one scene",
    "two dates": "two scenes",
    "series": "a series of scenes",
}
# A crop without any label teaches nothing; after so many draws it is taken as it is.
_DRAWS: Final = 10


class HeadChoice(Config):
    """Which head is trained.

    Attributes:
        kind: A kind of head for maps, such as linear, upernet, change_linear, upernet_change, series_linear
            or series_ltae.
        settings: Values of its configuration that differ from its defaults, such as ``channels`` of UPerNet.
    """

    kind: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)


class SceneTaskConfig(TaskConfig):
    """Classes of every pixel.

    Attributes:
        data: The data set.
        head: The head; it must look at as many scenes as an example has.
        tile: Side of the crops to train on, and of the tiles to evaluate with, pixels; None for the tile size
            of the model.
        margin: What two tiles share on each side while evaluating, pixels; None for an eighth of a tile.
        flip: Whether training flips examples along either axis half of the time.
        statistics: ``dataset``: the data set's mean and standard deviation of each band take the place of the
            model's (PANGAEA); ``model``: scenes are scaled as they were in pretraining.
        missing: What the encoder sees in place of bands that the data set lacks: their ``mean``, or ``zero``
            on the scale from 0 to 1.
        title: One line for people, kept in the head; empty for one made of the data set's name.
        class_weights: ``inverse_frequency`` gives every class of the training labels the same weight in all.
    """

    kind: Literal["scenes"] = "scenes"
    data: AnySceneData
    head: HeadChoice
    tile: Positive | None = None
    margin: int | None = Field(None, ge=0)
    flip: bool = True
    statistics: Literal["dataset", "model"] = "dataset"
    missing: MissingBands = "mean"
    title: str = ""
    class_weights: ClassWeights = "none"

    movable: ClassVar[frozenset[str]] = frozenset({"data.folder", "title"})

    def build(self, model: GAIR, *, frozen: bool, seed: int) -> FinetuneTask:
        """Return the task, see `TaskConfig.build`."""
        del seed
        return SceneTask(self, self.data.open(), model, frozen=frozen)


class SceneTask(FinetuneTask):
    """Classes of every pixel, see `SceneTaskConfig`.

    Args:
        config: The task.
        data: Its data set.
        model: The pretrained model; it stays as it is.
        frozen: Whether the encoder does.
    """

    watched = Watched("mean_iou")
    evaluation_batch = 1

    def __init__(self, config: SceneTaskConfig, data: SceneData, model: GAIR, *, frozen: bool) -> None:
        self.config = config
        self.data = data
        self.data_name = data.title
        self.encoder = adapt_encoder(
            model, data, missing=config.missing, own_statistics=config.statistics == "dataset"
        )
        self._embed = not frozen or is_changed(model, self.encoder)
        self.encoder.requires_grad_(not frozen)
        title = config.title or f"{data.title}, {config.head.kind}"
        metadata = HeadMetadata(title=title, classes=data.classes)
        self.head = build_head(config.head, self.encoder, metadata, data)
        if frozen:
            self.module = self.head
        else:
            self.module = nn.ModuleDict({"encoder": self.encoder, "head": self.head})
            self.encoder_parameters = frozenset(
                name for name, _ in self.module.named_parameters() if name.startswith("encoder.")
            )
        self.remote_sensing = self.encoder.require_remote_sensing().config
        self.tile = _tile_size(config, self.remote_sensing)
        self.weights: Tensor | None = None
        if config.class_weights == "inverse_frequency":
            self.weights = inverse_frequency(torch.from_numpy(data.class_counts("train")))

    def prepare(self, device: torch.device) -> None:
        """Move the encoder and the class weights to the device."""
        self.encoder.to(device)
        if self.weights is not None:
            self.weights = self.weights.to(device)

    def examples(self, split: Split) -> Examples:
        """Return the examples of a split, see `FinetuneTask.examples`."""
        return SceneExamples(self.data, split, self.remote_sensing, tile=self.tile, flip=self.config.flip)

    def loss(self, batch: Batch) -> Terms:
        """Return the cross-entropy of the labelled pixels, see `FinetuneTask.loss`."""
        images = list(batch["images"].unbind(1))
        logits = self.head.forward_tile(self.encoder, images, batch.get("days"), batch["valid"])
        return {"loss": pixel_loss(logits, batch["target"], self.weights)}

    def evaluate(self, batches: Iterable[Batch]) -> Results:
        """Return IoU, F1 and accuracies over all pixels of a split, see `FinetuneTask.evaluate`."""
        names = [one.name for one in self.data.classes]
        meter = ClassificationMeter(names, self.encoder.device)
        tile, margin = self.tile, self.config.margin
        for batch in batches:
            logits = tiled_logits(
                self.head,
                self.encoder,
                batch["images"][0],
                tile=tile,
                margin=tile // 8 if margin is None else margin,
                days=batch["days"][0] if "days" in batch else None,
                valid=batch["valid"][0],
            )
            meter.update(logits.argmax(dim=0), batch["target"][0])
        return meter.results()

    def save(self, path: Path, accuracy: AccuracyReport | None, provenance: Provenance) -> None:
        """Save the head, see `FinetuneTask.save`."""
        self.head.metadata = self.head.metadata.model_copy(
            update={"accuracy": accuracy, "provenance": provenance}
        )
        save_head(self.head, path, self.encoder, embed_backbone=self._embed)


class SceneExamples(Examples):
    """Crops of a data set's examples while training, whole ones while evaluating.

    A batch has ``images`` (B, scenes, bands, H, W) as the encoder wants them, ``valid`` (B, scenes, H, W),
    ``target`` (B, H, W) and, where the data set has dates, ``days`` (B, scenes). Shorter series are padded
    with scenes that are valid nowhere.

    Args:
        data: The data set.
        split: The split.
        encoder: The encoder's bands and statistics.
        tile: Side of a crop, pixels.
        flip: Whether training flips.
    """

    def __init__(
        self, data: SceneData, split: Split, encoder: RemoteSensingConfig, *, tile: int, flip: bool
    ) -> None:
        self._data = data
        self._split = split
        self._encoder = encoder
        self._tile = tile
        self._flip = flip
        self._names = list(data.names(split))
        self._bands = [encoder.bands.index(band) for band in data.bands]

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the name of an example, see `Examples.name`."""
        return self._names[index]

    def example(self, index: int, generator: np.random.Generator | None) -> Batch:
        """Return an example, cropped and flipped while training, see `Examples.example`."""
        example = self._data.read(self._split, index)
        if generator is not None:
            example = random_crop(example, self._tile, generator)
            if self._flip:
                example = _flipped(example, generator)
        return self._encoded(example)

    def collate(self, examples: Sequence[Batch]) -> Batch:
        """Join examples; series of different length are padded."""
        return {
            name: pad_sequence([one[name] for one in examples], batch_first=True)
            if name != "target"
            else torch.stack([one[name] for one in examples])
            for name in examples[0]
        }

    def _encoded(self, example: SceneExample) -> Batch:
        """Scale an example for the encoder; gaps hold the mean, absent bands 0, see `adapt_encoder`."""
        mean = np.array(self._encoder.mean, dtype=np.float32)[self._bands]
        std = np.array(self._encoder.std, dtype=np.float32)[self._bands]
        filled = np.where(example.valid[:, None], example.dn, mean[:, None, None])
        scaled = normalize(
            torch.from_numpy(filled), mean.tolist(), std.tolist(), quantize=self._encoder.quantize
        )
        images = torch.zeros(len(scaled), len(self._encoder.bands), *scaled.shape[-2:])
        images[:, self._bands] = scaled
        needed = example.valid.any(axis=0) if self._data.use == "series" else example.valid.all(axis=0)
        target = np.where(needed, example.target, IGNORED)
        found = {
            "images": images,
            "valid": torch.from_numpy(np.ascontiguousarray(example.valid)),
            "target": torch.from_numpy(target),
        }
        return found if example.days is None else {**found, "days": torch.from_numpy(example.days)}


def build_head(choice: HeadChoice, model: GAIR, metadata: HeadMetadata, data: SceneData) -> Head:
    """Return a new head for a model.

    Args:
        choice: Its kind and settings.
        model: The encoder.
        metadata: Its classes.
        data: What it will look at.

    Raises:
        BadInputError: There is no such kind, a setting is unknown or impossible, or it looks at another
            number of scenes.
    """
    # PixelLinearHead is fitted exactly, by `gair train-head`.
    fitting = {
        name: kind
        for name, kind in HEAD_KINDS.items()
        if kind.scenes == _SCENES[data.use] and kind is not PixelLinearHead
    }
    if choice.kind not in fitting:
        raise BadInputError(
            f"task.head.kind is {choice.kind!r}; an example of {data.title} is {_COUNTED[data.use]}.",
            f"Wanted {' or '.join(fitting)}.",
        )
    kind = fitting[choice.kind]
    values: dict[str, Any] = {"embed_dim": model.config.embed_dim}
    encoder = model.require_remote_sensing().config
    if issubclass(kind.config_class, (UPerNetConfig, SeriesConfig)):
        values = {"embed_dim": encoder.width, "blocks": default_blocks(encoder.depth)}
    if issubclass(kind, SeriesLinearHead):
        values["dates"] = data.longest
    try:
        config = kind.config_class.model_validate({**values, **choice.settings})
    except ValidationError as error:
        raise BadInputError(f"Impossible task.head.settings: {describe_validation_error(error)}.") from None
    head = kind(config, metadata)
    head.check_fits(model)
    return head


def pixel_loss(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean cross-entropy of labelled pixels, 0 where there is none.

    Args:
        logits: Shape (B, classes, H, W).
        target: Class indices, shape (B, H, W); `IGNORED` is not labelled.
        weights: Weight of each class, shape (classes,), by which the mean is weighted; None for equal ones.

    Returns:
        A float32 scalar.
    """
    labelled = target != IGNORED
    total = labelled.sum() if weights is None else weights[target[labelled]].sum()
    summed = F.cross_entropy(logits.float(), target, weights, ignore_index=IGNORED, reduction="sum")
    return summed / total.clamp(min=torch.finfo(torch.float32).tiny)


def random_crop(example: SceneExample, side: int, generator: np.random.Generator) -> SceneExample:
    """Cut a random square out of an example, one that holds a label if a few draws find one.

    An example that is smaller is continued by reflection, without labels there.

    Args:
        example: The example.
        side: Side of the square, pixels.
        generator: Source of random numbers.
    """
    example = _continued(example, side)
    height, width = example.target.shape
    for _ in range(_DRAWS):
        row, col = generator.integers(height - side + 1), generator.integers(width - side + 1)
        window = (..., slice(row, row + side), slice(col, col + side))
        if (example.target[window] != IGNORED).any():
            break
    return _map_pixels(example, lambda values: values[window])


def _continued(example: SceneExample, side: int) -> SceneExample:
    height, width = example.target.shape
    beyond = ((0, max(0, side - height)), (0, max(0, side - width)))
    if beyond == ((0, 0), (0, 0)):
        return example

    def pad(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        leading = ((0, 0),) * (values.ndim - 2)
        return np.pad(values, (*leading, *beyond), mode="symmetric")

    target = np.pad(example.target, beyond, constant_values=IGNORED)
    return SceneExample(pad(example.dn), pad(example.valid), target, example.days)


def _flipped(example: SceneExample, generator: np.random.Generator) -> SceneExample:
    for axis in (-1, -2):
        if generator.random() < 0.5:
            example = _map_pixels(example, lambda values, axis=axis: np.flip(values, axis))
    return example


def _map_pixels(example: SceneExample, change: Any) -> SceneExample:  # noqa: ANN401
    return SceneExample(change(example.dn), change(example.valid), change(example.target), example.days)


def _tile_size(config: SceneTaskConfig, encoder: RemoteSensingConfig) -> int:
    tile = config.tile or encoder.tile_size
    if tile % encoder.patch_size:
        raise BadInputError(
            f"task.tile is {tile}, wanted a multiple of the model's patch size {encoder.patch_size}."
        )
    return tile
