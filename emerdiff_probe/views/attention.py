"""What each word of a prompt is attended by, over the picture."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import described
from emerdiff_probe.locations import one_array
from emerdiff_probe.schema import BATCH, GUIDANCE, HEAD, RGB, SAMPLE, TIMESTEP, TOKEN, X, Y
from emerdiff_probe.timesteps import labels, one_position
from emerdiff_probe.views.colours import SEQUENTIAL
from emerdiff_probe.views.maps import extent
from emerdiff_probe.views.panels import panels, picture, pixel_map, text, title

__all__ = ["attention"]

_ACROSS: Final = 6
_OVER: Final = 0.7
"""Opacity of a map over the picture, which is grey there, so that only maps have colours."""


def attention(
    paid: xr.DataArray,
    shown: xr.DataArray,
    *,
    timestep: float | None = None,
    step: int | None = None,
    head: int | None = None,
    sample: int = 0,
    guidance: str | None = None,
    special: bool = False,
) -> go.Figure:
    """How much attention each location pays to each token, over the picture.

    Args:
        paid: Probabilities with y, x, and perhaps token, sample, guidance, timestep and
            head, as `emerdiff_probe.attention` gives them. Tokens are named by the coordinate
            ``token_text``; those that it does not name, by their number.
        shown: The picture, (y, x, rgb) or (sample, y, x, rgb), uint8.
        timestep: By default the last, of the least noise.
        step: Which call at this timestep, where it was visited twice.
        head: By default the mean over all.
        sample: Position of the sample.
        guidance: Half of a guided recording, by default "cond".
        special: Shows the tokens that begin, end and fill a text, too. They take most of the
            attention, and with it the colour scale, which all tokens share.

    Raises:
        InputError: Something that is not there.
    """
    if not isinstance(paid, xr.DataArray):
        raise InputError(
            f"this is {described(paid)}, not probabilities; ep.attention(run, name) gives them"
        )
    head_text = "mean over heads" if head is None else f"head {head}"
    shown = one_array(shown)
    values, when = _chosen(paid, timestep, step, head, sample, guidance)
    pixels = (shown.isel({SAMPLE: sample}) if SAMPLE in shown.dims else shown).transpose(Y, X, RGB)
    size = extent(pixels)
    maps = _by_token(values, special)
    across = min(len(maps) + 1, _ACROSS)
    figure = panels(
        size,
        (math.ceil((len(maps) + 1) / across), across),
        side=170,
        heading=title(str(paid.name or "attention"), f"{when}{head_text}", 24 * across),
        titles=["picture", *(name for name, _ in maps)],
        scales=[
            {
                "colorscale": SEQUENTIAL,
                "cmin": 0,
                "cmax": max(float(each.max()) for _, each in maps),
                "colorbar": {"title": {"text": "attention", "side": "right"}},
            }
        ],
    )
    figure.add_trace(picture(pixels.values, size), 1, 1)
    grey = _grey(pixels.values)
    for number, (name, each) in enumerate(maps, start=1):
        at = number // across + 1, number % across + 1
        figure.add_trace(picture(grey, size), *at)
        template = f"{text(name)}<br>attention %{{z:.3f}}<br>x %{{x:.1f}}, y %{{y:.1f}}"
        figure.add_trace(pixel_map(each, size, template, scale=1, opacity=_OVER), *at)
    return figure


def _chosen(
    paid: xr.DataArray,
    timestep: float | None,
    step: int | None,
    head: int | None,
    sample: int,
    guidance: str | None,
) -> tuple[xr.DataArray, str]:
    """Probabilities (y, x[, token]) and a word on their timestep."""
    values = paid.rename({BATCH: SAMPLE}) if BATCH in paid.dims else paid
    for dim, position in ((SAMPLE, sample), (HEAD, head)):
        if dim in values.dims and position is not None:
            if not 0 <= position < values.sizes[dim]:
                raise InputError(f"{dim} is {position}; choose 0 to {values.sizes[dim] - 1}")
            values = values.isel({dim: position})
    if HEAD in values.dims:
        values = values.mean(HEAD)
    if GUIDANCE in values.dims:
        values = values.sel({GUIDANCE: guidance or "cond"})
    when = ""
    if TIMESTEP in values.dims:
        last = values.sizes[TIMESTEP] - 1
        at = last if timestep is None and step is None else one_position(values, timestep, step)
        when = f"t = {labels(values, [at])[0]}, "
        values = values.isel({TIMESTEP: at})
    if not {Y, X} <= set(values.dims) <= {Y, X, TOKEN}:
        left = ", ".join(map(str, values.dims))
        raise InputError(f"dims {left} are left; attention to words has y, x and perhaps token")
    return values.load(), when


def _by_token(values: xr.DataArray, special: bool) -> list[tuple[str, NDArray[np.float32]]]:
    if TOKEN not in values.dims:
        return [(str(values.name or "attention"), values.transpose(Y, X).values)]
    names = _names(values)
    kept = [
        number
        for number, name in enumerate(names)
        if special or not (name.startswith("<|") and name.endswith("|>"))
    ]
    if not kept:
        raise InputError("the prompt is empty: all tokens are special; ask for special=True")
    maps = values.transpose(TOKEN, Y, X).values
    return [(names[number], maps[number]) for number in kept]


def _names(values: xr.DataArray) -> list[str]:
    """The text of each token; where it is not known, its number."""
    numbers = (
        values[TOKEN].values.tolist() if TOKEN in values.coords else range(values.sizes[TOKEN])
    )
    texts = values.coords.get("token_text")
    # Of several samples or halves that share their probabilities only numbers are in common.
    if texts is None or texts.dims != (TOKEN,):
        return [f"token {number}" for number in numbers]
    return [
        str(name) if isinstance(name, str) and name else f"token {number}"
        for number, name in zip(numbers, texts.values, strict=True)
    ]


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Luma of ITU-R BT.601.
    luma = np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=-1)
