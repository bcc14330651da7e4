"""Land cover that is learned from the procedural world and meant for real scenes: the head of the demo.

A head that is fitted to the world as it is drawn knows the world's air, sun and soils, which are not those of
any real scene. So every scene is varied before it is encoded (`Variety`): brightness, haze, contrast and the
level of single bands differ more than between the world's own days. The labels are the world's, merged to
what one can tell apart at 10 m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gair_core.errors import BadInputError
from gair_core.finetune.datasets.scenes import IGNORED, SceneData, SceneExample, make_classes
from gair_core.finetune.few_shot.solver import balanced_weights, solve
from gair_core.finetune.metrics import ClassificationMeter
from gair_core.finetune.task import Results, Split
from gair_core.heads.base import Head, HeadMetadata, embedding_localizer
from gair_core.heads.pixel import PixelLinearConfig, PixelLinearHead
from gair_core.heads.pixel_features import PixelFeatures, window_features
from gair_core.model.gair import GAIR
from gair_core.progress import Progress
from gair_core.sentinel2.bands import BANDS, normalize

CLASSES: Final = make_classes(
    {
        "water": (65, 155, 223),
        "trees": (57, 125, 73),
        "grass": (136, 176, 83),
        "crops": (228, 150, 53),
        "bare ground": (165, 155, 143),
        "built-up": (196, 40, 27),
        "snow and ice": (168, 235, 255),
    }
)
"""Classes of the head, in the order of its logits."""

_NUMBER: Final = {one.name: number for number, one in enumerate(CLASSES)}
MERGED: Final = {
    "water": "water",
    "forest": "trees",
    "grass": "grass",
    "crops": "crops",
    "bare soil": "bare ground",
    "dense built-up": "built-up",
    "sparse built-up": "built-up",
    "snow and ice": "snow and ice",
}
"""What the head calls the world's classes.

The world's roads are left out: in the country they are a pixel of mixed field and gravel, in towns they lie
among what is built up anyway.
"""

# Light that glinting water adds to each band, DN, and its deviation from pixel to pixel.
_GLINT: Final = (100.0, 1500.0)
_WAVES: Final = 0.06
# Part of the light that shaded towns get, and the logarithm's deviation from pixel to pixel.
_LIT: Final = (0.3, 1.0)
_HOUSES: Final = 0.3

Values = npt.NDArray[np.float32]
# Green reflectance of muddy water under haze stays below, DN; that of ice does not.
_BRIGHTEST_WATER: Final = 2200
# What thick haze adds to each band, and how much of the noise of a scene is of single pixels, DN.
_HAZE: Final = np.array([1150, 950, 750, 680, 600, 540, 480, 450, 140, 80], dtype=np.float32)


@dataclass(frozen=True)
class Variety:
    """How far a scene may differ from the one that the world draws; standard deviations.

    Attributes:
        gain: Logarithm of the brightness of the whole scene: sun, slope, viewing angle.
        band_gain: Logarithm of the brightness of single bands: soils and plants that the world has not.
        contrast: Logarithm of the contrast about each band's median.
        haze: Part of thick haze that is added; only ever more, and in two of three scenes.
        offset: Level of all bands, DN: what atmospheric correction leaves.
        noise: Of single pixels, DN.
        glint: How often the sun glints on a scene's water; the world's own never shines.
        shade: How often a low sun leaves a scene's towns in the shade of their houses.
    """

    gain: float = 0.12
    band_gain: float = 0.06
    contrast: float = 0.12
    haze: float = 0.25
    offset: float = 40.0
    noise: float = 15.0
    glint: float = 0.4
    shade: float = 0.5

    def vary(self, dn: Values, labels: npt.NDArray[np.int64], rng: np.random.Generator) -> Values:
        """Return another scene of the same ground.

        Args:
            dn: The scene, DN, (10, H, W).
            labels: What covers the ground, indices into `CLASSES`, (H, W).
            rng: Source of every draw.

        Returns:
            DN of the same shape, from 1 to 16000.
        """
        bands = len(dn)
        if rng.random() < self.glint:
            dn = _glinting(dn, labels == _NUMBER["water"], rng)
        if rng.random() < self.shade:
            dn = _shaded(dn, labels == _NUMBER["built-up"], rng)
        middle = np.median(dn, axis=(1, 2), keepdims=True)
        varied = middle + (dn - middle) * np.exp(rng.normal(0, self.contrast))
        gain = np.exp(rng.normal(0, self.gain) + rng.normal(0, self.band_gain, bands))
        haze = _HAZE * abs(rng.normal(0, self.haze)) * (rng.random() < 2 / 3)
        varied = varied * gain[:, None, None] + haze[:, None, None] + rng.normal(0, self.offset)
        varied += rng.normal(0, self.noise, dn.shape)
        return np.asarray(np.clip(varied, 1, 16000), dtype=np.float32)


def _glinting(dn: Values, water: npt.NDArray[np.bool_], rng: np.random.Generator) -> Values:
    """Return the scene with waves that mirror the sun: as much light in every band, here more, there less."""
    light = rng.uniform(*_GLINT) * (1 + _WAVES * rng.normal(size=water.shape)) * water
    # The air takes a little more of the short waves on the way.
    return np.asarray(dn + light * np.linspace(1.0, 0.9, len(dn))[:, None, None], dtype=np.float32)


def _shaded(dn: Values, built: npt.NDArray[np.bool_], rng: np.random.Generator) -> Values:
    """Return the scene with towns that get part of the light, more of it here and less there."""
    part = rng.uniform(*_LIT) * np.exp(rng.normal(0, _HOUSES, built.shape))
    return np.asarray(np.where(built, dn * np.clip(part, 0.1, 1.5), dn), dtype=np.float32)


@dataclass(frozen=True)
class FitOptions:
    """How the head is fitted.

    Attributes:
        scenes: Scenes, at most; dates of a place count apart.
        pixels: Pixels of each class in a scene, at most.
        variety: How scenes are varied.
        penalty: Weight of the L2 penalty on the coefficients of the bands.
        embedding_penalty: The same of the embedding's. It is large: what the embedding says of the world's
            scenes holds less far from them than what the bands say.
        use_bands: Whether the head reads the pixels' own bands; without, the embedding alone.
        seed: Of every draw.
    """

    scenes: int = 400
    pixels: int = 24
    variety: Variety = Variety()
    penalty: float = 1e-3
    embedding_penalty: float = 0.1
    use_bands: bool = True
    seed: int = 0


@dataclass(frozen=True)
class LabelledPixels:
    """What the head sees at labelled pixels.

    Attributes:
        embedding: z(q), float32 of shape (N, D).
        bands: The features of `PixelFeatures`, DN, float32 of shape (N, F).
        target: Index into `CLASSES`, (N,).
    """

    embedding: Values
    bands: Values
    target: npt.NDArray[np.int64]


def merged_target(example: SceneExample, data: SceneData) -> npt.NDArray[np.int64]:
    """Return the labels of an example of the world as indices into `CLASSES`, or `IGNORED`, (H, W).

    Args:
        example: The example, as it was drawn.
        data: The data set.

    Raises:
        BadInputError: It knows none of the world's classes.
    """
    index = [_NUMBER[MERGED[one.name]] if one.name in MERGED else IGNORED for one in data.classes]
    if all(number == IGNORED for number in index):
        raise BadInputError(
            f"{data.title} knows the classes {', '.join(one.name for one in data.classes)}, none of the "
            "procedural world's.",
            "Build a store with training/build_world.py.",
        )
    # The last place serves IGNORED, which is -1.
    merged = np.array([*index, IGNORED], dtype=np.int64)[example.target]
    # To the world a frozen lake is water; what a scene shows is ice.
    frozen = (merged == _NUMBER["water"]) & (example.dn[0, BANDS.index("B3")] > _BRIGHTEST_WATER)
    merged[frozen] = _NUMBER["snow and ice"]
    return merged


def collect_pixels(
    model: GAIR, data: SceneData, split: Split, options: FitOptions, progress: Progress | None = None
) -> LabelledPixels:
    """Encode varied scenes and take pixels of every class from each.

    Args:
        model: The encoder, in evaluation mode.
        data: A store of the world, see `gair_core.finetune.datasets.world.WorldData`, one date an example.
        split: Which cities.
        options: How many, and how they are varied.
        progress: Told the done fraction; may cancel.

    Raises:
        BadInputError: The split is empty, or the data are not of the world.
        CancelledError: The user cancelled.
    """
    progress = progress or Progress()
    rng = np.random.default_rng(options.seed)
    chosen = rng.permutation(len(data.names(split)))[: options.scenes]
    if not len(chosen):
        raise BadInputError(f"{data.title} has no scene in the split {split}.")
    embeddings, bands, targets = [], [], []
    for done, index in enumerate(chosen.tolist()):
        example = data.read(split, index)
        labels = merged_target(example, data)
        dn = options.variety.vary(example.dn[0], labels, rng)
        target = labels.ravel()
        places = _draw(target, options.pixels, rng)
        z, features = _see(model, dn)
        embeddings.append(z[:, places].T.numpy())
        bands.append(features[:, places].T.numpy())
        targets.append(target[places])
        progress.report(done / len(chosen), f"scene {done + 1} of {len(chosen)}")
        progress.raise_if_cancelled()
    return LabelledPixels(np.concatenate(embeddings), np.concatenate(bands), np.concatenate(targets))


def _draw(target: npt.NDArray[np.int64], count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return so many pixels of each class at most."""
    drawn = [
        rng.permutation(np.flatnonzero(target == number))[:count]
        for number in np.unique(target[target != IGNORED])
    ]
    return np.concatenate(drawn) if drawn else np.zeros(0, dtype=np.int64)


@torch.inference_mode()
def _see(model: GAIR, dn: Values) -> tuple[Tensor, Tensor]:
    """Return z and the pixels' features, (D, H W) and (F, H W), of a scene in memory."""
    tile = torch.from_numpy(dn)
    features = window_features(tile[None], PixelFeatures())[0]
    z = model.interpolate_dense(
        model.encode_remote_sensing(_normalized(model, tile)[None]), (dn.shape[1], dn.shape[2])
    )
    return z[0].flatten(1), features.flatten(1)


def _normalized(model: GAIR, dn: Tensor) -> Tensor:
    scenes = model.require_remote_sensing().config
    return normalize(dn, scenes.mean, scenes.std, quantize=scenes.quantize)


def fit_land_cover(model: GAIR, pixels: LabelledPixels, options: FitOptions) -> PixelLinearHead:
    """Fit the head: a multinomial logistic regression in which every class weighs the same.

    Args:
        model: The encoder of the pixels' embeddings.
        pixels: The pixels.
        options: How.

    Raises:
        BadInputError: The model's embeddings do not factorise.
    """
    embedding_localizer(model)
    z, x = pixels.embedding.astype(np.float64), pixels.bands.astype(np.float64)
    moments = [(values.mean(axis=0), values.std(axis=0) + 1e-9) for values in (z, x)]
    (z_mean, z_scale), (x_mean, x_scale) = moments
    parts = [(z - z_mean) / z_scale, *([(x - x_mean) / x_scale] if options.use_bands else [])]
    penalties = [np.full(z.shape[1], options.embedding_penalty), np.full(x.shape[1], options.penalty)]
    solution = solve(
        np.concatenate(parts, axis=1),
        pixels.target,
        balanced_weights(pixels.target, len(CLASSES)),
        np.concatenate(penalties[: len(parts)]),
        len(CLASSES),
        tolerance=_TOLERANCE,
    )
    weight = solution.coefficients[: z.shape[1]] / z_scale[:, None]
    state = {
        "weight": weight.T,
        "band_weight": np.zeros((len(CLASSES), x.shape[1])),
        "bias": solution.intercept - z_mean @ weight,
        "band_mean": x_mean,
        "band_scale": x_scale,
    }
    if options.use_bands:
        state["band_weight"] = solution.coefficients[z.shape[1] :].T
    head = PixelLinearHead(PixelLinearConfig(embed_dim=z.shape[1]), HeadMetadata(classes=CLASSES))
    head.load_state_dict({name: torch.from_numpy(values).float() for name, values in state.items()})
    return head.eval()


# Largest entry of the gradient at the solution.
_TOLERANCE: Final = 1e-4


# More than the test split of the demo's world has.
_EVALUATED: Final = 200


@torch.inference_mode()
def evaluate_land_cover(model: GAIR, head: Head, data: SceneData, split: Split) -> Results:
    """Return how well a head with `CLASSES` maps whole scenes of a split, 200 at most, as they are.

    Args:
        model: The encoder.
        head: The head.
        data: A store of the world.
        split: Which cities.

    Raises:
        BadInputError: The split is empty, or the data are not of the world.
    """
    chosen = np.random.default_rng(0).permutation(len(data.names(split)))[:_EVALUATED]
    if not len(chosen):
        raise BadInputError(f"{data.title} has no scene in the split {split}.")
    meter = ClassificationMeter([one.name for one in CLASSES], torch.device("cpu"))
    for index in chosen.tolist():
        example = data.read(split, index)
        dn = torch.from_numpy(example.dn[0])
        pixels = None if head.pixel_features is None else window_features(dn[None], head.pixel_features)
        logits = head.forward_tile(model, [_normalized(model, dn)[None]], pixels=pixels)
        target = torch.from_numpy(merged_target(example, data))
        meter.update(logits[0].argmax(dim=0), target)
    return meter.results()


def chance_iou(counts: Sequence[float]) -> float:
    """Return the mean IoU of a map that draws classes at random, as often as they occur.

    A class that covers the fraction p of a map is right on p^2 and said or true on 2 p - p^2, so that its IoU
    is p / (2 - p).

    Args:
        counts: Pixels of each class; those without any do not count.
    """
    shares = np.array([count for count in counts if count > 0]) / sum(counts)
    return float((shares / (2 - shares)).mean()) if len(shares) else 0.0
