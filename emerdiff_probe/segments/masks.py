"""Make low-resolution masks from labels or from the user's own, and compute embeddings."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import LABELLED, latent_dims, on_latent_grid
from emerdiff_probe.schema import CHANNEL, MASK, SOURCE_X, SOURCE_Y

__all__ = ["as_masks", "embeddings", "one_hot"]

_MASKS = (MASK, SOURCE_Y, SOURCE_X)


def one_hot(low_res: xr.DataArray, masks: int) -> xr.DataArray:
    """Return labels as masks.

    Args:
        low_res: Labels (source_y, source_x), integers from 0 to ``masks - 1``.
        masks: Number of masks; a label that does not occur gives an empty mask.

    Returns:
        ``masks`` (mask, source_y, source_x), float32, 1 inside and 0 outside.

    Raises:
        InputError: A label is out of range or not an integer.
    """
    if not np.issubdtype(low_res.dtype, np.integer):
        raise InputError(f"labels have type {low_res.dtype}; give integers")
    low_res = latent_dims(low_res)
    low, high = int(low_res.min()), int(low_res.max())
    if low < 0 or high >= masks:
        raise InputError(f"labels run from {low} to {high}; masks={masks} allows 0 to {masks - 1}")
    numbers = xr.DataArray(np.arange(masks), dims=MASK, coords={MASK: np.arange(masks)})
    return (numbers == low_res).astype(np.float32).transpose(*_MASKS).rename("masks")


def embeddings(features: xr.DataArray, masks: xr.DataArray) -> xr.DataArray:
    """Return the mean feature inside each mask, weighted by the mask.

    Args:
        features: Features of one image, as `emerdiff_probe.layers.normalised` takes them.
        masks: Weights (mask, source_y, source_x), 0 or more, on the same locations.

    Returns:
        ``embeddings`` (mask, channel), float32.

    Raises:
        InputError: The grids differ in size, or a mask is empty.
    """
    features, masks = on_latent_grid(features), latent_dims(masks)
    if set(masks.dims) != set(_MASKS):
        raise InputError(f"masks have dims {masks.dims}; give {_MASKS}")
    values = features.values.astype(np.float64)
    weights = masks.transpose(*_MASKS).values.astype(np.float64)
    if values.shape[:2] != weights.shape[1:]:
        raise InputError(
            f"features have {values.shape[:2]} latent locations and masks {weights.shape[1:]}; "
            "take both from the same site"
        )
    total = weights.sum((1, 2))
    if not (total > 0).all():
        raise InputError(f"mask {int(np.argmin(total > 0))} is empty; leave it out")
    means = np.einsum("mhw,hwc->mc", weights, values) / total[:, None]
    coords = {dim: array.coords[dim] for array in (masks, features) for dim in array.coords}
    coords = {dim: coord for dim, coord in coords.items() if coord.dims in ((MASK,), (CHANNEL,))}
    return xr.DataArray(
        means.astype(np.float32), dims=(MASK, CHANNEL), coords=coords, name="embeddings"
    )


def as_masks(array: ArrayLike | xr.DataArray, grid: tuple[int, int]) -> xr.DataArray:
    """Check masks and bring them to the latent grid by averaging areas.

    Args:
        array: Integer labels (h, w), numbered from 0 without a gap; or a stack (mask, h, w) of
            bools or of weights in [0, 1]. ``h`` and ``w`` are those of the grid or multiples of
            them; a location's weight is then the mean over its area. Labelled arrays have y and x,
            or source_y and source_x, in any order.
        grid: Number of rows and columns of latent locations.

    Returns:
        ``masks`` (mask, source_y, source_x), float32 in [0, 1], none of them empty; its only
        coordinate is ``mask``.

    Raises:
        InputError: The shape does not fit, values are not finite or out of range, or a mask is
            empty.
    """
    ordered = latent_dims(array) if isinstance(array, LABELLED) else array
    values: NDArray[Any] = np.asarray(ordered)
    height, width = values.shape[-2:] if values.ndim >= 2 else (0, 0)
    rows, columns = grid
    if values.ndim not in (2, 3) or not height or not width or height % rows or width % columns:
        raise InputError(
            f"masks of shape {values.shape} on {rows} x {columns} latent locations; give "
            f"(h, w) of labels or (masks, h, w), with h = {rows}, {2 * rows}, ... and "
            f"w = {columns}, {2 * columns}, ..."
        )
    blocks = (rows, height // rows, columns, width // columns)
    if values.ndim == 2:
        count = _count_labels(values)
        stack = [(values == label).reshape(blocks).mean((1, 3)) for label in range(count)]
    else:
        _check_weights(values)
        stack = [mask.reshape(blocks).mean((1, 3), dtype=np.float64) for mask in values]
    for number, mask in enumerate(stack):
        if not mask.any():
            raise InputError(f"mask {number} is empty; leave it out")
    return xr.DataArray(
        np.stack(stack).astype(np.float32),
        dims=_MASKS,
        coords={MASK: np.arange(len(stack))},
        name="masks",
    )


def _count_labels(labels: NDArray[np.generic]) -> int:
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels (h, w) have type {labels.dtype}; give integers, or a single mask as "
            "mask[None] (for a labelled array, .isel(mask=[0]))"
        )
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(present))):
        raise InputError(
            f"labels are {present[:10].tolist()}{'...' if len(present) > 10 else ''}; number them "
            "from 0 without a gap, as with np.unique(labels, return_inverse=True)[1]"
        )
    return len(present)


def _check_weights(stack: NDArray[Any]) -> None:
    if not len(stack):
        raise InputError(f"an array of shape {stack.shape} has no masks; give at least one")
    numeric = np.issubdtype(stack.dtype, np.number) or stack.dtype == np.bool_
    # Comparisons with NaN are false, so NaN is refused here too.
    if not numeric or np.iscomplexobj(stack) or not ((stack >= 0) & (stack <= 1)).all():
        raise InputError(
            f"masks of {stack.dtype} have values outside [0, 1] or NaN; "
            "give bools, or weights from 0 to 1"
        )
