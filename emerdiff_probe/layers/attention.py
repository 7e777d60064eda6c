"""Attention probabilities, computed from recorded queries and keys when they are needed."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import checks
from emerdiff_probe.errors import InputError, SiteError, closest
from emerdiff_probe.layers.attended import mask_bias, refuse_reduced
from emerdiff_probe.schema import CHANNEL, HEAD, SAMPLE, TIMESTEP, TOKEN, X, Y
from emerdiff_probe.sites import Site
from emerdiff_probe.store import at, site, sites_of

__all__ = ["attention", "attention_probabilities", "token_weights"]

KEY_Y, KEY_X = "key_y", "key_x"


def attention(
    run: xr.DataTree,
    name: str | None = None,
    *,
    token: str | int | None = None,
    location: tuple[float, float] | None = None,
    head: int | None = None,
) -> xr.DataArray:
    """What an attention's locations look at, from its recorded queries and keys.

    The softmax over all keys of q k / sqrt(channels of a head) (Vaswani et al. 2017, eq. 1), in
    float32, with the mask of keys that the UNet call was given, if any. It is as exact as what was
    recorded: queries and keys in float16 move probabilities by about 1e-3.

    Args:
        run: A recording that has the ports ``query`` and ``key`` of the attention.
        name: Path of the attention, as ``mid_block.attentions.0.transformer_blocks.0.attn2``. With
            a token it may be left out: then it is the mean over the heads of all attentions to the
            text that were recorded, on the finest of their grids, a location of which takes the
            nearest one of a coarser grid.
        token: Of an attention to a text: how much of their attention locations pay to this word or
            phrase, in any script, in which the pieces of a word and the times it occurs are added
            up; or a position. A text that has no such word gives NaN.
        location: Only what the location that is nearest to this y and x looks at, in pixels of the
            picture.
        head: Only this one; by default all, apart.

    Returns:
        Probabilities, float32, with dims (sample[, guidance], timestep, head, y, x) followed by
        ``token``, or by ``key_y`` and ``key_x`` (pixels, as y and x) in self-attention, less the
        dims that were chosen from. They add up to 1 over the keys. Nothing is computed before it is
        asked for, and then one timestep and head at a time: the whole matrix of a large grid is
        large, so choose first.

    Raises:
        SiteError: The recording has no queries and keys of such an attention.
        InputError: Neither a name nor a token. No text has the token, or it is not an attention to
            a text; the head or place is not there; or queries and keys were made smaller.
    """
    if name is None:
        if token is None:
            raise InputError("name and token are both left out; give one of them, or both")
        return _over_attentions(run, token, location, head)
    query, key = _recorded(run, name)
    refuse_reduced(run, name, key)
    bias = mask_bias(run, name, {dim: key.sizes[dim] for dim in (TOKEN, Y, X) if dim in key.dims})
    if token is not None and TOKEN not in key.dims:
        raise InputError(
            f"{name!r} is self-attention, whose keys are locations and no tokens; leave token out, "
            "or choose the attn2 beside it"
        )
    weights = None if token is None else token_weights(key, token)
    if head is not None:
        heads = query.sizes[HEAD]
        if head not in range(heads):
            raise InputError(f"head is {head}; {name!r} has heads 0 to {heads - 1}")
        query, key = query.isel({HEAD: head}), key.isel({HEAD: head})
    if location is not None:
        query = at(query, *location)
    paid = attention_probabilities(query, key, bias)
    if weights is None:
        return paid.rename(f"{name} probabilities")
    return (paid * weights).sum(TOKEN, skipna=False).rename(f"{name} to {token!r}")


def attention_probabilities(
    query: xr.DataArray, key: xr.DataArray, bias: xr.DataArray | None = None
) -> xr.DataArray:
    """The softmax over all keys of q k / sqrt(channels), lazily and in float32.

    Args:
        query: With a dim ``channel``.
        key: With a dim ``channel``, and ``token`` or ``y`` and ``x``, which are then called
            ``key_y`` and ``key_x``. All other dims are shared with the queries.
        bias: Added to the scores before the softmax, as masks are; dims of the keys without
            ``channel``, of which those that it has not count as equal.

    Returns:
        Dims of the query without ``channel``, ``head`` before places, then those of the keys.

    >>> query = xr.DataArray([[0.0, 0.0]], dims=("head", "channel"))
    >>> key = xr.DataArray([[[1.0, 0.0], [0.0, 1.0]]], dims=("head", "token", "channel"))
    >>> attention_probabilities(query, key).values.tolist()
    [[0.5, 0.5]]
    """
    key, *added = (
        each.rename({old: new for old, new in ((Y, KEY_Y), (X, KEY_X)) if old in each.dims})
        for each in (key, bias)
        if each is not None
    )
    asked = [dim for dim in (TOKEN, KEY_Y, KEY_X) if dim in key.dims]
    places = [dim for dim in (Y, X) if dim in query.dims]
    computed: xr.DataArray = xr.apply_ufunc(
        _softmax,
        _in_pieces(query, places),
        _in_pieces(key, asked),
        *(_in_pieces(each, asked) for each in added),
        input_core_dims=[[*places, CHANNEL], [*asked, CHANNEL], *[asked] * len(added)],
        output_core_dims=[[*places, *asked]],
        kwargs={"places": len(places), "keys": len(asked)},
        dask="parallelized",
        output_dtypes=[np.float32],
    )
    return computed


def _in_pieces(values: xr.DataArray, whole: Sequence[str]) -> xr.DataArray:
    """One timestep and head in a piece, so that no more of the matrix is ever held at once."""
    pieces = {dim: -1 if dim in (*whole, CHANNEL) else 1 for dim in values.dims}
    # Not the array itself, whose coordinates would be cut, too.
    return values.copy(data=values.variable.chunk(pieces).data)


def _softmax(
    query: NDArray[np.floating],
    key: NDArray[np.floating],
    *bias: NDArray[np.float32],
    places: int,
    keys: int,
) -> NDArray[np.float32]:
    """Return that of queries (..., places, channel) over keys (..., keys, channel)."""
    channels = query.shape[-1]
    rows, columns = query.shape[query.ndim - 1 - places : -1], key.shape[key.ndim - 1 - keys : -1]
    q = query.reshape(*query.shape[: query.ndim - 1 - places], math.prod(rows), channels)
    k = key.reshape(*key.shape[: key.ndim - 1 - keys], math.prod(columns), channels)
    scores = q.astype(np.float32) @ k.astype(np.float32).swapaxes(-1, -2)
    scores *= np.float32(channels**-0.5)
    for each in bias:
        scores += each.reshape(*each.shape[: each.ndim - keys], 1, math.prod(columns))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores.reshape(*scores.shape[:-2], *rows, *columns)


def _over_attentions(
    run: xr.DataTree,
    token: str | int,
    location: tuple[float, float] | None,
    head: int | None,
) -> xr.DataArray:
    """The mean of what is paid to a token over heads and attentions, on the finest grid."""
    known = set(sites_of(run))
    names = [
        each.path
        for each in sites_of(run)
        if each.port == "key"
        and Site(each.path, "query") in known
        and TOKEN in site(run, str(each)).dims
    ]
    if not names:
        raise SiteError(
            "this recording has queries and keys of no attention to a text; record them, as with "
            "sites='*attn2:query, *attn2:key'"
        )
    paid = [attention(run, each, token=token, location=location, head=head) for each in names]
    paid = [each.mean(HEAD) if HEAD in each.dims else each for each in paid]
    if location is None:
        finest = max(paid, key=lambda each: each.sizes[Y] * each.sizes[X])
        places = {Y: finest[Y], X: finest[X]}
        paid = [
            each.sel(places, method="nearest").assign_coords(places)
            if each.sizes != finest.sizes
            else each
            for each in paid
        ]
    else:
        paid = [each.drop_vars((Y, X)) for each in paid]
    return (sum(paid[1:], start=paid[0]) / len(paid)).rename(f"attention to {token!r}")


def _recorded(run: xr.DataTree, path: str) -> tuple[xr.DataArray, xr.DataArray]:
    sites = set(sites_of(run))
    query, key = Site.parse(f"{path}:query"), Site.parse(f"{path}:key")
    if {query, key} <= sites:
        return site(run, str(query)), site(run, str(key))
    there = [each.path for each in sorted(sites) if Site(each.path, "key") in sites]
    there = [each for each in dict.fromkeys(there) if Site(each, "query") in sites]
    raise SiteError(
        f"this recording has not both '{query}' and '{key}'; record them, as with "
        f"sites='{path}:query, {path}:key'. Of attentions it has both of, {closest(path, there)}"
    )


def token_weights(keys: xr.DataArray, token: str | int) -> xr.DataArray:
    """Return 1 at the positions of a token in each text, 0 elsewhere; NaN where it has none.

    Args:
        keys: The keys of all tokens; ``token_text`` (sample[, guidance], token) if texts are known.
        token: A word or a position.
    """
    if not isinstance(token, str):
        count = keys.sizes[TOKEN]
        position = checks.integer("token", token, 0, count - 1, InputError)
        return xr.DataArray(np.arange(count) == position, dims=TOKEN).astype(np.float32)
    if "token_text" not in keys.coords:
        raise InputError(
            f"token is {token!r}, and this recording knows no texts, as the UNet was called with "
            f"encoded ones; give a position, 0 to {keys.sizes[TOKEN] - 1}"
        )
    texts = keys["token_text"]
    found: xr.DataArray = xr.apply_ufunc(
        _positions,
        texts.drop_vars(list(texts.coords)),
        input_core_dims=[[TOKEN]],
        output_core_dims=[[TOKEN]],
        kwargs={"word": token},
        vectorize=True,
        output_dtypes=[np.float32],
    )
    if not found.any():
        known = dict.fromkeys(np.ravel(texts.values).tolist())
        raise InputError(
            f"no text of this recording has the token {token!r}; there are "
            f"{', '.join(map(repr, known))}"
        )
    return found.where(found.any(TOKEN)).assign_coords(
        {name: texts[name] for name in texts.coords if set(texts[name].dims) <= {SAMPLE, TIMESTEP}}
    )


def _positions(texts: NDArray[np.str_], word: str) -> NDArray[np.float32]:
    """Which tokens make up a word or phrase, that may be cut in several."""
    pieces = [str(text) for text in texts]
    phrase = "".join(unicodedata.normalize("NFC", word).split())
    found = _joined([each.casefold() for each in pieces], phrase.casefold())
    # CLIP's tokens are of bytes, so that a letter beyond ASCII is several signs, or tokens.
    return np.maximum(found, _joined(pieces, _in_bytes(phrase.lower())))


def _joined(pieces: Sequence[str], wanted: str) -> NDArray[np.float32]:
    found = np.zeros(len(pieces), np.float32)
    for first in range(len(pieces)):
        joined = ""
        for last in range(first, len(pieces)):
            joined += pieces[last]
            if joined == wanted:
                found[first : last + 1] = 1
            if not wanted.startswith(joined):
                break
    return found


def _in_bytes(text: str) -> str:
    """A text as tokenizers of bytes write it: a printable sign for each byte of its UTF-8.

    >>> _in_bytes("bär")
    'bÃ¤r'

    Source: GPT-2's ``bytes_to_unicode`` (Radford et al. 2019), which CLIP uses too.
    """
    return "".join(_SIGNS[byte] for byte in text.encode())


def _signs() -> list[str]:
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_SIGNS: Final = _signs()
