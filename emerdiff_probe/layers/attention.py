"""Compute attention probabilities from recorded queries and keys, when they are needed."""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import checks
from emerdiff_probe.errors import InputError, SiteError, closest
from emerdiff_probe.layers.attended import mask_bias, refuse_reduced
from emerdiff_probe.layers.probabilities import attention_probabilities
from emerdiff_probe.schema import HEAD, SAMPLE, TIMESTEP, TOKEN, X, Y
from emerdiff_probe.sites import Site
from emerdiff_probe.store import at, site, sites_of

__all__ = ["attention", "token_weights"]

Stream = Literal["image", "text"]


def attention(
    run: xr.DataTree,
    name: str | None = None,
    *,
    token: str | int | None = None,
    location: tuple[float, float] | None = None,
    head: int | None = None,
    of: Stream = "image",
    to: Stream | None = None,
) -> xr.DataArray:
    """Return what an attention's locations, or tokens, look at, from recorded queries and keys.

    This is the softmax over all keys of q k / sqrt(channels of a head) (Vaswani et al. 2017, eq.
    1), in float32, with the mask of keys that the UNet was given, if any. It is as exact as the
    recording: queries and keys in float16 move probabilities by about 1e-3.

    Args:
        run: Recording with the ports ``query`` and ``key`` of the attention.
        name: Path of the attention, such as ``mid_block.attentions.0.transformer_blocks.0.attn2``.
            It may be left out with ``token``: the result is then the mean over the heads of all
            recorded attentions to the text, on the finest of their grids, whose locations take the
            nearest one of a coarser grid.
        token: Word or phrase in any script, or position of a token, in an attention to a text:
            return how much of their attention locations pay to it. The pieces of a word and its
            repetitions are added up; a text without the word gives NaN. With ``of="text"``: return
            only what this word looks at, the mean over its pieces.
        location: Position (y, x) in pixels of the picture: return only what the nearest location
            looks at.
        head: Number of the head, from 0; by default all are returned, each for itself.
        of: Stream of the queries: "image" or, in a joint attention, "text".
        to: Stream of the keys: "image" or "text". A joint attention has both, and their
            probabilities together add up to 1, so choose one; leave it out for other attentions,
            which have keys of one stream only.

    Returns:
        Probabilities, float32, with dims (sample[, guidance], timestep, head, y, x) followed by
        ``token``, or in self-attention by ``key_y`` and ``key_x`` (pixels, as y and x), without the
        dims that were chosen from. They add up to 1 over the keys. Queries of a text have ``token``
        in place of y and x, and look at ``key_token``. Probabilities are computed lazily, one
        timestep and head at a time; the whole matrix of a large grid is large, so choose first.

    Raises:
        SiteError: The recording has no queries and keys of such an attention.
        InputError: Neither a name nor a token is given; no text has the token, or the attention is
            not to a text; the head or location does not exist; or queries and keys were reduced.
    """
    if name is None:
        if token is None:
            raise InputError("name and token are both left out; give one of them, or both")
        return _over_attentions(run, token, location, head)
    to = _asked(run, name, of, to, token)
    query, key, beside = _recorded(run, name, of, to)
    refuse_reduced(run, name, key)
    bias = mask_bias(run, name, {dim: key.sizes[dim] for dim in (TOKEN, Y, X) if dim in key.dims})
    if of == "image" and token is not None and TOKEN not in key.dims:
        raise InputError(
            f"{name!r} is self-attention, whose keys are locations, not tokens; leave token out, "
            "or choose the attn2 beside it"
        )
    weights = None if token is None else token_weights(key if of == "image" else query, token)
    if head is not None:
        heads = query.sizes[HEAD]
        if head not in range(heads):
            raise InputError(f"head is {head}; {name!r} has heads 0 to {heads - 1}")
        query, key = query.isel({HEAD: head}), key.isel({HEAD: head})
        beside = None if beside is None else beside.isel({HEAD: head})
    if location is not None:
        if of == "text":
            raise InputError("location needs queries of the image; leave it out with of='text'")
        query = at(query, *location)
    paid = attention_probabilities(query, key, bias, beside=beside)
    if weights is None:
        return paid.rename(f"{name} probabilities")
    if of == "text":
        paid = (paid * (weights / weights.sum(TOKEN, skipna=False))).sum(TOKEN, skipna=False)
        return paid.rename(f"{name} of {token!r}")
    return (paid * weights).sum(TOKEN, skipna=False).rename(f"{name} to {token!r}")


def _asked(
    run: xr.DataTree, name: str, of: Stream, to: Stream | None, token: str | int | None
) -> Stream | None:
    """Return the stream of the keys; None for an attention with keys of one stream only."""
    for argument, value in (("of", of), ("to", to)):
        if value is not None and value not in get_args(Stream):
            raise InputError(f"{argument} is {value!r}; choose 'image' or 'text'")
    if not _is_joint(run, name):
        if of == "text" or to is not None:
            raise InputError(
                f"{name!r} is not a joint attention: its queries come from the image and its keys "
                "from one stream only; leave of and to out"
            )
        return None
    if to is None and of == "image" and token is not None:
        return "text"
    if to is None:
        raise InputError(
            f"{name!r} is joint attention, whose probabilities add up to 1 over image and text "
            "together; choose to='image' or to='text'"
        )
    return to


def _is_joint(run: xr.DataTree, path: str) -> bool:
    return path in json.loads(run.attrs.get("config", "{}")).get("joint", [])


def _over_attentions(
    run: xr.DataTree,
    token: str | int,
    location: tuple[float, float] | None,
    head: int | None,
) -> xr.DataArray:
    """Return the mean attention to a token over heads and attentions, on the finest grid."""
    known = set(sites_of(run))
    names = [
        each.path
        for each in sites_of(run)
        if each.port in ("key", "text_key")
        and {Site(each.path, "query"), Site(each.path, "key")} <= known
        and TOKEN in site(run, str(each)).dims
    ]
    if not names:
        raise SiteError(
            "this recording has no queries and keys of any attention to a text; record them with "
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


def _recorded(
    run: xr.DataTree, path: str, of: Stream, to: Stream | None
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray | None]:
    """Return queries, keys, and for a joint attention the keys of the other stream."""
    ports = ["query" if of == "image" else "text_query", "key"]
    if to is not None:
        ports = [ports[0], *(("key", "text_key") if to == "image" else ("text_key", "key"))]
    known, wanted = set(sites_of(run)), [Site(path, port) for port in ports]
    if set(wanted) <= known:
        query, key, *beside = (site(run, str(each)) for each in wanted)
        return query, key, beside[0] if beside else None
    there = [each.path for each in sorted(known) if each.port == "key"]
    there = [each for each in dict.fromkeys(there) if Site(each, "query") in known]
    names = [f"'{each}'" for each in wanted]
    raise SiteError(
        f"this recording lacks {', '.join(names[:-1])} or {names[-1]}; record them with "
        f"sites='{', '.join(map(str, wanted))}'. Among attentions with all of them, "
        f"{closest(path, there)}"
    )


def token_weights(keys: xr.DataArray, token: str | int) -> xr.DataArray:
    """Return 1 at the positions of a token in each text, 0 elsewhere; NaN where it has none.

    Args:
        keys: Keys of all tokens; with ``token_text`` (sample[, guidance], token) if texts are
            known.
        token: Word, or position of a token.
    """
    if not isinstance(token, str):
        count = keys.sizes[TOKEN]
        position = checks.integer("token", token, 0, count - 1, InputError)
        return xr.DataArray(np.arange(count) == position, dims=TOKEN).astype(np.float32)
    if "token_text" not in keys.coords:
        raise InputError(
            f"token is {token!r}, but this recording has no texts, as the UNet was called with "
            f"encoded ones; give a position from 0 to {keys.sizes[TOKEN] - 1}"
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
            f"no text of this recording has the token {token!r}; choose from "
            f"{', '.join(map(repr, known))}"
        )
    return found.where(found.any(TOKEN)).assign_coords(
        {name: texts[name] for name in texts.coords if set(texts[name].dims) <= {SAMPLE, TIMESTEP}}
    )


def _positions(texts: NDArray[np.str_], word: str) -> NDArray[np.float32]:
    """Mark the tokens that make up a word or phrase, which may be cut into several."""
    pieces = [str(text) for text in texts]
    phrase = "".join(unicodedata.normalize("NFC", word).split())
    found = _joined([each.casefold() for each in pieces], phrase.casefold())
    # CLIP's tokens are made of bytes, so a letter beyond ASCII is several characters or tokens.
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
    """Write a text as byte tokenizers do: one printable character for each byte of its UTF-8.

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
