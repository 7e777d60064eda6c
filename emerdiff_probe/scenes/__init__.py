"""Generate pictures of a small world in which the class of every pixel is known exactly.

>>> from emerdiff_probe import scenes
>>> picture = scenes.scene(0)
>>> picture.image.shape, scenes.PARTS[picture.parts[0, 0]], picture.split
((128, 128, 3), 'sky', 'train')
"""

from emerdiff_probe.scenes.captions import CAPTION_WORDS, Thing
from emerdiff_probe.scenes.classes import (
    OBJECT_OF_PART,
    OBJECTS,
    PARTS,
    SIZE,
    TEST_START,
    TRAIN,
    VALIDATION,
    split_of,
)
from emerdiff_probe.scenes.keypoints import KeyPoint
from emerdiff_probe.scenes.materials import COLOURS, Material
from emerdiff_probe.scenes.things import KINDS
from emerdiff_probe.scenes.world import NAMED_FROM, Scene, scene

__all__ = [
    "CAPTION_WORDS",
    "COLOURS",
    "KINDS",
    "KeyPoint",
    "Material",
    "NAMED_FROM",
    "OBJECTS",
    "OBJECT_OF_PART",
    "PARTS",
    "SIZE",
    "TEST_START",
    "TRAIN",
    "VALIDATION",
    "Scene",
    "Thing",
    "scene",
    "split_of",
]
