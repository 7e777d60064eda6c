"""Paint a picture and its labels together, so that they cannot disagree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emerdiff_probe.scenes.classes import OBJECT_OF_PART, SIZE, part_index
from emerdiff_probe.scenes.dice import Dice, smooth_noise
from emerdiff_probe.scenes.materials import Material, Place, painted
from emerdiff_probe.scenes.shapes import Shape

__all__ = ["Canvas"]

Colours = NDArray[np.int32]
Box = tuple[slice, slice]


class Canvas:
    """Hold the colours, part labels and instance numbers of a scene while it is painted.

    Attributes:
        colours: Integers (128, 128, 3); clipped to 0..255 at the end.
        parts: Indices into `PARTS` (128, 128).
        instances: Number of each pixel's thing (128, 128); 0 is the background, things count from
            1.
    """

    def __init__(self, dice: Dice) -> None:
        self._noise = smooth_noise(dice, SIZE, 10)
        self._light_from_left = dice.chance(50)
        self.colours = np.zeros((SIZE, SIZE, 3), np.int32)
        self.parts = np.zeros((SIZE, SIZE), np.uint8)
        self.instances = np.zeros((SIZE, SIZE), np.uint8)

    @property
    def objects(self) -> NDArray[np.uint8]:
        """Return indices into `OBJECTS` (128, 128)."""
        return OBJECT_OF_PART[self.parts]

    def paint(
        self,
        shape: Shape,
        part: str,
        material: Material,
        *,
        instance: int = 0,
        shade: int = 0,
    ) -> None:
        """Cover a shape with a surface and label it.

        Args:
            shape: Pixels to cover; those outside the canvas are cut.
            part: Name of the part class.
            material: Surface to paint. Its pattern starts at the shape's corner.
            instance: Number of the thing that the part belongs to.
            shade: Loss of brightness of the side away from the light, 0..256.
        """
        window = self._window(shape)
        if window is None:
            return
        box, bits, x, y = window
        colours = painted(material, self._place(shape, box, x, y))
        if shade:
            width = max(shape.right - shape.left, 1)
            depth = x - shape.left if self._light_from_left else shape.right - 1 - x
            # Rounded to four steps, so that surfaces have a lit and a dark side with edges between
            # them.
            step = np.clip(4 * depth // width, 0, 3)
            colours = colours * (276 - shade * step // 3)[..., None] >> 8
        self.colours[box][bits] = colours[bits]
        self.parts[box][bits] = part_index(part)
        self.instances[box][bits] = instance

    def decorate(self, shape: Shape, material: Material, over: str) -> None:
        """Paint only where the part `over` shows, without labelling, such as a poster."""
        window = self._window(shape)
        if window is None:
            return
        box, bits, x, y = window
        bits = bits & (self.parts[box] == part_index(over))
        colours = painted(material, self._place(shape, box, x, y))
        self.colours[box][bits] = colours[bits]

    def light(self, shape: Shape, factor: int) -> None:
        """Multiply colours by `factor` / 256 within a shape, such as a cast shadow."""
        window = self._window(shape)
        if window is None:
            return
        box, bits, _, _ = window
        self.colours[box][bits] = self.colours[box][bits] * factor >> 8

    def tint(self, factors: tuple[int, int, int]) -> None:
        """Multiply red, green and blue everywhere by factors / 256."""
        self.colours = self.colours * np.array(factors, np.int32) >> 8

    def image(self) -> NDArray[np.uint8]:
        """Return the finished picture, uint8 (128, 128, 3)."""
        return np.clip(self.colours, 0, 255).astype(np.uint8)

    def _place(self, shape: Shape, box: Box, x: Colours, y: Colours) -> Place:
        return Place(
            x - np.int32(shape.left),
            y - np.int32(shape.top),
            shape.right - shape.left,
            shape.bottom - shape.top,
            self._noise[box],
        )

    def _window(self, shape: Shape) -> tuple[Box, NDArray[np.bool_], Colours, Colours] | None:
        left, right = max(shape.left, 0), min(shape.right, SIZE)
        top, bottom = max(shape.top, 0), min(shape.bottom, SIZE)
        if left >= right or top >= bottom:
            return None
        x = np.arange(left, right)[None, :]
        y = np.arange(top, bottom)[:, None]
        bits = shape.inside(2 * x + 1, 2 * y + 1)
        box = (slice(top, bottom), slice(left, right))
        return box, bits, x.astype(np.int32), y.astype(np.int32)
