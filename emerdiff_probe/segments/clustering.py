"""Low-resolution masks: from features by k-means, or the user's own; and their embeddings."""

import warnings
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import latent_dims, on_latent_grid
from emerdiff_probe.schema import CHANNEL, MASK, SOURCE_X, SOURCE_Y

__all__ = ["Normalisation", "as_masks", "by_first_appearance", "cluster", "embeddings"]
__all__ += ["normalised", "one_hot"]

Normalisation = Literal["none", "l2", "standard"]

_MASKS = (MASK, SOURCE_Y, SOURCE_X)


def normalised(features: xr.DataArray, how: Normalisation) -> xr.DataArray:
    """Features as clustering compares them, in float64.

    Args:
        features: Of one picture at one timestep, as recorded (y, x, channel, and perhaps heads) or
            (source_y, source_x, channel), in any order; finite.
        how: "none"; "l2": every location's vector has length 1 (zeros stay zeros); "standard":
            every channel has mean 0 and variance 1 over the locations (constant ones become 0).

    Raises:
        InputError: Other dimensions, or values that are not finite.
    """
    features = on_latent_grid(features)
    values = features.values.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(
            f"features have {np.count_nonzero(~np.isfinite(values))} values that are not finite; "
            "record them in float32"
        )
    if how == "l2":
        length = np.linalg.norm(values, axis=-1, keepdims=True)
        values = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    elif how == "standard":
        values = values - values.mean((0, 1))
        spread = values.std((0, 1))
        values = np.divide(values, spread, out=np.zeros_like(values), where=spread > 0)
    elif how != "none":
        raise InputError(f"no normalisation {how!r}; choices: 'none', 'l2', 'standard'")
    return features.copy(data=values)


def cluster(
    features: xr.DataArray,
    masks: int,
    *,
    normalise: Normalisation = "none",
    restarts: int = 10,
    seed: int = 0,
) -> xr.DataArray:
    """Group latent locations by k-means (Lloyd's, from k-means++) into low-resolution masks.

    This is EmerDiff's second step. What the paper leaves open is a parameter here: it gives
    neither the normalisation nor the initialisation.

    Args:
        features: As :func:`normalised` takes them.
        masks: How many masks, from 1 to the number of locations.
        normalise: See :func:`normalised`.
        restarts: Starts of k-means; the one with the least inertia wins.
        seed: Of the starts.

    Returns:
        ``low_res`` (source_y, source_x), int16 from 0 to ``masks - 1``, all of them in use and
        numbered by first appearance, row by row from the top left.

    Raises:
        InputError: A number of masks out of range, unusable features, or fewer different features
            than masks.

    Source: Namekata et al., ICLR 2024 (arXiv 2401.11739).
    """
    values = normalised(features, normalise)
    points = values.values.reshape(-1, values.sizes[CHANNEL])
    if not 1 <= masks <= len(points):
        raise InputError(
            f"masks={masks} on {values.sizes[SOURCE_Y]} x {values.sizes[SOURCE_X]} latent "
            f"locations; choose 1 to {len(points)}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few clusters: an error below
        found = KMeans(masks, n_init=restarts, random_state=seed).fit_predict(points)
    labels = by_first_appearance(found)
    if labels.max() + 1 < masks:
        raise InputError(
            f"only {labels.max() + 1} of masks={masks} could be told apart, the features of the "
            "other locations being the same; ask for that many or fewer"
        )
    low_res = values.isel({CHANNEL: 0}, drop=True).copy(data=labels.reshape(values.shape[:2]))
    return low_res.rename("low_res").drop_attrs()


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
        features: As :func:`normalised` takes them.
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
    ordered = latent_dims(array) if isinstance(array, xr.DataArray) else array
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
            f"labels (h, w) are integers, not {labels.dtype}; a single mask goes in as mask[None]"
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


def by_first_appearance(labels: NDArray[np.integer]) -> NDArray[np.int16]:
    """The same groups, numbered from 0 in the order in which they first occur.

    >>> by_first_appearance(np.array([7, 7, 2, 7, 4]))
    array([0, 0, 1, 0, 2], dtype=int16)
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int16)
