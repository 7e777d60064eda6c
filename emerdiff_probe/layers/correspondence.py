"""Match locations of one image to those of another, by features of any layer and timestep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import linear_weights, of_one_picture
from emerdiff_probe.schema import CHANNEL, X, Y

__all__ = ["POINT", "PCK", "average_draws", "match_points", "mutual_matches"]

POINT: Final = "point"

_ROWS_AT_ONCE: Final = 2**23
"""Largest count of interpolated feature values in memory at once."""

_Floats = NDArray[np.float32]


def average_draws(draws: Iterable[xr.DataArray]) -> xr.DataArray:
    """Average features over several draws of the noise, which makes matches steadier.

    Args:
        draws: Arrays of the same shape, of which one at a time is in memory.

    Returns:
        Mean, float32, with the dims and coordinates of the first draw.

    Raises:
        InputError: There is no draw, or shapes differ.

    Source: Tang et al., NeurIPS 2023 (DIFT, arXiv 2306.03881), section 4.1.
    """
    total: xr.DataArray | None = None
    count = 0
    for draw in draws:
        if total is None:
            total = draw.astype(np.float64)
        elif (draw.dims, draw.shape) != (total.dims, total.shape):
            raise InputError(
                f"draws have sizes {dict(total.sizes)} and {dict(draw.sizes)}; give equal sizes"
            )
        else:
            total = total.copy(data=total.values + draw.values)
        count += 1
    if total is None:
        raise InputError("no draws; give at least one")
    return (total / count).astype(np.float32)


def match_points(
    source: xr.DataArray,
    target: xr.DataArray,
    y: ArrayLike,
    x: ArrayLike,
    *,
    at_pixels: tuple[ArrayLike, ArrayLike] | None = None,
) -> xr.Dataset:
    """Find the most similar location (cosine) in another image for each point of one.

    Args:
        source: Features (y, x, channel) of the image with the points, with coordinates y and x in
            pixels.
        target: Features (y, x, channel) of the other image; its grid may differ, its channels may
            not.
        y, x: Points, in pixels. Their features are interpolated bilinearly.
        at_pixels: Rows and columns of the other image, in pixels, at which its features are
            interpolated bilinearly and compared; by default the locations of its grid. DIFT takes
            every pixel.

    Returns:
        ``y`` and ``x`` (point), the location found in the other image, and ``similarity`` (point),
        from -1 to 1. Of equally similar locations the first is taken.

    Raises:
        InputError: Dims or channels do not fit, or coordinates are missing.

    Source: Tang et al., NeurIPS 2023 (DIFT, arXiv 2306.03881), section 4.
    """
    source, target = _both(source, target)
    rows, columns = np.atleast_1d(y).astype(np.float64), np.atleast_1d(x).astype(np.float64)
    if rows.shape != columns.shape or rows.ndim != 1:
        raise InputError(f"y has shape {rows.shape} and x {columns.shape}; give one for each point")
    down = linear_weights(source[Y].values, rows)
    across = linear_weights(source[X].values, columns)
    values = source.transpose(Y, X, CHANNEL).values.astype(np.float32)
    wanted = _units(np.einsum("py,px,yxc->pc", down, across, values, optimize=True))
    places = at_pixels or (target[Y].values, target[X].values)
    y_asked, x_asked = (np.asarray(each, np.float64) for each in places)
    best = np.full(len(rows), -np.inf, np.float32)
    where = np.zeros(len(rows), np.int64)
    for first, block in _interpolated(target, y_asked, x_asked):
        similarity = wanted @ _units(block).T
        found = similarity.argmax(1)
        highest = similarity[np.arange(len(rows)), found]
        where = np.where(highest > best, first + found, where)
        best = np.maximum(best, highest)
    return xr.Dataset(
        {
            Y: (POINT, y_asked[where // len(x_asked)]),
            X: (POINT, x_asked[where % len(x_asked)]),
            "similarity": (POINT, best.clip(-1, 1)),
        }
    )


def mutual_matches(source: xr.DataArray, target: xr.DataArray) -> xr.Dataset:
    """Find the pairs of locations of two images that are each other's most similar.

    Args:
        source, target: Features of the two images, (y, x, channel) with coordinates, as for
            :func:`match_points`.

    Returns:
        ``y``, ``x`` in the first image, ``target_y``, ``target_x`` in the second, and
        ``similarity``, each (point), in the order of the first image's locations.

    Raises:
        InputError: As for :func:`match_points`.
    """
    source, target = _both(source, target)
    one, other = (
        _units(each.transpose(Y, X, CHANNEL).values.reshape(-1, each.sizes[CHANNEL]))
        for each in (source, target)
    )
    similarity = one @ other.T
    there, back = similarity.argmax(1), similarity.argmax(0)
    own = np.flatnonzero(back[there] == np.arange(len(one)))
    found = there[own]
    columns, target_columns = source.sizes[X], target.sizes[X]
    return xr.Dataset(
        {
            Y: (POINT, source[Y].values[own // columns]),
            X: (POINT, source[X].values[own % columns]),
            "target_y": (POINT, target[Y].values[found // target_columns]),
            "target_x": (POINT, target[X].values[found % target_columns]),
            "similarity": (POINT, similarity[own, found].clip(-1, 1)),
        }
    )


@dataclass(frozen=True)
class PCK:
    """Accumulate the share of correct key points (PCK); ``update`` returns a new object.

    A point is correct where it lies within ``alpha`` times a size of the true one. Depending on the
    protocol, that is the size of the thing (the longer side of its bounding box in the image that
    is searched) or of the image.

    Attributes:
        alpha: Tolerance, relative to the size.
        correct, points: Numbers of correct and of all points, for each pair of images.

    >>> pck = PCK(0.1).update([1.5, 9], [1.5, 1], [1.5, 9], [2.5, 9], size=20)
    >>> pck.per_point
    0.5

    Source: Yang and Ramanan, TPAMI 35(12), 2013; per image and per point as in Tang et al.,
    NeurIPS 2023 (DIFT, arXiv 2306.03881), section 5, and its code (eval_spair.py of
    github.com/Tsingularity/dift), where both maps are enlarged to pixels before they are compared.
    """

    alpha: float
    correct: tuple[int, ...] = field(default=(), repr=False)
    points: tuple[int, ...] = field(default=(), repr=False)

    def update(
        self, y: ArrayLike, x: ArrayLike, true_y: ArrayLike, true_x: ArrayLike, size: ArrayLike
    ) -> PCK:
        """Add one more pair of images.

        Args:
            y, x: Locations found, one for each point, in pixels.
            true_y, true_x: True locations, in pixels.
            size: Size in pixels, one for all points or one for each.

        Raises:
            InputError: The numbers of points differ, or there are none.
        """
        arrays = [np.atleast_1d(each).astype(np.float64) for each in (y, x, true_y, true_x)]
        if len({each.shape for each in arrays}) != 1 or not arrays[0].size:
            raise InputError(
                f"points have shapes {[each.shape for each in arrays]}; give as many found as "
                "true, and leave pairs without points out"
            )
        distance = np.hypot(arrays[0] - arrays[2], arrays[1] - arrays[3])
        right = int((distance <= self.alpha * np.asarray(size)).sum())
        return PCK(self.alpha, (*self.correct, right), (*self.points, arrays[0].size))

    @property
    def per_image(self) -> float:
        """Return the mean over pairs of images of the share of points that are correct."""
        return float(np.mean(np.divide(self.correct, self.points))) if self.points else np.nan

    @property
    def per_point(self) -> float:
        """Return the share of all points that are correct."""
        return sum(self.correct) / sum(self.points) if self.points else np.nan


def _interpolated(
    target: xr.DataArray, y: NDArray[np.float64], x: NDArray[np.float64]
) -> Iterator[tuple[int, _Floats]]:
    """Yield features (place, channel) a few rows at a time, with the first row's position."""
    values = target.transpose(Y, X, CHANNEL).values.astype(np.float32)
    down = linear_weights(target[Y].values, y).astype(np.float32)
    across = linear_weights(target[X].values, x).astype(np.float32)
    step = max(1, _ROWS_AT_ONCE // (len(x) * values.shape[-1]))
    for first in range(0, len(y), step):
        rows = np.tensordot(down[first : first + step], values, 1)
        block = np.einsum("px,yxc->ypc", across, rows, optimize=True)
        yield first * len(x), block.reshape(-1, values.shape[-1])


def _units(features: NDArray[np.floating]) -> _Floats:
    values = features.astype(np.float32)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.divide(values, length, out=np.zeros_like(values), where=length > 0)


def _both(source: xr.DataArray, target: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return both features as (y, x, channel), each of one image."""
    source, target = of_one_picture(source), of_one_picture(target)
    for name, array in (("source", source), ("target", target)):
        if not {Y, X} <= set(array.coords):
            raise InputError(
                f"{name} has coordinates {list(array.coords)}; give y and x, in pixels"
            )
    if source.sizes[CHANNEL] != target.sizes[CHANNEL]:
        raise InputError(
            f"features have {source.sizes[CHANNEL]} and {target.sizes[CHANNEL]} channels; take "
            "both from the same site"
        )
    return source, target
