"""Store texts in a form that every reader of Zarr understands.

NumPy's texts have one length for each array. Zarr 3 specifies no data type for those, so that only
Zarr's own Python package reads them; other libraries read texts of variable length, too.
"""

from __future__ import annotations

from typing import Any

import xarray as xr
from numpy.typing import NDArray

__all__ = ["TEXT", "portable", "readable", "texts_of"]

TEXT = "string"
"""Zarr's data type for texts of variable length."""


def portable(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose labels Zarr stores as texts of variable length."""
    return ds.assign_coords(
        {name: each.astype(object) for name, each in ds.coords.items() if each.dtype.kind == "U"}
    )


def readable(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset that was read, with labels that compare and print like NumPy's texts."""
    texts = [name for name, each in ds.coords.items() if each.dtype.kind in "OT"]
    return ds.assign_coords({name: (ds[name].dims, texts_of(ds[name].values)) for name in texts})


def texts_of(values: NDArray[Any]) -> NDArray[Any]:
    """Return labels that were read, as NumPy's texts if they are texts."""
    # NumPy turns texts of variable length only into objects.
    return values.astype(object).astype(str) if values.dtype.kind in "OT" else values
