"""Draw panels: images and maps side by side, on axes in pixels, under a title.

Images are embedded as PNG, which browsers show with sharp pixels, and maps as heatmaps, whose cells
remain visible. Both cover the whole image, whatever their resolution.
"""

from __future__ import annotations

import base64
import html
import io
import re
import textwrap
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image
from plotly.subplots import make_subplots

__all__ = [
    "WIDEST",
    "as_bytes",
    "cells",
    "heading_layout",
    "panels",
    "pixel_map",
    "picture",
    "png",
    "site_text",
    "spaced",
    "text",
    "title",
]

Extent = tuple[int, int]
"""The height and width in pixels."""

_GAP: Final = 14  # screen pixels between panels
_TITLE: Final = 22
_LINE: Final = 14
_LEFT: Final = 60
_BELOW: Final = 50
_BAR: Final = 110  # room for a colour bar
WIDEST: Final = 860
"""The width in pixels of a notebook's output in JupyterLab, on a screen 1280 pixels wide with the
side bar open.
"""


def text(raw: object) -> str:
    """Return text for plotly, which interprets tags and these entities.

    >>> text("<b> & c")
    '&lt;b&gt; &amp; c'
    """
    return html.escape(str(raw), quote=False)


def site_text(name: str) -> str:
    """Return a short text for a site, for rows and titles; no two sites have the same.

    >>> site_text("up_blocks.1.attentions.0.transformer_blocks.0.attn2:query")
    'up 1 attention 0.0 cross query'
    >>> site_text("mid_block:out"), site_text("down_blocks.0.resnets.1"), site_text("latents")
    ('mid', 'down 0 resnet 1', 'latents')
    """
    words = re.sub(r":out$", "", name).replace(":", ".")
    for pattern, word in (
        (r"\.transformer_blocks\.(\d+)", r".\1"),
        (r"attentions\.(\d+)\.(\d+)", r"attention_\1-\2"),
        (r"\b(down|up)_blocks\.(\d+)", r"\1_\2"),
        (r"\bmid_block\b", "mid"),
        (r"\b(attention|resnet|downsampler|upsampler)s\.(\d+)", r"\1_\2"),
        (r"\battn1\b", "self"),
        (r"\battn2\b", "cross"),
    ):
        words = re.sub(pattern, word, words)
    return words.replace(".", " ").replace("_", " ").replace("-", ".")


def title(head: str, rest: str, width: int = 110) -> str:
    """Return a bold line with one or two lines below it, cut if they are longer."""
    lines = textwrap.wrap(rest, width, max_lines=2, placeholder=" ...")
    return "<br>".join([f"<b>{text(head)}</b>", *map(text, lines)])


def heading_layout(heading: str) -> dict[str, Any]:
    """Return plotly's settings for a heading, which may be HTML; see `title`.

    It is placed relative to the upper edge: placed at a share of the height, it would overlap the
    panels of a low figure.
    """
    at = {"x": 0, "y": 1, "yanchor": "top", "pad": {"t": 18, "l": 14}}
    return {"text": heading, "font_size": 14, **at}


def panels(
    extent: Extent,
    grid: tuple[int, int] = (1, 1),
    *,
    side: int,
    heading: str,
    titles: Sequence[str] = (),
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    scales: Sequence[dict[str, Any]] = (),
) -> go.Figure:
    """Return a figure of empty panels that zoom together.

    Args:
        extent: The height and width of the image, which all panels show.
        grid: The number of rows and columns of panels.
        side: The width of a panel in screen pixels; reduced if the figure would be wider than a
            notebook.
        heading: The heading as HTML; see `title`.
        titles: The titles of the panels, row by row; a panel without a title is omitted.
        columns, rows: The names of the panels' columns and rows, if panels have no titles.
        scales: The colour axes, one for all panels or one for each row.
    """
    height, width = extent
    down, across = grid
    left = _LEFT + (7 * min(max(map(len, rows)), 20) + 10 if rows else 0)
    right = _BAR if scales else 30
    side = min(side, (WIDEST - left - right - _GAP * (across - 1)) // across)
    tall = round(side * min(max(height / width, 0.4), 2))
    wrapped = [textwrap.wrap(name, max(side // 6, 20)) for name in titles]
    above = _TITLE + _LINE * (max(map(len, wrapped)) - 1) if wrapped else _TITLE * bool(columns)
    gaps = _GAP + (above if titles else 0), _GAP
    margin = {
        "l": left,
        "r": right,
        "t": (36 + 18 * heading.count("<br>") if heading else 12) + above,
        "b": _BELOW,
    }
    inner = side * across + gaps[1] * (across - 1), tall * down + gaps[0] * (down - 1)
    figure = make_subplots(
        down,
        across,
        subplot_titles=["<br>".join(map(text, lines)) for lines in wrapped] or None,
        column_titles=[text(name) for name in columns] or None,
        horizontal_spacing=gaps[1] / inner[0],
        vertical_spacing=gaps[0] / inner[1],
    )
    figure.update_annotations(font_size=11)
    figure.update_layout(
        title=heading_layout(heading),
        template="plotly_white",
        margin=margin,
        modebar_orientation="v",
        width=inner[0] + margin["l"] + margin["r"],
        height=inner[1] + margin["t"] + margin["b"],
        hovermode="closest",
        hoverlabel_align="left",
    )
    _scale_axes(figure, extent, grid, len(titles) or down * across)
    for number, name in enumerate(rows, start=1):
        axis = next(figure.select_yaxes(row=number, col=1))
        figure.add_annotation(
            text="<br>".join(map(text, textwrap.wrap(name, 20))),
            font_size=12,
            showarrow=False,
            **{"x": 0, "xref": "paper", "xanchor": "right", "xshift": -_LEFT, "align": "right"},
            **{"y": sum(axis.domain) / 2, "yref": "paper"},
        )
    for number, scale in enumerate(scales, start=1):
        bar = {"thickness": 12, "x": 1, "xpad": 12, "tickfont_size": 10, "nticks": 6}
        if len(scales) > 1:
            low, high = next(figure.select_yaxes(row=number, col=1)).domain
            bar |= {"y": (low + high) / 2, "len": high - low}
        figure.layout[_coloraxis(number)] = scale | {"colorbar": bar | scale.get("colorbar", {})}
    return figure


def _scale_axes(figure: go.Figure, extent: Extent, grid: tuple[int, int], count: int) -> None:
    """Label axes in pixels, with numbers on the outer panels only."""
    axis = {"constrain": "domain", "showgrid": False, "zeroline": False, "ticks": "outside"}
    axis |= {"nticks": 5, "tickfont_size": 10, "ticklen": 3, "title_font_size": 12}
    figure.update_xaxes(range=[0, extent[1]], matches="x", showticklabels=False, **axis)
    figure.update_yaxes(
        range=[extent[0], 0], matches="y", showticklabels=False, constraintoward="top", **axis
    )
    for number in range(grid[0] * grid[1]):
        at = {"row": number // grid[1] + 1, "col": number % grid[1] + 1}
        if number >= count:
            figure.update_xaxes(visible=False, **at)
            figure.update_yaxes(visible=False, **at)
        elif number + grid[1] >= count:
            figure.update_xaxes(showticklabels=True, **at)
        if number < count and at["col"] == 1:
            figure.update_yaxes(showticklabels=True, **at)
    # Label the axes once for the figure, because single panels are too small.
    in_last_row = count - grid[1] * (grid[0] - 1)
    figure.update_xaxes(title="x (pixels)", row=grid[0], col=(in_last_row + 1) // 2)
    figure.update_yaxes(title="y (pixels)", row=(grid[0] + 1) // 2, col=1)
    figure.layout.xaxis.matches = figure.layout.yaxis.matches = None
    figure.layout.yaxis.scaleanchor = "x"


def _coloraxis(number: int) -> str:
    return f"coloraxis{number if number > 1 else ''}"


def pixel_map(
    values: NDArray[Any], extent: Extent, template: str, *, scale: int | None = None, **options: Any
) -> go.Heatmap:
    """Return a map that covers the whole image, whatever its resolution.

    Args:
        values: The map, (y, x).
        extent: The height and width of the image.
        template: The text shown when hovering over a cell; it may refer to x, y and z.
        scale: The number of the figure's colour axis, from 1.
        options: Further options of the heatmap.
    """
    if scale is not None:
        options["coloraxis"] = _coloraxis(scale)
    return go.Heatmap(
        z=values,
        hovertemplate=template + "<extra></extra>",
        zsmooth=False,
        **cells(extent, *values.shape),
        **options,
    )


def picture(pixels: NDArray[np.uint8], extent: Extent, *, pointed: bool = True) -> go.Image:
    """Draw pixels stretched over the whole image.

    Args:
        pixels: Colours (y, x, rgb), or grey values (y, x).
        extent: The height and width of the image.
        pointed: Whether hovering over a pixel shows its position and colour. Where a map lies
            above, hovering shows the map's values instead.
    """
    source = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
    told: dict[str, Any] = {"hoverinfo": "skip"}
    if pointed:
        colour = ", ".join(f"%{{color[{channel}]}}" for channel in range(3))
        told = {"hovertemplate": f"RGB {colour}<br>x %{{x:.1f}}, y %{{y:.1f}}<extra></extra>"}
    return go.Image(source=source, **told, **cells(extent, *pixels.shape[:2]))


def as_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixels as bytes; numbers are clipped to [0, 1] and scaled, bytes stay.

    >>> as_bytes(np.array([-1.0, 0.5, 2.0])).tolist()
    [0, 128, 255]
    """
    if pixels.dtype == np.uint8:
        return pixels
    # Compute at least in single precision.
    return np.rint(np.clip(pixels, 0, 1) * np.float32(255)).astype(np.uint8)


def png(pixels: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None) -> bytes:
    """Return pixels as a PNG file.

    Args:
        pixels: Grey values (y, x), or (y, x, rgb); with a palette, the colour number of each pixel.
        palette: At most 256 colours, (number, rgb) or (number, rgba).
    """
    image, options = Image.fromarray(pixels), {}
    if palette is not None:
        image.putpalette(palette[:, :3].tobytes())
        if palette.shape[1] == 4:
            options["transparency"] = palette[:, 3].tobytes()
    file = io.BytesIO()
    # The highest level takes twice the time of the default and saves almost nothing.
    image.save(file, "PNG", **options)
    return file.getvalue()


def cells(extent: Extent, rows: int, columns: int) -> dict[str, float]:
    """Return the positions of a grid of cells that covers the image, as plotly's settings.

    >>> cells((8, 8), 2, 4)
    {'x0': 1.0, 'dx': 2.0, 'y0': 2.0, 'dy': 4.0}
    """
    down, across = extent[0] / rows, extent[1] / columns
    return {"x0": across / 2, "dx": across, "y0": down / 2, "dy": down}


def spaced(side: int, count: int) -> NDArray[np.intp]:
    """Return the pixels under the centres of ``count`` equal cells.

    >>> spaced(8, 2).tolist()
    [2, 6]
    """
    return ((np.arange(count) + 0.5) * (side / count)).astype(np.intp)
