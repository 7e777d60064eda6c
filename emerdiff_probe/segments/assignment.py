"""Turn difference maps into segments: every pixel takes the mask that moves it most."""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter

from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import linear_weights
from emerdiff_probe.schema import MASK, MODEL_X, MODEL_Y, SOURCE_X, SOURCE_Y, X, Y

__all__ = ["Balance", "assign", "balanced", "smooth"]

Balance = Literal["none", "root", "mean"]

_EXPONENTS: dict[Balance, float] = {"none": 0.0, "root": 0.5, "mean": 1.0}


def smooth(difference: xr.DataArray, sigma: float) -> xr.DataArray:
    """Filter every map with a Gaussian.

    Args:
        difference: Difference maps (mask, model_y, model_x), >= 0.
        sigma: Standard deviation in pixels of the image as the model sees it, 0 or more; 0 leaves
            the maps as they are. The paper does not give its value.
    """
    if sigma == 0:
        return difference
    filtered = gaussian_filter(difference.values, (0, sigma, sigma), mode="nearest")
    return difference.copy(data=filtered)


def balanced(
    difference: xr.DataArray, masks: xr.DataArray, how: Balance, elsewhere: float
) -> xr.DataArray:
    """Rescale maps in favour of small masks, whose shift moves pixels less than that of large ones.

    Neither way is the paper's, which takes the largest difference as it is: ``how="none"`` with
    ``elsewhere=1`` returns the maps unchanged.

    Args:
        difference: Difference maps (mask, model_y, model_x), >= 0, with the last two coordinates.
        masks: Weights (mask, source_y, source_x) in [0, 1], with the last two coordinates, in the
            same units.
        how: Divisor of each map. "none": 1; "mean": its mean over the mask's own pixels
            (interpolated bilinearly); "root": the square root of that mean.
        elsewhere: Weight in [0, 1] of a difference outside the mask's own pixels: 1 counts it as
            much as inside, 0 not at all. At the mask's edge the weight is interpolated along with
            the mask.

    Raises:
        InputError: ``elsewhere`` is out of range, or ``how`` is not one of the choices.
    """
    if how not in _EXPONENTS or not 0 <= elsewhere <= 1:
        raise InputError(
            f"how={how!r}, elsewhere={elsewhere}; choose how from {', '.join(_EXPONENTS)}, and "
            "elsewhere from 0 to 1"
        )
    if how == "none" and elsewhere == 1:
        return difference
    down = linear_weights(masks[SOURCE_Y].values, difference[MODEL_Y].values)
    across = linear_weights(masks[SOURCE_X].values, difference[MODEL_X].values)
    inside = down @ masks.transpose(MASK, SOURCE_Y, SOURCE_X).values @ across.T
    maps = difference.transpose(MASK, MODEL_Y, MODEL_X)
    own = (maps.values * inside).sum((1, 2)) / inside.sum((1, 2))
    own = np.where(own > 0, own, 1) ** _EXPONENTS[how]
    weights = elsewhere + (1 - elsewhere) * inside
    return maps.copy(data=(maps.values / own[:, None, None] * weights).astype(maps.dtype))


def assign(difference: xr.DataArray, y: ArrayLike, x: ArrayLike) -> xr.Dataset:
    """Assign to each pixel the mask with the largest difference.

    The maps are interpolated bilinearly to the pixels asked for, one at a time, so that a large
    photograph needs memory for a few maps only.

    Args:
        difference: Difference maps (mask, model_y, model_x), >= 0, with all coordinates.
        y: Rows of the pixels, in the units of ``model_y``.
        x: Columns of the pixels, in the units of ``model_x``.

    Returns:
        ``labels`` (y, x), int16; ``strength`` (y, x), float32, the largest difference; ``margin``
        (y, x), float32 in [0, 1], the gap to the second largest, divided by the largest: 0 where
        nothing moves or two masks tie, 1 where no other mask moves the pixel at all.
    """
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    same = np.array_equal(y, difference[MODEL_Y]) and np.array_equal(x, difference[MODEL_X])
    if not same:
        down = linear_weights(difference[MODEL_Y].values, y).astype(np.float32)
        across = linear_weights(difference[MODEL_X].values, x).astype(np.float32)
    first = np.full((len(y), len(x)), -1.0, np.float32)
    second = np.zeros_like(first)
    labels = np.zeros(first.shape, np.int16)
    for number, plane in enumerate(difference.transpose(MASK, MODEL_Y, MODEL_X).values):
        moved = plane if same else down @ plane @ across.T
        np.copyto(labels, number, where=moved > first)
        np.maximum(second, np.minimum(first, moved), out=second)
        np.maximum(first, moved, out=first)
    margin = np.divide(first - second, first, out=np.zeros_like(first), where=first > 0)
    maps = {"labels": labels, "strength": first, "margin": margin}
    return xr.Dataset(
        {name: ((Y, X), values) for name, values in maps.items()}, coords={Y: y, X: x}
    )
