"""Choose colours for segments, and paint images with them."""

import math
from functools import cache
from typing import Final

import numpy as np
import plotly.colors
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import expect
from emerdiff_probe.schema import RGB, SEGMENTATION, X, Y

__all__ = [
    "DIVERGING",
    "SEQUENTIAL",
    "borders",
    "overlay_image",
    "paint",
    "palette",
    "ramp",
    "shaded",
    "shades",
]

SEQUENTIAL: Final = "Cividis"
"""The scale for values from little to much, similar to readers with and without red and green cones
(Nunez, Anderton and Renslow, PLOS ONE 13(7), 2018).
"""

DIVERGING: Final = "balance"
"""The scale from blue through white to red, perceptually uniform on both sides (Thyng et al.,
Oceanography 29(3), 2016).
"""

_Floats = NDArray[np.float64]
_Pixels = NDArray[np.uint8]

# Linear RGB as seen without long-wave and without middle-wave cones: Machado, Oliveira and
# Fernandes, IEEE TVCG 15(6), 2009, severity 1.
_VISIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ]
)
# Linear RGB to cone responses, and their cube roots to OKLab: Ottosson,
# "A perceptual color space for image processing", 2020.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FIRST = (0, 114, 178)
# Darker or lighter colours could be mistaken for outlines, greyer ones for a part of the image.
_LIGHTNESS = (0.38, 0.93)
_LEAST_CHROMA = 0.09


def palette(n: int) -> _Pixels:
    """Return colours that differ as much as possible, also to readers without red or green cones.

    Each colour is the one farthest from all earlier ones, so that ``palette(5)`` begins
    ``palette(40)``. The distance is Euclidean in OKLab: the lesser of those seen without red and
    without green cones, plus a fifth of that seen with all. Readers can tell about 12 colours apart
    at a glance, and 40 where they lie side by side.

    Args:
        n: The number of colours, from 1 to 1024.

    Returns:
        RGB colours, uint8 (n, 3).

    Raises:
        InputError: The number is out of range.

    >>> palette(2)
    array([[  0, 114, 178],
           [192, 255,   0]], dtype=uint8)
    """
    if not 1 <= n <= 1024:
        raise InputError(f"n is {n}; choose a number of colours from 1 to 1024")
    # Compute a few lengths only, so that the cache serves most calls.
    return _spread(2 ** math.ceil(math.log2(max(n, 64))))[:n].copy()


@cache
def _spread(n: int) -> _Pixels:
    levels = np.append(np.arange(0, 256, 16), 255)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    normal = _oklab(grid, _VISIONS[0])
    fit = (
        (normal[:, 0] > _LIGHTNESS[0])
        & (normal[:, 0] < _LIGHTNESS[1])
        & (np.hypot(normal[:, 1], normal[:, 2]) > _LEAST_CHROMA)
    )
    colours = np.concatenate([[_FIRST], grid[fit]])
    seen = np.stack([_oklab(colours, vision) for vision in _VISIONS])
    chosen, nearest = [0], np.full(len(colours), np.inf)
    while len(chosen) < n:
        normal_one, *others = np.linalg.norm(seen - seen[:, chosen[-1:]], axis=-1)
        # The distances without red or green cones alone would exclude reds, which then look brown.
        nearest = np.minimum(nearest, np.minimum(*others) + 0.2 * normal_one)
        chosen.append(int(nearest.argmax()))
    return colours[chosen].astype(np.uint8)


def _oklab(colours: NDArray[np.integer], vision: _Floats) -> _Floats:
    srgb = colours / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ vision.T, 0, 1)
    return np.cbrt(seen @ _TO_CONES.T) @ _TO_OKLAB.T


def overlay_image(ds: xr.Dataset, *, alpha: float = 0.5) -> _Pixels:
    """Return the image with its segments in colours, in the image's own size.

    Args:
        ds: A segmentation from `emerdiff_probe.segment`.
        alpha: The opacity of the segments' colours, from 0 (outlines alone) to 1 (no image).

    Returns:
        uint8 (y, x, rgb).

    Raises:
        InputError: ``alpha`` is out of range.
    """
    expect(ds, SEGMENTATION)
    picture = ds["picture"].transpose(Y, X, RGB).values
    labels = ds["labels"].transpose(Y, X).values
    return paint(picture, labels, alpha, line=max(1, round(max(labels.shape) / 800)))


def paint(picture: _Pixels, labels: NDArray[np.integer], alpha: float, *, line: int) -> _Pixels:
    """Return an image with its segments in colours and lines between them.

    A line is white on its upper left side and black on its lower right side, so that it shows on
    any background. It runs inside the segments on both sides of their border.

    Args:
        picture: The image, uint8 (height, width, 3).
        labels: The segment numbers, integers from 0 up, (height, width).
        alpha: The opacity of the segments' colours, from 0 to 1.
        line: The width of each side of a line, in pixels.

    Raises:
        InputError: ``alpha`` is out of range.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}; choose from 0 (outlines alone) to 1 (no image)")
    painted = np.empty_like(picture)
    colours = palette(int(labels.max()) + 1) * alpha
    # Process one channel at a time: a large photograph takes much memory as floats.
    for channel in range(3):
        painted[..., channel] = np.rint(
            picture[..., channel] * (1 - alpha) + colours[labels, channel]
        )
    before, after = borders(labels, line)
    painted[after] = 0
    painted[before] = 255
    return painted


def borders(
    labels: NDArray[np.integer] | NDArray[np.bool_], line: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the pixels at borders of segments: those on the upper left side, and the lower right.

    >>> [side.tolist() for side in borders(np.array([[0, 0, 1, 1]]), 1)]
    [[[False, True, False, False]], [[False, False, True, False]]]
    """
    before, after = np.zeros(labels.shape, np.bool_), np.zeros(labels.shape, np.bool_)
    for step in range(1, line + 1):
        across = labels[:, step:] != labels[:, :-step]
        down = labels[step:] != labels[:-step]
        before[:, :-step] |= across
        before[:-step] |= down
        after[:, step:] |= across
        after[step:] |= down
    return before, after


@cache
def ramp(scale: str) -> _Pixels:
    """Return a colour scale as 256 colours, uint8 (256, 3).

    >>> ramp(SEQUENTIAL)[[0, -1]].tolist()
    [[0, 34, 78], [254, 232, 56]]
    """
    shares = np.linspace(0, 1, 256).tolist()
    colours = plotly.colors.sample_colorscale(scale.lower(), shares, colortype="tuple")
    return np.rint(np.array(colours) * 255).astype(np.uint8)


def shades(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """Return the positions of values on a scale of 256 colours from low to high.

    >>> shades(np.array([-1.0, 0.0, 0.5, 1.0]), 0, 1).tolist()
    [0, 0, 128, 255]
    """
    shares = (values.astype(np.float64) - low) / (high - low if high > low else 1)
    return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)


def shaded(
    values: NDArray[np.floating], low: float, high: float, scale: str = SEQUENTIAL
) -> _Pixels:
    """Return a map in the colours of a scale.

    Args:
        values: The values, of any shape.
        low, high: The values at the ends of the scale; values beyond take the colours of the ends,
            and NaN is grey.
        scale: SEQUENTIAL or DIVERGING.

    Returns:
        uint8, with RGB as a last axis.
    """
    missing = np.isnan(values)
    painted = ramp(scale)[shades(np.where(missing, low, values), low, high)]
    painted[missing] = 128
    return painted
