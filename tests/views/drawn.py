"""Reading figures back."""

import base64
import io

import numpy as np
from PIL import Image

HOSTILE = '<b>x</b> <script>alert(1)</script> & <a href="y">'


def pixels(trace):
    """Of an image, (y, x, rgb)."""
    kind, _, data = trace.source.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def maps(figure):
    """Values of all heatmaps, in the order they were drawn in."""
    return [np.asarray(trace.z) for trace in figure.data if trace.type == "heatmap"]


def images(figure):
    """Pixels of all images."""
    return [pixels(trace) for trace in figure.data if trace.type == "image"]


def texts(figure):
    """All that a browser would read tags in."""
    found = [figure.layout.title.text or ""]
    found += [note.text for note in figure.layout.annotations]
    found += [getattr(trace, "hovertemplate", None) or "" for trace in figure.data]
    return found


def extent(trace, rows, columns):
    """Left, right, top and bottom edge of a grid of cells."""
    left, top = trace.x0 - trace.dx / 2, trace.y0 - trace.dy / 2
    return left, left + trace.dx * columns, top, top + trace.dy * rows


def assert_escaped(figure):
    """No markup of a hostile text is left."""
    for text in texts(figure):
        assert "<script>" not in text
        assert "<a" not in text
        assert "<b>x" not in text
