"""The one widget that draws: an image with sharp pixels that reports where it was clicked."""

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
"""The pixels along a side up to which a photograph that changes with each click is sent losslessly.
"""

_POINTED: Final = 128
"""The numbers along a side that hovering can read; larger maps are evenly thinned out."""


class Picture(Hearing):
    """An image, a layer over it, marks and cells, and the actions of mouse and keys on it.

    Positions are y and x in pixels. Arrow keys move the cursor from cell to cell of the grid and
    click there. Buttons below the image, the keys + - 0, and the wheel with Ctrl or ⌘ zoom; a drag
    pans a zoomed image, with Ctrl or ⌘ if a drag draws. Images of one explorer zoom together, and
    each shows its value under the pointer. Unchanged parts are not sent again, so a click that only
    changes the layer costs only that.

    Attributes:
        image: The image, in a file format that browsers know.
        over: The layer over it, a PNG file of any resolution; empty if none.
        opacity: The opacity of the layer.
        extent: The height and width of the image in its own pixels, whatever the files have.
        grid: The number of rows and columns of cells; keys move by one.
        marks: Crosses, as (y, x); numbered if there are several.
        cells: Outlined cells, as (row, column).
        cursor: The position at which keys begin, (y, x), or empty.
        caption: The text above the image.
        width: The largest width on the screen, in pixels.
        values: The numbers that hovering reads, float32 row by row; see `read_by_pointing`.
        value_grid: The number of rows and columns of ``values``.
        value_name: The name of these numbers.
        zoom: The scale, from 1 to 16, and the position of the frame's upper left corner, (y, x), as
            shares of the image.
        draws: Whether a drag draws a line, which ``dragged`` receives.
        clicked: The last click: ``y``, ``x``, ``shift`` and a ``count`` of events.
        dragged: The last line drawn: ``path`` of (y, x), ``shift`` and a ``count`` of events; also
            a line that ends where it began.
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
        """Set several traits in one message."""
        with self.hold_sync():
            for name, value in traits.items():
                self.set_trait(name, value)

    def pixels(self) -> _Pixels:
        """Return what is shown without marks, (y, x, rgb), at the finer of both resolutions."""
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
    """Return a map in the colours of a scale, as a PNG file; NaN is grey."""
    if np.isnan(values).any():
        return png(shaded(values, low, high, scale))
    return png(shades(values, low, high), ramp(scale))


def read_by_pointing(values: NDArray[Any], name: str) -> dict[str, Any]:
    """Return the traits of a `Picture` that show the value under the pointer.

    Args:
        values: The numbers (y, x) over the whole image; NaN is shown as unknown. A map larger than
            128 x 128 is evenly thinned out.
        name: The name of the numbers.
    """
    kept = [spaced(side, min(side, _POINTED)) for side in values.shape]
    few = np.ascontiguousarray(values[np.ix_(*kept)], "<f4")
    return {"values": few.tobytes(), "value_grid": list(few.shape), "value_name": name}


def photo_file(pixels: _Pixels) -> bytes:
    """Return an image that changes with each click: a PNG file, or JPEG if it is large."""
    if max(pixels.shape[:2]) <= _EXACT:
        return png(pixels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85, subsampling=0)
    return file.getvalue()
