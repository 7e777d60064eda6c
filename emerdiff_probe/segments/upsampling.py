"""Bring low-resolution masks to pixels without a model, as baselines.

Modulated denoising is worth its cost only where it beats all of these on the same masks. Each
function returns labels at the pixels asked for: int16 (y, x), with the positions as coordinates.
Positions are pixel centres, in pixels of the image; beyond the outermost latent locations, the
values of those locations continue.
"""

from collections.abc import Iterable

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import uniform_filter

from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import latent_dims, linear_weights, on_latent_grid
from emerdiff_probe.schema import CHANNEL, MASK, RGB, SOURCE_X, SOURCE_Y, X, Y

__all__ = ["bilinear_features", "bilinear_masks", "guided_filter", "nearest"]

_Floats = NDArray[np.float64]


def nearest(low_res: xr.DataArray, y: ArrayLike, x: ArrayLike) -> xr.DataArray:
    """Assign to each pixel the label of the latent location whose centre is nearest.

    Args:
        low_res: Labels (source_y, source_x), integers, with both coordinates.
        y: Rows of the pixels.
        x: Columns of the pixels.
    """
    low_res = latent_dims(low_res)
    _check(low_res, (SOURCE_Y, SOURCE_X), "low_res")
    at = {SOURCE_Y: np.asarray(y), SOURCE_X: np.asarray(x)}
    labels = low_res.sel(at, method="nearest").transpose(SOURCE_Y, SOURCE_X)
    return _labelled(labels.values, y, x)


def bilinear_masks(masks: xr.DataArray, y: ArrayLike, x: ArrayLike) -> xr.DataArray:
    """Assign to each pixel the mask with the largest bilinearly interpolated weight.

    This is the baseline of the EmerDiff paper. Alignment is that of
    ``torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)``; the lower number
    wins a tie.

    Args:
        masks: Weights (mask, source_y, source_x), with the last two coordinates.
        y: Rows of the pixels.
        x: Columns of the pixels.
    """
    masks = latent_dims(masks)
    _check(masks, (MASK, SOURCE_Y, SOURCE_X), "masks")
    down, across = _interpolation(masks, y, x)
    planes = masks.transpose(MASK, SOURCE_Y, SOURCE_X).values
    return _labelled(_largest(down @ plane @ across.T for plane in planes), y, x)


def bilinear_features(
    features: xr.DataArray, centroids: xr.DataArray, y: ArrayLike, x: ArrayLike
) -> xr.DataArray:
    """Assign to each pixel the centroid nearest (Euclidean) to its interpolated feature.

    Args:
        features: Features (source_y, source_x, channel), with the first two coordinates, normalised
            as they were for clustering; they are interpolated bilinearly.
        centroids: Centroids (mask, channel), for instance from :func:`embeddings` of those
            features.
        y: Rows of the pixels.
        x: Columns of the pixels.
    """
    features = on_latent_grid(features)
    _check(features, (SOURCE_Y, SOURCE_X, CHANNEL), "features")
    if (
        set(centroids.dims) != {MASK, CHANNEL}
        or centroids.sizes[CHANNEL] != features.sizes[CHANNEL]
    ):
        raise InputError(
            f"centroids have sizes {dict(centroids.sizes)}; give '{MASK}' and "
            f"{features.sizes[CHANNEL]} of '{CHANNEL}'"
        )
    down, across = _interpolation(features, y, x)
    values = features.transpose(SOURCE_Y, SOURCE_X, CHANNEL).values.astype(np.float64)
    points = centroids.transpose(MASK, CHANNEL).values.astype(np.float64)
    # argmin |f - c|^2 = argmax (f.c - |c|^2 / 2), which is linear in f: the scores, one number for
    # each location, can be interpolated in place of the features.
    scores = np.einsum("hwc,mc->mhw", values, points) - (points**2).sum(1)[:, None, None] / 2
    return _labelled(_largest(down @ plane @ across.T for plane in scores), y, x)


def guided_filter(
    masks: xr.DataArray, picture: xr.DataArray, *, radius: int = 8, epsilon: float = 1e-3
) -> xr.DataArray:
    """Assign to each pixel the largest mask after filtering with the picture as a guide.

    Masks are interpolated bilinearly. In every window a mask is then fitted as an affine function
    of the colour, so that its edges move to those of the picture.

    Args:
        masks: Weights (mask, source_y, source_x), with the last two coordinates.
        picture: Image (y, x, rgb), uint8 or floats in [0, 1], with coordinates y and x.
        radius: Radius of the window, 1 or more; it spans ``2 * radius + 1`` pixels and should hold
            a latent location.
        epsilon: Variance of colours (in [0, 1]) below which a window counts as flat, above 0.

    Source: He, Sun and Tang, "Guided Image Filtering", ECCV 2010, eqs. 14 to 16 (the colour guide);
    also IEEE TPAMI 35(6), 2013. Windows are cut off at the border of the picture, as there.
    """
    masks = latent_dims(masks)
    _check(masks, (MASK, SOURCE_Y, SOURCE_X), "masks")
    _check(picture, (Y, X, RGB), "picture")
    if radius < 1 or not epsilon > 0:
        raise InputError(f"radius={radius}, epsilon={epsilon}; choose radius >= 1, epsilon > 0")
    y, x = picture[Y].values, picture[X].values
    down, across = _interpolation(masks, y, x)
    guide = picture.transpose(RGB, Y, X).values
    colours = guide / 255 if guide.dtype == np.uint8 else guide.astype(np.float64)
    count = _window_sums(np.ones(colours.shape[1:]), radius)

    def mean(plane: _Floats) -> _Floats:
        return _window_sums(plane, radius) / count

    mu = np.stack([mean(c) for c in colours])
    covariance = np.stack([[mean(a * b) for b in colours] for a in colours]) - mu[:, None] * mu
    regular = np.moveaxis(covariance, (0, 1), (-2, -1)) + epsilon * np.eye(3)
    inverse = np.linalg.inv(regular)

    def filtered(p: _Floats) -> _Floats:
        p_mean = mean(p)
        joint = np.stack([mean(c * p) for c in colours]) - mu * p_mean
        a = np.einsum("yxij,jyx->iyx", inverse, joint)  # eq. 14
        b = p_mean - (a * mu).sum(0)  # eq. 15
        return sum((mean(ai) * c for ai, c in zip(a, colours, strict=True)), mean(b))  # eq. 16

    planes = masks.transpose(MASK, SOURCE_Y, SOURCE_X).values
    return _labelled(_largest(filtered(down @ plane @ across.T) for plane in planes), y, x)


def _window_sums(plane: _Floats, radius: int) -> _Floats:
    size = 2 * radius + 1
    return uniform_filter(plane, size, mode="constant") * size**2


def _largest(planes: Iterable[_Floats]) -> NDArray[np.int16]:
    """Return the index of the largest plane at each pixel, holding two planes at a time."""
    for number, plane in enumerate(planes):
        if number == 0:
            best, labels = plane, np.zeros(plane.shape, np.int16)
        else:
            labels[plane > best] = number
            best = np.maximum(best, plane)
    return labels


def _interpolation(array: xr.DataArray, y: ArrayLike, x: ArrayLike) -> tuple[_Floats, _Floats]:
    down = linear_weights(array[SOURCE_Y].values, np.asarray(y, np.float64))
    return down, linear_weights(array[SOURCE_X].values, np.asarray(x, np.float64))


def _labelled(labels: NDArray[np.integer], y: ArrayLike, x: ArrayLike) -> xr.DataArray:
    return xr.DataArray(
        labels.astype(np.int16),
        dims=(Y, X),
        coords={Y: np.asarray(y), X: np.asarray(x)},
        name="labels",
    )


def _check(array: xr.DataArray, dims: tuple[str, ...], what: str) -> None:
    positions = [dim for dim in dims if dim in (SOURCE_Y, SOURCE_X, Y, X)]
    if set(array.dims) != set(dims) or not all(dim in array.coords for dim in positions):
        raise InputError(
            f"{what} has dims {array.dims} and coordinates {list(array.coords)}; "
            f"give dims {dims} with coordinates {positions}"
        )
