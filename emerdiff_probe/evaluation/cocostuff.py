"""Define the classes of COCO-Stuff: 182 numbers, of which 171 are annotated, in 27 groups.

A pixel of a published label map is the class's number minus 1; 255 is unlabelled.

Source: Caesar, Uijlings and Ferrari, CVPR 2018 (COCO-Stuff, arXiv 1612.03716), figure 2, whose 27
groups are those that Ji et al., ICCV 2019 (IIC) and later work on unsupervised segmentation use.
The group of every value is that of Hamilton et al., ICLR 2022 (STEGO; src/data.py of
github.com/mhamilton723/STEGO, ``fine_to_coarse``).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FINE", "GROUPS", "GROUP_OF", "NAMES"]

# Things are numbered group by group, stuff alphabetically.
_THINGS: Final = {
    "person": "person",
    "vehicle": "bicycle, car, motorcycle, airplane, bus, train, truck, boat",
    "outdoor": "traffic light, fire hydrant, *street sign, stop sign, parking meter, bench",
    "animal": "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    "accessory": "*hat, backpack, umbrella, *shoe, *eye glasses, handbag, tie, suitcase",
    "sports": "frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, "
    "skateboard, surfboard, tennis racket",
    "kitchen": "bottle, *plate, wine glass, cup, fork, knife, spoon, bowl",
    "food": "banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake",
    "furniture": "chair, couch, potted plant, bed, *mirror, dining table, *window, *desk, toilet, "
    "*door",
    "electronic": "tv, laptop, mouse, remote, keyboard, cell phone",
    "appliance": "microwave, oven, toaster, sink, refrigerator, *blender",
    "indoor": "book, clock, vase, scissors, teddy bear, hair drier, toothbrush, *hair brush",
}
_STUFF: Final = {
    "building stuff": "bridge, building-other, house, roof, skyscraper, tent",
    "ceiling stuff": "ceiling-other, ceiling-tile",
    "floor stuff": "carpet, floor-marble, floor-other, floor-stone, floor-tile, floor-wood",
    "food stuff": "food-other, fruit, salad, vegetable",
    "furniture stuff": "cabinet, counter, cupboard, desk-stuff, door-stuff, furniture-other, "
    "light, mirror-stuff, shelf, stairs, table",
    "ground stuff": "dirt, gravel, ground-other, mud, pavement, platform, playingfield, railroad, "
    "road, sand, snow",
    "plant stuff": "branch, bush, flower, grass, leaves, moss, plant-other, straw, tree",
    "raw material stuff": "cardboard, metal, paper, plastic",
    "sky stuff": "clouds, sky-other",
    "solid stuff": "hill, mountain, rock, solid-other, stone, wood",
    "structural stuff": "cage, fence, net, railing, structural-other",
    "textile stuff": "banner, blanket, cloth, clothes, curtain, mat, napkin, pillow, rug, "
    "textile-other, towel",
    "wall stuff": "wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, "
    "wall-wood",
    "water stuff": "fog, river, sea, water-other, waterdrops",
    "window stuff": "window-blind, window-other",
}

_GROUPED: Final = [
    *[(name, group) for group, names in _THINGS.items() for name in names.split(", ")],
    *sorted((name, group) for group, names in _STUFF.items() for name in names.split(", ")),
]

GROUPS: Final[tuple[str, ...]] = (*_THINGS, *_STUFF)
"""Names of the 27 groups."""

NAMES: Final[tuple[str, ...]] = tuple(name.removeprefix("*") for name, _ in _GROUPED)
"""Names of all 182 classes, by the value of a pixel."""

FINE: Final[NDArray[np.intp]] = np.flatnonzero([not name.startswith("*") for name, _ in _GROUPED])
"""Values of the 171 classes that are annotated."""

GROUP_OF: Final[NDArray[np.intp]] = np.array([GROUPS.index(group) for _, group in _GROUPED])
"""Group of each value, as an index into `GROUPS`."""
