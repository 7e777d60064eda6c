"""Read the features of a layer as the rest of this package takes them, and truth on their grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray

from emerdiff_probe import store
from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import by_location
from emerdiff_probe.schema import CHANNEL, RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.timesteps import one_position

__all__ = [
    "Labels",
    "area_weights",
    "as_points",
    "blocks",
    "class_shares",
    "colours_on",
    "features",
    "label_pictures",
    "labels_on",
    "resized",
    "stored_blocks",
]

Labels = NDArray[np.integer] | xr.DataArray
"""Class of each pixel, integers (sample, y, x)."""

GRID: Final = (SAMPLE, Y, X)


def features(
    run: xr.DataTree, site: str, timestep: float | None = None, step: int | None = None
) -> xr.DataArray:
    """Return the values of a site as features of locations, read when they are needed.

    From a guided recording the conditional half is taken. The heads of an attention port are joined
    into one channel axis.

    Args:
        run: Recording.
        site: Name of the site, as `emerdiff_probe.site` takes it.
        timestep: Timestep to read; by default all.
        step: Step of the call, where the timestep was visited more than once.

    Returns:
        Features (sample, timestep, y, x, channel), without timestep where one was chosen; y and x
        in pixels of the image.

    Raises:
        SiteError: The recording has no such site.
        InputError: The site has no locations, or the timestep was not recorded.
    """
    values = by_location(store.site(run, site))
    if timestep is None and step is None:
        return values
    return values.isel({TIMESTEP: one_position(values, timestep, step)})


def blocks(values: xr.DataArray) -> Iterator[xr.DataArray]:
    """Yield the parts of an array that are stored together, loaded one after the other.

    Args:
        values: Array with sample and perhaps timestep among its dims.
    """
    for part in stored_blocks(values):
        yield values.isel(part).load()


def stored_blocks(values: xr.DataArray) -> Iterator[dict[str, slice]]:
    """Yield which samples and timesteps are stored together; see `blocks`."""
    sizes = values.variable.chunksizes
    spans = [(dim, sizes.get(dim, (values.sizes[dim],))) for dim in (SAMPLE, TIMESTEP)
             if dim in values.dims]  # fmt: skip
    for corner in np.ndindex(*[len(lengths) for _, lengths in spans]):
        yield {
            dim: slice(sum(lengths[:at]), sum(lengths[: at + 1]))
            for at, (dim, lengths) in zip(corner, spans, strict=True)
        }


def as_points(
    values: xr.DataArray, dtype: DTypeLike = np.float64
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return all locations as rows of a matrix.

    Args:
        values: Features with y, x, channel, and perhaps sample and timestep.
        dtype: Type of the matrix.

    Returns:
        Matrix (point, channel), finite; and the position of each point's sample (point,).

    Raises:
        InputError: Values are not finite.
    """
    ordered = by_location(values)
    points = ordered.values.reshape(-1, ordered.sizes[CHANNEL]).astype(dtype)
    if not np.isfinite(points).all():
        raise InputError(
            f"{np.count_nonzero(~np.isfinite(points))} features are not finite: the recording is "
            "not complete there; resume it, or leave these timesteps out"
        )
    samples = ordered.sizes[SAMPLE]
    return points, np.repeat(np.arange(samples), len(points) // samples)


def area_weights(source: int, target: int) -> NDArray[np.float64]:
    """Return averaging over areas as a matrix (target, source), whose rows add up to 1.

    >>> area_weights(3, 2).round(2)
    array([[0.67, 0.33, 0.  ],
           [0.  , 0.33, 0.67]])
    """
    left = np.arange(target)[:, None] * (source / target)
    cells = np.arange(source)
    overlap = np.minimum(left + source / target, cells + 1) - np.maximum(left, cells)
    return np.clip(overlap, 0, None) * (target / source)


def resized(values: xr.DataArray, rows: int, columns: int) -> xr.DataArray:
    """Average features over the cells of a grid that is not finer; coordinates follow.

    Args:
        values: Array with y and x, and with their coordinates where it has any.
        rows, columns: Size of the new grid.

    Raises:
        InputError: The new grid is finer than the old.
    """
    old = values.sizes[Y], values.sizes[X]
    if (rows, columns) == old:
        return values
    if rows > old[0] or columns > old[1]:
        raise InputError(
            f"a grid of {old[0]} x {old[1]} cannot be averaged to {rows} x {columns}; choose a "
            "grid that is not finer"
        )
    down = xr.DataArray(area_weights(old[0], rows), dims=("row", Y))
    across = xr.DataArray(area_weights(old[1], columns), dims=("column", X))
    places = {
        dim: matrix.values @ values[dim].values
        for dim, matrix in ((Y, down), (X, across))
        if dim in values.coords
    }
    plain = values.drop_vars([Y, X], errors="ignore")
    averaged = xr.dot(down, across, plain.astype(np.float32), dim=(Y, X))
    named = averaged.rename(row=Y, column=X).transpose(*values.dims)
    return named.assign_coords(places).rename(values.name)


def class_shares(labels: Labels, rows: int, columns: int, n_classes: int) -> NDArray[np.float64]:
    """Return the share of each class in each cell of a grid.

    Args:
        labels: Classes (sample, y, x), integers; those outside 0 to ``n_classes - 1`` belong to
            none.
        rows, columns: Size of the grid.
        n_classes: Number of classes.

    Returns:
        Shares (sample, y, x, class), in [0, 1].
    """
    values = label_pictures(labels)
    down, across = (
        area_weights(size, cells)
        for size, cells in zip(values.shape[1:], (rows, columns), strict=True)
    )
    shares = [down @ (values == number) @ across.T for number in range(n_classes)]
    return np.stack(shares, axis=-1)


def labels_on(
    labels: Labels, rows: int, columns: int, ignore: int | None = None
) -> NDArray[np.int64]:
    """Return the most frequent class in each cell of a grid; the lower number wins a tie.

    Args:
        labels: Classes (sample, y, x), integers from 0 up.
        rows, columns: Size of the grid.
        ignore: Label that stands for no class.

    Returns:
        Classes (sample, y, x); -1 where ``ignore`` has the largest share.
    """
    known, numbered = np.unique(label_pictures(labels), return_inverse=True)
    shares = class_shares(numbered, rows, columns, len(known))
    return np.where(known == ignore, -1, known.astype(np.int64))[shares.argmax(-1)]


def colours_on(pictures: xr.DataArray, rows: int, columns: int) -> NDArray[np.float64]:
    """Return the mean colour of each cell of a grid, in [0, 1].

    Args:
        pictures: Images (sample, y, x, rgb), uint8 or floats in [0, 1]; the leaf "image" of a
            recording.
        rows, columns: Size of the grid.
    """
    scale = 255 if pictures.dtype == np.uint8 else 1
    cells = resized(pictures.transpose(*GRID, RGB), rows, columns)
    return cells.values.astype(np.float64) / scale


def label_pictures(labels: Labels) -> NDArray[np.integer]:
    """Return labels as a NumPy array (sample, y, x).

    Raises:
        InputError: The labels have other dims or are not integers.
    """
    dims = labels.dims if isinstance(labels, xr.DataArray) else GRID[: labels.ndim]
    if set(dims) != set(GRID) or labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels have shape {labels.shape} and type {labels.dtype}; give integers "
            "(sample, y, x), one image for each sample of the recording"
        )
    return xr.DataArray(labels, dims=dims).transpose(*GRID).values
