"""Measure how much of a layer is position, how much colour, and how much semantics."""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.features import (
    Labels,
    as_points,
    class_shares,
    colours_on,
    label_pictures,
)
from emerdiff_probe.layers.linear_probes import picture_folds
from emerdiff_probe.locations import at_one_timestep
from emerdiff_probe.schema import SAMPLE, X, Y

__all__ = ["SHARES", "explained"]

_Matrix = NDArray[np.float64]

_FACTORS: Final = ("position", "colour", "semantics")
_SETS: Final = [set for size in (1, 2, 3) for set in combinations(_FACTORS, size)]

SHARES: Final[tuple[str, ...]] = (
    *_FACTORS,
    *(f"only {name}" for name in _FACTORS),
    *(f"only {one} and {other}" for one, other in combinations(_FACTORS, 2)),
    "common to all",
    "total",
)
"""Names of what :func:`explained` returns: each factor alone, seven parts, and their total."""

_WAVES: Final = 4


def explained(
    features: xr.DataArray,
    pictures: xr.DataArray,
    labels: Labels,
    *,
    ignore: int | None = None,
    folds: int = 5,
    alpha: float = 1.0,
) -> xr.DataArray:
    """Return the shares of a layer's variance that position, colour and semantics explain.

    Ridge regression predicts the channels from three factors: the position of a location (the
    cosines of up to three half waves along each side), the mean colour of its cell (with squares
    and products) and the share of each class in its cell; from each factor alone, from each two,
    and from all. Shares are R² in images that were not fitted, over all channels together, so they
    can be slightly below 0. The part of one factor only is what is lost without it; the part common
    to two or three can be read from any of them, and can be negative where one factor makes another
    clearer.

    Args:
        features: Features with y, x, channel, and sample (at least 2), at one timestep.
        pictures: Images (sample, y, x, rgb), the leaf "image" of the recording.
        labels: Classes (sample, y, x), integers from 0 up.
        ignore: Label that stands for no class.
        folds: Number of folds of the cross-validation, 2 or more; at most one for each image is
            used.
        alpha: Strength of the ridge penalty, on standardised predictors.

    Returns:
        Shares (share), named by `SHARES`.

    Raises:
        InputError: There is one image only, there are several timesteps, or the truth belongs to
            other images.

    Source: commonality analysis (Mood 1971; Nimon and Oswald, Organizational Research Methods 16,
    2013), with cross-validated R² in place of the fitted.
    """
    features = at_one_timestep(features)
    if features.sizes[SAMPLE] < 2:
        raise InputError(
            f"features have sizes {dict(features.sizes)}; give two or more images (samples)"
        )
    matrix, groups = as_points(features)
    rows, columns = features.sizes[Y], features.sizes[X]
    factors = {
        "position": np.tile(_position(rows, columns), (features.sizes[SAMPLE], 1)),
        "colour": _colour(colours_on(pictures, rows, columns)),
        "semantics": _semantics(labels, rows, columns, ignore),
    }
    for name, design in factors.items():
        if len(design) != len(matrix):
            raise InputError(
                f"{name} has {len(design)} locations and features have {len(matrix)}; give one "
                "image for each sample"
            )
    chosen = picture_folds(groups, folds)
    r2 = {
        names: _r2(np.hstack([factors[name] for name in names]), matrix, chosen, alpha)
        for names in _SETS
    }
    return xr.DataArray(_shares(r2), dims="share", coords={"share": list(SHARES)}, name="explained")


def _shares(r2: dict[tuple[str, ...], float]) -> list[float]:
    """Return the shares in the order of `SHARES`."""
    whole = r2[_FACTORS]
    without = {
        name: whole - r2[tuple(other for other in _FACTORS if other != name)] for name in _FACTORS
    }
    both = {}
    for one, other in combinations(_FACTORS, 2):
        (third,) = set(_FACTORS) - {one, other}
        both[one, other] = whole - r2[third,] - without[one] - without[other]
    common = whole - sum(without.values()) - sum(both.values())
    alone = [r2[name,] for name in _FACTORS]
    return [*alone, *without.values(), *both.values(), common, whole]


def _r2(
    design: _Matrix,
    matrix: _Matrix,
    folds: list[tuple[NDArray[np.integer], NDArray[np.integer]]],
    alpha: float,
) -> float:
    left = spread = 0.0
    for train, test in folds:
        mean, scale = design[train].mean(0), design[train].std(0)
        scaled = (design - mean) / np.where(scale > 0, scale, 1)
        fitted = Ridge(alpha).fit(scaled[train], matrix[train])
        left += float(((matrix[test] - fitted.predict(scaled[test])) ** 2).sum())
        spread += float(((matrix[test] - matrix[train].mean(0)) ** 2).sum())
    return 1 - left / spread if spread else 0.0


def _position(rows: int, columns: int) -> _Matrix:
    def waves(count: int) -> _Matrix:
        return np.cos(np.pi * np.outer((np.arange(count) + 0.5) / count, np.arange(_WAVES)))

    both = np.einsum("yi,xj->yxij", waves(rows), waves(columns))
    return both.reshape(rows * columns, -1)[:, 1:]  # without the constant


def _colour(colours: _Matrix) -> _Matrix:
    flat = colours.reshape(-1, 3)
    products = [flat[:, i] * flat[:, j] for i in range(3) for j in range(i, 3)]
    return np.column_stack([flat, *products])


def _semantics(labels: Labels, rows: int, columns: int, ignore: int | None) -> _Matrix:
    values = label_pictures(labels)
    known = [number for number in np.unique(values) if number != ignore]
    numbered = np.full(values.shape, len(known))  # outside all classes
    for position, number in enumerate(known):
        numbered[values == number] = position
    return class_shares(numbered, rows, columns, len(known)).reshape(-1, len(known))
