"""The part of Zarr v3 that the data store uses: groups, and arrays of one shard with zstd chunks.

GPU machines lack the zarr library, so reading and writing take only NumPy and pyarrow's zstd; the tests hold
both against the library. An array is a folder with ``zarr.json`` and one shard file: compressed chunks, and
at the end an index of their offsets and lengths, so that a window costs the chunks that it touches.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gair_core.errors import BadInputError

_HEADER: Final = "zarr.json"
_ABSENT: Final = np.uint64(2**64 - 1)
_INDEX_DTYPE: Final = np.dtype("<u8")
_DTYPES: Final = ("uint8", "uint16")
_LEVEL: Final = 3


@dataclass(frozen=True)
class ArrayHeader:
    """Shape of an array and of its chunks.

    Attributes:
        shape: Shape of the array.
        chunks: Shape of a chunk, as many dimensions.
        dtype: ``uint8`` or ``uint16``.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Make a folder a Zarr group with JSON attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder, {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)})


def read_attributes(folder: Path) -> dict[str, Any]:
    """Return the attributes of a group or an array.

    Raises:
        BadInputError: There is no such group, or its description is damaged.
    """
    attributes = _read_json(folder).get("attributes", {})
    if not isinstance(attributes, dict):
        raise _damaged(folder, "its attributes are no JSON object")
    return attributes


def write_array(
    folder: Path, values: npt.NDArray[Any], chunks: Sequence[int], dimensions: Sequence[str]
) -> None:
    """Write an array of integers as one shard; chunks of zeros take no space.

    Args:
        folder: Where it goes; must not exist.
        values: uint8 or uint16, any number of dimensions.
        chunks: Shape of a chunk.
        dimensions: Name of each dimension.
    """
    header = ArrayHeader(values.shape, tuple(chunks), str(values.dtype))
    if header.dtype not in _DTYPES:
        raise TypeError(f"found {header.dtype}, wanted one of {', '.join(_DTYPES)}")
    shard = tuple(count * chunk for count, chunk in zip(header.grid, header.chunks, strict=True))
    path = _shard_path(folder, values.ndim)
    path.parent.mkdir(parents=True)
    little = np.ascontiguousarray(values.astype(np.dtype(header.dtype).newbyteorder("<")))
    index = np.full((math.prod(header.grid), 2), _ABSENT, dtype=_INDEX_DTYPE)
    codec = pa.Codec("zstd", compression_level=_LEVEL)
    offset = 0
    with path.open("wb") as file:
        for number, position in enumerate(np.ndindex(*header.grid)):
            chunk = np.zeros(header.chunks, dtype=little.dtype)
            part = little[_chunk_slices(position, header.chunks)]
            chunk[tuple(slice(size) for size in part.shape)] = part
            if chunk.any():
                packed = codec.compress(chunk.tobytes(), asbytes=True)
                file.write(packed)
                index[number] = offset, len(packed)
                offset += len(packed)
        file.write(index.tobytes())
    _write_json(folder, _array_description(header, shard, dimensions))


def read_header(folder: Path) -> ArrayHeader:
    """Return the shape of an array that `write_array` wrote.

    Raises:
        BadInputError: There is no such array, or it is of another kind.
    """
    described = _read_json(folder)
    try:
        shape = tuple(int(size) for size in described["shape"])
        (codec,) = described["codecs"]
        inner = codec["configuration"]
        chunks = tuple(int(size) for size in inner["chunk_shape"])
        header = ArrayHeader(shape, chunks, str(described["data_type"]))
        shard = [int(size) for size in described["chunk_grid"]["configuration"]["chunk_shape"]]
        names = [entry["name"] for entry in inner["codecs"]]
        plain_index = [entry["name"] for entry in inner["index_codecs"]] == ["bytes"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, f"its description is incomplete ({error})") from None
    one_shard = all(size <= limit for size, limit in zip(shape, shard, strict=True))
    if header.dtype not in _DTYPES or names != ["bytes", "zstd"] or not plain_index or not one_shard:
        raise _damaged(folder, "it was not written by this software (one shard of zstd chunks)")
    return header


def read_window(folder: Path, header: ArrayHeader, window: Sequence[slice]) -> npt.NDArray[Any]:
    """Read a part of an array; only the chunks that it touches are decoded.

    Args:
        folder: The array.
        header: Its header, from `read_header`.
        window: A slice with start and stop for each dimension, inside the array.

    Returns:
        The values, of the window's shape.

    Raises:
        BadInputError: The shard is missing, cut short or damaged.
    """
    dtype = np.dtype(header.dtype).newbyteorder("<")
    result = np.zeros([part.stop - part.start for part in window], dtype=header.dtype)
    touched = [
        range(part.start // chunk, -(-part.stop // chunk))
        for part, chunk in zip(window, header.chunks, strict=True)
    ]
    path = _shard_path(folder, len(header.shape))
    try:
        with path.open("rb", buffering=0) as file:
            index = _read_index(file, header)
            for position in itertools.product(*touched):
                offset, length = (int(value) for value in index[position])
                if offset == _ABSENT:
                    continue
                file.seek(offset)
                packed = file.read(length)
                size = math.prod(header.chunks) * dtype.itemsize
                raw = pa.decompress(packed, decompressed_size=size, codec="zstd")
                chunk = np.frombuffer(raw, dtype=dtype).reshape(header.chunks)
                _paste(result, chunk, position, header.chunks, window)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(folder, str(error)) from None
    return result


def _read_index(file: Any, header: ArrayHeader) -> npt.NDArray[np.uint64]:  # noqa: ANN401
    count = math.prod(header.grid)
    size = file.seek(0, 2)
    if size < 16 * count:
        raise ValueError(f"the shard has {size} bytes, its index alone needs {16 * count}")
    file.seek(size - 16 * count)
    index = np.frombuffer(file.read(16 * count), dtype=_INDEX_DTYPE).reshape(*header.grid, 2)
    lengths = index[..., 1][index[..., 0] != _ABSENT]
    # At the end of a shard that was cut short stands something else than an index.
    if int(lengths.sum()) + 16 * count != size:
        raise ValueError("the shard is cut short or damaged")
    return index


def _paste(
    result: npt.NDArray[Any],
    chunk: npt.NDArray[Any],
    position: Sequence[int],
    chunks: Sequence[int],
    window: Sequence[slice],
) -> None:
    """Copy the part of a chunk that lies in the window."""
    source, target = [], []
    for index, size, part in zip(position, chunks, window, strict=True):
        start = max(index * size, part.start)
        stop = min((index + 1) * size, part.stop)
        source.append(slice(start - index * size, stop - index * size))
        target.append(slice(start - part.start, stop - part.start))
    result[tuple(target)] = chunk[tuple(source)]


def _array_description(
    header: ArrayHeader, shard: Sequence[int], dimensions: Sequence[str]
) -> dict[str, Any]:
    little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}}
    sharding = {
        "chunk_shape": list(header.chunks),
        "codecs": [little, zstd],
        "index_codecs": [little],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(header.shape),
        "data_type": header.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [int(size) for size in shard]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": list(dimensions),
        "attributes": {},
    }


def _chunk_slices(position: Sequence[int], chunks: Sequence[int]) -> tuple[slice, ...]:
    return tuple(
        slice(index * size, (index + 1) * size) for index, size in zip(position, chunks, strict=True)
    )


def _shard_path(folder: Path, dimensions: int) -> Path:
    return folder.joinpath("c", *["0"] * dimensions)


def _write_json(folder: Path, described: Mapping[str, Any]) -> None:
    (folder / _HEADER).write_text(json.dumps(described, allow_nan=False), encoding="ascii")


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / _HEADER).read_bytes())
    except FileNotFoundError:
        raise _damaged(folder, f"it has no {_HEADER}") from None
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from None
    if not isinstance(described, dict):
        raise _damaged(folder, f"its {_HEADER} is no JSON object")
    return described


def _damaged(folder: Path, why: str) -> BadInputError:
    return BadInputError(
        f"The data in {folder} cannot be read: {why}.",
        "Copy or build the store again; gair store-check lists all faults.",
    )
