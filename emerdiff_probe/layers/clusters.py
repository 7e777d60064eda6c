"""Group locations by k-means over one image or many, and compare groupings."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.features import GRID
from emerdiff_probe.locations import at_one_timestep, grouped_pictures
from emerdiff_probe.metrics import (
    Score,
    adjusted_mutual_information,
    adjusted_rand,
    normalised_mutual_information,
)
from emerdiff_probe.schema import BATCH, CHANNEL, SAMPLE, SOURCE_X, SOURCE_Y, X, Y

__all__ = ["Normalisation", "agreement", "by_first_appearance", "cluster", "normalised"]

Normalisation = Literal["none", "l2", "standard"]


def normalised(features: xr.DataArray, how: Normalisation) -> xr.DataArray:
    """Return features as clustering compares them, in float64.

    Args:
        features: Features at one timestep, with y, x (or source_y, source_x) and channel, and
            perhaps sample, guidance and heads, in any order; all finite.
        how: "none" keeps them; "l2" scales every location's vector to length 1 (zeros stay zeros);
            "standard" brings every channel to mean 0 and variance 1 over all locations (constant
            ones become 0).

    Returns:
        Features with dims (sample, y, x, channel), without sample where they had none; the dims of
        locations keep their names.

    Raises:
        InputError: The features have other dims, several timesteps, or values that are not finite.
    """
    features = _as_given(features)
    values = features.values.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(
            f"features have {np.count_nonzero(~np.isfinite(values))} values that are not finite; "
            "record them in float32"
        )
    if how == "l2":
        length = np.linalg.norm(values, axis=-1, keepdims=True)
        values = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    elif how == "standard":
        axis = tuple(range(values.ndim - 1))
        values = values - values.mean(axis)
        spread = values.std(axis)
        values = np.divide(values, spread, out=np.zeros_like(values), where=spread > 0)
    elif how != "none":
        raise InputError(f"no normalisation {how!r}; choose 'none', 'l2' or 'standard'")
    return features.copy(data=values)


def cluster(
    features: xr.DataArray,
    masks: int,
    *,
    normalise: Normalisation = "none",
    restarts: int = 10,
    seed: int = 0,
) -> xr.DataArray:
    """Group locations by k-means (Lloyd's, from k-means++) into low-resolution masks.

    This is EmerDiff's second step. The paper gives neither the normalisation nor the
    initialisation, so both are parameters here. The locations of several samples are grouped
    together, so that a mask means the same in every image.

    Args:
        features: Features as `normalised` takes them.
        masks: Number of masks, from 1 to the number of locations.
        normalise: Normalisation of the features; see `normalised`.
        restarts: Number of starts of k-means; the one with the least inertia wins.
        seed: Seed of the starts.

    Returns:
        ``low_res``, with the dims of `normalised` without channel, int16 from 0 to ``masks - 1``;
        all masks are in use, and numbered by first appearance, row by row from the top left.

    Raises:
        InputError: The number of masks is out of range, the features cannot be used, or fewer of
            them differ than there are masks.

    Source: Namekata et al., ICLR 2024 (arXiv 2401.11739).
    """
    values = normalised(features, normalise)
    points = values.values.reshape(-1, values.sizes[CHANNEL])
    if not 1 <= masks <= len(points):
        raise InputError(
            f"masks={masks} on {' x '.join(map(str, values.shape[:-1]))} locations; choose 1 to "
            f"{len(points)}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few clusters: an error below
        found = KMeans(masks, n_init=restarts, random_state=seed).fit_predict(points)
    labels = by_first_appearance(found)
    if labels.max() + 1 < masks:
        raise InputError(
            f"only {labels.max() + 1} of masks={masks} can be told apart, as other locations have "
            "equal features; ask for that many or fewer"
        )
    low_res = values.isel({CHANNEL: 0}, drop=True).copy(data=labels.reshape(values.shape[:-1]))
    return low_res.rename("low_res").drop_attrs()


def agreement(one: xr.DataArray, other: xr.DataArray) -> dict[str, Score]:
    """Measure how far two groupings of the same images agree, whatever the groups are called.

    Args:
        one, other: Groups (sample, y, x), integers, of the same samples, or of one image without
            sample. If the grids differ, the finer is used, and each location takes the group of the
            nearest location of the coarser; both then need the coordinates y and x.

    Returns:
        Scores ``ari``, ``ami`` and ``nmi``; see `emerdiff_probe.metrics.adjusted_rand`,
        `emerdiff_probe.metrics.adjusted_mutual_information` and
        `emerdiff_probe.metrics.normalised_mutual_information`.

    Raises:
        InputError: The samples differ.
    """
    one, other = grouped_pictures(one), grouped_pictures(other)
    if one.sizes[SAMPLE] != other.sizes[SAMPLE]:
        raise InputError(
            f"one groups {one.sizes[SAMPLE]} images and the other {other.sizes[SAMPLE]}; "
            "give groups of the same images"
        )
    coarse, fine = sorted((one, other), key=lambda each: each.sizes[Y] * each.sizes[X])
    if (coarse.sizes[Y], coarse.sizes[X]) != (fine.sizes[Y], fine.sizes[X]):
        coarse = coarse.sel({Y: fine[Y], X: fine[X]}, method="nearest")
    first, second = (
        np.asarray(each.transpose(*GRID).values).reshape(-1, each.sizes[X])
        for each in (coarse, fine)
    )
    return {
        "ari": adjusted_rand(first, second),
        "ami": adjusted_mutual_information(first, second),
        "nmi": normalised_mutual_information(first, second),
    }


def by_first_appearance(labels: NDArray[np.integer]) -> NDArray[np.int16]:
    """Renumber groups from 0 in the order in which they first occur.

    >>> by_first_appearance(np.array([7, 7, 2, 7, 4]))
    array([0, 0, 1, 0, 2], dtype=int16)
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int16)


def _as_given(features: xr.DataArray) -> xr.DataArray:
    """Return features at one timestep, with sample and the dims of locations as they came."""
    values = at_one_timestep(features)
    if not {SAMPLE, BATCH} & set(features.dims):
        values = values.isel({SAMPLE: 0})
    return values.rename({Y: SOURCE_Y, X: SOURCE_X}) if SOURCE_Y in features.dims else values
