"""Draw segmentations: the image, its segments, and the masks that they come from.

The texts shown on hovering come from an invisible heatmap above, no finer than the difference maps.
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

# The longer side of a figure's images, in pixels, approximately: pixels of small images are
# repeated, so that outlines are thin; large images are thinned out, so that the page is small.
_SHOWN: Final = 1024
_PANEL: Final = 420  # screen pixels; several panels are smaller


def segments(
    ds: xr.Dataset, *, alpha: float = 0.5, classes: Mapping[int, str] | None = None
) -> go.Figure:
    """Draw the image with its segments; hovering shows number, share, strength and margin.

    Args:
        ds: A segmentation from `emerdiff_probe.segment`.
        alpha: The opacity of the segments' colours, from 0 (outlines alone) to 1 (no image).
        classes: The names of segments by number, to be shown too.

    Raises:
        InputError: ``alpha`` is out of range.
    """
    expect(ds, SEGMENTATION)
    return _drawn(ds, {"segments": (_segments_image(ds, alpha), _segments_hover(ds, classes))})


def low_resolution(ds: xr.Dataset) -> go.Figure:
    """Draw the low-resolution masks on the latent grid, in the colours of their segments.

    Args:
        ds: A segmentation from `emerdiff_probe.segment`.
    """
    expect(ds, SEGMENTATION)
    return _drawn(ds, {"low-resolution masks": (_masks_image(ds), _masks_hover(ds))})


def overview(ds: xr.Dataset) -> go.Figure:
    """Draw image, segments and low-resolution masks side by side; all three zoom together.

    Args:
        ds: A segmentation from `emerdiff_probe.segment`.
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
    """Return an image painted with its segments, its pixels repeated so that lines are thin."""
    repeats = max(1, _SHOWN // max(labels.shape))
    large = pixels.repeat(repeats, axis=0).repeat(repeats, axis=1)
    borders = labels.repeat(repeats, axis=0).repeat(repeats, axis=1)
    return paint(large, borders, alpha, line=3)


def thinned(
    sides: tuple[int, int], most: int = _SHOWN
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of an image to show: all, or spaced ones of a large image."""
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
        "%{customdata[0]:.1%} of the image<br>"
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
    """Return the rows and columns of pixels that show texts: as many as the model's image has."""
    rows = spaced(ds.sizes[Y], min(ds.sizes[Y], ds.sizes[MODEL_Y]))
    return rows, spaced(ds.sizes[X], min(ds.sizes[X], ds.sizes[MODEL_X]))


def _shares(labels: xr.DataArray) -> NDArray[np.float64]:
    """Return the share of all pixels that each label has."""
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
