"""Define the small world's classes, at two levels, and the seeds of its three splits."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "OBJECTS",
    "OBJECT_OF_PART",
    "PARTS",
    "SIZE",
    "TEST_START",
    "TRAIN",
    "VALIDATION",
    "Split",
    "object_index",
    "part_index",
    "split_of",
]

SIZE: Final = 128
"""Height and width of a scene in pixels."""

_PARTS_OF_OBJECT: Final[dict[str, tuple[str, ...]]] = {
    "sky": ("sky",),
    "cloud": ("cloud",),
    "sun": ("sun",),
    "moon": ("moon",),
    "hill": ("hill",),
    "grass": ("grass",),
    "road": ("road",),
    "water": ("water",),
    "fence": ("fence",),
    "house": ("house wall", "house roof", "house door", "house window"),
    "tree": ("tree trunk", "tree crown"),
    "car": ("car body", "car window", "car wheel"),
    "person": ("person head", "person torso", "person legs"),
    "animal": ("animal body", "animal head", "animal legs"),
    "boat": ("boat hull", "boat sail"),
}

OBJECTS: Final[tuple[str, ...]] = tuple(_PARTS_OF_OBJECT)
"""Names of the object classes; a pixel of `Scene.objects` is an index into this tuple."""

PARTS: Final[tuple[str, ...]] = tuple(part for parts in _PARTS_OF_OBJECT.values() for part in parts)
"""Names of the part classes; a pixel of `Scene.parts` is an index into this tuple."""

OBJECT_OF_PART: Final[NDArray[np.uint8]] = np.array(
    [OBJECTS.index(name) for name, parts in _PARTS_OF_OBJECT.items() for _ in parts], np.uint8
)
"""Object class of each part class: one index into `OBJECTS` for each of `PARTS`."""

TRAIN: Final = range(0, 1_000_000)
"""Seeds of the training split."""

VALIDATION: Final = range(1_000_000, 1_100_000)
"""Seeds of the validation split."""

TEST_START: Final = VALIDATION.stop
"""Every seed from here on belongs to the test split."""

Split = Literal["train", "validation", "test"]


def split_of(seed: int) -> Split:
    """Return the split that a seed (0 or larger) belongs to."""
    if seed in TRAIN:
        return "train"
    return "validation" if seed in VALIDATION else "test"


def part_index(name: str) -> int:
    """Return the label of a part class, for instance ``part_index("house roof")``."""
    return PARTS.index(name)


def object_index(name: str) -> int:
    """Return the label of an object class."""
    return OBJECTS.index(name)
