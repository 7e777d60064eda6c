"""The one widget that draws: a picture with sharp pixels that tells where it was clicked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

from emerdiff_probe.views.panels import png

__all__ = ["Picture"]

_HERE = Path(__file__).parent


class Picture(anywidget.AnyWidget):
    """A picture, marks and cells on it, and what was done to it. Positions are y and x in pixels.

    Arrow keys move the cursor from cell to cell of the grid and click there.

    Attributes:
        png: What is shown, a PNG file.
        extent: Height and width of the picture, in pixels of its own, whatever the PNG has.
        grid: Rows and columns of cells; keys move by one.
        marks: Crosses, as (y, x); numbered where there are several.
        cells: Outlined cells, as (row, column).
        cursor: Where keys begin, (y, x), or empty.
        caption: Above the picture.
        width: On the screen.
        clicked: The last click: ``y``, ``x``, ``shift`` and a ``count`` of events.
        dragged: The last drag: ``path`` of (y, x), ``shift`` and a ``count`` of events.
    """

    _esm = _HERE / "picture.js"
    _css = _HERE / "picture.css"

    png = traitlets.Bytes().tag(sync=True)
    extent = traitlets.List([1, 1]).tag(sync=True)
    grid = traitlets.List([1, 1]).tag(sync=True)
    marks: Any = traitlets.List().tag(sync=True)
    cells: Any = traitlets.List().tag(sync=True)
    cursor: Any = traitlets.List().tag(sync=True)
    caption = traitlets.Unicode().tag(sync=True)
    width = traitlets.Int(256).tag(sync=True)
    clicked = traitlets.Dict().tag(sync=True)
    dragged = traitlets.Dict().tag(sync=True)

    def show(self, pixels: NDArray[np.uint8], extent: tuple[int, int], **traits: Any) -> None:
        """Shows other pixels, (y, x, rgb), with the other traits given, in one message."""
        with self.hold_sync():
            self.set_trait("extent", list(extent))
            self.set_trait("png", png(pixels))
            for name, value in traits.items():
                self.set_trait(name, value)
