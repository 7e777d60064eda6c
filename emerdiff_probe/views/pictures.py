"""Draw images and maps side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import X, Y
from emerdiff_probe.views.maps import extent
from emerdiff_probe.views.panels import as_bytes, panels, picture, pixel_map, text

__all__ = ["pictures"]

_PANEL: Final = 230  # screen pixels


def pictures(shown: Mapping[str, ArrayLike], *, columns: int = 4, heading: str = "") -> go.Figure:
    """Draw images and maps of one scene side by side; all zoom together.

    Args:
        shown: The images and maps by title. An image is (y, x, rgb), uint8 or floats, which are
            clipped to [0, 1]. A map is (y, x) of nonnegative numbers, on the image's grid or a
            coarser one; it is black at 0 and white at its own largest value, and hovering shows
            values. Labelled arrays are placed by their coordinates y and x, in pixels of the scene.
        columns: The number of panels in a row.
        heading: The heading of the figure.

    Raises:
        InputError: Nothing is given, or something is neither an image nor a map.
    """
    if not shown or columns < 1:
        raise InputError(f"{len(shown)} images in {columns} columns; give at least one of each")
    arrays = {name: _checked(name, _pixels(values)) for name, values in shown.items()}
    sizes = [_size(shown[name], values) for name, values in arrays.items()]
    height, width = (max(each[axis] for each in sizes) for axis in (0, 1))
    across = min(columns, len(arrays))
    figure = panels(
        (height, width),
        (math.ceil(len(arrays) / across), across),
        side=_PANEL,
        heading=f"<b>{text(heading)}</b>" if heading else "",
        titles=list(arrays),
    )
    for number, values in enumerate(arrays.values()):
        trace: go.Image | go.Heatmap
        if values.ndim == 3:
            trace = picture(as_bytes(values), (height, width))
        else:
            trace = pixel_map(
                values.astype(np.float32),  # as plotly does not send every type in binary
                (height, width),
                "y %{y:.0f}, x %{x:.0f}: %{z:.3g}",
                colorscale="gray",
                zmin=0,
                zmax=max(float(values.max()), np.finfo(np.float32).tiny),
                showscale=False,
            )
        figure.add_trace(trace, number // across + 1, number % across + 1)
    return figure


def _pixels(values: ArrayLike) -> NDArray[np.generic]:
    if isinstance(values, xr.DataArray):
        values = values.transpose(Y, X, ..., missing_dims="ignore")
    return np.asarray(values)


def _size(given: ArrayLike, pixels: NDArray[np.generic]) -> tuple[int, int]:
    """Return the height and width in pixels of the scene that an image or map covers."""
    if isinstance(given, xr.DataArray) and {Y, X} <= set(given.coords):
        return extent(given)
    return pixels.shape[0], pixels.shape[1]


def _checked(name: str, values: NDArray[np.generic]) -> NDArray[np.generic]:
    is_picture = values.ndim == 3 and values.shape[2] == 3
    if not values.size or not (is_picture or values.ndim == 2):
        raise InputError(f"{name!r} has shape {values.shape}; an image is (y, x, 3), a map (y, x)")
    return values
