"""Define the dimensions, coordinates and attributes of the package's datasets.

All positions are in pixels of the photograph, where the centre of pixel i is i + 0.5, so that one
``.sel(y=..., source_y=..., method="nearest")`` selects one place at every resolution.
"""

import json
import math
from importlib.metadata import version
from typing import Final, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import StoreError

__all__ = [
    "BATCH",
    "CHANNEL",
    "COMPRESSED",
    "GUIDANCE",
    "HEAD",
    "LOCATION",
    "MASK",
    "MODEL_X",
    "MODEL_Y",
    "RECORDING",
    "RESPONSES",
    "RGB",
    "SAMPLE",
    "SEGMENTATION",
    "SOURCE_X",
    "SOURCE_Y",
    "STEP",
    "SWEEP",
    "TIMESTEP",
    "TOKEN",
    "X",
    "Y",
    "check",
    "extent",
    "package_versions",
    "pixel_centres",
]

Y: Final = "y"  # the photograph's own size
X: Final = "x"
SOURCE_Y: Final = "source_y"  # latent locations
SOURCE_X: Final = "source_x"
MODEL_Y: Final = "model_y"  # the image as the model sees it
MODEL_X: Final = "model_x"
MASK: Final = "mask"
CHANNEL: Final = "channel"
RGB: Final = "rgb"
SAMPLE: Final = "sample"
BATCH: Final = "batch"  # rows of a network call whose meaning is unknown
GUIDANCE: Final = "guidance"  # the two halves of a guided call
TIMESTEP: Final = "timestep"
STEP: Final = "step"  # coordinate of timestep: the position of a call in its run
TOKEN: Final = "token"
HEAD: Final = "head"  # the heads of an attention
LOCATION: Final = "location"  # the locations of a latent grid, in row order

SEGMENTATION: Final = "segmentation/1"
RECORDING: Final = "recording/1"
RESPONSES: Final = "responses/1"
COMPRESSED: Final = "compressed-responses/1"
SWEEP: Final = "sweep/1"

_SOURCE = (SOURCE_Y, SOURCE_X)
_MODEL = (MODEL_Y, MODEL_X)

# The least and greatest value. None: any finite value; MASK as the greatest: the highest mask.
_Limits = tuple[float, float | Literal["mask"]] | None
# name: dims, dtype, limits
_Variables = dict[str, tuple[tuple[str, ...], str, _Limits]]
_SEGMENTATION: Final[_Variables] = {
    "labels": ((Y, X), "int16", (0, MASK)),
    "strength": ((Y, X), "float32", (0, math.inf)),  # the winning difference map
    "margin": ((Y, X), "float32", (0, 1)),  # (first - second) / first; 1: one mask; 0: no motion
    "low_res": (_SOURCE, "int16", (0, MASK)),
    "masks": ((MASK, *_SOURCE), "float32", (0, 1)),
    "difference": ((MASK, *_MODEL), "float32", (0, math.inf)),
    "embeddings": ((MASK, CHANNEL), "float32", None),
    "features": ((*_SOURCE, CHANNEL), "float32", None),
    "picture": ((Y, X, RGB), "uint8", (0, 255)),
    "reconstruction": ((*_MODEL, RGB), "float32", (0, 1)),  # the image of the unmodulated run
}
_PICTURE: Final = (Y, X, RGB)
# The grid of y and x is that of the image as the model sees it; the unit is the pixel of the
# original image.
_RESPONSES: Final[_Variables] = {
    "picture": (_PICTURE, "uint8", (0, 255)),
    "reconstruction": (_PICTURE, "float32", (0, 1)),
}
_RESPONSE_DIMS: Final = ((*_SOURCE, RGB, Y, X), (MASK, RGB, Y, X))
_COMPRESSED: Final[dict[str, _Variables]] = {
    "left": {  # low rank
        "left": ((*_SOURCE, "component"), "float32", None),
        "right": (("component", RGB, Y, X), "int8", None),
        "right_scale": (("component",), "float32", None),
    },
    "tiles": {
        "tiles": ((*_SOURCE, RGB, Y, X), "int8", None),
        "scale": (_SOURCE, "float32", (0, math.inf)),
    },
}
_PACKAGES: Final = ("emerdiff-probe", "torch", "diffusers", "transformers", "numpy", "xarray")
_TEXTS = ("model", "weights", "engine", "source", "fit")
_JSONS = ("config", "versions", "inversion")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a dataset's values depend on, for its attributes."""
    return {name: version(name) for name in _PACKAGES}


def pixel_centres(n: int, extent: float) -> NDArray[np.float64]:
    """Return the centres of ``n`` equal cells that together cover 0 to ``extent``.

    >>> pixel_centres(2, 8)
    array([2., 6.])
    """
    return (np.arange(n, dtype=np.float64) + 0.5) * (extent / n)


def extent(centres: xr.DataArray) -> float:
    """Return the side that cells together cover, in the unit of their centres.

    >>> extent(xr.DataArray(pixel_centres(2, 8)))
    8.0
    """
    # The first and the last centre lie half a cell from the edge.
    return float(centres[0] + centres[-1])


def check(ds: xr.Dataset) -> None:
    """Check that a dataset has the form that its ``schema`` attribute claims.

    Attributes, dimensions, coordinates, types and ranges are checked; all values are read. More
    variables and attributes than the schema names are allowed.

    Raises:
        StoreError: Something is wrong; the message names the first fault.
    """
    schema = ds.attrs.get("schema")
    makers = {
        SEGMENTATION: lambda _: _SEGMENTATION,
        RESPONSES: _responses,
        COMPRESSED: _compressed,
        SWEEP: _sweep,
    }
    if schema not in makers:
        raise StoreError(
            f"attribute schema is {schema!r}; this version knows {', '.join(map(repr, makers))}. "
            "Make the dataset again, or use the version that made it"
        )
    _check_attributes(ds)
    variables = makers[schema](ds)
    for name, (dims, dtype, _) in variables.items():
        variable = _variable(ds, name)
        if variable.dims != dims:
            raise StoreError(f"{name} has dims {variable.dims}, not {dims}")
        if variable.dtype != dtype:
            raise StoreError(f"{name} is {variable.dtype}, not {dtype}")
    _check_coordinates(ds)
    for name, (_, _, limits) in variables.items():
        _check_values(ds, name, limits)


def _responses(ds: xr.Dataset) -> _Variables:
    """Return the variables of responses: of masks or locations, in half or single precision."""
    response = _variable(ds, "response")
    if response.dims not in _RESPONSE_DIMS:
        raise StoreError(f"response has dims {response.dims}, not one of {_RESPONSE_DIMS}")
    dtype = "float16" if response.dtype == "float16" else "float32"
    found = {**_RESPONSES, "response": (response.dims, dtype, None)}
    if MASK in ds.dims:
        found["masks"] = _SEGMENTATION["masks"]
    return found


def _compressed(ds: xr.Dataset) -> _Variables:
    """Return the variables of compressed responses: low rank or tiles, 8 bits or half precision."""
    found = dict(_COMPRESSED["left" if "left" in ds.data_vars else "tiles"])
    if "right" in ds.data_vars and ds["right"].dtype == "float16":
        found["right"] = (found["right"][0], "float16", None)
    error = (_SOURCE, "float32", (0.0, math.inf))
    return {**found, "picture": _RESPONSES["picture"], "error": error}


def _sweep(ds: xr.Dataset) -> _Variables:
    """Return the variables of a sweep: those of segmentations, preceded by the varied settings."""
    settings = tuple(map(str, _variable(ds, "difference").dims[:-3]))
    found = {name: _SEGMENTATION[name] for name in ("masks", "low_res", "picture")}
    for name, dtype in (("difference", "float32"), ("labels", "int16")):
        dims, _, limits = _SEGMENTATION[name]
        found[name] = ((*settings, *dims), dtype, limits)
    return found


def _variable(ds: xr.Dataset, name: str) -> xr.DataArray:
    if name not in ds.data_vars:
        raise StoreError(f"no variable {name!r}; there are {sorted(map(str, ds.data_vars))}")
    return ds[name]


def _check_attributes(ds: xr.Dataset) -> None:
    for name in (*_TEXTS, *_JSONS):
        if not isinstance(value := ds.attrs.get(name), str):
            raise StoreError(f"attribute {name} is {value!r}, not a text")
        if name in _JSONS:
            try:
                json.loads(value)
            except ValueError as error:
                raise StoreError(f"attribute {name} is not JSON: {error}") from error


def _check_coordinates(ds: xr.Dataset) -> None:
    expected: dict[str, NDArray[np.generic]] = {
        dim: pixel_centres(ds.sizes[dim], extent(ds[side]))
        for side, dims in ((Y, (Y, SOURCE_Y, MODEL_Y)), (X, (X, SOURCE_X, MODEL_X)))
        for dim in dims
        if dim in ds.dims and side in ds.coords
    }
    if MASK in ds.dims:
        expected[MASK] = np.arange(ds.sizes[MASK])
    for dim, values in expected.items():
        if dim not in ds.coords:
            raise StoreError(f"no coordinate '{dim}'")
        if not np.allclose(ds[dim], values):
            raise StoreError(f"coordinate '{dim}' does not run from {values[0]} to {values[-1]}")
    if RGB not in ds.coords or ds[RGB].values.tolist() != ["r", "g", "b"]:
        raise StoreError(f"coordinate '{RGB}' is not 'r', 'g', 'b'")


def _check_values(ds: xr.Dataset, name: str, limits: _Limits) -> None:
    if not np.isfinite(ds[name]).all():
        raise StoreError(f"{name} has values that are not finite")
    if limits is None:
        return
    least, most = limits[0], ds.sizes[MASK] - 1 if limits[1] == MASK else limits[1]
    low, high = ds[name].min().values.item(), ds[name].max().values.item()
    if low < least or high > most:
        raise StoreError(f"{name} runs from {low} to {high}, not within {least} to {most}")
