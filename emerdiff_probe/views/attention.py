"""Draw the attention that each location of the image pays to each word of a prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import described
from emerdiff_probe.layers.attention import token_weights
from emerdiff_probe.locations import one_array
from emerdiff_probe.schema import BATCH, GUIDANCE, HEAD, RGB, SAMPLE, TIMESTEP, TOKEN, X, Y
from emerdiff_probe.timesteps import labels, positions
from emerdiff_probe.views.colours import SEQUENTIAL
from emerdiff_probe.views.maps import extent
from emerdiff_probe.views.panels import panels, picture, pixel_map, text, title

__all__ = ["attention"]

_ACROSS: Final = 6
_OVER: Final = 0.7
"""The opacity of a map over the image, which is grey there, so that only maps have colours."""

Maps = dict[str, NDArray[np.float32]]
"""Attention maps (timestep, y, x) by the text of a token."""


def attention(
    paid: xr.DataArray,
    shown: xr.DataArray,
    *,
    word: str | int | None = None,
    timesteps: float | Sequence[float] | None = None,
    head: int | None = None,
    sample: int = 0,
    guidance: str | None = None,
    special: bool = False,
    scale: Literal["word", "all"] = "word",
) -> go.Figure:
    """Draw how much attention each location pays to each token, over the image.

    Args:
        paid: The probabilities with dims y and x, and optionally token, sample, guidance, timestep
            and head, from `emerdiff_probe.attention`. Tokens are named by the coordinate
            ``token_text``, or by their number if it has no name for them.
        shown: The image, (y, x, rgb) or (sample, y, x, rgb), uint8.
        word: A word or phrase, or the number of a token, to show alone.
        timesteps: One timestep, or several as columns; by default the last, with the least noise. A
            timestep that was visited twice is shown twice.
        head: The number of a head; by default the mean over all.
        sample: The position of the sample.
        guidance: The half of a guided recording; by default "cond".
        special: Whether to show the tokens that begin, end and pad a text, too; they take most of
            the attention.
        scale: "word" for a colour scale for each word, from 0 to its largest value, which the title
            of its map gives; "all" for one scale.

    Raises:
        InputError: The word, timestep, head, sample or half does not exist, or the array holds no
            probabilities.

    For example::

        paid = ep.attention(recording, "up_blocks.1.attentions.0.transformer_blocks.0.attn2")
        ep.views.attention(paid, ep.site(recording, "image"), word="house", timesteps=[901, 501, 1])
    """
    if not isinstance(paid, xr.DataArray):
        raise InputError(
            f"this is {described(paid)}, not probabilities; get them with ep.attention(run, name)"
        )
    if scale not in ("word", "all"):
        raise InputError(f"scale is {scale!r}; choose 'word' or 'all'")
    shown = one_array(shown)
    values, steps = _chosen(paid, word, timesteps, head, sample, guidance)
    pixels = (shown.isel({SAMPLE: sample}) if SAMPLE in shown.dims else shown).transpose(Y, X, RGB)
    maps = _by_token(values, special)
    tops = {name: float(each.max()) for name, each in maps.items()}
    if scale == "all":
        tops = dict.fromkeys(maps, max(tops.values()))
    name, heads = str(paid.name or "attention"), "mean over heads"
    if head is not None:
        heads = f"head {head}"
    if len(steps) > 1:
        return _over_time(pixels, maps, tops, steps, (name, heads))
    when = ", ".join([*(f"t = {each}" for each in steps if each), heads])
    return _side_by_side(pixels, maps, tops, (name, when))


def _side_by_side(
    pixels: xr.DataArray, maps: Maps, tops: dict[str, float], heading: tuple[str, str]
) -> go.Figure:
    """Draw words beside each other, at one timestep."""
    size, count = extent(pixels), len(maps) + 1
    across = min(count, _ACROSS)
    alike = len(set(tops.values())) == 1
    figure = panels(
        size,
        (math.ceil(count / across), across),
        side=170,
        heading=title(*heading, 24 * across),
        titles=["picture", *(n if alike else f"{n} (to {top:.2g})" for n, top in tops.items())],
        scales=[_scale(next(iter(tops.values())))] if alike else [],
    )
    figure.add_trace(picture(pixels.values, size), 1, 1)
    for number, (name, (each,)) in enumerate(maps.items(), start=1):
        at = number // across + 1, number % across + 1
        figure.add_trace(_grey(pixels), *at)
        scale: dict[str, Any] = {"scale": 1}
        if not alike:
            scale = {"colorscale": SEQUENTIAL, "zmin": 0, "zmax": tops[name], "showscale": False}
        figure.add_trace(_map(each, size, name, **scale), *at)
    return figure


def _over_time(
    pixels: xr.DataArray,
    maps: Maps,
    tops: dict[str, float],
    steps: Sequence[str],
    heading: tuple[str, str],
) -> go.Figure:
    """Draw words below each other, with timesteps as columns."""
    size, across = extent(pixels), len(steps) + 1
    alike = len(set(tops.values())) == 1
    figure = panels(
        size,
        (len(maps), across),
        side=170,
        heading=title(*heading, 24 * across),
        columns=["picture", *(f"t = {step}" for step in steps)],
        rows=list(maps),
        scales=[_scale(top) for top in tops.values()][: 1 if alike else None],
    )
    for row, (name, each) in enumerate(maps.items(), start=1):
        figure.add_trace(picture(pixels.values, size), row, 1)
        for column, values in enumerate(each, start=2):
            at = row, column
            figure.add_trace(_grey(pixels), *at)
            scale = 1 if alike else row
            label = f"{name}, t = {steps[column - 2]}"
            figure.add_trace(_map(values, size, label, scale=scale), *at)
    return figure


def _scale(top: float) -> dict[str, Any]:
    bar = {"title": {"text": "attention", "side": "right", "font": {"size": 11}}}
    return {"colorscale": SEQUENTIAL, "cmin": 0, "cmax": top, "colorbar": bar}


def _map(values: NDArray[np.float32], size: tuple[int, int], name: str, **scale: Any) -> go.Heatmap:
    template = f"{text(name)}<br>attention %{{z:.3f}}<br>x %{{x:.1f}}, y %{{y:.1f}}"
    return pixel_map(values, size, template, opacity=_OVER, **scale)


def _chosen(
    paid: xr.DataArray,
    word: str | int | None,
    timesteps: float | Sequence[float] | None,
    head: int | None,
    sample: int,
    guidance: str | None,
) -> tuple[xr.DataArray, list[str]]:
    """Return probabilities (timestep, y, x[, token]), and a text for each timestep."""
    values = paid
    if word is not None:
        if TOKEN not in paid.dims:
            raise InputError(f"word is {word!r}, but the array holds one token only; omit word")
        values = (paid * token_weights(paid, word)).sum(TOKEN, skipna=False)
        values = values.rename(f"{word}" if isinstance(word, str) else f"token {word}")
    values = values.rename({BATCH: SAMPLE}) if BATCH in values.dims else values
    for dim, position in ((SAMPLE, sample), (HEAD, head)):
        if dim in values.dims and position is not None:
            if not 0 <= position < values.sizes[dim]:
                raise InputError(f"{dim} is {position}; choose 0 to {values.sizes[dim] - 1}")
            values = values.isel({dim: position})
    if HEAD in values.dims:
        values = values.mean(HEAD)
    if GUIDANCE in values.dims:
        values = values.sel({GUIDANCE: guidance or "cond"})
    steps = [""]
    if TIMESTEP in values.dims:
        at = [values.sizes[TIMESTEP] - 1]
        if timesteps is not None:
            at = positions(values, np.atleast_1d(np.asarray(timesteps)))
        steps = labels(values, at)
        values = values.isel({TIMESTEP: at})
    else:
        values = values.expand_dims(TIMESTEP)
    if not {Y, X, TIMESTEP} <= set(values.dims) <= {Y, X, TIMESTEP, TOKEN}:
        left = ", ".join(str(dim) for dim in values.dims if dim != TIMESTEP)
        raise InputError(f"dims {left} remain; attention to words has y, x and optionally token")
    return values.load(), steps


def _by_token(values: xr.DataArray, special: bool) -> Maps:
    if TOKEN not in values.dims:
        name = str(values.name or "attention")
        return {name: values.transpose(TIMESTEP, Y, X).values}
    names = _names(values)
    kept = [
        number
        for number, name in enumerate(names)
        if special or not (name.startswith("<|") and name.endswith("|>"))
    ]
    if not kept:
        raise InputError("the prompt is empty, so all tokens are special; pass special=True")
    maps = values.transpose(TOKEN, TIMESTEP, Y, X).values
    # A word that occurs twice in a prompt gives two rows.
    texts = [names[number] for number in kept]
    unique = [
        name if texts.count(name) == 1 else f"{name} ({number})"
        for name, number in zip(texts, kept, strict=True)
    ]
    return {name: maps[number] for name, number in zip(unique, kept, strict=True)}


def _names(values: xr.DataArray) -> list[str]:
    """Return the text of each token, or its number if the text is unknown."""
    numbers = (
        values[TOKEN].values.tolist() if TOKEN in values.coords else range(values.sizes[TOKEN])
    )
    texts = values.coords.get("token_text")
    # Samples or halves that share their probabilities have only token numbers in common.
    if texts is None or texts.dims != (TOKEN,):
        return [f"token {number}" for number in numbers]
    return [
        str(name) if isinstance(name, str) and name else f"token {number}"
        for number, name in zip(numbers, texts.values, strict=True)
    ]


def _grey(pixels: xr.DataArray) -> go.Image:
    """Draw the image in grey."""
    # Luma of ITU-R BT.601.
    luma = np.rint(pixels.values @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return picture(luma, extent(pixels), pointed=False)
