"""Land cover from localized scene embeddings z(q): nearest neighbours and a linear probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gair_core.config import Localizer
from gair_core.errors import BadInputError
from gair_core.model.gair import GAIR
from gair_core.pretrain.augmentation import prepare
from gair_core.pretrain.config import EvaluationConfig
from gair_core.pretrain.dataset import collate
from gair_core.pretrain.evaluation import EvaluationReader
from gair_core.pretrain.store import UNKNOWN_CLASS, Store

NEIGHBOURS: Final = 10
_PENALTY: Final = 1e-4
_ITERATIONS: Final = 100


@dataclass(frozen=True)
class LabelledPlaces:
    """Random places with their class.

    Attributes:
        embeddings: z(q), (N, D), float32, on the CPU.
        labels: Class, (N,), int64.
    """

    embeddings: Tensor
    labels: Tensor


@torch.no_grad()
def labelled_places(
    model: GAIR,
    store: Store,
    split: str,
    config: EvaluationConfig,
    *,
    scenes: int = 500,
    per_scene: int = 16,
    method: Localizer | None = None,
) -> LabelledPlaces:
    """Encode scenes of a split and take random pixels of each.

    Args:
        model: The model, in evaluation mode.
        store: A store with land cover.
        split: Which samples' scenes.
        config: Batch size and seed.
        scenes: Scenes, at most.
        per_scene: Pixels of each.
        method: How the scene's features become a place's embedding; as the model does when None.

    Raises:
        BadInputError: The store has no land cover, or none of these places has a class.
    """
    if not store.classes:
        raise BadInputError(f"The store {store.folder} has no land cover, which the probes need.")
    generator = np.random.default_rng(config.seed)
    rows = generator.permutation(store.samples.select(split=split))[:scenes]
    reader = EvaluationReader(store, model, ("scene",), config)
    embeddings, labels = [], []
    for start in range(0, len(rows), config.batch_size):
        part = rows[start : start + config.batch_size]
        batch = collate([reader.read(int(row)) for row in part])
        inputs = prepare(batch.to(model.device), model.config, model.log_temperature.dtype)
        if inputs.scene is None:
            raise BadInputError("Probes of land cover need a model with a scene encoder.")
        size = inputs.scene.shape[-1]
        pixels = generator.integers(0, size, (len(part), per_scene, 2))
        uv = torch.from_numpy((pixels + 0.5) / size).to(inputs.uv)
        found = model.interpolate(model.encode_remote_sensing(inputs.scene), uv, method)
        embeddings.append(found.flatten(0, 1).float().cpu())
        for place, row in enumerate(part):
            corner = np.round(store.samples.position[row] - batch.uv[place].numpy()[::-1] * size)
            classes = _classes(reader, int(row), corner.astype(int).tolist(), size)
            labels.append(classes[pixels[place, :, 1], pixels[place, :, 0]])
    joined, known = torch.cat(embeddings), torch.from_numpy(np.concatenate(labels)).long()
    chosen = known != UNKNOWN_CLASS
    if not bool(chosen.any()):
        raise BadInputError(f"No place of the split {split} has a class.")
    return LabelledPlaces(joined[chosen], known[chosen])


def probe_land_cover(
    model: GAIR,
    store: Store,
    split: str,
    config: EvaluationConfig,
    *,
    train_split: str = "train",
    method: Localizer | None = None,
) -> dict[str, float]:
    """Return the accuracy of both probes on a split, and that of the most frequent class.

    Args:
        model: The model, in evaluation mode.
        store: A store with land cover.
        split: What is predicted.
        config: Batch size and seed.
        train_split: What the probes learn from.
        method: As in `labelled_places`.

    Raises:
        BadInputError: As `labelled_places`.
    """
    train = labelled_places(model, store, train_split, config, method=method)
    test = labelled_places(model, store, split, config, method=method)
    predictions = {
        "nearest": nearest_neighbours(train, test.embeddings),
        "linear": linear_probe(train, test.embeddings),
        "majority": train.labels.mode().values.expand(len(test.labels)),
    }
    metrics = {}
    for name, predicted in predictions.items():
        right = predicted == test.labels
        recalls = [float(right[test.labels == label].float().mean()) for label in test.labels.unique()]
        metrics[f"land_cover_{name}_accuracy"] = float(right.float().mean())
        metrics[f"land_cover_{name}_mean_recall"] = float(np.mean(recalls))
    return metrics


def nearest_neighbours(train: LabelledPlaces, embeddings: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Return the class that most of the nearest training places have, by cosine, (N,)."""
    known = F.normalize(train.embeddings, dim=1)
    classes = int(train.labels.max()) + 1
    predicted = []
    for part in F.normalize(embeddings, dim=1).split(1024):
        near = (part @ known.mT).topk(min(neighbours, len(known)), dim=1).indices
        votes = F.one_hot(train.labels[near], classes).sum(dim=1)
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)


def linear_probe(train: LabelledPlaces, embeddings: Tensor) -> Tensor:
    """Return the classes that a logistic regression on standardised embeddings gives, (N,)."""
    mean, std = train.embeddings.mean(dim=0), train.embeddings.std(dim=0).clamp(min=1e-6)
    known = (train.embeddings - mean) / std
    weight = torch.zeros(int(train.labels.max()) + 1, known.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(known, weight[:, :-1], weight[:, -1])
        value = F.cross_entropy(logits, train.labels) + _PENALTY * weight[:, :-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return F.linear((embeddings - mean) / std, weight[:, :-1], weight[:, -1]).argmax(dim=1)


def _classes(
    reader: EvaluationReader, row: int, corner: list[int], size: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the classes of the window that the reader shows of a sample."""
    store = reader.store
    tile = store.tile(str(store.samples.tile[row]))
    date = reader.dataset.date(row)
    return store.read_land_cover(tile, date, corner[0], corner[1], size)
