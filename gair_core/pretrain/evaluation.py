"""What a model has learned: retrieval on held-out cities, and the place of a photo within its scene.

Galleries hold one season alone, photos and scenes, so that snow or bare fields give nothing away, and at most
some photos of one city. Only photo and scene meet in them; the location encoder takes no part but in the
retrieval of places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gair_core.losses import great_circle_km
from gair_core.model.gair import GAIR
from gair_core.pretrain.augmentation import Inputs, normalize_scenes, prepare
from gair_core.pretrain.config import AugmentationConfig, EvaluationConfig, Modality
from gair_core.pretrain.dataset import Batch, PretrainDataset, collate
from gair_core.pretrain.sampler import Draw
from gair_core.pretrain.seasons import season
from gair_core.pretrain.store import Reflectance, Samples, Store

RANKS: Final = (1, 5, 10)
_READERS: Final = 4
# Values of embeddings of pixels that are held at once.
_DENSE_VALUES: Final = 2**26

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Embeddings of samples, unit vectors on the CPU, float32.

    Attributes:
        rows: Rows in the store, (N,).
        scene: z at the sample's place, (N, D), or None.
        photo: g, (N, D), or None.
        location: e, (N, D), or None.
    """

    rows: Indices
    scene: Tensor | None
    photo: Tensor | None
    location: Tensor | None


@dataclass(frozen=True)
class Localized:
    """Where photos were found within their scenes.

    Attributes:
        percentile: Percentage of the scene's pixels that are less similar than the true one, (N,).
        metres: Distance of the most similar pixel from the true place, (N,).
    """

    percentile: npt.NDArray[np.float64]
    metres: npt.NDArray[np.float64]


class SimilarityMap(NamedTuple):
    """Where a photo may have been taken.

    Attributes:
        row: The photo's row in the store.
        scene: Surface reflectance, DN, (10, S, S).
        cosine: Cosine of the photo with each pixel, (S, S), on the CPU.
        place: The true place, row and column in pixels from the scene's corner, (2,).
    """

    row: int
    scene: Reflectance
    cosine: Tensor
    place: npt.NDArray[np.float64]


class EvaluationReader:
    """Reads samples as evaluation wants them: no augmentation, a scene of the photo's season.

    The window around a photo is random, the same at each visit: in the middle of every window a model that
    always points there would be right.

    Args:
        store: The store.
        model: The model, for sizes and the device.
        modalities: What is read.
        config: Batch size and seed.
    """

    def __init__(
        self, store: Store, model: GAIR, modalities: Sequence[Modality], config: EvaluationConfig
    ) -> None:
        augmentation = AugmentationConfig.none().model_copy(update={"random_window": True})
        self.store = store
        self.model = model
        self.batch_size = config.batch_size
        self.dataset = PretrainDataset(
            store, model.config, augmentation, modalities=modalities, seed=config.seed
        )

    def read(self, row: int) -> Batch:
        """Read one sample."""
        return self.dataset.read(Draw(row, -1, row), self.dataset.date(row))

    def batches(self, rows: Indices, size: int | None = None) -> Iterator[tuple[Indices, Inputs]]:
        """Yield rows with the encoders' inputs, on the model's device."""
        size = size or self.batch_size
        dtype = self.model.log_temperature.dtype
        with ThreadPoolExecutor(_READERS, thread_name_prefix="samples") as pool:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                batch = collate(list(pool.map(self.read, part.tolist())))
                yield part, prepare(batch.to(self.model.device), self.model.config, dtype)


@torch.no_grad()
def encode(
    model: GAIR,
    store: Store,
    rows: Indices,
    config: EvaluationConfig,
    modalities: Sequence[Modality] = ("scene", "photo", "location"),
) -> Encoded:
    """Return the embeddings of samples."""
    found: dict[str, list[Tensor]] = {name: [] for name in modalities}
    for _, inputs in EvaluationReader(store, model, modalities, config).batches(rows):
        if "scene" in found and inputs.scene is not None:
            features = model.encode_remote_sensing(inputs.scene)
            found["scene"].append(model.interpolate(features, inputs.uv)[:, 0])
        if "photo" in found and inputs.photo is not None:
            found["photo"].append(model.encode_street_view(inputs.photo))
        if "location" in found:
            with torch.autocast(model.device.type, enabled=False):
                found["location"].append(model.encode_location(inputs.lonlat))
    joined = {
        name: F.normalize(torch.cat(parts).float(), dim=1).cpu() for name, parts in found.items() if parts
    }
    return Encoded(rows, joined.get("scene"), joined.get("photo"), joined.get("location"))


def draw_galleries(samples: Samples, rows: Indices, config: EvaluationConfig) -> list[Indices]:
    """Draw galleries of one season each, with at most `per_city` samples of a city.

    Args:
        samples: The store's samples.
        rows: Those to draw from.
        config: Size and number of the galleries.

    Returns:
        Positions in ``rows``, one array a gallery; smaller than `gallery` where there are too few samples.
    """
    generator = np.random.default_rng(config.seed)
    latitudes = samples.lonlat[rows, 1]
    seasons = np.array(
        [season(str(date), float(lat)) for date, lat in zip(samples.taken[rows], latitudes, strict=True)]
    )
    names = np.unique(seasons)
    sizes = [_gallery_size(samples.city[rows[seasons == name]], config) for name in names]
    # A season with a few photos, or cities, would make an easy gallery.
    names = names[np.array(sizes) == max(sizes)]
    galleries = []
    for number in range(config.galleries):
        members = generator.permutation(np.flatnonzero(seasons == names[number % len(names)]))
        cities = samples.city[rows[members]]
        place_in_city = np.zeros(len(members), dtype=np.int64)
        for city in np.unique(cities):
            place_in_city[cities == city] = np.arange(int((cities == city).sum()))
        # Round by round one of each city, so that all of them are in.
        order = np.argsort(place_in_city, kind="stable")
        kept = members[order][np.sort(place_in_city) < config.per_city]
        galleries.append(kept[: config.gallery].astype(np.int64))
    return galleries


def _gallery_size(cities: npt.NDArray[np.str_], config: EvaluationConfig) -> int:
    """Return how many samples a gallery of samples from these cities holds."""
    counts = np.unique(cities, return_counts=True)[1]
    return min(config.gallery, int(np.minimum(counts, config.per_city).sum()))


def recalls(similarity: Tensor) -> dict[int, float]:
    """Return recall at each of `RANKS` of a square similarity whose diagonal is right, (N, N).

    What is as similar as the right one counts as nearer half of the time, so a constant scores by chance.
    """
    right = similarity.diagonal()[:, None]
    rank = (similarity > right).sum(dim=1) + ((similarity == right).sum(dim=1) - 1) / 2
    return {k: float((rank < k).float().mean()) for k in RANKS}


def evaluate(
    model: GAIR,
    store: Store,
    split: str,
    config: EvaluationConfig,
    *,
    modalities: Sequence[Modality] = ("scene", "photo", "location"),
) -> dict[str, float]:
    """Evaluate retrieval and localisation on a split.

    Args:
        model: The model, in evaluation mode.
        store: The store.
        split: Which samples.
        config: Galleries and seed.
        modalities: Those that were trained.

    Returns:
        Figures by name. ``score`` is what the best checkpoint is chosen by: the mean recall@1 of photo to
        scene and back, or that of the two modalities that there are.

    Raises:
        BadInputError: The split is empty.
    """
    rows = store.samples.select(split=split, with_photo="photo" in modalities)
    limit = config.gallery * config.galleries
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(config.seed).permutation(rows)[:limit])
    encoded = encode(model, store, rows, config, modalities)
    metrics = retrieval(encoded, store.samples, config)
    if encoded.scene is not None and encoded.photo is not None:
        chosen = np.random.default_rng(config.seed).permutation(rows)[: config.localized]
        localized = localize(model, store, chosen, config)
        metrics |= {
            "place_percentile_median": float(np.median(localized.percentile)),
            "place_percentile_mean": float(localized.percentile.mean()),
            "peak_metres_median": float(np.median(localized.metres)),
        }
    return metrics


def retrieval(encoded: Encoded, samples: Samples, config: EvaluationConfig) -> dict[str, float]:
    """Return recalls over galleries for every pair of modalities; see `evaluate`."""
    galleries = draw_galleries(samples, encoded.rows, config)
    pairs = (("photo", "scene"), ("photo", "location"), ("scene", "location"))
    metrics: dict[str, float] = {
        "gallery": float(np.mean([len(gallery) for gallery in galleries])),
        "cities": float(np.mean([len(np.unique(samples.city[encoded.rows[g]])) for g in galleries])),
    }
    metrics |= {f"chance_recall_{k}": min(k / metrics["gallery"], 1.0) for k in RANKS}
    scores = []
    for first, second in pairs:
        left, right = getattr(encoded, first), getattr(encoded, second)
        if left is None or right is None:
            continue
        similarities = [left[gallery] @ right[gallery].mT for gallery in galleries]
        for name, turned in ((f"{first}_to_{second}", False), (f"{second}_to_{first}", True)):
            found = [recalls(matrix.mT if turned else matrix) for matrix in similarities]
            for k in RANKS:
                metrics[f"{name}_recall_{k}"] = float(np.mean([recall[k] for recall in found]))
        scores.append(
            (metrics[f"{first}_to_{second}_recall_1"] + metrics[f"{second}_to_{first}_recall_1"]) / 2
        )
        if (first, second) == ("photo", "scene"):
            metrics |= _within_city(similarities, [samples.city[encoded.rows[g]] for g in galleries])
        if second == "location":
            places = torch.from_numpy(samples.lonlat[encoded.rows])
            metrics[f"{first}_to_location_median_km"] = _median_km(similarities, galleries, places)
    return {**metrics, "score": scores[0]} if scores else metrics


def _within_city(similarities: list[Tensor], cities: list[npt.NDArray[np.str_]]) -> dict[str, float]:
    """Return photo-to-scene recall@1 among the scenes of the photo's own city, and its chance."""
    hits, chances = [], []
    for similarity, names in zip(similarities, cities, strict=True):
        for city in np.unique(names):
            members = torch.from_numpy(np.flatnonzero(names == city))
            if len(members) > 1:
                hits += [recalls(similarity[members][:, members])[1]] * len(members)
                chances += [1 / len(members)] * len(members)
    if not hits:
        return {}
    return {
        "within_city_recall_1": float(np.mean(hits)),
        "within_city_chance_1": float(np.mean(chances)),
    }


def _median_km(similarities: list[Tensor], galleries: list[Indices], places: Tensor) -> float:
    """Return the median distance of the most similar place from the true one, kilometres."""
    distances = []
    for similarity, gallery in zip(similarities, galleries, strict=True):
        own = places[gallery]
        distances.append(great_circle_km(own, own).gather(1, similarity.argmax(dim=1, keepdim=True)))
    return float(torch.cat(distances).median())


@torch.no_grad()
def similarity_maps(
    model: GAIR, store: Store, rows: Indices, config: EvaluationConfig
) -> Iterator[SimilarityMap]:
    """Yield the cosine of photos with every pixel of their scenes, tile by tile.

    A scene is the tile on the date of the photo's season; of a larger tile a window of ``config.scene_size``
    pixels, with the place anywhere in it.

    Args:
        model: A model with encoders of scenes and photos.
        store: The store.
        rows: Samples with photos.
        config: Size of the scenes and seed.
    """
    photos = encode(model, store, rows, config, ("photo",)).photo
    if photos is None or model.config.remote_sensing is None:
        return
    reader = EvaluationReader(store, model, ("photo",), config)
    windows = [_window(store, reader, int(row), config) for row in rows]
    for window in sorted(set(windows)):
        members = [number for number, other in enumerate(windows) if other == window]
        scene = store.read_scene(store.tile(window.tile), window.date, window.row, window.col, window.size)
        maps = _cosines(model, scene, photos[members])
        for number, cosine in zip(members, maps, strict=True):
            place = store.samples.position[rows[number]] - (window.row, window.col)
            yield SimilarityMap(int(rows[number]), scene, cosine, place)


class _Window(NamedTuple):
    tile: str
    date: int
    row: int
    col: int
    size: int


def _window(store: Store, reader: EvaluationReader, row: int, config: EvaluationConfig) -> _Window:
    """Return the scene in which a photo's place is sought."""
    name = str(store.samples.tile[row])
    shape = np.array(store.tile(name).size)
    size = min(config.scene_size, int(shape.min()))
    position = store.samples.position[row]
    low = np.maximum(np.ceil(position - size), 0).astype(np.int64)
    high = np.minimum(np.floor(position), shape - size).astype(np.int64)
    corner = np.random.default_rng([config.seed, row]).integers(low, high + 1)
    return _Window(name, reader.dataset.date(row), int(corner[0]), int(corner[1]), size)


def _cosines(model: GAIR, scene: Reflectance, photos: Tensor) -> Tensor:
    """Return the cosine of photos (N, D) with each pixel of a scene (10, S, S): (N, S, S), on the CPU."""
    scenes = model.config.remote_sensing
    if scenes is None:
        raise ValueError("the model has no scene encoder")
    size = scene.shape[-1]
    images = normalize_scenes(torch.from_numpy(scene.astype(np.float32))[None].to(model.device), scenes)
    beyond = -size % scenes.patch_size
    images = F.pad(images, (0, beyond, 0, beyond), mode="replicate").to(model.log_temperature.dtype)
    features = model.encode_remote_sensing(images)
    steps = (torch.arange(size, device=model.device, dtype=torch.float64) + 0.5) / (size + beyond)
    at_once = max(1, _DENSE_VALUES // (model.config.embed_dim * size))
    found = []
    for rows in steps.split(at_once):
        v, u = torch.meshgrid(rows, steps, indexing="ij")
        uv = torch.stack([u, v], dim=-1).reshape(1, -1, 2).to(images.dtype)
        z = F.normalize(model.interpolate(features, uv)[0].float(), dim=1)
        found.append((photos.to(z) @ z.mT).reshape(len(photos), len(rows), size).cpu())
    return torch.cat(found, dim=1)


def localize(model: GAIR, store: Store, rows: Indices, config: EvaluationConfig) -> Localized:
    """Find the place of photos within their scenes; see `similarity_maps`.

    Args:
        model: The model.
        store: The store.
        rows: Samples with photos.
        config: Size of the scenes and seed.
    """
    percentiles, distances = [], []
    for found in similarity_maps(model, store, rows, config):
        size = found.cosine.shape[-1]
        pixel = np.minimum(found.place.astype(np.int64), size - 1)
        true = found.cosine[pixel[0], pixel[1]]
        # Ties count half: a map without any structure is at 50.
        below = (found.cosine < true).double().mean() + (found.cosine == true).double().mean() / 2
        percentiles.append(100 * float(below))
        peak = np.array(divmod(int(found.cosine.argmax()), size))
        metres = np.array(store.tile(str(store.samples.tile[found.row])).pixel_metres)[::-1]
        distances.append(float(np.hypot(*((peak + 0.5 - found.place) * metres))))
    return Localized(np.array(percentiles), np.array(distances))
