"""Compute the softmax of attention, from queries and keys as they were multiplied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.schema import CHANNEL, TOKEN, X, Y

__all__ = ["KEY_TOKEN", "KEY_X", "KEY_Y", "attention_probabilities"]

KEY_Y: Final = "key_y"
KEY_X: Final = "key_x"
KEY_TOKEN: Final = "key_token"


def attention_probabilities(
    query: xr.DataArray,
    key: xr.DataArray,
    bias: xr.DataArray | None = None,
    *,
    beside: xr.DataArray | None = None,
) -> xr.DataArray:
    """Return the softmax over all keys of q k / sqrt(channels), lazily and in float32.

    Args:
        query: Queries, with ``channel``, and ``y`` and ``x`` or ``token``.
        key: Keys, with ``channel``, and ``token`` or ``y`` and ``x``. In the result ``y`` and ``x``
            are called ``key_y`` and ``key_x``, and ``token`` is called ``key_token`` if queries
            have tokens, too. All other dims are shared with the queries.
        bias: Bias added to the scores before the softmax, such as a mask; its dims are among those
            of the keys without ``channel``, and it is the same along those it lacks.
        beside: Other keys that share the softmax, such as those of the other stream of a joint
            attention; the attention paid to them is left out.

    Returns:
        Probabilities, with the dims of the query without ``channel``, ``head`` before locations,
        then those of the keys.

    >>> query = xr.DataArray([[0.0, 0.0]], dims=("head", "channel"))
    >>> key = xr.DataArray([[[1.0, 0.0], [0.0, 1.0]]], dims=("head", "token", "channel"))
    >>> attention_probabilities(query, key).values.tolist()
    [[0.5, 0.5]]
    >>> attention_probabilities(query, key, beside=key).values.tolist()
    [[0.25, 0.25]]
    """
    key = _renamed(key, query)
    asked: list[str] = [
        dim for dim in (TOKEN, KEY_TOKEN, KEY_Y, KEY_X) if dim in key.dims and dim not in query.dims
    ]
    places = [dim for dim in (Y, X, TOKEN) if dim in query.dims]
    more: list[xr.DataArray] = []
    cores: list[list[str]] = []
    if bias is not None:
        more.append(_in_pieces(_renamed(bias, query), asked))
        cores.append(asked)
    if beside is not None:
        others = [dim for dim in beside.dims if dim in (TOKEN, Y, X)]
        beside = beside.drop_vars(
            [name for name in beside.coords if {*beside[name].dims} & {*others}]
        )
        beside = beside.rename({dim: f"beside_{dim}" for dim in others})
        cores.append([*(f"beside_{dim}" for dim in others), CHANNEL])
        more.append(_in_pieces(beside, cores[-1]))
    computed: xr.DataArray = xr.apply_ufunc(
        _softmax,
        _in_pieces(query, places),
        _in_pieces(key, asked),
        *more,
        input_core_dims=[[*places, CHANNEL], [*asked, CHANNEL], *cores],
        output_core_dims=[[*places, *asked]],
        kwargs={"places": len(places), "keys": len(asked), "biased": bias is not None},
        dask="parallelized",
        output_dtypes=[np.float32],
    )
    return computed


def _renamed(keys: xr.DataArray, query: xr.DataArray) -> xr.DataArray:
    """Rename the dims of keys, so that they differ from those of the queries."""
    names = {Y: KEY_Y, X: KEY_X}
    if TOKEN in query.dims:
        names[TOKEN] = KEY_TOKEN
        texts = [name for name in keys.coords if TOKEN in keys[name].dims and name != TOKEN]
        keys = keys.rename({name: f"key_{name}" for name in texts})
    return keys.rename({old: new for old, new in names.items() if old in keys.dims})


def _in_pieces(values: xr.DataArray, whole: Sequence[str]) -> xr.DataArray:
    """Chunk by timestep and head, so that no more of the matrix is ever held at once."""
    pieces = {dim: -1 if dim in (*whole, CHANNEL) else 1 for dim in values.dims}
    # Chunk the variable: chunking the array would cut its coordinates, too.
    return values.copy(data=values.variable.chunk(pieces).data)


def _softmax(
    query: NDArray[np.floating],
    key: NDArray[np.floating],
    *more: NDArray[np.floating],
    places: int,
    keys: int,
    biased: bool,
) -> NDArray[np.float32]:
    """Return the softmax of queries (..., places, channel) over keys (..., keys, channel)."""
    rows, columns = query.shape[query.ndim - 1 - places : -1], key.shape[key.ndim - 1 - keys : -1]
    q = query.reshape(*query.shape[: query.ndim - 1 - places], math.prod(rows), -1)
    k = key.reshape(*key.shape[: key.ndim - 1 - keys], math.prod(columns), -1)
    scores = _scores(q, k)
    for bias in more[:biased]:
        scores += bias.reshape(*bias.shape[: bias.ndim - keys], 1, math.prod(columns))
    # Further keys have the leading dims of the keys.
    others = [_scores(q, each.reshape(*k.shape[:-2], -1, k.shape[-1])) for each in more[biased:]]
    highest = np.max([each.max(axis=-1, keepdims=True) for each in (scores, *others)], axis=0)
    total = np.zeros_like(highest)
    for each in (scores, *others):
        each -= highest
        np.exp(each, out=each)
        total += each.sum(axis=-1, keepdims=True)
    scores /= total
    return scores.reshape(*scores.shape[:-2], *rows, *columns)


def _scores(query: NDArray[np.floating], key: NDArray[np.floating]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = query.astype(np.float32) @ key.astype(np.float32).swapaxes(-1, -2)
    scores *= np.float32(query.shape[-1] ** -0.5)
    return scores
