"""How alike places are to one place, in one picture and across pictures."""

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
    """The cosine similarity of one place to all places of all samples, at each timestep.

    Args:
        features: With y, x, channel and their places as coordinates; perhaps sample and timestep.
        y, x: The place, in pixels of the picture; the nearest feature is taken.
        sample: Position of the picture that the place is in.

    Returns:
        ``similarity`` (sample[, timestep], y, x), from -1 to 1; read when it is needed, where
        features are.

    Raises:
        InputError: No such sample.
    """
    values = by_location(features)
    if not 0 <= sample < values.sizes[SAMPLE]:
        raise InputError(f"sample {sample} of {values.sizes[SAMPLE]}; they count from 0")
    point = values.isel({SAMPLE: sample}, drop=True).sel({Y: y, X: x}, method="nearest", drop=True)
    return cosine_similarity(values, point)


def cosine_similarity(features: xr.DataArray, point: xr.DataArray) -> xr.DataArray:
    """The cosine similarity of a feature to each of others.

    Args:
        features: With y, x, channel, and perhaps sample and timestep.
        point: (channel), or (timestep, channel) to be compared timestep by timestep.

    Returns:
        ``similarity``, the dims of features without channel, from -1 to 1; 0 where a feature is 0.
    """
    values = by_location(features).astype(np.float32)
    wanted = joined_heads(point).astype(np.float32)
    lengths = _length(values) * _length(wanted)
    products = xr.dot(values, wanted, dim=CHANNEL)
    return (products / lengths.where(lengths > 0, 1)).clip(-1, 1).rename("similarity")


def _length(values: xr.DataArray) -> xr.DataArray:
    return np.sqrt(xr.dot(values, values, dim=CHANNEL))
