"""Low-resolution masks: from labels, or the user's own; and their embeddings."""

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
    """Labels as masks: ``masks`` (mask, source_y, source_x), float32, 1 inside and 0 outside.

    Args:
        low_res: Integers (source_y, source_x) from 0 to ``masks - 1``.
        masks: How many masks; a label that does not occur gives an empty one.

    Raises:
        InputError: A label out of that range, or not an integer.
    """
    if not np.issubdtype(low_res.dtype, np.integer):
        raise InputError(f"labels are integers, not {low_res.dtype}")
    low_res = latent_dims(low_res)
    low, high = int(low_res.min()), int(low_res.max())
    if low < 0 or high >= masks:
        raise InputError(f"labels run from {low} to {high}; with masks={masks}: 0 to {masks - 1}")
    numbers = xr.DataArray(np.arange(masks), dims=MASK, coords={MASK: np.arange(masks)})
    return (numbers == low_res).astype(np.float32).transpose(*_MASKS).rename("masks")


def embeddings(features: xr.DataArray, masks: xr.DataArray) -> xr.DataArray:
    """The mean feature inside each mask, weighted by the mask.

    Args:
        features: The features of one picture, as `emerdiff_probe.layers.normalised` takes them.
        masks: (mask, source_y, source_x), weights from 0 up, on the same locations.

    Returns:
        ``embeddings`` (mask, channel), float32.

    Raises:
        InputError: Grids of different size, or a mask without weight.
    """
    features, masks = on_latent_grid(features), latent_dims(masks)
    if set(masks.dims) != set(_MASKS):
        raise InputError(f"masks have dims {masks.dims}, not {_MASKS}")
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
    """Masks of one's own, checked and brought to the latent grid by averaging areas.

    Args:
        array: Integer labels (h, w), numbered from 0 without a gap; or a stack (mask, h, w) of
            bools or of weights in [0, 1]. ``h`` and ``w`` are those of the grid or multiples of
            them; a location's weight is then the mean over its area. Labelled arrays have y and x
            or source_y and source_x in any order.
        grid: Latent locations, (source_y, source_x).

    Returns:
        ``masks`` (mask, source_y, source_x), float32 in [0, 1], none of them empty. Of the
        coordinates it has only ``mask``.

    Raises:
        InputError: Another shape, values that are not finite or out of range, an empty mask.
    """
    ordered = latent_dims(array) if isinstance(array, LABELLED) else array
    values: NDArray[Any] = np.asarray(ordered)
    height, width = values.shape[-2:] if values.ndim >= 2 else (0, 0)
    rows, columns = grid
    if values.ndim not in (2, 3) or not height or not width or height % rows or width % columns:
        raise InputError(
            f"masks of shape {values.shape} on {rows} x {columns} latent locations; shapes: "
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
            f"labels (h, w) are integers, not {labels.dtype}; a single mask goes in as "
            "mask[None], of a labelled array as .isel(mask=[0])"
        )
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(present))):
        raise InputError(
            f"labels are {present[:10].tolist()}{'...' if len(present) > 10 else ''}, but number "
            "from 0 without a gap; np.unique(labels, return_inverse=True)[1] renumbers them"
        )
    return len(present)


def _check_weights(stack: NDArray[Any]) -> None:
    if not len(stack):
        raise InputError(f"no masks in an array of shape {stack.shape}; give at least one")
    numeric = np.issubdtype(stack.dtype, np.number) or stack.dtype == np.bool_
    # Comparisons with NaN are false, so it is refused here too.
    if not numeric or np.iscomplexobj(stack) or not ((stack >= 0) & (stack <= 1)).all():
        raise InputError(
            f"masks of {stack.dtype} with values outside [0, 1] or none at all (NaN); "
            "give bools, or weights from 0 to 1"
        )
