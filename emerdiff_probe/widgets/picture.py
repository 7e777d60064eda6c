"""The one widget that draws: a picture with sharp pixels that tells where it was clicked."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import traitlets
from numpy.typing import NDArray
from PIL import Image

from emerdiff_probe.views.colours import SEQUENTIAL, ramp, shaded, shades
from emerdiff_probe.views.panels import png, spaced
from emerdiff_probe.widgets.hearing import Hearing, code

__all__ = ["Picture", "map_file", "photo_file", "read_by_pointing"]

_HERE = Path(__file__).parent
_Pixels = NDArray[np.uint8]

_EXACT: Final = 256
"""Pixels on a side up to which a photograph that changes with each click is sent as it is."""

_POINTED: Final = 128
"""Numbers on a side that are read by pointing; a map that has more has evenly spaced ones."""


class Picture(Hearing):
    """A picture, a layer over it, marks and cells, and what was done to it with mouse and keys.

    Positions are y and x in pixels. Arrow keys move the cursor from cell to cell of the grid and
    click there. Buttons below the picture, the keys + - 0, and the wheel with Ctrl or ⌘ zoom; a
    drag moves what is zoomed, with Ctrl or ⌘ where a drag draws. Pictures of one explorer zoom
    together, and each shows its value under the pointer. What did not change is not sent again, so
    that a click that only changes the layer costs no more than that.

    Attributes:
        image: What is shown, a file that browsers know.
        over: The layer over it, a PNG file of any resolution; empty without one.
        opacity: Of the layer.
        extent: Height and width of the picture, in pixels of its own, whatever the files have.
        grid: Rows and columns of cells; keys move by one.
        marks: Crosses, as (y, x); numbered where there are several.
        cells: Outlined cells, as (row, column).
        cursor: Where keys begin, (y, x), or empty.
        caption: Above the picture.
        width: Largest width on the screen, in pixels.
        values: Numbers that are read by pointing, float32 row by row; see `read_by_pointing`.
        value_grid: Rows and columns of ``values``.
        value_name: What these numbers are.
        zoom: Scale, from 1 to 16, and the place of the frame's upper left corner, (y, x), as shares
            of the picture.
        draws: Whether a drag draws a line, which ``dragged`` gets.
        clicked: The last click: ``y``, ``x``, ``shift`` and a ``count`` of events.
        dragged: The last line drawn: ``path`` of (y, x), ``shift`` and a ``count`` of events. A
            line that ends where it began is one, too.
    """

    _esm = code("looking.js", "picture.js")
    _css = _HERE / "picture.css"

    image = traitlets.Bytes().tag(sync=True)
    over = traitlets.Bytes().tag(sync=True)
    opacity = traitlets.Float(1.0).tag(sync=True)
    extent = traitlets.List([1, 1]).tag(sync=True)
    grid = traitlets.List([1, 1]).tag(sync=True)
    marks: Any = traitlets.List().tag(sync=True)
    cells: Any = traitlets.List().tag(sync=True)
    cursor: Any = traitlets.List().tag(sync=True)
    caption = traitlets.Unicode().tag(sync=True)
    width = traitlets.Int(256).tag(sync=True)
    values = traitlets.Bytes().tag(sync=True)
    value_grid = traitlets.List([1, 1]).tag(sync=True)
    value_name = traitlets.Unicode().tag(sync=True)
    zoom: Any = traitlets.List([1, 0, 0]).tag(sync=True)
    draws = traitlets.Bool(False).tag(sync=True)
    clicked = traitlets.Dict().tag(sync=True)
    dragged = traitlets.Dict().tag(sync=True)

    def show(self, **traits: Any) -> None:
        """Sets several traits in one message."""
        with self.hold_sync():
            for name, value in traits.items():
                self.set_trait(name, value)

    def pixels(self) -> _Pixels:
        """What is shown without marks, (y, x, rgb), as fine as the finer of picture and layer."""
        below = Image.open(io.BytesIO(self.image)).convert("RGBA")
        if self.over:
            over = Image.open(io.BytesIO(self.over)).convert("RGBA")
            over.putalpha(over.getchannel("A").point(lambda alpha: round(alpha * self.opacity)))
            size = max(below.width, over.width), max(below.height, over.height)
            below, over = (each.resize(size, Image.Resampling.NEAREST) for each in (below, over))
            below = Image.alpha_composite(below, over)
        return np.asarray(below.convert("RGB"))


def map_file(
    values: NDArray[np.floating], low: float, high: float, scale: str = SEQUENTIAL
) -> bytes:
    """A map in the colours of a scale, as a PNG file; NaN is grey."""
    if np.isnan(values).any():
        return png(shaded(values, low, high, scale))
    return png(shades(values, low, high), ramp(scale))


def read_by_pointing(values: NDArray[Any], name: str) -> dict[str, Any]:
    """Return the traits of a `Picture` that tell the value under the pointer.

    Args:
        values: (y, x), over the whole of the picture; NaN is told as unknown. Of a map larger than
            128 x 128 evenly spaced values.
        name: What they are.
    """
    kept = [spaced(side, min(side, _POINTED)) for side in values.shape]
    few = np.ascontiguousarray(values[np.ix_(*kept)], "<f4")
    return {"values": few.tobytes(), "value_grid": list(few.shape), "value_name": name}


def photo_file(pixels: _Pixels) -> bytes:
    """A picture that changes with each click: a PNG file, or of a large one a JPEG file."""
    if max(pixels.shape[:2]) <= _EXACT:
        return png(pixels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85, subsampling=0)
    return file.getvalue()
