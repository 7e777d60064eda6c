"""Clusters of any layer, over all samples at once, and how well those of two layers agree."""

from __future__ import annotations

import numpy as np
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.features import GRID
from emerdiff_probe.locations import at_one_timestep, grouped_pictures
from emerdiff_probe.metrics import (
    Score,
    adjusted_mutual_information,
    adjusted_rand,
    normalised_mutual_information,
)
from emerdiff_probe.schema import CHANNEL, SAMPLE, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.segments.clustering import Normalisation, cluster

__all__ = ["agreement", "cluster_layer"]


def cluster_layer(
    features: xr.DataArray,
    count: int,
    *,
    normalise: Normalisation = "none",
    restarts: int = 10,
    seed: int = 0,
) -> xr.DataArray:
    """Places of one layer at one timestep, grouped by k-means over all samples together.

    A cluster so means the same in every picture. For one picture alone this is
    `emerdiff_probe.segments.cluster`, which does the work.

    Args:
        features: With y, x, channel, and perhaps sample.
        count: How many clusters.
        normalise, restarts, seed: See `emerdiff_probe.segments.cluster`.

    Returns:
        ``clusters`` (sample, y, x), int16 from 0 to ``count - 1``.

    Raises:
        InputError: Several timesteps, or as `emerdiff_probe.segments.cluster`.
    """
    values = at_one_timestep(features)
    tall = xr.DataArray(
        values.values.reshape(-1, values.sizes[X], values.sizes[CHANNEL]),
        dims=(SOURCE_Y, SOURCE_X, CHANNEL),
    )
    found = cluster(tall, count, normalise=normalise, restarts=restarts, seed=seed)
    one = values.isel({CHANNEL: 0}, drop=True)
    return one.copy(data=found.values.reshape(one.shape)).rename("clusters").drop_attrs()


def agreement(one: xr.DataArray, other: xr.DataArray) -> dict[str, Score]:
    """How well two ways of grouping the same pictures agree, whatever the groups are called.

    Args:
        one, other: Integers (sample, y, x) of the same samples, or of one picture without sample.
            Of two grids the finer is used, on which each place takes the group of the nearest
            place of the coarser: both then need the coordinates y and x.

    Returns:
        ``ari``, ``ami`` and ``nmi``; see `emerdiff_probe.metrics.adjusted_rand` and the others.

    Raises:
        InputError: Other samples.
    """
    one, other = grouped_pictures(one), grouped_pictures(other)
    if one.sizes[SAMPLE] != other.sizes[SAMPLE]:
        raise InputError(
            f"one groups {one.sizes[SAMPLE]} pictures, the other {other.sizes[SAMPLE]}; "
            "give the same ones"
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
