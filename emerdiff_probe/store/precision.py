"""Read half precision as single: float16 saves room on disk and is converted when it is read.

Sums of float16 overflow, and means of it vanish, without any error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core import indexing

__all__ = ["single", "single_dtype", "widened"]


def single_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that stored values are read in.

    >>> single_dtype(np.dtype("float16")), single_dtype(np.dtype("uint8"))
    (dtype('float32'), dtype('uint8'))
    """
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def widened(array: NDArray[Any]) -> Any:
    """Return the data of a variable: an array in memory as it is, or in float32 if it is float16.

    Only what is read is copied, on every read.
    """
    return _Widened(array) if array.dtype == np.float16 else array


def single(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose float16 variables are float32, converted when they are read."""
    half = {name: each for name, each in ds.data_vars.items() if each.dtype == np.float16}
    found = {
        name: each.astype(np.float32) if each.chunks else each.copy(data=widened(each.values))
        for name, each in half.items()
    }
    return ds.assign(found)


class _Widened(indexing.ExplicitlyIndexedNDArrayMixin):
    """Present half-precision values of a variable in single precision.

    This implements xarray's protocol for arrays that are converted lazily, as xarray itself does
    when it decodes files.
    """

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array: Any = indexing.as_indexable(array)  # type: ignore[no-untyped-call]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def get_duck_array(self) -> NDArray[np.float32]:
        return np.asarray(self.array.get_duck_array(), np.float32)

    def transpose(self, order: Any) -> _Widened:
        return type(self)(self.array.transpose(order))

    def _oindex_get(self, indexer: Any) -> _Widened:
        return type(self)(self.array.oindex[indexer])

    def _vindex_get(self, indexer: Any) -> _Widened:
        return type(self)(self.array.vindex[indexer])

    def __getitem__(self, indexer: Any) -> _Widened:
        self._check_and_raise_if_non_basic_indexer(indexer)
        return type(self)(self.array[indexer])
