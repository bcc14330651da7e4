"""The contrastive objectives of GAIR: INCL (Eq. 2), SECL (Eq. 3) and their sum (Eq. 4)."""

from __future__ import annotations

from gair_core.losses.contrastive import ContrastiveLoss, ContrastiveTerms, incl, secl_term
from gair_core.losses.distributed import gather
from gair_core.losses.memory_bank import CoordinateMemoryBank, great_circle_km

__all__ = [
    "ContrastiveLoss",
    "ContrastiveTerms",
    "CoordinateMemoryBank",
    "gather",
    "great_circle_km",
    "incl",
    "secl_term",
]
