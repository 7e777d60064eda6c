"""Bring features and masks of latent locations into the form that functions compute with.

They may come from a recording's site, from a segmentation or from selections of either, in memory
or from an opened store. Recordings call their locations y and x, segmentations source_y and
source_x.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import described
from emerdiff_probe.schema import (
    BATCH,
    CHANNEL,
    GUIDANCE,
    HEAD,
    SAMPLE,
    SOURCE_X,
    SOURCE_Y,
    TIMESTEP,
    X,
    Y,
)

__all__ = ["LABELLED", "at_one_timestep", "by_location", "grouped_pictures", "joined_heads"]
__all__ += ["latent_dims", "linear_weights", "of_one_picture", "on_latent_grid", "one_array"]
__all__ += ["rising"]

LABELLED: Final = (xr.DataArray, xr.Dataset, xr.DataTree)
"""Types whose axes are identified by their dims; others are arrays in a fixed order of axes."""

_PIXELS = {SOURCE_Y: Y, SOURCE_X: X}
_LATENT = {Y: SOURCE_Y, X: SOURCE_X}


def by_location(values: xr.DataArray) -> xr.DataArray:
    """Return features with dims (sample[, timestep], y, x, channel).

    Args:
        values: An array with locations and channel, and optionally sample, guidance (of which the
            half with the text is taken), timestep and head (whose channels are joined).

    Raises:
        InputError: It lacks such dims, or has halves of guidance that do not include the prompt's.
    """
    values = rising(_renamed(one_array(values), _PIXELS))
    if BATCH in values.dims:
        values = values.rename({BATCH: SAMPLE})
    if GUIDANCE in values.dims:
        halves = values[GUIDANCE].values.tolist()
        if "cond" not in halves and len(halves) > 1:
            raise InputError(
                f"it is unknown which half of the guidance belongs to the prompt; select one of "
                f"{', '.join(map(str, halves))}, as in .sel(guidance={halves[-1]!r})"
            )
        chosen = halves.index("cond") if len(halves) > 1 else 0
        values = values.isel({GUIDANCE: chosen}).drop_vars(GUIDANCE, errors="ignore")
    values = joined_heads(values)
    if SAMPLE not in values.dims:
        values = values.drop_vars(SAMPLE, errors="ignore").expand_dims(SAMPLE)
    dims = [dim for dim in (SAMPLE, TIMESTEP, Y, X, CHANNEL) if dim in values.dims]
    if not {Y, X, CHANNEL} <= set(dims) or set(values.dims) != set(dims):
        raise InputError(
            f"an array with dims {values.dims} has no features of locations; choose one with y, x "
            "and channel, for instance the output of a block or the queries of an attention"
        )
    return values.transpose(*dims)


def joined_heads(values: xr.DataArray) -> xr.DataArray:
    """Return values with the heads, if there are any, joined into the channels."""
    if HEAD not in values.dims:
        return values
    values = values.drop_vars([HEAD, CHANNEL], errors="ignore")
    return values.stack(joined=(HEAD, CHANNEL), create_index=False).rename(joined=CHANNEL)


def at_one_timestep(values: xr.DataArray) -> xr.DataArray:
    """Return features with dims (sample, y, x, channel); see `by_location`.

    Raises:
        InputError: They have several timesteps.
    """
    return _only(by_location(values), TIMESTEP, ".sel(timestep=281)")


def of_one_picture(values: xr.DataArray) -> xr.DataArray:
    """Return features with dims (y, x, channel); see `by_location`.

    Raises:
        InputError: They have several samples or timesteps.
    """
    return _only(at_one_timestep(values), SAMPLE, ".isel(sample=0)")


def on_latent_grid(values: xr.DataArray) -> xr.DataArray:
    """Return features with dims (source_y, source_x, channel); see `of_one_picture`."""
    return _renamed(of_one_picture(values), _LATENT)


def grouped_pictures(values: xr.DataArray) -> xr.DataArray:
    """Return labels of locations with dims (sample, y, x).

    Raises:
        InputError: They have several timesteps.
    """
    values = rising(_renamed(one_array(values), _PIXELS))
    values = _only(values, TIMESTEP, ".sel(timestep=281)")
    if SAMPLE not in values.dims:
        values = values.drop_vars(SAMPLE, errors="ignore").expand_dims(SAMPLE)
    return values.transpose(SAMPLE, Y, X)


def latent_dims(values: xr.DataArray | xr.Dataset | xr.DataTree) -> xr.DataArray:
    """Return masks or labels with their locations last and named source_y and source_x.

    Raises:
        InputError: They have several samples or timesteps, or are not an array.
    """
    array = rising(_renamed(one_array(values), _LATENT))
    for dim, example in ((SAMPLE, ".isel(sample=0)"), (TIMESTEP, ".sel(timestep=281)")):
        array = _only(array, dim, example)
    there = {SOURCE_Y, SOURCE_X} <= set(array.dims)
    return array.transpose(..., SOURCE_Y, SOURCE_X) if there else array


def linear_weights(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return linear interpolation as a matrix (target, source); end values extend outwards.

    Args:
        source: The positions of the known values, increasing.
        target: The positions asked for, in the same units.

    >>> linear_weights(np.array([0.5, 1.5]), np.array([0.0, 0.75]))
    array([[1.  , 0.  ],
           [0.75, 0.25]])
    """
    return np.stack([np.interp(target, source, unit) for unit in np.eye(len(source))], axis=1)


def one_array(values: Any) -> xr.DataArray:
    """Return a labelled array as it is.

    Raises:
        InputError: It is a dataset of several arrays, or something else; the message names a
            choice.
    """
    if isinstance(values, xr.DataArray):
        return values
    if isinstance(values, xr.DataTree):
        choice = "take one site: ep.site(recording, name)"
    elif isinstance(values, xr.Dataset):
        choice = 'take one array: result["features"], result["masks"] or result["low_res"]'
    else:
        choice = "give an xarray.DataArray with named dims"
    raise InputError(f"this is {described(values)}, not one labelled array; {choice}")


def rising(values: xr.DataArray) -> xr.DataArray:
    """Return an array with its locations in increasing order of their coordinates, if any.

    >>> rising(xr.DataArray([1, 2], dims="y", coords={"y": [6.0, 2.0]})).values
    array([2, 1])
    """
    for dim in (Y, X, SOURCE_Y, SOURCE_X):
        if dim in values.indexes and not values.indexes[dim].is_monotonic_increasing:
            values = values.sortby(dim)
    return values


def _only(values: xr.DataArray, dim: str, example: str) -> xr.DataArray:
    if dim not in values.dims:
        return values
    if values.sizes[dim] != 1:
        raise InputError(
            f"an array has {values.sizes[dim]} of dim {dim}; choose one, as in {example}"
        )
    return values.isel({dim: 0})


def _renamed(values: xr.DataArray, names: dict[str, str]) -> xr.DataArray:
    wanted = {old: new for old, new in names.items() if old in values.dims}
    # Without dims of their own, the new names belong to a location that was selected.
    return values.drop_vars(list(wanted.values()), errors="ignore").rename(wanted)
