"""Draw what methods make of images beside the truth, and the worst and the best on one sheet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emerdiff_probe.errors import InputError
from emerdiff_probe.evaluation.datasets import IGNORE
from emerdiff_probe.paths import made_at_once
from emerdiff_probe.views import contact_sheet
from emerdiff_probe.views.colours import paint
from emerdiff_probe.views.comparison import matched

if TYPE_CHECKING:
    from collections.abc import Callable

    from emerdiff_probe.evaluation.evaluate import Evaluation

__all__ = ["draw", "worst_and_best"]

_SIDE: Final = 160
_GREY: Final = 128


def draw(
    path: Path,
    picture: NDArray[np.uint8],
    truth: NDArray[np.integer],
    methods: Mapping[str, NDArray[np.integer]],
) -> None:
    """Write an image, its truth and the segments of methods side by side, as PNG.

    Args:
        path: File to write.
        picture: Image (y, x, rgb).
        truth: Class of each pixel (y, x); what does not count is grey in all.
        methods: Labels (y, x) from 0 up, by what to write below them. Their colours are those of
            the classes that they share most pixels with, one for one.
    """
    counts = truth != IGNORE
    classes = np.where(counts, truth, truth.max() + 1)
    maps = {"truth": classes} | {name: matched(each, classes) for name, each in methods.items()}
    shown = {"image": picture} | {name: _painted(picture, m, counts) for name, m in maps.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with made_at_once(path, replace=True) as new:
        contact_sheet(shown, columns=len(shown), side=_SIDE).save(new)


def _painted(
    picture: NDArray[np.uint8], labels: NDArray[np.integer], counts: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    painted = paint(picture, labels, 0.7, line=max(1, round(max(labels.shape) / 300)))
    painted[~counts] = _GREY
    return painted


def worst_and_best(
    found: Evaluation, drawing: Callable[[str], Path], *, count: int = 3
) -> Image.Image:
    """Return the drawings of the images with the lowest and the highest scores, lowest first.

    Args:
        found: Scores. The first method counts, by the first protocol of single images.
        drawing: Function that returns the file that `draw` wrote, by an image's key.
        count: Number of images of either sort; all images where there are no more than both.

    Raises:
        InputError: No protocol of single images was asked for.
    """
    if not found.protocols:
        raise InputError("scores over the data set alone do not order its images")
    protocol, table = found.protocols[0], found.pictures
    scores = table[table["method"] == table["method"].iloc[0]].set_index("picture")[protocol]
    scores = scores.sort_values(kind="stable", na_position="last").dropna()
    ranks = range(len(scores))
    chosen = sorted({*ranks[:count], *ranks[-count:]})
    drawn = []
    for rank in chosen:
        key, score = scores.index[rank], scores.iloc[rank]
        name = f"{rank + 1} of {len(scores)}: {key}, {protocol} {score:.3f}"
        with Image.open(drawing(key)) as image:
            drawn.append((name, image.convert("RGB")))
    return contact_sheet(drawn, columns=1, side=max(max(image.size) for _, image in drawn))
