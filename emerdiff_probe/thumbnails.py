"""Small images in HTML, as notebooks show photographs, scenes and runs."""

from __future__ import annotations

import base64
import html
import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["thumbnail"]

_SIDE: Final = 256
"""Length of an image's longer side on the screen, in pixels."""


def thumbnail(pixels: NDArray[np.uint8], caption: str) -> str:
    """Return an image with its caption as HTML that needs no file, and reads on every ground.

    Args:
        pixels: (height, width, 3). A large image is made smaller: it would put megabytes into a
            notebook.
        caption: Text below it; it is escaped.
    """
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    image = Image.fromarray(pixels)
    if scale < 0.5:
        image.thumbnail((2 * _SIDE, 2 * _SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    source = base64.b64encode(file.getvalue()).decode()
    words = html.escape(caption)
    wide, tall = max(1, round(width * scale)), max(1, round(height * scale))
    return (
        "<figure style='margin:0;max-width:max-content'>"
        f"<img src='data:image/png;base64,{source}' width='{wide}' height='{tall}' "
        f"alt='{words}' style='image-rendering:pixelated'>"
        f"<figcaption style='contain:inline-size'>{words}</figcaption></figure>"
    )
