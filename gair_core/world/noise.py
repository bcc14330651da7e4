"""Reproducible randomness that is a function of place: hashes, gradient noise and tiling textures.

Nothing here keeps a state: the same coordinates and seed give the same numbers whatever extent is asked
for, in whatever order, which is what lets the world be of any size without seams.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
"""float32 in practice; numpy's own annotations cannot follow mixed arithmetic."""
Integers = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

TEXTURE_SIZE: Final = 512
"""Side of the tiling textures in texels; a power of two, so that coordinates wrap with a mask."""

_WORD: Final = 0xFFFFFFFF


def seed_of(*parts: int) -> int:
    """Combine whole numbers into one 32-bit seed; the order counts."""
    state = 0x9E3779B9
    for part in parts:
        state = ((state ^ (part & _WORD)) * 0x85EBCA6B) & _WORD
        state ^= state >> 13
        state = (state * 0xC2B2AE35) & _WORD
        state ^= state >> 16
    return state


def uniform_of(*parts: int) -> float:
    """Return one number in [0, 1) for whole numbers, such as a seed and an index."""
    return seed_of(*parts) / 2**32


def hashes(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer], seed: int | Hashes = 0) -> Hashes:
    """Hash pairs of whole numbers, such as the indices of a cell.

    Args:
        first: Whole numbers of any shape; negative ones wrap.
        second: Whole numbers of a shape that broadcasts with ``first``.
        seed: One seed, or one for each pair.

    Returns:
        uint32 of the broadcast shape.
    """
    word = first.astype(np.uint32) * np.uint32(0x9E3779B1)
    other = second.astype(np.uint32) * np.uint32(0x85EBCA77)
    return mixed(np.bitwise_xor(np.bitwise_xor(word, other), np.asarray(seed, dtype=np.uint32)))


def mixed(word: Hashes) -> Hashes:
    """Scramble uint32 words, so that neighbours become unrelated."""
    word = word ^ (word >> np.uint32(16))
    word *= np.uint32(0x7FEB352D)
    word ^= word >> np.uint32(15)
    word *= np.uint32(0x846CA68B)
    word ^= word >> np.uint32(16)
    return word


def unit(word: Hashes, byte: int) -> Floats:
    """Return one of the four bytes of each hash as a number in [0, 1)."""
    return ((word >> np.uint32(8 * byte)) & np.uint32(255)).astype(np.float32) * np.float32(1 / 256)


def _fade(t: Floats) -> Floats:
    return t * t * t * (t * (t * 6 - 15) + 10)


def gradient_noise(x: Floats, y: Floats, seed: int) -> Floats:
    """Return Perlin's gradient noise with unit cells.

    Args:
        x: Coordinates in cells, of any shape.
        y: Coordinates of the same shape.
        seed: Another seed gives another field.

    Returns:
        float32 of the same shape, about in [-1, 1], zero on the cells' corners.
    """
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    fx, fy = x - column, y - row
    corners = []
    for j in (0, 1):
        for i in (0, 1):
            angle = hashes(column + i, row + j, seed).astype(np.float32) * np.float32(2 * np.pi / 2**32)
            corners.append(np.cos(angle) * (fx - i) + np.sin(angle) * (fy - j))
    u, v = _fade(fx), _fade(fy)
    south = corners[0] + u * (corners[1] - corners[0])
    north = corners[2] + u * (corners[3] - corners[2])
    blended = (south + v * (north - south)) * 1.5
    return np.asarray(blended, dtype=np.float32)


def layered_noise(x: Floats, y: Floats, wavelength: float, octaves: int, seed: int) -> Floats:
    """Sum octaves of gradient noise, each of half the wavelength and half the strength.

    Args:
        x: Coordinates in metres.
        y: Coordinates in metres, of the same shape.
        wavelength: Cell size of the first octave in metres.
        octaves: How many octaves.
        seed: Another seed gives another field.

    Returns:
        float32 about in [-1, 1].
    """
    total = np.zeros(np.shape(x), dtype=np.float32)
    strength, scale = 1.0, 1.0 / wavelength
    for octave in range(octaves):
        # A turn between octaves keeps their lattices from lining up.
        c, s = np.cos(0.6 * octave), np.sin(0.6 * octave)
        turned_x = ((x * c - y * s) * scale).astype(np.float32)
        turned_y = ((x * s + y * c) * scale).astype(np.float32)
        total += np.float32(strength) * gradient_noise(turned_x, turned_y, seed_of(seed, octave))
        strength, scale = strength / 2, scale * 2
    return total


@lru_cache(maxsize=32)
def texture(seed: int, roughness: float) -> Floats:
    """Make a tiling random texture with a power-law spectrum; read-only, because it is kept.

    Args:
        seed: Another seed gives another texture.
        roughness: Exponent of the amplitude spectrum: 0 is white noise, 1 grain, 1.8 clouds.

    Returns:
        float32 of shape (`TEXTURE_SIZE`, `TEXTURE_SIZE`), mean 0 and standard deviation 1.
    """
    noise = np.random.default_rng(seed).standard_normal((TEXTURE_SIZE, TEXTURE_SIZE))
    spectrum = np.fft.rfft2(noise)
    frequency = np.hypot(np.fft.fftfreq(TEXTURE_SIZE)[:, None], np.fft.rfftfreq(TEXTURE_SIZE)[None])
    frequency[0, 0] = 1.0
    spectrum *= frequency**-roughness
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=noise.shape)
    tile = np.asarray(field / field.std(), dtype=np.float32)
    tile.setflags(write=False)
    return tile


def look_up(tile: Floats, x: Floats, y: Floats) -> Floats:
    """Return the texel of a tiling texture under each point; coordinates in texels, of any size."""
    mask = TEXTURE_SIZE - 1
    index = (np.floor(y).astype(np.int32) & mask) * TEXTURE_SIZE + (np.floor(x).astype(np.int32) & mask)
    return np.asarray(tile.ravel()[index], dtype=np.float32)


def look_up_smoothly(tile: Floats, x: Floats, y: Floats) -> Floats:
    """Return a tiling texture between its texels (bilinear); coordinates in texels, of any size."""
    mask = TEXTURE_SIZE - 1
    column, row = np.floor(x), np.floor(y)
    fx, fy = (x - column).astype(np.float32), (y - row).astype(np.float32)
    left, low = column.astype(np.int32) & mask, row.astype(np.int32) & mask
    right, high = (left + 1) & mask, ((low + 1) & mask) * TEXTURE_SIZE
    low *= TEXTURE_SIZE
    flat = tile.ravel()
    south = flat[low + left] * (1 - fx) + flat[low + right] * fx
    north = flat[high + left] * (1 - fx) + flat[high + right] * fx
    return np.asarray(south + (north - south) * fy, dtype=np.float32)


def smooth_step(low: float, high: float, value: npt.NDArray[np.floating] | float) -> Floats:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``; falls where ``low`` is the greater."""
    t = np.clip((np.asarray(value, dtype=np.float32) - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)
