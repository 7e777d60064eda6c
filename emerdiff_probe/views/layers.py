"""Draw layers by timesteps: the strength and structure of features, and similarity to a place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import plotly.graph_objects as go
import xarray as xr

from emerdiff_probe import store
from emerdiff_probe.checks import integer
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import principal_colours, similarity_to_point
from emerdiff_probe.schema import RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.timesteps import labels, one_position
from emerdiff_probe.views.colours import DIVERGING, SEQUENTIAL
from emerdiff_probe.views.maps import (
    chosen_calls,
    chosen_sites,
    described,
    endings,
    extent,
    magnitude,
    one_channel,
    places,
)
from emerdiff_probe.views.panels import (
    as_bytes,
    panels,
    picture,
    pixel_map,
    site_text,
    text,
    title,
)

__all__ = ["layers", "marker", "similarity"]

_ACROSS: Final = 5


def layers(
    run: xr.DataTree,
    sites: str | Sequence[str],
    timesteps: Sequence[float] | None = None,
    *,
    show: Literal["magnitude", "colours"] | int = "colours",
    scale: Literal["all", "site"] = "all",
    sample: int = 0,
    guidance: str | None = None,
    head: int | None = None,
) -> go.Figure:
    """Draw the features at sites: a row for each site, a column for each timestep.

    Each row begins with the image that the run ended with, if it is known; all panels zoom
    together. Hovering over a location shows its value, or its magnitude for "colours".

    Args:
        run: A recording.
        sites: A pattern, as for ``model.sites``, or names.
        timesteps: The timesteps to show; by default five from the first to the last. A timestep
            that was visited twice is shown twice.
        show: "colours" for the first three principal components of a site over the timesteps shown,
            as red, green and blue; "magnitude" for the root mean square over channels; or the
            number of a channel.
        scale: "all" for one colour scale, "site" for one for each row. Unused for "colours".
        sample: The position of the sample.
        guidance: The half of a guided recording; by default "cond".
        head: The number of a head, for attention ports; by default the channels of all heads
            together.

    Raises:
        SiteError: The recording has no such site.
        InputError: A timestep, sample, half or head was not recorded, or an option does not exist.
    """
    if not isinstance(show, str):
        show = integer("show", show, 0, None, InputError)
    elif show not in ("magnitude", "colours"):
        raise InputError(f"show is {show!r}; choose 'magnitude', 'colours' or a channel's number")
    if scale not in ("all", "site"):
        raise InputError(f"scale is {scale!r}; choose 'all' or 'site'")
    run = store.with_samples(run)
    names, (at, steps) = chosen_sites(run, sites), chosen_calls(run, timesteps)
    recorded = {
        name: places(store.site(run, name), sample=sample, guidance=guidance, head=head)
        .isel({TIMESTEP: at})
        .load()
        for name in names
    }
    # Colours are not numbers, so hovering shows the magnitude.
    maps = {
        name: one_channel(values, show) if isinstance(show, int) else magnitude(values)
        for name, values in recorded.items()
    }
    coloured = (
        {name: principal_colours(values)[0] for name, values in recorded.items()}
        if show == "colours"
        else {}
    )
    what = f"channel {show}" if isinstance(show, int) else show
    told = "magnitude" if coloured else what
    model, source = described(run, sample)
    size = extent(next(iter(maps.values())))
    ended = endings(run).isel({SAMPLE: sample}).transpose(Y, X, RGB)
    pictures = [picture(ended.values, size)] if store.IMAGE in run.children else []
    figure = panels(
        size,
        (len(names), len(pictures) + len(steps)),
        side=150,
        heading=title(f"{model}: {what} by site and timestep", source, 30 + 20 * len(steps)),
        columns=[*["picture"] * len(pictures), *(f"t = {step}" for step in steps)],
        rows=[site_text(name) for name in names],
        scales=() if coloured else _scales(maps, what, scale),
    )
    for row, (name, values) in enumerate(maps.items(), start=1):
        for each in pictures:
            figure.add_trace(each, row, 1)
        for number, step in enumerate(steps):
            column = len(pictures) + number + 1
            drawn: dict[str, Any] = {"scale": row if scale == "site" else 1}
            if coloured:
                colours = coloured[name].isel({TIMESTEP: number}).transpose(Y, X, RGB).values
                figure.add_trace(picture(as_bytes(colours), size, pointed=False), row, column)
                drawn = {"opacity": 0, "showscale": False}
            template = (
                f"{text(site_text(name))}, t = {step}<br>{told} %{{z:.3~g}}<br>x %{{x:.1f}}, "
                "y %{y:.1f}"
            )
            one = values.isel({TIMESTEP: number}).transpose(Y, X).values
            figure.add_trace(pixel_map(one, size, template, **drawn), row, column)
    return figure


def _scales(
    maps: Mapping[str, xr.DataArray], what: str, scale: Literal["all", "site"]
) -> list[dict[str, Any]]:
    """Return the colour axes; if values have both signs, zero is in the middle."""
    found = []
    for group in [list(maps.values())] if scale == "all" else [[each] for each in maps.values()]:
        low = min(float(each.min()) for each in group)
        high = max(float(each.max()) for each in group)
        if low < 0:
            high = max(-low, high)
            low = -high
        found.append(
            {
                "colorscale": DIVERGING if low < 0 else SEQUENTIAL,
                "cmin": low,
                "cmax": high,
                "colorbar": {"title": {"text": what, "side": "right", "font": {"size": 11}}},
            }
        )
    return found


def similarity(
    run: xr.DataTree,
    sites: str | Sequence[str],
    timestep: float,
    *,
    step: int | None = None,
    y: float,
    x: float,
    limits: tuple[float, float] = (-1, 1),
    sample: int = 0,
    guidance: str | None = None,
    head: int | None = None,
) -> go.Figure:
    """Draw the similarity of one place to all others in many layers: cosine, from -1 to 1.

    Args:
        run: A recording.
        sites: A pattern, as for ``model.sites``, or names.
        timestep: A recorded timestep.
        step: The step in the run, for a timestep that was visited twice.
        y, x: The place, in pixels of the image; each layer uses its nearest location.
        limits: The ends of the colour scale of all maps. Narrower limits, such as (0.8, 1), show
            differences in layers where all features are very similar.
        sample: The position of the sample.
        guidance: The half of a guided recording; by default "cond".
        head: The number of a head, for attention ports; by default the channels of all heads
            together.

    Raises:
        SiteError: The recording has no such site.
        InputError: A timestep, sample, half or head was not recorded, or the place is outside the
            image.
    """
    run = store.with_samples(run)
    names, root = chosen_sites(run, sites), run.to_dataset()
    at = one_position(root, timestep, step)
    shown = endings(run).isel(sample=sample).transpose(Y, X, RGB)
    size = extent(shown)
    if not (0 <= y <= size[0] and 0 <= x <= size[1]):
        raise InputError(f"y {y}, x {x} is outside the image of {size[0]} x {size[1]} pixels")
    model, source = described(run, sample)
    count = len(names) + 1
    across = min(count, _ACROSS)
    figure = panels(
        size,
        (math.ceil(count / across), across),
        side=200,
        heading=title(
            f"{model}: cosine similarity to y {y:g}, x {x:g} at t = {labels(root, [at])[0]}",
            source,
            22 * across,
        ),
        titles=[str(shown.name), *map(site_text, names)],
        scales=[
            {
                "colorscale": DIVERGING if limits[0] == -limits[1] else SEQUENTIAL,
                "cmin": limits[0],
                "cmax": limits[1],
                "colorbar": {"title": {"text": "cosine similarity", "side": "right"}},
            }
        ],
    )
    figure.add_trace(picture(shown.values, size), 1, 1)
    figure.add_trace(marker(y, x), 1, 1)
    for number, name in enumerate(names, start=1):
        cell = number // across + 1, number % across + 1
        values = places(store.site(run, name), sample=sample, guidance=guidance, head=head)
        alike = similarity_to_point(values.isel({TIMESTEP: at}), y, x)[0]
        template = f"{text(site_text(name))}<br>similarity %{{z:.2f}}<br>x %{{x:.1f}}, y %{{y:.1f}}"
        figure.add_trace(pixel_map(alike.transpose(Y, X).values, size, template, scale=1), *cell)
        figure.add_trace(marker(y, x), *cell)
    return figure


def marker(y: float, x: float) -> go.Scatter:
    """Return a cross that shows on any background."""
    return go.Scatter(
        x=[x],
        y=[y],
        mode="markers",
        marker={
            "symbol": "cross-thin",
            "size": 11,
            "line": {"width": 2.5, "color": "white"},
        },
        hoverinfo="skip",
        showlegend=False,
    )
