"""Make a scene: a landscape, its light, the things in it, a caption and exact labels."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.scenes.canvas import Canvas
from emerdiff_probe.scenes.captions import Landscape, Thing, caption
from emerdiff_probe.scenes.classes import SIZE, Split, part_index, split_of
from emerdiff_probe.scenes.dice import Dice
from emerdiff_probe.scenes.keypoints import KeyPoint, keypoints
from emerdiff_probe.scenes.materials import COLOURS, Material, Palette
from emerdiff_probe.scenes.shapes import ellipse, polygon, rectangle, union
from emerdiff_probe.scenes.things import BUILDERS, HEIGHTS, MAIN_PARTS, Materials, crescent
from emerdiff_probe.thumbnails import thumbnail

__all__ = ["NAMED_FROM", "Scene", "scene"]

NAMED_FROM: Final = 150
"""Smallest number of visible pixels for a caption to name a thing."""

PART_NAMED_FROM: Final = 20
"""Smallest number of visible pixels for a caption to name a part of a thing or of the landscape."""

_HOURS: Final = (*("day",) * 11, *("morning",) * 3, *("evening",) * 3, *("night",) * 3)
_SKIES: Final = {
    "morning": ("pink", "yellow", "white", "blue"),
    "evening": ("orange", "red", "purple", "pink"),
    "night": ("black", "blue", "purple", "grey"),
}
# Red, green and blue of the light at each hour, in 1/256.
_TINTS: Final = {
    "day": ((256, 256, 256), (256, 256, 256), (225, 240, 275), (280, 275, 262)),
    "morning": ((275, 262, 235), (265, 250, 250)),
    "evening": ((290, 236, 190), (280, 225, 205)),
    "night": ((140, 150, 196), (120, 135, 185)),
}


@dataclass(frozen=True)
class Scene:
    """Hold a picture of the small world with the truth about every pixel.

    Attributes:
        seed: Number it was made from; its split follows from it.
        image: Picture, uint8 (128, 128, 3), RGB.
        parts: Indices into `PARTS`, uint8 (128, 128).
        objects: Indices into `OBJECTS`, uint8 (128, 128).
        instances: Number of each pixel's thing, uint8 (128, 128); 0 for the landscape, and things
            count from 1 in the order in which they were painted (far to near).
        things: Things that the caption is made from, far to near: each with at least `NAMED_FROM`
            visible pixels. A short caption names fewer.
        caption: Description of the picture, in `CAPTION_WORDS`.
        dissociation: Whether it belongs to the subset in which colour tells nothing.
    """

    seed: int
    image: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    objects: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    things: tuple[Thing, ...]
    caption: str
    dissociation: bool

    @property
    def keypoints(self) -> tuple[KeyPoint, ...]:
        """Return the centres of the things' visible parts, as truth for correspondences."""
        return keypoints(self.parts, self.instances)

    @property
    def split(self) -> Split:
        """Return the split: "train", "validation" or "test"."""
        return split_of(self.seed)

    def _repr_html_(self) -> str:
        """Return the picture with its seed, split and caption."""
        return thumbnail(self.image, f"scene {self.seed} ({self.split}): {self.caption}")


def scene(seed: int, *, dissociation: bool = False) -> Scene:
    """Make the scene of a seed: the same bits on every machine.

    Args:
        seed: Number of the scene, 0 or larger. `TRAIN` and `VALIDATION` are ranges of seeds, and
            every seed beyond them belongs to the test split.
        dissociation: Whether to make the scene of another subset, in which all surfaces share two
            colours, so that only materials and shapes tell them apart.

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
    view = _View(dice.choose(_HOURS), dice.between(22, 96), dice.between(60, 140))
    wide = {
        **_sky(canvas, dice, palette, view),
        **_ground(canvas, dice, palette, view),
    }
    painted = _things(canvas, dice, palette, view)
    _light(canvas, dice, view)
    things = [seen for thing in painted if (seen := _seen(canvas, view, thing)) is not None]
    return Scene(
        seed=seed,
        image=canvas.image(),
        parts=canvas.parts,
        objects=canvas.objects,
        instances=canvas.instances,
        things=tuple(things),
        caption=caption(dice, things, _landscape(canvas, view, wide)),
        dissociation=dissociation,
    )


@dataclass
class _View:
    """Describe where and when the scene is seen.

    Attributes:
        hour: Hour, one of `_TINTS`.
        horizon: Row of the horizon.
        zoom: Height of things in percent of their usual height, as the camera is nearer or farther.
        pond: Whether the water is a pond.
        clouds: Number of clouds.
        water: Left, top, right and bottom of the water, where there is some.
    """

    hour: str
    horizon: int
    zoom: int
    pond: bool = False
    clouds: int = 0
    water: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class _Painted:
    kind: str
    instance: int
    materials: Materials
    scale: int


def _sky(canvas: Canvas, dice: Dice, palette: Palette, view: _View) -> Materials:
    """Paint what is above the horizon."""
    horizon = view.horizon
    made = {"sky": palette.material("sky", _SKIES.get(view.hour))}
    canvas.paint(rectangle(0, 0, SIZE, horizon), "sky", made["sky"])
    if dice.chance(60):
        x, y, radius = dice.between(4, 124), dice.between(8, max(horizon, 20)), dice.between(7, 14)
        if view.hour == "night":
            shape, part = crescent(x, y, radius + 2, dice.choose((-1, 1))), "moon"
        else:
            shape, part = ellipse(x, y, radius, radius), "sun"
        made[part] = palette.material(part)
        canvas.paint(shape, part, made[part])
    if dice.chance(55):
        left, right = dice.between(-20, 100), dice.between(30, 148)
        peak = horizon - dice.between(12, 36)
        slopes = polygon((left - 45, horizon), (left, peak), (left + 70, horizon))
        round_top = ellipse(right, horizon, dice.between(30, 60), dice.between(8, 26))
        shape = dice.choose((slopes, round_top, union(slopes, round_top)))
        made["hill"] = palette.material("hill")
        canvas.paint(shape, "hill", made["hill"])
        # Round tops reach below the horizon; the ground is painted over them.
    view.clouds = dice.choose((0, 0, 1, 1, 2))
    if view.clouds:
        made["cloud"] = palette.material("cloud")
    for _ in range(view.clouds):
        x, y = dice.between(0, 128), dice.between(6, max(horizon - 10, 12))
        width, height = dice.between(11, 22), dice.between(5, 9)
        puffs = union(
            ellipse(x, y, width, height),
            ellipse(x - width // 2, y - height // 2, width // 2, height),
            ellipse(x + width // 3, y - height * 2 // 3, width // 2, height),
        )
        canvas.paint(puffs, "cloud", made["cloud"])
    return made


def _ground(canvas: Canvas, dice: Dice, palette: Palette, view: _View) -> Materials:
    """Paint the land and what crosses it."""
    horizon = view.horizon
    deep = SIZE - horizon
    made = {"grass": palette.material("grass")}
    canvas.paint(rectangle(0, horizon, SIZE, SIZE), "grass", made["grass"])
    crossing = dice.choose(("grass", "grass", "road", "road", "water", "water"))
    if crossing == "road":
        made["road"] = palette.material("road")
        if dice.chance(50):
            far, near = dice.between(10, 118), dice.between(-10, 138)
            half = dice.between(20, 40)
            shape = polygon(
                (far - half // 5, horizon), (far + half // 5, horizon),
                (near + half, SIZE), (near - half, SIZE),
            )  # fmt: skip
            marks = polygon((far, horizon), (far + 1, horizon), (near + 4, SIZE), (near - 3, SIZE))
        else:
            top = horizon + deep * dice.between(10, 60) // 100
            bottom = top + max(deep * dice.between(20, 40) // 100, 12)
            shape = rectangle(0, top, SIZE, bottom)
            marks = rectangle(0, (top + bottom) // 2 - 1, SIZE, (top + bottom) // 2 + 2)
        canvas.paint(shape, "road", made["road"])
        if dice.chance(50):
            canvas.decorate(marks, palette.material("sun"), "road")
    elif crossing == "water":
        made["water"] = palette.material("water")
        view.pond = dice.chance(45)
        if view.pond:
            x, half = dice.between(10, 118), dice.between(34, 60)
            tall = max(deep * dice.between(16, 30) // 100, 9)
            y = horizon + deep * dice.between(35, 85) // 100
            shape = ellipse(x, y, half, tall)
            view.water = (x - half // 2, y - tall // 3, x + half // 2, y + tall // 2)
        else:
            top = horizon + (0 if dice.chance(60) else deep * dice.between(10, 40) // 100)
            bottom = top + deep * dice.between(30, 70) // 100
            shape = rectangle(0, top, SIZE, bottom)
            view.water = (0, top + (bottom - top) // 3, SIZE, bottom - 1)
        canvas.paint(shape, "water", made["water"])
    if dice.chance(22):
        left, width = dice.between(-40, 80), dice.between(50, 128)
        tall = max(20 * view.zoom // 100, 14)
        bottom = horizon + deep * dice.between(5, 60) // 100 + tall // 2
        top = bottom - tall
        pickets = [
            polygon((x, bottom), (x, top + 4), (x + 4, top), (x + 8, top + 4), (x + 8, bottom))
            for x in range(left, left + width, 8)
        ]
        made["fence"] = palette.material("fence")
        canvas.paint(union(*pickets), "fence", made["fence"])
    return made


def _things(canvas: Canvas, dice: Dice, palette: Palette, view: _View) -> list[_Painted]:
    """Paint one to four things, far ones first, anywhere along the ground."""
    horizon = view.horizon
    kinds = [kind for kind in BUILDERS if kind != "boat" or view.water is not None]
    count = dice.choose((1, 1, 2, 2, 3, 3, 4))
    alike = dice.choose(kinds) if dice.chance(20) else None
    # Columns stand apart, so that things overlap without hiding each other.
    start = dice.between(0, SIZE - 1)
    columns = [
        (start + number * SIZE // count + dice.between(-10, 10)) % (SIZE + 8) - 4
        for number in dice.sample(range(count), count)
    ]
    rows = sorted(dice.between(horizon + 10, SIZE + 10) for _ in range(count))
    painted = []
    for instance, (x, row) in enumerate(zip(columns, rows, strict=True), start=1):
        kind = alike or dice.choose(kinds)
        if kind == "boat" and view.water is not None:
            left, top, right, bottom = view.water
            x, row = dice.between(left, right), dice.between(top, max(bottom, top))
        smallest, largest = HEIGHTS[kind]
        # Far things are smaller: from 60 % at the horizon to the full height at the lower edge.
        scale = max(view.zoom * (60 + 40 * (row - horizon) // (SIZE - horizon)) // 100, 45)
        height = dice.between(smallest, largest) * scale // 100
        if kind != "boat":
            canvas.light(ellipse(x, row, height * 2 // 5, max(height // 12, 3)), 130)
        materials = BUILDERS[kind](canvas, dice, palette, x, row, height, instance)
        painted.append(_Painted(kind, instance, materials, scale))
    return painted


def _light(canvas: Canvas, dice: Dice, view: _View) -> None:
    """Paint shadows from outside the picture, pools of light, and the colour of the hour."""
    if dice.chance(35):
        x, width, lean = dice.between(-20, 110), dice.between(12, 34), dice.between(-40, 40)
        top = dice.between(0, 60)
        shape = polygon((x, top), (x + width, top), (x + width + lean, SIZE), (x + lean, SIZE))
        canvas.light(shape, dice.choose((150, 170, 190, 320)))
    if dice.chance(15):
        pool = ellipse(
            dice.between(10, 118), dice.between(20, 118), dice.between(16, 36), dice.between(12, 30)
        )
        canvas.light(pool, dice.choose((150, 330)))
    canvas.tint(dice.choose(_TINTS[view.hour]))


def _seen(canvas: Canvas, view: _View, thing: _Painted) -> Thing | None:
    """Return what is visible of a thing, or None where others or the frame hide it."""
    mask = canvas.instances == thing.instance
    if np.count_nonzero(mask) < NAMED_FROM:
        return None
    column = int(np.nonzero(mask)[1].sum()) // int(np.count_nonzero(mask))
    counts = np.bincount(canvas.parts[mask], minlength=256)
    parts = {
        part: material
        for part, material in thing.materials.items()
        if counts[part_index(part)] >= PART_NAMED_FROM
    }
    return Thing(
        instance=thing.instance,
        kind=thing.kind,
        main=thing.materials[MAIN_PARTS[thing.kind]],
        parts=parts,
        where="left" if column < 48 else "right" if column >= 80 else "middle",
        depth="near" if thing.scale >= 110 else "far" if thing.scale <= 60 else "",
    )


def _landscape(canvas: Canvas, view: _View, made: Materials) -> Landscape:
    counts = np.bincount(canvas.parts.ravel(), minlength=256)

    def seen(part: str) -> Material | None:
        return made.get(part) if counts[part_index(part)] >= PART_NAMED_FROM else None

    return Landscape(
        sky=seen("sky"),
        grass=seen("grass"),
        hill=seen("hill"),
        light=seen("sun") or seen("moon"),
        cloud=seen("cloud"),
        road=seen("road"),
        water=seen("water"),
        fence=seen("fence"),
        clouds=view.clouds,
        pond=view.pond,
        hour=view.hour,
        horizon="low" if view.horizon >= 80 else "high" if view.horizon <= 38 else "",
    )
