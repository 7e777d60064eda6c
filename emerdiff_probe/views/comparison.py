"""Compare methods on one image, by agreement and speed; and show which masks are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram as tree
from scipy.optimize import linear_sum_assignment

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import MASK, RGB, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.segments import MergeBy, merging
from emerdiff_probe.views.colours import palette
from emerdiff_probe.views.panels import panels, picture, pixel_map, text, title
from emerdiff_probe.views.segments import outlined, thinned

__all__ = ["comparison", "dendrogram", "matched", "tradeoff"]

_ACROSS: Final = 4
_COLOUR: Final = "rgb(0, 114, 178)"


def comparison(
    methods: Mapping[str, xr.DataArray], shown: xr.DataArray, *, alpha: float = 0.6
) -> go.Figure:
    """Draw the segments of several methods on one image, in matching colours.

    A method's segments take the colours of the first method's segments that they overlap with most,
    one for one (Hungarian matching on the number of common pixels); the rest take colours of their
    own.

    Args:
        methods: Labels (y, x) from 0 up, of the image's size, by the name of the method. Put the
            truth first if it is known.
        shown: The image, (y, x, rgb), uint8.
        alpha: The opacity of the segments' colours, from 0 (outlines alone) to 1 (no image).

    Raises:
        InputError: There is no method, or labels have another size.
    """
    pixels = shown.transpose(Y, X, RGB).values
    size = pixels.shape[0], pixels.shape[1]
    if not methods:
        raise InputError("no methods; give labels (y, x) by name")
    for name, labels in methods.items():
        if (labels.sizes[Y], labels.sizes[X]) != size:
            raise InputError(
                f"labels of {name!r} are {labels.sizes[Y]} x {labels.sizes[X]}, and the image is "
                f"{size[0]} x {size[1]}; resize one of them"
            )
    rows, columns = thinned(size)
    maps = {name: labels.transpose(Y, X).values for name, labels in methods.items()}
    first = next(iter(maps.values()))
    across = min(len(maps) + 1, _ACROSS)
    figure = panels(
        size,
        (-(-(len(maps) + 1) // across), across),
        side=250,
        heading=title("segments by method", "colours agree with those of the first"),
        titles=["picture", *maps],
    )
    figure.add_trace(picture(pixels[rows][:, columns], size), 1, 1)
    for number, (name, numbers) in enumerate(maps.items(), start=1):
        at = number // across + 1, number % across + 1
        coloured = (numbers if numbers is first else matched(numbers, first))[rows][:, columns]
        own = numbers[rows][:, columns]
        painted = outlined(pixels[rows][:, columns], coloured, alpha)
        figure.add_trace(picture(painted, size, pointed=False), *at)
        template = f"{text(name)}<br>segment %{{z}}<br>x %{{x:.1f}}, y %{{y:.1f}}"
        figure.add_trace(pixel_map(own, size, template, opacity=0, showscale=False), *at)
    return figure


def matched(labels: NDArray[np.integer], first: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return labels renumbered as those of the first method that they share most pixels with."""
    own, there = int(labels.max()) + 1, int(first.max()) + 1
    common = np.bincount((labels * there + first).ravel(), minlength=own * there)
    rows, columns = linear_sum_assignment(common.reshape(own, there), maximize=True)
    numbers = np.arange(there, there + own)
    numbers[rows] = columns
    return numbers[labels]


def tradeoff(table: pd.DataFrame) -> go.Figure:
    """Draw agreement with an oracle against speed, one point for each method.

    Args:
        table: A row for each method, by its name, with columns ``seconds`` and ``agreement``, and
            optionally ``low`` and ``high``, the ends of an interval of the agreement.

    Raises:
        InputError: A column is missing, or a time is not above 0.
    """
    if missing := {"seconds", "agreement"} - set(table.columns):
        raise InputError(
            f"columns {sorted(missing)} are missing; the table has {list(table.columns)}"
        )
    if not (table["seconds"] > 0).all():
        raise InputError("some seconds are not above 0, which a logarithmic axis cannot show")
    intervals: dict[str, Any] = {}
    if {"low", "high"} <= set(table.columns):
        intervals["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": (table["high"] - table["agreement"]).values,
            "arrayminus": (table["agreement"] - table["low"]).values,
            "thickness": 1,
        }
    names = [text(name) for name in table.index]
    figure = go.Figure(
        go.Scatter(
            x=table["seconds"].values,
            y=table["agreement"].values,
            text=names,
            mode="markers+text",
            textposition="top right",
            cliponaxis=False,
            marker={"size": 11, "color": _COLOUR},
            hovertemplate="%{text}<br>%{x:.3~g} s, agreement %{y:.3f}<extra></extra>",
            **intervals,
        )
    )
    figure.update_layout(
        template="plotly_white",
        title={"text": title("agreement against time", ""), "font_size": 14},
        width=640,
        height=420,
        margin={"l": 70, "r": 70, "t": 60, "b": 60},
    )
    figure.update_xaxes(
        type="log", title="seconds (logarithmic)", ticks="outside", showline=True, dtick="D2"
    )
    figure.update_yaxes(title="agreement", ticks="outside", showline=True)
    return figure


def dendrogram(ds: xr.Dataset, by: MergeBy = "embeddings") -> go.Figure:
    """Draw which masks of a segmentation are alike: a tree that joins the most similar first.

    Args:
        ds: A segmentation from `emerdiff_probe.segment`.
        by: The features to compare; see `emerdiff_probe.segments.dendrogram`.

    Raises:
        InputError: There is only one mask, or no such ``by``.
    """
    joined = tree(merging.dendrogram(ds, by).values, no_plot=True)
    low_res = ds["low_res"].transpose(SOURCE_Y, SOURCE_X).values
    shares = np.bincount(low_res.ravel(), minlength=ds.sizes[MASK]) / low_res.size
    lines: dict[str, list[float | None]] = {"x": [], "y": []}
    for places, distances in zip(joined["icoord"], joined["dcoord"], strict=True):
        lines["x"] += [*distances, None]
        lines["y"] += [*places, None]
    leaves = np.array(joined["leaves"])
    # SciPy puts leaves at 5, 15, 25, ...
    at = 10.0 * np.arange(len(leaves)) + 5
    figure = go.Figure(
        [
            go.Scatter(
                **lines, mode="lines", line={"color": "#666", "width": 1.2}, hoverinfo="skip"
            ),
            go.Scatter(
                x=np.zeros(len(leaves)),
                y=at,
                mode="markers",
                cliponaxis=False,
                marker={
                    "size": 13,
                    "symbol": "square",
                    "color": [f"rgb{tuple(map(int, palette(int(n) + 1)[n]))}" for n in leaves],
                    "line": {"width": 1, "color": "#333"},
                },
                customdata=np.stack([leaves, shares[leaves]], -1),
                hovertemplate="mask %{customdata[0]:d}, %{customdata[1]:.1%} of the locations"
                "<extra></extra>",
            ),
        ]
    )
    figure.update_layout(
        template="plotly_white",
        title={
            "text": title(
                f"{ds.attrs['model']}: masks by likeness of {by}", ds.attrs["source"], 80
            ),
            "font_size": 14,
            "x": 0,
            "pad": {"l": 14},
        },
        width=640,
        height=130 + 24 * len(leaves),
        margin={"l": 80, "r": 30, "t": 70, "b": 50},
        showlegend=False,
    )
    farthest = max(max(distances) for distances in joined["dcoord"])
    figure.update_xaxes(title="cosine distance", range=[0, 1.03 * farthest], showgrid=False)
    figure.update_yaxes(
        tickvals=at,
        ticktext=[f"mask {number}" for number in leaves],
        showgrid=False,
        zeroline=False,
        autorange="reversed",
        ticklabelstandoff=8,
    )
    return figure
