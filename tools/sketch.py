"""A map that a page needs: what demo_maps.py asks for and render.py draws.

Read by QGIS's Python as well, so it imports nothing of this project's.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sketch:
    """A picture to make.

    Attributes:
        picture: The PNG.
        scene: The scene at the bottom.
        layers: Over it, from bottom to top.
        legend: Whether the layers' legend stands beside the map.
        width: Of the map in pixels.
        marks: Kind of `render.MARKS`, longitude and latitude.
        mark_share: Size of a mark as a share of the width.
        lines: Pairs of longitude and latitude to join.
        opacity: Of rasters over the scene, 0-1; what lies where shines through.
        zoom: Whether the first layer's extent is shown and not the scene's.
    """

    picture: str
    scene: str
    layers: list[str] = field(default_factory=list)
    legend: bool = False
    width: int = 900
    marks: list[tuple[str, float, float]] = field(default_factory=list)
    mark_share: float = 0.022
    lines: list[list[tuple[float, float]]] = field(default_factory=list)
    opacity: float = 0.85
    zoom: bool = False
