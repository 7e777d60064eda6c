"""Segments as a layer over a picture: few colours, so that a change of them costs few bytes."""

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
"""Of borders, and in yellow of masks drawn by hand."""


def stained(
    labels: NDArray[np.integer],
    alpha: float,
    chosen: Collection[int] = (),
    own: Sequence[NDArray[np.bool_]] = (),
    *,
    lines: bool = True,
) -> bytes:
    """Segments in their colours, with lines between them, as a PNG file with transparency.

    Args:
        labels: (y, x), from 0 up.
        alpha: Share of the segments' colours, from 0 (outlines alone) to 1 (no picture).
        chosen: Segments that keep their colours while all others, and the picture below them, go
            down to a third; without any all keep theirs.
        own: Further masks, (y, x), whose outlines are drawn in yellow above.
        lines: Whether there are lines between segments.
    """
    count = int(labels.max()) + 1
    colours = np.concatenate([palette(count), np.full((count, 1), 255)], 1).astype(np.float64)
    colours[:, 3] *= alpha
    if chosen:
        receding = np.ones(count, np.bool_)
        receding[list(chosen)] = False
        # A third of what is seen: less of the picture comes through, and it is darker.
        through = (1 - alpha) / 3
        colours[receding, :3] *= alpha / 3 / (1 - through)
        colours[receding, 3] = 255 * (1 - through)
    table = np.concatenate([np.rint(colours).astype(np.uint8), _LINES])
    # Lines are thin on small pictures, too.
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
