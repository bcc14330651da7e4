"""What Deepness does with an ONNX model and a raster layer, written anew from its documented behaviour."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime


class Deepness:
    """One model, loaded.

    Args:
        path: The ONNX file.
    """

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (self.input,), (self.output,) = self.session.get_inputs(), self.session.get_outputs()
        self.entries = {k: json.loads(v) for k, v in self.session.get_modelmeta().custom_metadata_map.items()}
        _, self.bands, self.side, _ = self.input.shape
        self.overlap = int(self.side * int(self.entries["tiles_overlap"]) / 100 * 2) // 2

    def class_names(self) -> list[str]:
        """Return the names by channel, which must be numbered without a gap."""
        numbered = sorted((int(key), name) for key, name in self.entries["class_names"].items())
        assert [number for number, _ in numbered] == list(range(len(numbered)))
        return [name for _, name in numbered]

    def run_tile(self, tile: np.ndarray) -> np.ndarray:
        """Return the network's output of stored numbers (side, side, bands or more)."""
        batch = np.float32(tile[None, :, :, : self.bands] * 1.0 / 255.0)
        mean = np.array(self.entries["standardization_mean"], np.float32)
        std = np.array(self.entries["standardization_std"], np.float32)
        batch = np.transpose((batch - mean) / std, (0, 3, 1, 2))
        (found,) = self.session.run(None, {self.input.name: batch})
        return found

    def classify(self, tile: np.ndarray) -> np.ndarray:
        """Return the winning channel of each pixel of a tile."""
        found = self.run_tile(tile)
        found[found < self.entries["seg_thresh"]] = 0
        return np.argmax(found, axis=1)[0]

    def map(self, layer: np.ndarray) -> np.ndarray:
        """Return the winning channel of each pixel of a whole layer (height, width, bands).

        The layer grows to whole strides, by zeros above it and to its right.
        """
        height, width, _ = layer.shape
        stride, half = self.side - self.overlap, self.overlap // 2
        down, across = (
            self.side + -(-max(size - self.side, 0) // stride) * stride for size in (height, width)
        )
        grown = np.pad(layer, ((down - height, 0), (0, across - width), (0, 0)))
        result = np.full((down, across), -1)
        for top in range(0, down - self.side + 1, stride):
            for left in range(0, across - self.side + 1, stride):
                inner = [
                    slice(0 if start == 0 else half, self.side - (0 if start + self.side == size else half))
                    for start, size in ((top, down), (left, across))
                ]
                found = self.classify(grown[top : top + self.side, left : left + self.side])
                rows, columns = inner
                result[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop] = (
                    found[rows, columns]
                )
        return result[down - height :, :width]
