"""GAIR's algorithms, one file each, in the order in which the provider registers them."""

from __future__ import annotations

from .check_environment import CheckEnvironmentAlgorithm
from .create_environment import CreateEnvironmentAlgorithm
from .detect_change import DetectChangeAlgorithm
from .embed import EmbedAlgorithm
from .import_checkpoint import ImportCheckpointAlgorithm
from .locate_photos import LocatePhotosAlgorithm
from .location_similarity import LocationSimilarityAlgorithm
from .photo_similarity import PhotoSimilarityAlgorithm
from .sample_embeddings import SampleEmbeddingsAlgorithm
from .segment import SegmentAlgorithm
from .train_head import TrainHeadAlgorithm

ALGORITHMS = (
    SegmentAlgorithm,
    EmbedAlgorithm,
    DetectChangeAlgorithm,
    PhotoSimilarityAlgorithm,
    SampleEmbeddingsAlgorithm,
    LocatePhotosAlgorithm,
    LocationSimilarityAlgorithm,
    TrainHeadAlgorithm,
    ImportCheckpointAlgorithm,
    CreateEnvironmentAlgorithm,
    CheckEnvironmentAlgorithm,
)
