"""GAIR's algorithms, one file each, in the order in which the provider registers them."""

from __future__ import annotations

from .embed import EmbedAlgorithm

ALGORITHMS = (EmbedAlgorithm,)
