"""From difference maps to segments: every pixel takes the mask that moves it most."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter

from emerdiff_probe.analysis.upsampling import linear_weights
from emerdiff_probe.schema import MASK, MODEL_X, MODEL_Y, X, Y

__all__ = ["assign", "smooth"]


def smooth(difference: xr.DataArray, sigma: float) -> xr.DataArray:
    """Filters every map with a Gaussian.

    Args:
        difference: (mask, model_y, model_x), >= 0.
        sigma: Standard deviation in pixels of the model's picture; 0 leaves the maps alone. The
            paper does not give its value.
    """
    if sigma == 0:
        return difference
    filtered = gaussian_filter(difference.values, (0, sigma, sigma), mode="nearest")
    return difference.copy(data=filtered)


def assign(difference: xr.DataArray, y: ArrayLike, x: ArrayLike) -> xr.Dataset:
    """Each pixel takes the mask with the largest difference.

    The maps are interpolated bilinearly to the pixels asked for, one at a time, so that a large
    photograph needs the memory of a few maps and not of all.

    Args:
        difference: (mask, model_y, model_x), >= 0, with all coordinates.
        y: Rows asked for, in the units of ``model_y``.
        x: Columns asked for.

    Returns:
        ``labels`` (y, x) int16; ``strength`` (y, x) float32, the largest value; ``margin`` (y, x)
        float32 in [0, 1], how much smaller the second is, relative to it: 0 where nothing moves
        or two masks tie, 1 where no other mask moves the pixel at all.
    """
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    down = linear_weights(difference[MODEL_Y].values, y).astype(np.float32)
    across = linear_weights(difference[MODEL_X].values, x).astype(np.float32)
    first = np.full((len(y), len(x)), -1.0, np.float32)
    second = np.zeros_like(first)
    labels = np.zeros(first.shape, np.int16)
    for number, plane in enumerate(difference.transpose(MASK, MODEL_Y, MODEL_X).values):
        moved = down @ plane @ across.T
        wins = moved > first
        second = np.where(wins, np.maximum(first, 0), np.maximum(second, moved))
        labels[wins] = number
        first = np.where(wins, moved, first)
    margin = np.divide(first - second, first, out=np.zeros_like(first), where=first > 0)
    maps = {"labels": labels, "strength": first, "margin": margin}
    return xr.Dataset(
        {name: ((Y, X), values) for name, values in maps.items()}, coords={Y: y, X: x}
    )
