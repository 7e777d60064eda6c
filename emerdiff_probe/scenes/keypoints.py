"""Find named points of a scene's things, as truth for correspondences between scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from emerdiff_probe.scenes.classes import PARTS

__all__ = ["KeyPoint", "keypoints"]

_IN_PIECES: Final = ("house window", "car window", "car wheel")
"""Parts that a thing has several of, side by side."""

_SMALLEST: Final = 9
"""Smallest number of visible pixels for a part, or for one of several, to have a point."""


@dataclass(frozen=True)
class KeyPoint:
    """Hold the centre of what is visible of one part of a thing.

    Attributes:
        name: Name of the part, as in `PARTS`. Where a thing has several, their number from the left
            and the number of visible ones follow, as in ``car wheel 1 of 2``.
        instance: Number of the thing, as in `Scene.instances`.
        y, x: Position of the pixel's centre, in pixels: that of pixel i is i + 0.5.
    """

    name: str
    instance: int
    y: float
    x: float


def keypoints(parts: NDArray[np.uint8], instances: NDArray[np.uint8]) -> tuple[KeyPoint, ...]:
    """Return the key points of all things in a picture, sorted by thing and part.

    A point is the pixel of its part nearest to the mean of the part's visible pixels, so it is
    always on the part itself. A part with fewer than 9 visible pixels has no point.

    Args:
        parts: Indices into `PARTS` (y, x).
        instances: Number of each pixel's thing (y, x); 0 for the background.
    """
    found = []
    for instance in range(1, int(instances.max(initial=0)) + 1):
        thing = instances == instance
        for part in np.unique(parts[thing]):
            name, seen = PARTS[part], thing & (parts == part)
            pieces = _pieces(seen) if name in _IN_PIECES else [seen]
            pieces = [piece for piece in pieces if np.count_nonzero(piece) >= _SMALLEST]
            for number, piece in enumerate(pieces, start=1):
                order = f" {number} of {len(pieces)}" if name in _IN_PIECES else ""
                found.append(KeyPoint(f"{name}{order}", instance, *_centre(piece)))
    return tuple(found)


def _pieces(seen: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return the connected pieces, from left to right."""
    numbered, count = label(seen)
    pieces = [numbered == number for number in range(1, count + 1)]
    return sorted(pieces, key=lambda piece: float(np.nonzero(piece)[1].mean()))


def _centre(seen: NDArray[np.bool_]) -> tuple[float, float]:
    places = np.argwhere(seen)
    nearest = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
    return float(nearest[0]) + 0.5, float(nearest[1]) + 0.5
