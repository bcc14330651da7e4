"""GAIR's algorithms, one file each, in the order in which the provider registers them."""

from __future__ import annotations

from .detect_change import DetectChangeAlgorithm
from .embed import EmbedAlgorithm
from .import_checkpoint import ImportCheckpointAlgorithm
from .segment import SegmentAlgorithm

ALGORITHMS = (
    SegmentAlgorithm,
    EmbedAlgorithm,
    DetectChangeAlgorithm,
    ImportCheckpointAlgorithm,
)
