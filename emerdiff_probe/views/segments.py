"""Segmentations: the picture, its segments, and the masks that they come from.

What is read when pointing at a picture comes from an invisible heatmap above, no finer than the
difference maps are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.kinds import expect
from emerdiff_probe.schema import MODEL_X, MODEL_Y, RGB, SEGMENTATION, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.views.colours import paint, palette
from emerdiff_probe.views.panels import panels, picture, pixel_map, spaced, text, title

__all__ = ["low_resolution", "outlined", "overview", "segments", "thinned"]

# A figure's pictures are brought to about this many pixels on the longer side: small ones are
# repeated, so that outlines are thin; of large ones pixels are left out, so that the page is light.
_SHOWN: Final = 1024
_PANEL: Final = 420  # pixels on the screen; of several panels each is smaller


def segments(
    ds: xr.Dataset, *, alpha: float = 0.5, classes: Mapping[int, str] | None = None
) -> go.Figure:
    """The picture with its segments; pointing at one tells its number, share, strength and margin.

    Args:
        ds: A segmentation, as `emerdiff_probe.segment` makes it.
        alpha: Share of the segments' colours, from 0 (outlines alone) to 1 (no picture).
        classes: What segments are, by their numbers, to be told too.

    Raises:
        InputError: ``alpha`` is out of range.
    """
    expect(ds, SEGMENTATION)
    return _drawn(ds, {"segments": (_segments_image(ds, alpha), _segments_hover(ds, classes))})


def low_resolution(ds: xr.Dataset) -> go.Figure:
    """The low-resolution masks on the latent grid, in the colours of their segments.

    Args:
        ds: A segmentation, as `emerdiff_probe.segment` makes it.
    """
    expect(ds, SEGMENTATION)
    return _drawn(ds, {"low-resolution masks": (_masks_image(ds), _masks_hover(ds))})


def overview(ds: xr.Dataset) -> go.Figure:
    """Picture, segments and low-resolution masks side by side; all three zoom together.

    Args:
        ds: A segmentation, as `emerdiff_probe.segment` makes it.
    """
    expect(ds, SEGMENTATION)
    return _drawn(
        ds,
        {
            "picture": (_picture_image(ds), _picture_hover(ds)),
            "segments": (_segments_image(ds, 0.5), _segments_hover(ds)),
            "low-resolution masks": (_masks_image(ds), _masks_hover(ds)),
        },
    )


def _drawn(ds: xr.Dataset, layers: Mapping[str, tuple[go.Image, go.Heatmap]]) -> go.Figure:
    figure = panels(
        _extent(ds),
        (1, len(layers)),
        titles=list(layers),
        side=_PANEL if len(layers) == 1 else round(0.85 * _PANEL),
        heading=title(ds.attrs["model"], ds.attrs["source"], 55 * len(layers)),
    )
    for column, (image, hover) in enumerate(layers.values(), start=1):
        figure.add_trace(image, 1, column)
        figure.add_trace(hover, 1, column)
    return figure


def _extent(ds: xr.Dataset) -> tuple[int, int]:
    return ds.sizes[Y], ds.sizes[X]


def _picture_image(ds: xr.Dataset) -> go.Image:
    rows, columns = thinned(_extent(ds))
    pixels = ds["picture"].transpose(Y, X, RGB).values[rows][:, columns]
    return picture(pixels, _extent(ds), pointed=False)


def _segments_image(ds: xr.Dataset, alpha: float) -> go.Image:
    rows, columns = thinned(_extent(ds))
    pixels = ds["picture"].transpose(Y, X, RGB).values[rows][:, columns]
    labels = ds["labels"].transpose(Y, X).values[rows][:, columns]
    return picture(outlined(pixels, labels, alpha), _extent(ds), pointed=False)


def _masks_image(ds: xr.Dataset) -> go.Image:
    low_res = ds["low_res"].transpose(SOURCE_Y, SOURCE_X).values
    return picture(palette(int(low_res.max()) + 1)[low_res], _extent(ds), pointed=False)


def outlined(
    pixels: NDArray[np.uint8], labels: NDArray[np.integer], alpha: float
) -> NDArray[np.uint8]:
    """A picture painted with its segments, its pixels repeated so that lines are thin."""
    repeats = max(1, _SHOWN // max(labels.shape))
    large = pixels.repeat(repeats, axis=0).repeat(repeats, axis=1)
    borders = labels.repeat(repeats, axis=0).repeat(repeats, axis=1)
    return paint(large, borders, alpha, line=3)


def thinned(
    sides: tuple[int, int], most: int = _SHOWN
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns to show of a picture: all, or of a large one evenly spaced ones."""
    scale = min(1.0, most / max(sides))
    rows, columns = (spaced(side, max(1, round(side * scale))) for side in sides)
    return rows, columns


def _segments_hover(ds: xr.Dataset, classes: Mapping[int, str] | None = None) -> go.Heatmap:
    rows, columns = _pointed(ds)
    maps = ds[["labels", "strength", "margin"]].transpose(Y, X)
    at = {Y: rows, X: columns}
    labels, strength, margin = (maps[name].isel(at).values for name in maps)
    details = np.stack([_shares(ds["labels"])[labels], strength, margin], -1)
    options: dict[str, Any] = {}
    if classes:
        names = [text(classes.get(number, "")) for number in range(int(labels.max()) + 1)]
        options["text"] = np.array([f" ({name})" if name else "" for name in names])[labels]
    return _hover(
        ds,
        labels,
        f"segment %{{z}}{'%{text}' if classes else ''}, "
        "%{customdata[0]:.1%} of the picture<br>"
        "strength %{customdata[1]:.3~g}, margin %{customdata[2]:.2f}<br>"
        "x %{x:.1f}, y %{y:.1f}",
        customdata=details.astype(np.float32),
        **options,
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
        customdata=shares,
    )


def _pointed(ds: xr.Dataset) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of pixels that tell of themselves: as many as the model's picture has."""
    rows = spaced(ds.sizes[Y], min(ds.sizes[Y], ds.sizes[MODEL_Y]))
    return rows, spaced(ds.sizes[X], min(ds.sizes[X], ds.sizes[MODEL_X]))


def _shares(labels: xr.DataArray) -> NDArray[np.float64]:
    """Share of all pixels that each label has."""
    counts = np.bincount(labels.values.ravel())
    return counts / counts.sum()


def _hover(
    ds: xr.Dataset, labels: NDArray[np.integer], template: str, **options: Any
) -> go.Heatmap:
    return pixel_map(
        labels.astype(np.min_scalar_type(int(labels.max()))),
        _extent(ds),
        template,
        opacity=0,
        showscale=False,
        **options,
    )
