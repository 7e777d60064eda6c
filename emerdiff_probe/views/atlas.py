"""Draw measures of a whole recording: tables of sites by timesteps, and of sites by sites."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import TIMESTEP
from emerdiff_probe.timesteps import labels
from emerdiff_probe.timesteps import text as short
from emerdiff_probe.views.colours import DIVERGING, SEQUENTIAL
from emerdiff_probe.views.panels import heading_layout, site_text, text, title

__all__ = ["atlas"]

SITE, SITE2 = "site", "site2"
_WRITTEN: Final = 150
"""The largest number of cells for which each cell shows its number."""


def atlas(values: xr.DataArray, *, limits: tuple[float, float] | None = None) -> go.Figure:
    """Draw one measure as a table of colours.

    Args:
        values: The measure, (site, timestep), or (site, site2) at one timestep, as in
            ``atlas["cka"].sel(timestep=1)``.
        limits: The values at the ends of the colour scale; by default the smallest and the largest.
            If values have both signs, zero is in the middle.

    Raises:
        InputError: The array has other dims, or no finite value.
    """
    others = {SITE2, TIMESTEP} & set(values.dims)
    if set(values.dims) != {SITE, *others} or len(others) != 1:
        raise InputError(
            f"{values.name} has dims {values.dims}; a table needs site and timestep, or site and "
            f"site2: select the rest, as in .sel({TIMESTEP}=...)"
        )
    (other,) = others
    table = values.transpose(SITE, other)
    cells = table.values.astype(np.float64)
    if not np.isfinite(cells).any():
        raise InputError(
            f"{values.name} has no finite value to show; a measure across images or timesteps "
            "needs at least two of them"
        )
    low, high = limits or (float(np.nanmin(cells)), float(np.nanmax(cells)))
    if limits is None and low < 0 < high:
        high = max(-low, high)
        low = -high
    sites = [site_text(str(name)) for name in table[SITE].values]
    columns = (
        labels(table)
        if other == TIMESTEP
        else [site_text(str(name)) for name in table[SITE2].values]
    )
    name = str(values.name)
    told = other != TIMESTEP and TIMESTEP in table.coords
    when = f" at t = {short(table[TIMESTEP].item())}" if told else ""
    wide = 60 if cells.size <= _WRITTEN else max(14, min(60, 900 // len(columns)))
    below = 50 if other == TIMESTEP else 20 + 7 * max(map(len, columns))
    left = 20 + 7 * max(map(len, sites))
    figure = go.Figure(
        go.Heatmap(
            z=cells,
            x=[text(column) for column in columns],
            y=[text(site) for site in sites],
            colorscale=DIVERGING if low < 0 < high else SEQUENTIAL,
            zmin=low,
            zmax=high,
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate=(
                f"%{{y}}<br>{'t = ' if other == TIMESTEP else ''}%{{x}}<br>{text(name)} "
                "%{z:.3~f}<extra></extra>"
            ),
            colorbar={"thickness": 12, "title": {"text": text(name), "side": "right"}},
            **_written(cells),
        )
    )
    figure.update_layout(
        template="plotly_white",
        title=heading_layout(title(f"{name} by site{when}", "")),
        width=left + wide * len(columns) + 110,
        height=60 + 26 * len(sites) + below,
        margin={"l": left, "r": 110, "t": 50, "b": below + 10},
    )
    # Show timesteps as names: on some schedules they are not evenly spaced.
    axis = "timestep (less noise to the right)" if other == TIMESTEP else None
    figure.update_xaxes(type="category", title=axis, ticks="", tickangle=0 if axis else -90)
    figure.update_yaxes(type="category", autorange="reversed", ticks="")
    return figure


def _written(cells: Any) -> dict[str, Any]:
    if cells.size > _WRITTEN:
        return {}
    numbers = [["" if np.isnan(cell) else f"{cell:.2f}" for cell in row] for row in cells]
    return {"text": numbers, "texttemplate": "%{text}", "textfont": {"size": 10}}
