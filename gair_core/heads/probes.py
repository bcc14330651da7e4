"""Probes of the photo encoder g: what a photo's vector says by itself (section 3.4 of the paper).

On a frozen encoder they measure it; trained together with it they are full fine-tuning.
"""

from __future__ import annotations

from gair_core.heads.point import PointHead


class LinearProbe(PointHead):
    """One linear layer on g(s): classes or quantities."""

    kind = "linear_probe"
    allowed = needed = ("photo",)
    hidden_layers = 0


class NonlinearProbe(PointHead):
    """Two linear layers with sigmoids between them on g(s): classes or quantities."""

    kind = "nonlinear_probe"
    allowed = needed = ("photo",)
    hidden_layers = 1
