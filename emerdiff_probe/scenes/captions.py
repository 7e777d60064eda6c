"""Write captions: what the generator knows of a scene, in words.

Most captions are long: things with the colours of their parts, how many there are and where, sky,
ground and hour. One in ten is as short as the prompts that people write. Published ablations of
small models found that nothing helps as much as long captions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from emerdiff_probe.scenes.dice import Dice
from emerdiff_probe.scenes.materials import COLOURS, Material

__all__ = ["CAPTION_WORDS", "MOST_WORDS", "Landscape", "Thing", "caption"]

MOST_WORDS: Final = 60
"""Largest number of words in a caption, commas counted; with both marks they fit 64 tokens."""

_NUMBERS: Final = ("no", "one", "two", "three", "four")
_PLURALS: Final = {
    "house": "houses",
    "tree": "trees",
    "car": "cars",
    "person": "people",
    "dog": "dogs",
    "horse": "horses",
    "cow": "cows",
    "boat": "boats",
}
_HOURS: Final = {
    "day": ("by day", "at noon"),
    "morning": ("in the morning", "at sunrise"),
    "evening": ("in the evening", "at sunset"),
    "night": ("at night",),
}
# Other parts of each kind, as captions name them: part, words before and after the colour.
_PARTS_TOLD: Final[dict[str, tuple[tuple[str, str, str], ...]]] = {
    "house": (("house roof", "a", "roof"), ("house door", "a", "door"),
              ("house window", "", "windows")),
    "tree": (("tree trunk", "a", "trunk"),),
    "car": (("car wheel", "", "wheels"), ("car window", "", "windows")),
    "person": (("person legs", "", "trousers"), ("person head", "a", "face")),
    "dog": (("animal head", "a", "head"), ("animal legs", "", "legs")),
    "horse": (("animal head", "a", "head"), ("animal legs", "", "legs")),
    "cow": (("animal head", "a", "head"), ("animal legs", "", "legs")),
    "boat": (("boat sail", "a", "sail"),),
}  # fmt: skip

CAPTION_WORDS: Final[tuple[str, ...]] = (
    *("a", "an", "the", ",", "and", "with", "of", "in", "on", "at", "by", "under", "to"),
    *("picture", "photo", "drawing", "scene", "landscape", "empty", "light", "dark"),
    *("left", "middle", "right", "near", "far", "away", "high", "low", "horizon"),
    *("sky", "cloud", "clouds", "sun", "moon", "hill", "hills", "grass", "field", "road", "water"),
    *("pond", "fence", "morning", "sunrise", "evening", "sunset", "night", "day", "noon"),
    *("roof", "door", "windows", "trunk", "wheels", "shirt", "trousers", "face", "head", "legs"),
    *("sail", *_NUMBERS[1:]),
    *(word for kind in _PLURALS.items() for word in kind),
    *COLOURS,
)
"""All words that a caption can have."""


@dataclass(frozen=True)
class Thing:
    """Describe a visible thing.

    Attributes:
        instance: Number in the scene's `instances`.
        kind: Kind, one of `KINDS`.
        main: Material that names its colour.
        parts: Materials of the visible parts, by part class.
        where: "left", "middle" or "right", by the mean column of the visible pixels.
        depth: "near", "far" or "".
    """

    instance: int
    kind: str
    main: Material
    parts: dict[str, Material]
    where: str
    depth: str

    @property
    def colour(self) -> str:
        """Return the word in `COLOURS` that captions use for its colour."""
        return self.main.name


@dataclass(frozen=True)
class Landscape:
    """Describe what is visible besides things; None or 0 stands for what is not.

    Attributes:
        sky, grass, hill, light, road, water, fence, cloud: Materials that are visible; `light` is
            that of the sun or the moon.
        clouds: Number of clouds.
        pond: Whether the water is a pond.
        hour: "day", "morning", "evening" or "night".
        horizon: "high", "low" or "".
    """

    sky: Material | None
    grass: Material | None
    hill: Material | None
    light: Material | None
    cloud: Material | None
    road: Material | None
    water: Material | None
    fence: Material | None
    clouds: int
    pond: bool
    hour: str
    horizon: str


def caption(dice: Dice, things: list[Thing], land: Landscape) -> str:
    """Return a caption in `CAPTION_WORDS`, at most `MOST_WORDS` words.

    Args:
        dice: Source of the wording and of what is left out.
        things: Visible things, far to near.
        land: Everything else that is visible.
    """
    short = dice.chance(10)
    named = things[-2:] if short else things
    phrases = [_short(dice, thing) if short else _long(dice, thing) for thing in named]
    if not short and len(things) > 1 and len({thing.kind for thing in things}) == 1:
        phrases.insert(0, f"{_NUMBERS[len(things)]} {_PLURALS[things[0].kind]}")
    around = _around(dice, land, share=15 if short else 80)
    if not phrases:
        phrases = ["an empty landscape"]
    if dice.chance(25):
        phrases[0] = f"{dice.choose(('a picture of', 'a photo of', 'a drawing of'))} {phrases[0]}"
    parts = [*phrases, *around]
    if not short and dice.chance(25):
        parts = [*around, *phrases]
    return _joined(parts)


def _joined(parts: list[str]) -> str:
    """Join phrases by commas, as many as fit."""
    text = parts[0]
    for part in parts[1:]:
        longer = f"{text} , {part}"
        if len(longer.split()) > MOST_WORDS:
            break
        text = longer
    return text


def _short(dice: Dice, thing: Thing) -> str:
    if thing.kind == "person" and dice.chance(50):
        return f"a person in {thing.main.name}"
    return f"{_article(thing.main.name)} {thing.kind}"


def _long(dice: Dice, thing: Thing) -> str:
    if thing.kind == "person":
        text = f"a person in {_article(_colour(dice, thing.main))} shirt"
        link = "and"
    else:
        text = f"{_article(_colour(dice, thing.main))} {thing.kind}"
        link = "with"
    for part, before, behind in _PARTS_TOLD[thing.kind]:
        if part in thing.parts and dice.chance(60):
            colour = _colour(dice, thing.parts[part])
            text += f" {link} {_article(colour) if before else colour} {behind}"
            link = "and"
    if dice.chance(75):
        text += f" {'in' if thing.where == 'middle' else 'on'} the {thing.where}"
    if thing.depth and dice.chance(60):
        text += " near" if thing.depth == "near" else " far away"
    return text


def _around(dice: Dice, land: Landscape, share: int) -> list[str]:
    """Return phrases on what surrounds the things, each with a chance of `share` percent."""
    above, below = [], []
    if land.sky is not None and dice.chance(share):
        text = f"{_article(_colour(dice, land.sky))} sky"
        if land.cloud is not None:
            colour = _colour(dice, land.cloud)
            one = land.clouds == 1
            text += f" with {_article(colour)} cloud" if one else f" with {colour} clouds"
        above.append(text)
    if land.light is not None and dice.chance(share):
        name = "moon" if land.hour == "night" else "sun"
        above.append(f"{_article(_colour(dice, land.light))} {name}")
    if land.hill is not None and dice.chance(share):
        above.append(f"{_colour(dice, land.hill)} hills")
    if land.grass is not None and dice.chance(share):
        colour = _colour(dice, land.grass)
        below.append(dice.choose((f"{colour} grass", f"{_article(colour)} field")))
    if land.road is not None and dice.chance(share):
        below.append(f"{_article(_colour(dice, land.road))} road")
    if land.water is not None and dice.chance(share):
        colour = _colour(dice, land.water)
        below.append(f"{_article(colour)} pond" if land.pond else f"{colour} water")
    if land.fence is not None and dice.chance(share):
        below.append(f"{_article(_colour(dice, land.fence))} fence")
    phrases = [*above, *below] if dice.chance(50) else [*below, *above]
    if land.horizon and dice.chance(share // 3):
        phrases.append(f"a {land.horizon} horizon")
    if dice.chance(90 if land.hour != "day" else share // 3):
        phrases.append(dice.choose(_HOURS[land.hour]))
    return phrases


def _colour(dice: Dice, material: Material) -> str:
    """Name a material's colour: both where it has two, else lighter or darker if it is."""
    if material.second_name != material.name:
        return f"{material.name} and {material.second_name}" if dice.chance(65) else material.name
    off = sum(material.base) - sum(COLOURS[material.name])
    if abs(off) > 45 and material.name not in {"black", "white"} and dice.chance(50):
        return f"{'light' if off > 0 else 'dark'} {material.name}"
    return material.name


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
