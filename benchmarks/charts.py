"""Draw results: scores with intervals, heat maps, scenes side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from emerdiff_probe.evaluation.scoring import METRICS, Segments, mean_with_interval
from emerdiff_probe.metrics import majority_classes
from emerdiff_probe.scenes import PARTS, Scene
from emerdiff_probe.views import palette

__all__ = ["chart", "contact_sheet", "gallery", "heatmap"]


CHARTED: Final = ("parts_miou", "objects_miou", "boundary_f", "ari")


def chart(scores: pd.DataFrame, title: str) -> go.Figure:
    """Draw mean scores with 95 % intervals: a panel for each metric, a row for each method."""
    methods = list(scores["method"].unique())
    figure = make_subplots(
        1, len(CHARTED), subplot_titles=[METRICS[name] for name in CHARTED], shared_yaxes=True
    )
    for column, metric in enumerate(CHARTED, start=1):
        stats = np.array(
            [
                mean_with_interval(scores.loc[scores["method"] == method, metric].to_numpy())
                for method in methods
            ]
        )
        figure.add_scatter(
            x=stats[:, 0],
            y=methods,
            error_x={
                "array": stats[:, 2] - stats[:, 0],
                "arrayminus": stats[:, 0] - stats[:, 1],
                "symmetric": False,
            },
            mode="markers",
            marker={"size": 9, "color": "#0072B2"},
            showlegend=False,
            row=1,
            col=column,
        )
        figure.update_xaxes(range=[0, 1], row=1, col=column)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title=title, width=1300, height=140 + 32 * len(methods), template="plotly_white"
    )
    return figure


def heatmap(table: pd.DataFrame, title: str, colour_title: str) -> go.Figure:
    """Draw a table of numbers as colours with the numbers in them."""
    figure = go.Figure(
        go.Heatmap(
            z=table.to_numpy(),
            x=[str(name) for name in table.columns],
            y=[str(name) for name in table.index],
            colorscale="Viridis",
            texttemplate="%{z:.3f}",
            colorbar={"title": colour_title},
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(type="category", title=str(table.columns.name or ""))
    return figure.update_layout(
        title=title, width=1100, height=160 + 22 * len(table), template="plotly_white"
    )


def contact_sheet(scenes: Sequence[Scene], columns: int = 6) -> Image.Image:
    """Draw pictures in rows, each row above the labels of its parts in colours.

    Args:
        scenes: Scenes, as many as fill the rows.
        columns: Number of pictures in a row.
    """
    colours = palette(len(PARTS))
    rows = []
    for first in range(0, len(scenes), columns):
        row = scenes[first : first + columns]
        rows.append(np.concatenate([each.image for each in row], axis=1))
        rows.append(np.concatenate([colours[each.parts] for each in row], axis=1))
    return Image.fromarray(np.concatenate(rows))


def gallery(subjects: Sequence[tuple[Scene, dict[str, Segments]]]) -> go.Figure:
    """Draw scenes side by side with their segmentations by several methods.

    Every segment has the colour of the part that most of its pixels belong to, so that a segment of
    the right kind has the truth's colour.

    Args:
        subjects: Scenes, each with its segmentations by the same methods.
    """
    columns = ["picture", "truth", *subjects[0][1]]
    figure = make_subplots(
        len(subjects),
        len(columns),
        column_titles=["<br>".join(textwrap.wrap(name, 16)) for name in columns],
        horizontal_spacing=0.005,
        vertical_spacing=0.005,
    )
    colours = palette(len(PARTS))
    for row, (subject, found) in enumerate(subjects, start=1):
        images = [subject.image, colours[subject.parts]]
        images += [
            colours[majority_classes(each.labels, subject.parts, len(PARTS))][each.labels]
            for each in found.values()
        ]
        for column, image in enumerate(images, start=1):
            figure.add_trace(go.Image(z=image), row=row, col=column)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_annotations(font_size=12)
    return figure.update_layout(
        width=132 * len(columns),
        height=132 * len(subjects) + 50,
        margin={"l": 2, "r": 2, "t": 50, "b": 2},
    )
