"""QGIS layer styles (``.qml``), as QGIS 3.22 and newer read them beside a raster of the same name."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

Colour = tuple[int, int, int]

# Ten equally spaced colours of magma (Smith and van der Walt, CC0): lightness rises evenly, for readers with
# any kind of colour vision and in grey print.
MAGMA: tuple[Colour, ...] = (
    (0, 0, 4),
    (24, 15, 62),
    (69, 16, 119),
    (114, 31, 129),
    (159, 47, 127),
    (205, 64, 113),
    (241, 96, 93),
    (253, 149, 103),
    (254, 201, 141),
    (252, 253, 191),
)

# XML 1.0 has no way to write these, escaped or not.
_IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def palette_style(classes: Iterable[tuple[int, str, Colour]], band: int = 1) -> str:
    """A colour and a legend entry a class.

    Args:
        classes: Value, name and colour (0 to 255) of each class, in the legend's order.
        band: The raster's band, from 1.
    """
    entries = "\n".join(
        f'        <paletteEntry value="{value}" label="{_escaped(name)}" '
        f'color="{_hexadecimal(colour)}" alpha="255"/>'
        for value, name, colour in classes
    )
    return _document(
        f"""    <rasterrenderer type="paletted" band="{band}" opacity="1" alphaBand="-1" nodataColor="">
      <rasterTransparency/>
      <colorPalette>
{entries}
      </colorPalette>
    </rasterrenderer>"""
    )


def ramp_style(minimum: float, maximum: float, band: int = 1, colours: Sequence[Colour] = MAGMA) -> str:
    """A continuous ramp from dark to bright, linear between its colours.

    Args:
        minimum: Value of the first colour; lower values have it too.
        maximum: Value of the last colour; higher values have it too.
        band: The raster's band, from 1.
        colours: Equally spaced colours, two or more.

    Raises:
        ValueError: ``minimum`` is not below ``maximum``.
    """
    if not minimum < maximum:
        raise ValueError(f"a ramp needs minimum < maximum, found {minimum} and {maximum}")
    steps = len(colours) - 1
    values = [minimum + (maximum - minimum) * index / steps for index in range(steps + 1)]
    items = "\n".join(
        f'          <item value="{value:.9g}" label="{value:.3g}" '
        f'color="{_hexadecimal(colour)}" alpha="255"/>'
        for value, colour in zip(values, colours, strict=True)
    )
    return _document(
        f"""    <rasterrenderer type="singlebandpseudocolor" band="{band}" opacity="1" alphaBand="-1"
        nodataColor="" classificationMin="{minimum:.9g}" classificationMax="{maximum:.9g}">
      <rasterTransparency/>
      <rastershader>
        <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0"
            minimumValue="{minimum:.9g}" maximumValue="{maximum:.9g}">
{_ramp(colours)}
{items}
        </colorrampshader>
      </rastershader>
    </rasterrenderer>"""
    )


def rgb_style(
    bands: tuple[int, int, int] = (1, 2, 3),
    ranges: Sequence[tuple[float, float]] = ((0, 255), (0, 255), (0, 255)),
) -> str:
    """Three bands as red, green and blue.

    Args:
        bands: The raster's bands, from 1.
        ranges: Values of each band that are shown as 0 and as 255.

    Raises:
        ValueError: A range is empty, or there are not three.
    """
    if len(ranges) != len(bands) or not all(low < high for low, high in ranges):
        raise ValueError(f"three ranges (low, high) with low < high are needed, found {ranges}")
    channels = " ".join(
        f'{name}Band="{band}"' for name, band in zip(("red", "green", "blue"), bands, strict=True)
    )
    limits = "\n".join(
        f"""      <{name}ContrastEnhancement>
        <minValue>{low:.9g}</minValue>
        <maxValue>{high:.9g}</maxValue>
        <algorithm>StretchToMinimumMaximum</algorithm>
      </{name}ContrastEnhancement>"""
        for name, (low, high) in zip(("red", "green", "blue"), ranges, strict=True)
    )
    return _document(
        f"""    <rasterrenderer type="multibandcolor" {channels} opacity="1" alphaBand="-1" nodataColor="">
      <rasterTransparency/>
{limits}
    </rasterrenderer>"""
    )


def _ramp(colours: Sequence[Colour]) -> str:
    """The ramp itself, which QGIS needs for its colour bar and for classifying anew."""
    steps = len(colours) - 1
    stops = ":".join(
        f"{index / steps:.6g};{_decimal(colour)}" for index, colour in enumerate(colours) if 0 < index < steps
    )
    options = {
        "color1": _decimal(colours[0]),
        "color2": _decimal(colours[-1]),
        "discrete": "0",
        "rampType": "gradient",
        "stops": stops,
    }
    properties = "\n".join(f'            <prop k="{key}" v="{value}"/>' for key, value in options.items())
    entries = "\n".join(
        f'              <Option type="QString" name="{key}" value="{value}"/>'
        for key, value in options.items()
    )
    return f"""          <colorramp type="gradient" name="[source]">
            <Option type="Map">
{entries}
            </Option>
{properties}
          </colorramp>"""


def _document(renderer: str) -> str:
    return f"""<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology">
  <pipe>
{renderer}
    <brightnesscontrast brightness="0" contrast="0" gamma="1"/>
    <huesaturation saturation="0" grayscaleMode="0" colorizeOn="0"/>
    <rasterresampler maxOversampling="2"/>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""


def _escaped(text: str) -> str:
    return html.escape(_IMPOSSIBLE.sub("", text), quote=True)


def _hexadecimal(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _decimal(colour: Colour) -> str:
    return "{},{},{},255".format(*colour)
