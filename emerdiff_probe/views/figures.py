"""Segmentations as plotly figures.

Pictures go in as PNG, which browsers show with sharp pixels; what is read when pointing at them
comes from an invisible heatmap above, no finer than the difference maps are.
"""

import base64
import html
import io
import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from plotly.subplots import make_subplots

from emerdiff_probe.schema import MODEL_X, MODEL_Y, RGB, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.views.colours import paint, palette

__all__ = ["low_resolution", "overview", "segments"]

# A figure's pictures are brought to about this many pixels on the longer side: small ones are
# repeated, so that outlines are thin; of large ones pixels are left out, so that the page is light.
_SHOWN = 1024
_PANEL = 420  # pixels on the screen; of several panels each is smaller


def segments(ds: xr.Dataset, *, alpha: float = 0.5) -> go.Figure:
    """The picture with its segments; pointing at one tells its number, share, strength and margin.

    Args:
        ds: A segmentation, as `emerdiff_probe.segment` makes it.
        alpha: Share of the segments' colours, from 0 (outlines alone) to 1 (no picture).

    Raises:
        InputError: ``alpha`` is out of range.
    """
    figure = go.Figure([_segments_image(ds, alpha), _segments_hover(ds)])
    return _laid_out(figure, ds, panels=1)


def low_resolution(ds: xr.Dataset) -> go.Figure:
    """The low-resolution masks on the latent grid, in the colours of their segments.

    Args:
        ds: A segmentation, as `emerdiff_probe.segment` makes it.
    """
    figure = go.Figure([_masks_image(ds), _masks_hover(ds)])
    return _laid_out(figure, ds, panels=1)


def overview(ds: xr.Dataset) -> go.Figure:
    """Picture, segments and low-resolution masks side by side; all three zoom together.

    Args:
        ds: A segmentation, as `emerdiff_probe.segment` makes it.
    """
    names = ("picture", "segments", "low-resolution masks")
    figure = make_subplots(1, 3, subplot_titles=names, horizontal_spacing=0.06)
    panels = (
        (_picture_image(ds), _picture_hover(ds)),
        (_segments_image(ds, 0.5), _segments_hover(ds)),
        (_masks_image(ds), _masks_hover(ds)),
    )
    for column, (image, hover) in enumerate(panels, start=1):
        figure.add_trace(image, 1, column)
        figure.add_trace(hover, 1, column)
    return _laid_out(figure, ds, panels=3)


def _laid_out(figure: go.Figure, ds: xr.Dataset, panels: int) -> go.Figure:
    height, width = ds.sizes[Y], ds.sizes[X]
    panel = _PANEL if panels == 1 else round(0.85 * _PANEL)
    lines = textwrap.wrap(ds.attrs["source"], 55 * panels, max_lines=2, placeholder=" ...")
    title = "<br>".join([f"<b>{_text(ds.attrs['model'])}</b>", *map(_text, lines)])
    figure.update_layout(
        title={"text": title, "font_size": 14, "x": 0.02, "y": 0.97, "yanchor": "top"},
        template="plotly_white",
        margin={"l": 60, "r": 40, "t": 90, "b": 50},
        modebar_orientation="v",
        width=panel * panels + 100,
        height=round(panel * min(max(height / width, 0.4), 2)) + 140,
        hovermode="closest",
        hoverlabel_align="left",
    )
    axis = {"constrain": "domain", "showgrid": False, "zeroline": False, "ticks": "outside"}
    figure.update_xaxes(range=[0, width], title="x (pixels)", **axis)
    figure.update_yaxes(range=[height, 0], constraintoward="top", **axis)
    figure.layout.yaxis.update(title="y (pixels)", scaleanchor="x")
    for number in range(2, panels + 1):
        figure.layout[f"xaxis{number}"].matches = "x"
        figure.layout[f"yaxis{number}"].matches = "y"
    return figure


def _text(text: str) -> str:
    """Text for plotly, which reads tags in titles and understands these entities."""
    return html.escape(text, quote=False)


def _picture_image(ds: xr.Dataset) -> go.Image:
    rows, columns = _thinned(ds)
    return _image(ds, ds["picture"].transpose(Y, X, RGB).values[rows][:, columns])


def _segments_image(ds: xr.Dataset, alpha: float) -> go.Image:
    rows, columns = _thinned(ds)
    picture = ds["picture"].transpose(Y, X, RGB).values[rows][:, columns]
    labels = ds["labels"].transpose(Y, X).values[rows][:, columns]
    repeats = max(1, _SHOWN // max(labels.shape))
    picture, labels = (
        array.repeat(repeats, axis=0).repeat(repeats, axis=1) for array in (picture, labels)
    )
    return _image(ds, paint(picture, labels, alpha, line=3))


def _masks_image(ds: xr.Dataset) -> go.Image:
    low_res = ds["low_res"].transpose(SOURCE_Y, SOURCE_X).values
    return _image(ds, palette(int(low_res.max()) + 1)[low_res])


def _thinned(ds: xr.Dataset) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns to show of a picture: all, or of a large one evenly spaced ones."""
    sides = ds.sizes[Y], ds.sizes[X]
    scale = min(1.0, _SHOWN / max(sides))
    rows, columns = (_spaced(side, max(1, round(side * scale))) for side in sides)
    return rows, columns


def _spaced(side: int, count: int) -> NDArray[np.intp]:
    """The pixels under the centres of ``count`` equal cells."""
    return ((np.arange(count) + 0.5) * (side / count)).astype(np.intp)


def _image(ds: xr.Dataset, pixels: NDArray[np.uint8]) -> go.Image:
    """Pixels over the whole of the picture, whatever their number."""
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return go.Image(source=source, hoverinfo="skip", **_cells(ds, *pixels.shape[:2]))


def _cells(ds: xr.Dataset, rows: int, columns: int) -> dict[str, float]:
    """Where a grid of cells lies that spans the picture."""
    down, across = ds.sizes[Y] / rows, ds.sizes[X] / columns
    return {"x0": across / 2, "dx": across, "y0": down / 2, "dy": down}


def _segments_hover(ds: xr.Dataset) -> go.Heatmap:
    rows, columns = _pointed(ds)
    maps = ds[["labels", "strength", "margin"]].transpose(Y, X)
    at = {Y: rows, X: columns}
    labels, strength, margin = (maps[name].isel(at).values for name in maps)
    details = np.stack([_shares(ds["labels"])[labels], strength, margin], -1)
    return _hover(
        ds,
        labels,
        "segment %{z}, %{customdata[0]:.1%} of the picture<br>"
        "strength %{customdata[1]:.3~g}, margin %{customdata[2]:.2f}<br>"
        "x %{x:.1f}, y %{y:.1f}",
        details.astype(np.float32),
    )


def _picture_hover(ds: xr.Dataset) -> go.Heatmap:
    rows, columns = _pointed(ds)
    labels = ds["labels"].transpose(Y, X).isel({Y: rows, X: columns}).values
    return _hover(ds, labels, "segment %{z}<br>x %{x:.1f}, y %{y:.1f}")


def _masks_hover(ds: xr.Dataset) -> go.Heatmap:
    low_res = ds["low_res"].transpose(SOURCE_Y, SOURCE_X)
    shares = _shares(low_res)[low_res.values].astype(np.float32)
    return _hover(
        ds,
        low_res.values,
        "mask %{z}, %{customdata:.1%} of the locations<br>source_x %{x:.1f}, source_y %{y:.1f}",
        shares,
    )


def _pointed(ds: xr.Dataset) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of pixels that tell of themselves: as many as the model's picture has."""
    rows = _spaced(ds.sizes[Y], min(ds.sizes[Y], ds.sizes[MODEL_Y]))
    return rows, _spaced(ds.sizes[X], min(ds.sizes[X], ds.sizes[MODEL_X]))


def _shares(labels: xr.DataArray) -> NDArray[np.float64]:
    """Share of all pixels that each label has."""
    counts = np.bincount(labels.values.ravel())
    return counts / counts.sum()


def _hover(
    ds: xr.Dataset,
    labels: NDArray[np.integer],
    template: str,
    details: NDArray[np.float32] | None = None,
) -> go.Heatmap:
    options: dict[str, Any] = {} if details is None else {"customdata": details}
    return go.Heatmap(
        z=labels.astype(np.min_scalar_type(int(labels.max()))),
        hovertemplate=template + "<extra></extra>",
        opacity=0,
        showscale=False,
        **_cells(ds, *labels.shape),
        **options,
    )
