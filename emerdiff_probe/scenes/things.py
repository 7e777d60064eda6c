"""Build the things of the small world from their parts.

Every builder paints one instance that stands on the row `y`, around the column `x`, about `height`
pixels tall, and returns the materials of its parts, by part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emerdiff_probe.scenes.canvas import Canvas
from emerdiff_probe.scenes.dice import Dice
from emerdiff_probe.scenes.materials import Material, Palette
from emerdiff_probe.scenes.shapes import (
    Point,
    Shape,
    band,
    ellipse,
    polygon,
    rectangle,
    union,
    without,
)

__all__ = ["BUILDERS", "HEIGHTS", "KINDS", "MAIN_PARTS", "Builder", "Materials", "crescent"]

Materials = dict[str, Material]
"""Materials by part class."""

Builder = Callable[[Canvas, Dice, Palette, int, int, int, int], Materials]

HEIGHTS: Final[dict[str, tuple[int, int]]] = {
    "house": (54, 84),
    "tree": (58, 92),
    "car": (30, 42),
    "person": (56, 84),
    "dog": (34, 46),
    "horse": (50, 68),
    "cow": (42, 56),
    "boat": (50, 74),
}
"""Smallest and largest height in pixels of each kind, near the viewer."""


def _house(
    canvas: Canvas, dice: Dice, palette: Palette, x: int, y: int, height: int, instance: int
) -> Materials:
    half = height * dice.between(50, 68) // 100
    eaves = y - height * dice.between(52, 64) // 100
    top = y - height
    over = dice.between(2, 5)
    wall = palette.material("house wall")
    roof = palette.material("house roof")
    canvas.paint(
        rectangle(x - half, eaves, x + half, y), "house wall", wall, instance=instance, shade=60
    )
    flat = dice.choose((0, half * 2 // 5, half * 7 // 10))
    canvas.paint(
        polygon(
            (x - half - over, eaves), (x - flat, top), (x + flat + 1, top), (x + half + over, eaves)
        ),
        "house roof",
        roof,
        instance=instance,
        shade=90,
    )
    tall = y - eaves
    door_x = x + dice.choose((-1, 0, 1)) * half // 2
    door_half = max(half // 6, 4)
    side_by_side = [x - half * 5 // 8, x, x + half * 5 // 8]
    window = palette.material("house window")
    for centre in side_by_side:
        if abs(centre - door_x) <= door_half + half // 6 + 2:
            continue
        wide, low = max(half // 6, 4), y - tall * 2 // 5
        canvas.paint(
            rectangle(centre - wide, low - tall * 2 // 5, centre + wide, low),
            "house window",
            window,
            instance=instance,
        )
    door = palette.material("house door")
    canvas.paint(
        rectangle(door_x - door_half, y - tall * 3 // 5, door_x + door_half, y),
        "house door",
        door,
        instance=instance,
    )
    return {
        "house wall": wall,
        "house roof": roof,
        "house door": door,
        "house window": window,
    }


def _tree(
    canvas: Canvas, dice: Dice, palette: Palette, x: int, y: int, height: int, instance: int
) -> Materials:
    crown = palette.material("tree crown")
    trunk = palette.material("tree trunk")
    width = max(height // 9, 4)
    waist = y - height * dice.between(32, 45) // 100
    canvas.paint(
        polygon(
            (x - width, y), (x - width + 2, waist - 8), (x + width - 2, waist - 8), (x + width, y)
        ),
        "tree trunk",
        trunk,
        instance=instance,
        shade=110,
    )
    top = y - height
    half = height * dice.between(26, 36) // 100
    tall = waist - top
    kind = dice.between(0, 2)
    shapes: tuple[Shape, ...]
    if kind == 0:
        shapes = (ellipse(x, (top + waist) // 2, half, tall // 2),)
    elif kind == 1:
        shapes = tuple(
            polygon(
                (x - half * part // 4, base),
                (x, base - tall * 11 // 20),
                (x + half * part // 4, base),
            )
            for part, base in ((4, waist), (3, waist - tall // 4), (2, waist - tall * 9 // 20))
        )
    else:
        shapes = (
            ellipse(x - half * 5 // 9, waist - tall * 3 // 10, half * 5 // 9, tall * 3 // 10),
            ellipse(x + half * 5 // 9, waist - tall * 3 // 10, half * 5 // 9, tall * 3 // 10),
            ellipse(x, waist - tall * 6 // 10, half * 7 // 10, tall * 4 // 10),
        )
    canvas.paint(union(*shapes), "tree crown", crown, instance=instance, shade=110)
    return {"tree crown": crown, "tree trunk": trunk}


def _car(
    canvas: Canvas, dice: Dice, palette: Palette, x: int, y: int, height: int, instance: int
) -> Materials:
    facing = dice.choose((-1, 1))
    length = height * dice.between(105, 125) // 100
    wheel = height * 22 // 100
    floor = y - wheel * 3 // 4
    waist = y - height * 58 // 100
    roof = y - height

    def at(along: int, row: int) -> Point:
        return x + facing * length * along // 100, row

    body = palette.material("car body")
    hull = union(
        polygon(at(-100, floor), at(-98, waist + 2), at(-60, waist), at(66, waist),
                at(96, waist + height // 8), at(100, floor)),
        polygon(at(-70, waist), at(-50, roof), at(24, roof), at(60, waist)),
    )  # fmt: skip
    canvas.paint(hull, "car body", body, instance=instance, shade=70)
    glass = palette.material("car window")
    sill = waist + height // 14
    for window in (
        polygon(at(-58, sill), at(-45, roof + 3), at(-14, roof + 3), at(-14, sill)),
        polygon(at(-6, sill), at(-6, roof + 3), at(20, roof + 3), at(46, sill)),
    ):
        canvas.paint(window, "car window", glass, instance=instance)
    tyre = palette.material("car wheel")
    for along in (-58, 58):
        centre, row = at(along, y - wheel)
        canvas.paint(ellipse(centre, row, wheel, wheel), "car wheel", tyre, instance=instance)
    return {"car body": body, "car window": glass, "car wheel": tyre}


def _person(
    canvas: Canvas, dice: Dice, palette: Palette, x: int, y: int, height: int, instance: int
) -> Materials:
    head = height * dice.between(12, 14) // 100
    neck = y - height + 2 * head
    hip = y - height * dice.between(42, 48) // 100
    half = height * dice.between(14, 18) // 100
    torso = palette.material("person torso")
    trousers = palette.material("person legs")
    leg = max(half * 4 // 5, 4)
    stride = dice.between(1, half)
    canvas.paint(
        union(
            band((x - half // 2, hip - 2), (x - half // 2 - stride // 2, y), leg),
            band((x + half // 2, hip - 2), (x + half // 2 + stride // 2, y), leg),
        ),
        "person legs",
        trousers,
        instance=instance,
        shade=60,
    )
    arm = max(half * 2 // 5, 3)
    reach = (dice.between(half + 1, 2 * half), dice.between(half + 1, 2 * half))
    hands = (dice.between(neck, hip + 4), dice.between(neck, hip + 4))
    canvas.paint(
        union(
            polygon((x - half, neck), (x + half, neck),
                    (x + half * 3 // 4, hip), (x - half * 3 // 4, hip)),
            polygon((x - half, neck), (x - half + arm, neck + arm),
                    (x - reach[0] + arm, hands[0] + arm), (x - reach[0], hands[0])),
            polygon((x + half, neck), (x + half - arm, neck + arm),
                    (x + reach[1] - arm, hands[1] + arm), (x + reach[1], hands[1])),
        ),
        "person torso",
        torso,
        instance=instance,
        shade=60,
    )  # fmt: skip
    face = palette.material("person head")
    canvas.paint(
        ellipse(x, y - height + head, head * 9 // 10, head),
        "person head",
        face,
        instance=instance,
        shade=60,
    )
    return {"person torso": torso, "person legs": trousers, "person head": face}


def _animal(long: int, leg: int, neck: int) -> Builder:
    """Return a builder of a four-legged kind.

    Args:
        long: Half the length of the body, in percent of the height.
        leg: Length of the legs, in percent of the height.
        neck: Height of the head above the back, in percent of the height.
    """

    def build(
        canvas: Canvas, dice: Dice, palette: Palette, x: int, y: int, height: int, instance: int
    ) -> Materials:
        facing = dice.choose((-1, 1))
        half = height * long // 100
        back = y - height * (100 - neck) // 100
        belly = y - height * leg // 100
        coat = palette.material("animal body")
        limbs = palette.material("animal legs")
        width = max(height // 8, 4)
        for offset in (-9, -5, 5, 9):
            foot = x + half * offset // 11
            canvas.paint(
                rectangle(foot - width // 2, belly - 3, foot + width - width // 2, y),
                "animal legs",
                limbs,
                instance=instance,
            )
        middle, deep = (back + belly) // 2, max((belly - back) // 2, 4)
        tail = polygon(
            (x - facing * half, middle - deep // 2),
            (x - facing * (half + height // 5), middle + deep),
            (x - facing * (half + height // 9), middle + deep),
            (x - facing * (half - 3), middle),
        )
        canvas.paint(
            union(
                ellipse(x - half // 2, middle, half * 11 // 20, deep),
                ellipse(x + half // 2, middle, half * 11 // 20, deep),
                rectangle(x - half // 2, middle - deep, x + half // 2, middle + deep),
                tail,
            ),
            "animal body",
            coat,
            instance=instance,
            shade=70,
        )
        face = palette.material("animal head")
        size = max(height * 15 // 100, 5)
        head_x, head_y = x + facing * (half + size // 3), y - height + size
        ear = polygon(
            (head_x - facing * size // 2, head_y - size // 2),
            (head_x - facing * size, head_y - size * 3 // 2),
            (head_x + facing * size // 6, head_y - size // 2),
        )
        canvas.paint(
            union(
                polygon((x + facing * half * 5 // 8, middle - deep // 2),
                        (head_x - facing * size, head_y),
                        (head_x + facing * size // 2, head_y + size // 2),
                        (x + facing * half, middle + deep // 3)),
                ellipse(head_x, head_y, size, size * 4 // 5),
                ellipse(head_x + facing * size, head_y + size // 4, size * 4 // 5, size // 2),
                ear,
            ),
            "animal head",
            face,
            instance=instance,
            shade=50,
        )  # fmt: skip
        return {"animal body": coat, "animal head": face, "animal legs": limbs}

    return build


def _boat(
    canvas: Canvas, dice: Dice, palette: Palette, x: int, y: int, height: int, instance: int
) -> Materials:
    half = height * dice.between(42, 58) // 100
    deck = y - height * 26 // 100
    hull = palette.material("boat hull")
    sail = palette.material("boat sail")
    lean = dice.choose((-1, 1))
    canvas.paint(
        polygon((x - half, deck), (x + half, deck), (x + half * 2 // 3, y), (x - half * 2 // 3, y)),
        "boat hull",
        hull,
        instance=instance,
        shade=60,
    )
    mast = x - lean * half // 8
    canvas.paint(
        union(
            polygon((mast, y - height), (mast + lean * half * 4 // 5, deck - 2), (mast, deck - 2)),
            polygon((mast - lean * 3, y - height + 6), (mast - lean * 3, deck - 2),
                    (mast - lean * half * 3 // 5, deck - 2)),
        ),
        "boat sail",
        sail,
        instance=instance,
    )  # fmt: skip
    return {"boat hull": hull, "boat sail": sail}


def crescent(x: int, y: int, radius: int, facing: int) -> Shape:
    """Return a crescent, open towards `facing` (-1 left, 1 right)."""
    hole = ellipse(x + facing * radius * 3 // 5, y - radius // 4, radius * 4 // 5, radius * 4 // 5)
    return without(ellipse(x, y, radius, radius), hole)


BUILDERS: Final[dict[str, Builder]] = {
    "house": _house,
    "tree": _tree,
    "car": _car,
    "person": _person,
    "dog": _animal(long=62, leg=34, neck=28),
    "horse": _animal(long=46, leg=42, neck=34),
    "cow": _animal(long=60, leg=32, neck=14),
    "boat": _boat,
}

KINDS: Final[tuple[str, ...]] = tuple(BUILDERS)
"""Kinds of things, as captions call them."""

MAIN_PARTS: Final[dict[str, str]] = {
    "house": "house wall",
    "tree": "tree crown",
    "car": "car body",
    "person": "person torso",
    "dog": "animal body",
    "horse": "animal body",
    "cow": "animal body",
    "boat": "boat hull",
}
"""Part of each kind whose colour is that of the thing."""
