"""Build plane shapes that decide with integers which pixels lie inside them.

Coordinates are pixels; the centre of pixel i is i + 1/2, so comparisons run in half pixels, where
every centre is an odd integer and nothing is ever rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Point", "Shape", "band", "ellipse", "polygon", "rectangle", "union", "without"]

Bits = NDArray[np.bool_]
Grid = NDArray[np.int64]
Point = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """Describe a set of pixels within a box.

    Attributes:
        left, top, right, bottom: Bounds in pixels; right and bottom are excluded.
        inside: Function from half-pixel coordinates of pixel centres, x (1, w) and y (h, 1), to
            booleans (h, w).
    """

    left: int
    top: int
    right: int
    bottom: int
    inside: Callable[[Grid, Grid], Bits]


def rectangle(left: int, top: int, right: int, bottom: int) -> Shape:
    """Return the pixels of a box, right and bottom excluded."""
    return Shape(
        left,
        top,
        right,
        bottom,
        lambda x, y: (x > 2 * left) & (x < 2 * right) & (y > 2 * top) & (y < 2 * bottom),
    )


def ellipse(x: int, y: int, radius_x: int, radius_y: int) -> Shape:
    """Return an upright ellipse around (x, y)."""

    def inside(px: Grid, py: Grid) -> Bits:
        across = (px - 2 * x) * radius_y
        down = (py - 2 * y) * radius_x
        return across**2 + down**2 <= (2 * radius_x * radius_y) ** 2

    return Shape(x - radius_x, y - radius_y, x + radius_x, y + radius_y, inside)


def polygon(*points: Point) -> Shape:
    """Return a simple polygon, by counting the edges that a ray to the right crosses."""
    xs, ys = zip(*points, strict=True)

    def inside(px: Grid, py: Grid) -> Bits:
        odd = np.zeros(np.broadcast_shapes(px.shape, py.shape), bool)
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            if y0 == y1:
                continue
            if y0 > y1:
                (x0, y0), (x1, y1) = (x1, y1), (x0, y0)
            # In half pixels, centres are odd and vertices even, so no centre is level with a
            # vertex.
            level = (py > 2 * y0) & (py < 2 * y1)
            odd ^= level & ((px - 2 * x0) * (y1 - y0) < (py - 2 * y0) * (x1 - x0))
        return odd

    return Shape(min(xs), min(ys), max(xs), max(ys), inside)


def band(start: Point, end: Point, width: int) -> Shape:
    """Return a strip between two points, `width` pixels across, measured along the x axis."""
    (x0, y0), (x1, y1) = start, end
    half = width // 2
    rest = width - half
    return polygon((x0 - half, y0), (x0 + rest, y0), (x1 + rest, y1), (x1 - half, y1))


def union(*shapes: Shape) -> Shape:
    """Return the pixels in any of the shapes."""

    def inside(x: Grid, y: Grid) -> Bits:
        bits = shapes[0].inside(x, y)
        for shape in shapes[1:]:
            bits = bits | shape.inside(x, y)
        return bits

    return Shape(
        min(shape.left for shape in shapes),
        min(shape.top for shape in shapes),
        max(shape.right for shape in shapes),
        max(shape.bottom for shape in shapes),
        inside,
    )


def without(shape: Shape, hole: Shape) -> Shape:
    """Return the pixels of `shape` that are not in `hole`."""
    return Shape(
        shape.left,
        shape.top,
        shape.right,
        shape.bottom,
        lambda x, y: shape.inside(x, y) & ~hole.inside(x, y),
    )
