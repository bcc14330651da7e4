"""From a draw to a sample: a window of one date that contains the place, its photo, and random numbers.

Everything random is drawn here from (seed, epoch, position), so that a visit is the same on any worker and
rank; `gair_core.pretrain.augmentation` then acts on whole batches, on any device, without chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import Self

from gair_core.config import GAIRConfig
from gair_core.errors import BadInputError
from gair_core.losses.memory_bank import EARTH_RADIUS_KM
from gair_core.pretrain.config import AugmentationConfig, Modality
from gair_core.pretrain.sampler import Draw
from gair_core.pretrain.seasons import date_of_season
from gair_core.pretrain.store import Reflectance, Store, TileHeader

# Stores of another ground sampling distance would teach a wrong scale; 2 % is what Scene.open tolerates too.
_GSD_TOLERANCE: Final = 0.02
_METRES_PER_DEGREE: Final = math.radians(1000 * EARTH_RADIUS_KM)


@dataclass(frozen=True)
class Batch:
    """Samples as they were read, and the chance that acts on them.

    Attributes:
        index: Rows in the store, (B,), int64.
        scene: DN, (B, 10, S, S), uint16; 0 in all bands where not valid.
        photo: RGB, (B, 3, P, P), uint8; 0 without a photo. None when photos are not asked for.
        has_photo: Whether there is one, (B,), bool.
        unreadable: Whether there should be one, (B,), bool.
        uv: Place in the window, u to the right and v down, (B, 2), in [0, 1], float64.
        lonlat: Longitude and latitude, degrees, (B, 2), float64.
        flips: Whether the scene is flipped along x and along y, and the photo along x, (B, 3), bool.
        jitter: Factors of brightness, contrast and saturation of scene and photo, (B, 2, 3), float32.
    """

    index: Tensor
    scene: Tensor
    photo: Tensor | None
    has_photo: Tensor
    unreadable: Tensor
    uv: Tensor
    lonlat: Tensor
    flips: Tensor
    jitter: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in memory from which a GPU copies without waiting; DataLoader calls it."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})


class PretrainDataset(Dataset[Batch]):
    """Reads batches of a store; see `gair_core.pretrain.sampler` for what it is asked for.

    Args:
        store: The store.
        model: The model's configuration: tile size, gsd and photo size.
        augmentation: What varies from visit to visit.
        modalities: What is read; photos are left alone when they are not among them.
        seed: Seed of the run.
        min_valid: Valid fraction below which a window is drawn again from another date.

    Raises:
        BadInputError: The store does not fit the model.
    """

    def __init__(
        self,
        store: Store,
        model: GAIRConfig,
        augmentation: AugmentationConfig,
        *,
        modalities: Sequence[Modality] = ("scene", "photo", "location"),
        seed: int = 0,
        min_valid: float = 0.5,
    ) -> None:
        self.store = store
        self.augmentation = augmentation
        self.seed = seed
        self.min_valid = min_valid
        self.scenes = model.remote_sensing
        self.photos = model.street_view if "photo" in modalities else None
        if self.scenes is not None and abs(store.gsd / self.scenes.gsd - 1) > _GSD_TOLERANCE:
            raise BadInputError(
                f"The store {store.folder} has {store.gsd:g} m pixels, the model wants "
                f"{self.scenes.gsd:g} m.",
                "Build the store at the model's gsd, or set model.remote_sensing.gsd.",
            )
        self.window = 1 if self.scenes is None else self.scenes.tile_size

    def __len__(self) -> int:
        return len(self.store.samples)

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """Return the batch of some draws.

        Raises:
            BadInputError: A tile is damaged or smaller than the window.
        """
        return collate([self.read(draw) for draw in draws])

    def read(self, draw: Draw, date: int | None = None) -> Batch:
        """Return the batch of one draw.

        Args:
            draw: What to read.
            date: The tile's date; None leaves it to the augmentation, which draws one or prefers the one
                nearest in season to the photo.
        """
        # A position may be any integer, but a seed must not be negative: evaluation uses epoch -1.
        generator = np.random.default_rng([self.seed, draw.epoch + 1, draw.position])
        samples = self.store.samples
        tile = self.store.tile(str(samples.tile[draw.sample]))
        corner = self._corner(tile, samples.position[draw.sample], generator)
        dates = self._dates(draw.sample, tile, generator) if date is None else [date]
        scene = self._scene(tile, corner, dates)
        uv = (samples.position[draw.sample] - corner)[::-1] / self.window
        lonlat = samples.lonlat[draw.sample]
        if self.augmentation.location_kappa is not None:
            lonlat, uv = self._moved(tile, lonlat, uv, self.augmentation.location_kappa, generator)
        photo, unreadable = self._photo(draw.sample)
        flips, jitter = self._chance(generator)
        return Batch(
            index=torch.tensor([draw.sample]),
            scene=torch.from_numpy(scene)[None],
            photo=None if self.photos is None else self._photo_tensor(photo),
            has_photo=torch.tensor([photo is not None]),
            unreadable=torch.tensor([unreadable]),
            uv=torch.from_numpy(np.ascontiguousarray(uv))[None],
            lonlat=torch.from_numpy(np.ascontiguousarray(lonlat))[None],
            flips=torch.from_numpy(flips)[None],
            jitter=torch.from_numpy(jitter)[None],
        )

    def date(self, index: int) -> int:
        """Return the date of a sample's tile that shows the season of its photo."""
        samples = self.store.samples
        tile = self.store.tile(str(samples.tile[index]))
        return date_of_season(tile, str(samples.taken[index]), float(samples.lonlat[index, 1]))

    def _corner(
        self, tile: TileHeader, position: npt.NDArray[np.float64], generator: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """Draw the first row and column of a window of the tile that contains the place."""
        size = np.array(tile.size)
        if size.min() < self.window:
            raise BadInputError(
                f"The tile {tile.name} has {size[0]} x {size[1]} pixels, fewer than the model's tile_size "
                f"{self.window}.",
                "Leave small scenes out of the store, or lower model.remote_sensing.tile_size.",
            )
        low = np.maximum(np.ceil(position - self.window), 0).astype(np.int64)
        high = np.minimum(np.floor(position), size - self.window).astype(np.int64)
        if self.augmentation.random_window:
            return generator.integers(low, high + 1)
        centred = np.round(position - self.window / 2).astype(np.int64)
        return np.clip(centred, low, high)

    def _dates(self, index: int, tile: TileHeader, generator: np.random.Generator) -> list[int]:
        """Return a tile's usable dates in the order in which they are tried."""
        usable = [number for number, fraction in enumerate(tile.valid_fraction) if fraction > 0]
        if not usable:
            raise BadInputError(
                f"The tile {tile.name} has no valid date.", "gair store-check lists such tiles."
            )
        if self.augmentation.random_date:
            return [usable[place] for place in generator.permutation(len(usable))]
        wanted = self.date(index)
        return sorted(usable, key=lambda number: number != wanted)

    def _scene(self, tile: TileHeader, corner: npt.NDArray[np.int64], dates: Sequence[int]) -> Reflectance:
        """Read the window at the first date on which it is valid; the most valid one where it never is."""
        if self.scenes is None:
            return np.zeros((1, 1, 1), dtype=np.uint16)
        best: tuple[float, Reflectance] | None = None
        for number in dates:
            scene = self.store.read_scene(tile, number, int(corner[0]), int(corner[1]), self.window)
            valid = float(scene.any(axis=0).mean())
            if best is None or valid > best[0]:
                best = (valid, scene)
            if valid >= self.min_valid:
                break
        if best is None:
            raise BadInputError(f"The tile {tile.name} has no date.")
        return best[1]

    def _photo(self, index: int) -> tuple[npt.NDArray[np.uint8] | None, bool]:
        """Return the photo's pixels, None without one, and whether there should be one."""
        if self.photos is None or not self.store.samples.photo_size[index]:
            return None, False
        try:
            return np.array(self.store.read_photo(index)), False
        except BadInputError:  # counted by the trainer, which knows the limit
            return None, True

    def _photo_tensor(self, photo: npt.NDArray[np.uint8] | None) -> Tensor:
        if self.photos is None or photo is None:
            side = 1 if self.photos is None else self.photos.image_size
            return torch.zeros(1, 3, side, side, dtype=torch.uint8)
        # To 8 bits before normalisation: photos travel to the device in a quarter of the bytes.
        return F.interpolate(
            torch.from_numpy(photo).permute(2, 0, 1)[None],
            size=(self.photos.image_size, self.photos.image_size),
            mode=self.photos.resampling,
            align_corners=False,
            antialias=self.photos.antialias,
        )

    def _chance(
        self, generator: np.random.Generator
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        options = self.augmentation
        allowed = np.array([options.flip_scene, options.flip_scene, options.flip_photo])
        flips = (generator.random(3) < 0.5) & allowed
        strength = np.array([options.brightness, options.contrast, options.saturation])
        jitter = 1 + strength * generator.uniform(-1, 1, (2, 3))
        return flips, jitter.astype(np.float32)

    def _moved(
        self,
        tile: TileHeader,
        lonlat: npt.NDArray[np.float64],
        uv: npt.NDArray[np.float64],
        kappa: float,
        generator: np.random.Generator,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Move a place by noise; a query that leaves the window is drawn again anywhere in it."""
        moved = von_mises_fisher(lonlat, kappa, generator)
        east = (moved[0] - lonlat[0] + 180) % 360 - 180
        metres = _METRES_PER_DEGREE * np.array(
            [east * math.cos(math.radians(lonlat[1])), lonlat[1] - moved[1]]
        )
        # Exact enough: noise that stays in a window is some hundred metres.
        shifted = uv + metres / np.array(tile.pixel_metres) / self.window
        anywhere = generator.random(2)
        inside = bool(((shifted >= 0) & (shifted <= 1)).all())
        return moved, shifted if inside else anywhere


def collate(batches: Sequence[Batch]) -> Batch:
    """Join batches, in their order."""
    joined: dict[str, Tensor | None] = {}
    for item in fields(Batch):
        parts = [getattr(batch, item.name) for batch in batches]
        joined[item.name] = None if parts[0] is None else torch.cat(parts)
    return Batch(**joined)  # type: ignore[arg-type]


def von_mises_fisher(
    lonlat: npt.NDArray[np.float64], kappa: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Draw a place from the von Mises-Fisher distribution around another on the unit sphere.

    Args:
        lonlat: Mean longitude and latitude, degrees, (2,).
        kappa: Concentration, positive.
        generator: Source of randomness.

    Returns:
        Longitude and latitude, degrees, (2,).
    """
    # The cosine of the distance has the density kappa exp(kappa w) / (2 sinh kappa) (Ulrich 1984); its
    # complement keeps its digits when kappa is large.
    uniform = 1 - generator.random()
    complement = -math.log(uniform + (1 - uniform) * math.exp(-2 * kappa)) / kappa
    azimuth = 2 * math.pi * generator.random()
    distance = 2 * math.asin(math.sqrt(min(complement / 2, 1.0)))
    latitude = math.radians(lonlat[1])
    sine = math.sin(latitude) * math.cos(distance) + math.cos(latitude) * math.sin(distance) * math.cos(
        azimuth
    )
    turned = math.atan2(
        math.sin(azimuth) * math.sin(distance) * math.cos(latitude),
        math.cos(distance) - math.sin(latitude) * sine,
    )
    longitude = (lonlat[0] + math.degrees(turned) + 180) % 360 - 180
    return np.array([longitude, math.degrees(math.asin(max(-1.0, min(1.0, sine))))])
