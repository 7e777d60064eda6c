"""Select from labelled arrays what belongs to one network call, in the order of its rows.

A recorded array is put back where it came from: by timestep, guidance half and sample, with heads
split or joined. It is read from its store when the call is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from emerdiff_probe.errors import SiteError
from emerdiff_probe.locations import rising
from emerdiff_probe.schema import (
    BATCH,
    CHANNEL,
    GUIDANCE,
    HEAD,
    SAMPLE,
    SOURCE_X,
    SOURCE_Y,
    TIMESTEP,
    TOKEN,
    X,
    Y,
)
from emerdiff_probe.taps import Call
from emerdiff_probe.timesteps import matching

__all__ = ["at_call", "direction_at", "mask_at", "values_at"]

_OF_CALLS = {BATCH, GUIDANCE, SAMPLE, TIMESTEP}


def values_at(values: xr.DataArray, call: Call, like: Tensor, site: str) -> Tensor | None:
    """Return the recorded values of a site for one call, shaped like the tensor that they replace.

    Args:
        values: An array with dims y, x (or token), optionally head, and channel; and the dims of
            calls.
        call: The network call in progress.
        like: The tensor, shape (row, location or token, channel) or (row, channel, y, x).
        site: The name of the site, for messages.

    Returns:
        As many rows as the tensor has, or one row; None if nothing was recorded for this timestep.

    Raises:
        SiteError: The array has other dims, samples or halves than the call.
    """
    places = [TOKEN] if TOKEN in values.dims else [Y, X]
    own = [*places, *[HEAD] * (HEAD in values.dims), CHANNEL]
    found = at_call(values, own, call, len(like), site)
    if found is None:
        return None
    found = found.flatten(0, 1)
    if HEAD in values.dims:
        found = found.flatten(-2)
    if like.ndim == 4 and len(places) == 2:
        return found.movedim(-1, 1)
    return found.flatten(1, -2)


def mask_at(mask: xr.DataArray, call: Call, rows: int, site: str) -> Tensor | None:
    """Return a mask for one call, shape (half or 1, sample or 1, y, x); see `at_call`."""
    return at_call(mask, [Y, X], call, rows, site)


def direction_at(direction: xr.DataArray, call: Call, rows: int, site: str) -> Tensor | None:
    """Return a direction for one call, shape (half or 1, sample or 1, channel); see `at_call`."""
    heads = [HEAD] * (HEAD in direction.dims)
    found = at_call(direction, [*heads, CHANNEL], call, rows, site)
    return found.flatten(2) if found is not None else None


def at_call(
    values: xr.DataArray, own: list[str], call: Call, rows: int, site: str
) -> Tensor | None:
    """Return the part of a labelled array that belongs to one call.

    Args:
        values: An array with dims ``own`` in any order (source_y and source_x count as y and x),
            and optionally timestep, guidance and sample; or batch, which has one entry for each row
            of a call.
        own: The dims wanted.
        call: The network call in progress.
        rows: The number of rows of the tensor in the call.
        site: The name of the site, for messages.

    Returns:
        Shape (half or 1, sample or 1, *own); None if the array has timesteps but not this one.

    Raises:
        SiteError: The array has other dims, samples or halves than the call.
    """
    places = {SOURCE_Y: Y, SOURCE_X: X}
    values = rising(values.rename({old: new for old, new in places.items() if old in values.dims}))
    if not set(own) <= set(values.dims) <= {*own, *_OF_CALLS}:
        raise SiteError(
            f"'{site}' cannot take an array with dims {values.dims}; it needs {', '.join(own)}, "
            f"and may have {SAMPLE}, {GUIDANCE} and {TIMESTEP}"
        )
    if TIMESTEP in values.dims:
        there = matching(values[TIMESTEP].values.tolist(), call.timestep or 0)
        if not there:
            return None
        values = values.isel({TIMESTEP: there[call.visit % len(there)]})
    halves = call.halves or 1
    if call.text is not None and GUIDANCE in values.coords and values[GUIDANCE].ndim:
        # A text encoder reads one text after the other.
        values = values.sel({GUIDANCE: call.text})
    if BATCH in values.dims:
        # One entry for each row of the call, in its order.
        if values.sizes[BATCH] != rows:
            raise SiteError(_wrong(site, values, BATCH, rows))
        return _tensor(values.transpose(BATCH, *own))[:, None].unflatten(0, (halves, -1))[:, :, 0]
    values = _halved(values, halves, site, call.order)
    if SAMPLE in values.dims and values.sizes[SAMPLE] not in (1, rows // halves):
        raise SiteError(_wrong(site, values, SAMPLE, rows // halves))
    for dim in (SAMPLE, GUIDANCE):
        if dim not in values.dims:
            values = values.drop_vars(dim, errors="ignore").expand_dims(dim)
    found = _tensor(values.transpose(GUIDANCE, SAMPLE, *own))
    if found.shape[:2] == (1, 1):
        return found
    return found.expand(halves, rows // halves, *found.shape[2:])


def _halved(values: xr.DataArray, halves: int, site: str, order: Sequence[str]) -> xr.DataArray:
    """Return the values with the guidance halves of a call, or without any.

    Raises:
        SiteError: The array has both halves, and the call has one.
    """
    if GUIDANCE not in values.dims:
        return values
    count = values.sizes[GUIDANCE]
    if count == 1:
        return values.isel({GUIDANCE: 0})
    if count != halves:
        raise SiteError(
            f"'{site}' is given both guidance halves, and this call has one; select it, as in "
            ".sel(guidance='cond')"
        )
    return values.sel({GUIDANCE: list(order)}) if GUIDANCE in values.coords else values


def _wrong(site: str, values: xr.DataArray, dim: str, count: int) -> str:
    return (
        f"'{site}' is given {values.sizes[dim]} of dim {dim}, and this call has {count}; choose as "
        f"many, or one, as in .isel({dim}=0)"
    )


def _tensor(values: xr.DataArray) -> Tensor:
    array: Any = np.ascontiguousarray(values.values)
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array)
