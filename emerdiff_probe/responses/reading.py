"""Answer questions from stored responses, without a model.

Responses of single locations add up, nearly, to those of masks, as long as they are signed and in
RGB. Masks of any shape, another clustering and both directions of the correspondence therefore
cost only a weighted sum. All functions here take responses as `emerdiff_probe.respond` returns
them, whole, or as `compress` returns them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.extmath import randomized_svd

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import expect
from emerdiff_probe.layers.clusters import Normalisation, cluster
from emerdiff_probe.locations import LABELLED, latent_dims, linear_weights
from emerdiff_probe.schema import (
    COMPRESSED,
    MASK,
    MODEL_X,
    MODEL_Y,
    RESPONSES,
    RGB,
    SOURCE_X,
    SOURCE_Y,
    X,
    Y,
    extent,
    pixel_centres,
)
from emerdiff_probe.segments.assignment import assign, balanced, smooth
from emerdiff_probe.segments.masks import as_masks, one_hot

__all__ = [
    "additivity_error",
    "compress",
    "latent_grid",
    "movers",
    "pixels_moved",
    "response_of",
    "segment_from",
]

_SOURCE = (SOURCE_Y, SOURCE_X)
_COMPONENT = "component"
_ROWS = 8
_Floats = NDArray[np.float32]


def response_of(responses: xr.Dataset, masks: ArrayLike) -> xr.DataArray:
    """Return the responses of masks, as signed sums of the responses of their locations.

    Args:
        responses: Responses of single locations, whole or compressed.
        masks: Weights (source_y, source_x), or (mask, source_y, source_x), of any sign.

    Returns:
        Signed RGB, (rgb, y, x) or (mask, rgb, y, x), float32. `additivity_error` measures how far
        these are from the responses that a model gives.

    Raises:
        InputError: The masks have other locations, or ``responses`` are not those of single
            locations.
    """
    ordered = latent_dims(masks) if isinstance(masks, LABELLED) else masks
    weights = np.asarray(ordered, np.float32)
    rows, columns = latent_grid(responses)
    if weights.ndim not in (2, 3) or weights.shape[-2:] != (rows, columns):
        raise InputError(
            f"masks of shape {weights.shape}; responses have {rows} x {columns} locations, so give "
            f"({rows}, {columns}) or (masks, {rows}, {columns})"
        )
    summed = _summed(responses, weights.reshape(-1, rows * columns))
    coords = {dim: responses[dim] for dim in (RGB, Y, X)}
    if weights.ndim == 2:
        return xr.DataArray(summed[0], dims=(RGB, Y, X), coords=coords, name="response")
    numbers = {MASK: np.arange(len(weights))}
    return xr.DataArray(
        summed, dims=(MASK, RGB, Y, X), coords={**numbers, **coords}, name="response"
    )


def additivity_error(responses: xr.Dataset, measured: xr.Dataset) -> xr.DataArray:
    """Measure how far sums of locations' responses are from a model's responses of whole masks.

    Args:
        responses: Responses of single locations, whole or compressed, on the pixels of
            ``measured``.
        measured: Responses of masks of the same image, with their ``masks``, from
            `emerdiff_probe.respond`.

    Returns:
        ``error`` (mask,): the norm of the error divided by that of the measured response; 0 is
        exact, 1 as bad as no answer.
    """
    summed = response_of(responses, measured["masks"].values)
    true = measured["response"].transpose(MASK, RGB, Y, X)
    if summed.shape != true.shape:
        raise InputError(
            f"responses of locations have shape {summed.shape[1:]} and those of masks "
            f"{true.shape[1:]}; give responses of the same image, neither of them reduced"
        )
    values = true.values.astype(np.float32)
    error = np.sqrt(((summed.values - values) ** 2).sum((1, 2, 3)) / (values**2).sum((1, 2, 3)))
    return xr.DataArray(error, dims=MASK, coords={MASK: measured[MASK]}, name="error")


def movers(responses: xr.Dataset, y: float, x: float) -> xr.DataArray:
    """Return how much each latent location moves one pixel.

    Args:
        responses: Responses of single locations, whole or compressed.
        y, x: Position in pixels of the image; the nearest pixel is taken.

    Returns:
        ``moved`` (source_y, source_x), >= 0: the norm over RGB.

    Raises:
        InputError: ``responses`` are not those of single locations.
    """
    latent_grid(responses)
    row, column = _nearest(responses[Y], y), _nearest(responses[X], x)
    at = {Y: row, X: column}
    if "left" in responses:
        right = responses["right"].isel(at).values.astype(np.float32)
        values = responses["left"].values @ (right * responses["right_scale"].values[:, None])
    elif "tiles" in responses:
        tiles = responses["tiles"].isel(at).values.astype(np.float32)
        values = tiles * responses["scale"].values[..., None]
    else:
        values = responses["response"].isel(at).values.astype(np.float32)
    coords = {dim: responses[dim] for dim in _SOURCE}
    norms = np.linalg.norm(values, axis=-1)
    return xr.DataArray(norms, dims=_SOURCE, coords=coords, name="moved")


def pixels_moved(responses: xr.Dataset, source_y: float, source_x: float) -> xr.DataArray:
    """Return how much one latent location moves each pixel.

    Args:
        responses: Responses of single locations, whole or compressed.
        source_y, source_x: Position in pixels of the image; the nearest location is taken.

    Returns:
        ``moved`` (y, x), >= 0: the norm over RGB.

    Raises:
        InputError: ``responses`` are not those of single locations.
    """
    mask = np.zeros(latent_grid(responses), np.float32)
    mask[_nearest(responses[SOURCE_Y], source_y), _nearest(responses[SOURCE_X], source_x)] = 1
    norms = _moved(responses, mask.reshape(1, -1))[0]
    coords = {dim: responses[dim] for dim in (Y, X)}
    return xr.DataArray(norms, dims=(Y, X), coords=coords, name="moved")


def segment_from(
    responses: xr.Dataset,
    masks: int | ArrayLike,
    *,
    normalise: Normalisation | None = None,
    restarts: int | None = None,
    seed: int | None = None,
    sigma: float | None = None,
) -> xr.Dataset:
    """Segment again, from another clustering, without running a model.

    Settings that are left out are those the responses were made with, so that the result is that of
    `emerdiff_probe.segment`, as far as responses add up.

    Args:
        responses: Responses of single locations, whole or compressed.
        masks: Number of clusters of the responses' ``features``; or masks of your own, as
            `emerdiff_probe.segment` takes them.
        normalise, restarts, seed: Settings of the clustering, as for
            `emerdiff_probe.layers.cluster`.
        sigma: Standard deviation of the Gaussian filter on difference maps, in pixels of the image
            as the model sees it.

    Returns:
        ``labels``, ``strength`` and ``margin`` (y, x); ``low_res``, ``masks``, ``difference``
        (mask, model_y, model_x) and ``picture``, as in a segmentation, for `emerdiff_probe.views`;
        with the attributes of the responses.

    Raises:
        InputError: The masks cannot be used, or a number of masks is given and the responses have
            no ``features``.
    """
    latent_grid(responses)
    config = json.loads(responses.attrs["config"])

    def setting(name: str, given: Any) -> Any:
        return config[name] if given is None else given

    if isinstance(masks, int | np.integer):
        if "features" not in responses:
            raise InputError("these responses have no features to cluster; give masks of your own")
        low_res = cluster(
            responses["features"],
            int(masks),
            normalise=setting("normalise", normalise),
            restarts=setting("restarts", restarts),
            seed=setting("seed", seed),
        )
        weights = one_hot(low_res, int(masks))
    else:
        weights = as_masks(masks, latent_grid(responses))
    norms = _moved(responses, weights.values.reshape(len(weights), -1))
    places = {MODEL_Y: responses[Y].values, MODEL_X: responses[X].values}
    difference = xr.DataArray(norms, dims=(MASK, MODEL_Y, MODEL_X), coords=places)
    size = responses.sizes[Y], responses.sizes[X]
    # The filter's width is in pixels that the model sees; reduced responses have fewer of them.
    rows, _ = json.loads(responses.attrs.get("model_size", "null")) or size
    difference = smooth(difference, setting("sigma", sigma) * responses.sizes[Y] / rows)
    weights = weights.assign_coords({dim: responses[dim].values for dim in _SOURCE})
    fair = balanced(difference, weights, config["balance"], config["elsewhere"])
    result = assign(fair, responses[Y].values, responses[X].values)
    result["masks"] = weights
    result["low_res"] = (_SOURCE, weights.values.argmax(0).astype(np.int16))
    result["difference"] = difference
    result["picture"] = responses["picture"]
    about = {name: value for name, value in responses.attrs.items() if name != "schema"}
    return result.assign_attrs(about)


def compress(
    responses: xr.Dataset,
    *,
    rank: int | None = None,
    bits: Literal[8] | None = None,
    reduce: int = 1,
) -> xr.Dataset:
    """Compress responses of locations to a fraction of their bytes, and measure the error.

    Args:
        responses: Responses of single locations, whole.
        rank: Number of components to keep of a truncated singular value decomposition over
            (location, pixel and colour) (Halko, Martinsson and Tropp 2011): ``left`` (source_y,
            source_x, component) and ``right`` (component, rgb, y, x). Without it, every location
            keeps an image of its own, ``tiles``.
        bits: 8 to store ``right`` as 8-bit integers with a scale for each component; by default
            float16. Tiles always have 8 bits, with a scale for each location.
        reduce: Number of pixels along each side that are averaged to one; 1 keeps all.

    Returns:
        Dataset that all functions of this module accept, with ``picture`` at the same resolution
        and ``features``; ``error`` (source_y, source_x) is, for each location, the norm of the
        error divided by that of its response, at full resolution.

    Raises:
        InputError: Neither ``rank`` nor ``bits`` is given, or a value does not fit these responses.
    """
    rows, columns = latent_grid(responses)
    size = responses.sizes[Y], responses.sizes[X]
    if (rank is None and bits is None) or bits not in (None, 8):
        raise InputError(f"rank is {rank} and bits is {bits}; give a rank, bits=8, or both")
    if reduce < 1 or size[0] % reduce or size[1] % reduce:
        raise InputError(f"reduce is {reduce}; choose a divisor of {size[0]} and {size[1]}")
    small = np.concatenate([_reduced(block, reduce) for block in _blocks(responses)])
    shape = small.shape[1:]
    flat = small.reshape(rows * columns, -1)
    if rank is None:
        integers, scale = _quantised(flat)
        variables: dict[str, Any] = {
            "tiles": ((*_SOURCE, RGB, Y, X), integers.reshape(rows, columns, *shape)),
            "scale": (_SOURCE, scale.reshape(rows, columns)),
        }
    else:
        if not 1 <= rank <= min(flat.shape):
            raise InputError(f"rank is {rank}; choose 1 to {min(flat.shape)}")
        u, s, right = randomized_svd(flat, rank, n_iter=4, random_state=0)
        kept: NDArray[Any]
        kept, scale = right.astype(np.float16), np.ones(rank, np.float32)
        if bits:
            kept, scale = _quantised(right)
        variables = {
            "left": ((*_SOURCE, _COMPONENT), (u * s).astype(np.float32).reshape(rows, columns, -1)),
            "right": ((_COMPONENT, RGB, Y, X), kept.reshape(rank, *shape)),
            "right_scale": (_COMPONENT, scale),
        }
    centres = {
        dim: pixel_centres(count, extent(responses[dim]))
        for dim, count in zip((Y, X), shape[1:], strict=True)
    }
    coords = {dim: responses[dim].values for dim in (*_SOURCE, RGB)}
    found = xr.Dataset(variables, coords={**coords, **centres})
    found["picture"] = ((Y, X, RGB), _small_picture(responses["picture"], reduce))
    if "features" in responses:
        found["features"] = responses["features"]
    found["error"] = (_SOURCE, _errors(responses, found))
    return found.assign_attrs({**responses.attrs, "schema": COMPRESSED})


def latent_grid(responses: xr.Dataset) -> tuple[int, int]:
    """Return the number of rows and columns of the latent locations of responses.

    Args:
        responses: Responses of single locations, whole or compressed.

    Raises:
        InputError: These are not responses of single locations.
    """
    expect(responses, RESPONSES)
    for name in ("response", "left", "tiles"):
        if name in responses and set(_SOURCE) <= set(responses[name].dims):
            return responses.sizes[SOURCE_Y], responses.sizes[SOURCE_X]
    raise InputError(
        f"no responses of single locations among {sorted(map(str, responses.data_vars))}; "
        "make some with run.respond()"
    )


def _nearest(centres: xr.DataArray, position: float) -> int:
    return int(np.abs(centres.values - position).argmin())


def _blocks(responses: xr.Dataset) -> Iterator[_Floats]:
    """Yield whole responses, one row of locations at a time (location, rgb, y, x)."""
    response = responses["response"].transpose(*_SOURCE, RGB, Y, X)
    for row in range(response.sizes[SOURCE_Y]):
        yield response.isel({SOURCE_Y: row}).values.astype(np.float32)


def _summed(responses: xr.Dataset, weights: _Floats) -> _Floats:
    """Return weighted sums (mask, rgb, y, x) of responses, by weights (mask, location)."""
    shape = (3, responses.sizes[Y], responses.sizes[X])
    total = np.zeros((len(weights), *shape), np.float32)
    for factors, pictures in _terms(responses, weights):
        total += (factors @ _floats(pictures)).reshape(total.shape)
    return total


def _moved(responses: xr.Dataset, weights: _Floats) -> _Floats:
    """Return the norms over RGB of weighted sums (mask, y, x), by weights (mask, location)."""
    height, width = responses.sizes[Y], responses.sizes[X]
    if "response" in responses:
        return np.linalg.norm(_summed(responses, weights), axis=1)
    # A few rows at a time, so that what is multiplied stays in the processor's cache.
    [(factors, pictures)] = _terms(responses, weights)
    norms = np.empty((len(weights), height, width), np.float32)
    for first in range(0, height, _ROWS):
        rows = slice(first, first + _ROWS)
        part = factors @ _floats(pictures[:, :, rows])
        squares = np.square(part, out=part).reshape(len(weights), 3, -1, width)
        np.sqrt(squares.sum(1), out=norms[:, rows])
    return norms


def _terms(responses: xr.Dataset, weights: _Floats) -> Iterator[tuple[_Floats, NDArray[Any]]]:
    """Yield the terms of weighted sums: factors (mask, term) and images (term, rgb, y, x)."""
    if "left" in responses:
        left = responses["left"].values.reshape(weights.shape[1], -1)
        yield weights @ left * responses["right_scale"].values, responses["right"].values
    elif "tiles" in responses:
        tiles = responses["tiles"].values
        used = weights.any(0)
        factors = weights * responses["scale"].values.ravel()
        tiles = tiles.reshape(-1, *tiles.shape[2:])
        yield factors[:, used], tiles if used.all() else tiles[used]
    else:
        columns = responses.sizes[SOURCE_X]
        for row in np.flatnonzero(weights.reshape(len(weights), -1, columns).any((0, 2))):
            part = weights[:, row * columns : (row + 1) * columns]
            # From a store, read only what is asked for; from memory, do not copy a whole row.
            used = part.any(0)
            asked = slice(None) if used.all() else np.flatnonzero(used)
            block = responses["response"].isel({SOURCE_Y: row, SOURCE_X: asked})
            yield part[:, asked], block.transpose(SOURCE_X, RGB, Y, X).values


def _floats(pictures: NDArray[Any]) -> _Floats:
    return pictures.astype(np.float32).reshape(len(pictures), -1)


def _reduced(block: _Floats, reduce: int) -> _Floats:
    if reduce == 1:
        return block
    count, colours, height, width = block.shape
    areas = block.reshape(count, colours, height // reduce, reduce, width // reduce, reduce)
    means: _Floats = areas.mean((3, 5))
    return means


def _small_picture(picture: xr.DataArray, reduce: int) -> NDArray[np.uint8]:
    values = picture.transpose(RGB, Y, X).values[None].astype(np.float32)
    return np.round(_reduced(values, reduce)[0]).astype(np.uint8).transpose(1, 2, 0)


def _quantised(rows: _Floats) -> tuple[NDArray[np.int8], _Floats]:
    """Return every row as integers from -127 to 127, and the scale to multiply them by."""
    largest = np.abs(rows).max(1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.round(rows / scale[:, None]).astype(np.int8), scale


def _errors(responses: xr.Dataset, compressed: xr.Dataset) -> _Floats:
    down = linear_weights(compressed[Y].values, responses[Y].values).astype(np.float32)
    across = linear_weights(compressed[X].values, responses[X].values).astype(np.float32)
    whole = compressed.sizes[Y] == responses.sizes[Y]
    rows, columns = latent_grid(responses)
    units = np.eye(rows * columns, dtype=np.float32).reshape(rows, columns, -1)
    errors = []
    for unit, true in zip(units, _blocks(responses), strict=True):
        found = _summed(compressed, unit)
        if not whole:
            found = (down @ found @ across.T).astype(np.float32)
        size = np.sqrt((true**2).sum((1, 2, 3)))
        error = np.sqrt(((found - true) ** 2).sum((1, 2, 3)))
        errors.append(np.divide(error, size, out=np.zeros_like(error), where=size > 0))
    return np.stack(errors)
