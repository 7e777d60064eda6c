"""Measure how similar locations are to one location, in one image and across images."""

from __future__ import annotations

import numpy as np
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import by_location, joined_heads
from emerdiff_probe.schema import CHANNEL, SAMPLE, X, Y

__all__ = ["cosine_similarity", "similarity_to_point"]


def similarity_to_point(
    features: xr.DataArray, y: float, x: float, sample: int = 0
) -> xr.DataArray:
    """Return the cosine similarity of one location to all locations of all samples.

    Args:
        features: Features with y, x, channel, coordinates y and x, and perhaps sample and timestep.
        y, x: Position in pixels of the picture; the nearest location is taken.
        sample: Position, from 0, of the picture that the location is in.

    Returns:
        ``similarity`` (sample[, timestep], y, x), from -1 to 1; computed when it is needed, if
        features are read when they are needed.

    Raises:
        InputError: The sample does not exist.
    """
    values = by_location(features)
    if not 0 <= sample < values.sizes[SAMPLE]:
        raise InputError(f"sample={sample}; choose 0 to {values.sizes[SAMPLE] - 1}")
    point = values.isel({SAMPLE: sample}, drop=True).sel({Y: y, X: x}, method="nearest", drop=True)
    return cosine_similarity(values, point)


def cosine_similarity(features: xr.DataArray, point: xr.DataArray) -> xr.DataArray:
    """Return the cosine similarity of one feature to each of many.

    Args:
        features: Features with y, x, channel, and perhaps sample and timestep.
        point: Feature (channel,), or (timestep, channel) to compare timestep by timestep.

    Returns:
        ``similarity``, with the dims of features without channel, from -1 to 1; 0 where a feature
        is 0.
    """
    values = by_location(features).astype(np.float32)
    wanted = joined_heads(point).astype(np.float32)
    lengths = _length(values) * _length(wanted)
    products = xr.dot(values, wanted, dim=CHANNEL)
    return (products / lengths.where(lengths > 0, 1)).clip(-1, 1).rename("similarity")


def _length(values: xr.DataArray) -> xr.DataArray:
    return np.sqrt(xr.dot(values, values, dim=CHANNEL))
