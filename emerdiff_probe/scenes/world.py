"""A scene: a landscape, its light, the things in it, a caption and the exact labels."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.scenes.canvas import Canvas
from emerdiff_probe.scenes.classes import SIZE, Split, split_of
from emerdiff_probe.scenes.dice import Dice
from emerdiff_probe.scenes.keypoints import KeyPoint, keypoints
from emerdiff_probe.scenes.materials import COLOURS, Palette
from emerdiff_probe.scenes.shapes import ellipse, polygon, rectangle, union
from emerdiff_probe.scenes.things import BUILDERS, HEIGHTS, crescent

__all__ = ["CAPTION_WORDS", "NAMED_FROM", "Scene", "scene"]

CAPTION_WORDS: Final[tuple[str, ...]] = (
    *("a", "an", "the", ",", "and", "of", "in", "with", "on", "by", "at", "under", "picture"),
    *("photo", "scene", "day", "night", "sun", "moon", "sky", "cloud", "clouds", "hill", "hills"),
    *("grass", "road", "water", "fence"),
    *BUILDERS,
    *COLOURS,
)
"""Every word that a caption can hold."""

NAMED_FROM: Final = 150
"""Pixels that must be seen of a thing for the caption to name it."""


@dataclass(frozen=True)
class Scene:
    """A picture of the small world with the truth about every pixel.

    Attributes:
        seed: The number it was made from; its split follows from it.
        image: uint8, shape (128, 128, 3), RGB.
        parts: uint8, shape (128, 128), indices into `PARTS`.
        objects: uint8, shape (128, 128), indices into `OBJECTS`.
        instances: uint8, shape (128, 128); 0 for the landscape, things count from 1 in the order
            in which they were painted (far to near).
        caption: What the picture shows, in `CAPTION_WORDS`.
        dissociation: Whether it is of the subset in which colour tells nothing.
    """

    seed: int
    image: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    objects: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    caption: str
    dissociation: bool

    @property
    def keypoints(self) -> tuple[KeyPoint, ...]:
        """The centres of the things' visible parts, by name: truth for correspondences."""
        return keypoints(self.parts, self.instances)

    @property
    def split(self) -> Split:
        """train, validation or test."""
        return split_of(self.seed)


def scene(seed: int, *, dissociation: bool = False) -> Scene:
    """Makes the scene of a seed: the same bits on every machine.

    Args:
        seed: 0 or larger. `TRAIN` and `VALIDATION` are ranges of seeds, and every seed beyond
            them belongs to the test split.
        dissociation: Makes the scene of another subset, in which all surfaces share two colours
            and differ in the direction and size of their patterns only: edges of colour are
            mostly no edges of labels there, and edges of labels often no edges of colour.

    Raises:
        InputError: The seed is not an integer of 0 or more.
    """
    try:
        seed = operator.index(seed)
    except TypeError:
        raise InputError(f"a scene's seed is an integer, not {seed!r}; try scene(0)") from None
    if seed < 0:
        raise InputError(f"a scene's seed is 0 or larger, not {seed}; try scene({-seed})")
    dice = Dice(seed, int(dissociation))
    pair: tuple[str, str] | None = None
    if dissociation:
        first, second = dice.sample(tuple(COLOURS), 2)
        pair = (first, second)
    palette = Palette(dice, pair)
    canvas = Canvas(dice)
    night = dice.chance(15)
    horizon = dice.between(46, 68)
    sky = _sky(canvas, dice, palette, horizon, night)
    ground, grass = _ground(canvas, dice, palette, horizon)
    named = _things(canvas, dice, palette, horizon, ground)
    _light(canvas, dice, night)
    return Scene(
        seed=seed,
        image=canvas.image(),
        parts=canvas.parts,
        objects=canvas.objects,
        instances=canvas.instances,
        caption=_caption(dice, named, ground, {"grass": grass, "sky": sky}, night),
        dissociation=dissociation,
    )


def _sky(canvas: Canvas, dice: Dice, palette: Palette, horizon: int, night: bool) -> str:
    """Paints what is above the horizon; gives the sky's colour word."""
    sky = palette.material(wide=True)
    canvas.paint(rectangle(0, 0, SIZE, horizon), "sky", sky, shade=70, wide=True)
    if dice.chance(60):
        x, y, radius = dice.between(14, 114), dice.between(12, 30), dice.between(8, 13)
        if night:
            shape, part = crescent(x, y, radius + 2, dice.choose((-1, 1))), "moon"
        else:
            shape, part = ellipse(x, y, radius, radius), "sun"
        canvas.paint(shape, part, palette.material(plain=60))
    if dice.chance(55):
        left, right = dice.between(-20, 70), dice.between(60, 148)
        peak = horizon - dice.between(14, 34)
        slopes = polygon((left - 40, horizon), (left, peak), (right, horizon))
        round_top = ellipse(right, horizon, dice.between(30, 60), dice.between(10, 24))
        shape = slopes if dice.chance(60) else union(slopes, round_top)
        canvas.paint(shape, "hill", palette.material(wide=True), shade=80, wide=True)
    for _ in range(dice.choose((0, 0, 1, 2))):
        x, y = dice.between(10, 118), dice.between(10, 34)
        width, height = dice.between(12, 22), dice.between(5, 9)
        puffs = union(
            ellipse(x, y, width, height),
            ellipse(x - width // 2, y - height // 2, width // 2, height),
            ellipse(x + width // 3, y - height * 2 // 3, width // 2, height),
        )
        canvas.paint(puffs, "cloud", palette.material(), shade=40)
    return sky.name


def _ground(canvas: Canvas, dice: Dice, palette: Palette, horizon: int) -> tuple[str, str]:
    """Paints the land; gives the word for what crosses it, or "grass", and the grass's colour."""
    grass = palette.material(wide=True)
    canvas.paint(rectangle(0, horizon, SIZE, SIZE), "grass", grass, shade=70, wide=True)
    crossing = dice.choose(("grass", "grass", "road", "road", "water", "water"))
    if crossing == "road":
        road = palette.material(wide=True)
        if dice.chance(50):
            x, half = dice.between(30, 98), dice.between(26, 44)
            end = x + dice.between(-24, 24)
            shape = polygon(
                (end - 7, horizon), (end + 7, horizon), (x + half, SIZE), (x - half, SIZE)
            )
            marks = polygon((end, horizon), (end + 1, horizon), (x + 4, SIZE), (x - 3, SIZE))
        else:
            top = dice.between(horizon + 10, 92)
            bottom = top + dice.between(18, 28)
            shape = rectangle(0, top, SIZE, bottom)
            marks = rectangle(0, (top + bottom) // 2 - 1, SIZE, (top + bottom) // 2 + 2)
        canvas.paint(shape, "road", road, shade=40, wide=True)
        if dice.chance(60):
            canvas.decorate(marks, palette.material(), "road")
    elif crossing == "water":
        if dice.chance(55):
            shape = rectangle(0, horizon, SIZE, horizon + dice.between(22, 38))
        else:
            shape = ellipse(
                dice.between(20, 108),
                dice.between(96, 114),
                dice.between(34, 56),
                dice.between(14, 22),
            )
        canvas.paint(shape, "water", palette.material(plain=10, wide=True), shade=40, wide=True)
    if dice.chance(22):
        left, width = dice.between(-30, 60), dice.between(50, 110)
        top = horizon + dice.between(-4, 8)
        bottom = top + dice.between(14, 20)
        pickets = [
            polygon((x, bottom), (x, top + 4), (x + 4, top), (x + 8, top + 4), (x + 8, bottom))
            for x in range(left, left + width, 8)
        ]
        canvas.paint(union(*pickets), "fence", palette.material())
        crossing = "fence" if crossing == "grass" else crossing
    return crossing, grass.name


def _things(
    canvas: Canvas, dice: Dice, palette: Palette, horizon: int, ground: str
) -> list[tuple[str, str]]:
    """Paints one to three things, far ones first; gives (kind, colour word) of each."""
    kinds = [kind for kind in BUILDERS if kind != "boat" or ground == "water"]
    count = dice.choose((1, 2, 2, 3, 3))
    # Columns a third of the picture apart, so that things overlap without burying each other.
    columns = dice.sample((24, 64, 104), count)
    rows = sorted(dice.between(horizon + 22, 124) for _ in range(count))
    named = []
    for instance, (column, row) in enumerate(zip(columns, rows, strict=True), start=1):
        kind = dice.choose(kinds)
        if kind == "boat":
            row = min(row, horizon + 40)
        smallest, largest = HEIGHTS[kind]
        # Far things are smaller: from 75 % at the horizon to the full height at the lower edge.
        scale = 75 + 25 * (row - horizon) // (SIZE - horizon)
        height = dice.between(smallest, largest) * scale // 100
        x = column + dice.between(-8, 8)
        canvas.light(ellipse(x, row, height * 2 // 5, max(height // 12, 3)), 130)
        named.append((kind, BUILDERS[kind](canvas, dice, palette, x, row, height, instance)))
    # A thing that others hide is not in the caption.
    seen = np.bincount(canvas.instances.ravel(), minlength=count + 1)
    return [thing for instance, thing in enumerate(named, start=1) if seen[instance] >= NAMED_FROM]


def _light(canvas: Canvas, dice: Dice, night: bool) -> None:
    """Shadows of what is outside the picture, pools of light, and the colour of the hour."""
    if dice.chance(40):
        x, width, lean = dice.between(-20, 110), dice.between(12, 34), dice.between(-40, 40)
        top = dice.between(0, 60)
        shape = polygon((x, top), (x + width, top), (x + width + lean, SIZE), (x + lean, SIZE))
        canvas.light(shape, dice.choose((150, 170, 190, 320)))
    if dice.chance(20):
        pool = ellipse(
            dice.between(10, 118), dice.between(20, 118), dice.between(16, 36), dice.between(12, 30)
        )
        canvas.light(pool, dice.choose((150, 330)))
    if night:
        canvas.tint((140, 150, 196))
    elif dice.chance(35):
        canvas.tint(dice.choose(((290, 240, 190), (225, 240, 275), (280, 275, 262))))


def _caption(
    dice: Dice, named: list[tuple[str, str]], ground: str, wide: dict[str, str], night: bool
) -> str:
    phrases = [
        f"{'an' if colour == 'orange' else 'a'} {colour} {kind}" for kind, colour in named[-3:]
    ]
    *first, last = phrases or [f"a {ground} scene"]
    text = f"{' , '.join(first)} and {last}" if first else last
    if dice.chance(25):
        text = f"{dice.choose(('a picture of', 'a photo of'))} {text}"
    if ground == "fence":
        text += " by a fence"
    elif ground in {"road", "water"} and dice.chance(60):
        text += {"road": " by the road", "water": " by the water"}[ground]
    # The colours of the large surfaces are what a caption can tell most of a picture by.
    text += "".join(f" , {colour} {name}" for name, colour in wide.items() if dice.chance(65))
    return text + (" at night" if night else "")
