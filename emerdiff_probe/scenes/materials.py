"""What surfaces look like: colours by name and the patterns made of two of them.

Every class draws from the same colours and the same patterns, so neither tells the class.
All arithmetic is in integers; strengths and shares are in 1/256.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emerdiff_probe.scenes.dice import Dice

__all__ = ["COLOURS", "Material", "Palette"]

Colour = tuple[int, int, int]
Field = NDArray[np.int32]

COLOURS: Final[dict[str, Colour]] = {
    "red": (196, 48, 44),
    "orange": (226, 128, 40),
    "yellow": (228, 202, 68),
    "green": (72, 146, 70),
    "blue": (58, 98, 186),
    "purple": (126, 74, 158),
    "pink": (228, 142, 172),
    "brown": (124, 84, 54),
    "white": (232, 230, 224),
    "grey": (132, 132, 134),
    "black": (46, 46, 52),
}
"""RGB of the colours, 0 to 255, by the words that captions have for them."""

PATTERNS: Final = ("plain", "stripes", "checks", "spots", "halves")


@dataclass(frozen=True)
class Material:
    """A surface of two colours.

    Attributes:
        name: The colour word of `base`, which covers more of the surface than `second`.
        base, second: RGB, 0..255.
        pattern: One of plain, stripes, checks, spots, halves.
        period: Size of the pattern's repeat in pixels.
        slope: Direction of stripes and halves, as the steps (x, y) of their normal.
        phase: Where the pattern starts, in pixels.
    """

    name: str
    base: Colour
    second: Colour
    pattern: str
    period: int
    slope: tuple[int, int]
    phase: int

    def paint(self, x: Field, y: Field, noise: Field) -> NDArray[np.int32]:
        """Colours at pixels.

        Args:
            x, y: Pixel coordinates, broadcastable to (h, w).
            noise: Shape (h, w), 0..255; where `spots` lie.

        Returns:
            Shape (h, w, 3), integers 0..255.
        """
        share = np.broadcast_to(self._share(x, y, noise), noise.shape)[..., None]
        base = np.array(self.base, np.int32)
        return base + (((np.array(self.second, np.int32) - base) * share) >> 8)

    def _share(self, x: Field, y: Field, noise: Field) -> Field:
        """How much of the second colour shows, 0..256."""
        period = self.period
        if self.pattern == "stripes":
            across = x * self.slope[0] + y * self.slope[1] + self.phase
            length = period * (abs(self.slope[0]) + abs(self.slope[1]))
            return _soft(across % length, length)
        if self.pattern == "checks":
            column = _soft((x + self.phase) % period, period)
            row = _soft((y + self.phase) % period, period)
            return np.abs(column - row)
        if self.pattern == "spots":
            return np.clip((noise - 132) * 12, 0, 256)
        if self.pattern == "halves":
            across = x * self.slope[0] + y * self.slope[1] - self.phase
            return np.where(across > 0, 256, 0)
        return np.int32(0) * x * y


def _soft(position: Field, length: int) -> Field:
    """A pulse over the first two fifths of a period, with edges about a pixel wide."""
    width = length * 2 // 5
    return np.clip(np.minimum(position, width - position) * 160 + 128, 0, 256)


class Palette:
    """Draws the materials of one scene.

    Args:
        dice: The scene's dice.
        only: Limits all surfaces to these colours, the same two everywhere, always patterned:
            what the dissociation subset does.
    """

    def __init__(self, dice: Dice, only: tuple[str, str] | None = None) -> None:
        self._dice = dice
        self._only = only
        # Three quarters of the surfaces share four colours, so that a colour recurs across classes.
        self._shared = dice.sample(tuple(COLOURS), 4)

    def material(self, *, plain: int = 30, wide: bool = False) -> Material:
        """A new surface.

        Args:
            plain: Chance in percent of no pattern; never where colours are limited.
            wide: For large surfaces: longer repeats.
        """
        dice = self._dice
        if self._only is None:
            first, other = dice.sample(self._shared if dice.chance(75) else tuple(COLOURS), 2)
            patterned = not dice.chance(plain)
        else:
            first, other = dice.sample(self._only, 2)
            patterned = True
        base = self._vary(COLOURS[first])
        if self._only is None and dice.chance(40):
            # A second colour of the same hue: lighter or darker, as paint and bark are.
            factor = dice.choose((120, 150, 340, 400))
            second = _clip(tuple(channel * factor // 256 for channel in base))
        else:
            second = self._vary(COLOURS[other])
        if wide and self._only is None:
            # Large surfaces are calmer, or the things before them could not be made out.
            mix = dice.between(60, 130)
            second = _clip(
                tuple(a + (b - a) * mix // 256 for a, b in zip(base, second, strict=True))
            )
        pattern = dice.choose(PATTERNS[1:]) if patterned else "plain"
        period = dice.between(28, 48) if wide else dice.between(14, 24)
        slope = dice.choose(((1, 0), (0, 1), (1, 1), (1, -1), (1, 2), (2, -1)))
        return Material(first, base, second, pattern, period, slope, dice.between(0, 127))

    def beside(self, neighbour: Material) -> Material:
        """A surface for a part next to `neighbour`: at times of just its colours.

        That is where a label edge has no colour edge.
        """
        if not self._dice.chance(50):
            return self.material()
        fresh = self.material()
        return replace(fresh, name=neighbour.name, base=neighbour.base, second=neighbour.second)

    def _vary(self, colour: Colour) -> Colour:
        shift = self._dice.between(-18, 18)
        return _clip(tuple(channel + shift + self._dice.between(-10, 10) for channel in colour))


def _clip(colour: tuple[int, ...]) -> Colour:
    red, green, blue = (min(max(channel, 0), 255) for channel in colour)
    return red, green, blue
