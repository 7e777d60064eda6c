"""Draw tables of numbers as colours, to stand beside other figures."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.views.colours import SEQUENTIAL
from emerdiff_probe.views.panels import WIDEST, heading_layout, text, title

__all__ = ["table"]

_CELL: Final = 84  # screen pixels
_ROW: Final = 27


def table(
    numbers: pd.DataFrame | pd.Series[Any],
    *,
    heading: str = "",
    digits: int = 2,
    scale: Literal["all", "column", "row"] = "all",
) -> go.Figure:
    """Draw a table of numbers, with the larger ones on darker ground.

    Args:
        numbers: A table with named rows and columns; a series is one column. Cells without a number
            are blank.
        heading: The heading of the figure.
        digits: The number of decimals written; hovering shows more.
        scale: The numbers that share a colour scale: "all", those of a "column" (for measures that
            cannot be compared), or those of a "row".

    Raises:
        InputError: There is no number.

    For example::

        scores = pd.DataFrame({"mIoU": {"EmerDiff": 0.51, "bilinear": 0.43}})
        ep.views.table(scores, heading="20 scenes")
    """
    if scale not in ("all", "column", "row"):
        raise InputError(f"scale is {scale!r}; choose 'all', 'column' or 'row'")
    frame = numbers.to_frame() if isinstance(numbers, pd.Series) else numbers
    cells = frame.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if not np.isfinite(cells).any():
        raise InputError(f"a table of shape {cells.shape} has no number to show")
    columns, rows = ([_named(each) for each in axis] for axis in (frame.columns, frame.index))
    left = 24 + 7 * min(max(map(len, rows)), 48)
    wide = min(max(_CELL, 8 * max(map(len, columns))), (WIDEST - left - 20) // len(columns))
    tilted = wide < 7 * max(map(len, columns))
    above = 30 + 22 * bool(heading) + (4 * max(map(len, columns)) if tilted else 0)
    figure = go.Figure(
        go.Heatmap(
            z=_shades(cells, scale),
            x=[text(each) for each in columns],
            y=[text(each) for each in rows],
            customdata=cells,
            text=[
                ["" if np.isnan(each) else f"{each:.{digits}f}" for each in row] for row in cells
            ],
            texttemplate="%{text}",
            hovertemplate="%{y}<br>%{x}<br>%{customdata:.4~f}<extra></extra>",
            colorscale=SEQUENTIAL,
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            showscale=False,
            hoverongaps=False,
        )
    )
    figure.update_layout(
        template="plotly_white",
        title=heading_layout(title(heading, "") if heading else ""),
        width=left + wide * len(columns) + 20,
        height=above + _ROW * len(rows) + 20,
        margin={"l": left, "r": 20, "t": above, "b": 20},
    )
    figure.update_xaxes(type="category", side="top", tickangle=-30 if tilted else 0, ticks="")
    figure.update_yaxes(type="category", autorange="reversed", ticks="")
    return figure


def _named(label: object) -> str:
    return ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _shades(cells: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """Return numbers from 0 to 1 relative to those that share their scale; 0.5 if all are equal."""
    axis = {"all": None, "column": 0, "row": 1}[scale]
    with np.errstate(invalid="ignore"):
        low, high = (
            function(np.where(np.isnan(cells), empty, cells), axis=axis, keepdims=True)
            for function, empty in ((np.min, np.inf), (np.max, -np.inf))
        )
        shades = (cells - low) / (high - low)
    return np.where(np.isnan(cells), np.nan, np.nan_to_num(shades, nan=0.5))
