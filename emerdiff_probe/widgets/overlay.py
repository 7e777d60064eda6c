"""Draw segments as a layer over an image: few colours, so that a change costs few bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emerdiff_probe.views.colours import borders, palette
from emerdiff_probe.views.panels import png

__all__ = ["stained"]

_FINE: Final = 512
_LINES = np.array([[255, 255, 255, 255], [0, 0, 0, 255], [255, 212, 0, 255]], np.uint8)
"""The colours of borders, and yellow for masks drawn by hand."""


def stained(
    labels: NDArray[np.integer],
    alpha: float,
    chosen: Collection[int] = (),
    own: Sequence[NDArray[np.bool_]] = (),
    *,
    lines: bool = True,
) -> bytes:
    """Return segments in their colours, with lines between them, as a PNG file with transparency.

    Args:
        labels: The segment numbers (y, x), from 0 up.
        alpha: The opacity of the segments' colours, from 0 (outlines alone) to 1 (no image).
        chosen: Segments that keep their colours while all others, and the image below them, are
            dimmed to a third; if empty, all keep theirs.
        own: Further masks, (y, x), whose outlines are drawn in yellow on top.
        lines: Whether to draw lines between segments.
    """
    count = int(labels.max()) + 1
    colours = np.concatenate([palette(count), np.full((count, 1), 255)], 1).astype(np.float64)
    colours[:, 3] *= alpha
    if chosen:
        receding = np.ones(count, np.bool_)
        receding[list(chosen)] = False
        # A third of what is visible: less of the image comes through, and it is darker.
        through = (1 - alpha) / 3
        colours[receding, :3] *= alpha / 3 / (1 - through)
        colours[receding, 3] = 255 * (1 - through)
    table = np.concatenate([np.rint(colours).astype(np.uint8), _LINES])
    # Lines are thin on small images, too.
    repeats = max(1, _FINE // max(labels.shape))
    every: list[NDArray[Any]] = [
        each.repeat(repeats, 0).repeat(repeats, 1) for each in (labels, *own)
    ]
    drawn = every[0].astype(np.intp)
    for number, parts in enumerate(every if lines else every[1:]):
        before, after = borders(parts, 1)
        drawn[after] = count + 1
        drawn[before] = count if lines and number == 0 else count + 2
    if len(table) > 256:
        return png(table[drawn])
    return png(drawn.astype(np.uint8), table)
