"""Define materials: each part has a pattern of its own, at which its colours only hint.

A wall is made of bricks, a roof of tiles, a crown of leaves, whatever their colours. Every pattern
mixes two tones in fair shares, so that colour alone breaks a surface into its pattern and joins
surfaces of different things. All arithmetic is in integers; shares are in 1/256.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emerdiff_probe.scenes.dice import Dice

__all__ = ["COLOURS", "PATTERNS", "SURFACES", "Material", "Palette", "Place", "Surface", "painted"]

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
"""RGB values of the colours, 0 to 255, by the words that captions use."""

_ANY: Final = tuple(COLOURS)


@dataclass(frozen=True)
class Surface:
    """Describe what a part can be made of.

    Attributes:
        pattern: Pattern, one of `PATTERNS`; no two parts of the same thing share it.
        colours: Typical colours; the part also occurs in others.
        contrast: Smallest and largest difference between the two tones, 0..255.
        period: Smallest and largest repeat of the pattern in pixels.
        mixed: Whether the second tone can be another colour instead of a lighter or darker one.
    """

    pattern: str
    colours: tuple[str, ...]
    contrast: tuple[int, int]
    period: tuple[int, int]
    mixed: bool = False


SURFACES: Final[dict[str, Surface]] = {
    "sky": Surface("gradient", ("blue", "white", "grey", "pink", "orange"), (60, 110), (64, 64)),
    "cloud": Surface("billow", ("white", "grey", "pink"), (50, 80), (8, 8)),
    "sun": Surface("glow", ("yellow", "orange", "white"), (30, 60), (8, 8)),
    "moon": Surface("craters", ("white", "yellow"), (40, 60), (6, 6)),
    "hill": Surface("ridges", ("green", "brown", "grey", "purple", "blue"), (50, 90), (9, 12)),
    "grass": Surface("tufts", ("green", "green", "yellow", "brown", "white"), (50, 100), (6, 7)),
    "road": Surface("gravel", ("grey", "black", "brown", "white"), (50, 90), (4, 4)),
    "water": Surface("waves", ("blue", "blue", "green", "grey"), (60, 110), (7, 9), mixed=True),
    "fence": Surface("pickets", ("brown", "white", "grey", "green"), (70, 120), (8, 8), mixed=True),
    "house wall": Surface(
        "bricks",
        ("white", "yellow", "brown", "red", "grey", "pink", "orange", "blue"),
        (60, 110),
        (6, 8),
        mixed=True,
    ),
    "house roof": Surface(
        "tiles", ("red", "brown", "grey", "black", "green", "blue"), (70, 120), (6, 8), mixed=True
    ),
    "house door": Surface("boards", _ANY, (60, 100), (4, 5), mixed=True),
    "house window": Surface("panes", ("white", "blue", "yellow", "black"), (90, 150), (7, 7)),
    "tree trunk": Surface("bark", ("brown", "grey", "black", "white"), (70, 120), (5, 5)),
    "tree crown": Surface(
        "leaves", ("green", "green", "orange", "yellow", "red", "pink"), (70, 120), (6, 6), True
    ),
    "car body": Surface("panel", _ANY, (60, 110), (8, 8), mixed=True),
    "car window": Surface("glint", ("blue", "white", "grey", "black"), (90, 130), (12, 12)),
    "car wheel": Surface("hub", ("black", "black", "grey", "white"), (130, 160), (8, 8)),
    "person head": Surface("hair", ("brown", "pink", "orange", "white"), (120, 160), (8, 8)),
    "person torso": Surface("stripes", _ANY, (80, 150), (7, 9), mixed=True),
    "person legs": Surface("seam", _ANY, (50, 90), (8, 8)),
    "animal body": Surface(
        "patches", ("brown", "white", "black", "grey", "orange", "yellow"), (90, 150), (8, 8), True
    ),
    "animal head": Surface("muzzle", ("brown", "white", "black"), (60, 110), (8, 8)),
    "animal legs": Surface("hoof", ("brown", "white", "black"), (110, 150), (8, 8)),
    "boat hull": Surface("planks", _ANY, (80, 130), (6, 6), mixed=True),
    "boat sail": Surface(
        "cloth", ("white", "white", "red", "orange", "yellow", "blue"), (60, 110), (9, 9), True
    ),
}
"""Surface of every part class."""


@dataclass(frozen=True)
class Material:
    """Describe a surface in two tones.

    Attributes:
        name: Colour word of `base`.
        second_name: Colour word of `second`; equal to `name` where it is only another tone.
        base, second: RGB values, 0..255.
        pattern: Pattern, one of `PATTERNS`.
        period: Repeat of the pattern in pixels.
        phase: Start of the pattern in pixels.
    """

    name: str
    second_name: str
    base: Colour
    second: Colour
    pattern: str
    period: int
    phase: int


@dataclass(frozen=True)
class Place:
    """Describe the pixels that a pattern is drawn on.

    Attributes:
        x, y: Columns (1, w) and rows (h, 1), counted from the corner of the painted shape.
        width, height: Size of that shape in pixels, including what the frame cuts off.
        noise: Smooth values 0..255 (h, w).
    """

    x: Field
    y: Field
    width: int
    height: int
    noise: Field


def painted(material: Material, place: Place) -> NDArray[np.int32]:
    """Return the colours of a material at some pixels, integers 0..255 (h, w, 3)."""
    share = PATTERNS[material.pattern](place, material.period, material.phase)[..., None]
    base = np.array(material.base, np.int32)
    return base + (((np.array(material.second, np.int32) - base) * share) >> 8)


def _full(on: NDArray[np.bool_], place: Place) -> Field:
    return np.broadcast_to(np.where(on, np.int32(256), np.int32(0)), place.noise.shape)


def _scattered(a: Field, b: Field) -> NDArray[np.int64]:
    """Hash pairs of integers to 0..255, the same on every machine."""
    mixed = (a.astype(np.int64) * 73_856_093) ^ (b.astype(np.int64) * 19_349_663)
    mixed = (mixed ^ (mixed >> 13)) * 1_274_126_177
    return (mixed >> 7) & 255


def _gradient(p: Place, period: int, phase: int) -> Field:
    return np.broadcast_to(np.clip(p.y * 256 // max(p.height, 1), 0, 256), p.noise.shape)


def _billow(p: Place, period: int, phase: int) -> Field:
    return np.clip((p.noise - 100) * 3, 0, 256)


def _squared_radius(p: Place) -> Field:
    """Return the squared distance from the shape's middle: 256 at the middle of its left side."""
    across, down = 2 * p.x + 1 - p.width, 2 * p.y + 1 - p.height
    return (across * across + down * down) * 256 // max(p.width * p.width, 1)


def _glow(p: Place, period: int, phase: int) -> Field:
    return np.clip(_squared_radius(p), 0, 256)


def _craters(p: Place, period: int, phase: int) -> Field:
    return _full(_scattered(p.x // 3 + 0 * p.y, p.y // 3 + 0 * p.x + phase) > 190, p)


def _ridges(p: Place, period: int, phase: int) -> Field:
    return _full((p.x + 2 * p.y + (p.noise >> 4) + phase) % (2 * period) < period - 2, p)


def _tufts(p: Place, period: int, phase: int) -> Field:
    row = p.y // period
    blade = ((p.x + row * 37 + phase) % period < 3) & (p.y % period < period - 1)
    return _full(blade & (_scattered(p.x // period + 0 * row, row + phase) > 40), p)


def _gravel(p: Place, period: int, phase: int) -> Field:
    return _full(_scattered(p.x // 2 + 0 * p.y, p.y // 2 + 0 * p.x + phase) > 140, p)


def _waves(p: Place, period: int, phase: int) -> Field:
    crest = np.abs((p.x + phase) % 16 - 8) // 2
    return _full((p.y + crest) % period < period // 2, p)


def _pickets(p: Place, period: int, phase: int) -> Field:
    rails = (np.abs(p.y * 3 - p.height) < 5) | (np.abs(p.y * 3 - 2 * p.height) < 5)
    return _full((p.x % period < 2) | rails, p)


def _bricks(p: Place, period: int, phase: int) -> Field:
    course = p.y // period
    joint = (p.x + course % 2 * period + phase) % (2 * period) < 2
    return _full((p.y % period < 2) | joint, p)


def _tiles(p: Place, period: int, phase: int) -> Field:
    course = p.y // period
    across = (p.x + course % 2 * (period // 2) + phase) % period - period // 2
    return _full(p.y % period >= period - 4 + np.abs(across) // 2, p)


def _boards(p: Place, period: int, phase: int) -> Field:
    frame = (p.y < 2) | (p.x < 1) | (p.x >= p.width - 1)
    return _full((p.x % period < 2) | frame, p)


def _panes(p: Place, period: int, phase: int) -> Field:
    cross = (np.abs(2 * p.x + 1 - p.width) < 3) | (np.abs(2 * p.y + 1 - p.height) < 3)
    frame = (p.x < 1) | (p.y < 1) | (p.x >= p.width - 1) | (p.y >= p.height - 1)
    return _full(cross | frame, p)


def _bark(p: Place, period: int, phase: int) -> Field:
    return _full((p.x + (p.noise >> 6) + phase) % period < 2, p)


def _leaves(p: Place, period: int, phase: int) -> Field:
    column, row = p.x // period, p.y // period
    jitter = (_scattered(column + phase + 0 * row, row + 0 * column) % 3).astype(np.int32) - 1
    across, down = p.x % period - period // 2 + jitter, p.y % period - period // 2
    return _full(across * across + down * down < 8, p)


def _panel(p: Place, period: int, phase: int) -> Field:
    return _full(p.y * 100 > p.height * 62, p)


def _glint(p: Place, period: int, phase: int) -> Field:
    return _full((p.x + p.y + phase) % period < 5, p)


def _hub(p: Place, period: int, phase: int) -> Field:
    return _full(_squared_radius(p) < 60, p)


def _hair(p: Place, period: int, phase: int) -> Field:
    return _full(p.y * 100 < p.height * 42, p)


def _stripes(p: Place, period: int, phase: int) -> Field:
    return _full((p.y + phase) % period < period // 2, p)


def _seam(p: Place, period: int, phase: int) -> Field:
    return _full((p.y * 100 > p.height * 84) | (np.abs(2 * p.x + 1 - p.width) < 4), p)


def _patches(p: Place, period: int, phase: int) -> Field:
    return np.clip((p.noise - 128) * 16, 0, 256)


def _muzzle(p: Place, period: int, phase: int) -> Field:
    return _full(p.noise < 104, p)


def _hoof(p: Place, period: int, phase: int) -> Field:
    return _full(p.y * 100 > p.height * 70, p)


def _planks(p: Place, period: int, phase: int) -> Field:
    return _full(p.y % period < 2, p)


def _cloth(p: Place, period: int, phase: int) -> Field:
    return _full((p.x + 2 * p.y + phase) % (2 * period) < period - 2, p)


PATTERNS: Final[dict[str, Callable[[Place, int, int], Field]]] = {
    "gradient": _gradient,
    "billow": _billow,
    "glow": _glow,
    "craters": _craters,
    "ridges": _ridges,
    "tufts": _tufts,
    "gravel": _gravel,
    "waves": _waves,
    "pickets": _pickets,
    "bricks": _bricks,
    "tiles": _tiles,
    "boards": _boards,
    "panes": _panes,
    "bark": _bark,
    "leaves": _leaves,
    "panel": _panel,
    "glint": _glint,
    "hub": _hub,
    "hair": _hair,
    "stripes": _stripes,
    "seam": _seam,
    "patches": _patches,
    "muzzle": _muzzle,
    "hoof": _hoof,
    "planks": _planks,
    "cloth": _cloth,
}
"""Patterns by name: functions of (pixels, period, phase) that give the second tone's share, 0..256,
shape (h, w)."""


class Palette:
    """Draw the materials of one scene.

    Args:
        dice: Random numbers of the scene.
        only: Two colours to which all surfaces are limited, as in the dissociation subset.
    """

    def __init__(self, dice: Dice, only: tuple[str, str] | None = None) -> None:
        self._dice = dice
        self._only = only
        # A scene has few colours, so that each recurs across classes.
        self._shared = dice.sample(_ANY, 4)

    def material(self, part: str, colours: tuple[str, ...] | None = None) -> Material:
        """Draw a new material for a part class; `colours` replaces its typical colours."""
        dice, surface = self._dice, SURFACES[part]
        if self._only is not None:
            name, second_name = dice.sample(self._only, 2)
        else:
            name = self._colour(colours or surface.colours)
            another = surface.mixed and dice.chance(60)
            second_name = dice.choose(self._shared) if another else name
        base = self._vary(COLOURS[name])
        if second_name != name:
            second = self._vary(COLOURS[second_name])
        else:
            difference = dice.between(*surface.contrast)
            # Away from the base, so that the two tones differ by the contrast asked for.
            second = _shifted(base, -difference if sum(base) > 330 else difference)
        phase = dice.between(0, 127)
        period = dice.between(*surface.period)
        return Material(name, second_name, base, second, surface.pattern, period, phase)

    def _colour(self, typical: tuple[str, ...]) -> str:
        common = [name for name in typical if name in self._shared]
        if common and self._dice.chance(70):
            return self._dice.choose(common)
        if self._dice.chance(25):
            return self._dice.choose(self._shared)
        return self._dice.choose(typical)

    def _vary(self, colour: Colour) -> Colour:
        shift = self._dice.between(-26, 26)
        red, green, blue = (channel + self._dice.between(-14, 14) for channel in colour)
        return _shifted((red, green, blue), shift)


def _shifted(colour: Colour, by: int) -> Colour:
    red, green, blue = (min(max(channel + by, 0), 255) for channel in colour)
    return red, green, blue
